"""The record of a registered component."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from attrs import field, frozen

from uldm_core.errors import MistakeError, UnavailableError, must_match

_WORD = must_match(r"[A-Za-z][A-Za-z0-9_\-]*", "vq_ema")
_HERE = os.path.dirname(__file__)


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
    target: str | Callable[..., object] = field()
    summary: str = field(default="", kw_only=True)
    requires: str | None = field(default=None, kw_only=True)
    example: Mapping[str, object] = field(factory=dict, kw_only=True)
    xfail: Mapping[str, str] = field(factory=dict, kw_only=True)
    always: bool = field(default=False, kw_only=True)
    plugin: str = field(default="", kw_only=True)
    distribution: str = field(default="", kw_only=True)
    version: str = field(default="", kw_only=True)

    @target.validator
    def _check_target(self, attribute: object, value: object) -> None:
        if not callable(value):
            must_match(r"[\w.]+:[^\W\d]\w*", "module:attribute")(self, attribute, value)

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
        if not self.installed:
            what = f"{self.path} needs {self.requires}, which is not installed"
            raise MistakeError(what, hint=f"pip install {self.requires}") from UnavailableError(what)
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            target: Callable[..., Any] = getattr(import_module(module), attribute)
        except (Exception, SystemExit) as error:
            hint = missing_library(error, module) or (f"it comes with {self.origin}" if self.origin else "")
            what = f"{self.path} cannot be imported: {format_failure(error)}"
            raise MistakeError(what, hint=hint) from error
        return target


def missing_library(error: BaseException, module: str) -> str:
    """Return how to install the library that an import of ``module`` lacks; empty where it is no other's."""
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    own = missing.partition(".")[0] == module.partition(".")[0]
    return f"pip install {missing}" if missing and not own else ""


def format_failure(error: BaseException) -> str:
    """Return an error's type and message and, if it was raised in a component, the line of its code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_HERE) and "importlib" not in f.filename]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
