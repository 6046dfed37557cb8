"""Latents of a whole dataset, encoded once: memory-mapped files of the cache folder, or in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from uldm_core import MistakeError, RunError
from uldm_core.engine.memory import memory_of
from uldm_core.errors import DataError
from uldm_core.protocols import Augmentation, Autoencoder, Context, Dataset, Fingerprinted
from uldm_core.run_folder.code import code_of
from uldm_plugins.shared import cache
from uldm_plugins.shared.images import images_at_a_time
from uldm_plugins.stages.training import read_batches, read_images

FEW_PIXELS = 1 << 22
"""Images of so many pixels in all, 1,000 of 64x64, are encoded anew each time: that takes seconds."""
MOST_HELD = 1 << 28
"""Bytes of latents that are held in the device's memory: no step waits for a disk, or copies from the CPU.

On a CPU a batch is gathered as fast from a file that was read before.
"""
_VERSION = 1

Encode = Callable[[Tensor, Tensor], Tensor]
"""``(images uint8 [B, C, H, W], indices [B]) -> latents``, float32 [B, C, h, w]."""


@frozen
class KeptLatents:
    """Latents of all images in their order, [N, C, h, w], float32 or float16.

    Args:
        values: in memory, or memory-mapped and read only.
        device: where they are wanted.
    """

    values: Tensor | np.ndarray
    device: torch.device

    @property
    def nbytes(self) -> int:
        """How many bytes they have."""
        return int(self.values.nbytes)

    def rows(self, indices: Tensor) -> Tensor:
        """Return those of some images, float32 [B, C, h, w]."""
        if isinstance(self.values, Tensor):
            return self.values[indices.to(self.values.device)].float()
        return cache.rows(self.values, indices).to(self.device).float()

    def batches(self) -> Iterator[Tensor]:
        """Yield all of them in order, a network's batch at a time."""
        height, width = self.values.shape[2:]
        places = torch.arange(len(self.values)).split(images_at_a_time(height, width))
        return map(self.rows, places)

    def in_memory(self, change: Callable[[Tensor], Tensor]) -> KeptLatents:
        """Return them as ``change`` makes them of each batch, float32 in the device's memory."""
        changed = torch.empty(self.values.shape, device=self.device)
        start = 0
        for batch in self.batches():
            changed[start : start + len(batch)] = change(batch)
            start += len(batch)
        return KeptLatents(changed, self.device)


@frozen
class Keeper:
    """Encodes a dataset, and keeps the latents for runs to come where they can be told from others.

    Args:
        dataset: the images.
        autoencoder: frozen.
        context: of the stage.
        augmentation: of the images, if there is one.
        dtype: float32 or float16, in which they are kept.
        cuts: the indices of all images, in the batches in which they are encoded.
    """

    dataset: Dataset
    autoencoder: Autoencoder
    context: Context
    augmentation: Augmentation | None
    dtype: torch.dtype
    cuts: Sequence[Tensor]

    def keep(self, encode: Encode, parameters: Tensor) -> KeptLatents:
        """Return the latents of all images, from the cache if they are there.

        Args:
            encode: gives those of some images, as they are augmented with the parameters.
            parameters: [N, P]; all 0 without augmentation.

        Raises:
            RunError: they fit neither on the disk nor in memory.
        """
        if len(self.dataset) * prod(self.dataset.size) > FEW_PIXELS:
            changed = parameters.any(1).nonzero().flatten()
            indices = (changed if len(changed) else self.cuts[0])[: len(self.cuts[0])]
            first = encode(read_images(self.dataset, indices), indices)
            shape = (len(self.dataset), *first.shape[1:])
            packed = self._packed(self._key(parameters, first), shape, encode)
            if packed is not None:
                return KeptLatents(packed, self.context.device)
            self._require_memory(shape)
        return KeptLatents(torch.cat([*self._encoded(encode, 0)]), self.context.device)

    def _packed(self, key: str, shape: tuple[int, ...], encode: Encode) -> np.ndarray | None:
        """Return the latents of the cache; None if it can take none."""
        if not key:
            return None
        dtype = np.dtype(str(self.dtype).removeprefix("torch."))

        def batches(start: int) -> Iterator[np.ndarray]:
            return (batch.cpu().numpy() for batch in self._encoded(encode, start))

        try:
            return cache.packed(key, shape, dtype, batches, "latents", thorough=True)
        except DataError:
            raise
        except RunError as error:
            self.context.message(f"latents are kept in memory, for this run only: {error}")
            return None

    def _encoded(self, encode: Encode, start: int) -> Iterator[Tensor]:
        """Yield the latents of all images from one on, in the dtype in which they are kept."""
        self.context.begin("encoding images", len(self.dataset), start)
        cuts = [indices for indices in self.cuts if indices[-1] >= start]
        for indices, images in zip(cuts, read_batches(self.dataset, cuts)):
            self.context.check_stop()
            latents = encode(images, indices)[max(0, start - int(indices[0])) :]
            yield self._narrowed(latents)
            self.context.advance(int(indices[-1]) + 1)

    def _narrowed(self, latents: Tensor) -> Tensor:
        narrowed = latents.to(self.dtype)
        if bool((narrowed.isinf() & latents.isfinite()).any()):
            what = f"latents of up to {latents.abs().max().item():.3g} are beyond float16"
            raise MistakeError(what, hint='take latents_dtype = "float32"')
        return narrowed

    def _require_memory(self, shape: Sequence[int]) -> None:
        """Raise ``RunError`` if memory does not suffice for latents of a shape."""
        needed = self.dtype.itemsize * prod(shape)
        there = memory_of(self.context.device)
        if there is not None and needed > there / 2:
            raise RunError(
                f"latents of {needed:,} bytes do not fit into memory",
                hint="make room for the cache on the disk, or take cache_latents = false",
            )

    def _key(self, parameters: Tensor, first: Tensor) -> str:
        """Return everything that the latents depend on; empty if the dataset does not say what it is.

        That is also ``first``, the latents of the first images that are changed at all: in them shows what
        libraries and settings do.
        """
        fingerprint = self.dataset.fingerprint if isinstance(self.dataset, Fingerprinted) else ""
        if not fingerprint:
            return ""
        with self.context.autocast():
            device = self.context.device.type
            precision = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""
        content = {
            "version": _VERSION,
            "images": [fingerprint, len(self.dataset), self.dataset.channels, *self.dataset.size],
            "autoencoder": _description(self.autoencoder),
            "augmentation": self._changes(parameters) if bool(parameters.any()) else "",
            "device": [device, precision, torch.__version__],
            "first": digest({"": first}),
        }
        return "latents " + json.dumps(content, sort_keys=True)

    def _changes(self, parameters: Tensor) -> str:
        """Return a hash of what the augmentation makes of an image of noise with parameters [N, P].

        Of each result only a sum of the pixels is taken, in integers, each times a number of its own.
        """
        augmentation, device = self.augmentation, self.context.device
        if augmentation is None:
            return ""
        shape, generator = (self.dataset.channels, *self.dataset.size), torch.Generator().manual_seed(0)
        noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
        factors = torch.randint(1 << 32, shape, generator=generator).to(device)
        unique, places = parameters.unique(dim=0, return_inverse=True)
        sums = [
            (augmentation(noise.expand(len(part), *shape), part.to(device)) * factors).sum((1, 2, 3)).cpu()
            for part in unique.split(len(self.cuts[0]))
        ]
        return digest({"parameters": parameters, "sums": torch.cat(sums)[places]})


def _description(autoencoder: Autoencoder) -> dict[str, object]:
    """Return what tells an autoencoder from others: code, plain options of its parts, weights."""
    modules = list(autoencoder.modules())
    options = [
        {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
        for module in modules
    ]
    return {
        "class": f"{type(autoencoder).__module__}.{type(autoencoder).__qualname__}",
        "code": code_of({type(module) for module in modules}),
        "options": digest(dict(enumerate(options))),
        "weights": digest(autoencoder.state_dict()),
    }


def digest(state: Mapping[Any, Any]) -> str:
    """Return a hash of tensors, and of whatever else a state holds, by name."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            found.update(repr((name, value.dtype, tuple(value.shape))).encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().data)
        else:
            found.update(repr((name, value)).encode())
    return found.hexdigest()
