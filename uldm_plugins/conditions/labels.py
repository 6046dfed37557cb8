"""The classes of a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from uldm_plugins.conditions.assigned import AssignedClasses


class Labels(AssignedClasses):
    """The dataset's own labels.

    Args:
        classes: how many; labels are from 0 to ``classes`` - 1.
    """

    def __init__(self, classes: Annotated[int, Ge(1)]) -> None:
        super().__init__(classes)

    def fit(self, batches: Iterable[Tensor], labels: Tensor | None) -> None:
        """Keep the labels, int64 [N].

        Raises:
            ValueError: there are none, or one of a class that there is not.
        """
        if labels is None:
            raise ValueError("the dataset has no labels: take clusters, or no condition")
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= self.classes:
            raise ValueError(f"labels are from {least} to {most}, with classes = {self.classes}")
        self.assigned = labels.cpu().long().clone()
