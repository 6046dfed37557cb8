"""PatchGAN: a convolutional discriminator, one logit a patch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from uldm_plugins.shared.images import refuse_small


class PatchGAN(nn.Module):
    """Convolutions with BatchNorm and LeakyReLU(0.2) between; bias on the first and last only.

    Images [B, in_channels, H, W] to logits [B, 1, h, w]. With the defaults 64x64 gives 7x7, 28x28 gives
    2x2, and each logit sees 46x46 pixels (not 70: that is another layout).

    Source: Isola et al. 2017 (arXiv 1611.07004).

    Args:
        in_channels: channels of the images.
        channels: of each hidden layer; one fewer than the lists below.
        kernels: kernel sizes, first to last layer.
        strides: strides, first to last layer.
        paddings: paddings, first to last layer.

    Raises:
        ValueError: the lists do not match in length.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        channels: tuple[Annotated[int, Ge(1)], ...] = (64, 128, 256),
        kernels: tuple[Annotated[int, Ge(1)], ...] = (4, 4, 4, 4),
        strides: tuple[Annotated[int, Ge(1)], ...] = (2, 2, 2, 1),
        paddings: tuple[Annotated[int, Ge(0)], ...] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        layers = len(channels) + 1
        for name, values in (("kernels", kernels), ("strides", strides), ("paddings", paddings)):
            if len(values) != layers:
                raise ValueError(
                    f"{name} has {len(values)} values; channels with {layers - 1} make {layers} layers"
                )
        self.receptive_field = receptive_field(kernels, strides)
        self.smallest_size = smallest_size(kernels, strides, paddings)
        self._options = {"channels": channels, "kernels": kernels, "strides": strides, "paddings": paddings}
        widths = (in_channels, *channels, 1)
        blocks = [
            _block(widths[i], widths[i + 1], kernels[i], strides[i], paddings[i], inner=0 < i < layers - 1)
            for i in range(layers)
        ]
        logits = blocks.pop()[0]  # no activation after the last convolution
        self.blocks = nn.Sequential(*blocks, logits)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits.

        Raises:
            ValueError: the images are smaller than ``smallest_size``.
        """
        side = min(images.shape[-2:])
        if side < self.smallest_size:
            instead = self.for_side(side) or "no discriminator"
            refuse_small(images, self.smallest_size, type(self).__name__, instead)
        return self.blocks(images)

    def for_side(self, side: int) -> str:
        """Return the options with which it takes images of a side, for a message; empty if with none."""
        channels, *layers = self._options.values()
        for hidden in range(len(channels) - 1, 0, -1):
            kernels, strides, paddings = ((*values[:hidden], values[-1]) for values in layers)
            if smallest_size(kernels, strides, paddings) <= side:
                fewer = zip(self._options, (channels[:hidden], kernels, strides, paddings))
                return ", ".join(f"{name} = {list(values)}" for name, values in fewer)
        return ""


def smallest_size(kernels: tuple[int, ...], strides: tuple[int, ...], paddings: tuple[int, ...]) -> int:
    """Return the least side of images of which a stack of convolutions makes one output."""
    side = 1
    for kernel, stride, padding in zip(kernels[::-1], strides[::-1], paddings[::-1]):
        side = max(1, (side - 1) * stride + kernel - 2 * padding)
    return side


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many pixels across one output of a stack of convolutions sees."""
    field, jump = 1, 1
    for kernel, stride in zip(kernels, strides):
        field += (kernel - 1) * jump
        jump *= stride
    return field


def _block(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, *, inner: bool
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not inner)
    norm = [nn.BatchNorm2d(outputs)] if inner else []
    return nn.Sequential(convolution, *norm, nn.LeakyReLU(0.2))
