"""The contract of denoisers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from uldm_core.testing import strategies
from uldm_core.testing.case import Case, perturb
from uldm_core.testing.contract import NOT_A_MODULE, Contract, Skip, expect, expect_finite

LIKELY = [(channels, side) for side in (8, 4, 7, 5, 16, 2, 28, 32) for channels in (4, 3, 1, 2, 8, 16)]


def _inputs(case: Case, denoiser: Any) -> tuple[Tensor, Tensor]:
    channels, side, any_size = _takes(case, denoiser)
    sides = strategies.sides(4, 9) if any_size else st.just(side)
    shape = case.draw(strategies.image_shapes(st.just(channels), sides, sides), "shape")
    return case.normal(*shape), 1000 * case.draw(strategies.timesteps(shape[0]), "t")


def _takes(case: Case, denoiser: Any) -> tuple[int, int, bool]:
    """Return the channels and side of latents that it takes, and whether it takes other sides as well."""
    channels = case.given().get("channels") or getattr(denoiser, "channels", None)
    side = case.given().get("size") or getattr(denoiser, "size", None)
    candidates = [(c, s) for c, s in LIKELY if c == (channels or c)]
    candidates = [(c, side) for c, _ in candidates] if side else candidates

    def works(shape: tuple[int, int]) -> None:
        with torch.no_grad():
            denoiser(torch.zeros(2, shape[0], shape[1], shape[1]), torch.tensor([1.0, 500.0]))

    found = case.subject.found(f"latents of {channels} {side}", candidates or [(channels, side or 8)], works)
    return *found, not side and _takes_others(case, denoiser, *found)


def _takes_others(case: Case, denoiser: Any, channels: int, side: int) -> bool:
    def works(take: bool) -> None:
        if take:
            with torch.no_grad():
                denoiser(torch.zeros(1, channels, side + 1, side - 1), torch.ones(1))

    return bool(case.subject.found(f"other sides than {side}", (True, False), works))


contract = Contract(
    options={"channels": st.sampled_from((2, 4)), "size": st.sampled_from((4, 5))}, inputs=_inputs
)


def _built(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    denoiser = case.build()
    if not isinstance(denoiser, nn.Module):
        raise Skip(NOT_A_MODULE)
    return perturb(denoiser).eval(), *_inputs(case, denoiser)


@contract.check
def latents_shape(case: Case) -> None:
    """The prediction is finite and has the latents' shape, odd sides included."""
    denoiser, latents, conditioning = _built(case)
    prediction = denoiser(latents, conditioning)
    expect(prediction.shape == latents.shape, f"{list(latents.shape)} becomes {list(prediction.shape)}")
    expect_finite(prediction, "the prediction")


@contract.check
def tells_times_apart(case: Case) -> None:
    """The prediction depends on the time, in every sample on its own, and not only near one end."""
    denoiser, latents, _ = _built(case)
    with torch.no_grad():
        answers = [
            denoiser(latents, torch.full((len(latents),), t)) for t in (0.0, 20.0, 500.0, 980.0, 1000.0)
        ]
    for early, late in pairwise(answers):
        gaps = (early - late).abs().amax((1, 2, 3))
        expect(bool((gaps > 1e-6).all()), "two different times give the same prediction")


@contract.check
def every_latent_counts(case: Case) -> None:
    """Every value of the latents has a say in the prediction: no channel or border is cut off."""
    denoiser, latents, conditioning = _built(case)
    given = latents.clone().requires_grad_()
    (denoiser(given, conditioning) * case.normal(*latents.shape, salt=1)).sum().backward()
    expect(given.grad is not None, "the prediction does not depend on the latents")
    reached = torch.zeros(1) if given.grad is None else given.grad.abs().sum(0) > 0
    expect(bool(reached.all()), f"{int((~reached).sum())} of {reached.numel()} latent values have no say")


@contract.check
def learns(case: Case) -> None:
    """A few steps on one batch lower its error."""
    denoiser, latents, conditioning = _built(case)
    denoiser.train()
    x, t = (torch.cat([one, one]) for one in (latents, conditioning))
    target = 0.5 * x - 0.3
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-3)
    errors = []
    for _ in range(12):
        error = (denoiser(x, t) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    expect(
        min(errors[-3:]) < errors[0], f"after 12 steps the error is {errors[-1]:.3g}, it was {errors[0]:.3g}"
    )
