"""How much of its codebook an autoencoder uses."""

from __future__ import annotations

import torch
from torch import Tensor

from uldm_core.protocols import Autoencoder, Quantized
from uldm_plugins.metrics.features import named
from uldm_plugins.nn.codebooks import code_counts, perplexity
from uldm_plugins.shared.images import to_float
from uldm_plugins.shared.place import device_of


class CodebookUsage:
    """Codes in use, and their perplexity, over all the images of a set.

    Perplexity is e to the entropy of how often codes are used: as many as a codebook has, at most. Where
    each position has several codebooks, their codes are counted apart, and the perplexity is their mean.

    Args:
        autoencoder: one with ``encode_with_indices``; filled in from the recipe.

    Raises:
        ValueError: the autoencoder has no codebook.
    """

    compares = False

    def __init__(self, autoencoder: Autoencoder) -> None:
        if not isinstance(autoencoder, Quantized):
            raise ValueError(f"{type(autoencoder).__name__} has no codebook")
        self.autoencoder = autoencoder
        self.reset()

    @property
    def description(self) -> dict[str, str]:
        """What the numbers were measured with."""
        return {"codes of": named(self.autoencoder)}

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images; real ones do not count anyway."""
        self.counts = torch.zeros(1, self.autoencoder.quantizer.codebook_size, dtype=torch.int64)

    @torch.inference_mode()
    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W]; real ones do not count."""
        if real:
            return
        training = self.autoencoder.training
        self.autoencoder.eval()
        place = device_of(self.autoencoder)
        indices = self.autoencoder.encode_with_indices(to_float(images.to(place)))[2]
        self.counts = self.counts + code_counts(indices, self.counts.shape[1])
        self.autoencoder.train(training)

    def compute(self) -> dict[str, float]:
        """Return ``used_codes``, ``used_share`` in [0, 1], and ``perplexity``."""
        used = int((self.counts > 0).sum())
        return {
            "used_codes": float(used),
            "used_share": used / self.counts.numel(),
            "perplexity": perplexity(self.counts).mean().item(),
        }
