"""The contract of noise schedulers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from uldm_core.errors import UldmError
from uldm_core.protocols import NoiseScheduler
from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.doubles import target_of
from uldm_core.testing.expectations import Skip, expect, expect_close, expect_finite

MEANINGS = ("epsilon", "sample", "v", "flow")
PREDICTIONS = (*MEANINGS, "edm")
CLEAN, NOISY = 100.0, 0.01
CONVERTIBLE = 1e-3
ROUNDING = 1e-6
"""How far below zero rounding may bring a coefficient: in float32 cos(pi / 2) is -4e-8."""
LEAST_DEVIATION = 0.05
"""Of scaled input: for data of deviation 1 it should be near 1, whatever the scheduler takes it to be."""
FEW = (2, 3, 10)


def _noised(case: Case, scheduler: NoiseScheduler) -> tuple[Tensor, Tensor, Tensor]:
    shape = case.draw(strategies.latent_shapes(3, 2, 4), "shape")
    t = case.draw(strategies.timesteps(shape[0]), "t").to(case.device)
    return case.normal(*shape), case.normal(*shape, salt=1), t


def _examples(case: Case, scheduler: NoiseScheduler) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield data, noise and times: a cube, so that times may be laid along any side; oblong; as drawn."""
    for shape, times in (((3, 3, 3, 3), (0.2, 0.5, 0.8)), ((2, 4, 3, 5), (0.9, 0.1))):
        yield case.normal(*shape), case.normal(*shape, salt=1), torch.tensor(times)
    yield _noised(case, scheduler)


def _exercise(case: Case, scheduler: NoiseScheduler) -> list[Any]:
    """Noise data, split a prediction, and ask for all that follows from the time."""
    x0, noise, t = case.inputs(scheduler)
    x_t = scheduler.add_noise(x0, noise, t)
    target = scheduler.target(x0, noise, t)
    derived = [scheduler.snr(t), scheduler.conditioning(t), scheduler.coefficients(t)]
    return [x_t, target, scheduler.split(target, x_t, t), _scaled(scheduler, x_t, t), derived]


def _scaled(scheduler: NoiseScheduler, x_t: Tensor, t: Tensor) -> Tensor:
    """Return what the denoiser is given of x_t."""
    scaled: Tensor = scheduler.scale_input(x_t, t) if hasattr(scheduler, "scale_input") else x_t
    return scaled


contract = Contract(
    inputs=_noised,
    call=lambda scheduler, x0, noise, t: scheduler.add_noise(x0, noise, t),
    exercise=_exercise,
    same_dtype=False,
)


def _grid(scheduler: NoiseScheduler, count: int = 400) -> Tensor:
    """Return times from 0 to 1: each timestep of a discrete process, else evenly spaced ones."""
    steps = scheduler.timesteps or count
    return torch.arange(steps) / (steps - 1)


def _predictors(case: Case) -> list[NoiseScheduler]:
    """Build it for every prediction that it takes; at least for its own."""
    if not case.subject.inferred("prediction"):
        return [case.build()]
    built = []
    for prediction in PREDICTIONS:
        try:
            built.append(case.build(prediction=prediction))
        except Exception:  # it takes some only
            continue
        named = built[-1].prediction
        expect(named == prediction, f"built for {prediction!r}, it says that it predicts {named!r}")
    expect(built, f"it takes none of {', '.join(PREDICTIONS)}")
    return built


@contract.check
def coefficients_legal(case: Case) -> None:
    """alpha and sigma have t's shape, are finite and not below zero, nor both zero."""
    _expect_legal(case.build())


def _expect_legal(scheduler: NoiseScheduler) -> None:
    t = _grid(scheduler)
    alpha, sigma = scheduler.coefficients(t)
    expect(alpha.shape == t.shape == sigma.shape, f"t {list(t.shape)}, alpha {list(alpha.shape)}")
    for name, values in (("alpha", alpha), ("sigma", sigma)):
        expect_finite(values, name)
        expect(bool((values >= -ROUNDING).all()), f"{name} falls to {values.min().item():.3g}, below zero")
    expect(bool((alpha + sigma > 0).all()), "alpha and sigma are zero at once")


@contract.check
def snr_falls(case: Case) -> None:
    """The signal-to-noise ratio falls strictly from each time to the next: no two timesteps are one."""
    _expect_falling(case.build())


def _expect_falling(scheduler: NoiseScheduler) -> None:
    alpha, sigma = (c.double() for c in scheduler.coefficients(_grid(scheduler)))
    falls = alpha[:-1] * sigma[1:] > alpha[1:] * sigma[:-1]
    where = int((~falls).nonzero()[0]) if not falls.all() else 0
    expect(bool(falls.all()), f"it does not fall from time {where} to {where + 1} of {len(alpha)}")


@contract.check
def starts_clean_ends_noisy(case: Case) -> None:
    """t = 0 is nearly data and t = 1 nearly noise: a sampler starts from pure noise and returns data.

    The first of few timesteps may be noisy: the step from it to the data is a sampler's last.
    """
    scheduler = case.build()
    alpha, sigma = scheduler.coefficients(torch.tensor([0.0, 1.0]))
    first, last = alpha.square() / sigma.square().clamp(min=1e-30)
    clean = min(CLEAN, (scheduler.timesteps or 1000) / 4)
    expect(first >= clean, f"at t = 0 the signal-to-noise ratio is {first:.3g}, below {clean:g}")
    expect(last <= NOISY, f"at t = 1 the signal-to-noise ratio is {last:.3g}, above {NOISY:g}")


@contract.check
def snr_matches(case: Case) -> None:
    """``snr(t)`` is alpha^2 / sigma^2: loss weights are made of it."""
    scheduler = case.build()
    t = _grid(scheduler)[1:-1]
    alpha, sigma = (c.double() for c in scheduler.coefficients(t))
    expect_close(scheduler.snr(t), (alpha / sigma).square(), "snr(t) is not alpha^2 / sigma^2", rtol=1e-3)


@contract.check
def noise_added_as_declared(case: Case) -> None:
    """``add_noise`` is alpha x0 + sigma noise, with the coefficients of each sample's own time."""
    scheduler = case.build()
    for x0, noise, t in _examples(case, scheduler):
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in scheduler.coefficients(t))
        wanted = alpha * x0 + sigma * noise
        expect_close(scheduler.add_noise(x0, noise, t), wanted, "add_noise is something else", atol=1e-4)


@contract.check
def target_means_its_name(case: Case) -> None:
    """epsilon is the noise, sample the data, v alpha noise - sigma x0, flow noise - x0: signs included."""
    named = [scheduler for scheduler in _predictors(case) if scheduler.prediction in MEANINGS]
    if not named:
        raise Skip("its prediction has a meaning of its own")
    for scheduler in named:
        for x0, noise, t in _examples(case, scheduler):
            name = scheduler.prediction
            alpha, sigma = (c.view(-1, 1, 1, 1) for c in scheduler.coefficients(t))
            wanted = target_of(name, x0, noise, alpha, sigma)
            otherwise = f"the target of prediction {name!r} is another"
            expect_close(scheduler.target(x0, noise, t), wanted, otherwise, atol=1e-4)


@contract.check
def target_splits_back(case: Case) -> None:
    """Every prediction converts to data and noise, and so to every other, away from the two ends."""
    for scheduler in _predictors(case):
        for x0, noise, t in _examples(case, scheduler):
            t = t.clamp(0.02, 0.98)
            levels = torch.cat(scheduler.coefficients(t))
            least, most = levels.min().item(), max(1.0, levels.max().item())
            if least < CONVERTIBLE:
                continue
            x_t = scheduler.add_noise(x0, noise, t)
            found = scheduler.split(scheduler.target(x0, noise, t), x_t, t)
            what = f"prediction {scheduler.prediction!r} does not give back"
            for part, wanted, name in zip(found, (x0, noise), ("data", "noise"), strict=True):
                expect_close(part, wanted, f"{what} the {name}", rtol=1e-3, atol=1e-4 * most / least)


@contract.check
def split_finite(case: Case) -> None:
    """At t = 0 and t = 1 too data and noise are finite: what divides by zero there is refused when built."""
    for scheduler in (case.build(), *_predictors(case)):
        t = torch.tensor([0.0, 1.0])
        x0, noise, other = (case.normal(2, 2, 4, 4, salt=salt) for salt in range(3))
        for prediction in (scheduler.target(x0, noise, t), other):
            found = scheduler.split(prediction, scheduler.add_noise(x0, noise, t), t)
            for name, values in zip(("data", "noise"), found, strict=True):
                for place, value in zip(t.tolist(), values, strict=True):
                    expect_finite(value, f"prediction {scheduler.prediction!r}: the {name} at t = {place:g}")


@contract.check
def times_per_sample(case: Case) -> None:
    """Whatever follows from the time follows from each sample's own: a batch is its samples one by one."""
    for scheduler in _predictors(case):
        for x0, noise, t in _examples(case, scheduler):
            t = t.clamp(0.02, 0.98)
            together = _by_name(scheduler, x0, noise, t)
            alone = [
                _by_name(scheduler, x0[i : i + 1], noise[i : i + 1], t[i : i + 1]) for i in range(len(t))
            ]
            for name, values in together.items():
                wanted = torch.cat([each[name] for each in alone])
                expect_close(values, wanted, f"{name} of a batch is not that of its samples", atol=1e-4)


def _by_name(scheduler: NoiseScheduler, x0: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Return all that follows from the time, away from its ends, by the method's name."""
    alpha, sigma = scheduler.coefficients(t)
    x_t = alpha.view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * noise
    target = scheduler.target(x0, noise, t)
    data, rest = scheduler.split(target, x_t, t)
    return {
        "coefficients": torch.stack([alpha, sigma], 1),
        "add_noise": scheduler.add_noise(x0, noise, t),
        "target": target,
        "split": torch.cat([data * alpha.view(-1, 1, 1, 1), rest * sigma.view(-1, 1, 1, 1)], 1),
        "snr": scheduler.snr(t),
        "conditioning": scheduler.conditioning(t),
        "scale_input": _scaled(scheduler, x_t, t),
    }


@contract.check
def input_scaled(case: Case) -> None:
    """``scale_input`` keeps the shape, is finite at both ends, clips nothing, leaves about unit variance."""
    for scheduler in _predictors(case):
        if not hasattr(scheduler, "scale_input"):
            raise Skip("the denoiser is given x_t as it is")
        t = torch.tensor([0.0, 0.001, 0.5, 1.0])
        x_t = scheduler.add_noise(case.normal(4, 2, 5, 7), case.normal(4, 2, 5, 7, salt=1), t)
        scaled = scheduler.scale_input(x_t, t)
        expect(scaled.shape == x_t.shape, f"{list(x_t.shape)} becomes {list(scaled.shape)}")
        expect_finite(scaled, "what the denoiser is given")
        for time, before, after in zip(t.tolist(), x_t, scaled, strict=True):
            kept = after.unique().numel() / before.unique().numel()
            expect(kept > 0.9, f"at t = {time:g} many values are scaled to the same")
            deviation = after.std().item()
            tame = LEAST_DEVIATION < deviation < 1 / LEAST_DEVIATION or torch.equal(before, after)
            expect(tame, f"at t = {time:g} what the denoiser is given has a deviation of {deviation:.3g}")


@contract.check
def precision_kept(case: Case) -> None:
    """float32 stays float32, for what it makes goes into the denoiser; bfloat16 works, and is as good."""
    for scheduler in _predictors(case):
        x0, noise, t = next(_examples(case, scheduler))
        wanted = _by_name(scheduler, x0, noise, t)
        actual = _by_name(scheduler, x0.bfloat16(), noise.bfloat16(), t)
        for name in ("add_noise", "target", "split", "scale_input"):
            dtype = str(wanted[name].dtype).removeprefix("torch.")
            expect(dtype == "float32", f"{name} makes {dtype} of float32")
            error = (actual[name].float() - wanted[name]).norm() / wanted[name].norm()
            expect(error.item() < 0.1, f"{name} of bfloat16 is off by {error.item():.0%}")


@contract.check
def tensors_left_alone(case: Case) -> None:
    """It writes into nothing that it is given: data, noise, times and predictions belong to the caller."""
    for scheduler in _predictors(case):
        x0, noise, t = next(_examples(case, scheduler))
        given = x0, noise, t, scheduler.add_noise(x0, noise, t).clone(), noise - x0
        kept = [tensor.clone() for tensor in given]
        x_t, prediction = given[3:]
        for name, arguments in {
            "coefficients": (t,),
            "add_noise": (x0, noise, t),
            "target": (x0, noise, t),
            "split": (prediction, x_t, t),
            "snr": (t,),
            "conditioning": (t,),
            "scale_input": (x_t, t),
        }.items():
            if hasattr(scheduler, name):
                getattr(scheduler, name)(*arguments)
            same = all(torch.equal(now, before) for now, before in zip(given, kept, strict=True))
            expect(same, f"{name} writes into what it is given")


@contract.check
def conditioning_one_to_one(case: Case) -> None:
    """The conditioning value is finite, and differs for any two times."""
    scheduler = case.build()
    t = _grid(scheduler)
    values = scheduler.conditioning(t)
    expect(values.shape == t.shape, f"times {list(t.shape)} become {list(values.shape)}")
    expect_finite(values, "the conditioning value")
    different = values.double().unique().numel()
    expect(different == len(t), f"{len(t)} times have {different} conditioning values")


@contract.check
def timesteps_known(case: Case) -> None:
    """A process of T steps knows t = k / (T - 1) for step k however it is rounded; others lie between."""
    scheduler = case.build()
    if scheduler.timesteps is None:
        raise Skip("it is continuous")
    exact = _grid(scheduler)
    levels = torch.stack(scheduler.coefficients(exact))
    for aside in (-1e-7, 1e-7):
        found = torch.stack(scheduler.coefficients((exact + aside).clamp(0, 1)))
        worst = (found - levels).abs().amax(0)
        step = int(worst.argmax())
        expect(
            worst[step].item() <= 1e-5,
            f"t = {step} / {len(exact) - 1}, rounded otherwise, is not known for step {step}",
        )
    lower, upper = torch.minimum(levels[:, 1:], levels[:, :-1]), torch.maximum(levels[:, 1:], levels[:, :-1])
    for share in (0.3, 0.7):
        found = torch.stack(scheduler.coefficients(exact[:-1].lerp(exact[1:], share)))
        between = (found >= lower - 1e-5) & (found <= upper + 1e-5)
        expect(bool(between.all()), "a time between two steps has a level that is not between theirs")


@contract.check
def few_timesteps(case: Case) -> None:
    """With few ``timesteps`` each is still noisier than the last, and finite; or they are refused."""
    if not case.subject.inferred("timesteps"):
        raise Skip("its timesteps are not to be set")
    for count in FEW:
        try:
            scheduler = case.build(timesteps=count)
        except (ValueError, UldmError):
            continue
        expect(scheduler.timesteps == count, f"built for {count} timesteps, it has {scheduler.timesteps}")
        _expect_legal(scheduler)
        _expect_falling(scheduler)
