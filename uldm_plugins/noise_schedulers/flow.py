"""The straight path from data to noise."""

from __future__ import annotations

import torch
from torch import Tensor

from uldm_plugins.noise_schedulers.process import Prediction, Process


class Flow(Process):
    """x_t = (1 - t) x0 + t noise (rectified flow, Liu et al. 2023, arXiv 2209.03003).

    Time runs from data at 0 to noise at 1; some implementations run it the other way.

    Args:
        prediction: what the denoiser predicts; ``flow`` is the velocity noise - x0. ``epsilon`` is refused:
            the data cannot be told by it at t = 1.
    """

    def __init__(self, prediction: Prediction = "flow") -> None:
        if prediction == "epsilon":
            raise ValueError(
                "prediction: pure noise, at t = 1, says nothing of the data by epsilon; predict flow"
            )
        super().__init__(prediction)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(1 - t, t)``."""
        return 1 - t, t

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction at x_t implies them; of a velocity without a division."""
        if self.prediction != "flow":
            return super().split(prediction, x_t, t)
        x0 = torch.addcmul(x_t, t.view(-1, *(1,) * (x_t.ndim - 1)), prediction, value=-1)
        return x0, x0 + prediction
