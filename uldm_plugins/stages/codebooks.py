"""A trained quantizer's codes: how often each is used, where it lies, and what it decodes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from uldm_core.protocols import Context, Quantized, Quantizer
from uldm_plugins.nn.codebooks import code_counts
from uldm_plugins.shared.images import images_at_a_time, to_float, to_uint8


@torch.inference_mode()
def count_codes(batches: Iterable[Tensor], autoencoder: Quantized, context: Context) -> Tensor:
    """Return how often each code is used in uint8 images [B, C, H, W], int64 [Q, K] for Q codebooks."""
    autoencoder.eval()
    counts: Tensor | int = 0
    done = 0
    for batch in batches:
        with context.autocast():
            indices = autoencoder.encode_with_indices(to_float(batch.to(context.device)))[2]
        counts = counts + code_counts(indices, autoencoder.quantizer.codebook_size)
        done += len(batch)
        context.advance(done)
    return torch.as_tensor(counts)


@torch.inference_mode()
def vectors(quantizer: Quantizer, codes: Tensor, number: int, counts: Tensor) -> Tensor:
    """Return the vectors of codes of one codebook, [N, dim].

    Where a place has several codes, the other codebooks contribute their most used one.

    Args:
        quantizer: looks codes up.
        codes: which of the codebook, int64 [N].
        number: which codebook.
        counts: how often each code is used, int64 [Q, K].
    """
    indices = _indices(codes, number, counts, (1, 1)).to(_device(quantizer))
    return quantizer.lookup(indices)[:, :, 0, 0].float()


@torch.inference_mode()
def decoded(
    autoencoder: Quantized,
    codes: Tensor,
    number: int,
    counts: Tensor,
    size: tuple[int, int],
    context: Context,
) -> Iterator[Tensor]:
    """Yield what each code alone decodes to: an image with it at all places, uint8 [C, H, W].

    Args:
        autoencoder: has the quantizer and decodes.
        codes: which of the codebook, int64 [N].
        number: which codebook.
        counts: how often each code is used, int64 [Q, K].
        size: how many places high and wide.
        context: device and precision.
    """
    autoencoder.eval()
    height, width = (side * autoencoder.downscale for side in size)
    for some in codes.split(images_at_a_time(height, width)):
        indices = _indices(some, number, counts, size).to(context.device)
        with context.autocast():
            images = autoencoder.decode(autoencoder.quantizer.lookup(indices))
        yield from to_uint8(images).cpu()


def _indices(codes: Tensor, number: int, counts: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images full of one code each, [N, h, w], or [N, Q, h, w] for Q codebooks."""
    every = codes.view(-1, 1, 1).expand(-1, *size)
    if len(counts) == 1:
        return every
    usual = counts.argmax(1).view(1, -1, 1, 1).repeat(len(codes), 1, *size)
    usual[:, number] = every
    return usual


def _device(quantizer: Quantizer) -> torch.device:
    """Return where a quantizer's tensors live; one without any works anywhere."""
    tensors = [*quantizer.parameters(), *quantizer.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
