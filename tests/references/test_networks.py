"""Autoencoders and denoisers against diffusers: its weights load, and give its outputs."""

import hashlib
import math

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings, get_2d_sincos_pos_embed
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import save_file
from torch.distributions import Normal, kl_divergence

from uldm_core import MistakeError, registry
from uldm_plugins.nn.diffusers_blocks import Resnet

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
KL = {"block_out_channels": (32, 64, 64), "layers_per_block": 2, "norm_num_groups": 16}
UNETS = [
    {"block_out_channels": (32, 64), "layers_per_block": 1},
    {"block_out_channels": (32, 64, 96), "layers_per_block": 2},
]


def shaken(network):
    """Give every parameter a random value: zeros and ones would hide what they multiply."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory):
    levels = len(KL["block_out_channels"])
    theirs = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **KL,
    )
    path = tmp_path_factory.mktemp("kl") / "diffusion_pytorch_model.safetensors"
    save_file(shaken(theirs).state_dict(), path)
    return registry.build("autoencoder", "autoencoder_kl", weights=path, **KL).eval(), theirs


@pytest.mark.parametrize("size", [(32, 32), (48, 20)])
@torch.no_grad()
def test_autoencoder_kl_reconstructs_as_diffusers_does(autoencoders, size):
    ours, theirs = autoencoders
    images = torch.rand(2, 3, *size) * 2 - 1
    posterior = theirs.encode(images).latent_dist
    latents, _ = ours.encode(images)
    torch.testing.assert_close(latents, posterior.mode(), **CLOSE)
    torch.testing.assert_close(ours.posterior(images)[1], posterior.logvar, **CLOSE)
    torch.testing.assert_close(ours.decode(latents), theirs.decode(latents).sample, **CLOSE)
    torch.testing.assert_close(ours(images)[0], theirs(images).sample, **CLOSE)


@torch.no_grad()
def test_the_kl_divergence_is_the_analytic_one(autoencoders):
    ours, theirs = autoencoders
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    mean, log_variance = ours.posterior(images)
    unit = Normal(torch.zeros(()), torch.ones(()))
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), unit).sum((1, 2, 3)).mean()
    measured = ours.encode(images)[1]["kl"] / 1e-6
    assert measured.item() == pytest.approx(expected.item(), rel=1e-5)
    assert measured.item() == pytest.approx(theirs.encode(images).latent_dist.kl().mean().item(), rel=1e-5)


def test_latents_are_drawn_in_train_mode_only():
    network = registry.build("autoencoder", "autoencoder_kl", in_channels=1)
    image = torch.zeros(1, 1, 8, 8)
    mean, log_variance = network.posterior(image)
    torch.manual_seed(0)
    drawn = torch.cat([network.encode(image)[0] for _ in range(400)])
    deviation = (0.5 * log_variance).exp()
    assert ((drawn.mean(0) - mean) / deviation).abs().max() < 5 / math.sqrt(400)
    assert (drawn.std(0) / deviation - 1).abs().max() < 0.25
    network.eval()
    assert torch.equal(network.encode(image)[0], network.posterior(image)[0])


def test_old_checkpoints_and_other_networks(autoencoders, tmp_path):
    ours, _ = autoencoders
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = ours.state_dict()
    for new, name in old.items():
        state = {key.replace(new, name): tensor for key, tensor in state.items()}
    save_file(state, tmp_path / "old.safetensors")
    again = registry.build("autoencoder", "autoencoder_kl", weights=tmp_path / "old.safetensors", **KL)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values()))
    with pytest.raises(MistakeError, match=r"another network: encoder\.\S+ is \[.*\] here, \[.*\] there"):
        registry.build(
            "autoencoder",
            "autoencoder_kl",
            weights=tmp_path / "old.safetensors",
            **KL | {"latent_channels": 3},
        )
    with pytest.raises(MistakeError, match="there is no"):
        registry.build("autoencoder", "autoencoder_kl", weights=tmp_path / "none.safetensors")


@pytest.mark.parametrize("layout", UNETS, ids=["small", "deep"])
@torch.no_grad()
def test_unet_2d_loads_diffusers_weights_and_gives_its_outputs(layout, tmp_path):
    levels = len(layout["block_out_channels"])
    theirs = UNet2DModel(
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * (levels - 1)),
        up_block_types=(*["AttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
        **layout,
    )
    save_file(shaken(theirs).state_dict(), tmp_path / "unet.safetensors")
    attends = [False, *[True] * (levels - 1)]
    ours = registry.build(
        "denoiser",
        "unet_2d",
        channels=4,
        attention_levels=attends,
        weights=tmp_path / "unet.safetensors",
        **layout,
    ).eval()
    latents, times = torch.randn(3, 4, 16, 24), torch.tensor([0.0, 17.0, 999.0])
    expected = theirs(latents, times).sample
    torch.testing.assert_close(ours(latents, times), expected, **CLOSE)
    assert ours(latents[..., :15, :23], times).shape == (3, 4, 15, 23)


@torch.no_grad()
def test_unet_2d_with_classes_loads_diffusers_weights_and_gives_its_outputs(tmp_path):
    theirs = UNet2DModel(
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=6,
        **UNETS[0],
    )
    save_file(shaken(theirs).state_dict(), tmp_path / "unet.safetensors")
    given = {"channels": 4, "classes": 5, "weights": tmp_path / "unet.safetensors", **UNETS[0]}
    latents, times = torch.randn(3, 4, 8, 8), torch.tensor([0.0, 17.0, 999.0])
    for name in ("unet_2d", "diffusers/unet_2d"):
        ours = registry.build("denoiser", name, **given).eval()
        for classes in (torch.tensor([0, 4, 5]), torch.tensor([5, 5, 5])):
            expected = theirs(latents, times, classes).sample
            torch.testing.assert_close(ours(latents, times, classes), expected, **CLOSE)
        torch.testing.assert_close(ours(latents, times), expected, **CLOSE)  # no class


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(MistakeError, match="attention_levels has 1 values, block_out_channels 2"):
        registry.build("denoiser", "unet_2d", channels=4, attention_levels=[True])
    with pytest.raises(MistakeError, match="norm_num_groups = 32 does not divide 48"):
        registry.build("denoiser", "unet_2d", channels=4, block_out_channels=[48, 64])
    with pytest.raises(MistakeError, match="num_heads = 5 does not divide 192"):
        registry.build("denoiser", "dit", channels=4, size=8, num_heads=5)


@torch.no_grad()
def test_a_block_of_dit_is_diffusers_block():
    ours = shaken(registry.build("denoiser", "dit", channels=4, size=8, hidden_size=32, num_heads=4)).blocks[
        0
    ]
    theirs = BasicTransformerBlock(
        32,
        4,
        8,
        activation_fn="gelu-approximate",
        attention_bias=True,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    ).eval()
    for part, module in zip(
        ours.qkv.weight.chunk(3), (theirs.attn1.to_q, theirs.attn1.to_k, theirs.attn1.to_v)
    ):
        module.weight.copy_(part)
    for part, module in zip(
        ours.qkv.bias.chunk(3), (theirs.attn1.to_q, theirs.attn1.to_k, theirs.attn1.to_v)
    ):
        module.bias.copy_(part)
    theirs.attn1.to_out[0].load_state_dict(ours.out.state_dict())
    theirs.ff.net[0].proj.load_state_dict(ours.mlp[0].state_dict())
    theirs.ff.net[2].load_state_dict(ours.mlp[2].state_dict())
    theirs.norm1.linear.load_state_dict(ours.modulation.state_dict())
    tokens = torch.randn(2, 9, 32)
    times, classes = torch.tensor([3, 700]), torch.tensor([0, 5])
    embedding = torch.nn.functional.silu(theirs.norm1.emb(times, classes, hidden_dtype=torch.float32))
    expected = theirs(tokens, timestep=times, class_labels=classes)
    torch.testing.assert_close(ours(tokens, embedding), expected, **CLOSE)


@torch.no_grad()
def test_dit_embeds_classes_as_diffusers_does():
    ours = registry.build("denoiser", "dit", channels=4, size=8, hidden_size=32, num_heads=4, classes=5)
    theirs = CombinedTimestepLabelEmbeddings(5, 32, class_dropout_prob=0.1).eval()
    theirs.class_embedder.embedding_table.load_state_dict(ours.class_embedding.state_dict())
    times, classes = torch.tensor([3.0, 700.0, 9.0]), torch.tensor([0, 4, 2])
    embedding = theirs.timestep_embedder(theirs.time_proj(times))
    embedded = ours.conditioned(embedding, classes, None)
    torch.testing.assert_close(embedded, theirs(times, classes, torch.float32), rtol=0, atol=0)
    dropped = theirs.class_embedder.token_drop(classes, torch.ones(3))
    for no_class in (None, torch.full((3,), 5)):
        expected = theirs(times, dropped, torch.float32)
        torch.testing.assert_close(ours.conditioned(embedding, no_class, None), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "digest"),
    [
        ("mlp", {"size": 4}, "a2dc78a9942c8624"),
        ("unet", {}, "f0a25ac5d9d377c0"),
        ("unet_2d", {}, "bcd0bad8f1fbf046"),
        ("dit", {"size": 4}, "205da77f21459c16"),
        ("diffusers/unet_2d", {}, "223e9643bf7bafde"),
    ],
)
def test_weights_of_denoisers_without_classes_bear_the_names_of_those_made_before_there_were_any(
    name, options, digest
):
    state = registry.build("denoiser", name, channels=4, **options).state_dict()
    text = "\n".join(f"{name} {list(value.shape)}" for name, value in state.items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest
    conditional = registry.build("denoiser", name, channels=4, **options, classes=3).state_dict()
    ((added, table),) = ((key, value) for key, value in conditional.items() if key not in state)
    assert added.endswith("class_embedding.weight") and len(table) == 4
    assert (
        registry.build("denoiser", name, channels=4, **options, dropout=0.1).state_dict().keys()
        == state.keys()
    )
    augmented = registry.build("denoiser", name, channels=4, **options, augmentation=3).state_dict()
    ((added, weight),) = ((key, value) for key, value in augmented.items() if key not in state)
    theirs = "network.class_embedding.augmentation.weight"
    assert added == (theirs if "/" in name else "augmentation_embedding.weight") and weight.shape[1] == 3


@torch.no_grad()
def test_a_block_of_unet_2d_drops_what_diffusers_drops():
    theirs = ResnetBlock2D(in_channels=8, out_channels=16, temb_channels=12, groups=4, dropout=0.3, eps=1e-5)
    ours = Resnet(8, 16, 4, 1e-5, 12, dropout=0.3)
    ours.load_state_dict(theirs.state_dict())
    latents, embedding = torch.randn(3, 8, 6, 5), torch.randn(3, 12)
    answers = []
    for block in (ours.train(), theirs.train()):
        torch.manual_seed(0)
        answers.append(block(latents, embedding))
    torch.testing.assert_close(answers[0], answers[1], **CLOSE)


@torch.no_grad()
def test_unet_2d_drops_in_as_many_places_as_diffusers():
    given = {"channels": 4, "dropout": 0.3, **UNETS[0]}
    theirs, ours = (registry.build("denoiser", name, **given) for name in ("diffusers/unet_2d", "unet_2d"))
    shares = [[module.dropout for module in ours.modules() if isinstance(module, Resnet)]]
    shares.append([module.dropout.p for module in theirs.modules() if isinstance(module, ResnetBlock2D)])
    assert shares[0] == shares[1] == [0.3] * len(shares[0])


@pytest.mark.parametrize(("name", "options"), [("mlp", {"size": 4}), ("unet", {}), ("dit", {"size": 4})])
@torch.no_grad()
def test_dropout_acts_in_training_only_and_by_the_global_generator(name, options):
    plain = registry.build("denoiser", name, channels=4, **options)
    dropping = registry.build("denoiser", name, channels=4, dropout=0.5, **options)
    dropping.load_state_dict(shaken(plain).state_dict())
    latents, times = torch.randn(3, 4, 4, 4), torch.tensor([0.0, 17.0, 999.0])
    assert torch.equal(dropping.eval()(latents, times), plain.eval()(latents, times))
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(dropping.train()(latents, times))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


@torch.no_grad()
def test_dit_starts_as_nothing_and_knows_its_places():
    network = registry.build("denoiser", "dit", channels=3, size=7)
    latents = torch.randn(2, 3, 7, 7)
    assert network(latents, torch.tensor([1.0, 2.0])).abs().max() == 0
    expected = get_2d_sincos_pos_embed(192, 4, base_size=4, output_type="pt").float()
    torch.testing.assert_close(network.positions[0], expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_patches_come_back_where_they_were():
    network = registry.build("denoiser", "dit", channels=3, size=7, depth=1, hidden_size=24, num_heads=1)
    shaken(network)
    latents = torch.randn(1, 3, 7, 7)
    with torch.enable_grad():
        given = latents.clone().requires_grad_()
    assert network(latents, torch.ones(1)).shape == latents.shape
    network.blocks = torch.nn.ModuleList()  # without attention, a patch sees itself alone
    with torch.enable_grad():
        first = network(given, torch.ones(1))[0, :, :2, 2:4].square().sum()
        (gradient,) = torch.autograd.grad(first, given)
    assert gradient[0, :, :2, 2:4].abs().min() > 0
    gradient[0, :, :2, 2:4] = 0
    assert gradient.abs().max() == 0
