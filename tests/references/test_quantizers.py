"""Quantizers against vector-quantize-pytorch and diffusers: outputs, indices, losses, gradients, state."""

import math

import pytest
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, SimVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from uldm_core import registry
from uldm_plugins.quantizers.codes import nearest, rotated

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PLAIN = {"kmeans_iterations": 0, "revive_below": 0.0}


def latents(seed=0, channels=4, batch=4, side=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, side, side, generator=generator)


def both(ours, theirs, x, weigh=1.0):
    """Return (quantized, losses summed, indices, gradient) of each; theirs is called with [B, D, H, W]."""
    results = []
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    for call in (ours, theirs):
        given = x.clone().requires_grad_()
        quantized, loss, indices = call(given)
        ((quantized * weights).sum() + weigh * loss).backward()
        results.append((quantized.detach(), loss.detach(), indices, given.grad))
    return results


def agree(pair, **tolerance):
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(
            one.float().squeeze(), other.float().squeeze(), **(tolerance or CLOSE), check_dtype=False
        )


def summed(quantizer):
    def call(x):
        quantized, losses, indices = quantizer(x)
        return quantized, sum(losses.values(), torch.zeros(())), indices

    return call


def channels_last(reference):
    def call(x):
        quantized, indices, loss = reference(x.movedim(1, -1).flatten(1, 2))
        side = x.shape[-1]
        return (
            quantized.unflatten(1, (side, side)).movedim(-1, 1),
            loss.sum(),
            indices.unflatten(1, (side, side)),
        )

    return call


def test_vq_is_diffusers_vector_quantizer():
    ours = registry.build("quantizer", "vq", codebook_size=64, dim=4, **PLAIN)
    theirs = VectorQuantizer(64, 4, beta=0.25, legacy=False)
    theirs.embedding.weight.data.copy_(ours.codebook.data.normal_())

    def call(x):
        quantized, loss, (_, _, indices) = theirs(x)
        return quantized, loss, indices.view(len(x), *x.shape[2:])

    agree(both(summed(ours), call, latents()))
    torch.testing.assert_close(ours.codebook.grad, theirs.embedding.weight.grad, **CLOSE)


@pytest.mark.parametrize("l2_norm", [False, True])
@pytest.mark.parametrize("rotation", [False, True])
def test_vq_ema_is_vector_quantize_over_twenty_steps(l2_norm, rotation):
    ours = registry.build(
        "quantizer",
        "vq_ema",
        codebook_size=32,
        dim=4,
        decay=0.9,
        l2_norm=l2_norm,
        rotation=rotation,
        commitment=1.0,
        **PLAIN,
    )
    theirs = VectorQuantize(
        dim=4, codebook_size=32, decay=0.9, use_cosine_sim=l2_norm, rotation_trick=rotation
    )
    book = theirs._codebook
    for name, value in (("embed", ours.codebook), ("embed_avg", ours.sums), ("cluster_size", ours.counts)):
        getattr(book, name).copy_(value)
    for step in range(20):
        agree(both(summed(ours), channels_last(theirs), latents(step)))
    torch.testing.assert_close(ours.codebook, book.embed[0], **CLOSE)
    torch.testing.assert_close(ours.sums, book.embed_avg[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.counts, book.cluster_size[0], **CLOSE)


@pytest.mark.parametrize("levels", [[8, 6, 5], [5, 5, 5, 5], [3, 4], [16]])
def test_fsq_is_fsq(levels):
    ours = registry.build("quantizer", "fsq", levels=levels)
    theirs = FSQ(levels)
    x = 2 * latents(1, len(levels))

    def call(x):
        quantized, indices = theirs(x)
        return quantized, torch.zeros(()), indices

    agree(both(summed(ours), call, x))
    every = torch.arange(ours.codebook_size).view(1, 1, -1)
    torch.testing.assert_close(ours.lookup(every), theirs.indices_to_codes(every), **CLOSE)


@pytest.mark.parametrize("size", [2, 16, 512, 1024])
def test_lfq_is_lfq_but_for_a_constant(size):
    ours = registry.build("quantizer", "lfq", codebook_size=size, commitment=0.25).train()
    theirs = LFQ(codebook_size=size, commitment_loss_weight=0.25).train()
    constant = 0.1 * math.log(size)

    def call(x):
        quantized, indices, loss = theirs(x)
        return quantized, loss + constant, indices

    agree(both(summed(ours), call, 0.05 * latents(2, ours.dim)))


@pytest.mark.parametrize("rotation", [False, True])
def test_sim_vq_is_sim_vq(rotation):
    ours = registry.build("quantizer", "sim_vq", codebook_size=64, dim=4, rotation=rotation)
    theirs = SimVQ(dim=4, codebook_size=64, channel_first=True, rotation_trick=rotation)
    theirs.frozen_codebook.copy_(ours.frozen)
    theirs.code_transform.weight.data.copy_(ours.map.weight)

    def call(x):
        quantized, indices, loss = theirs(x)
        return quantized, loss, indices

    agree(both(summed(ours), call, latents(3)))
    torch.testing.assert_close(ours.map.weight.grad, theirs.code_transform.weight.grad, **CLOSE)


def test_residual_vq_is_residual_vq_over_ten_steps_but_for_a_gradient_counted_once():
    """Theirs adds one straight-through gradient a codebook: the sum of codes passes Q times the gradient."""
    options = {"codebook_size": 16, "dim": 4, "num_quantizers": 3, "decay": 0.9, "commitment": 1.0}
    ours = registry.build("quantizer", "residual_vq", **options, **PLAIN)
    theirs = ResidualVQ(dim=4, codebook_size=16, num_quantizers=3, decay=0.9, rotation_trick=False)
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        book = other._codebook
        for name, value in (("embed", one.codebook), ("embed_avg", one.sums), ("cluster_size", one.counts)):
            getattr(book, name).copy_(value)

    def call(x):
        quantized, loss, indices = channels_last(theirs)(x)
        return quantized, loss, indices.movedim(-1, 1)

    for step in range(10):
        one, other = both(summed(ours), call, latents(step))
        repeated = 2 * torch.randn(one[0].shape, generator=torch.Generator().manual_seed(9))
        agree((one, (*other[:3], other[3] - repeated)), rtol=1e-5, atol=3e-5)


def test_the_rotation_trick_is_rotate_to():
    x, codes = torch.randn(50, 6), torch.randn(50, 6)
    pairs = []
    for rotate in (rotated, rotate_to):
        given = x.clone().requires_grad_()
        out = rotate(given, codes)
        (out * torch.arange(300.0).view(50, 6)).sum().backward()
        pairs.append((out.detach(), given.grad / 300))
    agree(pairs)


@pytest.mark.parametrize(
    ("vectors", "codes"), [(torch.zeros(3, 4), torch.randn(3, 4)), (torch.ones(3, 4), -torch.ones(3, 4))]
)
def test_the_rotation_trick_is_finite_where_no_rotation_is(vectors, codes):
    given = vectors.clone().requires_grad_()
    rotated(given, codes).sum().backward()
    assert torch.isfinite(given.grad).all()
    torch.testing.assert_close(rotated(vectors, codes), codes)


def test_a_codebook_of_65536_and_as_many_vectors_needs_little_memory():
    """An [N, K] matrix of floats would take 17 GB; under an address-space limit of 2 GB more it works."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nearest(torch.randn(4096, 8), torch.randn(65536, 8))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # kB; in one go it would be 1 GB


@pytest.mark.parametrize("size", [1, 7, 64, 65, 300])
def test_the_nearest_code_is_the_first_of_the_nearest(size):
    """Codes come in halves: each has a double, and the first of both is meant."""
    codes = torch.randn((size + 1) // 2, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1)[:size]
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.cdist(vectors.double(), codes.double()[: (size + 1) // 2]).argmin(1)
    assert torch.equal(nearest(vectors, codes), expected)


def test_latents_that_are_no_numbers_get_an_index_of_the_codebook():
    for value in (float("nan"), float("inf"), -float("inf")):
        assert 0 <= nearest(torch.full((3, 2), value), torch.randn(5, 2)).max() < 5
