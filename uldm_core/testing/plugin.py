"""Checking a whole plugin: its records, its laziness, and every component that it brings."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

from attrs import field, frozen

from uldm_core import registry
from uldm_core.errors import MistakeError, listing
from uldm_core.registry.component import Component
from uldm_core.registry.plugins import GROUP, Plugin, PluginWarning, collect
from uldm_core.testing.runner import EVERYDAY, Profile, Report, Result, check_subject
from uldm_core.testing.subject import registered

HEAVY = "torch"
PROBE = f"import sys, importlib; importlib.import_module(sys.argv[1]); sys.exit({HEAVY!r} in sys.modules)"


@frozen
class PluginReport:
    """What became of a plugin: its own checks, and the report of each component."""

    results: tuple[Result, ...]
    reports: tuple[Report, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing failed, in the plugin or its components."""
        return all(result.outcome != "failed" for result in self.results) and all(r.ok for r in self.reports)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.results), *map(str, self.reports)])

    def raise_for_failures(self) -> None:
        """Raise ``AssertionError`` with the whole report unless it is ok."""
        if not self.ok:
            raise AssertionError(f"\n{self}")


def check_plugin(distribution_or_module: str | ModuleType, *, profile: Profile = EVERYDAY) -> PluginReport:
    """Check a plugin: its records, its laziness, and every component that it brings.

    Records must be well-formed, targets importable, the plugin module must import no torch, and each
    component must keep the contract of its kind, built from its record's ``example``.

    Args:
        distribution_or_module: the name of an installed distribution (all its entry points are checked), or
            the plugin module or its name.
        profile: how hard to look at components.

    Raises:
        MistakeError: there is neither a distribution with plugins nor a module of that name.
    """
    results: list[Result] = []
    reports: list[Report] = []
    for name, module in _modules(distribution_or_module):
        results.append(_is_lazy(name))
        plugin, result = _records(name, module)
        results.append(result)
        if plugin is not None:
            results += map(_importable, plugin.components)
            reports += [_report(component, plugin, profile) for component in plugin.components]
    return PluginReport(tuple(results), tuple(reports))


def _modules(wanted: str | ModuleType) -> list[tuple[str, ModuleType | None]]:
    """Return the plugin modules meant, by name; those of a distribution are not imported yet."""
    if isinstance(wanted, ModuleType):
        return [(wanted.__name__, wanted)]
    try:
        entries = [entry for entry in distribution(wanted).entry_points if entry.group == GROUP]
    except PackageNotFoundError:
        return [(wanted, None)]
    if not entries:
        raise MistakeError(f"{wanted} has no entry point in the group {GROUP!r}")
    return [(entry.value, None) for entry in entries]


def _is_lazy(name: str) -> Result:
    """The plugin module imports no torch, or every listing and every completion pays for it."""
    module = name.partition(":")[0]
    probe = subprocess.run([sys.executable, "-c", PROBE, module], capture_output=True, text=True)
    if probe.returncode == 1 and not probe.stderr:
        message = (
            f'{module} imports {HEAVY}: give targets as "module:attribute" in a module that imports none'
        )
        return Result("imports_lazily", "failed", message)
    return Result("imports_lazily", "passed", examples=1)


def _records(name: str, module: ModuleType | None) -> tuple[Plugin | None, Result]:
    """Its hooks return well-formed records of known kinds."""
    try:
        path, _, attribute = name.partition(":")
        found = module or import_module(path)
        plugin = collect(getattr(found, attribute) if attribute else found, path.partition(".")[0])
        known = {*registry.default().kinds, *(kind.name for kind in plugin.kinds)}
        unknown = [component.path for component in plugin.components if component.kind not in known]
    except Exception as error:
        return None, Result("records_well_formed", "failed", f"{type(error).__name__}: {error}")
    if unknown:
        return None, Result("records_well_formed", "failed", f"of an unknown kind: {listing(unknown)}")
    return plugin, Result("records_well_formed", "passed", examples=len(plugin.components))


def _importable(component: Component) -> Result:
    """Its target can be imported, and its options read."""
    check = f"{component.path} importable"
    try:
        component.load()
    except Exception as error:
        return Result(check, "failed", f"{type(error).__name__}: {error}")
    return Result(check, "passed", examples=1)


def _report(component: Component, plugin: Plugin, profile: Profile) -> Report:
    own = registry.Registry()
    own.kinds.update(registry.default().kinds)
    for other in registry.default().components():
        own.register(other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # a name of our own is no fault of the component
        own.add_plugin(plugin)
    try:
        subject = registered(component.kind, f"{plugin.name}/{component.name}", registry=own)
        return check_subject(subject, component.xfail, profile=profile)
    except Exception as error:  # its module cannot be imported, or its record's example or xfail is wrong
        return Report(component.path, (Result("builds", "failed", f"{type(error).__name__}: {error}"),))
