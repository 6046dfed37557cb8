"""Flags for options of the ``[run]`` table: their names, types, ranges and help are ``RunOptions``' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from uldm_core.recipe.run_options import RunOptions
from uldm_core.spec.docstrings import argument_help

Function = TypeVar("Function", bound=Callable[..., object])
Given = Mapping[str, "str | int | bool"]
"""Options of ``[run]`` that the command line gives, by name."""


def run_options(*names: str) -> Callable[[Function], Function]:
    """Return a decorator that adds a flag for each option; those given go to ``run_options``, a parameter."""

    def decorate(command: Function) -> Function:
        annotations = get_type_hints(RunOptions, include_extras=True)
        for name in reversed(names):
            flag, text = name.replace("_", "-"), argument_help(RunOptions)[name].replace("``", "")
            command = click.option(
                f"--{flag}/--no-{flag}" if annotations[name] is bool else f"--{flag}",
                default=None,
                type=_type(annotations[name]),
                expose_value=False,
                callback=_collect,
                help=f"{text[0].upper()}{text[1:]}",
            )(command)
        return command

    return decorate


def _type(annotation: object) -> object:
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if get_origin(annotation) is Annotated:
        _, interval = get_args(annotation)
        return click.IntRange(interval.ge, interval.le)
    return annotation


def _collect(context: click.Context, parameter: click.Parameter, value: str | int | bool | None) -> None:
    given = context.params.setdefault("run_options", {})
    if value is not None:
        given[parameter.name] = value


device_options = run_options("device", "precision", "threads")


def run_overrides(given: Given) -> tuple[str, ...]:
    """Return the given options as overrides of the recipe's ``[run]`` table."""
    return tuple(
        f"run.{name}={value!r}" if isinstance(value, str) else f"run.{name}={str(value).lower()}"
        for name, value in given.items()
    )
