"""The UNet2DModel of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

from uldm_core import Exists
from uldm_plugins.adapters.diffusers.common import Count, Widths, load_weights
from uldm_plugins.nn.conditioning import AugmentationEmbedding, other_parameters


class UNet2D(nn.Module):
    """``diffusers.UNet2DModel`` where a denoiser is wanted, with the options of ``unet_2d``.

    diffusers' network takes only sides that halve evenly at each level. Others are enlarged by repeating
    the edge, and what it gives is cut off again.

    Source: ``diffusers.UNet2DModel``.

    Args:
        channels: of the latents.
        block_out_channels: width of each level, finest first.
        attention_levels: for each level, whether it attends, on the way down and up.
        layers_per_block: residual blocks a level on the way down; one more on the way up.
        attention_head_dim: channels of each head of attention.
        norm_num_groups: groups of each group norm.
        weights: a state dict to start from, ``.safetensors``.
        classes: of the condition, the library's ``num_class_embeds`` less one; 0 takes none.
        augmentation: parameters of the augmentation; 0 takes none. What is added for them is not part of
            ``weights``.
        dropout: share of the values that each residual block drops in training.

    Raises:
        ValueError: the lists do not fit together, or the weights are not to be read or of another network.
    """

    def __init__(
        self,
        channels: Count,
        block_out_channels: Widths = (64, 128),
        attention_levels: tuple[bool, ...] = (False, True),
        layers_per_block: Count = 1,
        attention_head_dim: Count = 8,
        norm_num_groups: Count = 32,
        weights: Annotated[Path, Exists()] | None = None,
        classes: Annotated[int, Ge(0)] = 0,
        augmentation: Annotated[int, Ge(0)] = 0,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        if len(attention_levels) != len(block_out_channels):
            raise ValueError(
                f"attention_levels has {len(attention_levels)} values, block_out_channels "
                f"{len(block_out_channels)}: give one a level"
            )
        down, up = (
            tuple(f"{'Attn' * attends}{way}Block2D" for attends in attention_levels) for way in ("Down", "Up")
        )
        network: Any = diffusers.UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            down_block_types=down,
            up_block_types=up[::-1],
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            dropout=dropout,
            num_class_embeds=classes + 1 if classes else None,
        )
        self.multiple = 2 ** (len(block_out_channels) - 1)
        load_weights(network, weights)
        self.classes, self.augmentation = classes, augmentation
        if augmentation:
            width = network.time_embedding.linear_2.out_features
            network.class_embedding = AddedEmbeddings(network.class_embedding, augmentation, width)
        self.network: Any = network

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction for latents [B, C, H, W] at times [B], of classes [B], in their shape.

        ``augmentation`` are the parameters of what was done to each image, [B, augmentation].
        """
        height, width = latents.shape[-2:]
        missing = (-height % self.multiple, -width % self.multiple)
        if any(missing):
            latents = F.pad(latents, (0, missing[1], 0, missing[0]), mode="replicate")
        if condition is None and self.classes:
            condition = torch.full_like(time, self.classes, dtype=torch.int64)
        given: Any = condition
        if self.augmentation:
            nothing = latents.new_zeros(len(latents), self.augmentation)
            given = condition, nothing if augmentation is None else augmentation
        elif augmentation is not None:
            raise other_parameters(0, augmentation)
        return self.network(latents, time, given).sample[..., :height, :width]


class AddedEmbeddings(nn.Module):
    """What is added to the embedding of the time, in the place of diffusers' embedding of classes.

    ``UNet2DModel`` hands on what it is given as classes as it is, and adds what comes back.

    Args:
        classes: diffusers' embedding of them, or None.
        augmentation: parameters of the augmentation.
        dim: of the embedding.
    """

    def __init__(self, classes: nn.Module | None, augmentation: int, dim: int) -> None:
        super().__init__()
        self.classes = classes
        self.augmentation = AugmentationEmbedding(augmentation, dim)

    def forward(self, given: tuple[Tensor | None, Tensor]) -> Tensor:
        """Map classes [B], if there are any, and parameters [B, P] to [B, dim].

        Raises:
            ValueError: it was made without classes, or for another number of parameters.
        """
        condition, parameters = given
        added: Tensor = self.augmentation(parameters)
        if self.classes is not None:
            return added + self.classes(condition)
        if condition is not None:
            raise ValueError("this denoiser was made without classes: it takes no condition")
        return added
