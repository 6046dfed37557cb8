"""The kinds of component, and which of their options follow from other nouns of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from attrs import field, frozen

from uldm_core.errors import must_match


@frozen
class InferredOption:
    """An option whose value follows from other nouns: ``derive(*nouns)`` gives it."""

    components: tuple[str, ...]
    derive: Callable[..., Any]
    says: str


@frozen(eq=False)
class Kind:
    """A kind of component: its name, the protocol it keeps, what it takes from its surroundings.

    Args:
        name: as written in recipes and on the command line.
        protocol: ``"module:Class"``; an option annotated with this class takes a component of this kind.
        summary: one line for listings.
        takes: options that are filled in from the recipe's nouns.
        verb: a stage; its component options are the recipe's nouns of the same name.
        listed: where recipes list its components, ``"run.trackers"`` say, if they are no nouns.
        checks: ``"module:attribute"`` of the ``Contract`` its components are held to.
    """

    name: str = field(validator=must_match(r"[a-z][a-z0-9_]*", "noise_scheduler"))
    protocol: str = field(validator=must_match(r"[\w.]+:\w+", "module:Class"))
    summary: str
    inferred: Mapping[str, InferredOption] = field(factory=dict)
    verb: bool = False
    listed: str = ""
    checks: str = ""

    @property
    def top_level(self) -> bool:
        """Whether a table at a recipe's top may be of this kind."""
        return not self.verb and not self.listed

    def load_protocol(self) -> type:
        """Import and return the protocol class."""
        module, _, attribute = self.protocol.partition(":")
        protocol: type = getattr(import_module(module), attribute)
        return protocol


_IN_CHANNELS = InferredOption(("dataset",), lambda dataset: dataset.channels, "dataset.channels")
_IMAGE_SIZE = InferredOption(("dataset",), lambda dataset: dataset.size, "dataset.size")
_LATENT_CHANNELS = InferredOption(
    ("autoencoder",), lambda autoencoder: autoencoder.latent_channels, "autoencoder.latent_channels"
)
_AUTOENCODER = InferredOption(("autoencoder",), lambda autoencoder: autoencoder, "the recipe's autoencoder")
_LATENT_SIZE = InferredOption(
    ("dataset", "autoencoder"),
    lambda dataset, autoencoder: latent_size(dataset.size, autoencoder.downscale),
    "dataset.size / autoencoder.downscale",
)


def latent_size(size: int, downscale: int) -> int:
    """Return the side of the latents of images of a side: the quotient, rounded up."""
    return -(-size // downscale)


def _kind(name: str, protocol: str, summary: str, **more: Any) -> Kind:
    checks = f"uldm_core.testing.checks.{name}:contract"
    return Kind(name, f"uldm_core.protocols:{protocol}", summary, checks=checks, **more)


BUILTIN_KINDS = (
    _kind("dataset", "Dataset", "images by index"),
    _kind("backbone", "Backbone", "a frozen feature network"),
    _kind(
        "autoencoder",
        "Autoencoder",
        "images to latents and back",
        inferred={"in_channels": _IN_CHANNELS, "size": _IMAGE_SIZE},
    ),
    _kind("quantizer", "Quantizer", "latents to codes of a codebook"),
    _kind(
        "discriminator",
        "Discriminator",
        "real or fake, a logit a patch",
        inferred={"in_channels": _IN_CHANNELS},
    ),
    _kind("loss", "Loss", "prediction and target to a scalar"),
    _kind("adversarial_loss", "AdversarialLoss", "the two sides of a GAN loss"),
    _kind("noise_scheduler", "NoiseScheduler", "the forward process and what is predicted"),
    _kind(
        "latent_scaling",
        "LatentScaling",
        "latents to unit variance and back",
        inferred={"channels": _LATENT_CHANNELS},
    ),
    _kind("timestep_weighting", "TimestepWeighting", "which times are trained, and how much each counts"),
    _kind(
        "denoiser",
        "Denoiser",
        "noisy latents and time to a prediction",
        inferred={"channels": _LATENT_CHANNELS, "size": _LATENT_SIZE},
    ),
    _kind("sampler", "Sampler", "noise to latents"),
    _kind("metric", "Metric", "images to numbers", inferred={"autoencoder": _AUTOENCODER}),
    _kind("optimizer", "Optimizer", "updates parameters"),
    _kind("lr_schedule", "LRSchedule", "the learning rate's factor at each step"),
    _kind("stage", "Stage", "a verb of a recipe", verb=True),
    _kind("tracker", "Tracker", "is told of a run while it goes on", listed="run.trackers"),
)
