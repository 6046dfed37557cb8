"""What numbers mean, for a newcomer: of those that the built-in components log and measure."""

from __future__ import annotations

from attrs import frozen

SCALARS = {
    "distance": "How far reconstructions are from their images, all losses of the recipe added up. "
    "Falls fast, then slowly; if it stays high, the autoencoder is too small or has had too few steps.",
    "generator": "The autoencoder's part of the GAN game: the lower, the more reconstructions pass for real.",
    "discriminator": "The discriminator's part: near its first value it distinguishes nothing, "
    "near 0 it always can. The two should hover against each other, neither running away.",
    "commitment": "How far the encoder's vectors are from their codes. "
    "Small and steady is good; growing without end means that the codebook does not follow.",
    "codebook": "How far codes are from the vectors they replace. Should fall and stay low.",
    "kl": "How much latents differ from plain noise. Rises at first, then settles.",
    "entropy": "Low where codes are used evenly and chosen clearly.",
    "held_out_loss": "How wrong the averaged weights are on images that are held out of the training, and on "
    "as many that are trained. Both should fall; where only the second does, the denoiser memorises.",
    "held_out_loss_": "The loss of one average of the weights on images that were held out of the training. "
    "The average with the least is the one that samples are drawn with.",
    "held_out_": "Of samples that are drawn on the way, against images that are held out of the training.",
    "images_per_second": "Speed. Steady is good; dips are other work on the computer.",
}
"""What a logged number is, by its name."""

LOSSES = {
    "train_diffusion": "How wrong the denoiser's guesses are, squared. Falls fast, then very slowly, "
    "and never to 0: noise cannot be guessed in full. Samples get better long after it looks flat.",
    "train_classifier": "How wrong the classifier is. Falls towards 0.",
}
"""What ``loss`` is, by the stage's component."""


@frozen
class MetricLabel:
    """What a measured number is.

    Args:
        better: ``lower`` or ``higher``; empty where neither is.
        description: what it is.
    """

    better: str
    description: str


_FRECHET = "how far images are from the test set as a whole, in a network's features; 0 is no difference"
METRICS = {
    "frechet_mnist": MetricLabel("lower", _FRECHET),
    "frechet": MetricLabel("lower", _FRECHET),
    "fid": MetricLabel("lower", _FRECHET),
    "kid": MetricLabel("lower", "like a Fréchet distance, and fair to few samples; 0 is perfect"),
    "precision": MetricLabel("higher", "share of samples that look like real images: fidelity"),
    "recall": MetricLabel("higher", "share of real images that the samples come near: variety"),
    "density": MetricLabel("higher", "like precision, less moved by outliers"),
    "coverage": MetricLabel("higher", "like recall, less moved by outliers"),
    "nearest_neighbour": MetricLabel(
        "", "mean distance to the nearest training image; far below the floor is copying"
    ),
    "nearest_neighbour_min": MetricLabel("", "the smallest of these distances"),
    "copies": MetricLabel(
        "",
        "share of images as near to a training image as 1% of the test images are; far above 0.01 is copying",
    ),
    "psnr": MetricLabel("higher", "nearness of reconstructions to their images, in decibels"),
    "ssim": MetricLabel("higher", "likeness of reconstructions in structure; 1 is the same image"),
    "lpips": MetricLabel("lower", "how different reconstructions look to a network; 0 is the same image"),
    "smallest_class": MetricLabel("", "share of the rarest class; should be near the originals'"),
    "largest_class": MetricLabel("", "share of the commonest class; should be near the originals'"),
    "used_codes": MetricLabel("higher", "codes that occur at all"),
    "used_share": MetricLabel("higher", "share of the codes that occur at all"),
    "perplexity": MetricLabel("higher", "how many codes, used evenly, would be as varied as these"),
}
"""What a measured number is, by its name."""

STAGES = {
    "train_autoencoder": "learns to shrink images to latents and back",
    "train_diffusion": "learns to make latents out of noise",
    "train_classifier": "learns to classify images",
    "tune": "chooses how samples are drawn",
    "sample": "draws new images",
    "evaluate": "measures what came of it",
}
"""What a stage does, by its component."""


CLASSES = "Classes are those of the recipe's condition."
CONDITIONS = {
    "clusters": "Classes are clusters: groups of training images that are alike, found without any label.",
    "labels": "Classes are the dataset's own.",
}
"""What the classes of a condition are."""


def scalar_label(use: str, name: str) -> str:
    """Return what a number that a stage logs is, or an empty string if it is unknown."""
    family = next((known for known in SCALARS if known.endswith("_") and name.startswith(known)), name)
    return LOSSES.get(use, "") if name == "loss" else SCALARS.get(name, SCALARS.get(family, ""))
