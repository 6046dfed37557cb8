"""What each kind of component promises: one protocol a kind, and small ones for what is optional.

Optional members are asked for by ``isinstance``.

Images are float tensors [B, C, H, W] in [-1, 1] unless said. Time ``t`` is a float tensor [B] in
[0, 1], where 0 is data and 1 is noise. ``losses`` are dicts of name to scalar tensor, already weighted.
Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import frozen

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Generator, Tensor
    from torch.nn import Module, Parameter
    from typing_extensions import TypeIs  # of the type checker alone

Denoise = Callable[["Tensor", "Tensor"], "Tensor"]
"""``(latents [B, C, H, W], t [B]) -> prediction`` in the noise scheduler's own prediction type."""


if TYPE_CHECKING:
    from abc import ABCMeta as _ProtocolMeta
else:
    _ProtocolMeta = type(Protocol)


class _ByName(_ProtocolMeta):
    """Has ``isinstance`` look members up as code does that uses them.

    From Python 3.12 on it else overlooks a module's submodules and parameters, and whatever else
    ``__getattr__`` gives.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        names = {name for base in cls.__mro__ for name in (*vars(base), *get_annotations(base))}
        return all(hasattr(instance, name) for name in names if not name.startswith("_"))


class _Optional(Protocol, metaclass=_ByName):
    """What a component may have beside the members of its kind."""


@runtime_checkable
class Stateful(Protocol):
    """Has a state that is saved and loaded: tensors, numbers, texts, and dicts and lists of these."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@runtime_checkable
class Network(Stateful, Protocol):
    """What stages call on a network that they train or use; every ``torch.nn.Module`` has it."""

    training: bool

    def parameters(self) -> Iterator[Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def modules(self) -> Iterator[Module]: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


@runtime_checkable
class HasSmallestSize(_Optional, Protocol):
    """Declares the least height and width of images that it takes; smaller ones raise ``ValueError``."""

    smallest_size: int


@runtime_checkable
class Dataset(Protocol):
    """Images by index, uint8, any access order.

    An index is one image, whatever is asked with it, in every instance and process: files are sorted. Images
    belong to who asked for them. ``size`` is the images' side.

    Optional: ``HasLabels``, ``Fingerprinted``, ``HasLeftOut``. A dataset without a fingerprint is known by
    its class, options and length.
    """

    channels: int
    size: int
    splits: Sequence[str]

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices`` (int64 [B], B >= 1, each 0 to N - 1) as uint8 [B, C, H, W]."""
        ...

    def split(self, name: str) -> Dataset:
        """Return the named split, one of ``splits``; this one, and others, stay as they are."""
        ...


@runtime_checkable
class HasLabels(_Optional, Protocol):
    """A dataset with a class for each image: int64 [N], each >= 0."""

    labels: Tensor


@runtime_checkable
class Fingerprinted(_Optional, Protocol):
    """A dataset with a string that changes with its content, and with nothing else.

    Neither the process counts, nor where files lie or when they were written.
    """

    fingerprint: str


@runtime_checkable
class HasLeftOut(_Optional, Protocol):
    """A dataset that does not use some files: their names, relative to its folder, and why."""

    left_out: Mapping[str, str]


@runtime_checkable
class Backbone(Network, Protocol):
    """A frozen feature network: images -> feature maps, finest first.

    It scales its own input, [-1, 1], and takes grey images, and those that are odd or not square. No
    parameter requires grad; train mode changes nothing. It is used with gradients and without, by turns.
    Images of a size that it cannot take raise ``ValueError``.

    Optional: ``HasSmallestSize``, ``HasLogits``, ``Thawable``, ``HasPublishedHeads``.
    """

    channels: Sequence[int]

    def __call__(self, images: Tensor, /) -> tuple[Tensor, ...]: ...


@runtime_checkable
class HasLogits(_Optional, Protocol):
    """A backbone that classifies: images -> logits [B, classes]."""

    def logits(self, images: Tensor, /) -> Tensor: ...


@runtime_checkable
class Thawable(_Optional, Protocol):
    """A backbone that can be trained: ``thaw`` makes it an ordinary network, ``freeze`` ends that."""

    def thaw(self) -> Any: ...

    def freeze(self) -> Any: ...


@runtime_checkable
class HasPublishedHeads(_Optional, Protocol):
    """A backbone for which LPIPS weights are published: the name that they are filed under."""

    lpips_heads: str


@runtime_checkable
class Autoencoder(Network, Protocol):
    """Images to latents and back. ``latents`` are [B, latent_channels, h, w], h = H / downscale rounded up.

    A size that it cannot bring back is refused with a ``ValueError``. ``decode`` needs nothing but latents,
    which may be a sampler's. ``losses`` are means over the batch; those of eval mode exist in training too.

    Optional: ``Quantized``, ``HasLastLayer``.
    """

    latent_channels: int
    downscale: int

    def encode(self, x: Tensor, /) -> tuple[Tensor, dict[str, Tensor]]: ...

    def decode(self, latents: Tensor, /) -> Tensor: ...

    def __call__(self, x: Tensor, /) -> tuple[Tensor, Tensor, dict[str, Tensor]]: ...


@runtime_checkable
class Quantizer(Network, Protocol):
    """Latents [B, D, H, W] -> (quantized, losses, indices); indices [B, H, W] or [B, Q, H, W].

    Indices are integers in [0, codebook_size), each of another code; ``lookup`` gives the quantized latents
    for them. Gradients pass to the latents; ``losses`` are means. Codes change in training only, and one
    that is in use stays with its latents. Latents may be bfloat16 where the quantizer is float32.
    """

    dim: int
    codebook_size: int

    def lookup(self, indices: Tensor, /) -> Tensor: ...

    def __call__(self, latents: Tensor, /) -> tuple[Tensor, dict[str, Tensor], Tensor]: ...


@runtime_checkable
class HasQuantizer(_Optional, Protocol):
    """An autoencoder that names its quantizer."""

    quantizer: Quantizer


@runtime_checkable
class Quantized(Autoencoder, HasQuantizer, Protocol):
    """An autoencoder whose latents are codes of its quantizer."""

    def encode_with_indices(self, x: Tensor, /) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return what ``encode`` does, and the indices of the codes, [B, h, w] or [B, Q, h, w]."""
        ...


@runtime_checkable
class HasLastLayer(_Optional, Protocol):
    """An autoencoder that names the weight of its decoder's last layer: no other comes after it.

    Adaptive adversarial weights are measured there.
    """

    @property
    def last_layer(self) -> Tensor: ...


@runtime_checkable
class Discriminator(Network, Protocol):
    """Images -> logits [B, 1, h, w], above 0 for real ones; one a patch of ``receptive_field`` pixels.

    ``receptive_field`` counts from the first pixel that a logit sees to the last; images of any shape from
    there up are taken. Logits lie as their patches do; every pixel but for a border reaches one.
    """

    receptive_field: int

    def __call__(self, images: Tensor, /) -> Tensor: ...


@runtime_checkable
class Loss(Protocol):
    """``(prediction, target) -> scalar``; a distance (zero at equality) unless ``distance`` is False.

    It has the images' dtype, is averaged over the batch and over places, and all of an image counts. Images
    are grey or RGB, of any size; those that it cannot take are refused with a ``ValueError``.

    Optional: ``HasSmallestSize``.
    """

    def __call__(self, prediction: Tensor, target: Tensor, /) -> Tensor: ...


@runtime_checkable
class AdversarialLoss(Protocol):
    """The two sides of a GAN loss, both scalar: means over batch and patches, of real and fake apart.

    Neither saturates: at logits of 40 on the wrong side the gradient is no less than near 0.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor, /) -> Tensor: ...

    def generator(self, fake_logits: Tensor, /) -> Tensor: ...


@runtime_checkable
class NoiseScheduler(Protocol):
    """The forward process x_t = alpha(t) x0 + sigma(t) noise, and the meaning of the prediction.

    ``prediction`` is one of ``epsilon``, ``sample``, ``v``, ``flow``, ``edm``. ``timesteps`` is the number
    of discrete steps, or None for continuous time; step k of T is t = k / (T - 1), however that is rounded.
    A prediction that says nothing of data or noise at t = 0 or 1 is refused when it is built.

    All follows from each sample's own time, float32 [B], float32 data and noise give float32, and nothing
    that is given is written into.

    Optional: ``ScalesInput``.
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
class ScalesInput(_Optional, Protocol):
    """A noise scheduler that gives the denoiser x_t in another scale."""

    def scale_input(self, x_t: Tensor, t: Tensor, /) -> Tensor: ...


@runtime_checkable
class LatentScaling(Stateful, Protocol):
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
class Denoiser(Network, Protocol):
    """``(latents [B, C, H, W], conditioning [B]) -> prediction`` of the latents' shape.

    Every value of the prediction follows from the latents, and every latent has a say in it. The noise
    scheduler decides what ``conditioning`` is: steps from 0 to 1,000, or ln(sigma) / 4 from -1.6 to 1.1. A
    denoiser that knows one of them only raises an error at the other, and does not take its times for one.
    """

    def __call__(self, latents: Tensor, conditioning: Tensor, /) -> Tensor: ...


@runtime_checkable
class Metric(Protocol):
    """Accumulates batches of uint8 images and gives a dict of floats.

    ``update(images, real=...)`` is called any number of times, then ``compute()``; fake images may come
    after that as well. How the images are cut into batches does not change the result, nor does their order
    (but for what draws parts of a set, seeded), nor whether real or fake ones come first. One that
    ``compares`` needs real images as well, and not as many of them, unless it is ``paired``; one that does
    not is given none.

    Images are grey or RGB, of any size, on the CPU. What it cannot measure, of so few images or so small
    ones, is refused with a ``ValueError``, in ``update`` or in ``compute``; its numbers are finite. An
    autoencoder that it is given is used in eval mode, and left in the mode that it was in.

    Optional: ``Paired``, ``HasReference``, ``HasBackbone``, ``HasSmallestSize``; ``higher_is_better`` (of all
    its numbers, or a dict that says so of each that has a direction); ``smallest_count`` (the least number of
    images of each side).
    """

    compares: bool
    description: Mapping[str, str]

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real ones."""
        ...

    def update(self, images: Tensor, /, *, real: bool) -> None: ...

    def compute(self) -> dict[str, float]: ...


@runtime_checkable
class Paired(_Optional, Protocol):
    """A metric of pairs, if ``paired`` is true: fake image i belongs to real image i."""

    paired: bool


@runtime_checkable
class HasReference(_Optional, Protocol):
    """A metric that names the split its real images are taken from, where that is not ``test``."""

    reference: str


@runtime_checkable
class HasBackbone(_Optional, Protocol):
    """A metric that measures in a backbone's features."""

    backbone: Backbone


@runtime_checkable
class Optimizer(Stateful, Protocol):
    """A torch optimizer: built by its owner from parameters of any shape, scalars too; see ``Partial``.

    Each of ``param_groups`` obeys its own ``lr``, which changes between steps. A parameter whose ``grad``
    is None stays as it is. Gradients of zero leave all finite and let nothing grow. ``state_dict`` holds
    tensors, numbers, texts, and dicts and lists of these: what a checkpoint keeps.
    """

    param_groups: list[dict[str, Any]]

    def step(self) -> Any: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...


@runtime_checkable
class LRSchedule(Protocol):
    """``step -> factor`` of the learning rate, >= 0. Built by its owner from the number of steps.

    It is asked for steps from 0 to the number less one, in any order; the factor, a Python float, follows
    from the step alone.
    """

    def __call__(self, step: int, /) -> float: ...


class Context(Protocol):
    """What the engine gives a stage for its work.

    ``name`` is the stage's and ``seed`` the run's; tensors belong on ``device``; ``products`` are the
    artifacts of earlier stages, by name. What a stage draws at random comes from ``generator`` and ``batch``.
    """

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def products(self) -> Mapping[str, Path]: ...

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a network's forward pass: it multiplies in the run's precision."""
        ...

    def generator(self, *path: str | int) -> Generator:
        """Return a CPU generator that is seeded by the run's seed, the stage's name and ``path``."""
        ...

    def batch(self, size: int, batch_size: int, step: int) -> Tensor:
        """Return the indices of a step's batch, int64 [batch_size], each from 0 to ``size`` - 1."""
        ...

    def artifact(self, name: str) -> Path:
        """Return where to write an artifact of this stage; its folder exists."""
        ...

    def publish(self, name: str) -> None:
        """Copy an artifact to the top of the run's folder."""
        ...

    def show(self, name: str, images: Tensor, step: int = 0) -> None:
        """Pass images to the trackers, uint8 [N, C, H, W]."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass measured values to the trackers."""
        ...

    def message(self, text: str) -> None:
        """Show a line to whoever started the run."""
        ...

    def begin(self, doing: str, total: int, done: int = 0) -> None:
        """Report that ``done`` of ``total`` steps or images of some work are done."""
        ...

    def advance(self, done: int) -> None:
        """Report progress; raises ``Interrupted`` if the run is to stop."""
        ...

    def check_stop(self) -> None:
        """Raise ``Interrupted`` if the run is to stop."""
        ...


@runtime_checkable
class Stage(Protocol):
    """A step of a recipe: a ``Trainer``, which has ``step``, or an ``OneShotStage``, which has ``run``.

    ``trains`` are the options whose components it trains; ``makes`` and ``needs`` name artifacts that
    pass from an earlier stage to a later one. What it trains is in training mode meanwhile, all else in eval
    mode and unchanged; components come in either mode. It writes into the run's folder only. A summary is
    a dict of Python numbers.

    Optional: ``ReadsSplits``. A stage without it depends on all splits.
    """

    trains: Sequence[str]
    makes: Sequence[str]
    needs: Sequence[str]


@runtime_checkable
class ReadsSplits(_Optional, Protocol):
    """A stage that names the splits of its dataset that its result depends on, ``("train", "test")`` say.

    It is done again when one of them changes. ``()`` reads no images, only their shape; any other also reads
    the dataset as it is given. What a preview shows does not count.
    """

    reads: Sequence[str]


@runtime_checkable
class OneShotStage(Stage, Protocol):
    """A stage that runs in one go."""

    def run(self, context: Context, /) -> Mapping[str, float]: ...


@runtime_checkable
class Trainer(Stage, Protocol):
    """A stage done step by step; the engine keeps the loop, the checkpoints and the logs.

    ``step`` returns scalar tensors without graphs, which are read only when they are logged; their names may
    come and go. Its random numbers are derived from the step: torch's generator is seeded for each, and
    ``context.generator(step)`` is another. ``stateful`` names every object whose ``state_dict`` a resumed run
    needs: tensors, numbers, texts, and dicts and lists of these. ``finish`` leaves in the trained components
    what later stages shall get (with an option ``ema_decay`` the average of the weights), under the names
    that a component built anew has.

    Optional: ``Previewing``, ``Adjustable``.

    ``step`` begins with its images; ``DataError`` says that the dataset could not give them and that nothing
    of the step is done.
    """

    steps: int
    batch_size: int

    def prepare(self, context: Context, /) -> None: ...

    def step(self, step: int, context: Context, /) -> Mapping[str, Tensor]: ...

    def stateful(self) -> Mapping[str, Any]: ...

    def finish(self, context: Context, /) -> Mapping[str, float]: ...


@runtime_checkable
class _HasStep(Protocol):
    def step(self, *args: Any) -> Any: ...


def is_trainer(stage: object) -> TypeIs[Trainer]:
    """Whether a stage, or a stage's class, is a trainer rather than one that runs in one go."""
    return issubclass(stage if isinstance(stage, type) else type(stage), _HasStep)


@runtime_checkable
class Previewing(_Optional, Protocol):
    """A trainer that shows what it has come to.

    ``previews`` is how often over the whole training, ``preview(step, context)`` does so by
    ``context.show``. It leaves everything as it was; its own random numbers are its affair. Options whose
    names begin with ``preview`` do not count in the stage's content key.
    """

    if TYPE_CHECKING:  # so that a class can be asked as well
        previews: int

    def preview(self, step: int, context: Context, /) -> None: ...


@runtime_checkable
class Adjustable(_Optional, Protocol):
    """A trainer with options whose numbers may change in mid-training (``optimizer``, say).

    A training that is not done resumes from its checkpoint with their new values, so what ``stateful`` loads
    must not bring back the old ones.
    """

    adjustable: Sequence[str]


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
    what was told behind that step is void and comes again; what was told before it is kept. A stage without
    steps has a ``total`` of 0. Names of values are any text, with slashes in it; values any Python numbers,
    nan and infinity too. After ``end`` all is written, and nothing runs on.
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
