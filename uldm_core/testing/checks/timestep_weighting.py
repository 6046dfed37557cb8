"""The contract of timestep weightings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from uldm_core.errors import UldmError
from uldm_core.protocols import TimestepWeighting
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.doubles import Path, circular, discrete, exploding, straight
from uldm_core.testing.expectations import expect, expect_close, expect_finite

contract = Contract(exercise=lambda case, weighting: _exercise(weighting))
COUNTS = (1, 2, 7, 256, 100_000)
REFUSED = (ValueError, UldmError)


def _paths() -> Iterator[Path]:
    """Yield every process, and every prediction that it can have."""
    yield from (straight(), circular(), exploding(), exploding("sample"))
    for prediction in ("v", "epsilon", "sample", "flow"):
        yield discrete(prediction)
        yield discrete(prediction, timesteps=10)


def _exercise(weighting: TimestepWeighting) -> list[Tensor]:
    """Draw times and weigh them on each process that it has weights for."""
    t = _sample(weighting, 8, 0)
    return [t, *(weight for _, weight in _weighed(weighting, t))]


def _sample(weighting: TimestepWeighting, count: int, seed: int) -> Tensor:
    times: Tensor = weighting.sample(count, torch.Generator().manual_seed(seed))
    return times


def _weighed(weighting: TimestepWeighting, t: Tensor) -> Iterator[tuple[Path, Tensor]]:
    """Yield the weights of times on each process, but for those that it refuses to weigh."""
    for path in _paths():
        try:
            yield path, weighting.weight(t, path)
        except REFUSED:
            continue


def _reached(weighting: TimestepWeighting) -> Tensor:
    """Return times that can be drawn: a few, the earliest and latest of many, and those of rare draws."""
    many = [_sample(weighting, COUNTS[-1], seed) for seed in range(4)]
    for low in (True, False):
        with _ExtremeDraw(low):
            many.append(_sample(weighting, 8, 0))
    times = torch.cat(many).float()
    return torch.cat([times[:30], times.min()[None], times.max()[None]])


class _ExtremeDraw(TorchFunctionMode):
    """Has the first number that ``torch.rand`` draws be the lowest that it can draw, 0, or the highest."""

    def __init__(self, low: bool) -> None:
        super().__init__()
        self.low = low

    def __torch_function__(
        self,
        func: Any,
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.rand, torch.rand_like):
            result.view(-1)[0] = 0.0 if self.low else 1 - torch.finfo(result.dtype).eps / 2
        return result


@contract.check
def times_in_range(case: Case) -> None:
    """``sample(n)`` gives n floats in [0, 1], be it 1 or 100,000: any other time has no coefficients."""
    weighting = case.build()
    for count in COUNTS:
        t = _sample(weighting, count, case.seed())
        expect(
            t.shape == (count,) and t.is_floating_point(), f"{count} times come as {t.dtype} {list(t.shape)}"
        )
        expect_finite(t, f"of {count} times one")
        reach = f"{t.min().item():.3g} to {t.max().item():.3g}"
        expect(bool(((t >= 0) & (t <= 1)).all()), f"times reach from {reach}")


@contract.check
def generator_decides(case: Case) -> None:
    """The generator alone decides the times: torch's global state neither matters nor changes."""
    weighting = case.build()
    seed = case.seed()
    first = _sample(weighting, 16, seed)
    state = torch.get_rng_state()
    expect(torch.equal(_sample(weighting, 16, seed), first), "the same generator gives other times")
    expect(torch.equal(state, torch.get_rng_state()), "it draws from torch's global generator")
    expect(not torch.equal(_sample(weighting, 16, seed + 1), first), "the seed does not matter")
    generator = torch.Generator().manual_seed(seed)
    batches = [weighting.sample(16, generator) for _ in range(2)]
    expect(not torch.equal(*batches), "the generator is not drawn from: each batch has the same times")


@contract.check
def times_spread(case: Case) -> None:
    """Times are spread out, and a batch's first sample is on the whole no noisier than its last."""
    weighting = case.build()
    batches = torch.stack([_sample(weighting, 8, seed) for seed in range(256)])
    spread = batches.std().item()
    expect(spread > 1e-3, "all times are one")
    places = batches.mean(0)
    gap = (places.max() - places.min()).item()
    expect(
        gap < 0.5 * max(spread, 0.02), f"times depend on the place in the batch: means differ by {gap:.2g}"
    )


@contract.check
def weights_legal(case: Case) -> None:
    """Weights are finite wherever a time can be drawn, not below 0, one a time; what has none is refused."""
    weighting = case.build()
    t = _reached(weighting)
    weighed = list(_weighed(weighting, t))
    expect(weighed, "it weighs no prediction at all")
    for path, weight in weighed:
        where = f"{path.shape} path, {path.prediction} predicted"
        expect(weight.shape == t.shape, f"{len(t)} times have weights {list(weight.shape)}")
        for time, value in zip(t.tolist(), weight, strict=True):
            expect_finite(value, f"{where}: the weight at t = {time:.3g}")
        expect(bool((weight >= 0).all()), f"{where}: a weight is below zero")
        expect(bool((weight > 0).any()), f"{where}: all weights are zero")


@contract.check
def weights_per_time(case: Case) -> None:
    """A time's weight follows from that time: not from the others of its batch, nor from their order."""
    weighting = case.build()
    t = torch.tensor([0.15, 0.4, 0.65, 0.9])
    kept = t.clone()
    together = list(_weighed(weighting, t))
    expect(torch.equal(t, kept), "it writes into the times")
    for index in (0, 2, 3):
        alone = _weighed(weighting, t[index : index + 1])
        for (path, weights), (_, weight) in zip(together, alone, strict=True):
            otherwise = f"{path.shape} path: the weight of t = {t[index].item():.2g} changes with its batch"
            expect_close(weights[index : index + 1], weight, otherwise)
