"""Plugins: what they may bring, how they are found, and how a broken one is kept from the rest."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from attrs import evolve, field, frozen

from uldm_core.component import Component
from uldm_core.errors import MistakeError, UldmError, did_you_mean
from uldm_core.kinds import Kind

GROUP = "uldm.plugins"

hookspec = pluggy.HookspecMarker("uldm")
hookimpl = pluggy.HookimplMarker("uldm")


class PluginWarning(UserWarning):
    """A plugin was skipped, or something it brings is shadowed."""


@frozen
class Command:
    """A command a plugin brings to ``uldm``; ``target`` is a click command, imported when it is called."""

    name: str
    target: str
    summary: str = ""


class HookSpecs:
    """The hooks a plugin may implement; each returns records, so that loading has no side effect."""

    @hookspec
    def uldm_kinds(self) -> list[Kind]:
        """Return the kinds of component that the plugin adds."""
        return []

    @hookspec
    def uldm_components(self) -> list[Component]:
        """Return the components that the plugin adds."""
        return []

    @hookspec
    def uldm_commands(self) -> list[Command]:
        """Return the commands that the plugin adds."""
        return []


@frozen
class Plugin:
    """One plugin as it was found: what it brought, or why it was skipped."""

    name: str
    distribution: str = ""
    version: str = ""
    kinds: tuple[Kind, ...] = ()
    components: tuple[Component, ...] = ()
    commands: tuple[Command, ...] = ()
    error: str = field(default="", repr=False)


def discover(block: Iterable[str] = (), *, strict: bool = False) -> Iterator[Plugin]:
    """Yield every installed plugin, in the order of their names, broken ones with their traceback.

    Args:
        block: names of entry points to leave out.
        strict: raise ``MistakeError`` for a plugin that fails, instead of warning and going on.
    """
    blocked = set(block)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name not in blocked:
            yield _load_entry(entry, strict)


def load_file(path: Path) -> Plugin:
    """Load a plugin from a Python file, without packaging. Errors are the caller's to see."""
    spec = spec_from_file_location(f"uldm_file_plugin_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise MistakeError(f"--plugin {path}: no such Python file")
    module = sys.modules[spec.name] = module_from_spec(spec)  # so that its classes' source is found
    spec.loader.exec_module(module)
    plugin = collect(module, path.stem, distribution=str(path))
    if not (plugin.components or plugin.kinds or plugin.commands):
        raise MistakeError(
            f"--plugin {path}: it announces nothing",
            hint="define uldm_components() with the decorator uldm_core.hookimpl, returning [Component(...)]",
        )
    return plugin


def collect(module: ModuleType | object, name: str, *, distribution: str = "", version: str = "") -> Plugin:
    """Call the plugin's hooks and return its records; raises if any of them is malformed."""
    manager = pluggy.PluginManager("uldm")
    manager.add_hookspecs(HookSpecs)
    manager.register(module, name)
    manager.check_pending()
    components = [
        evolve(component, plugin=name, distribution=distribution, version=version)
        for component in _records(manager, "uldm_components", Component)
    ]
    return Plugin(
        name,
        distribution,
        version,
        tuple(_records(manager, "uldm_kinds", Kind)),
        tuple(components),
        tuple(_records(manager, "uldm_commands", Command)),
    )


def _load_entry(entry: EntryPoint, strict: bool) -> Plugin:
    distribution = entry.dist.name if entry.dist else ""
    version = entry.dist.version if entry.dist else ""
    try:
        return collect(entry.load(), entry.name, distribution=distribution, version=version)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit: it must not take us along
        cause = str(error) if isinstance(error, UldmError) else f"{type(error).__name__}: {error}"
        skipped = Plugin(entry.name, distribution, version, error=traceback.format_exc())
        return _skip(skipped, cause, strict)


def check_kinds(plugin: Plugin, known: Collection[str], *, strict: bool = False) -> Plugin:
    """Return the plugin, or, skipped with a warning, one whose components are of kinds that nobody brings."""
    for component in plugin.components:
        if component.kind not in known:
            cause = f"{component.path} is of an unknown kind{did_you_mean(component.kind, known)}"
            return _skip(Plugin(plugin.name, plugin.distribution, plugin.version, error=cause), cause, strict)
    return plugin


def _skip(plugin: Plugin, cause: str, strict: bool) -> Plugin:
    message = f"plugin {plugin.name!r} of {plugin.distribution} {plugin.version} was skipped: {cause}"
    if strict:
        raise MistakeError(message)
    warnings.warn(message, PluginWarning, stacklevel=2)
    return plugin


def _records(manager: pluggy.PluginManager, hook: str, record: Callable[..., Any]) -> Iterator[Any]:
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        for item in implementation.function():
            if not isinstance(item, record):  # type: ignore[arg-type]
                raise TypeError(f"{hook}() must return {record.__name__} records, got {item!r}")
            yield item
