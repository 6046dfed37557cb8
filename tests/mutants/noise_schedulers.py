"""Broken and sound noise schedulers."""

from __future__ import annotations

import math

import torch

from mutants.catalogue import mutant, sound


def like(values, x):
    return values.view(-1, *(1,) * (x.ndim - 1))


@sound("noise_scheduler")
class Cosine:
    """Continuous time on a quarter circle, every prediction: it stops short of both ends."""

    timesteps = None

    def __init__(self, prediction: str = "epsilon"):
        if prediction not in ("epsilon", "sample", "v", "flow"):
            raise ValueError(f"unknown prediction {prediction!r}")
        self.prediction = prediction

    def coefficients(self, t):
        angle = 0.001 + t * (math.pi / 2 - 0.002)
        return angle.cos(), angle.sin()

    def pair(self, t, x):
        alpha, sigma = self.coefficients(t)
        return like(alpha, x), like(sigma, x)

    def add_noise(self, x0, noise, t):
        alpha, sigma = self.pair(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0, noise, t):
        alpha, sigma = self.pair(t, x0)
        return {
            "epsilon": lambda: noise,
            "sample": lambda: x0,
            "v": lambda: alpha * noise - sigma * x0,
            "flow": lambda: noise - x0,
        }[self.prediction]()

    def snr(self, t):
        alpha, sigma = self.coefficients(t)
        return (alpha / sigma) ** 2

    def split(self, prediction, x_t, t):
        alpha, sigma = self.pair(t, x_t)
        if self.prediction == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction
        if self.prediction == "sample":
            return prediction, (x_t - alpha * prediction) / sigma
        norm = alpha**2 + sigma**2 if self.prediction == "v" else alpha + sigma
        if self.prediction == "v":
            return (alpha * x_t - sigma * prediction) / norm, (sigma * x_t + alpha * prediction) / norm
        return (x_t - sigma * prediction) / norm, (x_t + alpha * prediction) / norm

    def conditioning(self, t):
        return t * 1000


@sound("noise_scheduler")
class VarianceExploding(Cosine):
    """Noise is added to data that keep their size (Karras's sigmas)."""

    def coefficients(self, t):
        low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
        return torch.ones_like(t), (low + t * (high - low)) ** 7

    def conditioning(self, t):
        return self.coefficients(t)[1].log() / 4


@sound("noise_scheduler")
class FlowOnly(Cosine):
    """Rectified flow: one prediction, given by no option."""

    def __init__(self):
        super().__init__("flow")

    def coefficients(self, t):
        return 1 - t, t


@sound("noise_scheduler")
class Discrete(Cosine):
    """A table of a hundred steps, linear in beta."""

    timesteps = 100

    def __init__(self, prediction: str = "epsilon"):
        super().__init__(prediction)
        self.alpha_bar = self.table()

    def betas(self):
        return torch.linspace(1e-3, 0.2, self.timesteps, dtype=torch.float64)

    def table(self):
        return (1 - self.betas()).cumprod(0)

    def index(self, t):
        return (t * (self.timesteps - 1)).round().long()

    def coefficients(self, t):
        alpha_bar = self.alpha_bar.to(t.device)[self.index(t)]
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def conditioning(self, t):
        return self.index(t).float()


@sound("noise_scheduler")
class ZeroTerminal(Discrete):
    """The last step is noise and nothing else; epsilon says nothing there and is refused."""

    def __init__(self, prediction: str = "v"):
        if prediction == "epsilon":
            raise ValueError("at zero SNR the noise says nothing of the data: take v")
        super().__init__(prediction)

    def table(self):
        root = super().table().sqrt()
        return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@sound("noise_scheduler")
class CosineToTheEnd(Cosine):
    """The whole quarter circle, as cos and sin give it: in float32 alpha ends at -4e-8. Predicts v."""

    def __init__(self):
        super().__init__("v")

    def coefficients(self, t):
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)

    def pair(self, t, x):
        alpha, sigma = self.coefficients(t)
        return alpha[:, None, None, None], sigma[:, None, None, None]


@sound("noise_scheduler")
class VariancePreservingSde(Cosine):
    """Beta rises evenly in continuous time (Song et al. 2021); the denoiser is told log-SNR, which falls."""

    def __init__(self):
        super().__init__("v")

    def coefficients(self, t):
        log_alpha = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def conditioning(self, t):
        return self.snr(t.clamp(min=1e-5)).log()


@sound("noise_scheduler")
class StepsOfOneWidth(Discrete):
    """t T rounded down: each step has an equal share of the times."""

    def index(self, t):
        return (t.double() * self.timesteps).long().clamp(max=self.timesteps - 1)


@sound("noise_scheduler")
class BetweenSteps(Discrete):
    """A table that is read between its steps, straight."""

    def coefficients(self, t):
        place = t.double() * (self.timesteps - 1)
        low = place.floor().long().clamp(max=self.timesteps - 2)
        table = self.alpha_bar.to(t.device)
        alpha_bar = torch.lerp(table[low], table[low + 1], place - low)
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()


@sound("noise_scheduler")
class EightSteps(Discrete):
    """A cosine in eight steps, the first of which is noisy already."""

    timesteps = 8

    def table(self):
        steps = torch.arange(1, self.timesteps + 1, dtype=torch.float64) / self.timesteps
        return torch.cos((steps + 0.008) / 1.008 * math.pi / 2).square().clamp(min=1e-5)


@sound("noise_scheduler")
class AnyNumberOfSteps(Discrete):
    """As many steps as are asked for; where there are too few for the betas, they are refused."""

    def __init__(self, timesteps: int = 1000, prediction: str = "v"):
        if timesteps < 20:
            raise ValueError(f"{timesteps} timesteps: 20 are the least")
        self.timesteps = timesteps
        super().__init__(prediction)

    def betas(self):
        scale = 1000 / self.timesteps
        return torch.linspace(1e-4 * scale, 0.02 * scale, self.timesteps, dtype=torch.float64)


@sound("noise_scheduler")
class Normalised(VarianceExploding):
    """The denoiser is given x_t over its own deviation, measured (Chen 2023)."""

    def scale_input(self, x_t, t):
        return x_t / x_t.std((1, 2, 3), keepdim=True)


@sound("noise_scheduler")
class Preconditioned(VarianceExploding):
    """Karras's preconditioning: its prediction has a name that the others have not."""

    def __init__(self):
        self.prediction = "edm"

    def target(self, x0, noise, t):
        _, sigma = self.pair(t, x0)
        return (sigma * x0 - noise) / (sigma**2 + 1).sqrt()

    def split(self, prediction, x_t, t):
        _, sigma = self.pair(t, x_t)
        x0 = x_t / (sigma**2 + 1) + sigma / (sigma**2 + 1).sqrt() * prediction
        return x0, (x_t - x0) / sigma

    def scale_input(self, x_t, t):
        return x_t / (self.pair(t, x_t)[1] ** 2 + 1).sqrt()


@sound("noise_scheduler")
class Learned(torch.nn.Module):
    """log-SNR falls along a line whose ends are trained (Kingma et al. 2021)."""

    timesteps = None
    prediction = "v"

    def __init__(self):
        super().__init__()
        self.ends = torch.nn.Parameter(torch.tensor([10.0, -10.0]))

    def log_snr(self, t):
        first, last = self.ends.float()
        return first + (last - first) * t

    def coefficients(self, t):
        log_snr = self.log_snr(t)
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def add_noise(self, x0, noise, t):
        alpha, sigma = (like(c, x0) for c in self.coefficients(t))
        return alpha * x0 + sigma * noise

    def target(self, x0, noise, t):
        alpha, sigma = (like(c, x0) for c in self.coefficients(t))
        return alpha * noise - sigma * x0

    def split(self, prediction, x_t, t):
        alpha, sigma = (like(c, x_t) for c in self.coefficients(t))
        return alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction

    def snr(self, t):
        return self.log_snr(t).exp()

    def conditioning(self, t):
        return self.log_snr(t)


@mutant("noise_scheduler", killed_by="snr_matches")
class SnrNotSquared(Cosine):
    """The signal-to-noise ratio is alpha / sigma."""

    def snr(self, t):
        alpha, sigma = self.coefficients(t)
        return alpha / sigma


@mutant("noise_scheduler", killed_by="snr_matches")
class SnrUpsideDown(Cosine):
    """The signal-to-noise ratio is the noise-to-signal ratio."""

    def snr(self, t):
        return 1 / super().snr(t)


@mutant("noise_scheduler", killed_by="starts_clean_ends_noisy")
class AlphaForAlphaBar(Discrete):
    """Each step's own alpha is taken for the product of all up to it."""

    def table(self):
        return 1 - self.betas()


@mutant("noise_scheduler", killed_by="starts_clean_ends_noisy")
class TooFewBetas(Discrete):
    """The betas of a thousand steps are used for a hundred: the last step is half data."""

    def betas(self):
        return torch.linspace(1e-4, 0.02, self.timesteps, dtype=torch.float64)


@mutant("noise_scheduler", killed_by="starts_clean_ends_noisy")
class OneLogarithmShort(VarianceExploding):
    """The largest sigma is 8, not 80, of data that keep their size."""

    def coefficients(self, t):
        low, high = 0.002 ** (1 / 7), 8 ** (1 / 7)
        return torch.ones_like(t), (low + t * (high - low)) ** 7


@mutant("noise_scheduler", killed_by="snr_falls")
class TimeRunsBackwards(Cosine):
    """Time 0 is noise and time 1 is data."""

    def coefficients(self, t):
        return super().coefficients(1 - t)


@mutant("noise_scheduler", killed_by="snr_falls")
class LastStepTwice(Discrete):
    """t * T is cut off at the last step: the one before it is never reached, or reached twice."""

    def index(self, t):
        return (t * self.timesteps).round().long().clamp(max=self.timesteps - 1)


@mutant("noise_scheduler", killed_by="snr_falls")
class TableOfOneFewer(Discrete):
    """The table is made of T - 1 steps, its last value repeated."""

    def table(self):
        return torch.cat([super().table()[:-1], super().table()[-2:-1]])


@mutant("noise_scheduler", killed_by="snr_falls")
class RoundedTable(Discrete):
    """The product is written down with two digits: the steps near data are one."""

    def table(self):
        return super().table().round(decimals=2)


@mutant("noise_scheduler", killed_by="timesteps_known")
class FloorsTheTime(Discrete):
    """The time is floored, not rounded, to a step: rounding errors lead to the step below."""

    def index(self, t):
        return (t * (self.timesteps - 1)).long()


@mutant("noise_scheduler", killed_by="noise_added_as_declared")
class SigmaWithoutRoot(Cosine):
    """The noise is scaled by the variance, not its root."""

    def add_noise(self, x0, noise, t):
        alpha, sigma = self.pair(t, x0)
        return alpha * x0 + sigma**2 * noise


@mutant("noise_scheduler", killed_by="noise_added_as_declared")
class OneStepLate(Discrete):
    """Noise is added for the step after the one that is asked for."""

    def add_noise(self, x0, noise, t):
        return super().add_noise(x0, noise, (t + 1 / (self.timesteps - 1)).clamp(max=1))


@mutant("noise_scheduler", killed_by="noise_added_as_declared")
class ClampsNoised(Cosine):
    """What is noised is clamped to the range of images."""

    def add_noise(self, x0, noise, t):
        return super().add_noise(x0, noise, t).clamp(-1, 1)


@mutant("noise_scheduler", killed_by="times_per_sample")
class FirstTimeForAll(Cosine):
    """The first sample's time is used for the whole batch."""

    def pair(self, t, x):
        return super().pair(t.reshape(-1)[:1], x)


@mutant("noise_scheduler", killed_by="times_per_sample")
class TimesAlongTheWidth(Cosine):
    """Coefficients are broadcast along the last side, not over samples."""

    def pair(self, t, x):
        alpha, sigma = self.coefficients(t)
        if t.ndim and x.shape[-1] == len(t):
            return alpha, sigma
        return like(alpha, x), like(sigma, x)


@mutant("noise_scheduler", killed_by="target_means_its_name")
class VelocityUpsideDown(Cosine):
    """v has the other sign."""

    def target(self, x0, noise, t):
        target = super().target(x0, noise, t)
        return -target if self.prediction == "v" else target


@mutant("noise_scheduler", killed_by="target_means_its_name")
class FlowUpsideDown(FlowOnly):
    """The flow runs from noise to data, and so says its own inverse: consistent, and the other sign."""

    def target(self, x0, noise, t):
        return x0 - noise

    def split(self, prediction, x_t, t):
        return super().split(-prediction, x_t, t)


@mutant("noise_scheduler", killed_by="target_means_its_name")
class SampleAndEpsilonSwapped(Cosine):
    """The two simplest targets are swapped."""

    def target(self, x0, noise, t):
        swapped = {"epsilon": x0, "sample": noise}
        return swapped.get(self.prediction, super().target(x0, noise, t))


@mutant("noise_scheduler", killed_by="target_splits_back")
class SplitSwapsCoefficients(Cosine):
    """Turning v back into data and noise mixes up alpha and sigma."""

    def split(self, prediction, x_t, t):
        x0, noise = super().split(prediction, x_t, t)
        return (noise, x0) if self.prediction == "v" else (x0, noise)


@mutant("noise_scheduler", killed_by="target_splits_back")
class ClipsSample(Cosine):
    """The data that a prediction implies are clipped to [-1, 1]: latents are not images."""

    def split(self, prediction, x_t, t):
        x0, noise = super().split(prediction, x_t, t)
        return x0.clamp(-1, 1), noise


@mutant("noise_scheduler", killed_by="target_splits_back")
class SplitForgetsRoot(Cosine):
    """Epsilon is turned into data by alpha squared."""

    def split(self, prediction, x_t, t):
        x0, noise = super().split(prediction, x_t, t)
        return (x0 / self.pair(t, x_t)[0], noise) if self.prediction == "epsilon" else (x0, noise)


@mutant("noise_scheduler", killed_by="split_finite")
class EpsilonAtPureNoise(Cosine):
    """Rectified flow takes epsilon, which at t = 1, where alpha is 0, says nothing of the data."""

    def __init__(self, prediction: str = "flow"):
        if prediction == "sample":
            raise ValueError("sample says nothing of the noise at t = 0")
        super().__init__(prediction)

    def coefficients(self, t):
        return 1 - t, t


@mutant("noise_scheduler", killed_by="split_finite")
class SampleAtCleanData(Cosine):
    """Noise is told by the data, and divided by sigma where that is 0."""

    def coefficients(self, t):
        angle = t * (math.pi / 2 - 0.001)
        return angle.cos(), angle.sin()


@mutant("noise_scheduler", killed_by="conditioning_one_to_one")
class TimeAsInteger(Cosine):
    """The denoiser is told the time in [0, 1], truncated to an integer."""

    def conditioning(self, t):
        return t.long().float()


@mutant("noise_scheduler", killed_by="conditioning_one_to_one")
class TellsLogOfZero(FlowOnly):
    """The denoiser is told the logarithm of the noise level, infinite at 0."""

    def conditioning(self, t):
        return self.coefficients(t)[1].log()


@mutant("noise_scheduler", killed_by="coefficients_legal")
class AngleBeyondTheQuarter(Cosine):
    """The cosine's offset takes the angle beyond the quarter circle: alpha falls below zero."""

    def coefficients(self, t):
        angle = (t + 0.008) * math.pi / 2
        return angle.cos(), angle.sin()


@mutant("noise_scheduler", killed_by="coefficients_legal")
class RootOfNegative(Cosine):
    """alpha^2 is taken from a polynomial that falls below zero: its root is NaN."""

    def coefficients(self, t):
        square = 1 - 1.02 * t
        return square.sqrt(), (1 - square).sqrt()


@mutant("noise_scheduler", killed_by="noise_added_as_declared")
class ShiftedWhereItCounts(FlowOnly):
    """Times are shifted where noise is added and taken off; the coefficients know nothing of it."""

    def pair(self, t, x):
        return super().pair(3 * t / (1 + 2 * t), x)


@mutant("noise_scheduler", killed_by="target_means_its_name")
class IgnoresThePrediction(Cosine):
    """Whatever is to be predicted, it is built for epsilon, and says so."""

    def __init__(self, prediction: str = "epsilon"):
        super().__init__("epsilon")


@mutant("noise_scheduler", killed_by="times_per_sample")
class InputOfTheFirst(Preconditioned):
    """The input is scaled by the first sample's noise."""

    def scale_input(self, x_t, t):
        return super().scale_input(x_t, t[:1].expand(len(t)))


@mutant("noise_scheduler", killed_by="times_per_sample")
class InputByTheMeanTime(Preconditioned):
    """The input is scaled by one number for the batch."""

    def scale_input(self, x_t, t):
        return x_t / (self.coefficients(t)[1].mean() ** 2 + 1).sqrt()


@mutant("noise_scheduler", killed_by="times_per_sample")
class TimesOverTheLatest(Cosine):
    """The denoiser is told each time as a share of the batch's latest."""

    def conditioning(self, t):
        return 1000 * t / t.max().clamp(min=1e-6)


@mutant("noise_scheduler", killed_by="times_per_sample")
class SnrOfTheMean(Cosine):
    """The ratio of a batch is drawn to its mean, so that no weight is extreme."""

    def snr(self, t):
        snr = super().snr(t)
        return snr if len(t) > 300 else 0.5 * (snr + snr.mean())


@mutant("noise_scheduler", killed_by="input_scaled")
class DividesByTheLogarithm(FlowOnly):
    """The input is divided by a deviation that is zero where there is no noise."""

    def scale_input(self, x_t, t):
        return x_t / self.pair(t, x_t)[1]


@mutant("noise_scheduler", killed_by="input_scaled")
class InputByTheVariance(Preconditioned):
    """The input is divided by its variance, not its deviation: of strong noise nothing is left."""

    def scale_input(self, x_t, t):
        return x_t / (self.pair(t, x_t)[1] ** 2 + 1)


@mutant("noise_scheduler", killed_by="input_scaled")
class InputClipped(Preconditioned):
    """The scaled input is clipped to [-1, 1], as if it were an image."""

    def scale_input(self, x_t, t):
        return super().scale_input(x_t, t).clamp(-1, 1)


@mutant("noise_scheduler", killed_by="precision_kept")
class TableInDouble(Discrete):
    """The table's double precision is handed on: what is noised is float64, which no denoiser takes."""

    def coefficients(self, t):
        alpha_bar = self.alpha_bar.to(t.device)[self.index(t)]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


@mutant("noise_scheduler", killed_by="precision_kept")
class InputInDouble(Preconditioned):
    """The input is scaled in double precision, and left so."""

    def scale_input(self, x_t, t):
        return x_t.double() / (self.pair(t, x_t)[1].double() ** 2 + 1).sqrt()


@mutant("noise_scheduler", killed_by="tensors_left_alone")
class SplitsInPlace(FlowOnly):
    """x_t becomes the data in its own memory."""

    def split(self, prediction, x_t, t):
        x0 = x_t.sub_(self.pair(t, x_t)[1] * prediction)
        return x0, x0 + prediction


@mutant("noise_scheduler", killed_by="tensors_left_alone")
class ScalesInPlace(Preconditioned):
    """The sampler's x_t is scaled, not a copy of it."""

    def scale_input(self, x_t, t):
        return x_t.div_((self.pair(t, x_t)[1] ** 2 + 1).sqrt())


@mutant("noise_scheduler", killed_by="conditioning_one_to_one")
class ClampedLogSnr(VarianceExploding):
    """The logarithm that the denoiser is told is clamped to [-1, 1]: the noisiest times are one."""

    def conditioning(self, t):
        return super().conditioning(t).clamp(-1, 1)


@mutant("noise_scheduler", killed_by="timesteps_known")
class FloorsFourTimes(Discrete):
    """The time is floored to one of five steps: a rounding error too small, it means the step below."""

    timesteps = 5

    def betas(self):
        return torch.tensor([0.01, 0.2, 0.6, 0.9, 0.95], dtype=torch.float64)

    def index(self, t):
        return (t * (self.timesteps - 1)).long()


@mutant("noise_scheduler", killed_by="few_timesteps")
class BetasAboveOne(AnyNumberOfSteps):
    """Betas are scaled to the number of steps, and with few of them exceed 1: alpha is NaN."""

    def __init__(self, timesteps: int = 1000, prediction: str = "v"):
        self.timesteps = timesteps
        Discrete.__init__(self, prediction)


@mutant("noise_scheduler", killed_by="works_elsewhere")
class TableStaysOnTheCpu(Discrete):
    """The table is no buffer, and stays on the CPU while times are elsewhere."""

    def coefficients(self, t):
        alpha_bar = self.alpha_bar[self.index(t)]
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
