"""Reading signatures, strict structuring, and building what they describe."""

import dataclasses
import math
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import attrs
import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from uldm_core import Component, MistakeError, OptionError, Partial, Registry, Weighted, check, registry, use
from uldm_core.protocols import Loss, Optimizer, Quantizer
from uldm_core.recipe import Recipe
from uldm_core.spec import building
from uldm_core.spec.building import ComponentStore
from uldm_core.spec.docstrings import summary_of
from uldm_core.spec.format_types import format_type
from uldm_core.spec.options import MISSING, options_of
from uldm_core.spec.structure import structure


class Documented:
    """A class.

    Its second paragraph: with a colon.

    Args:
        size (int): how large,
            measured in pixels.

            Never zero.
        name: its name: any.
        unused: documents no option.

    Returns:
        size: nothing of the kind.
    """

    def __init__(self, size: int, /, name: str = "x", *rest: int, deep: bool = False, **more: int) -> None:
        """Make one.

        Args:
            deep: from the method's own docstring.
        """


class Heir(Documented):
    def __init__(self, own: int = 1, **inherited) -> None:
        super().__init__(0, **inherited)


class Plain:
    pass


@attrs.define
class Made:
    levels: list[int] = attrs.field(factory=list)
    _hidden: int = 3
    fixed: int = attrs.field(default=1, init=False)
    later: int = attrs.field(kw_only=True, default=2)


@attrs.frozen
class Sized:
    size: int


@dataclasses.dataclass
class Data:
    size: Annotated[int, Ge(1)] = 1


def unannotated(a, b=1): ...


def test_what_the_owner_passes_or_a_parent_takes_is_no_option():
    assert list(options_of(Documented)) == ["name", "deep"]
    assert list(options_of(Heir)) == ["own"]
    assert options_of(Plain) == options_of(dict) == {}


def test_help_is_read_from_class_and_method():
    options = options_of(Documented)
    assert options["name"].help == "its name: any." and options["deep"].help.startswith("from the method")
    assert options_of(Heir)["own"].help == "" and summary_of(Plain) == ""


def test_classes_of_attrs_and_dataclasses_show_what_their_init_takes():
    made = options_of(Made)
    assert list(made) == ["levels", "hidden", "later"] and made["hidden"].default == 3
    assert made["levels"].default == [] and made["levels"].default is not options_of(Made)["levels"].default
    assert format_type(options_of(Data)["size"].annotation) == "an integer >= 1"


def test_an_option_without_annotation_takes_anything():
    options = options_of(unannotated)
    assert options["a"].annotation is Any and options["a"].default is MISSING and options["a"].required
    assert structure([1, "x"], Any) == [1, "x"] and not options["b"].required


ANNOTATIONS = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=4),
}
JSON = st.recursive(
    st.none() | st.one_of(*ANNOTATIONS.values()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


def fits(value, scalar):
    if scalar is int and type(value) is int:
        return -(2**63) <= value < 2**63  # as in TOML
    return type(value) is scalar or (scalar is float and type(value) is int)


@given(st.sampled_from(list(ANNOTATIONS)), JSON)
def test_nothing_but_the_type_itself_and_an_int_for_a_float_passes(scalar, value):
    """For each form of annotation, exactly the values made of fitting scalars pass."""
    expected = {
        scalar: fits(value, scalar),
        scalar | None: value is None or fits(value, scalar),
        list[scalar]: isinstance(value, list) and all(fits(item, scalar) for item in value),
        tuple[scalar, ...]: isinstance(value, list) and all(fits(item, scalar) for item in value),
        dict[str, scalar]: isinstance(value, dict) and all(fits(item, scalar) for item in value.values()),
    }
    for annotation, passes in expected.items():
        try:
            structured = structure(value, annotation)
        except MistakeError:
            assert not passes, annotation
        else:
            assert passes, annotation
            assert structured == value or list(structured) == value


@given(st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([Ge, Gt, Le, Lt]))
def test_a_bound_is_kept_to_the_letter(value, bound, sign):
    holds = {Ge: value >= bound, Gt: value > bound, Le: value <= bound, Lt: value < bound}[sign]
    try:
        assert structure(value, Annotated[int, sign(bound)]) == value and holds
    except MistakeError as error:
        assert not holds and str(bound) in str(error) and f"got {value}" in str(error)


@pytest.mark.parametrize(
    ("value", "annotation", "said"),
    [
        ([1], Annotated[list[int], MinLen(2)], "expected a list of (an integer) of length >= 2, got [1]"),
        ([1, 2], Annotated[list[int], MaxLen(1)], "expected a list of (an integer) of length <= 1"),
        ([], Annotated[list[int], Len(1, 2)], "of length >= 1 and of length <= 2, got []"),
        (7, Annotated[int, MultipleOf(4)], "expected an integer a multiple of 4, got 7"),
        (1.5, int | str, "expected an integer or a string, got 1.5"),
        (0, Annotated[int, Ge(1)] | None, "expected an integer >= 1, got 0"),
        (float("nan"), Annotated[float, Gt(0)], "expected a number > 0, got nan"),
        ("x", Path | None, None),
        (3, Path, "expected a path, got 3"),
        ((1, "a"), tuple[int, str], None),
        ([1], tuple[int, str], "expected 2 values, got 1"),
        ("ab", list[str], "expected a list of (a string), got 'ab'"),
        ([1], dict[str, int], "expected a table, got [1]"),
        (1, Literal["a", 2], "expected one of 'a', 2, got 1"),
        (None, Annotated[int | None, Ge(1)], None),
        (2, bool, "expected true or false, got 2"),
    ],
)
def test_a_mismatch_says_what_was_expected_and_got(value, annotation, said):
    if said is None:
        structure(value, annotation)
        return
    with pytest.raises(MistakeError) as caught:
        structure(value, annotation)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("value", "annotation", "key"),
    [
        ([[1], [1, "2"]], list[list[int]], (1, 1)),
        ({"a": {"b": [True]}}, dict[str, dict[str, list[int]]], ("a", "b", 0)),
        ([1, {"x": "y"}], tuple[int, dict[str, int]], (1, "x")),
        ([["x"]], list[list[int]] | None, (0, 0)),
        ([1, "x"], Annotated[list[int], MinLen(1)], (1,)),
    ],
)
def test_a_mismatch_leads_to_the_part_that_is_wrong(value, annotation, key):
    with pytest.raises(MistakeError) as caught:
        structure(value, annotation)
    assert [problem.where.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("given", "annotation", "wanted"),
    [
        (np.int64(4), Annotated[int, Ge(1)], 4),
        (np.int64(4), float, 4.0),
        (np.float32(0.5), float, 0.5),
        (np.bool_(True), bool, True),
        (np.str_("x"), str, "x"),
        (np.str_("x"), Literal["x", "y"], "x"),
        (np.str_("x"), Path, Path("x")),
        (np.array(3), int | None, 3),
        (torch.tensor(3), int, 3),
        (torch.tensor(0.5), float, 0.5),
        ([np.int8(1), np.int8(2)], tuple[int, ...], (1, 2)),
        ({"a": np.float64(1.5)}, dict[str, float], {"a": 1.5}),
        (PurePosixPath("x/y"), Path, Path("x/y")),
        (Path("x/y"), str, "x/y"),
    ],
    ids=repr,
)
def test_scalars_and_paths_of_libraries_are_taken_as_what_they_are(given, annotation, wanted):
    found = structure(given, annotation)
    assert found == wanted and repr(found) == repr(wanted), "of Python's own types"


@pytest.mark.parametrize(
    ("given", "annotation"),
    [
        (np.float64(3.7), int),
        (np.float64(3.0), int),
        (np.bool_(True), int),
        (np.bool_(True), float),
        (np.int64(1), bool),
        (np.int64(1), str),
        (np.float64("nan"), float),
        (np.array([1]), int),
        (torch.tensor([1]), int),
        (np.int64(0), Annotated[int, Ge(1)]),
        (Path("x"), int),
    ],
    ids=repr,
)
def test_scalars_of_libraries_are_not_coerced(given, annotation):
    with pytest.raises(MistakeError, match="expected"):
        structure(given, annotation)


def test_a_recipe_of_numpys_scalars_and_paths_can_be_saved(registry, tmp_path):
    dataset = {"use": np.str_("points"), "count": np.int64(4)}
    quantizer = {"use": "codes", "codebook_size": np.int64(4), "decay": np.float32(0.5)}
    stage = {"use": "train", "losses": [{"use": "distance", "weight": np.float64(0.5)}]}
    recipe = Recipe.from_dict(
        {
            "seed": np.uint8(3),
            "dataset": dataset,
            "autoencoder": {"use": "coder", "quantizer": quantizer},
            "stages": {"only": stage},
            "run": {"out": Path("run"), "compile": np.bool_(False)},
        }
    )
    again = Recipe.load(recipe.save(tmp_path / "r.toml"))
    assert again.resolve(registry).to_dict() == recipe.resolve(registry).to_dict()
    saved = recipe.resolve(registry).save(tmp_path / "resolved.toml").read_text()
    assert 'out = "run"' in saved and "decay = 0.5" in saved and "seed = 3" in saved
    built = building.build(registry, "quantizer", np.str_("codes"), codebook_size=np.int64(4))
    assert type(built.codebook_size) is int


def test_all_that_is_wrong_within_a_value_is_reported_but_what_a_choice_of_a_union_says():
    with pytest.raises(MistakeError) as caught:
        structure({"a": ["x", 1, 2.5], "b": [True]}, dict[str, list[int]])
    assert [str(problem.where) for problem in caught.value.problems] == ["a[0]", "a[2]", "b[0]"]
    assert structure([1, 2], list[str] | list[int] | int) == [1, 2]


def test_an_object_is_made_of_a_table_that_has_its_options(registry):
    assert structure({"levels": [1], "later": 5}, Made) == Made([1], later=5)
    assert structure({"size": 2}, Sized | None) == Sized(2)
    with pytest.raises(MistakeError) as caught:
        structure({"lengths": 1}, list[Sized] | Sized)
    assert "expected a list of (a table of size) or a table of size" in str(caught.value)
    with pytest.raises(MistakeError) as caught:
        structure([{"sizes": 1}, {}, {"size": "x"}], list[Sized])
    assert [str(problem).partition(" (")[0] for problem in caught.value.problems] == [
        "[0].sizes: unknown option 'sizes'",
        "[1]: missing option 'size'",
        "[2].size: expected an integer, got 'x'",
    ]


def test_lists_become_tuples_where_tuples_are_wanted_all_the_way_down():
    assert structure([[1, 2], []], tuple[tuple[int, ...], ...]) == ((1, 2), ())
    assert structure((1, 2), list[float]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Annotated[float, Interval(gt=0, le=1)], "a number > 0 and <= 1"),
        (int | None, "an integer or nothing"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (tuple[int, ...], "a list of (an integer)"),
        (tuple[int, str], "a list"),
        (Path, "a path"),
        (Quantizer, "Quantizer"),
    ],
)
def test_types_are_said_in_words(annotation, said):
    assert format_type(annotation) == said


class Holder(nn.Module):
    """Takes components in every way."""

    latent_channels, downscale = 1, 1

    def __init__(
        self,
        quantizer: Quantizer | None = None,
        losses: list[Weighted[Loss]] = [],  # noqa: B006
        optimizer: Partial[Optimizer] = use("sgd", lr=0.5),
        schedule: dict[str, int] | None = None,
        pair: tuple[Loss, ...] = (),
    ) -> None:
        super().__init__()
        self.quantizer, self.losses, self.make, self.schedule = quantizer, losses, optimizer, schedule
        self.pair = pair

    encode = decode = forward = lambda self, x: x


@pytest.fixture
def holder(registry):
    registry.register(Component("autoencoder", "holder", Holder))
    return registry


def test_components_are_taken_in_every_form(holder):
    codes = {"use": "codes", "codebook_size": 4}
    built = building.build(
        holder,
        "autoencoder",
        {"use": "holder", "quantizer": codes},
        losses=["distance", {"use": "distance", "power": 3, "weight": 2}],
        optimizer={"use": "sgd", "lr": 0.25},
        pair=["distance", {"use": "distance", "power": 3}],
    )
    assert built.quantizer.codebook_size == 4
    assert isinstance(built.pair, tuple) and [loss.power for loss in built.pair] == [2.0, 3.0]
    assert [(term.weight, term.component.power) for term in built.losses] == [(1.0, 2.0), (2.0, 3.0)]
    parameters = [nn.Parameter(torch.zeros(1))]
    assert built.make(parameters).param_groups[0]["lr"] == 0.25


def test_ready_made_things_pass_untouched(holder):
    codes, loss = (
        building.build(holder, "quantizer", "codes", codebook_size=2),
        building.build(holder, "loss", "distance"),
    )
    made = Partial(torch.optim.SGD, lr=0.1)
    built = building.build(
        holder, "autoencoder", "holder", quantizer=codes, losses=[Weighted(loss, 0.5), loss], optimizer=made
    )
    assert built.quantizer is codes and built.make is made
    assert [(term.component is loss, term.weight) for term in built.losses] == [(True, 0.5), (True, 1.0)]


def test_a_default_that_names_a_component_is_built_anew_each_time(holder):
    first, second = (building.build(holder, "autoencoder", "coder", in_channels=1) for _ in range(2))
    assert first.quantizer is not second.quantizer
    default = building.build(holder, "autoencoder", "holder")
    assert default.quantizer is None and default.make.options == {"lr": 0.5}


def test_options_win_over_the_table(holder):
    table = {"use": "codes", "codebook_size": 4, "dim": 2}
    built = building.build(holder, "quantizer", table, dim=8)
    assert (built.codebook_size, built.dim) == (4, 8) and table["dim"] == 2


def test_nested_mistakes_come_with_the_whole_key(holder):
    with pytest.raises(MistakeError) as caught:
        building.build(
            holder, "autoencoder", "holder", losses=["distance", {"use": "distance", "power": 0}, "l1"]
        )
    keys = [str(problem.where) for problem in caught.value.problems]
    assert keys == ["autoencoder.losses[1].power", "autoencoder.losses[2].use"]


def test_a_duplicate_behind_a_wrong_item_is_reported_at_its_own_place(holder):
    losses = [{"use": "distance", "power": "x"}, "l7", "distance", {"use": "distance", "weight": 2}]
    with pytest.raises(MistakeError) as caught:
        building.build(holder, "autoencoder", "holder", losses=losses)
    keys = [str(problem.where) for problem in caught.value.problems]
    assert keys == [f"autoencoder.losses{place}" for place in ("[0].power", "[1].use", "[3]")]
    assert caught.value.problems[-1].what == "a duplicate of losses[2]"


@pytest.mark.parametrize("wrong", [{}, {"use": 3}, {"codebook_size": 4}, 3, [1], object()])
def test_what_names_no_component_is_refused(holder, wrong):
    with pytest.raises(
        MistakeError, match=r"quantizer.*: (names no quantizer|expected a quantizer|expected a name)"
    ):
        building.build(holder, "autoencoder", "holder", quantizer=wrong)


def test_planning_builds_nothing(holder):
    class Never:
        def __init__(self, a: int = 1) -> None:
            raise AssertionError

    holder.register(Component("loss", "never", Never))
    spec = building.validate(holder, "loss", "never", {"a": 2})
    assert spec.to_dict() == {"use": "never", "a": 2}


def test_other_errors_of_a_component_are_not_mistaken_for_the_recipes(registry):
    def broken(a: int = 1):
        raise KeyError("inside")

    registry.register(Component("loss", "broken", broken))
    with pytest.raises(KeyError, match="inside"):
        building.build(registry, "loss", "broken")


def helper(width):
    raise ValueError(f"width = {width} is odd")


def checking(width):
    raise OptionError(f"width = {width} is odd")


def convolution(width):
    nn.Conv2d(width, 1, 3, groups=-1)


class Raises:
    def __init__(self, where: str, width: int = 3) -> None:
        if where == "itself":
            raise ValueError(f"width = {width} is odd")
        {"a helper": helper, "a checking helper": checking, "torch": convolution}[where](width)


class RaisesInBase(Raises):
    def __init__(self, where: str = "itself") -> None:
        super().__init__(where)


@attrs.define
class RaisesAfterwards:
    where: str = "itself"

    def __attrs_post_init__(self) -> None:
        raise ValueError("width = 3 is odd")


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (Raises, {"where": "itself"}),
        (Raises, {"where": "a checking helper"}),
        (RaisesInBase, {}),
        (RaisesAfterwards, {}),
        (helper, {"width": 3}),
    ],
)
def test_a_constructors_own_error_is_about_its_options(registry, target, options):
    registry.register(Component("loss", "raises", target))
    with pytest.raises(MistakeError) as caught:
        building.build(registry, "loss", "raises", **options)
    (problem,) = caught.value.problems
    assert (problem.code, problem.hint) == ("component-error", "")
    assert str(problem) == "loss: width = 3 is odd" and isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("where", "raised"),
    [("a helper", ("helper", "test_options_and_building.py")), ("torch", ("__init__", "conv.py"))],
)
def test_an_error_from_deeper_than_the_constructor_may_be_a_bug(registry, where, raised):
    registry.register(Component("loss", "raises", Raises))
    with pytest.raises(MistakeError) as caught:
        building.build(registry, "loss", "raises", where=where)
    (problem,) = caught.value.problems
    name, file = raised
    assert re.fullmatch(rf"raised by {name} \(.*{file}:\d+\): it may be a bug in the component", problem.hint)
    assert isinstance(caught.value.__cause__, ValueError)


INFERRED = {"dataset": "points", "autoencoder": "coder", "denoiser": "net"}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({}, None),
        ({"denoiser": {"use": "net", "channels": 4}}, None),
        ({"denoiser": {"use": "net", "channels": 5}}, "denoiser.channels: is 5, but autoencoder.lat"),
        (
            {"autoencoder": {"use": "coder", "in_channels": 3}},
            "autoencoder.in_channels: is 3, but dataset",
        ),
    ],
)
def test_what_follows_from_other_components_is_filled_in_or_must_agree(registry, written, said):
    resolved = Recipe.from_dict({**INFERRED, **written}).resolve(registry)
    builder = ComponentStore(resolved.components)
    if said is None:
        assert (
            builder.component("denoiser").channels == 4 and builder.component("autoencoder").in_channels == 1
        )
        return
    with pytest.raises(MistakeError) as caught:
        builder.component("denoiser")
    assert str(caught.value).startswith(said) and "leave it out" in str(caught.value)


def test_without_inferred_options_the_option_must_be_written(registry):
    (problem,) = check(Recipe.from_dict({"denoiser": "net"}), registry)
    assert str(problem).startswith("denoiser: missing option 'channels' (an integer)")


def test_a_registry_of_ones_own_is_apart_from_the_default():
    own = Registry()
    own.register(Component("loss", "mine_alone", Plain))
    assert own.names("loss") == ["mine_alone"]
    assert "mine_alone" not in registry.names("loss") and "l1" in registry.names("loss")


def test_a_later_record_of_one_plugin_takes_the_earlier_ones_place(registry):
    registry.register(Component("loss", "distance", Plain))
    assert isinstance(building.build(registry, "loss", "distance"), Plain)


def test_descriptions_give_options_and_documentation(registry):
    described = building.describe(registry, "optimizer", "sgd")
    assert described.doc.startswith("Plain descent.")
    (option,) = described.options
    assert (option.name, format_type(option.annotation), option.default) == ("lr", "a number > 0", 0.1)
    assert option.help == "learning rate, the only option." and math.isclose(option.default, 0.1)


def test_a_kind_that_nobody_knows_is_no_place_for_a_component(registry):
    with pytest.raises(MistakeError, match=r"unknown kind 'los' \(did you mean 'loss'\?\)"):
        registry.register(Component("los", "x", Plain))


@pytest.mark.parametrize("annotation", [float, float | None, list[float]])
def test_nan_is_no_number(annotation):
    with pytest.raises(MistakeError, match="expected a number, got nan"):
        structure([math.nan] if annotation == list[float] else math.nan, annotation)
