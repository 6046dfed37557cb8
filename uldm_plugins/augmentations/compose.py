"""Several augmentations, one after the other."""

from __future__ import annotations

from itertools import product
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Generator, Tensor

from uldm_core.protocols import Augmentation, HasVariants


class Compose:
    """Applies several augmentations, each with parameters of its own, which come one after the other.

    If one of them does not leak, the denoiser is given the parameters of all: it then draws images that none
    has changed.

    Args:
        of: in the order in which they are applied.
        leaks: samples are changed as well; by default if all of them leak.
    """

    variants: Tensor

    def __init__(self, of: Annotated[list[Augmentation], MinLen(1)], leaks: bool | None = None) -> None:
        self.of = of
        self.leaks = all(part.leaks for part in of) if leaks is None else leaks
        self.parameters = sum(part.parameters for part in of)
        known = [part.variants for part in of if isinstance(part, HasVariants)]
        if len(known) == len(of):
            self.variants = torch.stack([torch.cat(rows) for rows in product(*known)])

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Return parameters for n images, float32 [n, parameters]."""
        return torch.cat([part.draw(n, generator) for part in self.of], 1)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Change images [B, C, H, W]."""
        columns = parameters.split([part.parameters for part in self.of], 1)
        for part, own in zip(self.of, columns):
            images = part(images, own)
        return images
