"""The denoiser as samplers call it: guided, and told what to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor, nn

from uldm_core.engine.finite import not_finite
from uldm_core.errors import MistakeError
from uldm_core.protocols import (
    Condition,
    Context,
    Denoise,
    Denoiser,
    Guidance,
    HasWeaker,
    HasWeight,
    Models,
    NoiseScheduler,
    Predict,
    Sampler,
)
from uldm_core.run_folder.files import damaged, read_tensors
from uldm_plugins.stages.averages import OF, digest_of_weights
from uldm_plugins.stages.training import predict

AVERAGES = "averages.safetensors"
"""The artifact of averages that were kept while a denoiser was trained, by ``NAME.NUMBER`` of parameter."""
WEAKER = "weaker"
"""The name of the average that ``auto`` guidance leads away from."""


@frozen
class GuidedDenoiser:
    """A denoiser with its guidance.

    Args:
        denoiser: trained.
        noise_scheduler: the process it was trained on.
        guidance: leads away from a worse prediction.
        condition: what the denoiser is told, if anything.
        weaker: the denoiser that ``auto`` leads away from, if it is kept by the training.
    """

    denoiser: Denoiser
    noise_scheduler: NoiseScheduler
    guidance: Guidance
    condition: Condition | None = None
    weaker: Denoiser | None = None

    def denoise(self, context: Context, classes: Tensor | None, *, guided: bool = True) -> Denoise:
        """Return the denoiser for a batch of these classes, int64 [B], or None without a condition.

        Raises:
            MistakeError: the guidance lacks a model that it needs.
        """
        told = None if classes is None else classes.to(context.device)
        strong = self._predict(self.denoiser, context)
        if not guided:
            return lambda latents, t: strong(latents, t, told)
        weaker = self._weaker()
        untold = self.condition.classes if self.condition else None
        models = Models(strong, told, untold, self._predict(weaker, context) if weaker else None)
        try:
            return self.guidance(models, self.noise_scheduler)
        except ValueError as error:
            raise MistakeError(f"guidance: {error}", hint="draw without guidance, or with another") from error

    @property
    def lacks_weaker(self) -> bool:
        """Whether the guidance needs a weaker denoiser, and there is none yet."""
        return needs_average(self.guidance) and self.weaker is None

    def _weaker(self) -> Denoiser | None:
        own = self.guidance.weaker if isinstance(self.guidance, HasWeaker) else None
        return own if own is not None else self.weaker

    def _predict(self, denoiser: Denoiser, context: Context) -> Predict:
        def call(latents: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            with context.autocast():
                return predict(denoiser, self.noise_scheduler, latents, t, condition)

        denoiser.eval()
        return call


def needs_average(guidance: Guidance) -> bool:
    """Whether guidance needs the weaker denoiser that a training keeps; with weight 1 it needs none."""
    idle = isinstance(guidance, HasWeight) and guidance.weight == 1
    return isinstance(guidance, HasWeaker) and guidance.weaker is None and not idle


def kept_average(
    products: Mapping[str, Path], name: str = WEAKER, of: Denoiser | None = None
) -> list[Tensor]:
    """Return the parameters of an average as ``all_averages`` does; none if there is no such."""
    return all_averages(products, of).get(name, [])


def all_averages(products: Mapping[str, Path], of: Denoiser | None = None) -> dict[str, list[Tensor]]:
    """Return the averages that a training kept, the parameters of each by its name.

    Args:
        products: the artifacts of earlier stages.
        of: the denoiser that they must be of, as it was trained.

    Raises:
        MistakeError: the file is damaged, holds something else, or numbers that are not finite; or what it
            holds is of another denoiser: of several trainings, the last one's averages are handed on.
    """
    path = products.get(AVERAGES)
    tensors = read_tensors(path) if path else {}
    trained = tensors.pop(OF, None)
    if of is not None and trained is not None and not torch.equal(trained, digest_of_weights(of)):
        raise MistakeError(
            f"{AVERAGES} is of another denoiser, which was trained later",
            hint="train this one last, or name the weaker one: weaker = { ref = ... }",
        )
    found: dict[str, list[Tensor]] = {}
    try:
        for name, number in sorted((key.rpartition(".")[::2] for key in tensors), key=lambda it: int(it[1])):
            found.setdefault(name, []).append(tensors[f"{name}.{number}"])
    except ValueError as error:
        raise damaged(products[AVERAGES], f"it does not hold averages: {error}") from error
    if bad := not_finite(tensors):
        raise damaged(products[AVERAGES], f"{bad[0]} is not finite")
    return found


def calls_per_image(
    sampler: Sampler, guidance: Guidance, noise_scheduler: NoiseScheduler, classes: int = 0
) -> int:
    """Return how often a denoiser is called for an image, its own and a weaker one alike.

    They are counted: a latent of one number is drawn, with models that predict zeros.
    """
    calls = 0

    def predict(latents: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        nonlocal calls
        calls += len(latents)
        return torch.zeros_like(latents)

    told = torch.zeros(1, dtype=torch.int64) if classes else None
    denoise = guidance(Models(predict, told, classes or None, predict), noise_scheduler)
    sampler(denoise, noise_scheduler, torch.zeros(1, 1, 1, 1), torch.Generator())
    return calls


@torch.inference_mode(False)  # or code compiled for other weights would not be used for these
@torch.no_grad()
def with_weights(denoiser: Denoiser, parameters: Sequence[Tensor]) -> Denoiser:
    """Return a copy of a denoiser with other parameters, in the order of its own; compiled if that is."""
    copy = deepcopy(denoiser)
    if isinstance(copy, nn.Module) and getattr(denoiser, "_compiled_call_impl", None):
        copy.compile()  # which a copy is not
    for own, other in zip(copy.parameters(), parameters, strict=True):
        own.copy_(other)
    return copy
