"""A recipe as text, with comments that say why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from textwrap import wrap
from typing import Any

from uldm_core.errors import in_toml
from uldm_plugins.own_images.choice import Choice
from uldm_plugins.own_images.schedule import Schedule

WIDTH = 110


def tables_of(choice: Choice, steps: Schedule | None = None) -> dict[str, Any]:
    """Return a recipe as nested tables; without a schedule it has the stages' default steps."""
    tables: dict[str, Any] = {"uldm": 1, "seed": 0}
    for name, table in _tables(choice, steps):
        group, _, stage = name.rpartition(".")
        (tables.setdefault(group, {}) if group else tables)[stage] = deepcopy(table)
    return tables


def recipe_text(choice: Choice, steps: Schedule, head: Iterable[str]) -> str:
    """Return a recipe as TOML: at its head these lines, over each table why it is so."""
    lines = [f"# {line}".rstrip() for line in head]
    lines += ["uldm = 1", "seed = 0"]
    for name, table in _tables(choice, steps):
        lines += ["", *_comment(choice.why.get(name, "")), f"[{name}]"]
        lines += [line for option, value in table.items() for line in _option(option, value)]
        lines += [f"# {line}".rstrip() for line in choice.instead.get(name, ())]
    return "\n".join(lines) + "\n"


def _tables(choice: Choice, steps: Schedule | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the tables by name, in order, with what the schedule says."""
    for name, table in choice.tables.items():
        first, *rest = table.items()
        yield name, dict([first, *_scheduled(name, table, steps).items(), *rest]) | _start(table, steps)
    if steps and steps.precision != "auto":
        yield "run", {"precision": steps.precision}


def _scheduled(name: str, table: Mapping[str, Any], steps: Schedule | None) -> dict[str, int]:
    numbers = (
        {
            "stages.first": {"steps": steps.first},
            "stages.second": {"steps": steps.second},
            "stages.tune": {"count": steps.tuned},
            "stages.samples": {"count": steps.samples},
        }
        if steps
        else {}
    )
    return numbers.get(name, {})


def _start(table: Mapping[str, Any], steps: Schedule | None) -> dict[str, Any]:
    if steps is None or "adversarial" not in table:
        return {}
    return {"adversarial": {**table["adversarial"], "start": steps.start}}


def _option(name: str, value: Any) -> Iterator[str]:
    """Yield an option's line; a long list is given a line an item."""
    line = f"{name} = {_toml(value)}"
    if len(line) <= WIDTH or not isinstance(value, list):
        yield line
    else:
        yield f"{name} = ["
        yield from (f"  {_toml(item)}," for item in value)
        yield "]"


def _toml(value: Any) -> str:
    return in_toml(value, lambda text: json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f"))


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(text, WIDTH - 2)]
