"""The kinds of component: what each promises, how it is checked and probed, and which options it infers.

Importing this module imports no torch, no protocol, no check and no probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pkgutil import resolve_name
from typing import Any, cast

from attrs import field, frozen

from uldm_core.errors import must_match
from uldm_core.shapes import written_size

_ADDRESS = r"[\w.]+:\w+"


@frozen
class InferredOption:
    """An option whose value follows from other components of a recipe.

    Args:
        derive: gives the value, or None if it does not follow from these; its parameters are named as the
            components that it takes.
        description: where the value is from, ``dataset.channels`` say.
    """

    derive: Callable[..., object]
    description: str

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the components."""
        return tuple(signature(self.derive).parameters)


@frozen(eq=False)
class Kind:
    """A kind of component, in one place: whatever treats kinds differently asks here.

    Args:
        name: as written in recipes and on the command line.
        protocol: ``"module:Class"``; an option annotated with this class takes a component of this kind.
        summary: one line for listings.
        inferred: options that are filled in from the recipe's components.
        stage: its components are a recipe's stages, whose component options are the recipe's components of
            the same name.
        listed: where recipes list its components, ``"run.trackers"`` say, if not in tables at the top.
        checks: ``"module:attribute"`` of the ``Contract`` its components are held to.
        probe: ``"module:function"``, ``(inputs, component, batch) -> output`` on shapes alone, for preflight.
            It raises ``MistakeError`` where a shape does not fit, or the component a ``ValueError``.
        data: its components are data, known by their fingerprint; their shapes stand in before a run.
        numbers: its components are a few numbers: before a run too they are built with their values.
        network: diagrams show its modules level by level.
        learned: a component with trainable weights is of no use before it is trained or loaded.
    """

    name: str = field(validator=must_match(r"[a-z][a-z0-9_]*", "noise_scheduler"))
    protocol: str = field(validator=must_match(_ADDRESS, "module:Class"))
    summary: str
    inferred: Mapping[str, InferredOption] = field(factory=dict)
    stage: bool = False
    listed: str = ""
    checks: str = ""
    probe: str = field(default="", validator=must_match(f"({_ADDRESS})?", "module:function"))
    data: bool = False
    numbers: bool = False
    network: bool = False
    learned: bool = False

    @property
    def top_level(self) -> bool:
        """Whether a table at a recipe's top may be of this kind."""
        return not self.stage and not self.listed

    def load_protocol(self) -> type:
        """Import and return the protocol class."""
        return cast(type, resolve_name(self.protocol))

    def load_probe(self) -> Callable[..., object] | None:
        """Import and return the probe; None without one."""
        return cast("Callable[..., object]", resolve_name(self.probe)) if self.probe else None


def latent_size(size: tuple[int, int], downscale: int) -> tuple[int, int]:
    """Return height and width of the latents of images of a height and width: the quotients, rounded up."""
    height, width = size
    return -(-height // downscale), -(-width // downscale)


_IN_CHANNELS = InferredOption(lambda dataset: dataset.channels, "dataset.channels")
_IMAGE_SIZE = InferredOption(lambda dataset: written_size(dataset.size), "dataset.size")
_AUTOENCODER = InferredOption(lambda autoencoder: autoencoder, "the recipe's autoencoder")
_LATENT_CHANNELS = InferredOption(
    lambda autoencoder: autoencoder.latent_channels, "autoencoder.latent_channels"
)
_LATENT_SIZE = InferredOption(
    lambda dataset, autoencoder: written_size(latent_size(dataset.size, autoencoder.downscale)),
    "dataset.size / autoencoder.downscale",
)
_CLASS_NAMES = InferredOption(lambda dataset: _names_of_classes(dataset), "dataset.class_names")
_CLASSES = InferredOption(lambda condition: condition.classes, "condition.classes")
_AUGMENTATION = InferredOption(
    lambda augmentation: 0 if augmentation.leaks else augmentation.parameters,
    "augmentation.parameters, or 0 if it leaks",
)


def _names_of_classes(dataset: Any) -> list[str] | None:
    """Return the names of a dataset's classes, see ``HasClassNames``; None if it has none."""
    names = getattr(dataset, "class_names", None)
    return None if names is None else list(names)


def _kind(name: str, protocol: str, summary: str, *, probe: str = "", **more: Any) -> Kind:
    probe = f"uldm_core.preflight.probes:{probe}" if probe else ""
    checks = f"uldm_core.testing.checks.{name}:contract"
    return Kind(name, f"uldm_core.protocols:{protocol}", summary, checks=checks, probe=probe, **more)


BUILTIN_KINDS = (
    _kind("dataset", "Dataset", "images by index", probe="show", data=True),
    _kind("backbone", "Backbone", "a frozen feature network", probe="extract", network=True),
    _kind(
        "autoencoder",
        "Autoencoder",
        "images to latents and back",
        inferred={"in_channels": _IN_CHANNELS, "size": _IMAGE_SIZE},
        probe="autoencode",
        network=True,
        learned=True,
    ),
    _kind("quantizer", "Quantizer", "latents to codes of a codebook", probe="quantize"),
    _kind(
        "discriminator",
        "Discriminator",
        "real or fake, a logit a patch",
        inferred={"in_channels": _IN_CHANNELS},
        probe="discriminate",
        network=True,
    ),
    _kind("loss", "Loss", "prediction and target to a scalar", probe="compare"),
    _kind("adversarial_loss", "AdversarialLoss", "the two sides of a GAN loss"),
    _kind("noise_scheduler", "NoiseScheduler", "the forward process and what is predicted", numbers=True),
    _kind(
        "latent_scaling",
        "LatentScaling",
        "latents to unit variance and back",
        inferred={"channels": _LATENT_CHANNELS},
        probe="normalize",
    ),
    _kind(
        "timestep_weighting",
        "TimestepWeighting",
        "which times are trained, and how much each counts",
        numbers=True,
    ),
    _kind("augmentation", "Augmentation", "changed copies of the training images", probe="augment"),
    _kind(
        "condition",
        "Condition",
        "what the denoiser is conditioned on beside the time",
        inferred={"class_names": _CLASS_NAMES},
    ),
    _kind("coupling", "Coupling", "which noise is paired with which latent in training"),
    _kind(
        "denoiser",
        "Denoiser",
        "noisy latents, time and condition to a prediction",
        inferred={
            "channels": _LATENT_CHANNELS,
            "size": _LATENT_SIZE,
            "classes": _CLASSES,
            "augmentation": _AUGMENTATION,
        },
        probe="denoise",
        network=True,
        learned=True,
    ),
    _kind(
        "guidance",
        "Guidance",
        "samples that are led away from those of a worse denoiser",
        inferred={"classes": _CLASSES},
    ),
    _kind("sampler", "Sampler", "noise to latents", probe="sample"),
    _kind("metric", "Metric", "images to numbers", inferred={"autoencoder": _AUTOENCODER}, probe="measure"),
    _kind("optimizer", "Optimizer", "updates parameters"),
    _kind("lr_schedule", "LRSchedule", "the learning rate's factor at each step"),
    _kind("stage", "Stage", "a step of a recipe", stage=True),
    _kind("tracker", "Tracker", "is notified of a run's progress", listed="run.trackers"),
)
