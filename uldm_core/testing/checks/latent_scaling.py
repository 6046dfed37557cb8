"""The contract of latent scalings."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.testing import strategies
from uldm_core.testing.case import Case, copy_of_state, is_module
from uldm_core.testing.contract import NOT_A_MODULE, Contract, Skip, expect, expect_close

LIKELY_CHANNELS = (4, 3, 2, 1, 8)


def _channels(case: Case, scaling: Any) -> int:
    told = case.given().get("channels") or getattr(scaling, "channels", None)

    def works(channels: int) -> None:
        case.build().fit([torch.arange(16.0).view(2, 1, 2, 4).expand(2, channels, 2, 4)])

    return int(told or case.subject.found("channels", LIKELY_CHANNELS, works))


def _latents(case: Case, scaling: Any) -> tuple[Tensor]:
    return (case.normal(*case.draw(strategies.latent_shapes(_channels(case, scaling)), "shape")),)


contract = Contract(
    options={"channels": st.sampled_from((2, 4))},
    inputs=_latents,
    call=lambda scaling, latents: scaling.normalize(latents),
    exercise=lambda case, scaling: _exercise(case, scaling),
    same_dtype=False,
)


def _fitted(case: Case) -> tuple[Any, Tensor]:
    """Build a scaling fitted to latents of odd mean and deviation, and return both."""
    scaling = case.build()
    channels = _channels(case, scaling)
    spread = torch.arange(1, channels + 1).view(-1, 1, 1).float()
    latents = 3 * spread * case.normal(24, channels, 4, 4) + 5
    scaling.fit(latents.split(8))
    return scaling, latents


def _exercise(case: Case, scaling: Any) -> list[Tensor]:
    """Fit it, and pass latents there and back."""
    (latents,) = case.inputs(scaling)
    scaling.fit([latents, latents + 1])
    scaled = scaling.normalize(latents.requires_grad_().clone())
    return [scaled, scaling.denormalize(scaled)]


@contract.check
def unit_variance(case: Case) -> None:
    """What it was fitted to comes out with variance 1, its mean at 0 or at least no farther off than before.

    Noise schedules are made for that. Stable Diffusion's single factor leaves the mean, others take it off.
    """
    scaling, latents = _fitted(case)
    scaled = scaling.normalize(latents).double()
    expect(abs(scaled.std().item() - 1) < 0.02, f"the deviation is {scaled.std().item():.3g}")
    allowed = (latents.mean() / latents.std()).abs().item() + 0.01
    expect(abs(scaled.mean().item()) < allowed, f"the mean is {scaled.mean().item():.3g}")


@contract.check
def inverse(case: Case) -> None:
    """``denormalize`` undoes ``normalize``: else what is drawn decodes wrongly."""
    scaling, latents = _fitted(case)
    expect_close(
        scaling.denormalize(scaling.normalize(latents)),
        latents,
        "denormalize does not undo normalize",
        rtol=1e-3,
    )


@contract.check
def cut_independent(case: Case) -> None:
    """How the latents are cut into batches, and their order, does not matter."""
    scaling, latents = _fitted(case)
    other = case.build()
    other.fit(iter([latents[20:], latents[:3], latents[3:20]]))
    expect_close(
        other.normalize(latents),
        scaling.normalize(latents),
        "other batches give another scale",
        rtol=1e-3,
        atol=1e-3,
    )


@contract.check
def refits(case: Case) -> None:
    """Fitting again forgets what it was fitted to before."""
    scaling, latents = _fitted(case)
    fresh, others = case.build(), latents * 10 + 100
    for each in (scaling, fresh):
        each.fit(iter([others]))
    wanted = fresh.normalize(others)
    expect_close(scaling.normalize(others), wanted, "a second fit remembers the first", rtol=1e-3, atol=1e-3)


@contract.check
def fit_saved(case: Case) -> None:
    """The fit travels with the state: a run's samples are scaled as its training was."""
    scaling, latents = _fitted(case)
    if not is_module(scaling):
        raise Skip(NOT_A_MODULE)
    fresh = case.build(seed=2)
    fresh.load_state_dict(copy_of_state(scaling))
    expect_close(fresh.normalize(latents), scaling.normalize(latents), "a loaded scaling scales otherwise")
