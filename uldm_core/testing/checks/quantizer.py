"""The contract of quantizers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from uldm_core.testing import strategies
from uldm_core.testing.case import Case, copy_of_state, is_module
from uldm_core.testing.contract import NOT_A_MODULE, Contract, Skip, expect, expect_close, expect_finite
from uldm_core.testing.losses import check_losses, total

MOST_CODES = 2**14
"""Of larger codebooks, checks look at so many codes."""


def _latents(case: Case, quantizer: Any) -> tuple[Tensor]:
    shape = case.draw(strategies.latent_shapes(quantizer.dim), "shape")
    return (case.normal(*shape) * case.draw(st.sampled_from((1.0, 0.3, 3.0)), "scale"),)


contract = Contract(
    inputs=_latents,
    call=lambda quantizer, latents: quantizer(latents)[0],
    in_full=lambda quantizer, latents: quantizer(latents),
    discrete=True,
)


def _built(case: Case, **options: Any) -> tuple[Any, Tensor]:
    """Build a quantizer that has seen some batches, in eval mode, and draw latents for it."""
    quantizer = case.build(**options)
    (latents,) = _latents(case, quantizer)
    _set_mode(quantizer, training=True)
    torch.manual_seed(0)
    for batch in range(3):
        quantizer(case.normal(8, quantizer.dim, 4, 4, salt=batch + 1))
    return _set_mode(quantizer, training=False), latents


def _set_mode(quantizer: Any, *, training: bool) -> Any:
    return quantizer.train(training) if is_module(quantizer) else quantizer


def _codes(quantizer: Any) -> Tensor:
    """Return the codebook as ``lookup`` tells it, [K, D]; the first codes of a very large one."""
    count = min(quantizer.codebook_size, MOST_CODES)
    one_code_a_position = quantizer(torch.zeros(1, quantizer.dim, 1, 1))[2].ndim == 3
    if not one_code_a_position:
        raise Skip("it has several codes a position")
    codes: Tensor = quantizer.lookup(torch.arange(count).view(1, 1, count))
    return codes[0, :, 0].T.detach()


def _codebook(quantizer: Any) -> Tensor:
    """Return the codebook of one that claims it: by ``codebook``, or by a tensor of its state."""
    codes = _codes(quantizer)
    state = quantizer.state_dict().values() if is_module(quantizer) else ()
    stored = (tensor.reshape(-1, quantizer.dim) for tensor in state if tensor.numel() == codes.numel())
    held = any(tensor.shape == codes.shape and torch.equal(tensor.float(), codes) for tensor in stored)
    if not held and not hasattr(quantizer, "codebook"):
        raise Skip("it claims no codebook")
    return codes


def _random_codes(case: Case, quantizer: Any) -> Tensor:
    """Return latents [2, D, 3, 3] that are codes."""
    indices = quantizer(case.normal(2, quantizer.dim, 3, 3))[2]
    generator = torch.Generator().manual_seed(case.seed())
    drawn = torch.randint(min(quantizer.codebook_size, MOST_CODES), indices.shape, generator=generator)
    codes: Tensor = quantizer.lookup(drawn)
    return codes.detach()


@contract.check
def shapes(case: Case) -> None:
    """Quantized latents [B, D, H, W] keep shape and dtype; indices are [B, H, W] or [B, Q, H, W]."""
    quantizer, latents = _built(case)
    quantized, _, indices = quantizer(latents)
    expect(quantized.shape == latents.shape, f"{list(latents.shape)} becomes {list(quantized.shape)}")
    expect(quantized.dtype == latents.dtype, f"{latents.dtype} becomes {quantized.dtype}")
    batch, _, height, width = latents.shape
    expect(
        indices.ndim in (3, 4) and (indices.shape[0], *indices.shape[-2:]) == (batch, height, width),
        f"indices of latents {list(latents.shape)} have the shape {list(indices.shape)}",
    )
    expect_finite(quantized, "the quantized output")


@contract.check
def index_range(case: Case) -> None:
    """Indices are integers in [0, codebook_size): whoever stores or models them counts on it."""
    quantizer, latents = _built(case)
    for scale in (1, 100):
        indices = quantizer(latents * scale)[2]
        expect(not indices.is_floating_point(), f"indices are {indices.dtype}")
        low, high = int(indices.min()), int(indices.max())
        expect(
            low >= 0 and high < quantizer.codebook_size, f"{low}..{high} of {quantizer.codebook_size} codes"
        )


@contract.check
def codebook_size_true(case: Case) -> None:
    """``lookup`` knows every index below ``codebook_size``, and gives latents of ``dim`` finite channels."""
    quantizer, _ = _built(case)
    indices = quantizer(torch.zeros(1, quantizer.dim, 1, 1))[2]
    for index in (0, quantizer.codebook_size // 2, quantizer.codebook_size - 1):
        code = quantizer.lookup(torch.full_like(indices, index))
        expect(
            tuple(code.shape) == (1, quantizer.dim, 1, 1), f"code {index} has the shape {list(code.shape)}"
        )
        expect_finite(code, f"code {index}")


@contract.check
def lookup_agrees(case: Case) -> None:
    """``lookup(indices)`` is the quantized output: else stored codes decode to something else."""
    quantizer, latents = _built(case)
    quantized, _, indices = quantizer(latents)
    expect_close(quantizer.lookup(indices), quantized, "lookup(indices) is not the quantized output")


@contract.check
def idempotent(case: Case) -> None:
    """Quantizing what is quantized changes nothing."""
    quantizer, latents = _built(case)
    if quantizer(latents)[2].ndim == latents.ndim:
        raise Skip("it has several codes a position: a sum of codes may have a nearer sum")
    once = quantizer(latents)[0].detach()
    expect_close(quantizer(once)[0], once, "quantizing twice is not quantizing once")


@contract.check
def nearest_code(case: Case) -> None:
    """Each vector goes to its nearest code, which is what makes the error as small as it can be."""
    quantizer, latents = _built(case)
    codes = _codebook(quantizer).double()
    if len(codes) < quantizer.codebook_size:
        raise Skip(f"more than {MOST_CODES} codes")
    vectors, chosen = (_vectors(x) for x in (latents, quantizer(latents)[0]))
    least = torch.cdist(vectors, codes).min(1).values
    taken = (vectors - chosen).norm(dim=1)
    worst = (taken - least).max().item()
    expect(
        worst <= 1e-3 * max(1.0, least.max().item()), f"a code is nearer by {worst:.3g} than the one taken"
    )


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
    """The gradient of the quantized output reaches the latents, finite, not zero: encoders learn by it."""
    quantizer, latents = _built(case)
    for training in (False, True):
        _set_mode(quantizer, training=training)
        given = (latents * 0.5).requires_grad_()
        quantized = quantizer(given)[0]
        expect(quantized.requires_grad, "the quantized output has no gradient")
        (quantized * case.normal(*latents.shape, salt=5)).sum().backward()
        expect(given.grad is not None, "no gradient reaches the latents")
        gradient = torch.zeros(1) if given.grad is None else given.grad
        expect_finite(gradient, "the gradient of the latents")
        expect(bool((gradient.abs().sum(1) > 0).any()), "the gradient of the latents is zero everywhere")


@contract.check
def losses_are_weighted_scalars(case: Case) -> None:
    """Losses are named, finite scalars, not below zero: the trainer adds them up as they are."""
    quantizer, latents = _built(case)
    for training in (False, True):
        check_losses(_set_mode(quantizer, training=training)(latents)[1])


@contract.check
def losses_zero_on_codes(case: Case) -> None:
    """Latents that are codes cost nothing. (An entropy term may declare otherwise.)"""
    quantizer, _ = _built(case)
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
    learned = [parameter for parameter in _parameters(quantizer)]
    expect(gradient is not None or learned, "its losses move neither latents nor codes")
    if gradient is not None and gradient.abs().sum() > 0:
        away = (latents - quantized.detach()).flatten()
        expect((gradient.flatten() @ away).item() > 0, "its losses push latents away from their codes")
    if "commitment" in losses:
        expect(gradient is not None, "the commitment loss does not reach the latents")
        held = [g for g in _gradients(losses["commitment"], learned) if g is not None and g.abs().sum() > 0]
        expect(not held, "the commitment loss moves the codes: it is on the wrong side")
    if "codebook" in losses:
        reached = _gradients(losses["codebook"], [given])[0]
        moved = reached is not None and bool(reached.abs().sum() > 0)
        expect(not moved, "the codebook loss moves the latents: it is on the wrong side")


def _gradients(loss: Tensor, of: list[Any]) -> tuple[Tensor | None, ...]:
    if not of or not loss.requires_grad:
        return (None,) * len(of)
    return torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)


@contract.check
def commitment_weighs_latents(case: Case) -> None:
    """Its option ``commitment`` (beta) weighs what pulls the latents, and that in proportion."""
    if not case.subject.takes("commitment"):
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
def still_in_eval(case: Case) -> None:
    """In eval mode nothing it remembers changes: else validation trains the codebook."""
    quantizer, latents = _built(case)
    if not is_module(quantizer):
        raise Skip(NOT_A_MODULE)
    before = copy_of_state(quantizer)
    indices = quantizer(latents + 2)[2]
    quantizer.lookup(indices)
    for name, tensor in quantizer.state_dict().items():
        expect(torch.equal(tensor, before[name]), f"{name} changes in eval mode")


@contract.check
def training_fits_the_data(case: Case) -> None:
    """Training brings the codes to the latents: the error falls, and every code stays near the data."""
    quantizer = case.build()
    data = 0.2 * case.normal(8, quantizer.dim, 4, 4) + 0.8 * case.normal(1, quantizer.dim, 1, 1, salt=9) + 0.5
    data = torch.nn.functional.normalize(data, dim=1)  # some quantizers bring all to length 1
    before = _error(_set_mode(quantizer, training=False), data)  # of the untrained: one step may be enough
    if not _learns(quantizer, data):
        raise Skip("it learns nothing: no parameter, and training changes no state")
    _train(quantizer, data, 60)
    after = _error(_set_mode(quantizer, training=False), data)
    expect(after < max(0.9 * before, 1e-6), f"60 steps take the error from {before:.3g} to {after:.3g}")
    reach = max(10.0, 10 * data.abs().max().item())
    farthest = quantizer.lookup(quantizer(data)[2]).abs().max().item()
    expect(farthest < reach, f"a code lies at {farthest:.3g}, the data within {data.abs().max().item():.3g}")
    everywhere = _codes(quantizer).abs().max().item()
    expect(everywhere < reach, f"an unused code has wandered off to {everywhere:.3g}")


def _learns(quantizer: Any, data: Tensor) -> bool:
    """Whether training would change anything; a codebook that is claimed must learn."""
    if _parameters(quantizer) or hasattr(quantizer, "codebook"):
        return True
    if not is_module(quantizer):
        return False
    before = copy_of_state(quantizer)
    quantizer.train()
    quantizer(data)
    return any(not torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


def _train(quantizer: Any, data: Tensor, steps: int) -> None:
    _set_mode(quantizer, training=True)
    parameters = _parameters(quantizer)
    optimizer = torch.optim.Adam(parameters, 0.02) if parameters else None
    for _ in range(steps):
        quantized, losses, _ = quantizer(data)
        if optimizer is not None:
            optimizer.zero_grad()
            ((quantized - data).square().mean() + total(losses)).backward()
            optimizer.step()


def _error(quantizer: Any, data: Tensor) -> float:
    return float((quantizer(data)[0] - data).square().mean())


def _parameters(quantizer: Any) -> list[Any]:
    parameters = quantizer.parameters() if is_module(quantizer) else ()
    return [parameter for parameter in parameters if parameter.requires_grad]


@contract.check
def statistics_saved(case: Case) -> None:
    """All that training goes on from is in the state: a resumed run continues as if never stopped."""
    quantizer, _ = _built(case)
    if not is_module(quantizer):
        raise Skip(NOT_A_MODULE)
    fresh = case.build(seed=2)
    fresh.load_state_dict(copy_of_state(quantizer))
    data = case.normal(4, quantizer.dim, 4, 4, salt=3)
    outputs = []
    for one in (quantizer, fresh):
        torch.manual_seed(0)
        one.train()(data)
        outputs.append(one.eval()(data)[0])
    expect_close(outputs[1], outputs[0], "after loading, training goes on differently")


def _losses(quantizer: Any, latents: Tensor) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = _set_mode(quantizer, training=False)(latents)[1]
    return losses
