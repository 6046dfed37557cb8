"""What conditions share: a class for each image of the training set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Generator, Tensor


class AssignedClasses(ABC):
    """A class for each image of the training set, drawn as often as it occurs there.

    Args:
        classes: how many there are; those of images are 0 to ``classes`` - 1.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.assigned = torch.zeros(0, dtype=torch.int64)

    @abstractmethod
    def fit(self, batches: Iterable[Tensor], labels: Tensor | None) -> None:
        """Assign a class to each image."""

    def of(self, indices: Tensor) -> Tensor:
        """Return the classes of images of the training set, int64 [B]."""
        return self.assigned[indices]

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Return the classes of n images of the training set, drawn with replacement, int64 [n]."""
        if not len(self.assigned):
            raise ValueError("it is not fitted yet, so no class can be drawn")
        return self.assigned[torch.randint(len(self.assigned), (n,), generator=generator)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the class of each image of the training set, int64 [N]."""
        return {"assigned": self.assigned}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave."""
        self.assigned = state["assigned"].cpu().clone()
