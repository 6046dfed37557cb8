"""The contract of quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.protocols import Quantizer
from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Skip, expect, expect_close, expect_finite
from uldm_core.testing.losses import check_losses, total
from uldm_core.testing.tensors import as_module, copy_of_state, set_mode, trainable

SCALES = (1e-3, 1.0, 1e3)
"""Sizes of latents at which codes are looked up."""
MAY_FLIP = 0.7
"""How far codes may be off where latents between two are rounded."""
MOST_CODES = 2**14
"""Of larger codebooks, checks look at so many codes."""


def _latents(case: Case, quantizer: Quantizer) -> tuple[Tensor]:
    shape = case.draw(strategies.latent_shapes(quantizer.dim), "shape")
    return (case.normal(*shape) * case.draw(st.sampled_from((1.0, 0.3, 3.0)), "scale"),)


contract = Contract(
    inputs=_latents,
    call=lambda quantizer, latents: quantizer(latents)[0],
    in_full=lambda quantizer, latents: quantizer(latents),
    discrete=True,
)


def _built(case: Case, **options: Any) -> tuple[Quantizer, Tensor]:
    """Build a quantizer that has seen some batches, in eval mode, and draw latents for it."""
    quantizer = case.build(**options)
    (latents,) = _latents(case, quantizer)
    set_mode(quantizer, training=True)
    torch.manual_seed(0)
    for batch in range(3):
        quantizer(case.normal(8, quantizer.dim, 4, 4, salt=batch + 1))
    return set_mode(quantizer, training=False), latents


def _codes(quantizer: Quantizer) -> Tensor:
    """Return the codebook as ``lookup`` returns it, [K, D]; the first codes of a very large one."""
    count = min(quantizer.codebook_size, MOST_CODES)
    one_code_a_position = quantizer(torch.zeros(1, quantizer.dim, 1, 1))[2].ndim == 3
    if not one_code_a_position:
        raise Skip("it has several codes a position")
    codes: Tensor = quantizer.lookup(torch.arange(count).view(1, 1, count))
    return codes[0, :, 0].T.detach()


def _codebook(quantizer: Quantizer) -> Tensor:
    """Return the codebook of one that claims it: by ``codebook``, or by a tensor of its state."""
    codes = _codes(quantizer)
    if _maps_latents(quantizer):
        raise Skip("it learns a map to its codes: the nearest need not be the best")
    state = copy_of_state(quantizer).values()
    stored = (tensor.reshape(-1, quantizer.dim) for tensor in state if tensor.numel() == codes.numel())
    held = any(tensor.shape == codes.shape and torch.equal(tensor.float(), codes) for tensor in stored)
    if not held and not hasattr(quantizer, "codebook"):
        raise Skip("it claims no codebook")
    return codes


def _maps_latents(quantizer: Quantizer) -> bool:
    """Whether it learns a map to its codes, such as a projection: then latents need not lie where codes do.

    It shows in a parameter that influences the output, but not the codes.
    """
    learned = trainable(quantizer)
    latents = strategies.normal((4, quantizer.dim, 2, 2), 0)
    quantized, _, indices = quantizer(latents)
    by_output = _gradients(quantized.sum(), learned)
    by_codes = _gradients(quantizer.lookup(indices).sum(), learned)
    return any(moved is not None and code is None for moved, code in zip(by_output, by_codes))


def _random_codes(case: Case, quantizer: Quantizer) -> Tensor:
    """Return latents [2, D, 3, 3] that are codes."""
    indices = quantizer(case.normal(2, quantizer.dim, 3, 3))[2]
    generator = torch.Generator().manual_seed(case.seed())
    drawn = torch.randint(min(quantizer.codebook_size, MOST_CODES), indices.shape, generator=generator)
    codes: Tensor = quantizer.lookup(drawn)
    return codes.detach()


@contract.check
def shapes(case: Case) -> None:
    """Quantized latents [B, D, H, W] keep shape and dtype; indices are integers [B, H, W] or [B, Q, H, W].

    They lie in [0, codebook_size), of large latents and small: whoever stores or models them counts on it.
    """
    quantizer, drawn = _built(case)
    lone, wide, tall = (case.normal(n, quantizer.dim, h, w) for n, h, w in ((1, 1, 1), (1, 1, 5), (3, 4, 1)))
    for latents in (*(scale * drawn for scale in SCALES), lone, wide, tall):
        quantized, _, indices = quantizer(latents)
        expect(quantized.shape == latents.shape, f"{list(latents.shape)} becomes {list(quantized.shape)}")
        expect(quantized.dtype == latents.dtype, f"{latents.dtype} becomes {quantized.dtype}")
        expect_finite(quantized, "the quantized output")
        batch, _, height, width = latents.shape
        expect(
            indices.ndim in (3, 4) and (indices.shape[0], *indices.shape[-2:]) == (batch, height, width),
            f"indices of latents {list(latents.shape)} have the shape {list(indices.shape)}",
        )
        expect(not indices.is_floating_point(), f"indices are {indices.dtype}")
        low, high = int(indices.min()), int(indices.max())
        legal = low >= 0 and high < quantizer.codebook_size
        expect(legal, f"indices {low}..{high}, of {quantizer.codebook_size} codes")


@contract.check
def codebook_size_true(case: Case) -> None:
    """``lookup`` knows every index below ``codebook_size``, each another code of ``dim`` finite channels."""
    quantizer = set_mode(case.build(), training=False)
    indices = quantizer(torch.zeros(1, quantizer.dim, 1, 1))[2]
    for index in (0, quantizer.codebook_size // 2, quantizer.codebook_size - 1):
        code = quantizer.lookup(torch.full_like(indices, index))
        expect(
            tuple(code.shape) == (1, quantizer.dim, 1, 1), f"code {index} has the shape {list(code.shape)}"
        )
        expect_finite(code, f"code {index}")
    count = min(quantizer.codebook_size, MOST_CODES)
    every = torch.arange(count).view(count, *[1] * (indices.ndim - 1)).expand(-1, *indices.shape[1:])
    different = len(quantizer.lookup(every).detach().flatten(1).unique(dim=0))
    placed = different > 1 or count == 1  # some wait for data, with all codes in one place
    expect(different == count or not placed, f"{count} indices have {different} different codes")


@contract.check
def lookup_agrees(case: Case) -> None:
    """``lookup(indices)`` is the quantized output: else stored codes decode to something else."""
    quantizer, latents = _built(case)
    for scale in SCALES:
        quantized, _, indices = quantizer(latents * scale)
        rounding = 1e-5 * max(1.0, scale)  # of latents + (codes - latents)
        otherwise = f"lookup(indices) is not the quantized output of latents of about {scale:g}"
        expect_close(quantizer.lookup(indices), quantized, otherwise, atol=rounding)


@contract.check
def idempotent(case: Case) -> None:
    """Quantizing what is quantized changes nothing."""
    quantizer, latents = _built(case)
    if quantizer(latents)[2].ndim == latents.ndim:
        raise Skip("it has several codes a position: a sum of codes may have a nearer sum")
    if _maps_latents(quantizer):
        raise Skip("it learns a map to its codes: latents need not lie where they do")
    once = quantizer(latents)[0].detach()
    expect_close(quantizer(once)[0], once, "quantizing twice is not quantizing once")


@contract.check
def nearest_code(case: Case) -> None:
    """Each vector goes to its nearest code, near the codes and far from them: so the error is least."""
    quantizer, latents = _built(case)
    codes = _codebook(quantizer)
    if len(codes) < quantizer.codebook_size:
        raise Skip(f"more than {MOST_CODES} codes")
    spread = codes.std().item() if len(codes) > 1 else 1.0
    count = min(2048, 2**22 // len(codes))
    picked = torch.randint(len(codes), (count,), generator=torch.Generator().manual_seed(case.seed()))
    near = codes[picked].T.reshape(1, quantizer.dim, 1, -1)
    near = near + 0.7 * spread * case.normal(*near.shape, salt=6)
    for given in (latents, near):
        vectors, chosen = (_vectors(x) for x in (given, quantizer(given)[0]))
        least = torch.cdist(vectors, codes.double()).min(1).values
        worst = ((vectors - chosen).norm(dim=1) - least).max().item()
        allowed = 5e-4 * spread + 1e-5 * given.abs().max().item()
        otherwise = (
            f"a code is nearer by {worst:.3g} than the one taken, of codes that are {spread:.3g} apart"
        )
        expect(worst <= allowed, otherwise)


def _vectors(latents: Tensor) -> Tensor:
    return latents.detach().double().movedim(1, -1).flatten(0, -2)


@contract.check
def position_wise(case: Case) -> None:
    """Each position is quantized by itself: what is around it, and where it lies, does not matter."""
    quantizer, latents = _built(case)
    order = torch.randperm(latents[0, 0].numel(), generator=torch.Generator().manual_seed(case.seed()))

    def moved(x: Tensor) -> Tensor:
        return x.flatten(-2)[..., order].view(x.shape)

    first, second = quantizer(moved(latents)), quantizer(latents)
    expect_close(first[0], moved(second[0]), "a position's code changes with its place")
    expect(torch.equal(first[2], moved(second[2])), "a position's index changes with its place")
    alone = quantizer(latents[..., :1, :1])[0]
    expect_close(alone, second[0][..., :1, :1], "a position's code changes with what is around it")


@contract.check
def straight_through(case: Case) -> None:
    """The gradient of the quantized output reaches the latents, and not reversed: encoders learn by it."""
    quantizer, _ = _built(case)
    latents = 0.5 * case.normal(4, quantizer.dim, 4, 4, salt=4)
    wanted = case.normal(*latents.shape, salt=5)
    for training in (False, True):
        set_mode(quantizer, training=training)
        given = latents.clone().requires_grad_()
        quantized = quantizer(given)[0]
        expect(quantized.requires_grad, "the quantized output has no gradient")
        (quantized * wanted).sum().backward()
        expect(given.grad is not None, "no gradient reaches the latents")
        gradient = torch.zeros(1) if given.grad is None else given.grad
        expect_finite(gradient, "the gradient of the latents")
        expect(bool((gradient.abs().sum(1) > 0).any()), "the gradient of the latents is zero everywhere")
        ahead = _maps_latents(quantizer) or (gradient * wanted).sum().item() > 0
        expect(ahead, "the gradient of the latents points against that of the output")


@contract.check
def losses_are_weighted_scalars(case: Case) -> None:
    """Losses are named, finite scalars, not below zero: the trainer adds them up as they are.

    A loss of eval mode is there in training too, where it is minimised.
    """
    quantizer, latents = _built(case)
    watched, trained = (set_mode(quantizer, training=mode)(latents)[1] for mode in (False, True))
    for losses in (watched, trained):
        check_losses(losses)
    missing = sorted(watched.keys() - trained.keys())
    expect(not missing, f"{', '.join(missing)}: of eval mode only, so that nothing minimises it")


@contract.check
def losses_zero_on_codes(case: Case) -> None:
    """Latents that are codes cost nothing. (An entropy term may declare otherwise.)"""
    quantizer, _ = _built(case)
    if _maps_latents(quantizer):
        raise Skip("it learns a map to its codes: latents need not lie where they do")
    codes = _random_codes(case, quantizer)
    for name, loss in _losses(quantizer, codes).items():
        expect(abs(loss.item()) <= 1e-6, f"{name} is {loss.item():.3g} for latents that are codes")


@contract.check
def losses_averaged(case: Case) -> None:
    """Losses are means: a batch of copies costs what one costs, or they would follow the batch size."""
    quantizer, latents = _built(case)
    once, thrice = (_losses(quantizer, x) for x in (latents, latents.repeat(3, 1, 1, 2)))
    for name, loss in once.items():
        expect_close(thrice[name], loss, f"{name} changes with the number of latents", rtol=1e-3)


@contract.check
def losses_pull_together(case: Case) -> None:
    """The losses bring latents and codes together; ``commitment`` moves latents, ``codebook`` codes."""
    quantizer, latents = _built(case)
    given = latents.clone().requires_grad_()
    quantized, losses, _ = quantizer(given)
    if not losses:
        raise Skip("it has no losses")
    (gradient,) = torch.autograd.grad(total(losses), given, retain_graph=True, allow_unused=True)
    learned = trainable(quantizer)
    expect(gradient is not None or learned, "its losses move neither latents nor codes")
    if gradient is not None and gradient.abs().sum() > 0 and not _maps_latents(quantizer):
        away = (latents - quantized.detach()).flatten()
        expect((gradient.flatten() @ away).item() > 0, "its losses push latents away from their codes")
    if "commitment" in losses:
        expect(gradient is not None, "the commitment loss does not reach the latents")
        codes = _gradients(quantizer.lookup(quantizer(given)[2]).sum(), learned)
        pulls = zip(codes, _gradients(losses["commitment"], learned))
        held = [
            pull for code, pull in pulls if code is not None and pull is not None and pull.abs().sum() > 0
        ]
        expect(not held, "the commitment loss moves the codes: it is on the wrong side")
    if "codebook" in losses:
        reached = _gradients(losses["codebook"], [given])[0]
        moved = reached is not None and bool(reached.abs().sum() > 0)
        expect(not moved, "the codebook loss moves the latents: it is on the wrong side")


def _gradients(loss: Tensor, of: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if not of or not loss.requires_grad:
        return (None,) * len(of)
    return torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)


@contract.check
def commitment_weighs_latents(case: Case) -> None:
    """Its option ``commitment`` (beta) weighs what pulls the latents, and that in proportion."""
    if not case.subject.inferred("commitment"):
        raise Skip("it takes no commitment")
    pulls = []
    for commitment in (0.25, 0.5):
        quantizer, latents = _built(case, commitment=commitment)
        given = latents.clone().requires_grad_()
        pulls.append(_gradients(total(quantizer(given)[1]), [given])[0])
    expect(pulls[0] is not None and pulls[0].abs().sum() > 0, "its losses do not pull the latents")
    once, twice = (torch.zeros(1) if pull is None else pull for pull in pulls)
    expect_close(twice, 2 * once, "twice the commitment does not pull the latents twice as hard", atol=1e-7)


@contract.check
def any_first_batch(case: Case) -> None:
    """Training may begin with a single vector, with blank latents, or with large or small ones."""
    for shape, scale in (((1, 1, 1), 1.0), ((1, 2, 3), 0.0), ((2, 3, 2), 1e-3), ((2, 3, 2), 1e3)):
        quantizer = set_mode(case.build(), training=True)
        what = f"latents of about {scale:g}, {shape[0]} x {shape[1]} x {shape[2]},"
        batch, height, width = shape
        for _ in range(2):
            quantized, losses, _ = quantizer(scale * case.normal(batch, quantizer.dim, height, width))
            expect_finite(quantized, f"the output for {what}")
            expect_finite(total(losses), f"the loss of {what}")
        for name, tensor in copy_of_state(quantizer).items():
            expect_finite(tensor, f"after {what} {name}")


@contract.check
def bfloat16_latents(case: Case) -> None:
    """Kept in float32, it takes and learns of bfloat16 latents, as an encoder under autocast gives them."""
    quantizer, _ = _built(case)
    as_module(quantizer)
    latents = case.normal(4, quantizer.dim, 4, 4, salt=7).to(torch.bfloat16)
    wanted = quantizer(latents.float())[0].detach()
    dtypes = {name: tensor.dtype for name, tensor in copy_of_state(quantizer).items()}
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(latents)[0].detach().float()
        set_mode(quantizer, training=True)(latents)
    off = ((quantized - wanted).norm() / (wanted.norm() + 1e-3)).item()
    expect(off < MAY_FLIP, f"of bfloat16 latents it makes something else: it is off by {off:.0%}")
    for name, tensor in copy_of_state(quantizer).items():
        expect(tensor.dtype == dtypes[name], f"bfloat16 latents turn {name} into {tensor.dtype}")
        expect_finite(tensor, name)


@contract.check
def training_fits_the_data(case: Case) -> None:
    """Training brings the codes to the latents: the error falls, and every code stays near the data."""
    quantizer = case.build()
    data = 0.2 * case.normal(8, quantizer.dim, 4, 4) + 0.8 * case.normal(1, quantizer.dim, 1, 1, salt=9) + 0.5
    data = torch.nn.functional.normalize(data, dim=1)  # some quantizers bring all to length 1
    before = _error(set_mode(quantizer, training=False), data)  # of the untrained: one step may be enough
    if not _learns(quantizer, data):
        raise Skip("it learns nothing: no parameter, and training changes no state")
    _train(quantizer, data, 60)
    after = _error(set_mode(quantizer, training=False), data)
    expect(after < max(0.9 * before, 1e-6), f"60 steps take the error from {before:.3g} to {after:.3g}")
    reach = max(10.0, 10 * data.abs().max().item())
    farthest = quantizer.lookup(quantizer(data)[2]).abs().max().item()
    expect(farthest < reach, f"a code lies at {farthest:.3g}, the data within {data.abs().max().item():.3g}")
    everywhere = _codes(quantizer).abs().max().item()
    expect(everywhere < reach, f"an unused code has wandered off to {everywhere:.3g}")


@contract.check
def used_codes_stay(case: Case) -> None:
    """A code that fits its latents stays with them: reviving dead codes takes no code that is used."""
    quantizer = case.build()
    ends = torch.ones(1, quantizer.dim, 1, 1) / quantizer.dim**0.5  # of length 1, as some bring all to it
    data = torch.cat([ends, -ends]).repeat(8, 1, 2, 2)
    data = data + 1e-3 * case.normal(*data.shape)
    if not _learns(quantizer, data):
        raise Skip("it learns nothing: no parameter, and training changes no state")
    _train(quantizer, data, 20)
    for _ in range(12):  # with so little of the gradient that nothing but a jump moves a code
        indices = set_mode(quantizer, training=False)(data)[2]
        before = quantizer.lookup(indices).detach().clone()
        _train(quantizer, data, 1, lr=1e-4)
        moved = (quantizer.lookup(indices).detach() - before).norm(dim=1).max().item()
        expect(moved < 1.0, f"in one step a code in use moves by {moved:.3g}, from latents that stay")


def _learns(quantizer: Quantizer, data: Tensor) -> bool:
    """Whether training would change anything; a codebook that is claimed must learn."""
    if trainable(quantizer) or hasattr(quantizer, "codebook"):
        return True
    before = copy_of_state(quantizer)
    set_mode(quantizer, training=True)(data)
    return any(not torch.equal(tensor, before[name]) for name, tensor in copy_of_state(quantizer).items())


def _train(quantizer: Quantizer, data: Tensor, steps: int, lr: float = 0.02) -> None:
    set_mode(quantizer, training=True)
    parameters = trainable(quantizer)
    optimizer = torch.optim.Adam(parameters, lr) if parameters else None
    for _ in range(steps):
        quantized, losses, _ = quantizer(data)
        if optimizer is not None:
            optimizer.zero_grad()
            ((quantized - data).square().mean() + total(losses)).backward()
            optimizer.step()


def _error(quantizer: Quantizer, data: Tensor) -> float:
    return float((quantizer(data)[0] - data).square().mean())


@contract.check
def statistics_saved(case: Case) -> None:
    """All that training continues from is in the state: a resumed run continues as if never stopped."""
    quantizer, _ = _built(case)
    as_module(quantizer)
    fresh = case.build(seed=2)
    fresh.load_state_dict(copy_of_state(quantizer))
    data = case.normal(4, quantizer.dim, 4, 4, salt=3)
    outputs = []
    for one in (quantizer, fresh):
        torch.manual_seed(0)
        set_mode(one, training=True)(data)
        outputs.append(set_mode(one, training=False)(data)[0])
    expect_close(outputs[1], outputs[0], "after loading, training continues differently")


def _losses(quantizer: Quantizer, latents: Tensor) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = set_mode(quantizer, training=False)(latents)[1]
    return losses
