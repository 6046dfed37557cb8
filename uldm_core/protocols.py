"""What each kind of component promises: one Protocol a kind.

Images are float tensors [B, C, H, W] in [-1, 1] unless said. Time ``t`` is a float tensor [B] in
[0, 1], where 0 is data and 1 is noise. ``losses`` are dicts of name to scalar tensor, already weighted.
Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import frozen

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uldm_core.engine.context import Context

Denoise = Callable[["Tensor", "Tensor"], "Tensor"]
"""``(latents [B, C, H, W], t [B]) -> prediction`` in the noise scheduler's own prediction type."""


@runtime_checkable
class Dataset(Protocol):
    """Images by index, uint8, any access order.

    ``labels`` (int64 [N]) and ``fingerprint`` (a string that changes with the content, and with nothing
    else) are optional, and so is ``left_out``, a dict of the files that are not used: their names, relative
    to the dataset's folder, and why.
    """

    channels: int
    size: int
    splits: Sequence[str]

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices`` (int64 [B]) as uint8 [B, C, H, W]."""
        ...

    def split(self, name: str) -> Dataset:
        """Return the named split, one of ``splits``."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A frozen feature network: images -> feature maps, finest first.

    It scales its own input and takes grey images. No parameter requires grad; train mode changes nothing.
    ``smallest_size``, the least height and width it takes, is optional: smaller images are refused with a
    ``ValueError``.
    """

    channels: Sequence[int]

    def __call__(self, images: Tensor, /) -> tuple[Tensor, ...]: ...


@runtime_checkable
class Autoencoder(Protocol):
    """Images to latents and back. ``latents`` are [B, latent_channels, h, w], h = H / downscale rounded up.

    A size that it cannot bring back is refused with a ``ValueError``.
    A vector-quantized one also has ``encode_with_indices(x) -> (latents, losses, indices)``. ``last_layer``,
    the weight of the decoder's last layer, is optional: adaptive adversarial weights are measured there.
    """

    latent_channels: int
    downscale: int

    def encode(self, x: Tensor, /) -> tuple[Tensor, dict[str, Tensor]]: ...

    def decode(self, latents: Tensor, /) -> Tensor: ...

    def __call__(self, x: Tensor, /) -> tuple[Tensor, Tensor, dict[str, Tensor]]: ...


@runtime_checkable
class Quantizer(Protocol):
    """Latents [B, D, H, W] -> (quantized, losses, indices); indices [B, H, W] or [B, Q, H, W]."""

    dim: int
    codebook_size: int

    def lookup(self, indices: Tensor, /) -> Tensor: ...

    def __call__(self, latents: Tensor, /) -> tuple[Tensor, dict[str, Tensor], Tensor]: ...


@runtime_checkable
class Discriminator(Protocol):
    """Images -> logits [B, 1, h, w], one a patch of ``receptive_field`` pixels."""

    receptive_field: int

    def __call__(self, images: Tensor, /) -> Tensor: ...


@runtime_checkable
class Loss(Protocol):
    """``(prediction, target) -> scalar``; a distance (zero at equality) unless ``distance`` is False."""

    def __call__(self, prediction: Tensor, target: Tensor, /) -> Tensor: ...


@runtime_checkable
class AdversarialLoss(Protocol):
    """The two sides of a GAN loss, both scalar."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor, /) -> Tensor: ...

    def generator(self, fake_logits: Tensor, /) -> Tensor: ...


@runtime_checkable
class NoiseScheduler(Protocol):
    """The forward process x_t = alpha(t) x0 + sigma(t) noise, and the meaning of the prediction.

    ``prediction`` is one of ``epsilon``, ``sample``, ``v``, ``flow``, ``edm``. ``timesteps`` is the number
    of discrete steps, or None for continuous time; step k of T is t = k / (T - 1), however that is rounded.
    A prediction that says nothing of data or noise at t = 0 or 1 is refused when it is built.
    ``scale_input(x_t, t)``, what the denoiser is given of x_t, is optional.

    All follows from each sample's own time, float32 [B], float32 data and noise give float32, and nothing
    that is given is written into.
    """

    prediction: str
    timesteps: int | None

    def coefficients(self, t: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return ``(alpha, sigma)``, each [B]; finite, >= 0, alpha / sigma strictly falling in t.

        t = 0 is nearly data (the first of few timesteps need not be), t = 1 nearly noise.
        """
        ...

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor, /) -> Tensor: ...

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, /) -> Tensor: ...

    def snr(self, t: Tensor, /) -> Tensor: ...

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction implies them, finite for t in [0, 1]."""
        ...

    def conditioning(self, t: Tensor, /) -> Tensor:
        """Return what the denoiser is told of the time, [B]: finite, and another number for each time.

        On the scale of 1,000 timesteps, or anything else, log-SNR say: it need not rise.
        """
        ...


@runtime_checkable
class LatentScaling(Protocol):
    """The affine map between an autoencoder's latents and what the denoiser sees (unit variance).

    ``fit`` reads the batches once, of any sizes, and forgets what it was fitted to before. A constant channel
    stays finite. What it was fitted to is in ``state_dict()``, as tensors, and ``load_state_dict`` restores
    it: a module has both. float32 latents stay float32, and none are written into.
    """

    def fit(self, batches: Iterable[Tensor], /) -> None: ...

    def normalize(self, latents: Tensor, /) -> Tensor: ...

    def denormalize(self, latents: Tensor, /) -> Tensor: ...


@runtime_checkable
class TimestepWeighting(Protocol):
    """Which times are trained, and how much each counts.

    ``sample`` returns n floats in [0, 1] that the generator alone decides; no place in the batch is noisier
    on the whole. ``weight`` is finite, >= 0, one a time, and follows from that time alone; a process or
    prediction that it has no weights for is refused with a ``ValueError``.
    """

    def sample(self, n: int, generator: Generator, /) -> Tensor: ...

    def weight(self, t: Tensor, noise_scheduler: NoiseScheduler, /) -> Tensor: ...


@runtime_checkable
class Sampler(Protocol):
    """Turns noise [B, C, H, W] into latents of the same shape by calling ``denoise`` a number of times.

    The noise has unit variance; on a process that lets the variance grow it starts from the noise times the
    deviation at t = 1. One that cannot sample a process, or not in so many steps, raises ``ValueError``.

    Fresh noise comes from the generator, which is on the CPU, and is fresh in every value. Each latent comes
    out as if it were alone, with gradients on, off or in inference mode. The denoiser is given latents of the
    noise's dtype and a float time for each.
    """

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator, /
    ) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """``(latents [B, C, H, W], conditioning [B]) -> prediction`` of the latents' shape.

    Every value of the prediction follows from the latents, and every latent has a say in it. The noise
    scheduler decides what ``conditioning`` is: steps from 0 to 1,000, or ln(sigma) / 4 from -1.6 to 1.1. A
    denoiser that knows one of them only raises an error at the other, and does not take its times for one.
    """

    def __call__(self, latents: Tensor, conditioning: Tensor, /) -> Tensor: ...


@runtime_checkable
class Metric(Protocol):
    """Accumulates batches of uint8 images and gives a dict of floats.

    ``update(images, real=...)`` is called any number of times, then ``compute()``. How the images are
    cut into batches does not change the result. One that ``compares`` needs real images as well.

    Optional: ``paired`` (fake image i belongs to real image i), ``reference`` (the split that real images
    are taken from, ``test`` unless said), ``higher_is_better``.
    """

    compares: bool
    description: Mapping[str, str]

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real ones."""
        ...

    def update(self, images: Tensor, /, *, real: bool) -> None: ...

    def compute(self) -> dict[str, float]: ...


@runtime_checkable
class Optimizer(Protocol):
    """A torch optimizer: built by its owner from parameters, see ``Factory``."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@runtime_checkable
class LRSchedule(Protocol):
    """``step -> factor`` of the learning rate, >= 0. Built by its owner from the number of steps."""

    def __call__(self, step: int, /) -> float: ...


@runtime_checkable
class Stage(Protocol):
    """A verb of a recipe. ``run`` does it; a stage with ``step`` is a ``Trainer`` and has no ``run``.

    ``trains`` are the options whose components it trains; ``makes`` and ``needs`` name artifacts that
    pass from an earlier stage to a later one.
    """

    trains: Sequence[str]
    makes: Sequence[str]
    needs: Sequence[str]


@runtime_checkable
class Verb(Stage, Protocol):
    """A stage that is done in one go."""

    def run(self, context: Context, /) -> Mapping[str, float]: ...


@runtime_checkable
class Trainer(Stage, Protocol):
    """A stage done step by step; the engine keeps the loop, the checkpoints and the logs.

    ``step`` returns scalar tensors, which are read only when they are logged. ``stateful`` names every
    object whose ``state_dict`` a resumed run needs. ``finish`` leaves in the trained components what
    later stages shall get (the average of the weights, say).

    Optional, together: ``previews``, how often over the whole training to show what it has come to, and
    ``preview(step)``, which does so by ``context.show``. It leaves everything as it was; its own random
    numbers are its affair.

    Optional: ``adjustable``, the options whose numbers may change in mid-training (``optimizer``, say). A
    training that is not done goes on from its checkpoint with their new values, so what ``stateful`` loads
    must not bring back the old ones.

    ``step`` begins with its images; ``DataError`` says that the dataset could not give them and that nothing
    of the step is done.
    """

    steps: int
    batch_size: int

    def prepare(self, context: Context, /) -> None: ...

    def step(self, step: int, /) -> Mapping[str, Tensor]: ...

    def stateful(self) -> Mapping[str, Any]: ...

    def finish(self) -> Mapping[str, float]: ...


@frozen
class RunStart:
    """What a tracker is told of a run that begins, or goes on.

    Args:
        folder: the run's folder, ``runs/<name>``.
        name: the folder's name.
        recipe: resolved, as nested dicts, lists, strings, numbers and booleans.
        stages: the names of its stages, in order.
        command: how it was started; empty if from Python.
    """

    folder: Path
    name: str
    recipe: Mapping[str, Any]
    stages: Sequence[str]
    command: str = ""


@runtime_checkable
class Tracker(Protocol):
    """Is told of a run while it goes on.

    It never disturbs the run: what fails in it is said once as a warning, and the run goes on without it.
    Of a stage that is done already it hears nothing. ``stage`` at a step above 0 goes on from a checkpoint:
    what was told behind that step is void and comes again. A stage without steps has a ``total`` of 0.
    """

    def begin(self, run: RunStart, /) -> None: ...

    def stage(self, name: str, step: int, total: int, /) -> None: ...

    def scalars(self, stage: str, step: int, values: Mapping[str, float], /) -> None: ...

    def images(self, stage: str, step: int, name: str, images: Tensor, /) -> None:
        """Take images to show as a grid of ten a row: uint8 [N, C, H, W] on the CPU; not to be changed."""
        ...

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float], /) -> None: ...

    def end(self, state: str, /) -> None:
        """Take how the run ended: ``done``, ``stopped`` (to be gone on with) or ``failed``."""
        ...
