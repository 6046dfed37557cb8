"""What conditions share: a class for each image of the training set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Generator, Tensor

GOLDEN = (5**0.5 - 1) / 2


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
        """Return n classes, int64 [n], more evenly than by chance: the share of each is nearly exact.

        They are those at the places (u + i / golden ratio) mod 1 of the sorted training set, i from 0, u
        drawn by the generator: each is drawn as often as it occurs, and a larger n begins with the same ones.

        Source: the additive recurrence of low discrepancy, Kuipers and Niederreiter 1974, chapter 2.
        """
        if not len(self.assigned):
            raise ValueError("it is not fitted yet, so no class can be drawn")
        first = torch.rand((), generator=generator, dtype=torch.float64)
        places = (first + torch.arange(n, dtype=torch.float64) * GOLDEN) % 1
        return self.assigned.sort().values[(places * len(self.assigned)).long()]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the class of each image of the training set, int64 [N]."""
        return {"assigned": self.assigned}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave."""
        self.assigned = state["assigned"].cpu().clone()
