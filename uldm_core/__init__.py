"""The core of uldm: kinds, protocols, registry, recipes and the engine that runs them.

Names are imported when they are first asked for, so that listing and help stay quick.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as type checkers read it; importing ``typing`` takes most of the time that this does
if TYPE_CHECKING:
    from typing import Any

    from uldm_core import registry
    from uldm_core.engine.run import run
    from uldm_core.engine.run_stage import run_stage
    from uldm_core.errors import MistakeError, OptionError, Problem, RunError, UldmError, Where
    from uldm_core.preflight.dry_build import check
    from uldm_core.recipe import Recipe
    from uldm_core.registry import Component, Registry
    from uldm_core.registry.plugins import Command, hookimpl
    from uldm_core.spec.options import Excludes, Exists, Partial, Weighted, use

__all__ = [
    "Command",
    "Component",
    "Excludes",
    "Exists",
    "MistakeError",
    "OptionError",
    "Partial",
    "Problem",
    "Recipe",
    "Registry",
    "RunError",
    "UldmError",
    "Weighted",
    "Where",
    "check",
    "hookimpl",
    "registry",
    "run",
    "run_stage",
    "use",
]

_HOMES = {
    "uldm_core.registry.component": ("Component",),
    "uldm_core.engine.run_stage": ("run_stage",),
    "uldm_core.engine.run": ("run",),
    "uldm_core.errors": ("MistakeError", "OptionError", "Problem", "RunError", "UldmError", "Where"),
    "uldm_core.spec.options": ("Excludes", "Exists", "Partial", "Weighted", "use"),
    "uldm_core.registry.plugins": ("Command", "hookimpl"),
    "uldm_core.preflight.dry_build": ("check",),
    "uldm_core.recipe": ("Recipe",),
    "uldm_core.registry": ("Registry",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "registry":
        return import_module("uldm_core.registry")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
