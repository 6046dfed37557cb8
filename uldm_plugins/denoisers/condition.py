"""The embedding of the condition, which is added to that of the time."""

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
