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


class AugmentationEmbedding(nn.Linear):
    """A vector for the parameters of an augmentation; all 0, which is no change, adds nothing.

    Source: ``augment_labels`` of EDM (Karras et al. 2022, arXiv 2206.00364, appendix F.2).

    Args:
        parameters: of the augmentation.
        dim: of the vectors.
    """

    def __init__(self, parameters: int, dim: int) -> None:
        super().__init__(parameters, dim, bias=False)

    def forward(self, parameters: Tensor) -> Tensor:
        """Map parameters [B, P] to [B, dim].

        Raises:
            ValueError: it was made for another number of parameters.
        """
        if parameters.shape[1] != self.in_features:
            raise other_parameters(self.in_features, parameters)
        return super().forward(parameters.to(self.weight.dtype))


class Conditioned(nn.Module):
    """A denoiser that adds embeddings of a class and of an augmentation to that of the time."""

    class_embedding: ClassEmbedding | None
    augmentation_embedding: AugmentationEmbedding | None

    def make_embeddings(self, classes: int, augmentation: int, dim: int) -> None:
        """Make embeddings [dim] of so many classes and parameters, none of 0.

        A method and no constructor: layers are drawn and saved in the order in which they are made.
        """
        self.class_embedding = ClassEmbedding(classes, dim) if classes else None
        self.augmentation_embedding = AugmentationEmbedding(augmentation, dim) if augmentation else None

    def conditioned(self, embedding: Tensor, condition: Tensor | None, augmentation: Tensor | None) -> Tensor:
        """Add the embeddings of classes [B] and parameters [B, P] to that of the time [B, dim].

        None is "no class", and parameters of 0.

        Raises:
            ValueError: the denoiser was made without classes, or for another number of parameters.
        """
        if self.class_embedding is not None:
            if condition is None:
                condition = torch.full_like(
                    embedding[:, 0], self.class_embedding.num_embeddings - 1, dtype=torch.int64
                )
            embedding = embedding + self.class_embedding(condition).to(embedding.dtype)
        elif condition is not None:
            raise ValueError("this denoiser was made without classes: it takes no condition")
        if augmentation is None:
            return embedding
        if self.augmentation_embedding is None:
            raise other_parameters(0, augmentation)
        return embedding + self.augmentation_embedding(augmentation).to(embedding.dtype)


def other_parameters(known: int, given: Tensor) -> ValueError:
    """Return the error of parameters [B, P] that are not those which a denoiser was made for."""
    return ValueError(
        f"this denoiser was made with augmentation = {known}: it takes no {given.shape[1]} parameters"
    )
