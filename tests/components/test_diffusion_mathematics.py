"""Noise schedulers and samplers: their identities, and diffusers' results on the same denoiser and noise."""

import math

import diffusers
import pytest
import torch

from uldm_core import registry

PREDICTIONS = ("epsilon", "sample", "v", "flow")
NAMES = ("linear", "scaled_linear", "cosine", "flow")


def scheduler(name, prediction="epsilon", **options):
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
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


def gaussian_denoiser(process, mean, std):
    """The exact denoiser of data N(mean, std^2), in the process's own prediction."""

    def denoise(x, t):
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in process.coefficients(t))
        variance = alpha**2 * std**2 + sigma**2
        x0 = mean + alpha * std**2 / variance * (x - alpha * mean)
        noise = sigma / variance * (x - alpha * mean)
        return process.target(x0, noise, t)

    return denoise


def error_of(sampler_name, scheduler_name, steps, mean=0.7, std=0.5):
    """How far the samples of a Gaussian are from its mean and standard deviation, given exact noise."""
    process = scheduler(scheduler_name, "flow" if scheduler_name == "flow" else "epsilon")
    quantiles = (torch.arange(4000) + 0.5) / 4000
    noise = torch.special.ndtri(quantiles.double()).float().view(4000, 1, 1, 1)
    sampler = registry.build("sampler", sampler_name, steps=steps)
    found = sampler(gaussian_denoiser(process, mean, std), process, noise, torch.Generator().manual_seed(0))
    return abs(found.mean().item() - mean) + abs(found.std().item() - std)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_ode_samplers_converge_to_the_gaussian_at_their_order(sampler, order):
    coarse, fine = error_of(sampler, "flow", 16), error_of(sampler, "flow", 64)
    assert fine < 0.02
    assert math.log(coarse / fine, 4) > order - 0.45


def test_ancestral_sampling_gives_the_gaussian():
    assert error_of("ddpm", "linear", 1000) < 0.03


def test_more_steps_than_timesteps_are_refused():
    process = scheduler("linear", timesteps=10)
    sampler = registry.build("sampler", "ddpm", steps=11)
    with pytest.raises(ValueError, match="11 sampling steps"):
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
