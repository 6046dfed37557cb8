"""Docstrings in Google's style: a summary, and what ``Args:`` says of each option."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

_ARGS = re.compile(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE)
_ARG = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?:((?:.*\n?)(?: {5,}.*\n?)*)", re.MULTILINE)


def summary_of(target: object) -> str:
    """Return the docstring, cleaned, or an empty string."""
    return inspect.getdoc(target) or ""


def without_arguments(text: str) -> str:
    """Return a docstring without its ``Args:``."""
    return _ARGS.sub("", text + "\n").strip()


def argument_help(target: Callable[..., Any]) -> dict[str, str]:
    """Read the ``Args:`` block of a docstring, the class's or its ``__init__``'s."""
    documents: list[Any] = [target]
    if inspect.isclass(target):
        owner = next((base for base in inspect.getmro(target) if "__init__" in vars(base)), target)
        documents = [owner, vars(owner).get("__init__"), target]
    found: dict[str, str] = {}
    for document in documents:
        block = _ARGS.search(summary_of(document) + "\n")
        for entry in _ARG.finditer(block[1] if block else ""):
            found[entry[1]] = " ".join(entry[2].split())
    return found
