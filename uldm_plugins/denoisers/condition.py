"""The embedding of the condition, which is added to that of the time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassEmbedding(nn.Embedding):
    """A vector for each class, and one for "not told".

    Source: ``LabelEmbedder`` of DiT (Peebles and Xie 2023, arXiv 2212.09748).

    Args:
        classes: of the condition; the index ``classes`` means "not told".
        dim: of the vectors.
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes + 1, dim)


def class_embedding(classes: int, dim: int) -> ClassEmbedding | None:
    """Return the embedding of so many classes; None of none."""
    return ClassEmbedding(classes, dim) if classes else None


def with_condition(embedding: Tensor, classes: ClassEmbedding | None, condition: Tensor | None) -> Tensor:
    """Add what is told of the classes [B] to the embedding of the time [B, dim]; None is "not told".

    Raises:
        ValueError: a condition is told to a denoiser without classes.
    """
    if classes is None:
        if condition is not None:
            raise ValueError("this denoiser was made without classes: it takes no condition")
        return embedding
    untold = classes.num_embeddings - 1
    told = classes(
        torch.full_like(embedding[:, 0], untold, dtype=torch.int64) if condition is None else condition
    )
    return embedding + told.to(embedding.dtype)
