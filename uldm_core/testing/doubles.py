"""Small, exact stand-ins for the other components that a check needs; no plugin's component is used."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uldm_core.protocols import Denoise, Models, NoiseScheduler


class Path:
    """x_t = alpha x0 + sigma noise: data at 0, noise at 1.

    It is ``straight`` (flow) or ``circular`` (variance-preserving), both in continuous time and with nothing
    but noise at 1; ``discrete``, steps on the circle that reach neither end (alpha falls to 5e-5);
    or ``exploding``, where data keep their size and sigma grows to 80.
    """

    timesteps: int | None = None

    def __init__(self, shape: str = "straight", prediction: str = "flow", timesteps: int = 1000) -> None:
        self.shape = shape
        self.prediction = prediction
        if shape == "discrete":
            self.timesteps = timesteps

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(alpha, sigma)``, each of t's shape."""
        if self.shape == "straight":
            return 1 - t, t
        if self.shape == "exploding":
            low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
            return torch.ones_like(t), (low + t * (high - low)) ** 7
        angle = t * math.pi / 2
        if self.timesteps is not None:
            last = self.timesteps - 1
            angle = 0.01 + (t * last).round() / last * (math.pi / 2 - 0.01 - 5e-5)
        return angle.cos().clamp(min=0), angle.sin()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t."""
        alpha, sigma = self._like(x0, t)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what is to be predicted."""
        alpha, sigma = self._like(x0, t)
        return target_of(self.prediction, x0, noise, alpha, sigma)

    def snr(self, t: Tensor) -> Tensor:
        """Return alpha^2 / sigma^2."""
        alpha, sigma = self.coefficients(t)
        return (alpha / sigma).square()

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x0, noise)`` as the prediction implies them."""
        alpha, sigma = self._like(x_t, t)
        if self.prediction == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction
        if self.prediction == "sample":
            return prediction, (x_t - alpha * prediction) / sigma
        if self.prediction == "flow":
            norm = alpha + sigma
            return (x_t - sigma * prediction) / norm, (x_t + alpha * prediction) / norm
        norm = alpha.square() + sigma.square()
        return (alpha * x_t - sigma * prediction) / norm, (sigma * x_t + alpha * prediction) / norm

    def conditioning(self, t: Tensor) -> Tensor:
        """Return the time on the scale of 1,000 timesteps."""
        return t * 1000

    def _like(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.coefficients(t)
        shape = (-1, *(1,) * (x.ndim - 1))
        return alpha.view(shape), sigma.view(shape)


def straight() -> Path:
    """Return the flow path, predicting the velocity."""
    return Path("straight", "flow")


def circular() -> Path:
    """Return the variance-preserving path, predicting v."""
    return Path("circular", "v")


def discrete(prediction: str = "v", timesteps: int = 1000) -> Path:
    """Return the discrete path, whose alpha at 1 is tiny and not 0."""
    return Path("discrete", prediction, timesteps)


def exploding(prediction: str = "epsilon") -> Path:
    """Return the variance-exploding path, predicting the noise."""
    return Path("exploding", prediction)


def target_of(prediction: str, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what a prediction of a name means: ``epsilon``, ``sample``, ``v`` or ``flow``."""
    meanings = {
        "epsilon": noise,
        "sample": x0,
        "v": alpha * noise - sigma * x0,
        "flow": noise - x0,
    }
    return meanings[prediction]


def gaussian_denoiser(noise_scheduler: NoiseScheduler, mean: float, std: float) -> Denoise:
    """Return the exact denoiser of normal data: the posterior mean, as the scheduler's prediction."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c.view(-1, *(1,) * (x_t.ndim - 1)) for c in noise_scheduler.coefficients(t))
        variance = (alpha.square() * std**2 + sigma.square()).clamp(min=1e-30)  # 0 of a point without noise
        residual = x_t - alpha * mean
        x0 = mean + alpha * std**2 / variance * residual
        noise = sigma / variance * residual
        return noise_scheduler.target(x0, noise, t)

    return denoise


class TinyModel:
    """A denoiser as guidance calls it: its data get better along ``direction``; it remembers its calls.

    Args:
        untold: the index that means "not told"; data of such are no better.
        strength: how much better the first class is; others are more so.
        noise_scheduler: gives the prediction that data mean; without one they are the prediction.
    """

    def __init__(
        self, untold: int, strength: float = 1.0, noise_scheduler: NoiseScheduler | None = None
    ) -> None:
        self.untold = untold
        self.strength = strength
        self.noise_scheduler = noise_scheduler
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @staticmethod
    def direction(latents: Tensor) -> Tensor:
        """Return the direction in which data get better, [B, C, H, W]."""
        return (3 * latents).cos()

    def __call__(self, latents: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Return a prediction of the latents' shape."""
        self.calls.append((latents, t, condition))
        classes = torch.zeros(len(latents), device=latents.device) if condition is None else condition
        better = torch.where(classes == self.untold, 0.0, self.strength * (1 + classes) / 10)
        data = 0.8 * latents.tanh() + better.view(-1, 1, 1, 1) * self.direction(latents)
        if self.noise_scheduler is None:
            return data
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in self.noise_scheduler.coefficients(t))
        return self.noise_scheduler.target(data, (latents - alpha * data) / sigma, t)


def tiny_models(
    condition: Tensor, classes: int, noise_scheduler: NoiseScheduler | None = None, *, differ: bool = True
) -> Models:
    """Return models that are told classes [B], all alike unless they ``differ``."""
    strong, weak = (TinyModel(classes, factor * differ, noise_scheduler) for factor in (1.0, 0.5))
    return Models(strong, condition, classes, weak)


class TinyDataset:
    """Thirty-two grey images of 8x8, each a shade and a stripe, in two classes; ``test`` has others."""

    channels = 1
    size = (8, 8)
    splits = ("train", "test")

    def __init__(self, subset: str = "train", count: int = 32) -> None:
        self.subset = subset
        numbers = torch.arange(count) * 2 + (subset == "test")
        self.labels = numbers // 2 % 2
        self.pixels = (numbers.view(-1, 1, 1, 1) * 3).expand(-1, 1, 8, 8).to(torch.uint8).clone()
        self.pixels[self.labels == 1, :, 2:5] = 240
        self.fingerprint = f"tiny:{subset}:{count}"

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Return uint8 [B, 1, 8, 8]."""
        return self.pixels[indices]

    def split(self, name: str) -> TinyDataset:
        """Return ``train`` or ``test``."""
        return TinyDataset(name, len(self.pixels))


class TinyAutoencoder(nn.Module):
    """One convolution each way: latents [B, 2, H / 2, W / 2], no losses."""

    latent_channels = 2
    downscale = 2

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(in_channels, 2, 2, stride=2)
        self.decoder = nn.ConvTranspose2d(2, in_channels, 2, stride=2)

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return latents and no losses."""
        return self.encoder(x), {}

    def decode(self, latents: Tensor) -> Tensor:
        """Return images."""
        images: Tensor = self.decoder(latents)
        return images

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return reconstruction, latents, no losses."""
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


class TinyCodes(nn.Module):
    """Codes of places two pixels wide: how bright each is, in eight steps. It takes any images.

    In training mode all are a little brighter, so that it shows who forgets ``eval()``.
    """

    latent_channels = 1
    downscale = 2

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = SimpleNamespace(codebook_size=8, dim=1)

    def encode_with_indices(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return latents, no losses and codes [B, h, w]."""
        latents = F.avg_pool2d(x.mean(1, keepdim=True), 2, ceil_mode=True) + 0.4 * self.training
        codes = ((latents + 1) * 4).long().clamp(0, 7)
        return (codes + 0.5) / 4 - 1, {}, codes.squeeze(1)

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return latents and no losses."""
        return self.encode_with_indices(x)[:2]

    def decode(self, latents: Tensor) -> Tensor:
        """Return grey images."""
        return latents.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return reconstruction, latents, no losses."""
        latents, losses = self.encode(x)
        return self.decode(latents), latents, losses


class TinyDenoiser(nn.Module):
    """One convolution and a shift by the time."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(1, channels)

    def forward(self, latents: Tensor, conditioning: Tensor) -> Tensor:
        """Return a prediction of the latents' shape."""
        shift = self.time(conditioning.view(-1, 1) / 1000)
        prediction: Tensor = self.convolution(latents) + shift[..., None, None]
        return prediction


class TinyDiscriminator(nn.Module):
    """One convolution: a logit a patch of 2x2."""

    receptive_field = 2

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 1, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.convolution(images)
        return logits


class TinyScaling(nn.Module):
    """Shifts and scales by one number each."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Measure mean and deviation of all latents."""
        values = torch.cat(list(batches))
        self.mean, self.std = values.mean(), values.std()

    def normalize(self, latents: Tensor) -> Tensor:
        """Bring latents to unit variance."""
        return (latents - self.mean) / self.std

    def denormalize(self, latents: Tensor) -> Tensor:
        """Bring them back."""
        return latents * self.std + self.mean


class TinyBackbone(nn.Module):
    """Two frozen convolutions, for images of any size, grey or RGB."""

    channels = (3, 4)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return two maps."""
        first = self.first(images.mean(1, keepdim=True)).tanh()
        return first, self.second(first).tanh()


class RecordingDataset(TinyDataset):
    """An odd number of images, fewer in ``test``; remembers which were asked for, and can fail.

    Args:
        subset: ``train`` or ``test``.
        count: of images in ``train``; ``test`` has less than half of them.
        channels: of each image, all a little different; those in colour are wider than high.
    """

    def __init__(self, subset: str = "train", count: int = 29, channels: int = 1) -> None:
        super().__init__(subset, count if subset == "train" else count // 2 - 1)
        self.count, self.channels = count, channels
        self.fingerprint = f"recording:{subset}:{count}:{channels}"
        self.pixels = torch.cat([self.pixels // (1 + place) for place in range(channels)], 1)
        if channels > 1:
            self.pixels = torch.cat([self.pixels, self.pixels[..., :4].flip(-1)], 3)
            self.size = (8, 12)
        self.asked: list[int] = []
        self.reads, self.last_read = 0, 1 << 62

    def images(self, indices: Tensor) -> Tensor:
        """Return uint8 [B, C, H, W]; raises ``OSError`` after the ``last_read``."""
        if self.reads == self.last_read:
            raise OSError("the images are gone")
        self.reads += 1
        self.asked += indices.tolist()
        return super().images(indices)

    def split(self, name: str) -> TinyDataset:
        """Return ``train``, which is this one, or ``test``."""
        return self if name == self.subset else RecordingDataset(name, self.count, self.channels)


class ModalAutoencoder(TinyAutoencoder):
    """Has batch norm and dropout: in training mode it answers otherwise, and its statistics move."""

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__(in_channels)
        self.modal = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.1))

    def encode(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return latents and no losses."""
        return self.modal(self.encoder(x)), {}


class ModalDenoiser(TinyDenoiser):
    """Has dropout: in training mode it answers otherwise."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__(channels)
        self.dropout = nn.Dropout(0.1)

    def forward(self, latents: Tensor, conditioning: Tensor) -> Tensor:
        """Return a prediction of the latents' shape."""
        prediction: Tensor = self.dropout(super().forward(latents, conditioning))
        return prediction


class RecordingScaling(TinyScaling):
    """Remembers which of its methods were called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def normalize(self, latents: Tensor) -> Tensor:
        """Bring latents to unit variance."""
        self.called.add("normalize")
        return super().normalize(latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Bring them back."""
        self.called.add("denormalize")
        return super().denormalize(latents)


class MarkedDiscriminator(TinyDiscriminator):
    """Its parameter ``mark`` has a gradient only from images that a network made and nobody detached."""

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__(in_channels)
        self.mark = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits = super().forward(images)
        return logits + self.mark * images.mean() if images.grad_fn is not None else logits


def modal_components(channels: int = 1) -> dict[str, Any]:
    """Return ``components`` on odd numbers of images, with parts whose mode matters."""
    return {
        **components(),
        "dataset": RecordingDataset(channels=channels),
        "autoencoder": ModalAutoencoder(channels),
        "denoiser": ModalDenoiser(),
        "latent_scaling": RecordingScaling(),
        "discriminator": MarkedDiscriminator(channels),
    }


def components() -> dict[str, Any]:
    """Return one of each, by the name that a stage's option has."""
    return {
        "dataset": TinyDataset(),
        "autoencoder": TinyAutoencoder(),
        "denoiser": TinyDenoiser(),
        "discriminator": TinyDiscriminator(),
        "latent_scaling": TinyScaling(),
        "backbone": TinyBackbone(),
        "noise_scheduler": straight(),
    }
