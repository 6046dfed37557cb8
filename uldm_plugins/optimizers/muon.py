"""Muon for matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval
from torch.nn import Parameter

from uldm_plugins.optimizers.adam import LR, Beta


class Muon:
    """Momentum whose update is made orthogonal, for weight matrices; AdamW for all else.

    Muon is for matrices, so convolutions, biases and norms get AdamW; both obey one ``lr``, since Muon's
    updates are scaled to the size of AdamW's.

    Source: Jordan 2024; Liu et al. 2025 (arXiv 2502.16982); ``torch.optim.Muon``.

    Args:
        lr: learning rate; the schedule multiplies it.
        momentum: of Muon.
        weight_decay: share of each weight taken off a step, times lr.
        betas: decay of AdamW's moments.
        eps: added to AdamW's denominator.

    Raises:
        ValueError: this torch has no Muon (it came with 2.9).
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        /,
        lr: LR = 1e-3,
        momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.95,
        weight_decay: Annotated[float, Ge(0)] = 0.01,
        betas: tuple[Beta, Beta] = (0.9, 0.99),
        eps: Annotated[float, Gt(0)] = 1e-8,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon: take 2.9 or later, or adamw")
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        others = [parameter for parameter in parameters if parameter.ndim != 2]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            scale = "match_rms_adamw"
            muon = torch.optim.Muon(matrices, lr, weight_decay, momentum=momentum, adjust_lr_fn=scale)
            self.parts.append(muon)
        if others:
            self.parts.append(torch.optim.AdamW(others, lr, betas, eps, weight_decay, fused=True))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
