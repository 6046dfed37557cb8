"""The tables of a recipe for a folder of images, and why each is so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from uldm_plugins.own_images.facts import FEW, MOST, Computer, FolderSummary, Request, Size

Table = dict[str, Any]

LATENT_CHANNELS = 4
MOST_VALUES = 1536
"""Of a latent for the MLP, whose first and last layers grow with them."""
IMAGES_A_CLUSTER, MOST_CLUSTERS = 60, 400
LEAST_FOR_DISCRIMINATOR, LEAST_FOR_SSIM, LEAST_FOR_FEATURES = 16, 11, 32
"""The least sides of images that these take."""
MANY = 20_000
"""From so many images on, none need be held out."""
LOSS_BACKBONES = {True: ("vgg16", "squeezenet", "alexnet"), False: ("alexnet", "squeezenet")}
METRIC_BACKBONES = {True: ("inception", "vgg16", "squeezenet", "alexnet"), False: ("squeezenet", "alexnet")}
"""Networks of published weights for the perceptual loss and for metrics, the best first: of a GPU, and of a
processor, on which VGG16 takes several times as long as the rest of a step."""
BACKBONES = tuple(dict.fromkeys((*LOSS_BACKBONES[True], *METRIC_BACKBONES[True])))
RANDOM_BACKBONE = {"use": "squeezenet", "weights": "random"}
WEIGHTS = [1.25, 1.5, 1.75, 2.0, 2.5]
"""Of the guidance, that are tried: the longer a training, the less of it is best."""
LOST = 0.05
"""A share of the usual image that is worth a word when it is cut off."""


@frozen
class Part:
    """A table of the recipe; an empty one is left out.

    Args:
        table: its options.
        why: a sentence or two.
        instead: lines that could follow.
    """

    table: Table
    why: str = ""
    instead: Sequence[str] = ()


def dataset(folder: FolderSummary, request: Request, size: Size) -> Part:
    """Return how images are read."""
    channels = request.channels or (1 if folder.grey == 1 else 3)
    side: int | list[int] = size[0] if size[0] == size[1] else list(size)
    table: Table = {"use": "image_folder", "root": str(folder.root), "size": side, "channels": channels}
    why = [_about_size(folder, request, size)]
    lost = 1 - min(size[1] / size[0] / folder.ratio, size[0] / size[1] * folder.ratio)
    if channels == 1 and not request.channels:
        why.append("All images are grey.")
    if folder.transparent >= MOST and folder.of_that_ratio < 1:
        table["fit"] = "pad"
        why.append("The whole of each image is used, with a border that is transparent too.")
    elif lost > LOST:
        why.append(f'The middle is used, without {lost:.0%} of the usual image; fit = "pad" keeps all of it.')
    if folder.transparent and channels != 4:
        table["background"] = "black" if folder.light > 1 / 2 else "white"
        why.append(f"What is transparent becomes {table['background']}; channels = 4 keeps it as it is.")
    flip = ("", "[augmentation]  # where a mirrored image is as good as another", 'use = "flip"')
    return Part(table, " ".join(filter(None, why)), () if folder.count < FEW else flip)


def _about_size(folder: FolderSummary, request: Request, size: Size) -> str:
    if request.size:
        return "The size is the one asked for."
    if min(size) > folder.shorter[1]:
        return "Most images are smaller than this: they are enlarged."
    return "" if size[0] == size[1] else "Most images have about this shape (height and width)."


def augmentation(folder: FolderSummary) -> Part:
    """Return how training images are changed; nothing where there are many."""
    if folder.count >= FEW:
        return Part({})
    return Part(
        {"use": "flip", "leaks": False},
        "So few images serve twice, mirrored too. The denoiser is given which are, so that no samples are "
        "mirrored; leaks = true draws both kinds.",
    )


def autoencoder(folder: FolderSummary, computer: Computer, size: Size, levels: int) -> Part:
    """Return what turns images into latents that are ``2**levels`` times smaller, and back."""
    if computer.gpu and all(side % 2**levels == 0 for side in size):
        table = {
            "use": "autoencoder_kl",
            "block_out_channels": [64, 128, 256, 256][: levels + 1],
            "latent_channels": LATENT_CHANNELS,
        }
        return Part(
            table, f"The kind that Stable Diffusion has; each side becomes {2**levels} times smaller."
        )
    places = folder.count * math.prod(-(-side // 2**levels) for side in size)
    codes = 2 ** max(6, min(11, int(math.log2(places / 64))))
    table = {
        "use": "vqvae_fast",
        "quantizer": {"use": "vq_ema", "codebook_size": codes, "dim": LATENT_CHANNELS, "decay": 0.99},
        "encoder_channels": [min(32 << level, 128) for level in range(levels)],
        "decoder_channels": [min(48 << level, 192) for level in range(levels)],
        "image_channels": 16,
    }
    return Part(
        table,
        f"Quick on a processor. Each side becomes {2**levels} times smaller, each place of it one of "
        f"{codes:,} codes, which are {LATENT_CHANNELS} numbers each.",
    )


def discriminator(computer: Computer, size: Size) -> Part:
    """Return what the autoencoder is trained against; nothing where images are too small for it."""
    if min(size) < LEAST_FOR_DISCRIMINATOR:
        return Part({})
    table = {"use": "patchgan", "channels": [64, 128, 256] if computer.gpu else [32, 64, 128]}
    return Part(table, "Keeps reconstructions sharp: it learns to tell them from images, patch by patch.")


def condition(folder: FolderSummary) -> Part:
    """Return what the denoiser is given beside the time; nothing where there are too few images."""
    classes = min(folder.count // IMAGES_A_CLUSTER, MOST_CLUSTERS)
    if classes < 2:
        return Part({})
    labels = ['use = "labels"  # in place of both: the folders as classes'] if folder.classes else []
    return Part(
        {"use": "clusters", "classes": classes},
        f"Groups of similar images, about {folder.count // classes} each, found without labels. The denoiser "
        "is given the group, which makes its task easier; samples get groups as often as they occur.",
        labels,
    )


def denoiser(folder: FolderSummary, computer: Computer, latents: tuple[int, int, int]) -> Part:
    """Return what is trained on latents of these channels, height and width."""
    values, tokens = math.prod(latents), latents[1] * latents[2]
    dropout = {"dropout": 0.1} if folder.count < FEW else {}
    if computer.gpu:
        table = {"use": "dit", "patch_size": 2 if tokens > 64 else 1, "hidden_size": 384, "depth": 12}
        return Part({**table, "num_heads": 6, **dropout}, "A diffusion transformer: what a GPU does well.")
    if values > MOST_VALUES:
        return Part({"use": "dit", **dropout}, f"The {values:,} numbers of a latent are too many for `mlp`.")
    width = 640 if values <= 256 else 1024
    return Part(
        {"use": "mlp", "width": width, "hidden": 2 * width, **dropout},
        f"The {values:,} numbers of a latent are few enough for matrix products over all of them, which a "
        "processor does fastest.",
    )


def guidance(tuned: bool) -> Part:
    """Return how samples are led; ``tuned`` is whether its weight is chosen later."""
    why = (
        "Samples are led away from an early state of the denoiser, whose mistakes are the same, only larger."
    )
    return Part({"use": "auto", "weight": 2.0}, why + " `tune` finds a better weight." * tuned)


def noise_scheduler() -> Part:
    """Return how latents become noise."""
    return Part({"use": "flow"}, "Latents become noise along straight lines.")


def timestep_weighting() -> Part:
    """Return which times are trained."""
    return Part({"use": "logit_normal"}, "The middle of the way is trained most: it is the hardest part.")


def loss_backbone(computer: Computer, size: Size, channels: int) -> str | None:
    """Return the network that the autoencoder's reconstructions are compared in, if one is here."""
    fits = channels != 4 and min(size) >= LEAST_FOR_FEATURES
    here = (name for name in LOSS_BACKBONES[computer.gpu] if name in computer.weights)
    return next(here, None) if fits else None


def first(computer: Computer, size: Size, data: Table) -> Part:
    """Return the training of the autoencoder."""
    table: Table = {"use": "train_autoencoder", "batch_size": 64 if computer.gpu else 32}
    why = "The autoencoder learns to write images as latents, and to read them back."
    table["losses"] = [{"use": "l1", "weight": 0.5}, {"use": "l2"}]
    if backbone := loss_backbone(computer, size, data["channels"]):
        table["losses"].append({"use": "lpips", "backbone": backbone, "weight": 0.5})
        why += (
            f" The published weights of {backbone} are on this computer: lpips compares reconstructions in "
            "its features, nearer to how people see. On another computer they are fetched, or leave it out."
        )
    if min(size) >= LEAST_FOR_DISCRIMINATOR:
        table["adversarial"] = {"use": "hinge", "weight": 0.002}
    lr = 3e-4 if computer.gpu else 2e-3
    table["optimizer"] = {"use": "adamw", "lr": lr, "weight_decay": 1e-4}
    return Part(table, why)


def second(folder: FolderSummary, computer: Computer) -> Part:
    """Return the training of the denoiser."""
    table: Table = {"use": "train_diffusion", "batch_size": 256}
    why = "The denoiser learns to make latents out of noise."
    instead: list[str] = []
    if folder.count < MANY:
        table["held_out"] = 0.1 if folder.count < FEW else 0.05
        why += (
            " It meets each image many times: some are held out, and the report shows whether it learns the "
            "others by heart."
        )
        instead = [
            'checkpoint = "best"  # the weights before that: samples are less like images, and less finished'
        ]
    table["optimizer"] = {"use": "adamw", "lr": 3e-4 if computer.gpu else 1.5e-3}
    table["lr_schedule"] = {"use": "cosine", "warmup": 50}
    return Part(table, why, instead)


def sampler() -> Part:
    """Return how noise becomes latents."""
    return Part({"use": "heun", "steps": 10, "shift": 0.7})


def tune(size: Size, data: Table) -> Part:
    """Return what chooses the guidance's weight; nothing where no metric of samples can be had."""
    if not _has_features(size, data):
        return Part({})
    metric = {"use": "frechet", "backbone": RANDOM_BACKBONE}
    return Part(
        {"use": "tune", "metric": metric, "weights": WEIGHTS, "compare_with": "all"},
        "Finds how strongly samples are led: some are drawn with each weight, and compared with training "
        "images in features of a network that was never trained. Too much or little contrast shows.",
    )


def samples() -> Part:
    """Return what draws samples."""
    return Part({"use": "sample"}, "New images; `uldm sample` draws more of them when the run is done.")


def _has_features(size: Size, data: Table) -> bool:
    return data["channels"] != 4 and min(size) >= LEAST_FOR_FEATURES


def scores(folder: FolderSummary, computer: Computer, size: Size, data: Table, networks: Table) -> Part:
    """Return metrics, none of which needs published weights that are not here."""
    metrics: list[Any] = ["psnr", *(["ssim"] if min(size) >= LEAST_FOR_SSIM else [])]
    why = ["psnr, ssim: how near reconstructions come to images."]
    if "quantizer" in networks:
        metrics.append("codebook_usage")
    if 4 * folder.count * data["channels"] * math.prod(size) < computer.memory / 4:
        metrics.append({"use": "nearest_neighbour", "count": 500})
        why.append("copies: above 0.05, samples repeat images that were trained on.")
    if _has_features(size, data):
        likeness = _likeness(computer, loss_backbone(computer, size, data["channels"]))
        metrics += likeness.table["metrics"]
        why.append(likeness.why)
    return Part({"use": "evaluate", "metrics": metrics}, " ".join(why))


def _likeness(computer: Computer, trained_on: str | None) -> Part:
    """Return metrics of samples in the features of a network, not the one that a loss is trained on."""
    names = (name for name in METRIC_BACKBONES[computer.gpu] if name in computer.weights - {trained_on})
    published = next(names, None)
    backbone = published or RANDOM_BACKBONE
    metrics: list[Table] = [
        {"use": name, "backbone": backbone, "count": 1000}
        for name in ("density_coverage", "precision_recall")
    ]
    if published:
        why = (
            f"The others compare samples with images in features of {published}, whose published weights are "
            "on this computer. Compare them with their floor; frechet of few samples is too high."
        )
        return Part({"metrics": [{"use": "frechet", "backbone": published}, *metrics]}, why)
    why = (
        "The others compare samples with images in features of a network that was never trained: none "
        "need be fetched. They notice blur, odd colours and lack of variety, but not whether things can "
        "be recognised. Compare them with their floor, and with runs of this recipe only."
    )
    return Part({"metrics": metrics}, why)
