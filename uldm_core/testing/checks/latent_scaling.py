"""The contract of latent scalings."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.protocols import LatentScaling
from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect, expect_close, expect_finite
from uldm_core.testing.strategies import normal
from uldm_core.testing.tensors import copy_of_state

LIKELY_CHANNELS = (4, 3, 2, 1, 8)


def _channels(case: Case, scaling: LatentScaling) -> int:
    known = case.given().get("channels") or getattr(scaling, "channels", None)

    def works(channels: int) -> None:
        case.build().fit([torch.arange(16.0).view(2, 1, 2, 4).expand(2, channels, 2, 4)])

    return int(known or case.subject.found("channels", LIKELY_CHANNELS, works))


def _latents(case: Case, scaling: LatentScaling) -> tuple[Tensor]:
    """Draw latents; what is to scale them is fitted first, as its owner does, and may ask for that."""
    channels = _channels(case, scaling)
    scaling.fit([3 * normal((4, channels, 4, 4), 1) + 5])
    return (case.normal(*case.draw(strategies.latent_shapes(channels), "shape")),)


contract = Contract(
    options={"channels": st.sampled_from((2, 4))},
    inputs=_latents,
    call=lambda scaling, latents: scaling.normalize(latents),
    exercise=lambda case, scaling: _exercise(case, scaling),
    same_dtype=False,
)


def _spread_out(case: Case, scaling: LatentScaling) -> Tensor:
    """Return latents [24, C, 4, 3] of odd mean and deviation, both of which drift from first to last."""
    channels = _channels(case, scaling)
    spread = torch.arange(1, channels + 1).view(-1, 1, 1).float()
    drift = torch.linspace(0.5, 1.5, 24).view(-1, 1, 1, 1)
    return drift * (3 * spread * case.normal(24, channels, 4, 3) + 5)


def _fitted(case: Case) -> tuple[LatentScaling, Tensor]:
    """Build a scaling fitted to latents, and return both."""
    scaling = case.build()
    latents = _spread_out(case, scaling)
    scaling.fit(latents.split(8))
    return scaling, latents


def _exercise(case: Case, scaling: LatentScaling) -> list[Tensor]:
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
def far_from_zero(case: Case) -> None:
    """Many latents, their mean 1,000 deviations off, have variance 1 too: sums must be exact enough."""
    scaling = case.build()
    latents = 1000 + case.normal(320, _channels(case, scaling), 8, 8)
    scaling.fit(latents.split(16))
    deviation = scaling.normalize(latents).double().std().item()
    expect(abs(deviation - 1) < 0.02, f"the deviation is {deviation:.3g}")


@contract.check
def inverse(case: Case) -> None:
    """``denormalize`` undoes ``normalize``, of far values too: else what is drawn decodes wrongly."""
    scaling, latents = _fitted(case)
    for each in (latents, 20 * latents[:1, :, :2], -20 * latents[:3, :, :, :1]):
        otherwise = "denormalize does not undo normalize"
        back = scaling.denormalize(scaling.normalize(each))
        expect_close(back, each, otherwise, rtol=1e-3, atol=1e-5 * each.abs().max().item())


@contract.check
def constant_channel(case: Case) -> None:
    """A channel that is the same everywhere is no division by zero: autoencoders do leave channels unused."""
    scaling = case.build()
    latents = _spread_out(case, scaling)
    if latents.shape[1] == 1:
        raise Skip("it has one channel")
    latents[:, 1] = 0.5
    scaling.fit(latents.split(8))
    scaled = scaling.normalize(latents)
    expect_finite(scaled, "what it makes of latents with a constant channel")
    otherwise = "with a constant channel denormalize does not undo normalize"
    expect_close(scaling.denormalize(scaled), latents, otherwise, rtol=1e-2, atol=1e-2)


@contract.check
def cut_independent(case: Case) -> None:
    """How the latents are cut into batches, and their order, does not matter."""
    scaling, latents = _fitted(case)
    for cut in ([latents], [latents[20:], latents[:3], latents[3:20]], list(latents.split(1))):
        other = case.build()
        other.fit(cut)
        otherwise = f"in {len(cut)} batches of other sizes they give another scale"
        _expect_same_scale(other, scaling, latents, otherwise)


def _expect_same_scale(one: LatentScaling, other: LatentScaling, latents: Tensor, otherwise: str) -> None:
    expect_close(one.normalize(latents), other.normalize(latents), otherwise, rtol=1e-3, atol=1e-3)


@contract.check
def read_once(case: Case) -> None:
    """Batches are read once: they are encoded as they are asked for, and there is no second pass."""
    scaling, latents = _fitted(case)
    other = case.build()
    other.fit(batch for batch in latents.split(8))
    _expect_same_scale(other, scaling, latents, "batches that can be read once give another scale")


@contract.check
def refits(case: Case) -> None:
    """Fitting again forgets what it was fitted to before."""
    scaling, latents = _fitted(case)
    fresh, others = case.build(), latents * 10 + 100
    for each in (scaling, fresh):
        each.fit([others])
    _expect_same_scale(scaling, fresh, others, "a second fit remembers the first")


@contract.check
def precision_kept(case: Case) -> None:
    """float32 stays float32, for the denoiser takes nothing else; it is fitted to bfloat16 as well, about."""
    scaling, latents = _fitted(case)
    scaled = scaling.normalize(latents)
    for name, made in (("normalize", scaled), ("denormalize", scaling.denormalize(scaled))):
        dtype = str(made.dtype).removeprefix("torch.")
        expect(dtype == "float32", f"{name} makes {dtype} of float32")
    low = (0.5 + case.normal(24, latents.shape[1], 4, 4)).bfloat16()
    scaling = case.build()
    scaling.fit(low.split(8))
    deviation = scaling.normalize(low.float()).std().item()
    expect(abs(deviation - 1) < 0.1, f"fitted to bfloat16, it gives a deviation of {deviation:.3g}")


@contract.check
def latents_left_alone(case: Case) -> None:
    """It writes into no latents, when it is fitted or when it scales; they may be of inference mode."""
    scaling, latents = _fitted(case)
    kept = latents.clone()
    with torch.inference_mode():
        batches = [batch.clone() for batch in latents.split(8)]
    for name, given in {"fit": batches, "normalize": latents, "denormalize": latents}.items():
        getattr(scaling, name)(given)
        same = torch.equal(latents, kept) and torch.equal(torch.cat(batches), kept)
        expect(same, f"{name} writes into the latents that it is given")


@contract.check
def fit_saved(case: Case) -> None:
    """The fit travels with the state: a run's samples are scaled as its training was."""
    scaling, latents = _fitted(case)
    has_state = hasattr(scaling, "state_dict") and hasattr(scaling, "load_state_dict")
    expect(has_state, "it has no state_dict and load_state_dict: a run would lose what it was fitted to")
    fresh = case.build(seed=2)
    fresh.load_state_dict(copy_of_state(scaling))
    expect_close(fresh.normalize(latents), scaling.normalize(latents), "a loaded scaling scales otherwise")
