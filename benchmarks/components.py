"""Components beside their references: interleaved runs, medians, and the median of the ratios.

Run ``python benchmarks/components.py``, with the names of sections if not all are wanted. It needs the
extra ``uldm[test]``.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
from side_by_side import HEAD, Ways, row
from torch import Tensor, nn

from uldm_core import registry

LAYOUTS = {512: (9, [8, 8, 8]), 1024: (10, [8, 8, 4, 4]), 16384: (14, [8, 8, 8, 8, 4])}
SIZES = ((512, 4), (1024, 32), (16384, 32))
Case = tuple[str, Ways]


def lpips_cases() -> Iterator[Case]:
    """Compare LPIPS on a random trunk, [-1, 1], batches of 4 images of 64x64."""
    import lpips

    images, target = torch.rand(2, 4, 3, 64, 64) * 2 - 1
    for ours, theirs in (("vgg16", "vgg"), ("alexnet", "alex"), ("squeezenet", "squeeze")):
        own = registry.build("loss", "lpips", backbone={"use": ours, "weights": "random"})
        with contextlib.redirect_stdout(io.StringIO()):
            their = lpips.LPIPS(net=theirs, pnet_rand=True, verbose=False).eval()
        named = {"": own, "lpips": their}
        yield (
            f"lpips {ours}, forward",
            {name: _without_gradient(network, images, target) for name, network in named.items()},
        )
        yield (
            f"lpips {ours}, forward and backward",
            {name: _with_gradient(network, images, target) for name, network in named.items()},
        )


def quantizer_cases() -> Iterator[Case]:
    """Compare quantizers in train mode, forward and backward, on 8,192 latents."""
    import vector_quantize_pytorch as vqp
    from diffusers.models.autoencoders.vae import VectorQuantizer

    for size, dim in SIZES:
        latents = torch.randn(8, dim, 32, 32)
        options = {"codebook_size": size, "dim": dim}
        plain = {**options, "kmeans_iterations": 0}
        diffusers = VectorQuantizer(size, dim, beta=0.25, legacy=False)
        learned = {
            "vq": (
                registry.build("quantizer", "vq", **plain),
                {
                    "diffusers VectorQuantizer": diffusers,
                    "VectorQuantize, learnable": vqp.VectorQuantize(
                        **options, learnable_codebook=True, ema_update=False, accept_image_fmap=True
                    ),
                },
            ),
            "vq_ema": (
                registry.build("quantizer", "vq_ema", **plain),
                {
                    "VectorQuantize": vqp.VectorQuantize(
                        **options, threshold_ema_dead_code=2, rotation_trick=False, accept_image_fmap=True
                    )
                },
            ),
            "sim_vq": (
                registry.build("quantizer", "sim_vq", **options),
                {"SimVQ": vqp.SimVQ(**options, channel_first=True)},
            ),
            "residual_vq": (
                registry.build("quantizer", "residual_vq", **plain),
                {"ResidualVQ": Sequenced(vqp.ResidualVQ(**options, num_quantizers=2, rotation_trick=False))},
            ),
        }
        for name, (ours, peers) in learned.items():
            yield f"{name}, K = {size}, D = {dim}", _training({"": ours, **peers}, latents)
        yield from _rounding(size)


def _rounding(size: int) -> Iterator[Case]:
    """Compare quantizers without a codebook, whose number of channels follows from that of the codes."""
    import vector_quantize_pytorch as vqp

    bits, levels = LAYOUTS[size]
    for name, dim, ours, theirs in (
        ("fsq", len(levels), {"levels": levels}, vqp.FSQ(levels)),
        ("lfq", bits, {"codebook_size": size}, vqp.LFQ(codebook_size=size, dim=bits)),
    ):
        networks = {"": registry.build("quantizer", name, **ours), type(theirs).__name__: theirs}
        yield f"{name}, K = {size}, D = {dim}", _training(networks, torch.randn(8, dim, 32, 32))


class Sequenced(nn.Module):
    """Gives a quantizer of sequences its latents: ResidualVQ fails on images."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        """Quantize latents [B, D, H, W]."""
        return self.quantizer(latents.flatten(2).mT)


def unet_cases() -> Iterator[Case]:
    """Compare ``unet_2d`` with UNet2DModel of the same weights: batches of 8 latents of 16x16."""
    networks = {
        "": registry.build("denoiser", "unet_2d", channels=4),
        "UNet2DModel": registry.build("denoiser", "diffusers/unet_2d", channels=4),
    }
    networks["UNet2DModel"].network.load_state_dict(networks[""].state_dict())
    latents, times = torch.randn(8, 4, 16, 16), torch.rand(8) * 999
    yield (
        "unet_2d, forward",
        {name: _without_gradient(network, latents, times) for name, network in networks.items()},
    )
    yield (
        "unet_2d, forward and backward",
        {name: _with_gradient(network, latents, times) for name, network in networks.items()},
    )


def sampler_cases() -> Iterator[Case]:
    """Compare samplers' own time: 50 steps over 16 latents of 4x8x8, by a denoiser that costs nothing."""
    import diffusers as d

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    peers = {
        "ddpm": d.DDPMScheduler(**betas, clip_sample=False),
        "ddim": d.DDIMScheduler(**betas, clip_sample=False),
        "dpmpp_2m": d.DPMSolverMultistepScheduler(**betas),
        "heun": d.HeunDiscreteScheduler(**betas),
        "euler_ancestral": d.EulerAncestralDiscreteScheduler(**betas),
        "euler": d.FlowMatchEulerDiscreteScheduler(),
    }
    for name, theirs in peers.items():
        process = registry.build("noise_scheduler", "flow" if name == "euler" else "scaled_linear")
        yield f"sampler {name}", _sampling(registry.build("sampler", name, steps=50), process, theirs)


def _sampling(sampler: object, process: object, theirs: object) -> Ways:
    noise = torch.randn(16, 4, 8, 8)

    @torch.inference_mode()
    def ours() -> None:
        sampler(lambda x, t: x * 0.1, process, noise, torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def peer() -> None:
        theirs.set_timesteps(50)
        x, generator = noise, torch.Generator().manual_seed(0)
        for t in theirs.timesteps:
            given = theirs.scale_model_input(x, t) if hasattr(theirs, "scale_model_input") else x
            further = {"generator": generator} if "Ancestral" in type(theirs).__name__ else {}
            x = theirs.step(given * 0.1, t, x, **further).prev_sample

    return {"": ours, type(theirs).__name__: peer}


def _without_gradient(network: Callable[..., object], *inputs: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return network(*inputs)

    return call


def _with_gradient(network: Callable[..., object], first: Tensor, *rest: Tensor) -> Callable[[], object]:
    def call() -> None:
        output = network(first.clone().requires_grad_(), *rest)
        getattr(output, "sample", output).sum().backward()

    return call


def _training(networks: dict[str, nn.Module], latents: Tensor) -> Ways:
    """Return a step of each: quantize, and pass a gradient back through codes and losses."""

    def step(network: nn.Module) -> None:
        outputs = network(latents.clone().requires_grad_())
        tensors = [*_tensors(outputs)]
        sum(tensor.sum() for tensor in tensors if tensor.requires_grad).backward()

    return {name: (lambda network=network: step(network)) for name, network in networks.items()}


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, dict)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


MEMORY = """
import re, torch
from pathlib import Path
from uldm_core import registry
quantizer = registry.build("quantizer", "{name}", codebook_size=65536, dim=8, kmeans_iterations=0)
codes, losses, _ = quantizer(torch.randn(16, 8, 64, 64).requires_grad_())
(codes.sum() + sum(losses.values())).backward()
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def print_memory() -> None:
    """Print what a step with 65,536 codes on 65,536 latents needs, torch included. Linux only."""
    for name in ("vq", "vq_ema"):
        code = MEMORY.format(name=name)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        print(f"{name}, K = N = 65,536, D = 8: {int(done.stdout) / 2**20:.2f} GB at most")


SECTIONS = {
    "lpips": lpips_cases,
    "quantizers": quantizer_cases,
    "unet_2d": unet_cases,
    "samplers": sampler_cases,
}


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    wanted = sys.argv[1:] or [*SECTIONS, "memory"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n{HEAD}")
    for name in wanted:
        for case, ways in SECTIONS.get(name, lambda: ())():
            print(row(case, ways), flush=True)
    if "memory" in wanted:
        print()
        print_memory()


if __name__ == "__main__":
    main()
