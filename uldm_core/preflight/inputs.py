"""What a recipe's components are given when only shapes are carried through it."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define
from torch import Tensor

from uldm_core.kinds import latent_size
from uldm_core.preflight.dry_build import DryBuild


@define
class Inputs:
    """Images and latents of a recipe's shapes; tensors are made on the device that is current.

    Args:
        tried: the recipe's components, built for their shapes.
    """

    tried: DryBuild

    def component(self, name: str) -> Any:
        """Return a noun as it was built for its shapes, or None."""
        return self.tried.components.get((name,))

    def images(self, batch: int) -> Tensor:
        """Return images of the dataset's shape, float [batch, C, H, W].

        Raises:
            NotImplementedError: the shape is not known.
        """
        dataset = self.component("dataset")
        if dataset is None:
            raise NotImplementedError("the dataset's shapes are not known")
        return torch.zeros(batch, dataset.channels, dataset.size, dataset.size)

    def latents(self, batch: int, autoencoder: Any = None) -> Tensor:
        """Return latents of the shape that an autoencoder says it gives, float [batch, C, h, w].

        Args:
            batch: how many.
            autoencoder: the noun of this name unless another is given.

        Raises:
            NotImplementedError: the shape is not known.
        """
        dataset, autoencoder = self.component("dataset"), autoencoder or self.component("autoencoder")
        if dataset is None or autoencoder is None:
            raise NotImplementedError("the latents' shapes are not known")
        side = latent_size(dataset.size, autoencoder.downscale)
        return torch.zeros(batch, autoencoder.latent_channels, side, side)
