"""How fast this computer does what a recipe asks for: a few steps of its own trainings, timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from attrs import evolve, frozen
from torch import Tensor

from uldm_core.engine.components import RunComponents
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device, choose_device, multiplies_bfloat16
from uldm_core.engine.environment import processor
from uldm_core.engine.memory import memory_of
from uldm_core.errors import MistakeError
from uldm_core.paths import free_bytes
from uldm_core.preflight.dry_build import silence
from uldm_core.preflight.preflight import preflight
from uldm_core.preflight.required_files import is_complete
from uldm_core.preflight.storage import stored_bytes
from uldm_core.protocols import Trainer
from uldm_core.recipe import Recipe, ResolvedRecipe, RunOptions
from uldm_core.registry import default
from uldm_core.run_folder.folder import RunFolder
from uldm_core.spec.building import validate
from uldm_plugins.own_images.choice import Choice
from uldm_plugins.own_images.facts import Computer
from uldm_plugins.own_images.schedule import AUTOENCODER_SHARE, Speed
from uldm_plugins.own_images.tables import BACKBONES
from uldm_plugins.own_images.writing import tables_of
from uldm_plugins.shared.arrays import half_of_memory

SECONDS = 1.0
"""A timing takes so long, or one step."""
MOST = 20
"""Steps that are timed, after one to warm up."""
PATIENCE = 60.0
"""Seconds that shapes may take, on a computer that is busy."""
BUSY = 0.75
"""A share of the processors: with so much work of others, there is too little for a measurement."""
LATER = 1000
"""A step at which the discriminator has started."""
BACKWARD, ADVERSARIAL, LOSS = 3, 8, 1.5
"""A training step costs so many passes forward: of a network, of a discriminator for both of its sides, of a
loss, which goes back through one of its two images and trains nothing."""
ASSUMED_GPU = 1.5e13
"""FLOPs a second in training of a GPU that is not here: a desktop's, which reaches a part of its peak."""

PROGRAM = 750 << 20
"""Bytes of memory of Python and torch themselves."""
COPIES = 9
"""Of a denoiser's weights, beside those of a step: its averages, and what a checkpoint is written from."""


@frozen
class Costs:
    """What shapes alone tell of a recipe.

    Args:
        autoencoder: FLOPs of a training step, without the discriminator's.
        adversarial: FLOPs of a training step with it.
        denoiser: FLOPs of a training step.
        memory: bytes of a training that takes the most.
        disk: bytes that both trainings leave on disk.
    """

    autoencoder: float
    adversarial: float
    denoiser: float
    memory: int
    disk: int


@frozen
class SomeImages:
    """A few images as a dataset.

    Args:
        all: the images, uint8 [N, C, H, W].
    """

    all: Tensor
    splits: Sequence[str] = ("train",)

    @property
    def channels(self) -> int:
        """Of each image."""
        return self.all.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.all.shape[2], self.all.shape[3]

    def __len__(self) -> int:
        return len(self.all)

    def images(self, indices: Tensor) -> Tensor:
        """Return images, uint8 [B, C, H, W]."""
        return self.all[indices]

    def split(self, name: str) -> SomeImages:
        """Return itself."""
        return self


def this_computer(folder: Path) -> Computer:
    """Return what would train here, and how much is free on the disk of a folder."""
    device = choose_device(RunOptions()).device
    gpu = device.type == "cuda"
    return Computer(
        name=torch.cuda.get_device_name(device) if gpu else processor().rpartition(", ")[0],
        threads=torch.get_num_threads(),
        memory=memory_of(device) or 2 * half_of_memory(),
        free_disk=free_bytes(folder),
        gpu=gpu,
        weights=frozenset(filter(_is_here, BACKBONES)),
    )


def _is_here(backbone: str) -> bool:
    """Whether a backbone could be built without the network."""
    try:
        return is_complete(validate(default(), "backbone", backbone, {}))
    except MistakeError:  # it is not installed
        return False


def busy() -> bool:
    """Return whether other programs keep this computer busy."""
    try:
        return os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
    except (AttributeError, OSError):  # Windows has no such function
        return False


def costs(choice: Choice) -> Costs:
    """Return what shapes tell of a recipe."""
    tables = tables_of(choice)
    tables["stages"] = {name: tables["stages"][name] for name in ("first", "second")}
    resolved = Recipe.from_dict(tables).resolve(data=False)
    found = preflight(resolved, PATIENCE)
    rows = {row.component.partition(":")[0]: row for row in found.rows}
    autoencoder, discriminator, denoiser = (
        (rows[name].flops or 0) if name in rows else 0
        for name in ("autoencoder", "discriminator", "denoiser")
    )
    first, second = (choice.tables[name]["batch_size"] for name in ("stages.first", "stages.second"))
    losses = LOSS * sum(row.flops or 0 for name, row in rows.items() if name.startswith("first.losses"))
    memory = [row.memory or 0 for row in found.rows if not row.component.startswith("denoiser")]
    memory += [int(found.steps["first"].losses * first)] if "first" in found.steps else []
    weights = 4 * (rows["denoiser"].parameters or 0)
    return Costs(
        autoencoder=float(first * (BACKWARD * autoencoder + losses)),
        adversarial=float(first * (BACKWARD * autoencoder + losses + ADVERSARIAL * discriminator)),
        denoiser=float(BACKWARD * second * denoiser),
        memory=max(sum(memory), (rows["denoiser"].memory or 0) + COPIES * weights),
        disk=sum(stored_bytes(resolved, found, stage) for stage in resolved.stages),
    )


def measured(choice: Choice, images: Tensor) -> Speed:
    """Return the speed of a recipe's trainings here, in the precision that is faster.

    Args:
        choice: the recipe.
        images: some of the folder as it would read them, uint8 [N, C, H, W].
    """
    device = choose_device(RunOptions()).device
    plain = _timed(choice, images, Device(device, torch.float32))
    if not multiplies_bfloat16(device):
        return plain
    half = _timed(choice, images, Device(device, torch.bfloat16))
    return half if _relative(half, plain) < 1 else evolve(plain, precision="float32")


def scaled(speed: Speed, own: Costs, other: Costs) -> Speed:
    """Return the speed of other networks on the same computer, by their FLOPs beside those measured."""
    return evolve(
        speed,
        autoencoder=speed.autoencoder * other.autoencoder / own.autoencoder,
        adversarial=speed.adversarial * other.adversarial / own.adversarial,
        denoiser=speed.denoiser * other.denoiser / own.denoiser,
        measured=False,
    )


def assumed(cost: Costs) -> Speed:
    """Return the speed of a GPU that is not here."""
    return Speed(
        cost.autoencoder / ASSUMED_GPU,
        cost.adversarial / ASSUMED_GPU,
        cost.denoiser / ASSUMED_GPU,
        products=ASSUMED_GPU,
        measured=False,
    )


def _relative(speed: Speed, other: Speed) -> float:
    """Return the time that both trainings take at one speed, in that which they take at another."""
    first = (speed.autoencoder + speed.adversarial) / (other.autoencoder + other.adversarial)
    return AUTOENCODER_SHARE * first + (1 - AUTOENCODER_SHARE) * speed.denoiser / other.denoiser


def _timed(choice: Choice, images: Tensor, device: Device) -> Speed:
    """Return the speed of both trainings on a device."""
    tables = tables_of(choice)
    if choice.clusters:
        tables["condition"]["classes"] = 2  # they cost the same, and need fewer images
    if choice.adversarial:
        tables["stages"]["first"]["adversarial"]["start"] = LATER
    resolved = Recipe.from_dict(tables).resolve(data=False)
    with silence(), TemporaryDirectory() as folder:
        store = RunComponents.of(resolved, device)
        store.built["dataset"] = SomeImages(images)
        first = _training(store, resolved, "first", Path(folder))
        plain, adversarial = first(0), first(LATER)
        denoiser = _training(store, resolved, "second", Path(folder))(0)
    return Speed(plain, adversarial, denoiser, _products(device))


def _training(
    store: RunComponents, resolved: ResolvedRecipe, name: str, folder: Path
) -> Callable[[int], float]:
    """Return a function that times the steps of a stage from one on, in seconds."""
    stage: Trainer = store.build(resolved.stages[name])
    context = Context(name, resolved.seed, store.device, RunFolder(folder).stage(name))
    stage.prepare(context)

    def take(step: int) -> float:
        started = time.perf_counter()
        logged = stage.step(step, context)
        sum(value.item() for value in logged.values())  # which waits for the device
        return time.perf_counter() - started

    def seconds(begin: int) -> float:
        until = time.perf_counter() + SECONDS
        found = [take(begin)]
        while len(found) <= MOST and time.perf_counter() < until:
            found.append(take(begin + len(found)))
        return median(found[1:] or found)

    return seconds


def _products(device: Device) -> float:
    """Return the floating-point operations a second of a product of matrices of 1024 x 1024."""
    side = 1024
    matrix = torch.ones(side, side, device=device.device)
    found = []
    for _ in range(5):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        found.append(time.perf_counter() - started)
    return 2 * side**3 / median(found)
