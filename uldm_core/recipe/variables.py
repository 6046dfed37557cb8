"""``[vars]`` and ``"${vars.x}"``: a number said once."""

from __future__ import annotations

import re
from typing import Any

from uldm_core.errors import Key, Problem, Where, did_you_mean, listing

_REFERENCE = re.compile(r"\$\{\s*vars\.([^}\s]+)\s*\}")


def substitute(data: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the tables with variables filled in and ``[vars]`` taken out, and what was wrong.

    A string that is one reference takes the variable's value with its type; inside a longer string its text.
    """
    variables = data.get("vars", {})
    problems: list[Problem] = []
    if not isinstance(variables, dict):
        problems.append(Problem(Where(("vars",)), "expected a table"))
        variables = {}

    def fill(value: Any, key: Key) -> Any:
        if isinstance(value, dict):
            return {name: fill(item, (*key, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [fill(item, (*key, index)) for index, item in enumerate(value)]
        return fill_text(value, key) if isinstance(value, str) else value

    def fill_text(text: str, key: Key) -> Any:
        for name in _REFERENCE.findall(text):
            if name not in variables:
                what = f"there is no variable {name!r}{did_you_mean(name, variables)}"
                problems.append(Problem(Where(key), what, f"[vars] has: {listing(list(variables))}"))
                return text
        if whole := _REFERENCE.fullmatch(text):
            return variables[whole[1]]
        return _REFERENCE.sub(lambda found: str(variables[found[1]]), text)

    rest = {name: fill(value, (name,)) for name, value in data.items() if name != "vars"}
    return rest, problems
