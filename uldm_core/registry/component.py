"""The record of a registered component."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from attrs import field, frozen

from uldm_core.errors import MistakeError, UnavailableError, must_match

_WORD = must_match(r"[A-Za-z][A-Za-z0-9_\-]*", "vq_ema")


@frozen
class Component:
    """A component as a plugin announces it; nothing is imported until it is built or described.

    Args:
        kind: the kind's name, e.g. ``"quantizer"``.
        name: how recipes call it; no slash.
        target: ``"module:attribute"``, or the class or function itself.
        summary: one line for listings.
        requires: a module that must be installed for it to work, if it is an optional one.
        example: options that make a small instance without a download, for contract checks.
        xfail: contract checks it is known to fail, each with the reason.
        always: a tracker that takes part in every run, whether or not a recipe lists it.
        plugin: the entry point that brought it (set on loading).
        distribution: the installed distribution that brought it (set on loading).
        version: that distribution's version (set on loading).
    """

    kind: str = field(validator=_WORD)
    name: str = field(validator=_WORD)
    target: str | Callable[..., Any] = field()
    summary: str = field(default="", kw_only=True)
    requires: str | None = field(default=None, kw_only=True)
    example: Mapping[str, Any] = field(factory=dict, kw_only=True)
    xfail: Mapping[str, str] = field(factory=dict, kw_only=True)
    always: bool = field(default=False, kw_only=True)
    plugin: str = field(default="", kw_only=True)
    distribution: str = field(default="", kw_only=True)
    version: str = field(default="", kw_only=True)

    @target.validator
    def _check_target(self, attribute: object, value: object) -> None:
        if isinstance(value, str):
            module, colon, name = value.partition(":")
            if not (module and colon and name.isidentifier()):
                raise ValueError(f"target must be 'module:attribute', got {value!r}")
        elif not callable(value):
            raise ValueError(f"target must be 'module:attribute' or a callable, got {value!r}")

    @property
    def path(self) -> str:
        """``kind/name``, as the command line writes it."""
        return f"{self.kind}/{self.name}"

    @property
    def origin(self) -> str:
        """The distribution that brought it and its version; empty if none did."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def installed(self) -> bool:
        """Whether the optional library that it needs, if any, is installed."""
        return not self.requires or find_spec(self.requires.partition(".")[0]) is not None

    def load(self) -> Callable[..., Any]:
        """Import and return the class or function.

        Raises:
            MistakeError: a library it needs is not installed, or its module fails to import.
        """
        if self.requires and not self.installed:
            raise MistakeError(
                f"{self.path} needs {self.requires}, which is not installed",
                hint=how_to_install(self.requires, self.distribution),
            ) from UnavailableError(f"{self.requires} is not installed")
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            target: Callable[..., Any] = getattr(import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise MistakeError(
                f"{self.path} cannot be imported: {say_failure(error)}", hint=self._mend(error)
            ) from error
        return target

    def _mend(self, error: BaseException) -> str:
        """Say whose fault it is, and what to install if that is all."""
        origin = f"it comes with {self.distribution} {self.version}".rstrip() if self.distribution else ""
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        return f"pip install {missing}" if missing and f"{missing}." not in f"{self.target}." else origin


def how_to_install(module: str, distribution: str = "") -> str:
    """Return the command that installs a library: by an extra of the distribution, if one brings it."""
    extras: dict[str, set[str]] = {}
    for line in _requirements(distribution):
        name, extra = re.match(r"[\w.\-]+", line), re.search(r"extra == ['\"]([\w\-]+)['\"]", line)
        if name and extra:
            extras.setdefault(extra[1], set()).add(_normalized(name[0]))
    bringing = [extra for extra, names in extras.items() if _normalized(module.partition(".")[0]) in names]
    if not bringing:
        return f"pip install {module}"
    return f"pip install '{distribution}[{min(bringing, key=lambda extra: (len(extras[extra]), extra))}]'"


def _requirements(distribution: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError, requires

    try:
        return (requires(distribution) if distribution else None) or []
    except PackageNotFoundError:
        return []


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def say_failure(error: BaseException) -> str:
    """Say what went wrong in a component and, if it came so far, on which line of its own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"
