"""What each kind of component promises: one protocol a kind, and small ones for what is optional.

Optional members are asked for by ``isinstance``. A protocol says what its members are called with and return;
what they must keep to beyond that is said, and checked, in ``uldm_core.testing.checks``, a module a kind.

Images are float tensors [B, C, H, W] in [-1, 1] unless noted otherwise. Time ``t`` is a float tensor [B] in
[0, 1], where 0 is data and 1 is noise. ``losses`` are dicts of name to scalar tensor, already weighted.
Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import Factory, field, frozen

if TYPE_CHECKING:
    from abc import ABCMeta as _ProtocolMeta
    from contextlib import AbstractContextManager

    import torch
    from torch import Generator, Tensor
    from torch.nn import Module, Parameter
    from typing_extensions import TypeIs  # of the type checker alone
else:
    _ProtocolMeta = type(Protocol)

Denoise = Callable[["Tensor", "Tensor"], "Tensor"]
"""``(latents [B, C, H, W], t [B]) -> prediction`` in the noise scheduler's own prediction type."""
Predict = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]
"""``(latents [B, C, H, W], t [B], condition [B] or None) -> prediction``, likewise."""


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

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


@runtime_checkable
class Network(Stateful, Protocol):
    """What stages call on a network that they train or use; every ``torch.nn.Module`` has it."""

    training: bool

    def parameters(self) -> Iterator[Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def modules(self) -> Iterator[Module]: ...

    def train(self, mode: bool = True) -> object: ...

    def eval(self) -> object: ...


@runtime_checkable
class HasSmallestSize(_Optional, Protocol):
    """Declares the least height and width of images that it takes; smaller ones raise ``ValueError``."""

    smallest_size: int


def _put(file: RequiredFile) -> str:
    known = f"from {file.url}; its {file.checksum}" if file.checksum else f"from {file.url}"
    unpacked = "" if file.path.name == file.name else f", unpacked as {file.path.name}"
    return f"put {file.name} ({known}) into {file.path.parent}{unpacked}"


@frozen
class RequiredFile:
    """A published file that a component reads, and fetches if it is not there.

    Args:
        name: as it is published.
        path: of the file, or of what it is unpacked into; it is there once the file is.
        url: where it can be had.
        bytes: how large it is, if that is known.
        without: what to do instead, for a message: ``give weights = 'random'``, say.
        checksum: how it is known again, for a message: ``SHA-256 begins with 397923af``, say.
        obstacle: why the component would not fetch it by itself: ``auto_download is off``, say.
        by_hand: what to put where, for a message.
    """

    name: str
    path: Path
    url: str
    bytes: int | None = None
    without: str = ""
    checksum: str = ""
    obstacle: str = ""
    by_hand: str = field(default=Factory(_put, takes_self=True))

    @property
    def hint(self) -> str:
        """What can be done where it is not there."""
        return f"{self.by_hand}, or {self.without}" if self.without else self.by_hand


@runtime_checkable
class NeedsFiles(_Optional, Protocol):
    """A component whose class says which published files it is going to read.

    So that they are looked for before a run, the class is asked, with its options, and not what is built.
    """

    @classmethod
    def required_files(cls, options: Mapping[str, Any], /) -> Sequence[RequiredFile]: ...


@runtime_checkable
class Dataset(Protocol):
    """Images by index, uint8, in any order; an index is one image in every instance and process.

    ``size`` is the images' height and width. Without a fingerprint it is known by class, options and length.

    Optional: ``HasLabels``, ``Fingerprinted``, ``HasLeftOut``, ``HasDuplicates``, ``NeedsFiles``.
    """

    channels: int
    size: tuple[int, int]
    splits: Sequence[str]

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices`` (int64 [B], B >= 1, each 0 to N - 1) as uint8 [B, C, H, W]."""

    def split(self, name: str) -> Dataset:
        """Return the named split, one of ``splits``; this one, and others, stay as they are."""


@runtime_checkable
class KnowsShape(_Optional, Protocol):
    """A dataset whose class says, from its options, the channels and the size of its images.

    It is asked before a run where neither the class nor its options have ``channels`` and ``size``. What it
    cannot read raises ``ValueError`` or ``OSError``.
    """

    @classmethod
    def image_shape(cls, options: Mapping[str, Any], /) -> tuple[int, tuple[int, int]]: ...


@runtime_checkable
class HasLabels(_Optional, Protocol):
    """A dataset with a class for each image: int64 [N], each >= 0."""

    labels: Tensor


@runtime_checkable
class HasClassNames(HasLabels, Protocol):
    """A dataset whose classes have names: label i is ``class_names[i]``, the same in every split."""

    class_names: Sequence[str]


@runtime_checkable
class Prefetches(_Optional, Protocol):
    """A dataset that reads images ahead, while others are used."""

    def prefetch(self, indices: Tensor, /) -> None:
        """Begin to read the images at ``indices``, which are asked for next, or after those before them.

        ``images`` gives the same.
        """


@runtime_checkable
class Fingerprinted(_Optional, Protocol):
    """A dataset with a string that changes with its content only: not with processes, places or times."""

    fingerprint: str


@runtime_checkable
class HasLeftOut(_Optional, Protocol):
    """A dataset that does not use some files: their names, relative to its folder, and why."""

    left_out: Mapping[str, str]


class Duplicates(Protocol):
    """How many test images are training images (``exact``), or look like one (``near``, of ``compared``)."""

    @property
    def exact(self) -> int: ...

    @property
    def near(self) -> int: ...

    @property
    def compared(self) -> int: ...


@runtime_checkable
class HasDuplicates(_Optional, Protocol):
    """A dataset that has looked for its test images among its training images."""

    duplicates: Duplicates


@runtime_checkable
class Augmentation(Protocol):
    """Changed copies of training images: ``(images, parameters) -> images``, each by its own parameters.

    Images are uint8 [B, C, H, W], parameters float [B, ``parameters``] on the images' device; all 0 leaves
    an image as it is. Equal parameters give equal images. If it ``leaks``, samples may look changed as well,
    as those of mirrored images do; else the denoiser is given the parameters in training, and all 0 where
    samples are drawn. Images that it cannot change raise ``ValueError``.

    Source: non-leaking augmentation of Karras et al. 2022 (arXiv 2206.00364), appendix F.2.

    Optional: ``HasVariants``.
    """

    parameters: int
    leaks: bool

    def draw(self, n: int, generator: Generator, /) -> Tensor:
        """Return parameters for n images, float [n, ``parameters``] on the CPU, by the generator alone.

        Of one that does not leak a share is all 0, so that the denoiser learns the images themselves.
        """

    def __call__(self, images: Tensor, parameters: Tensor, /) -> Tensor: ...


@runtime_checkable
class HasVariants(_Optional, Protocol):
    """An augmentation that knows few changes: float [V, parameters], equally likely, the first all 0."""

    variants: Tensor


@runtime_checkable
class Backbone(Network, Protocol):
    """A frozen feature network: images -> feature maps, finest first.

    It scales its own input, [-1, 1], grey or RGB. Images of a size that it cannot take raise ``ValueError``.

    Optional: ``HasSmallestSize``, ``HasLogits``, ``Thawable``, ``NeedsFiles``.
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

    def thaw(self) -> Network: ...

    def freeze(self) -> object: ...


@runtime_checkable
class Autoencoder(Network, Protocol):
    """Images to latents and back. ``latents`` are [B, latent_channels, h, w], h = H / downscale rounded up.

    A size that it cannot bring back raises ``ValueError``. ``losses`` are means over the batch.

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

    Indices are integers in [0, codebook_size); ``lookup`` gives the quantized latents for them. Codes change
    in training only. Latents may be bfloat16 where the quantizer is float32.
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


@runtime_checkable
class HasLastLayer(_Optional, Protocol):
    """An autoencoder that names the weight of its decoder's last layer, for adaptive adversarial weights."""

    @property
    def last_layer(self) -> Tensor: ...


@runtime_checkable
class Discriminator(Network, Protocol):
    """Images -> logits [B, 1, h, w], above 0 for real ones; one a patch of ``receptive_field`` pixels.

    ``receptive_field`` counts from the first pixel that a logit sees to the last.
    """

    receptive_field: int

    def __call__(self, images: Tensor, /) -> Tensor: ...


@runtime_checkable
class Loss(Protocol):
    """``(prediction, target) -> scalar``; a distance (zero at equality) unless ``distance`` is False.

    Images are grey or RGB, of any size; those that it cannot take raise ``ValueError``.

    Optional: ``HasSmallestSize``.
    """

    def __call__(self, prediction: Tensor, target: Tensor, /) -> Tensor: ...


@runtime_checkable
class AdversarialLoss(Protocol):
    """The two sides of a GAN loss, both scalar: means over batch and patches, of real and fake apart."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor, /) -> Tensor: ...

    def generator(self, fake_logits: Tensor, /) -> Tensor: ...


@runtime_checkable
class NoiseScheduler(Protocol):
    """The forward process x_t = alpha(t) x0 + sigma(t) noise, and the meaning of the prediction.

    ``prediction`` is one of ``epsilon``, ``sample``, ``v``, ``flow``, ``edm``. ``timesteps`` is the number
    of discrete steps, or None for continuous time; step k of T is t = k / (T - 1), however that is rounded.
    A prediction that does not determine data and noise at t = 0 or 1 is refused when it is built.

    Optional: ``ScalesInput``.
    """

    prediction: str
    timesteps: int | None

    def coefficients(self, t: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return ``(alpha, sigma)``, each [B]; finite, >= 0, alpha / sigma strictly falling in t."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor, /) -> Tensor: ...

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, /) -> Tensor: ...

    def snr(self, t: Tensor, /) -> Tensor: ...

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction implies them, finite for t in [0, 1]."""

    def conditioning(self, t: Tensor, /) -> Tensor:
        """Return the denoiser's conditioning on the time, [B]: of 1,000 timesteps, or a log-SNR, say."""


@runtime_checkable
class ScalesInput(_Optional, Protocol):
    """A noise scheduler that gives the denoiser x_t in another scale."""

    def scale_input(self, x_t: Tensor, t: Tensor, /) -> Tensor: ...


@runtime_checkable
class LatentScaling(Stateful, Protocol):
    """The affine map between an autoencoder's latents and what the denoiser sees (unit variance).

    ``fit`` reads the batches once, and forgets what it was fitted to before. What it was fitted to is in
    ``state_dict()``, as tensors.
    """

    def fit(self, batches: Iterable[Tensor], /) -> None: ...

    def normalize(self, latents: Tensor, /) -> Tensor: ...

    def denormalize(self, latents: Tensor, /) -> Tensor: ...


@runtime_checkable
class TimestepWeighting(Protocol):
    """Which times are trained, and how much each counts.

    ``sample`` returns n floats in [0, 1] that the generator alone decides; ``weight`` is finite, >= 0, one a
    time. A process or prediction that it has no weights for raises ``ValueError``.
    """

    def sample(self, n: int, generator: Generator, /) -> Tensor: ...

    def weight(self, t: Tensor, noise_scheduler: NoiseScheduler, /) -> Tensor: ...


@runtime_checkable
class Sampler(Protocol):
    """Turns noise [B, C, H, W] into latents of the same shape by calling ``denoise`` a number of times.

    The noise has unit variance; on a process that lets the variance grow it starts from the noise times the
    deviation at t = 1. One that cannot sample a process, or not in so many steps, raises ``ValueError``.
    Fresh noise comes from the generator, which is on the CPU.

    Optional: ``HasSteps``.
    """

    def __call__(
        self, denoise: Denoise, noise_scheduler: NoiseScheduler, noise: Tensor, generator: Generator, /
    ) -> Tensor: ...


@runtime_checkable
class HasSteps(_Optional, Protocol):
    """A sampler with a number of steps: a copy with another number takes that many."""

    steps: int


@runtime_checkable
class Condition(Stateful, Protocol):
    """What the denoiser is conditioned on beside the time: one of ``classes`` classes, of each image.

    The index ``classes`` itself means "no class". What it was fitted to is in ``state_dict()``.

    Optional: ``FitsImages``, ``FitsLabels``, ``NamesClasses``.
    """

    classes: int

    def fit(self, batches: Iterable[Tensor], labels: Tensor | None, /) -> None:
        """Find the class of each image of the training set; what it was fitted to before is forgotten.

        ``batches`` are the normalized latents [B, C, h, w] in the images' order, and can be read several
        times. ``labels`` are the dataset's own, int64 [N], if it has any. What cannot be fitted raises
        ``ValueError``.
        """

    def of(self, indices: Tensor, /) -> Tensor:
        """Return the classes of images of the training set, int64 [B], each from 0 to ``classes`` - 1."""

    def draw(self, n: int, generator: Generator, /) -> Tensor:
        """Return n classes, int64 [n] on the CPU, as frequent as in the training set."""


@runtime_checkable
class FitsImages(_Optional, Protocol):
    """A condition that is fitted to images, if ``fits_images`` is true: float [B, C, H, W] in [-1, 1]."""

    fits_images: bool


@runtime_checkable
class FitsLabels(_Optional, Protocol):
    """A condition that is fitted to the dataset's own labels: asked before a run whether it can be."""

    def check_labels(self, labels: Tensor | None, /) -> None:
        """Raise ``ValueError`` if it cannot be fitted to these labels, int64 [N], or to none."""


@runtime_checkable
class NamesClasses(_Optional, Protocol):
    """A condition whose classes have names, if these are not None: class i is ``class_names[i]``."""

    class_names: Sequence[str] | None


@runtime_checkable
class Coupling(Protocol):
    """Pairs noise with data in training: returns the noise of each latent, [B, C, H, W] both.

    It is a permutation of the noise that it is given, so that each is drawn from the same Gaussian.

    Optional: ``PairsAcrossClasses``.
    """

    def __call__(self, latents: Tensor, noise: Tensor, /) -> Tensor: ...


@runtime_checkable
class PairsAcrossClasses(_Optional, Protocol):
    """A coupling that chooses by the latents, if ``across_classes`` is true: it is no use with a condition.

    Each class would be trained on the noise that is near to it, and drawn from all of the Gaussian.
    """

    across_classes: bool


@runtime_checkable
class Denoiser(Network, Protocol):
    """``(latents [B, C, H, W], time [B], condition [B] or None) -> prediction`` of the latents' shape.

    The noise scheduler decides what ``time`` is: steps from 0 to 1,000, or ln(sigma) / 4 from -1.6 to
    1.1. A denoiser that knows one of them only raises an error at the other. ``condition`` are the classes of
    the recipe's condition, int64; None, like the index one beyond them, means "no class". A denoiser without
    an option ``classes`` is never given any.

    One with an option ``augmentation``, above 0, takes a fourth argument as well: the parameters of the
    augmentation that made each image, float [B, augmentation]; None, like all 0, means "as it is".
    """

    def __call__(self, latents: Tensor, time: Tensor, condition: Tensor | None = None, /) -> Tensor: ...


@frozen
class Models:
    """What guidance combines.

    ``predict`` is the denoiser, and ``weaker`` a worse one, if there is any. ``condition`` are the classes of
    the images that are drawn, int64 [B], and ``untold`` the index that means "not told"; both None without a
    condition.
    """

    predict: Predict
    condition: Tensor | None = None
    untold: int | None = None
    weaker: Predict | None = None


@runtime_checkable
class Guidance(Protocol):
    """Makes of a denoiser one whose samples are more faithful: by what sets it apart from a worse one.

    It is called once for each batch that is drawn, and what it returns with the latents of that batch, all at
    one time. Models that it cannot guide raise ``ValueError``.

    Optional: ``HasWeight``, ``HasWeaker``.
    """

    def __call__(self, models: Models, noise_scheduler: NoiseScheduler, /) -> Denoise: ...


@runtime_checkable
class HasWeight(_Optional, Protocol):
    """Guidance with a weight, 1 for none, and the interval of noise levels, sigma / alpha, in which it acts.

    Both may be set; an interval of None is everywhere. Outside of it, and with weight 1, it calls the
    denoiser alone.
    """

    weight: float
    interval: tuple[float, float] | None


@runtime_checkable
class HasWeaker(_Optional, Protocol):
    """Guidance by a weaker denoiser; None takes an early average of the weights of the same one."""

    weaker: Denoiser | None


@runtime_checkable
class Metric(Protocol):
    """Accumulates batches of uint8 images, grey or RGB, on the CPU, and gives a dict of finite floats.

    ``update(images, real=...)`` is called any number of times, then ``compute()``; fake images may come
    after that as well. One that ``compares`` needs real images as well; one that does not is given none. What
    it cannot measure, of so few images or so small ones, raises ``ValueError``, in ``update`` or ``compute``.

    Optional: ``Paired``, ``HasReference``, ``HasBackbone``, ``HasDirection``, ``ComparesWithUnseen``,
    ``HasSmallestSize``, ``HasSmallestCount``.
    """

    compares: bool
    description: Mapping[str, str]

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real ones."""

    def update(self, images: Tensor, /, *, real: bool) -> None: ...

    def compute(self) -> dict[str, float]: ...


@runtime_checkable
class HasSmallestCount(_Optional, Protocol):
    """A metric that declares how many images, real and fake, it takes at least."""

    smallest_count: int


@runtime_checkable
class Paired(_Optional, Protocol):
    """A metric of pairs, if ``paired`` is true: fake image i belongs to real image i."""

    paired: bool


@runtime_checkable
class HasReference(_Optional, Protocol):
    """A metric that names the split its real images are taken from, where that is not ``test``."""

    reference: str


@runtime_checkable
class HasDirection(_Optional, Protocol):
    """A metric that says whether higher is better: of all its numbers, or of those that have a direction.

    Of one that does not, lower is better.
    """

    higher_is_better: bool | Mapping[str, bool]


@runtime_checkable
class ComparesWithUnseen(_Optional, Protocol):
    """A metric that also compares with real images that no training has seen.

    They come after the real ones and before any fake ones, if there are any.
    """

    def update_unseen(self, images: Tensor, /) -> None: ...


@runtime_checkable
class HasBackbone(_Optional, Protocol):
    """A metric that measures in a backbone's features."""

    backbone: Backbone


@runtime_checkable
class Optimizer(Stateful, Protocol):
    """A torch optimizer: built by its owner from parameters of any shape, scalars too; see ``Partial``.

    Each of ``param_groups`` obeys its own ``lr``, which changes between steps.
    """

    param_groups: list[dict[str, Any]]

    def step(self) -> object: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...


@runtime_checkable
class LRSchedule(Protocol):
    """``step -> factor`` of the learning rate, >= 0, in any order of steps from 0 to their number less one.

    Built by its owner from the number of steps.
    """

    def __call__(self, step: int, /) -> float: ...


class Context(Protocol):
    """What the engine gives a stage for its work.

    ``name`` is the stage's and ``seed`` the run's; tensors belong on ``device``; ``products`` are the
    artifacts of earlier stages, by name. What a stage draws at random comes from ``generator`` and ``batch``.
    """

    name: str
    seed: int
    products: Mapping[str, Path]

    @property
    def device(self) -> torch.device: ...

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a network's forward pass: it multiplies in the run's precision."""

    def generator(self, *path: str | int) -> Generator:
        """Return a CPU generator that is seeded by the run's seed, the stage's name and ``path``."""

    def batch(self, size: int, batch_size: int, step: int) -> Tensor:
        """Return the indices of a step's batch, int64 [batch_size], each from 0 to ``size`` - 1."""

    def artifact(self, name: str) -> Path:
        """Return where to write an artifact of this stage; its folder exists."""

    def publish(self, name: str) -> None:
        """Copy an artifact to the top of the run's folder."""

    def show(self, name: str, images: Tensor, step: int = 0) -> None:
        """Pass images to the trackers, uint8 [N, C, H, W]."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass measured values to the trackers."""

    def message(self, text: str) -> None:
        """Show a line to whoever started the run."""

    def begin(self, doing: str, total: int, done: int = 0) -> None:
        """Report that ``done`` of ``total`` steps or images of some work are done."""

    def advance(self, done: int) -> None:
        """Report progress; raises ``Interrupted`` if the run is to stop."""

    def check_stop(self) -> None:
        """Raise ``Interrupted`` if the run is to stop."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context in which a signal raises ``Interrupted`` at once: for work that writes nothing."""


@runtime_checkable
class Stage(Protocol):
    """A step of a recipe: a ``Trainer``, which has ``step``, or an ``OneShotStage``, which has ``run``.

    ``trains`` are the options whose components it trains; ``makes`` and ``needs`` name artifacts that
    pass from an earlier stage to a later one. A summary is a dict of Python numbers.

    Optional: ``ReadsSplits``, without which a stage depends on all splits; ``HasOptionalNeeds``.
    """

    trains: Sequence[str]
    makes: Sequence[str]
    needs: Sequence[str]


@runtime_checkable
class HasOptionalNeeds(_Optional, Protocol):
    """A stage that names artifacts that it uses where an earlier stage makes them."""

    optional_needs: Sequence[str]


@runtime_checkable
class ReadsSplits(_Optional, Protocol):
    """A stage that names the splits of its dataset that its result depends on, ``("train", "test")`` say.

    ``()`` reads no images, only their shape; any other also reads the dataset as it is given. What a preview
    shows does not count.
    """

    reads: Sequence[str]


@runtime_checkable
class OneShotStage(Stage, Protocol):
    """A stage that runs in one go."""

    def run(self, context: Context, /) -> Mapping[str, float]: ...


@runtime_checkable
class Trainer(Stage, Protocol):
    """A stage done step by step; the engine keeps the loop, the checkpoints and the logs.

    ``step`` returns scalar tensors without graphs, and begins with its images: ``DataError`` means that the
    dataset could not give them and that nothing of the step is done. torch's generator is seeded for each
    step, and ``context.generator(step)`` is another. ``stateful`` names every object whose state a resumed
    run needs. ``finish`` leaves in the trained components what later stages shall get (with an option
    ``ema_decay`` the average of the weights), under the names that a component built anew has.

    Optional: ``Previewing``, ``Adjustable``, ``Diagnosing``, ``Unfinished``, ``HasCheckpointSize``; of its
    state, ``RateScaled``.
    """

    steps: int
    batch_size: int

    def prepare(self, context: Context, /) -> None: ...

    def step(self, step: int, context: Context, /) -> Mapping[str, Tensor]: ...

    def stateful(self) -> Mapping[str, Stateful]: ...

    def finish(self, context: Context, /) -> Mapping[str, float]: ...


def is_trainer(stage: object) -> TypeIs[Trainer]:
    """Whether a stage, or a stage's class, is a trainer rather than one that runs in one go."""
    return hasattr(stage, "step")


@runtime_checkable
class Previewing(_Optional, Protocol):
    """A trainer that shows what it has come to, and leaves everything as it was.

    ``previews`` is how often over the whole training, ``preview(step, context)`` does so by
    ``context.show``. ``preview_options`` names the options that serve nothing else: they do not count in the
    stage's content key.
    """

    preview_options: Sequence[str]
    if TYPE_CHECKING:  # so that a class can be asked as well
        previews: int

    def preview(self, step: int, context: Context, /) -> None: ...


@runtime_checkable
class Diagnosing(_Optional, Protocol):
    """A trainer that can tell from what it logs that something goes wrong.

    ``curves`` are the values logged since it began or resumed, by name; a warning is what is wrong, with the
    option to turn. It is asked now and then, and the same warning is shown once.
    """

    def diagnose(self, curves: Mapping[str, Sequence[float]], /) -> Iterable[tuple[str, str]]: ...


@runtime_checkable
class Unfinished(_Optional, Protocol):
    """A trainer of which what it trains can be used before it is done.

    ``take`` is called instead of ``prepare``, with the states of ``stateful`` from a checkpoint. It leaves in
    the trained components what ``finish`` would at that step, and reads no data.
    """

    def take(self, state: Mapping[str, Any], /) -> None: ...


@runtime_checkable
class RateScaled(_Optional, Protocol):
    """A part of a trainer's state that multiplies its learning rates by ``rate_factor``, 1 at first.

    The engine sets it after a rollback (``[run] on_nan``), and again when the training resumes.
    """

    rate_factor: float


@runtime_checkable
class Adjustable(_Optional, Protocol):
    """A trainer with options whose numbers may change in mid-training (``optimizer``, say).

    What ``stateful`` loads must not bring back their old values.
    """

    adjustable: Sequence[str]


@runtime_checkable
class HasCosts(_Optional, Protocol):
    """A stage that knows how often it is going to do what costs.

    ``costs`` returns numbers by what they count, ``{"denoiser_calls_per_image": 19.0}`` say. It is
    called before a run, when networks have shapes and no values.
    """

    def costs(self) -> Mapping[str, float]: ...


@runtime_checkable
class HasArtifactSize(_Optional, Protocol):
    """A stage that knows how large its artifacts are going to be.

    ``artifact_bytes`` is what they take on disk at most.
    """

    artifact_bytes: int


@runtime_checkable
class HasCheckpointSize(_Optional, Protocol):
    """A trainer whose checkpoints have more than weights, their gradients' averages and one of the weights.

    ``checkpoint_bytes`` is what the rest takes on disk at most.
    """

    checkpoint_bytes: int


@frozen
class RunStart:
    """What a tracker is given when a run begins, or resumes.

    ``recipe`` is resolved: nested dicts, lists, strings, numbers and booleans. ``stages`` are their names, in
    order. ``command`` is how it was started; empty if from Python.
    """

    folder: Path
    name: str
    recipe: Mapping[str, object]
    stages: Sequence[str]
    command: str = ""


@runtime_checkable
class Tracker(Protocol):
    """Is notified of a run's progress.

    An error in it is reported once as a warning, and the run continues without it. A stage that is done
    already is not reported. ``stage`` at a step above 0 resumes from a checkpoint: what was reported after
    that step is void and comes again. A stage without steps has a ``total`` of 0. Names of values are any
    text; values any Python numbers, nan and infinity too. After ``end`` nothing is left running.
    """

    def begin(self, run: RunStart, /) -> None: ...

    def stage(self, name: str, step: int, total: int, /) -> None: ...

    def scalars(self, stage: str, step: int, values: Mapping[str, float], /) -> None: ...

    def images(self, stage: str, step: int, name: str, images: Tensor, /) -> None:
        """Take images to show as a grid of ten a row: uint8 [N, C, H, W] on the CPU; not to be changed."""

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float], /) -> None: ...

    def end(self, state: str, /) -> None:
        """Take how the run ended: ``done``, ``stopped`` (to be resumed) or ``failed``."""
