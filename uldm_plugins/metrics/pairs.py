"""Reconstructions against the real images, image by image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from uldm_core import use
from uldm_core.protocols import Backbone
from uldm_plugins.metrics.features import named
from uldm_plugins.nn.perceptual import Heads, PerceptualDistance
from uldm_plugins.shared.images import in_batches, refuse_channels, refuse_small, to_float
from uldm_plugins.shared.place import device_of

_WINDOW, _DEVIATION = 11, 1.5
_LEAVE_OUT = "leave it out of metrics"
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class Pairs:
    """Keeps uint8 images of both sides in the order they come; the i-th belong together."""

    compares = True
    paired = True

    def __init__(self) -> None:
        self.reset()

    def reset(self, *, keep_real: bool = False) -> None:
        """Forget all images, or all but the real ones."""
        self._fake: list[Tensor] = []
        if not keep_real:
            self._real: list[Tensor] = []

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W]."""
        (self._real if real else self._fake).append(images.cpu())

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield real and fake images, block by block.

        Raises:
            ValueError: there are none, or not as many of one as of the other.
        """
        counts = [sum(map(len, batches)) for batches in (self._real, self._fake)]
        if counts[0] != counts[1] or not counts[0]:
            raise ValueError(f"{counts[1]} images against {counts[0]} originals: they must be pairs")
        real, fake = torch.cat(self._real), torch.cat(self._fake)
        return zip(in_batches(real), in_batches(fake))

    def mean(self, values: list[Tensor]) -> float:
        """Return the mean over images."""
        return torch.cat(values).double().mean().item()


class PSNR(Pairs):
    """10 log10(255^2 / mean squared error over all pixels of all images), in dB; 100 at most.

    Source: ``torchmetrics.image.PeakSignalNoiseRatio``, where identical images give infinity.
    """

    higher_is_better = True
    description = {"range": "uint8, 0 to 255", "average": "squared errors of all pixels"}

    def compute(self) -> dict[str, float]:
        """Return ``psnr``."""
        errors = [(real.double() - fake).square().mean((1, 2, 3)) for real, fake in self.pairs()]
        error = max(self.mean(errors), 255**2 * 1e-10)
        return {"psnr": float(10 * torch.log10(torch.tensor(255**2 / error, dtype=torch.float64)))}


class SSIM(Pairs):
    """Structural similarity in Gaussian windows of 11x11, deviation 1.5, averaged over images.

    Windows lie inside the image, as in the paper; torchmetrics 1.9 reflects the image at its edges.

    Source: Wang et al. 2004; ``torchmetrics.functional.image.structural_similarity_index_measure``.
    """

    higher_is_better = True
    smallest_size = _WINDOW
    description = {"range": "uint8, 0 to 255", "window": "11x11, deviation 1.5, inside the image"}

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W].

        Raises:
            ValueError: images smaller than the window.
        """
        refuse_small(images, _WINDOW, "ssim", _LEAVE_OUT)
        super().update(images, real=real)

    def compute(self) -> dict[str, float]:
        """Return ``ssim``, at most 1."""
        return {"ssim": self.mean([similarity(real.double(), fake.double()) for real, fake in self.pairs()])}


class LPIPSMetric(Pairs):
    """Mean LPIPS of each pair.

    Source: Zhang et al. 2018 (arXiv 1801.03924), ``lpips.LPIPS``.

    Args:
        backbone: the feature network; a loss that trained on it flatters itself.
        heads: as of the loss.
    """

    def __init__(self, backbone: Backbone = use("vgg16"), heads: Heads = "auto") -> None:
        super().__init__()
        self.distance = PerceptualDistance(backbone, normalize=False, heads=heads)

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take in uint8 images [B, C, H, W].

        Raises:
            ValueError: images smaller than the backbone's ``smallest_size``, or neither grey nor RGB.
        """
        name = f"lpips on {type(self.distance.backbone).__name__}"
        refuse_channels(images, name, _LEAVE_OUT)
        refuse_small(images, self.smallest_size, name, _LEAVE_OUT)
        super().update(images, real=real)

    @property
    def smallest_size(self) -> int:
        """The least height and width of images that the backbone takes."""
        return self.distance.smallest_size

    @property
    def description(self) -> dict[str, str]:
        """What the number was measured with."""
        return {"features": named(self.distance.backbone), "preprocessing": "uint8 to [-1, 1]"}

    @torch.inference_mode()
    def compute(self) -> dict[str, float]:
        """Return ``lpips``."""
        network, place = self.distance, device_of(self.distance)
        values = [
            network.distances(to_float(fake.to(place)), to_float(real.to(place))).flatten().cpu()
            for real, fake in self.pairs()
        ]
        return {"lpips": self.mean(values)}


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity of images [B, C, H, W] in [0, 255], [B].

    Raises:
        ValueError: images smaller than the window.
    """
    refuse_small(first, _WINDOW, "ssim", _LEAVE_OUT)
    means = [_blurred(images) for images in (first, second)]
    squares = [_blurred(images.square()) for images in (first, second)]
    products = means[0] * means[1]
    covariance = _blurred(first * second) - products
    energy = means[0].square() + means[1].square()
    variance = squares[0] + squares[1] - energy
    index = (2 * products + _C1) * (2 * covariance + _C2) / ((energy + _C1) * (variance + _C2))
    return index.mean((1, 2, 3))


def _blurred(images: Tensor) -> Tensor:
    """Return the Gaussian means of all windows that lie inside the image."""
    places = torch.arange(_WINDOW, dtype=images.dtype, device=images.device) - _WINDOW // 2
    line = torch.exp(-0.5 * (places / _DEVIATION).square())
    line = (line / line.sum()).expand(images.shape[1], 1, _WINDOW)
    rows = F.conv2d(images, line[:, :, None], groups=images.shape[1])
    return F.conv2d(rows, line[:, :, :, None], groups=images.shape[1])
