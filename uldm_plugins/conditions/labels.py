"""The classes of a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from annotated_types import Ge, MinLen
from torch import Tensor

from uldm_core.errors import OptionError
from uldm_core.shapes import is_shapes_only
from uldm_plugins.conditions.assigned import AssignedClasses

NO_NAMES = 10
"""Classes for the shapes alone, where only the images tell how many there are."""


class Labels(AssignedClasses):
    """The dataset's own labels.

    Args:
        classes: how many, labels are from 0 to ``classes`` - 1; by default as many as have names.
        class_names: what they are called; those of the dataset, if it has names for them.

    Raises:
        ValueError: there are no names, and ``classes`` is not given; or there are more or fewer.
    """

    def __init__(
        self,
        classes: Annotated[int, Ge(1)] | None = None,
        class_names: Annotated[list[str], MinLen(1)] | None = None,
    ) -> None:
        if classes and class_names and classes != len(class_names):
            raise OptionError(f"classes = {classes}, and there are {len(class_names)} names: leave it out")
        self.class_names = class_names
        known = classes or len(class_names or ()) or (NO_NAMES if is_shapes_only() else 0)
        if not known:
            raise OptionError(
                "the dataset names no classes: say how many, classes = 10; if it has no labels, take clusters"
            )
        super().__init__(known)

    def fit(self, batches: Iterable[Tensor], labels: Tensor | None) -> None:
        """Keep the labels, int64 [N].

        Raises:
            ValueError: there are none, or one of a class that there is not.
        """
        self.check_labels(labels)
        if labels is not None:
            self.assigned = labels.cpu().long().clone()

    def check_labels(self, labels: Tensor | None) -> None:
        """Raise ``ValueError`` if there are no labels, or one of a class that there is not."""
        if labels is None:
            raise ValueError("the dataset has no labels: take clusters, or no condition")
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= self.classes:
            raise ValueError(f"labels are from {least} to {most}, with classes = {self.classes}")
