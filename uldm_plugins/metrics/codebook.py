"""How much of its codebook an autoencoder uses."""

from __future__ import annotations

import torch
from torch import Tensor

from uldm_core.protocols import Autoencoder
from uldm_plugins.metrics.features import device_of, named
from uldm_plugins.nn.images import to_float


class CodebookUsage:
    """Codes in use, and their perplexity, over all the images of a set.

    Perplexity is e to the entropy of how often codes are used: as many as there are codes, at most. Several
    codebooks a position count as one.

    Args:
        autoencoder: one with ``encode_with_indices``; filled in from the recipe.

    Raises:
        ValueError: the autoencoder has no codebook.
    """

    compares = False

    def __init__(self, autoencoder: Autoencoder) -> None:
        if not hasattr(autoencoder, "encode_with_indices"):
            raise ValueError(f"{type(autoencoder).__name__} has no codebook")
        self.autoencoder = autoencoder
        self.reset()

    @property
    def description(self) -> dict[str, str]:
        """What the numbers were measured with."""
        return {"codes of": named(self.autoencoder)}

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images; real ones do not count anyway."""
        self.counts = torch.zeros(self.autoencoder.quantizer.codebook_size, dtype=torch.int64)

    @torch.inference_mode()
    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W]; real ones do not count."""
        if real:
            return
        training = self.autoencoder.training
        self.autoencoder.eval()
        place = device_of(self.autoencoder)
        indices = self.autoencoder.encode_with_indices(to_float(images.to(place)))[2]
        self.counts += torch.bincount(indices.flatten().cpu(), minlength=len(self.counts))
        self.autoencoder.train(training)

    def compute(self) -> dict[str, float]:
        """Return ``used_codes``, ``used_share`` in [0, 1], and ``perplexity``."""
        used = int((self.counts > 0).sum())
        shares = self.counts[self.counts > 0].double() / max(1, int(self.counts.sum()))
        perplexity = torch.exp(-(shares * shares.log()).sum()).item()
        return {
            "used_codes": float(used),
            "used_share": used / len(self.counts),
            "perplexity": perplexity if used else 0.0,
        }
