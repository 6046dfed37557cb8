"""The codebook of running means, against the formulas and against vector-quantize-pytorch's update."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uldm_core import registry
from uldm_plugins.quantizers.codes import flatten, nearest, unflatten


def make(**options):
    return registry.build("quantizer", "vq_ema", **{"codebook_size": 16, "dim": 3, **options})


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 20), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_nearest_is_the_code_of_smallest_distance(seed, vectors, codes, dim):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(vectors, dim, generator=generator)
    codebook = torch.randn(codes, dim, generator=generator)
    distances = torch.cdist(points.double(), codebook.double())
    chosen = distances.gather(1, nearest(points, codebook)[:, None])
    assert torch.allclose(chosen[:, 0], distances.min(1).values, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_flatten_and_unflatten_are_inverse(layout):
    latents = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    assert torch.equal(unflatten(flatten(latents), latents.shape), latents)


def test_quantized_output_is_the_lookup_of_its_indices():
    quantizer = make().eval()
    quantized, _, indices = quantizer(torch.randn(2, 3, 4, 5))
    assert indices.shape == (2, 4, 5)
    assert torch.allclose(quantizer.lookup(indices), quantized, atol=1e-6)


def test_gradient_passes_straight_through_and_commitment_adds_its_own():
    quantizer = make(commitment=0.25).eval()
    latents = torch.randn(2, 3, 4, 5, requires_grad=True)
    quantized, losses, indices = quantizer(latents)
    weights = torch.randn_like(quantized)
    (gradient,) = torch.autograd.grad((quantized * weights).sum(), latents, retain_graph=True)
    assert torch.equal(gradient, weights)
    (gradient,) = torch.autograd.grad(losses["commitment"], latents)
    expected = 0.25 * 2 * (latents - quantizer.lookup(indices)) / latents.numel()
    assert torch.allclose(gradient, expected, atol=1e-7)


def test_codebook_is_still_in_eval_and_moves_in_training():
    quantizer = make()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(torch.randn(2, 3, 4, 5))
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())
    quantizer.train()(torch.randn(2, 3, 4, 5))
    assert not torch.equal(before["codebook"], quantizer.codebook)


def test_updates_equal_the_moving_averages_of_the_paper():
    """N <- g N + (1 - g) n, m <- g m + (1 - g) sum z, e = m / N, over 20 batches."""
    generator = torch.Generator().manual_seed(0)
    quantizer = make(kmeans_iterations=0, revive_below=0.0, decay=0.9).train()
    codebook, counts, sums = quantizer.codebook.clone(), torch.ones(16), quantizer.codebook.clone()
    for _ in range(20):
        latents = torch.randn(4, 3, 4, 4, generator=generator)
        vectors = flatten(latents)
        one_hot = torch.nn.functional.one_hot(torch.cdist(vectors, codebook).argmin(1), 16).float()
        counts = 0.9 * counts + 0.1 * one_hot.sum(0)
        sums = 0.9 * sums + 0.1 * (one_hot.T @ vectors)
        codebook = sums / counts[:, None]
        quantizer(latents)
        assert torch.allclose(quantizer.codebook, codebook, atol=1e-4)


def test_unused_codes_come_alive_again():
    torch.manual_seed(0)
    quantizer = make(codebook_size=64, dim=2, kmeans_iterations=0, revive_below=0.1, decay=0.8)
    quantizer.codebook.copy_(torch.randn(64, 2) + 100)  # nobody is near
    quantizer.sums.copy_(quantizer.codebook)
    for _ in range(60):
        quantizer(torch.rand(8, 2, 8, 8))
    used = quantizer.eval()(torch.rand(64, 2, 8, 8))[2].unique()
    assert len(used) >= 60
    assert quantizer.codebook.abs().max() < 2


def test_first_training_batch_places_the_codebook_on_the_data():
    torch.manual_seed(0)
    centres = torch.randn(16, 3) * 10
    latents = (centres[torch.randint(16, (4 * 64,))] + 0.01 * torch.randn(256, 3)).view(4, 8, 8, 3)
    quantizer = make(codebook_size=32)
    quantizer(latents.movedim(-1, 1))
    quantized, _, _ = quantizer.eval()(latents.movedim(-1, 1))
    assert (quantized.movedim(1, -1) - latents).abs().mean() < 0.5


def test_codes_are_float32_under_bfloat16_input():
    quantizer = make().eval()
    quantized, losses, _ = quantizer(torch.randn(1, 3, 4, 4, dtype=torch.bfloat16))
    assert quantized.dtype == torch.bfloat16
    assert losses["commitment"].dtype == torch.float32


@pytest.mark.parametrize("name", ["vq", "vq_ema"])
def test_noise_is_in_what_the_decoder_gets_in_training_and_nowhere_else(name):
    latents = 3 * torch.randn(64, 3, 8, 8) + torch.tensor([5.0, 0.0, -2.0])[:, None, None]

    def step(noise, training):
        torch.manual_seed(0)
        quantizer = registry.build("quantizer", name, codebook_size=16, dim=3, noise=noise).train(training)
        torch.manual_seed(1)
        given = latents.clone().requires_grad_()
        quantized, losses, indices = quantizer(given)
        quantized.sum().backward()
        return quantized.detach(), given.grad, losses, indices, quantizer.state_dict()

    for training in (False, True):
        clean, clean_gradient, *clean_rest = step(0.0, training)
        noisy, gradient, *rest = step(0.5, training)
        assert torch.equal(clean, noisy) != training and torch.equal(clean_gradient, gradient) != training
        for wanted, found in zip(map(values_of, clean_rest), map(values_of, rest), strict=True):
            assert all(map(torch.equal, wanted, found))
    shares = 1 - gradient[:, 0, 0, 0]  # of each image its own, up to a half
    assert 0 <= shares.min() < 0.1 and 0.4 < shares.max() <= 0.5
    noise = (noisy - clean * (1 - shares.view(-1, 1, 1, 1))) / shares.clamp(min=1e-3).view(-1, 1, 1, 1)
    strong = noise[shares > 0.1]
    assert torch.allclose(strong.mean((0, 2, 3)), clean.mean((0, 2, 3)), atol=0.15)
    assert torch.allclose(strong.std((0, 2, 3)), clean.std((0, 2, 3)), rtol=0.05)


def values_of(found):
    """Return the tensors of a tensor, or of a dict of them."""
    return list(found.values()) if isinstance(found, dict) else [found]
