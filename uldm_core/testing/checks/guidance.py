"""The contract of guidance, by models that differ along a known direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from uldm_core.errors import UldmError
from uldm_core.protocols import Denoise, Guidance, HasWeight, Models
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.doubles import Path, TinyModel, circular, discrete, exploding, straight, tiny_models
from uldm_core.testing.expectations import Skip, expect, expect_close, expect_finite

contract = Contract(build=lambda case: _guidance(case), exercise=lambda case, built: _exercise(case, built))
CLASSES = 5
TIMES = (0.9, 0.6, 0.3)
LEVELS = {0.9375: 15.0, 0.75: 3.0, 0.5: 1.0}
"""sigma / alpha of the straight path at times where no rounding moves it across an interval's end."""
PREDICTED = ("v", "epsilon", "sample", "flow")
REFUSED = (ValueError, UldmError)


def _guidance(case: Case, weight: float = 2.0, interval: tuple[float, float] | None = None) -> Any:
    """Build the guidance; where it has a weight and an interval, with these."""
    guidance = case.build(**({"classes": CLASSES} if case.subject.inferred("classes") else {}))
    if isinstance(guidance, HasWeight):
        guidance.weight, guidance.interval = weight, interval
    return guidance


def _weighted(case: Case, weight: float = 2.0, interval: tuple[float, float] | None = None) -> Any:
    guidance = _guidance(case, weight, interval)
    if not isinstance(guidance, HasWeight):
        raise Skip("it has no weight and interval")
    return guidance


def _latents(case: Case, batch: int = 3) -> Tensor:
    return case.normal(batch, 2, 3, 4)


def _classes(latents: Tensor) -> Tensor:
    return torch.arange(len(latents), device=latents.device) % CLASSES


def _models(latents: Tensor, path: Path | None = None, *, differ: bool = True) -> Models:
    """Return models of a class for each of the latents."""
    return tiny_models(_classes(latents), CLASSES, path, differ=differ)


def _called(models: Models) -> list[TinyModel]:
    return [model for model in (models.predict, models.weaker) if isinstance(model, TinyModel)]


def _at(denoise: Denoise, latents: Tensor, time: float) -> Tensor:
    return denoise(latents, torch.full_like(latents[:, 0, 0, 0], time))


def _plain(models: Models, latents: Tensor, time: float) -> Tensor:
    """Return what the denoiser itself predicts, told the condition."""
    return _at(lambda x, t: models.predict(x, t, models.condition), latents, time)


def _exercise(case: Case, guidance: Guidance) -> list[Tensor]:
    """Guide along a few times."""
    return _path(case, guidance, _latents(case))


def _path(case: Case, guidance: Guidance, latents: Tensor) -> list[Tensor]:
    denoise = guidance(_models(latents), straight())
    return [_at(denoise, latents, time) for time in TIMES]


@contract.check
def prediction_of_latents(case: Case) -> None:
    """It predicts, finite, in the latents' shape and dtype, at every time of every process."""
    latents = _latents(case, case.batch())
    kept = latents.clone()
    paths = [straight(), circular(), exploding(), *(discrete(name) for name in PREDICTED)]
    for path in paths:
        denoise = _guidance(case)(_models(latents), path)
        for time in (1.0, 0.5, 0.0):
            prediction = _at(denoise, latents, time)
            where = f"{path.shape} path, {path.prediction} predicted, t = {time}"
            same = prediction.shape == latents.shape and prediction.dtype == latents.dtype
            expect(same, f"{where}: shape or dtype is another")
            expect_finite(prediction, f"{where}: the prediction")
    expect(torch.equal(latents, kept), "it writes into the latents")


@contract.check
def weight_of_one(case: Case) -> None:
    """With weight 1 it is the denoiser to the bit, called once: no guidance costs nothing."""
    guidance, latents = _weighted(case, weight=1.0), _latents(case)
    _expect_unguided(guidance, latents, 0.6, "with weight 1")


def _expect_unguided(guidance: Guidance, latents: Tensor, time: float, when: str) -> None:
    models = _models(latents)
    predicted = _at(guidance(models, straight()), latents, time)
    strong, weaker = _called(models)
    expect(not weaker.calls, f"{when} it calls the weaker model")
    once = len(strong.calls) == 1 and len(strong.calls[0][0]) == len(latents)
    expect(once, f"{when} it calls the denoiser for {[len(call[0]) for call in strong.calls]} latents")
    expect(torch.equal(predicted, _plain(models, latents, time)), f"{when} it changes the prediction")


@contract.check
def interval_of_noise_levels(case: Case) -> None:
    """It acts where sigma / alpha is in its interval, ends included; elsewhere it is the denoiser alone."""
    latents = _latents(case)
    for time, level in LEVELS.items():
        for interval in ((level, 2 * level), (level / 2, level), (level / 2, 2 * level)):
            models = _models(latents)
            predicted = _at(_weighted(case, 2.0, interval)(models, straight()), latents, time)
            same = torch.equal(predicted, _plain(models, latents, time))
            expect(not same, f"at the noise level {level:.3g} it does nothing in the interval {interval}")
        for interval in ((1.01 * level, 9 * level), (0.0, 0.99 * level)):
            when = f"at the noise level {level:.3g}, outside of the interval {interval},"
            _expect_unguided(_weighted(case, 2.0, interval), latents, time, when)


@contract.check
def equal_models(case: Case) -> None:
    """Where the models agree there is nothing to lead away from: it is the denoiser's prediction."""
    latents = _latents(case)
    models = _models(latents, differ=False)
    denoise = _guidance(case, weight=3.0)(models, straight())
    for time in TIMES:
        otherwise = "of equal models it makes another prediction"
        expect_close(_at(denoise, latents, time), _plain(models, latents, time), otherwise)


@contract.check
def leads_away(case: Case) -> None:
    """A weight above 1 leads away from the worse prediction, a larger one farther; one below 1 towards it."""
    latents, moved = _latents(case), []
    for weight in (0.5, 1.5, 2.0, 4.0):
        models = _models(latents)
        guided = _at(_weighted(case, weight)(models, straight()), latents, 0.5)
        better = (guided - _plain(models, latents, 0.5)) * TinyModel.direction(latents)
        moved.append(better.flatten(1).sum(1))
    expect(bool((moved[0] < 0).all()), "with weight 0.5 it does not lead towards the worse prediction")
    for weight, less, more in zip((1.5, 2.0, 4.0), [0 * moved[0], *moved[1:]], moved[1:]):
        expect(bool((more > less).all()), f"with weight {weight} it leads no farther than with a smaller one")


@contract.check
def same_data_whatever_is_predicted(case: Case) -> None:
    """The data that it leads to are the same whether noise, data or a velocity is predicted."""
    latents = _latents(case)
    for time in TIMES:
        found = []
        for name in PREDICTED:
            path = discrete(name)
            predicted = _at(_guidance(case)(_models(latents, path), path), latents, time)
            found.append(path.split(predicted, latents, torch.full((len(latents),), time))[0])
        for name, data in zip(PREDICTED[1:], found[1:]):
            otherwise = f"it leads to other data where {name} is predicted"
            expect_close(data, found[0], otherwise, rtol=1e-2, atol=1e-3)


@contract.check
def samples_independent(case: Case) -> None:
    """A prediction follows from its own latents and class, not from the others of the batch."""
    guidance, latents = _guidance(case), _latents(case)
    together = _path(case, guidance, latents)
    for index in range(len(latents)):
        models = tiny_models(_classes(latents)[index : index + 1], CLASSES)
        denoise = guidance(models, straight())
        for time, all_of_them in zip(TIMES, together):
            alone = _at(denoise, latents[index : index + 1], time)
            expect_close(alone, all_of_them[index : index + 1], "alone, a sample is predicted otherwise")


@contract.check
def batches_independent(case: Case) -> None:
    """What it remembers along a path ends with the batch: two that are drawn side by side do not meet."""
    guidance, latents = _guidance(case), _latents(case)
    others = case.normal(3, 2, 3, 4, salt=1)
    wanted = _path(case, guidance, latents)
    one, other = (guidance(_models(given), straight()) for given in (latents, others))
    for time, expected in zip(TIMES, wanted):
        predicted = _at(one, latents, time)
        _at(other, others, time)
        expect_close(predicted, expected, "beside another batch, it predicts otherwise")


@contract.check
def condition_passed_on(case: Case) -> None:
    """Models get the batch's latents and times as they are, and of each its class, or that it is not told."""
    latents = _latents(case)
    models = _models(latents)
    _at(_guidance(case)(models, straight()), latents, 0.6)
    for model in _called(models):
        for given, t, condition in model.calls:
            rows = len(given) // len(latents)
            whole = torch.equal(given, latents.repeat(rows, 1, 1, 1)) and bool((t == t[0]).all())
            expect(whole and abs(t[0].item() - 0.6) < 1e-6, "a model gets other latents or times")
            expect(condition is not None and len(condition) == len(given), "a model gets no class of each")
            assert condition is not None
            allowed = (condition == _classes(latents).repeat(rows)) | (condition == CLASSES)
            expect(bool(allowed.all()), f"a model is told {condition.tolist()}")


@contract.check
def one_batch(case: Case) -> None:
    """Each model is called once at a time: what is asked of it twice is one batch, which is faster."""
    latents = _latents(case)
    models = _models(latents)
    _at(_guidance(case)(models, straight()), latents, 0.6)
    most = max(len(model.calls) for model in _called(models))
    expect(most == 1, f"a model is called {most} times for one prediction")


@contract.check
def lacking_models_refused(case: Case) -> None:
    """What it needs and is not given is refused by ``ValueError`` before the first prediction."""
    latents = _latents(case)
    told = _models(latents)
    for given in (
        Models(told.predict),
        Models(told.predict, weaker=told.weaker),
        Models(told.predict, told.condition, told.untold),
    ):
        guidance = _guidance(case)
        try:
            denoise = guidance(given, straight())
        except REFUSED as error:
            expect(str(error), "it refuses models without a message")
            continue
        predicted, lacks = _at(denoise, latents, 0.6), _lacks(given)
        told_one = any(condition is not None for model in _called(given) for *_, condition in model.calls)
        expect(given.condition is not None or not told_one, "without a condition it tells one")
        idle = isinstance(guidance, HasWeight) and torch.equal(predicted, _plain(given, latents, 0.6))
        expect(not idle, f"{lacks} it takes, and guides by nothing")


def _lacks(given: Models) -> str:
    lacking = {"a condition": given.condition, "a weaker model": given.weaker}
    return f"models without {' and '.join(name for name, there in lacking.items() if there is None)}"
