"""What an evaluation leaves beside its numbers, to be looked at."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from uldm_core.protocols import Autoencoder, Context, Dataset, HasLogits, Quantized
from uldm_core.run_folder.files import write_json
from uldm_plugins.nn.codebooks import code_counts, perplexity
from uldm_plugins.shared.arrays import save_arrays
from uldm_plugins.shared.images import in_batches, save_grid, to_float
from uldm_plugins.shared.place import device_of
from uldm_plugins.stages.latents import image_batches, index_batches, unless_stopped
from uldm_plugins.stages.sample import channels_last
from uldm_plugins.stages.training import read_images

PAIRS = 40
NEIGHBOURS_OF = 12
NEIGHBOURS = 4
CODES_AT_MOST = 1 << 20
"""Codes of a codebook whose counts are written down, one by one."""


def save_reconstructions(test: Dataset, images: Tensor, codes: Tensor | None, context: Context) -> None:
    """Write the first test images beside their reconstructions: ``reconstructions.png`` and ``.npz``.

    The ``.npz`` holds ``originals`` and ``reconstructions``, uint8 [N, H, W, C], and of a quantizer the
    ``codes``, int32 [N, h, w] or [N, Q, h, w].
    """
    originals = read_images(test, torch.arange(min(PAIRS, len(test)))).cpu()
    images = images[: len(originals)]
    save_grid(
        torch.stack([originals, images], 1).flatten(0, 1), context.artifact("reconstructions.png"), columns=10
    )
    context.publish("reconstructions.png")
    arrays = {"originals": channels_last(originals), "reconstructions": channels_last(images)}
    if codes is not None:
        arrays["codes"] = codes[: len(originals)].int()
    save_arrays(context.artifact("reconstructions.npz"), **arrays)


def save_codebook(codes: Tensor, autoencoder: Autoencoder, context: Context) -> None:
    """Write ``codebook.json``: how often each code of each codebook occurs in codes, the test split's.

    A codebook of more than a million codes, of which most never occur, is left out.
    """
    declared = autoencoder.quantizer.codebook_size if isinstance(autoencoder, Quantized) else 0
    size = max(declared, int(codes.max()) + 1)
    if size > CODES_AT_MOST:
        return
    counts = code_counts(codes, size)
    codebooks = [
        {"size": size, "counts": own.tolist(), "used": int((own > 0).sum()), "perplexity": round(spread, 4)}
        for own, spread in zip(counts, perplexity(counts).tolist())
    ]
    write_json(context.artifact("codebook.json"), {"codebooks": codebooks})


def save_nearest(samples: Tensor, dataset: Dataset, context: Context) -> None:
    """Write ``nearest.npz``: the training images nearest to the first samples, the nearest first.

    It holds ``samples``, uint8 [N, H, W, C], ``nearest``, uint8 [N, k, H, W, C], and ``distance``, float32
    [N, k]: the root mean square over pixels in [0, 1].
    """
    samples = samples[:NEIGHBOURS_OF]
    if samples.shape[1:] != (dataset.channels, *dataset.size):
        return  # of a stage that draws something else than the dataset's images
    images, distances = nearest(samples, dataset, NEIGHBOURS, context)
    save_arrays(
        context.artifact("nearest.npz"),
        samples=channels_last(samples),
        nearest=channels_last(images),
        distance=distances,
    )


@torch.inference_mode()
def nearest(images: Tensor, dataset: Dataset, k: int, context: Context) -> tuple[Tensor, Tensor]:
    """Return the ``k`` images of a dataset that are nearest in their pixels to each of some.

    Args:
        images: uint8 [N, C, H, W].
        dataset: of images of the same shape; if it has fewer than ``k``, all are returned.
        k: how many of each.
        context: the stage's, to which progress is reported.

    Returns:
        uint8 [N, k, C, H, W], nearest first, and the distances, float32 [N, k]: root mean squares over pixels
        in [0, 1].
    """
    context.begin("comparing samples with images", len(dataset))
    wanted = _pixels(images, context)
    distances, indices = wanted.new_empty(len(images), 0), torch.empty(len(images), 0, dtype=torch.int64)
    for batch, of_batch in zip(index_batches(dataset), image_batches(dataset)):
        found = torch.cdist(wanted, _pixels(of_batch, context))
        distances, kept = torch.cat([distances, found], 1).sort(dim=1, stable=True)
        indices = torch.cat([indices, batch.expand(len(images), -1)], 1).gather(1, kept.cpu())[:, :k]
        distances = distances[:, :k]
        context.advance(int(batch[-1]) + 1)
    chosen = read_images(dataset, indices.flatten()).cpu().unflatten(0, indices.shape)
    # again, exactly: a matrix product would not find an image at distance zero from itself
    exact = (chosen.double() - images.cpu().double()[:, None]).div(255).square().mean((2, 3, 4)).sqrt()
    exact, order = exact.sort(dim=1, stable=True)
    return chosen[torch.arange(len(images))[:, None], order], exact.float()


def _pixels(images: Tensor, context: Context) -> Tensor:
    """Return uint8 images as vectors [B, C H W] in [0, 1] on the stage's device."""
    return images.to(context.device).flatten(1).float() / 255


def save_classes(samples: Tensor, real: Dataset, classifier: HasLogits, context: Context) -> None:
    """Write ``classes.json``: the share of each class among samples and real images, by a classifier.

    ``labels`` are the numbers of its logits; the shares of ``samples`` and of ``real`` each add up to 1.
    """
    shares = {
        "samples": class_shares(unless_stopped(in_batches(samples), context), classifier),
        "real": class_shares(unless_stopped(image_batches(real), context), classifier),
    }
    labels = [str(number) for number in range(len(shares["samples"]))]
    write_json(context.artifact("classes.json"), {"labels": labels, **shares})


@torch.inference_mode()
def class_shares(batches: Iterable[Tensor], classifier: HasLogits) -> list[float]:
    """Return the share of each class in batches of uint8 images, as a backbone with ``logits`` sees them."""
    place = device_of(classifier)
    logits = [classifier.logits(to_float(batch.to(place))) for batch in batches]
    classes = torch.cat([of_batch.argmax(1) for of_batch in logits])
    counts = torch.bincount(classes, minlength=logits[0].shape[1])
    return [round(share, 6) for share in (counts / len(classes)).tolist()]
