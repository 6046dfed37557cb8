"""The straight path from data to noise."""

from __future__ import annotations

from torch import Tensor

from uldm_plugins.noise_schedulers.predictions import Prediction, StraightFlow
from uldm_plugins.noise_schedulers.process import Process


class Flow(Process):
    """x_t = (1 - t) x0 + t noise (rectified flow, Liu et al. 2023, arXiv 2209.03003).

    Time runs from data at 0 to noise at 1; some implementations run it the other way.

    Args:
        prediction: what the denoiser predicts; ``flow`` is the velocity noise - x0. ``epsilon`` is refused:
            at t = 1 it says nothing of the data.
    """

    def __init__(self, prediction: Prediction = "flow") -> None:
        if prediction == "epsilon":
            raise ValueError(
                "prediction: pure noise, at t = 1, says nothing of the data by epsilon; predict flow"
            )
        super().__init__(prediction)
        if prediction == "flow":
            self.prediction_type = StraightFlow()

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(1 - t, t)``."""
        return 1 - t, t
