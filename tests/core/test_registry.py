"""Options from signatures, strictness, building, plugins."""

import sys
from math import isfinite
from typing import Annotated, Literal

import attrs
import pytest
from annotated_types import Ge, Interval, MultipleOf
from hypothesis import example, given
from hypothesis import strategies as st

from uldm_core import Component, MistakeError, Partial, Registry, hookimpl
from uldm_core.registry.plugins import PluginWarning, collect, load_file
from uldm_core.spec import building
from uldm_core.spec.format_types import format_type
from uldm_core.spec.options import options_of
from uldm_core.spec.structure import structure


class Parent:
    def __init__(self, inherited: int = 0):
        pass


class Child(Parent):
    """Has no ``__init__`` of its own."""


class Grown(Parent):
    """Has one, and hands the rest on."""

    def __init__(self, own: int = 1, **rest):
        super().__init__(**rest)


@attrs.frozen
class WithAttrs:
    """An attrs class.

    Args:
        size: how large,
            in pixels.
        name: what it is called.
    """

    size: Annotated[int, Ge(1)] = 3
    name: str = "x"


def function(owner, /, a: int, *rest, b: float = 1.0, **more):
    """A function."""


def test_options_are_the_named_parameters_of_the_targets_own_signature():
    assert list(options_of(function)) == ["a", "b"]
    assert options_of(function)["a"].required and options_of(function)["b"].default == 1.0
    assert list(options_of(Child)) == ["inherited"]
    assert list(options_of(Grown)) == ["own"]
    assert list(options_of(WithAttrs)) == ["size", "name"]
    assert options_of(WithAttrs)["size"].help == "how large, in pixels."
    assert format_type(options_of(WithAttrs)["size"].annotation) == "an integer >= 1"


@given(st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
@example(2**53 + 1)
@example(2**63)
@example(-(2**63))
@example(10**400)
@example(float("nan"))
@example(float("inf"))
def test_scalars_are_never_converted_but_integers_that_a_float_can_hold(value):
    exact = type(value) is int and abs(value) < 10**308 and float(value) == value
    for wanted in (bool, int, float, str):
        finite = type(value) is not float or isfinite(value)
        finite &= wanted is not int or type(value) is not int or -(2**63) <= value < 2**63
        if finite and (type(value) is wanted or (wanted is float and exact)):
            assert structure(value, wanted) == value
        else:
            with pytest.raises(MistakeError):
                structure(value, wanted)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Annotated[float, Interval(gt=0, lt=1)], [0.5], [0.0, 1, -1, "0.5"]),
        (Annotated[int, MultipleOf(4)], [8], [6]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (tuple[int, ...], [[1, 2], []], ["12", [1, "2"], 3]),
        (tuple[int, str], [[1, "a"]], [[1], [1, 2]]),
        (list[float], [[1, 2.5]], [[True]]),
        (int | None, [None, 3], ["3", 3.0]),
        (dict[str, int], [{"a": 1}], [{"a": "1"}, [1]]),
    ],
)
def test_values_are_what_annotations_say(annotation, good, bad):
    for value in good:
        structured = structure(value, annotation)
        assert list(structured) == list(value) if isinstance(value, list) else structured == value
    for value in bad:
        with pytest.raises(MistakeError):
            structure(value, annotation)


def test_the_place_inside_a_list_is_named():
    with pytest.raises(MistakeError) as caught:
        structure([1, [2, "3"]], tuple[int | list[int], ...])
    assert caught.value.problems[0].where.key == (1,)
    assert format_type(list[int]) == "a list of (an integer)"


def test_build_fills_defaults_and_nests(registry):
    coder = building.build(registry, "autoencoder", "coder", in_channels=1)
    assert coder.quantizer.codebook_size == 8 and coder.latent_channels == 4
    table = {"use": "coder", "quantizer": {"use": "codes", "codebook_size": 5, "dim": 2}}
    assert building.build(registry, "autoencoder", table, in_channels=1).latent_channels == 2
    ready = building.build(registry, "quantizer", "codes", codebook_size=6)
    assert building.build(registry, "autoencoder", "coder", in_channels=1, quantizer=ready).quantizer is ready


def test_build_reports_every_mistake_at_once(registry):
    with pytest.raises(MistakeError) as caught:
        building.build(
            registry, "autoencoder", "coder", in_chanels=1, quantizer={"use": "codes", "codebook_size": 0}
        )
    assert len(caught.value.problems) == 2
    text = str(caught.value)
    assert "autoencoder.in_chanels: unknown option 'in_chanels' (did you mean 'in_channels'?)" in text
    assert "autoencoder.quantizer.codebook_size: expected an integer >= 1, got 0" in text


def test_a_component_of_another_kind_is_refused(registry):
    with pytest.raises(MistakeError, match="expected a quantizer"):
        building.build(
            registry,
            "autoencoder",
            "coder",
            in_channels=1,
            quantizer=building.build(registry, "denoiser", "net", channels=1),
        )


def test_a_components_own_error_is_reported_at_its_place(registry):
    with pytest.raises(MistakeError, match=r"autoencoder\.quantizer: thirteen codes bring bad luck"):
        building.build(
            registry, "autoencoder", "coder", in_channels=1, quantizer={"use": "codes", "codebook_size": 13}
        )


def test_a_factory_is_finished_by_its_owner(registry):
    import torch

    parameters = [torch.nn.Parameter(torch.zeros(2))]
    factory = building.partial(registry, "optimizer", "sgd", lr=0.5)
    assert isinstance(factory, Partial) and factory(parameters).param_groups[0]["lr"] == 0.5
    assert building.build(registry, "optimizer", "sgd", parameters, lr=0.25).param_groups[0]["lr"] == 0.25


def test_unknown_kinds_and_names_come_with_the_nearest(registry):
    with pytest.raises(MistakeError, match=r"unknown kind 'quantiser' \(did you mean 'quantizer'\?\)"):
        registry.names("quantiser")
    with pytest.raises(MistakeError, match="registered: codes"):
        building.build(registry, "quantizer", "vq")


def test_a_missing_library_is_named_not_hidden(registry):
    registry.register(Component("quantizer", "far", "far.away:Far", requires="no_such_library_here"))
    with pytest.raises(MistakeError, match="quantizer/far needs no_such_library_here"):
        building.build(registry, "quantizer", "far")


@pytest.mark.parametrize(
    "arguments",
    [("quantizer", "a/b", "m:C"), ("", "a", "m:C"), ("quantizer", "a", "no colon"), ("quantizer", "a", 3)],
)
def test_malformed_records_are_refused(arguments):
    with pytest.raises(ValueError, match=r"target|must be such as"):
        Component(*arguments)


def test_of_two_with_one_name_ours_wins_and_strangers_tie(registry):
    for plugin in ("acme", "other"):
        registry.register(Component("loss", "twice", dict, plugin=plugin))
    with pytest.raises(MistakeError, match="write one of: acme/twice, other/twice"):
        registry.get("loss", "twice")
    assert registry.get("loss", "acme/twice").plugin == "acme"
    registry.register(Component("loss", "twice", list, plugin="uldm"))
    assert registry.get("loss", "twice").plugin == "uldm"


def install(folder, name, code, monkeypatch):
    """Make a distribution with one plugin, importable from a folder."""
    (folder / f"{name}_plugin.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[uldm.plugins]\n{name} = {name}_plugin\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, f"{name}_plugin", raising=False)


GOOD = """
from uldm_core import Component, hookimpl
@hookimpl
def uldm_components():
    return [Component("loss", "good_one", "nowhere:Loss"), {second}]
"""

FAULTS = {
    "raises": "raise RuntimeError('broken on purpose')",
    "exits": "import sys\nsys.exit(3)",
    "lacks": "import no_such_library_here",
    "halfway": GOOD.format(second="'not a record'"),
    "malformed": GOOD.format(second="Component('loss', 'a/b', 'm:C')"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_plugin_is_skipped_whole_with_one_warning(tmp_path, monkeypatch, fault):
    install(tmp_path, fault, FAULTS[fault], monkeypatch)
    registry = Registry()
    with pytest.warns(PluginWarning, match=f"plugin '{fault}' of {fault} 1.0 was skipped") as caught:
        registry.load_plugins()
    assert len(caught) == 1
    assert "good_one" not in registry.names("loss") and "lpips" in registry.names("loss")
    assert "Traceback" in registry.plugins[fault].traceback
    with pytest.raises(MistakeError, match="was skipped"):
        Registry().load_plugins(strict=True)
    blocked = Registry()
    blocked.load_plugins(block=[fault])
    assert fault not in blocked.plugins


def test_an_installed_plugins_records_carry_its_distribution(tmp_path, monkeypatch):
    install(tmp_path, "fine", GOOD.format(second="Component('loss', 'other_one', 'm:C')"), monkeypatch)
    registry = Registry()
    registry.load_plugins()
    component = registry.get("loss", "fine/good_one")
    assert (component.distribution, component.version, component.plugin) == ("fine", "1.0", "fine")


def test_a_file_that_announces_nothing_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(MistakeError, match="it announces nothing"):
        load_file(tmp_path / "empty.py")
    with pytest.raises(MistakeError, match="no such Python file"):
        load_file(tmp_path / "none.py")


def test_a_plugin_may_add_a_kind():
    from uldm_core.kinds import Kind

    class Plug:
        @hookimpl
        def uldm_kinds(self):
            return [Kind("painter", "pathlib:Path", "paints")]

        @hookimpl
        def uldm_components(self):
            return [Component("painter", "bob", "pathlib:Path")]

    registry = Registry()
    registry.add_plugin(collect(Plug(), "plug"))
    assert registry.names("painter") == ["bob"]
