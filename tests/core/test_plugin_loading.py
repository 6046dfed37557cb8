"""Plugins as they are found: installed distributions, broken ones among them, and files."""

import sys
import warnings
from textwrap import dedent

import pytest

from uldm_core import Component, MistakeError, Registry, hookimpl
from uldm_core import registry as module
from uldm_core.engine.components import RunComponents
from uldm_core.engine.device import choose_device
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.registry.plugins import Command, Plugin, PluginWarning, collect, discover, load_file
from uldm_core.run_folder.keys import stage_keys
from uldm_core.spec import building

HEAD = "from uldm_core import Command, Component, hookimpl\nfrom uldm_core.kinds import Kind\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make distributions with one plugin each, importable while the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, code, version="1.0"):
        (tmp_path / f"{name}_plugin.py").write_text(HEAD + dedent(code))
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[uldm.plugins]\n{name} = {name}_plugin\n")
        monkeypatch.setitem(sys.modules, f"{name}_plugin", None)
        del sys.modules[f"{name}_plugin"]

    return install


def loaded(**options):
    registry = Registry()
    registry.load_plugins(**options)
    return registry


def found(name):
    (plugin,) = [plugin for plugin in discover(block=["uldm"]) if plugin.name == name]
    return plugin


LOSS = """
@hookimpl
def uldm_components():
    return [Component("loss", "{name}_loss", "nowhere:Loss", summary="brings nothing")]
"""


def test_records_come_with_their_distribution_and_import_nothing(install):
    install("acme", LOSS.format(name="acme"), version="3.2")
    (component,) = found("acme").components
    assert (component.plugin, component.distribution, component.version) == ("acme", "acme", "3.2")
    assert loaded().get("loss", "acme_loss").path == "loss/acme_loss"
    assert "nowhere" not in sys.modules


BROKEN = {
    "keeps_nothing": LOSS.format(name="broken")
    + "\n@hookimpl\ndef uldm_commands():\n    return [Component('loss', 'x', 'm:C')]",
    "returns_none": "@hookimpl\ndef uldm_components():\n    return None",
    "wants_an_argument": "@hookimpl\ndef uldm_components(registry):\n    return []",
    "unknown_hook": "@hookimpl\ndef uldm_componentz():\n    return []",
    "unknown_kind": LOSS.format(name="broken").replace('"loss"', '"painter"'),
    "base_exception": "class Odd(BaseException): pass\nraise Odd('no ordinary error')",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_takes_nobody_with_it_and_leaves_nothing_behind(install, fault):
    install("broken", BROKEN[fault])
    install("whole", LOSS.format(name="whole"))
    with pytest.warns(PluginWarning, match=r"plugin 'broken' of broken 1\.0 was skipped") as caught:
        registry = loaded()
    assert len(caught) == 1
    assert "whole_loss" in registry.names("loss") and "l1" in registry.names("loss")
    broken = registry.plugins["broken"]
    assert broken.error and (broken.components, broken.kinds, broken.commands) == ((), (), ())
    assert not [component for component in registry.components() if component.plugin == "broken"]
    with pytest.raises(MistakeError, match=r"plugin 'broken' of broken 1\.0 was skipped"):
        loaded(strict=True)
    assert "broken" not in loaded(block=["broken"]).plugins


def test_ctrl_c_while_loading_is_no_fault_of_the_plugin(install):
    install("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        loaded()


def test_a_kind_may_come_from_a_plugin_that_is_loaded_later(install):
    install("aaa", LOSS.format(name="aaa").replace('"loss"', '"painter"'))
    kind = "@hookimpl\ndef uldm_kinds():\n    return [Kind('painter', 'pathlib:Path', 'paints')]"
    install("zzz", kind)
    assert loaded().names("painter") == ["aaa_loss"]


def test_a_plugin_with_a_component_of_an_unknown_kind_is_added_whole_or_not_at_all():
    registry = Registry()
    good, bad = Component("loss", "fine", "m:C"), Component("painter", "bob", "m:C")
    with pytest.raises(MistakeError, match="unknown kind 'painter'"):
        registry.add_plugin(Plugin("p", components=(good, bad), commands=(Command("c", "m:c"),)))
    assert registry.names("loss") == [] and not registry.plugins and not registry.commands


def test_the_environment_blocks_plugins_and_makes_loading_strict(install, monkeypatch):
    install("broken", "raise RuntimeError('no')")
    monkeypatch.setattr(module, "default", module.default.__wrapped__)
    monkeypatch.setenv("ULDM_STRICT", "1")
    with pytest.raises(MistakeError, match="RuntimeError: no"):
        module.default()
    monkeypatch.setenv("ULDM_STRICT", "0")
    monkeypatch.setenv("ULDM_BLOCK", "brokn, broken")
    with pytest.warns(PluginWarning, match="no plugin 'brokn' to block \\(did you mean 'broken'"):
        plugins = module.default().plugins
    assert "broken" not in plugins and {plugin.distribution for plugin in plugins.values()} == {"uldm"}
    monkeypatch.setenv("ULDM_BLOCK", "")
    with pytest.warns(PluginWarning):
        assert module.default().plugins["broken"].error


def test_the_first_plugin_keeps_the_name_of_a_command(install):
    command = "@hookimpl\ndef uldm_commands():\n    return [Command('paint', '{0}:paint')]"
    install("aaa", command.format("aaa"))
    install("bbb", command.format("bbb"))
    assert loaded().commands["paint"].target == "aaa:paint"


def test_hooks_may_be_those_of_an_object():
    class Plug:
        @hookimpl
        def uldm_components(self):
            return [Component("loss", "x", "m:C")]

        def uldm_commands(self):
            raise AssertionError("not marked, so not called")

    assert [component.plugin for component in collect(Plug(), "plug").components] == ["plug"]


IDEA = """
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from attrs import frozen

from uldm_core import Component, hookimpl


@dataclass
class FromDataclass:
    power: Annotated[int, Ge(1)] = 2

    def __call__(self, prediction, target):
        return prediction


@frozen
class FromAttrs:
    power: Annotated[int, Ge(1)] = 2

    def __call__(self, prediction, target):
        return prediction


@hookimpl
def uldm_components():
    return [Component("loss", "one", FromDataclass), Component("loss", "two", FromAttrs)]
"""


def with_file(registry, path, code):
    path.write_text(code)
    registry.add_plugin(load_file(path))
    return registry


def test_a_file_may_define_its_components_in_any_style(registry, tmp_path):
    with_file(registry, tmp_path / "idea.py", IDEA)
    for name in ("one", "two"):
        assert building.build(registry, "loss", name, power=3).power == 3
        with pytest.raises(MistakeError, match=r"loss\.power: expected an integer >= 1, got 0"):
            building.build(registry, "loss", name, power=0)
    assert registry.get("loss", "idea/one").distribution == str(tmp_path / "idea.py")


@pytest.mark.parametrize("name", ["one", "two"])
def test_who_edits_a_component_in_a_file_gets_a_new_run_of_it(registry, write, tmp_path, name):
    keys = []
    for code in (IDEA, IDEA, IDEA.replace("return prediction", "return target")):
        with_file(registry, tmp_path / "idea.py", code)
        resolved = Recipe.load(write(), [f"stages.first.losses=['{name}']"]).resolve(registry)
        builder = RunComponents.of(resolved, choose_device(RunOptions(device="cpu")))
        keys.append(stage_keys(resolved, builder)["first"].content)
    assert keys[0] == keys[1] != keys[2]


def test_a_class_typed_into_a_session_has_a_key_all_the_same(registry, write):
    registry.register(Component("loss", "typed", type("Typed", (), {"__module__": "__main__"})))
    resolved = Recipe.load(write(), ["stages.first.losses=['typed']"]).resolve(registry)
    main = sys.modules["__main__"]
    file = main.__dict__.pop("__file__", None)
    try:
        assert stage_keys(resolved, RunComponents.of(resolved, choose_device(RunOptions(device="cpu"))))
    finally:
        main.__dict__.update({"__file__": file} if file else {})


def test_a_file_that_fails_shows_its_own_error(tmp_path):
    (tmp_path / "wrong.py").write_text("1 / 0")
    with pytest.raises(MistakeError, match=r'ZeroDivisionError(?s:.*)wrong.py", line 1'):
        load_file(tmp_path / "wrong.py")
    (tmp_path / "text.txt").write_text("x = 1")
    with pytest.raises(MistakeError, match="no such Python file"):
        load_file(tmp_path / "text.txt")


def test_listing_warns_of_nothing_while_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded().components("quantizer")
