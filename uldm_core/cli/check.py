"""``uldm check``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

import click

from uldm_core.cli.common import completing, component_named, components, plugin_option
from uldm_core.cli.console import show_tracebacks
from uldm_core.errors import UldmError, is_unavailable

if TYPE_CHECKING:
    from uldm_core.registry.component import Component

State = Literal["ok", "unchecked", "failed"]


@click.command()
@click.argument("component", required=False, metavar="[KIND/NAME]", shell_complete=completing(components))
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--all", "everything", is_flag=True, help="Check every registered component.")
@click.option("--deep", is_flag=True, help="Try many random examples, as long as it takes.")
@plugin_option
def check(component: str | None, options: tuple[str, ...], everything: bool, deep: bool) -> None:
    """Run every check of a component's kind against it, built from its registry entry.

    KEY=VALUE are options of the component, as a recipe has them, e.g. codebook_size=64 or
    backbone=mnist_classifier. Exits with 1 if a check fails, or if none ran; with --deep also if most were
    skipped.
    """
    if everything == bool(component) or (everything and options):
        raise click.UsageError("give one KIND/NAME with its options, or --all")
    from uldm_core import registry
    from uldm_core.testing.isolation import running

    chosen = registry.default().components() if component is None else [component_named(component)]
    before = running()
    states = [_check(one, options, deep) for one in chosen]
    if len(states) > 1:
        unchecked = f", {states.count('unchecked')} unchecked" if "unchecked" in states else ""
        click.echo(f"{states.count('ok')} of {len(states)} components keep their contract{unchecked}")
    code = 1 if not states or "failed" in states or (deep and "unchecked" in states) else 0
    if [one for one in running() if one not in before]:  # a component left it, and Python would wait for it
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _check(component: Component, options: tuple[str, ...], deep: bool) -> State:
    """Check one component, print a line a check, and return what came of it."""
    from uldm_core import registry
    from uldm_core.recipe.overrides import parse_options
    from uldm_core.testing.expectations import Broken
    from uldm_core.testing.isolation import TookTooLong, contained
    from uldm_core.testing.runner import DEEP, EVERYDAY, check_subject
    from uldm_core.testing.subject import registered

    name = f"{component.plugin}/{component.name}".lstrip("/")
    called = f"{component.kind}/{registry.default().name_of(component)}"
    click.echo(f"{called} ({component.origin})" if component.origin else called)
    profile = DEEP if deep else EVERYDAY
    try:
        with contained(profile.limit):
            declared = registry.describe(component.kind, name).options
            subject = registered(component.kind, name, parse_options(options, declared), called=called)
        report = check_subject(
            subject,
            component.xfail,
            profile=profile,
            notify=lambda result: click.echo(f"  {result}".replace("\n", "\n  ")),
        )
    except (UldmError, Broken, TookTooLong) as error:
        if options and isinstance(error, UldmError):
            raise
        show_tracebacks(error)
        absent = is_unavailable(error)
        click.echo(f"  {'skipped' if absent else 'failed':<17}it cannot be built: {error}")
        return "ok" if absent else "failed"
    click.echo(f"  {report.summary().partition(': ')[2]}")
    if report.ok:
        return "ok"
    return "unchecked" if report.unchecked and report.count("passed") else "failed"
