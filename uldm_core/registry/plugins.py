"""Plugins: what they may bring, how they are found, and how a broken one is kept from the rest."""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pluggy
from attrs import evolve, field, frozen

from uldm_core.errors import MistakeError, UldmError, did_you_mean, must_match
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component, missing_library

GROUP = "uldm.plugins"
OWN_PLUGIN = "uldm"
T = TypeVar("T")

hookspec = pluggy.HookspecMarker("uldm")
hookimpl = pluggy.HookimplMarker("uldm")


class PluginWarning(UserWarning):
    """A plugin was skipped, or something it brings is shadowed."""


@frozen
class Command:
    """A command a plugin brings to ``uldm``; ``target`` is a click command, imported when it is called."""

    name: str = field(validator=must_match(r"[a-z][a-z0-9\-]*", "reconstruct"))
    target: str = field(validator=must_match(r"[\w.]+:\w+", "module:command"))
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

    @hookspec
    def uldm_recipes(self) -> list[Path]:
        """Return folders of recipes (``*.toml``) that run by their bare names."""
        return []


@frozen
class Plugin:
    """One plugin as it was found: what it brought, or why it was skipped.

    ``name`` is its entry point's. ``error`` is what is wrong with it, with the traceback if there is one, and
    ``fix`` what to do about that; empty if nothing is. ``skipped``: nothing of it was registered.
    ``seconds``: that its import took.
    """

    name: str
    distribution: str = ""
    version: str = ""
    kinds: tuple[Kind, ...] = ()
    components: tuple[Component, ...] = ()
    commands: tuple[Command, ...] = ()
    recipes: tuple[Path, ...] = ()
    error: str = field(default="", repr=False)
    fix: str = field(default="", repr=False)
    skipped: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        origin = f" of {self.distribution} {self.version}".rstrip() if self.distribution else ""
        return f"plugin {self.name!r}{origin}"

    def without(self, cause: str, fix: str = "", error: str = "") -> Plugin:
        """Return it with nothing to register, and warn; ``cause`` is the reason, in a line."""
        leave_out = f"upgrade or uninstall it (pip uninstall {self.distribution}), or --block {self.name}"
        warnings.warn(f"{self} was skipped: {cause}", PluginWarning, stacklevel=2)
        empty = evolve(self, kinds=(), components=(), commands=(), recipes=())
        return evolve(empty, error=error or cause, fix=fix or leave_out, skipped=True)

    def with_fault(self, cause: str, fix: str) -> Plugin:
        """Return it as one that works but should be fixed, and warn."""
        warnings.warn(f"{self} {cause}", PluginWarning, stacklevel=2)
        return evolve(self, error=cause, fix=fix)


def discover(block: Iterable[str] = ()) -> Iterator[Plugin]:
    """Yield every installed plugin, in the order of their names; a broken one is skipped with a warning.

    Args:
        block: names of entry points to leave out.
    """
    block, entries = set(block), entry_points(group=GROUP)
    origins = {entry.dist: _origin(entry.dist) for entry in entries}  # each is a file to parse
    first: dict[str, str] = {}
    for entry in sorted(entries, key=lambda entry: (entry.name, origins[entry.dist])):
        plugin = Plugin(entry.name, *origins[entry.dist])
        if entry.name in block:
            continue
        if entry.name in first:
            yield plugin.without(f"{first[entry.name]} has an entry point of that name")
        else:
            first[entry.name] = plugin.distribution
            yield _loaded(plugin, entry)


def load_file(path: Path) -> Plugin:
    """Load a plugin from a Python file, without packaging.

    Raises:
        MistakeError: there is no such file, it fails, or it announces nothing.
    """
    spec = spec_from_file_location(f"uldm_file_plugin_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise MistakeError(f"--plugin {path}: no such Python file")
    module = sys.modules[spec.name] = module_from_spec(spec)  # so that its classes' source is found
    try:
        spec.loader.exec_module(module)
        plugin = collect(module, path.stem, distribution=str(path))
    except (Exception, SystemExit) as error:
        what = f"--plugin {path}: {_format_error(error)}"
        raise MistakeError(what, hint=_format_traceback(error).strip()) from error
    if not (plugin.components or plugin.kinds or plugin.commands or plugin.recipes):
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
    components: dict[str, Component] = {}
    for component in _records(manager, "uldm_components", Component):
        if component.path in components:
            raise ValueError(f"it brings {component.path} twice")
        components[component.path] = evolve(
            component, plugin=name, distribution=distribution, version=version
        )
    return Plugin(
        name,
        distribution,
        version,
        tuple(_records(manager, "uldm_kinds", Kind)),
        tuple(components.values()),
        tuple(_records(manager, "uldm_commands", Command)),
        tuple(_records(manager, "uldm_recipes", Path)),
    )


def warn_of_unknown(block: Collection[str]) -> None:
    """Warn of names to be left out that no installed plugin has."""
    if not block:
        return
    names = {entry.name for entry in entry_points(group=GROUP)}
    for name in sorted(set(block) - names):
        message = f"no plugin {name!r} to block{did_you_mean(name, names)}"
        warnings.warn(message, PluginWarning, stacklevel=2)


def _origin(distribution: Distribution | None) -> tuple[str, str]:
    metadata = distribution.metadata if distribution else {"Name": "", "Version": ""}
    return metadata["Name"], metadata["Version"]


def _loaded(plugin: Plugin, entry: EntryPoint) -> Plugin:
    """Import a plugin; of one that fails, what is wrong with it."""
    started, had_torch = time.monotonic(), "torch" in sys.modules
    try:
        module = entry.load()
        found = collect(module, plugin.name, distribution=plugin.distribution, version=plugin.version)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit: it must not take us along
        failed = evolve(plugin, seconds=time.monotonic() - started)
        fix = missing_library(error, entry.module)
        return failed.without(_format_error(error), fix, _format_traceback(error))
    found = evolve(found, seconds=time.monotonic() - started)
    if plugin.name == OWN_PLUGIN or had_torch or "torch" not in sys.modules:
        return found
    return found.with_fault(
        "imports torch to announce what it brings, which slows every command",
        'its authors should name targets as "module:attribute", in a module that imports no torch',
    )


def _format_error(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UldmError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _format_traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _records(manager: pluggy.PluginManager, hook: str, record: type[T]) -> Iterator[T]:
    """Yield what a plugin's hook returns; raises ``TypeError`` for anything but a list of records."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        returned = implementation.function()
        if not isinstance(returned, Iterable) or isinstance(returned, (str, Mapping)):
            raise TypeError(f"{hook}() must return a list of {record.__name__} records, got {returned!r}")
        for item in returned:
            if not isinstance(item, record):
                raise TypeError(f"{hook}() must return {record.__name__} records, got {item!r}")
            yield item
