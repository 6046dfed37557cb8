"""The registry: which components there are, what their options are, and building them by name.

These functions act on a default ``Registry``, loaded from the installed plugins on first use, as
``random``'s functions act on a default ``Random``. Looking up is this package's; what builds is
``uldm_core.spec``, imported when it is first needed, since listing does without.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry

if TYPE_CHECKING:
    from uldm_core.spec.building import Description
    from uldm_core.spec.options import Partial

__all__ = ["Component", "Registry", "build", "default", "describe", "names", "partial", "register"]


@cache
def default() -> Registry:
    """Return the default registry, loading the installed plugins the first time.

    ``ULDM_BLOCK`` (names, comma-separated) leaves plugins out; ``ULDM_STRICT=1`` makes a broken one an error.
    """
    registry = Registry()
    block = [name.strip() for name in os.environ.get("ULDM_BLOCK", "").split(",") if name.strip()]
    registry.load_plugins(block, strict=os.environ.get("ULDM_STRICT", "") not in ("", "0"))
    return registry


def register(component: Component) -> None:
    """Add a component to the default registry."""
    default().register(component)


def names(kind: str) -> list[str]:
    """Return the names of a kind's components."""
    return default().names(kind)


def describe(kind: str, name: str) -> Description:
    """Return a component's summary and options, read from its signature (this imports it)."""
    from uldm_core.spec import building

    return building.describe(default(), kind, name)


def build(kind: str, spec: str | Mapping[str, object], /, *args: object, **options: object) -> Any:
    """Build a component from its name (or a table with ``use``) and options.

    Args:
        kind: the kind's name.
        spec: a registered name, or a mapping with ``use`` and options, nested ones too.
        args: what the component takes from its owner (parameters of an optimizer).
        options: further options; they win over those in ``spec``.

    Raises:
        MistakeError: unknown name or option, missing option, wrong type or range; all at once.
    """
    from uldm_core.spec import building

    return building.build(default(), kind, spec, *args, **options)


def partial(kind: str, spec: str | Mapping[str, object], /, **options: object) -> Partial[Any]:
    """Return a component that its owner finishes: ``partial("optimizer", "adamw")(parameters)``.

    Raises:
        MistakeError: as ``build``.
    """
    from uldm_core.spec import building

    return building.partial(default(), kind, spec, **options)
