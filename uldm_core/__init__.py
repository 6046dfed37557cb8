"""The core of uldm: kinds, protocols, registry, recipes and the engine that runs them."""

from uldm_core import registry
from uldm_core.errors import MistakeError, Problem, RunError, UldmError, Where
from uldm_core.options import Factory, Term, spec
from uldm_core.plugins import Command, hookimpl
from uldm_core.registry import Component, Registry

__all__ = [
    "Command",
    "Component",
    "Factory",
    "MistakeError",
    "Problem",
    "Registry",
    "RunError",
    "Term",
    "UldmError",
    "Where",
    "hookimpl",
    "registry",
    "spec",
]
