"""Plugins: what they may bring, how they are found, and how a broken one is kept from the rest."""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import format_exception
from types import ModuleType
from typing import TypeVar

import pluggy
from attrs import evolve, field, frozen

from uldm_core.errors import MistakeError, did_you_mean, must_match
from uldm_core.kinds import Kind
from uldm_core.registry.component import Component, format_failure, missing_library

GROUP = "uldm.plugins"
OWN_PLUGIN = "uldm"
CORE_COMMANDS = ("run", "validate", "ls", "check")
"""Commands that no plugin brings, and none can."""
T = TypeVar("T")

hookspec = pluggy.HookspecMarker("uldm")
hookimpl = pluggy.HookimplMarker("uldm")


class PluginWarning(UserWarning):
    """A plugin was skipped."""


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

    ``name`` is its entry point's. ``error`` is why nothing of it is registered, in a line, with ``traceback``
    if there is one, and ``fix`` what to do about that; empty if it is whole. ``seconds``: that it took to
    import.
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
    traceback: str = field(default="", repr=False)
    seconds: float = 0.0

    def __str__(self) -> str:
        origin = f" of {self.distribution} {self.version}".rstrip() if self.distribution else ""
        return f"plugin {self.name!r}{origin}"

    def without(self, error: str, fix: str = "", traceback: str = "") -> Plugin:
        """Return it with nothing to register, and why."""
        leave_out = f"upgrade or uninstall it (pip uninstall {self.distribution}), or --block {self.name}"
        empty = Plugin(self.name, self.distribution, self.version, seconds=self.seconds)
        return evolve(empty, error=error, fix=fix or leave_out, traceback=traceback)


def discover(block: Iterable[str] = ()) -> Iterator[Plugin]:
    """Yield every installed plugin, in the order of their names; of a broken one, what is wrong with it.

    Args:
        block: names of entry points to leave out.
    """
    block, entries = set(block), entry_points(group=GROUP)
    names = {entry.name for entry in entries}
    for name in sorted(block - names):
        message = f"no plugin {name!r} to block{did_you_mean(name, names)}"
        warnings.warn(message, PluginWarning, stacklevel=2)
    found = [
        (entry, Plugin(entry.name, *_origin(entry.dist))) for entry in entries if entry.name not in block
    ]
    first: dict[str, str] = {}
    ours_first = sorted(found, key=lambda pair: (pair[1].distribution != OWN_PLUGIN, pair[1].distribution))
    for entry, plugin in sorted(ours_first, key=lambda pair: pair[1].name):
        if entry.name in first:
            yield plugin.without(f"{first[entry.name]} has an entry point of that name")
        else:
            first[entry.name] = plugin.distribution
            yield _loaded(plugin, entry)


@cache
def _origin(distribution: Distribution | None) -> tuple[str, str]:
    metadata = distribution.metadata if distribution else {"Name": "", "Version": ""}  # a file to parse
    return metadata["Name"], metadata["Version"]


def _loaded(plugin: Plugin, entry: EntryPoint) -> Plugin:
    """Import a plugin; of one that fails, what is wrong with it."""
    started = time.monotonic()
    try:
        found = collect(entry.load(), plugin.name, distribution=plugin.distribution, version=plugin.version)
        return evolve(found, seconds=time.monotonic() - started)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit: it must not take us along
        failed = evolve(plugin, seconds=time.monotonic() - started)
        trace = "".join(format_exception(error))
        return failed.without(format_failure(error), missing_library(error, entry.module), trace)


def load_file(path: Path) -> Plugin:
    """Load a plugin from a Python file, without packaging.

    Raises:
        MistakeError: there is no such file, it fails, it announces nothing, or it has the name of our own.
    """
    if path.stem == OWN_PLUGIN:
        raise MistakeError(f"--plugin {path}: uldm's own components have this name", hint="rename the file")
    spec = spec_from_file_location(f"uldm_file_plugin_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise MistakeError(f"--plugin {path}: no such Python file")
    module = sys.modules[spec.name] = module_from_spec(spec)  # so that its classes' source is found
    try:
        spec.loader.exec_module(module)
        return collect(module, path.stem, distribution=str(path))
    except (Exception, SystemExit) as error:
        trace = "".join(format_exception(error)).strip()
        raise MistakeError(f"--plugin {path}: {format_failure(error)}", hint=trace) from error


def collect(module: ModuleType | object, name: str, *, distribution: str = "", version: str = "") -> Plugin:
    """Call the plugin's hooks and return its records.

    Raises:
        TypeError: a hook returns anything but a list of records.
        ValueError: there are no records, or one twice.
        pluggy.PluginValidationError: it has a hook that there is not.
    """
    manager = pluggy.PluginManager("uldm")
    manager.add_hookspecs(HookSpecs)
    manager.register(module, name)
    manager.check_pending()
    components = (
        evolve(component, plugin=name, distribution=distribution, version=version)
        for component in _records(manager, "uldm_components", Component)
    )
    plugin = Plugin(
        name,
        distribution,
        version,
        kinds=tuple(_records(manager, "uldm_kinds", Kind)),
        components=tuple(components),
        commands=tuple(_records(manager, "uldm_commands", Command)),
        recipes=tuple(_records(manager, "uldm_recipes", Path)),
    )
    if not (plugin.components or plugin.kinds or plugin.commands or plugin.recipes):
        raise ValueError("it announces nothing: uldm_components(), with @hookimpl, returns [Component(...)]")
    brought = [*(component.path for component in plugin.components)]
    brought += [f"a kind {kind.name}" for kind in plugin.kinds]
    brought += [f"a command {command.name}" for command in plugin.commands]
    if twice := [what for what, count in Counter(brought).items() if count > 1]:
        raise ValueError(f"it brings {twice[0]} more than once")
    return plugin


def _records(manager: pluggy.PluginManager, hook: str, record: type[T]) -> Iterator[T]:
    """Yield what a plugin's hook returns."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        returned = implementation.function()
        items = returned if isinstance(returned, (list, tuple)) else [returned]
        if wrong := [item for item in items if item is returned or not isinstance(item, record)]:
            raise TypeError(f"{hook}() must return a list of {record.__name__} records, got {wrong[0]!r}")
        yield from returned
