"""The straight path from data to noise."""

from __future__ import annotations

from torch import Tensor

from uldm_plugins.noise_schedulers.process import Prediction, Process


class Flow(Process):
    """x_t = (1 - t) x0 + t noise (rectified flow, Liu et al. 2023, arXiv 2209.03003).

    Time runs from data at 0 to noise at 1; some implementations run it the other way.

    Args:
        prediction: what the denoiser predicts; ``flow`` is the velocity noise - x0.
    """

    def __init__(self, prediction: Prediction = "flow") -> None:
        super().__init__(prediction)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(1 - t, t)``."""
        return 1 - t, t
