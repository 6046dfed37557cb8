"""The embeddings of the condition and of an augmentation, which are added to that of the time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassEmbedding(nn.Embedding):
    """A vector for each class, and one for "no class".

    Source: ``LabelEmbedder`` of DiT (Peebles and Xie 2023, arXiv 2212.09748).

    Args:
        classes: of the condition; the index ``classes`` means "no class".
        dim: of the vectors.
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes + 1, dim)


def class_embedding(classes: int, dim: int) -> ClassEmbedding | None:
    """Return the embedding of so many classes; None of none."""
    return ClassEmbedding(classes, dim) if classes else None


def with_condition(embedding: Tensor, classes: ClassEmbedding | None, condition: Tensor | None) -> Tensor:
    """Add the embedding of the classes [B] to that of the time [B, dim]; None is "no class".

    Raises:
        ValueError: a denoiser without classes is given a condition.
    """
    if classes is None:
        if condition is not None:
            raise ValueError("this denoiser was made without classes: it takes no condition")
        return embedding
    if condition is None:
        condition = torch.full_like(embedding[:, 0], classes.num_embeddings - 1, dtype=torch.int64)
    return embedding + classes(condition).to(embedding.dtype)


class AugmentationEmbedding(nn.Linear):
    """A vector for the parameters of an augmentation; all 0, which is no change, adds nothing.

    Source: ``augment_labels`` of EDM (Karras et al. 2022, arXiv 2206.00364, appendix F.2).

    Args:
        parameters: of the augmentation.
        dim: of the vectors.
    """

    def __init__(self, parameters: int, dim: int) -> None:
        super().__init__(parameters, dim, bias=False)


def augmentation_embedding(parameters: int, dim: int) -> AugmentationEmbedding | None:
    """Return the embedding of so many parameters; None of none."""
    return AugmentationEmbedding(parameters, dim) if parameters else None


def with_augmentation(
    embedding: Tensor, layer: AugmentationEmbedding | None, augmentation: Tensor | None
) -> Tensor:
    """Add the embedding of an augmentation's parameters [B, P] to that of the time [B, dim]; None is all 0.

    Raises:
        ValueError: the denoiser was made for another number of parameters, or none.
    """
    if augmentation is None:
        return embedding
    known = 0 if layer is None else layer.in_features
    if layer is None or augmentation.shape[1] != known:
        given = augmentation.shape[1]
        raise ValueError(
            f"this denoiser was made with augmentation = {known}: it takes no {given} parameters"
        )
    return embedding + layer(augmentation.to(layer.weight.dtype)).to(embedding.dtype)
