"""Processes, weightings and samplers against diffusers and denoising-diffusion-pytorch."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from denoising_diffusion_pytorch.denoising_diffusion_pytorch import sigmoid_beta_schedule
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from uldm_core import registry
from uldm_core.testing.doubles import gaussian_denoiser
from uldm_plugins.samplers.path import make_path

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
PREDICTIONS = [("epsilon", "epsilon"), ("sample", "sample"), ("v", "v_prediction")]


def noise(seed=0, shape=(2, 3, 8, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def denoise(x, step):
    """A smooth network without weights: any function will do, as long as both sides call the same."""
    return torch.tanh(0.7 * x + 0.1 * torch.sin(torch.as_tensor(step, dtype=torch.float32) / 100)) * 0.9


def times_of(scheduler):
    return torch.arange(scheduler.timesteps) / (scheduler.timesteps - 1)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("name", "config"),
    [("linear", LINEAR), ("scaled_linear", SCALED), ("cosine", {"beta_schedule": "squaredcos_cap_v2"})],
)
def test_discrete_schedules_are_diffusers(name, config, zero):
    ours = registry.build("noise_scheduler", name, prediction="v", zero_terminal_snr=zero)
    theirs = DDPMScheduler(**config, rescale_betas_zero_snr=zero)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-3, atol=2e-6)


def test_the_sigmoid_schedule_is_denoising_diffusion_pytorchs():
    ours = registry.build("noise_scheduler", "sigmoid")
    theirs = (1 - sigmoid_beta_schedule(1000)).cumprod(0)
    torch.testing.assert_close(ours.alphas_cumprod.double(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), PREDICTIONS)
def test_noise_and_targets_are_diffusers(ours, theirs):
    process = registry.build("noise_scheduler", "linear", prediction=ours)
    reference = DDPMScheduler(**LINEAR, prediction_type=theirs)
    x0, eps, steps = noise(0, (5, 3, 4, 4)), noise(1, (5, 3, 4, 4)), torch.tensor([0, 10, 500, 900, 999])
    t = steps / 999
    torch.testing.assert_close(
        process.add_noise(x0, eps, t), reference.add_noise(x0, eps, steps), rtol=1e-5, atol=1e-5
    )
    if ours == "v":
        wanted = reference.get_velocity(x0, eps, steps)
        torch.testing.assert_close(process.target(x0, eps, t), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("epsilon", "pred_noise"), ("sample", "pred_x0"), ("v", "pred_v")]
)
def test_min_snr_is_denoising_diffusion_pytorchs(ours, theirs):
    reference = GaussianDiffusion(
        Unet(8, dim_mults=(1,)),
        image_size=8,
        timesteps=1000,
        beta_schedule="linear",
        objective=theirs,
        min_snr_loss_weight=True,
    )
    process = registry.build("noise_scheduler", "linear", prediction=ours)
    weight = registry.build("timestep_weighting", "min_snr", gamma=5).weight(times_of(process), process)
    torch.testing.assert_close(weight, reference.loss_weight, rtol=1e-3, atol=1e-5)


def test_logit_normal_has_stable_diffusion_3s_density():
    """The density of SD3, equation 19, against the drawn times."""
    t = registry.build("timestep_weighting", "logit_normal", mean=0.3, std=0.8).sample(
        200_000, torch.Generator().manual_seed(0)
    )
    edges = torch.linspace(0.02, 0.98, 25)
    found = torch.histogram(t, edges).hist / len(t)
    grid = torch.linspace(0.02, 0.98, 24 * 50 + 1)
    logit = torch.log(grid / (1 - grid))
    density = torch.exp(-((logit - 0.3) ** 2) / (2 * 0.8**2)) / (
        0.8 * math.sqrt(2 * math.pi) * grid * (1 - grid)
    )
    wanted = torch.stack(
        [torch.trapezoid(density[i * 50 : i * 50 + 51], grid[i * 50 : i * 50 + 51]) for i in range(24)]
    )
    torch.testing.assert_close(found, wanted, rtol=0.03, atol=5e-4)


def test_soft_min_snr_bends_where_min_snr_breaks():
    process = registry.build("noise_scheduler", "linear", prediction="sample")
    t = times_of(process)
    weight = registry.build("timestep_weighting", "soft_min_snr", gamma=4).weight(t, process)
    snr = process.snr(t)
    torch.testing.assert_close(weight, 1 / (1 / snr + 1 / 4), rtol=1e-4, atol=1e-6)


def ours_over(process, sampler, start, seed=0, **options):
    """Return every latent that our sampler asks the denoiser at, and the last one."""
    asked = []

    def network(x, t):
        asked.append(x)
        return denoise(x, process.conditioning(t)[0])

    built = registry.build("sampler", sampler, **options)
    last = built(network, process, start, torch.Generator().manual_seed(seed))
    return [*asked, last]


def theirs_over(scheduler, start, seed=0, steps=None, **step):
    generator, x, seen = torch.Generator().manual_seed(seed), start, []
    for t in scheduler.timesteps if steps is None else steps:
        seen.append(x)
        model_input = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(denoise(model_input, t), t, x, **step, **({"generator": generator})).prev_sample
    return [*seen, x]


def same(one, other):
    """Compare whole trajectories; relative to the largest value, for a thousand float32 steps add up."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-4 * max(1.0, right.abs().max().item()))


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize(("ours", "theirs"), PREDICTIONS)
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddpm_is_diffusers_trajectory(ours, theirs, spacing, steps):
    process = registry.build("noise_scheduler", "linear", prediction=ours)
    reference = DDPMScheduler(**LINEAR, prediction_type=theirs, clip_sample=False, timestep_spacing=spacing)
    reference.set_timesteps(steps)
    squares = reference.alphas_cumprod  # 1,000 steps add up what its float32 product loses
    process.levels.copy_(torch.stack([squares, 1 - squares]).sqrt())
    if steps < 1000:  # left alone, diffusers takes T // steps back, which is not its own next timestep
        reference.custom_timesteps = True
    same(
        ours_over(process, "ddpm", noise(), steps=steps, spacing=spacing),
        theirs_over(reference, noise()),
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("ours", "theirs"), PREDICTIONS)
def test_ddim_is_diffusers_trajectory(ours, theirs, eta):
    process = registry.build("noise_scheduler", "scaled_linear", prediction=ours)
    reference = DDIMScheduler(
        **SCALED,
        prediction_type=theirs,
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    reference.set_timesteps(50)
    same(
        ours_over(process, "ddim", noise(), steps=50, eta=eta, spacing="trailing"),
        theirs_over(reference, noise(), eta=eta),
    )


@pytest.mark.parametrize("steps", [20, 8])
@pytest.mark.parametrize(("ours", "theirs"), PREDICTIONS)
@pytest.mark.parametrize("order", [2, 3])
def test_dpmpp_2m_and_3m_are_diffusers_trajectories(ours, theirs, steps, order):
    process = registry.build("noise_scheduler", "scaled_linear", prediction=ours)
    options = {"solver_order": order, "timestep_spacing": "trailing", "final_sigmas_type": "zero"}
    reference = DPMSolverMultistepScheduler(**SCALED, prediction_type=theirs, **options)
    reference.set_timesteps(steps)
    same(
        ours_over(process, f"dpmpp_{order}m", noise(), steps=steps, spacing="trailing"),
        theirs_over(reference, noise()),
    )


def unscaled(reference, process, start, network, steps, seed=None):
    """Run a scheduler of the variance-exploding kind on our scale; return latents at each of its steps."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    x = start * (reference.sigmas[0] ** 2 + 1) ** 0.5
    seen = []
    for index in range(steps):
        t, sigma = reference.timesteps[index], reference.sigmas[index]
        seen.append(x / (sigma**2 + 1) ** 0.5)
        prediction = network(reference.scale_model_input(x, t), t)
        x = reference.step(prediction, t, x, **({} if seed is None else {"generator": generator})).prev_sample
    return [*seen, x]


def flow_heun(process, start, steps):
    """Run diffusers' Heun for flows on any process, in the flow's units: x / (alpha + sigma)."""
    path = make_path(process, steps)
    levels = torch.tensor([point.sigma / (point.alpha + point.sigma) for point in path])
    reference = FlowMatchHeunDiscreteScheduler()
    reference.set_timesteps(steps)
    reference.set_begin_index(0)
    reference.sigmas = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    y = start * math.hypot(path[0].alpha, path[0].sigma) / (path[0].alpha + path[0].sigma)
    seen = []
    for point in [path[0], *(point for point in path[1:-1] for _ in range(2))]:
        seen.append(y * (point.alpha + point.sigma))
        t = torch.full((len(start),), point.t)
        x0, eps = process.split(denoise(seen[-1], process.conditioning(t)[0]), seen[-1], t)
        y = reference.step(eps - x0, point.t, y).prev_sample
    return [*seen, y]


@pytest.mark.parametrize(
    ("name", "prediction"), [("flow", "flow"), ("scaled_linear", "epsilon"), ("cosine", "v"), ("edm", "edm")]
)
def test_heun_is_diffusers_heun_for_flows_in_the_flows_units(name, prediction):
    process = registry.build("noise_scheduler", name, prediction=prediction)
    same(ours_over(process, "heun", noise(), steps=28), flow_heun(process, noise(), 28))


@pytest.mark.parametrize(
    ("name", "config"), [("scaled_linear", SCALED), ("cosine", {"beta_schedule": "squaredcos_cap_v2"})]
)
def test_heun_is_nearer_the_data_than_diffusers_heun_in_sigma_over_alpha(name, config):
    process = registry.build("noise_scheduler", name, prediction="epsilon")
    exact = gaussian_denoiser(process, 0.0, 0.5)
    reference = HeunDiscreteScheduler(**config, timestep_spacing="linspace")
    reference.set_timesteps(10)
    start = torch.special.ndtri((torch.arange(1000).double() + 0.5) / 1000).float().view(-1, 1, 1, 1)

    def network(x, step):
        return exact(x, torch.full((len(x),), float(step) / 999))

    *_, theirs = unscaled(reference, process, start, network, len(reference.timesteps))
    ours = registry.build("sampler", "heun", steps=10)(exact, process, start, torch.Generator())
    assert abs(ours.std() - 0.5) < 0.7 * abs(theirs.std() - 0.5)


def test_euler_ancestral_is_diffusers_trajectory():
    process = registry.build("noise_scheduler", "scaled_linear")
    reference = EulerAncestralDiscreteScheduler(**SCALED, timestep_spacing="linspace")
    reference.set_timesteps(28)  # whole timesteps: 999 is 27 times 37
    theirs = unscaled(reference, process, noise(), denoise, 28, seed=3)
    same(ours_over(process, "euler_ancestral", noise(), seed=3, steps=28), theirs)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_flow_is_diffusers_trajectory(shift):
    process = registry.build("noise_scheduler", "flow")
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(sigmas=np.linspace(1, 1 / 10, 10))
    same(ours_over(process, "euler", noise(), steps=10, shift=shift), theirs_over(reference, noise()))


def test_edm_is_diffusers_sigmas_preconditioning_and_euler():
    process = registry.build("noise_scheduler", "edm", sigma_data=0.5)
    reference = EDMEulerScheduler(sigma_data=0.5)
    reference.set_timesteps(12)
    path = make_path(process, 12)
    torch.testing.assert_close(torch.tensor([p.sigma for p in path]), reference.sigmas, rtol=1e-4, atol=1e-5)
    x = noise() * (80**2 + 1) ** 0.5
    seen = []

    def network(x, t):
        return denoise(process.scale_input(x, t), 100 * process.conditioning(t)[0])

    for t in reference.timesteps:
        seen.append(x)
        x = reference.step(denoise(reference.scale_model_input(x, t), 100 * t), t, x).prev_sample
    asked = []
    last = registry.build("sampler", "euler", steps=12)(
        lambda x, t: asked.append(x) or network(x, t), process, noise(), torch.Generator()
    )
    for left, right in zip([*asked, last], [*seen, x], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)


def squared_distance(latents, paired):
    return (latents.double() - paired.double()).square().sum().item()


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_minibatch_ot_is_the_least_of_all_permutations(count):
    latents, fresh = 3 + noise(count, (count, 2, 2, 2)), noise(9, (count, 2, 2, 2))
    paired = registry.build("coupling", "minibatch_ot")(latents, fresh)
    every = [squared_distance(latents, fresh[list(order)]) for order in permutations(range(count))]
    assert squared_distance(latents, paired) == pytest.approx(min(every), rel=1e-12)
    assert count == 1 or min(every) < every[0], "as it comes"


def test_minibatch_ot_is_scipys_assignment():
    latents, fresh = noise(1, (64, 4, 7, 7)), noise(2, (64, 4, 7, 7))
    paired = registry.build("coupling", "minibatch_ot")(latents, fresh)
    costs = cdist(latents.flatten(1).double(), fresh.flatten(1).double(), "sqeuclidean")
    pairs = linear_sum_assignment(costs)
    assert torch.equal(paired, fresh[pairs[1]])
    assert squared_distance(latents, paired) == pytest.approx(costs[pairs].sum(), rel=1e-6)
    assert registry.build("coupling", "independent")(latents, fresh) is fresh
