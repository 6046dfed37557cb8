"""Networks between images and latents, and between noise and latents."""

import pytest
import torch

from uldm_core import MistakeError, registry

AUTOENCODERS = {
    "vqvae_fast": {},
    "vqvae_fast with odd sides": {"size": 28, "encoder_channels": [8] * 3, "decoder_channels": [8] * 3},
    "vqvae": {"attn_down": [False, True]},
    "vqvae with one halving": {"down_sample": [False, True], "num_down_layers": 2, "num_up_layers": 2},
}


def checkerboard_share(decode, channels, period):
    """Return which share of the energy repeats with a period, in the middle of images of constant latents."""
    constants = torch.randn(8, channels, 1, 1).expand(-1, -1, 16, 16)
    decoded = decode(constants).double()
    images = decoded[:4] - decoded[4:]  # what biases add to all is left out
    margin = images.shape[-1] * 3 // 8 // period * period
    middle = images[..., margin:-margin, margin:-margin]
    pattern = middle.unflatten(-2, (-1, period)).unflatten(-1, (-1, period)).mean((-4, -2))
    return ((pattern - pattern.mean((-2, -1), keepdim=True)).square().mean() / middle.square().mean()).item()


@pytest.mark.parametrize("name", ["vqvae_fast", "vqvae", "autoencoder_kl"])
@torch.inference_mode()
def test_a_decoder_does_not_start_as_a_checkerboard(name):
    """Odena et al. 2016: drawn apart, the sub-pixels of a transposed convolution do (three quarters)."""
    torch.manual_seed(0)
    autoencoder = registry.build("autoencoder", name, in_channels=3).eval()
    channels, period = autoencoder.latent_channels, min(autoencoder.downscale, 8)
    assert checkerboard_share(autoencoder.decode, channels, period) < 0.1
    as_torch_starts = torch.nn.ConvTranspose2d(channels, 3, 4, stride=2, padding=1)
    assert checkerboard_share(as_torch_starts, channels, 2) > 0.5


@pytest.fixture(scope="module", params=AUTOENCODERS, ids=str)
def autoencoder(request):
    torch.manual_seed(0)
    name = request.param.split()[0]
    quantizer = {"use": "vq_ema", "codebook_size": 32, "dim": 3}
    return registry.build(
        "autoencoder", name, in_channels=1, quantizer=quantizer, **AUTOENCODERS[request.param]
    ).eval()


def test_latents_and_images_have_the_declared_shapes(autoencoder):
    images = torch.rand(2, 1, 28, 28) * 2 - 1
    latents, losses, indices = autoencoder.encode_with_indices(images)
    side = -(-28 // autoencoder.downscale)
    assert autoencoder.latent_channels == 3
    assert latents.shape == (2, 3, side, side)
    assert indices.shape == (2, side, side)
    assert set(losses) == {"commitment"}
    decoded = autoencoder.decode(latents)
    assert decoded.shape == images.shape and decoded.abs().max() <= 1


def test_forward_is_encode_then_decode(autoencoder):
    images = torch.rand(2, 1, 28, 28) * 2 - 1
    reconstruction, latents, _ = autoencoder(images)
    assert torch.equal(latents, autoencoder.encode(images)[0])
    assert torch.allclose(reconstruction, autoencoder.decode(latents), atol=1e-5)


def test_a_size_that_does_not_divide_is_refused(autoencoder):
    with pytest.raises(ValueError, match=r"multiples of|is for 28x28"):
        autoencoder.encode(torch.zeros(1, 1, 29, 29))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"down_sample": [True]}, "down_sample has 1 values, down_channels 2"),
        ({"attn_down": [True] * 3}, "attn_down has 3 values"),
        ({"mid_channels": [32, 64]}, "mid_channels must begin and end with"),
        ({"norm_channels": 48}, "norm_channels = 48 does not divide 32"),
        ({"num_heads": 5}, "num_heads = 5 does not divide 64"),
    ],
)
def test_lists_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(MistakeError, match=message):
        registry.build("autoencoder", "vqvae", **options)


def test_levels_of_the_fast_one_must_match():
    with pytest.raises(MistakeError, match="encoder_channels has 3 levels"):
        registry.build("autoencoder", "vqvae_fast", encoder_channels=[8, 8, 8])


@pytest.mark.parametrize("name", ["vqvae", "vqvae_fast"])
def test_a_few_steps_on_one_batch_lower_the_error(name):
    torch.manual_seed(0)
    digits = registry.build("dataset", "mnist", subset="test").images(torch.arange(16))
    images = digits.float() / 127.5 - 1
    network = registry.build("autoencoder", name, in_channels=1)
    optimizer = registry.build("optimizer", "adamw", network.parameters(), lr=2e-3)
    errors = []
    for _ in range(12):
        reconstruction, _, losses = network(images)
        error = (reconstruction - images).square().mean()
        optimizer.zero_grad()
        (error + sum(losses.values())).backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


DENOISERS = registry.names("denoiser")


@pytest.fixture(scope="module", params=DENOISERS)
def denoiser(request):
    torch.manual_seed(0)
    options = {option.name for option in registry.describe("denoiser", request.param).options}
    size = {"size": 7} if "size" in options else {}
    return registry.build("denoiser", request.param, channels=4, **size)


def test_a_denoiser_keeps_the_shape_at_odd_sizes(denoiser):
    prediction = denoiser(torch.randn(3, 4, 7, 7), torch.tensor([0.0, 500.0, 999.0]))
    assert prediction.shape == (3, 4, 7, 7)
    assert torch.isfinite(prediction).all()


def test_a_denoiser_learns_to_tell_times_apart(denoiser):
    """Gradient reaches every parameter, and after some steps the prediction depends on the time."""
    torch.manual_seed(0)
    optimizer = registry.build("optimizer", "adamw", denoiser.parameters(), lr=2e-3)
    latents = torch.randn(8, 4, 7, 7)
    times = torch.linspace(0, 1000, 8)
    target = torch.cos(times / 250).view(-1, 1, 1, 1).expand_as(latents)
    errors = []
    for _ in range(25):
        error = (denoiser(latents, times) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in denoiser.parameters())
    assert errors[-1] < 0.5 * errors[0]


def test_each_sample_is_denoised_by_itself(denoiser):
    denoiser.eval()
    latents, times = torch.randn(4, 4, 7, 7), torch.tensor([10.0, 300.0, 600.0, 900.0])
    alone = torch.cat([denoiser(x[None], t[None]) for x, t in zip(latents, times)])
    assert torch.allclose(denoiser(latents, times), alone, atol=1e-4)
