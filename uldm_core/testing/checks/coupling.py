"""The contract of couplings: the noise of a batch in another order, and nothing else."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.protocols import Coupling
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import expect

contract = Contract(exercise=lambda case, coupling: coupling(*_pairs(case)))
SIDES = st.sampled_from(((1, 1, 1), (2, 3, 4), (4, 2, 2)))


def _pairs(case: Case) -> tuple[Tensor, Tensor]:
    """Draw latents and as much noise, [B, C, H, W]; the latents are of two sorts, as those of images are."""
    count, sides = case.batch(1, 6), case.draw(SIDES, "sides")
    latents = case.normal(count, *sides) / 2
    latents[::2] += 1
    return latents, case.normal(count, *sides, salt=1)


@contract.check
def permutation_of_noise(case: Case) -> None:
    """Each noise is given to one latent, bit for bit: else what is trained is not the noise drawn later."""
    latents, noise = _pairs(case)
    paired = case.build()(latents, noise)
    expect(len(paired) == len(noise), f"of {len(noise)} noises it gives {len(paired)}")
    same = (paired.flatten(1).to(noise)[:, None] == noise.flatten(1)[None]).all(2)
    expect(bool(same.any(1).all()), "what it gives is not the noise that it was given")
    expect(bool(same.any(0).all()), "it gives some noise to several latents, and some to none")


@contract.check
def noise_kept_in_kind(case: Case) -> None:
    """The noise keeps its shape, dtype and device, in low precision as well: it is added to the latents."""
    coupling = case.build()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        latents, noise = (tensor.to(dtype) for tensor in _pairs(case))
        paired = coupling(latents, noise)
        for what in ("shape", "dtype", "device"):
            was, now = getattr(noise, what), getattr(paired, what)
            expect(was == now, f"noise of {what} {was} comes back with {what} {now}")


@contract.check
def given_left_alone(case: Case) -> None:
    """It writes into neither: latents may be the cache of a whole dataset."""
    latents, noise = _pairs(case)
    kept = latents.clone(), noise.clone()
    case.build()(latents, noise)
    expect(torch.equal(latents, kept[0]), "it writes into the latents that it is given")
    expect(torch.equal(noise, kept[1]), "it writes into the noise that it is given")


@contract.check
def graph_free(case: Case) -> None:
    """In training nothing is learned by way of the pairs: the noise comes back without a graph."""
    latents, noise = _pairs(case)
    coupling: Coupling = case.build()
    paired = coupling(latents.requires_grad_(), noise)
    expect(not paired.requires_grad, "the noise that it gives has a graph to the latents")
