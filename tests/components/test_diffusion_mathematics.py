"""Noise schedulers and samplers: their identities, and diffusers' results on the same denoiser and noise."""

import math
from functools import cache
from itertools import pairwise, product

import diffusers
import pytest
import torch

from uldm_core import MistakeError, registry
from uldm_core.testing.doubles import Path, gaussian_denoiser
from uldm_plugins.samplers.path import make_path

PREDICTIONS = ("epsilon", "sample", "v", "flow")
NAMES = ("linear", "scaled_linear", "cosine", "flow")


def scheduler(name, prediction="v", **options):
    return registry.build("noise_scheduler", name, prediction=prediction, **options)


@pytest.mark.parametrize("name", NAMES)
def test_signal_falls_and_noise_rises(name):
    process = scheduler(name)
    t = torch.linspace(0, 1, process.timesteps or 1000)
    alpha, sigma = process.coefficients(t)
    assert torch.isfinite(alpha).all() and torch.isfinite(sigma).all()
    assert (alpha >= 0).all() and (sigma >= 0).all()
    snr = process.snr(t[1:-1])
    assert (snr[1:] < snr[:-1]).all()
    assert alpha[0] > 0.99 and sigma[-1] > 0.99


@pytest.mark.parametrize(
    ("name", "prediction"), [pair for pair in product(NAMES, PREDICTIONS) if pair != ("flow", "epsilon")]
)
def test_the_target_splits_back_into_data_and_noise(name, prediction):
    process = scheduler(name, prediction)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 16, 3, 4, 4, generator=generator).unbind()
    t = torch.linspace(0.05, 0.9, 16)
    x_t = process.add_noise(x0, noise, t)
    found_x0, found_noise = process.split(process.target(x0, noise, t), x_t, t)
    assert torch.allclose(found_x0, x0, atol=2e-4)
    assert torch.allclose(found_noise, noise, atol=2e-4)


def test_the_velocity_points_from_data_to_noise():
    x0, noise = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    flow = scheduler("flow", "flow")
    assert flow.target(x0, noise, torch.tensor([0.3])).item() == 1
    assert flow.add_noise(x0, noise, torch.tensor([0.3])).item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "beta_schedule"), [("linear", "linear"), ("scaled_linear", "scaled_linear")]
)
def test_discrete_schedules_equal_diffusers(name, beta_schedule):
    ours = scheduler(name, beta_start=0.0015, beta_end=0.0195)
    theirs = diffusers.DDPMScheduler(1000, 0.0015, 0.0195, beta_schedule)
    assert torch.allclose(ours.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6)


def test_cosine_schedule_equals_diffusers():
    theirs = diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    assert torch.allclose(scheduler("cosine").alphas_cumprod, theirs.alphas_cumprod, atol=1e-5)


def toy_denoiser(x, t):
    """Any smooth function of latents and time (on the scale of 1,000 steps)."""
    return torch.sin(x * 1.3 + 0.2) * 0.7 + 0.1 * torch.cos(t / 300).view(-1, 1, 1, 1) * x


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
def test_ancestral_sampling_equals_diffusers(prediction):
    name = {"v": "v_prediction"}.get(prediction, prediction)
    theirs = diffusers.DDPMScheduler(
        100, 0.0015, 0.0195, "linear", clip_sample=False, prediction_type=name, variance_type="fixed_small"
    )
    theirs.set_timesteps(100)
    start = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    expected, generator = start, torch.Generator().manual_seed(7)
    for t in theirs.timesteps:
        out = toy_denoiser(expected, t.repeat(3).float())
        expected = theirs.step(out, t, expected, generator=generator).prev_sample
    process = scheduler("linear", prediction, timesteps=100, beta_start=0.0015, beta_end=0.0195)
    sampler = registry.build("sampler", "ddpm", steps=100)
    found = sampler(
        lambda x, t: toy_denoiser(x, process.conditioning(t)),
        process,
        start,
        torch.Generator().manual_seed(7),
    )
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_euler_equals_diffusers_ddim(prediction):
    theirs = diffusers.DDIMScheduler(
        1000,
        0.0015,
        0.0195,
        "linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="linspace",
        prediction_type={"v": "v_prediction"}.get(prediction, prediction),
    )
    theirs.set_timesteps(20)
    process = scheduler("linear", prediction, beta_start=0.0015, beta_end=0.0195)
    start = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    seen, expected = [], start
    sampler = registry.build("sampler", "euler", steps=20)

    def denoise(x, t):
        seen.append(int(process.conditioning(t)[0]))
        return toy_denoiser(x, process.conditioning(t))

    found = sampler(denoise, process, start, torch.Generator())
    assert seen == theirs.timesteps.tolist()
    steps = theirs.timesteps.tolist()
    cumulative = theirs.alphas_cumprod
    for t, following in zip(steps, [*steps[1:], None]):  # their step() takes t - T // steps for the next one
        a, b = cumulative[t], cumulative[following] if following is not None else torch.tensor(1.0)
        out = toy_denoiser(expected, torch.full((3,), float(t)))
        x0, eps = process.split(out, expected, torch.full((3,), t / 999))
        assert torch.allclose(a.sqrt() * x0 + (1 - a).sqrt() * eps, expected, atol=1e-4)
        expected = b.sqrt() * x0 + (1 - b).sqrt() * eps
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_euler_on_flow_equals_diffusers(steps):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(1000)
    theirs.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    start = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = start
    for t in theirs.timesteps:
        expected = theirs.step(toy_denoiser(expected, t.repeat(3)), t, expected).prev_sample
    process = scheduler("flow", "flow")
    sampler = registry.build("sampler", "euler", steps=steps)
    found = sampler(lambda x, t: toy_denoiser(x, process.conditioning(t)), process, start, torch.Generator())
    assert torch.allclose(found, expected, atol=1e-4)


def quantiles(count):
    """Return values that are normal as exactly as so many can be, [count, 1, 1, 1]."""
    return torch.special.ndtri((torch.arange(count).double() + 0.5) / count).float().view(-1, 1, 1, 1)


@cache
def sampler_of(name, **options):
    return registry.build("sampler", name, **options)


def drawn(sampler, process, noise, denoise=None, mean=0.7, std=0.5, **options):
    """Return what a sampler makes of noise, by the exact denoiser of N(mean, std^2) or another."""
    built = sampler_of(sampler, **options)
    denoise = denoise or gaussian_denoiser(process, mean, std)
    return built(denoise, process, noise, torch.Generator().manual_seed(0))


def distance(found, mean=0.7, std=0.5):
    """Return how far samples are from the mean and the deviation that they should have."""
    return abs(found.mean().item() - mean) + abs(found.std(correction=0).item() - std)


def error_of(sampler, name, steps, **options):
    process = scheduler(name, "flow" if name == "flow" else "epsilon")
    return distance(drawn(sampler, process, quantiles(4000), steps=steps, **options))


@pytest.mark.parametrize(
    ("sampler", "order", "spacing"),
    [("euler", 1, "linspace"), ("heun", 2, "linspace"), ("heun", 2, "karras")],
)
def test_ode_samplers_converge_to_the_gaussian_at_their_order(sampler, order, spacing):
    coarse, fine = (error_of(sampler, "flow", steps, spacing=spacing) for steps in (16, 64))
    assert fine < 0.02
    assert math.log(coarse / fine, 4) > order - 0.45


def test_ancestral_sampling_gives_the_gaussian():
    assert error_of("ddpm", "linear", 1000) < 0.03


USUAL = {
    "linear": ("linear", {}),
    "scaled linear": ("scaled_linear", {}),
    "cosine": ("cosine", {}),
    "sigmoid": ("sigmoid", {}),
    "zero terminal SNR": ("cosine", {"zero_terminal_snr": True}),
    "flow": ("flow", {}),
    "edm": ("edm", {}),
}
UNUSUAL = {
    "two timesteps": ("cosine", {"timesteps": 2}),
    "ten timesteps": ("cosine", {"timesteps": 10}),
    "no offset": ("cosine", {"s": 0.0, "max_beta": 0.9999}),
    "alpha of 1e-22": ("linear", {"timesteps": 100, "beta_start": 0.01, "beta_end": 0.99}),
    "steep sigmoid": ("sigmoid", {"tau": 0.1}),
    "lopsided sigmoid": ("sigmoid", {"start": -3.0, "end": 8.0}),
    "sigma of 1,000": ("edm", {"sigma_max": 1e3}),
    "sigma of 1e-6": ("edm", {"sigma_min": 1e-6}),
    "even sigmas": ("edm", {"rho": 1.0}),
}
OFF = {  # by mean and deviation, in 3, 10 and 40 steps
    "heun": (0.15, 0.03, 0.015),
    "dpmpp_2m": (0.45, 0.25, 0.06),
    "dpmpp_3m": (0.45, 0.25, 0.06),
    "euler": (0.45, 0.2, 0.06),
    "ddim": (0.45, 0.2, 0.06),
    "ddpm": (0.5, 0.3, 0.12),
    "euler_ancestral": (0.5, 0.3, 0.12),
}


def all_predictions(name, options):
    """Build a process with every prediction that it takes."""
    for prediction in (*PREDICTIONS, "edm"):
        if prediction != "epsilon" or (name != "flow" and not options.get("zero_terminal_snr")):
            yield scheduler(name, prediction, **options)


@pytest.mark.parametrize("case", USUAL)
def test_every_sampler_gives_the_gaussian_on_every_process_by_every_prediction(case):
    noise = quantiles(200)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    for process, (sampler, bounds) in product(all_predictions(*USUAL[case]), OFF.items()):
        for steps, bound in zip((3, 10, 40), bounds, strict=True):
            error = distance(drawn(sampler, process, noise, steps=steps))
            assert error < bound, (process.prediction, sampler, steps)


def test_the_levels_of_karras_spacing_are_karrass():
    path = make_path(scheduler("flow", "flow"), 5, spacing="karras")
    theirs = diffusers.EDMEulerScheduler(sigma_min=1 / 5, sigma_max=4 * 5**0.5, rho=2.0)
    theirs.set_timesteps(5)
    levels = [point.sigma / point.alpha for point in path[1:]]
    assert path[0].t == 1 and levels == pytest.approx(theirs.sigmas[1:].tolist(), rel=1e-3)


@pytest.mark.parametrize("case", USUAL | UNUSUAL)
def test_karras_spacing_is_not_wild_either(case):
    noise = quantiles(50)
    for process in all_predictions(*(USUAL | UNUSUAL)[case]):
        for steps in (1, 2, 5, 20):
            if steps > (process.timesteps or steps):
                continue
            path = make_path(process, steps, spacing="karras")
            assert all(a.alpha * b.sigma < b.alpha * a.sigma for a, b in pairwise(path))
            for sampler in ("heun", "dpmpp_3m"):
                error = distance(drawn(sampler, process, noise, steps=steps, spacing="karras"))
                assert error < 0.6, (process.prediction, sampler, steps)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_3m"])
def test_karras_spacing_is_nearer_where_even_times_are_coarse_at_the_ends(sampler, name):
    process, noise = scheduler(name, "v"), quantiles(500)
    even, karras = (
        distance(drawn(sampler, process, noise, steps=10, spacing=spacing))
        for spacing in ("linspace", "karras")
    )
    assert karras < even / 5


@pytest.mark.parametrize("case", UNUSUAL)
def test_no_sampler_is_wild_however_unusual_the_process(case):
    noise = quantiles(200)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    for process, sampler in product(all_predictions(*UNUSUAL[case]), OFF):
        for steps in (1, 2, 20):
            if steps <= (process.timesteps or steps):
                error = distance(drawn(sampler, process, noise, steps=steps))
                assert error < 0.6, (process.prediction, sampler, steps)  # the noise itself is off by 1.2


@pytest.mark.parametrize("case", USUAL | UNUSUAL)
def test_an_error_of_the_denoiser_is_not_multiplied(case):
    """Not by 1 / alpha, 20,000 on the cosine schedule: at most by 300, in two steps by epsilon or sample."""
    noise = quantiles(100)
    error = 1e-3 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(0))
    for process in all_predictions(*(USUAL | UNUSUAL)[case]):
        exact = gaussian_denoiser(process, 0.7, 0.5)
        bound = 0.3 if process.prediction in ("epsilon", "sample") else 0.003
        for sampler, steps in product(("heun", "dpmpp_2m"), (2, 10)):
            if steps <= (process.timesteps or steps):
                right = drawn(sampler, process, noise, exact, steps=steps)
                off = drawn(
                    sampler, process, noise, lambda x, t, exact=exact: exact(x, t) + error, steps=steps
                )
                assert (off - right).std().item() < bound, (process.prediction, sampler, steps)


@pytest.mark.parametrize("case", USUAL | UNUSUAL)
def test_weights_are_finite_at_every_time_of_every_process(case):
    for process, name in product(all_predictions(*(USUAL | UNUSUAL)[case]), ("min_snr", "soft_min_snr")):
        t = torch.linspace(0, 1, process.timesteps or 101)
        weight = registry.build("timestep_weighting", name).weight(t, process)
        assert torch.isfinite(weight).all() and (weight >= 0).all(), (process.prediction, name)


def test_a_prediction_that_says_nothing_at_an_end_is_refused_or_not_asked_there():
    with pytest.raises(MistakeError, match="says nothing of the data by epsilon; predict flow"):
        scheduler("flow", "epsilon")
    with pytest.raises(MistakeError, match=r"zero_terminal_snr: .* predict v"):
        scheduler("linear", "epsilon", zero_terminal_snr=True)
    first = make_path(scheduler("cosine", "epsilon"), 10)[0]
    assert first.alpha == pytest.approx(1 / 200, rel=0.2) and first.t > 0.99
    assert (
        make_path(scheduler("cosine", "v"), 10)[0].t
        == make_path(scheduler("linear", "epsilon"), 10)[0].t
        == 1
    )
    last = make_path(scheduler("flow", "sample"), 10, shift=1e-4)[-2]
    assert last.sigma == pytest.approx(1 / 200, rel=0.1)
    for prediction in ("sample", "v", "flow", "edm"):
        x = torch.randn(2, 1, 2, 2)
        ends = scheduler("flow", prediction).split(x + 1, x, torch.tensor([0.0, 1.0]))
        assert all(torch.isfinite(values).all() for values in ends)


def test_a_process_that_rounding_takes_below_zero_is_sampled_to_its_end():
    class RoundedCosine(Path):
        def coefficients(self, t):
            return torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)

    process = RoundedCosine("circular", "v")
    assert process.coefficients(torch.ones(1))[0] < 0
    assert make_path(process, 4)[0].alpha == 0
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    denoise = gaussian_denoiser(process, 0.7, 0.5)
    for name in ("euler", "heun", "dpmpp_2m", "ddim", "ddpm"):
        sampler = registry.build("sampler", name, steps=20)
        drawn = sampler(denoise, process, noise, torch.Generator())
        assert drawn.mean().item() == pytest.approx(0.7, abs=0.2), name


@pytest.mark.parametrize(
    ("name", "options", "advice"),
    [
        ("sigmoid", {"tau": 0.02}, "a larger tau"),
        ("cosine", {"s": 1e17}, "a smaller s"),
        ("linear", {"beta_start": 0.5, "beta_end": 0.9}, "smaller betas"),
        ("edm", {"rho": 0.01}, "take 0.078 or more"),
    ],
)
def test_a_process_that_float32_cannot_hold_is_refused(name, options, advice):
    with pytest.raises(MistakeError, match=advice):
        scheduler(name, **options)


def test_a_process_that_keeps_data_to_the_end_says_so(caplog):
    for name in ("linear", "scaled_linear", "cosine", "sigmoid", "flow", "edm"):
        scheduler(name)
    assert not caplog.records
    scheduler("linear", timesteps=50)
    assert "linear: at the last timestep 78 % of the data are left" in caplog.text
    scheduler("edm", sigma_max=1.0)
    assert "edm: at t = 1 71 % of the data are left" in caplog.text and "a larger sigma_max" in caplog.text


def test_a_spacing_that_begins_where_much_of_the_data_is_left_is_refused():
    with pytest.raises(ValueError, match=r"starts at timestep 599 of 1000, where 58 % .* 'trailing'"):
        drawn("ddim", scheduler("cosine"), quantiles(2), steps=600, spacing="leading")
    keeps = scheduler("linear", timesteps=50)
    for process, steps in ((scheduler("cosine"), 20), (scheduler("linear"), 600), (keeps, 50)):
        drawn("ddim", process, quantiles(2), steps=steps, spacing="leading")


def test_noise_near_data_is_exact_however_little():
    sigma = scheduler("linear", beta_start=1e-9).levels[1, 0].item()
    assert sigma == pytest.approx(1e-9**0.5, rel=1e-5)


@pytest.mark.parametrize("shift", [1e-300, 1e-6, 1e-2, 1e2, 1e6, 1e300])
@pytest.mark.parametrize(("name", "prediction"), [("flow", "sample"), ("cosine", "v"), ("cosine", "epsilon")])
def test_times_that_shift_makes_one_are_asked_once(name, prediction, shift):
    process = scheduler(name, prediction)
    path = make_path(process, 50, shift)
    assert all(a.alpha * b.sigma < b.alpha * a.sigma for a, b in pairwise(path))
    for sampler in ("euler", "heun", "dpmpp_2m"):
        assert distance(drawn(sampler, process, quantiles(200), steps=50, shift=shift)) < 0.6


def test_more_steps_than_timesteps_are_refused():
    process = scheduler("linear", timesteps=10)
    sampler = registry.build("sampler", "ddpm", steps=11)
    with pytest.raises(ValueError, match=r"11 sampling steps.*take fewer steps"):
        sampler(toy_denoiser, process, torch.zeros(1, 1, 2, 2), torch.Generator())


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
def test_min_snr_equals_the_published_weights(prediction):
    process = scheduler("linear", prediction)
    weighting = registry.build("timestep_weighting", "min_snr", gamma=5.0)
    t = torch.linspace(0, 1, 50)
    snr = process.alphas_cumprod[process.step(t)] / (1 - process.alphas_cumprod[process.step(t)])
    clipped = snr.clamp(max=5)
    expected = {"epsilon": clipped / snr, "sample": clipped, "v": clipped / (snr + 1)}[prediction]
    assert torch.allclose(weighting.weight(t, process), expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["uniform", "logit_normal", "min_snr"])
def test_times_lie_between_data_and_noise_and_follow_the_generator(name):
    weighting = registry.build("timestep_weighting", name)
    draws = [weighting.sample(1000, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].min() >= 0 and draws[0].max() <= 1
    assert draws[0].mean() == pytest.approx(0.5, abs=0.02)


def test_logit_normal_has_the_density_of_its_paper():
    weighting = registry.build("timestep_weighting", "logit_normal", mean=0.3, std=1.2)
    logits = torch.logit(weighting.sample(20_000, torch.Generator().manual_seed(0)).double())
    assert logits.mean().item() == pytest.approx(0.3, abs=0.02)
    assert logits.std().item() == pytest.approx(1.2, abs=0.02)
