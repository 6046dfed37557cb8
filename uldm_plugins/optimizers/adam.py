"""Adam and AdamW, as torch has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch.nn import Parameter

LR = Annotated[float, Gt(0)]
Beta = Annotated[float, Interval(ge=0, lt=1)]


def adamw(
    parameters: Iterable[Parameter],
    /,
    lr: LR = 1e-3,
    betas: tuple[Beta, Beta] = (0.9, 0.99),
    eps: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Annotated[float, Ge(0)] = 0.01,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay, fused (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Args:
        lr: learning rate; the schedule multiplies it.
        betas: decay of the first and second moments.
        eps: added to the denominator.
        weight_decay: share of each weight taken off a step, times lr.
    """
    return torch.optim.AdamW(parameters, lr, betas, eps, weight_decay, fused=True)


def adam(
    parameters: Iterable[Parameter],
    /,
    lr: LR = 1e-3,
    betas: tuple[Beta, Beta] = (0.9, 0.999),
    eps: Annotated[float, Gt(0)] = 1e-8,
) -> torch.optim.Adam:
    """Adam, fused (Kingma and Ba 2015, arXiv 1412.6980).

    Args:
        lr: learning rate; the schedule multiplies it.
        betas: decay of the first and second moments.
        eps: added to the denominator.
    """
    return torch.optim.Adam(parameters, lr, betas, eps, fused=True)
