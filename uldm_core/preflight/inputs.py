"""What a recipe's components are given when only shapes are carried through it."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from uldm_core.kinds import latent_size
from uldm_core.preflight.dry_build import Clock, DryBuild
from uldm_core.protocols import Autoencoder


@define
class Inputs:
    """Images and latents of a recipe's shapes; tensors are made on the device that is current.

    ``name`` and ``shape`` are of what was asked for last; empty if nothing was.
    """

    tried: DryBuild
    clock: Clock = field(factory=lambda: Clock(math.inf))
    name: str = ""
    shape: tuple[int, ...] = ()

    def component(self, name: str) -> Any:
        """Return a component of the recipe as it was built for its shapes, or None."""
        return self.tried.components.get((name,))

    def images(self, batch: int) -> Tensor:
        """Return images of the dataset's shape, float [batch, C, H, W].

        Raises:
            NotImplementedError: the shape is not known.
        """
        dataset = self.component("dataset")
        if dataset is None:
            raise NotImplementedError("the dataset's shapes are not known")
        return self._noted("images", torch.zeros(batch, dataset.channels, dataset.size, dataset.size))

    def latents(self, batch: int, autoencoder: Autoencoder | None = None) -> Tensor:
        """Return latents of the shape that an autoencoder declares, the recipe's: float [batch, C, h, w].

        Raises:
            NotImplementedError: the shape is not known.
        """
        dataset, autoencoder = self.component("dataset"), autoencoder or self.component("autoencoder")
        if dataset is None or autoencoder is None:
            raise NotImplementedError("the latents' shapes are not known")
        side = latent_size(dataset.size, autoencoder.downscale)
        return self._noted("latents", torch.zeros(batch, autoencoder.latent_channels, side, side))

    def _noted(self, name: str, tensor: Tensor) -> Tensor:
        self.name, self.shape = name, tuple(tensor.shape)
        return tensor
