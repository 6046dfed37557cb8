"""Numbers by step: what a chart needs of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

MOST_POINTS = 600
LARGEST = 1 << 53
"""No whole number of a log is larger: floats could not represent it."""
SMOOTHED_SHARE = 0.04
"""How much of a curve, to either side, is averaged to smooth it."""


@frozen(eq=False)
class Curve:
    """One number of a stage while it trained.

    Args:
        steps: int64 [N].
        values: float64 [N]; NaN and infinities as they were logged.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def finite(self) -> NDArray[np.float64]:
        """The values that are numbers."""
        return self.values[np.isfinite(self.values)]


def read_log(lines: Sequence[str]) -> tuple[dict[str, Curve], list[int]]:
    """Return the curves of a log, a line of JSON a step, and which lines are none; those are passed over.

    The last line may be cut short: it is being written.
    """
    found: dict[str, tuple[list[int], list[float]]] = {}
    numbers = [_numbers(line) for line in lines]
    odd = [place for place, line in enumerate(numbers[:-1], 1) if not line]
    for line in filter(None, numbers):
        for name, value in line.items():
            steps, values = found.setdefault(name, ([], []))
            if name != "step":
                steps.append(int(line["step"]))
                values.append(float(value))
    found.pop("step", None)
    curves = {name: Curve(np.array(steps), np.array(values)) for name, (steps, values) in found.items()}
    return curves, odd


def _numbers(line: str) -> dict[str, float]:
    """Return the numbers of a line, or nothing if it is cut short or has no step."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    numbers = {name: value for name, value in data.items() if _is_number(value)} if _is_table(data) else {}
    return numbers if abs(numbers.get("step", np.inf)) < LARGEST else {}


def _is_table(data: Any) -> bool:
    return isinstance(data, dict)


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return whole or isinstance(value, float)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each value and those around it, on either side; what is no number is left out.

    It lies in the midst of the values, where a running mean of the past lags behind a fall.
    """
    count, finite = len(values), np.isfinite(values)
    sums = np.cumsum([0.0, *np.where(finite, values, 0)])
    counts = np.cumsum([0, *finite])
    reach = max(2, round(SMOOTHED_SHARE * count))
    first = np.maximum(np.arange(count) - reach, 0)
    last = np.minimum(np.arange(count) + reach + 1, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: NDArray[np.float64] = (sums[last] - sums[first]) / (counts[last] - counts[first])
    return means


def kept_points(values: NDArray[np.float64], most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Return which points to draw, at most about ``most``: of each stretch the lowest and the highest."""
    if len(values) <= most:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), most // 2)
    ends = [(part[values[part].argmin()], part[values[part].argmax()]) for part in stretches]
    return np.unique([0, *np.ravel(ends), len(values) - 1])


def chart_of(curves: Mapping[str, Curve], show: Literal["both", "raw", "smooth"] = "both") -> dict[str, Any]:
    """Return a chart's data for JSON: ``x``, and ``series`` that share it, ``null`` where there is nothing.

    Args:
        curves: by what the legend calls them.
        show: the curves as they were logged, smoothed, or the one behind the other.
    """
    parts = [(name, curve, kept_points(curve.values)) for name, curve in curves.items() if len(curve.steps)]
    x = sorted({int(step) for _, curve, kept in parts for step in curve.steps[kept]})
    series = []
    for name, curve, kept in parts:
        steps = curve.steps[kept]
        line = curve.values if show != "smooth" else smoothed(curve.values)
        one = {"label": name, "line": _on(x, steps, line[kept])}
        if show == "both":
            one["smooth"] = _on(x, steps, smoothed(curve.values)[kept])
        series.append(one)
    return {"x": x, "series": series}


def _on(x: Iterable[int], steps: NDArray[np.int64], values: NDArray[np.float64]) -> list[float | None]:
    """Return the values at the places ``x``, to five digits."""
    by_step = dict(zip(steps.tolist(), values.tolist()))
    return [rounded(by_step.get(step, np.nan)) for step in x]


def rounded(value: float) -> float | None:
    """Return a value to five digits, or None for what JSON has no number for."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
