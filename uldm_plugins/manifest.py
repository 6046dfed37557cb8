"""Every built-in component and command, as records. Imports no torch and no component."""

from __future__ import annotations

from pathlib import Path

from uldm_core.registry.component import Component
from uldm_core.registry.plugins import Command, hookimpl

_COMPONENTS = (
    ("dataset", "mnist", "datasets.mnist:Mnist", "MNIST digits, shipped with uldm or from IDX files"),
    ("dataset", "fashion_mnist", "datasets.fetched:FashionMnist", "clothes, in MNIST's format"),
    ("dataset", "cifar10", "datasets.fetched:Cifar10", "32x32 photographs of ten classes"),
    ("dataset", "celeba", "datasets.celeba:CelebA", "faces, aligned"),
    ("dataset", "image_folder", "datasets.image_folder:ImageFolder", "any folder of image files"),
    ("dataset", "arrays", "datasets.array_files:Arrays", "images in .npy and .npz files"),
    ("dataset", "synthetic", "datasets.synthetic:Synthetic", "shapes drawn by a formula"),
    ("augmentation", "flip", "augmentations.flip:Flip", "mirrored images"),
    ("augmentation", "translate", "augmentations.translate:Translate", "images shifted by whole pixels"),
    ("augmentation", "crop_jitter", "augmentations.crop_jitter:CropJitter", "parts of images, enlarged"),
    ("augmentation", "color", "augmentations.color:Color", "other brightness, contrast, saturation and hue"),
    ("augmentation", "compose", "augmentations.compose:Compose", "several, one after the other"),
    ("backbone", "mnist_classifier", "backbones.mnist:MnistClassifier", "small CNN on MNIST, for losses"),
    ("backbone", "mnist_judge", "backbones.mnist:MnistJudge", "another CNN on MNIST, for metrics only"),
    ("backbone", "vgg16", "backbones.imagenet:Vgg16", "VGG16's five stages, as LPIPS uses them"),
    ("backbone", "alexnet", "backbones.imagenet:AlexNet", "AlexNet's five stages, as LPIPS uses them"),
    ("backbone", "squeezenet", "backbones.imagenet:SqueezeNet", "SqueezeNet's seven, as LPIPS uses them"),
    ("backbone", "dummy", "backbones.dummy:Dummy", "colours and edges, no weights"),
    ("backbone", "inception", "backbones.inception:Inception", "Inception v3, as FID has it"),
    ("autoencoder", "vqvae", "autoencoders.vqvae:VQVAE", "VQ-VAE, configured level by level"),
    ("autoencoder", "vqvae_fast", "autoencoders.vqvae_fast:FastVQVAE", "strided VQ-VAE, quick on a CPU"),
    ("autoencoder", "autoencoder_kl", "autoencoders.kl:AutoencoderKL", "Gaussian latents, diffusers' layout"),
    ("autoencoder", "identity", "autoencoders.identity:IdentityAutoencoder", "none: diffusion on pixels"),
    ("quantizer", "vq_ema", "quantizers.vq_ema:VQEma", "codebook of running means, dead codes revived"),
    ("quantizer", "vq", "quantizers.vq:VQ", "codebook trained by gradient, dead codes revived"),
    ("quantizer", "fsq", "quantizers.fsq:FSQ", "channels rounded to levels, nothing learned"),
    ("quantizer", "lfq", "quantizers.lfq:LFQ", "channels rounded to bits, with an entropy loss"),
    ("quantizer", "sim_vq", "quantizers.sim_vq:SimVQ", "frozen random codebook, learned linear map"),
    ("quantizer", "residual_vq", "quantizers.residual_vq:ResidualVQ", "sum of codes, coarse to fine"),
    ("discriminator", "patchgan", "discriminators.patchgan:PatchGAN", "one logit a patch of 46 pixels"),
    (
        "discriminator",
        "patchgan_n_layers",
        "discriminators.n_layers:NLayerPatchGAN",
        "taming's layout, a patch of 70 pixels",
    ),
    (
        "discriminator",
        "multi_scale",
        "discriminators.multi_scale:MultiScale",
        "the mean of several PatchGANs",
    ),
    ("loss", "l1", "losses.pixel:L1", "mean absolute difference"),
    ("loss", "l2", "losses.pixel:L2", "mean squared difference"),
    ("loss", "charbonnier", "losses.pixel:Charbonnier", "absolute difference, smooth at zero"),
    ("loss", "huber", "losses.pixel:Huber", "squared difference, absolute beyond delta"),
    ("loss", "lpips", "losses.lpips:LPIPS", "perceptual distance in a backbone's features"),
    ("adversarial_loss", "hinge", "losses.adversarial:Hinge", "hinge GAN loss"),
    ("adversarial_loss", "lsgan", "losses.adversarial:LSGAN", "least-squares GAN loss"),
    ("adversarial_loss", "vanilla", "losses.adversarial:Vanilla", "cross-entropy GAN loss"),
    ("noise_scheduler", "linear", "noise_schedulers.discrete:Linear", "DDPM's betas, T steps"),
    (
        "noise_scheduler",
        "scaled_linear",
        "noise_schedulers.discrete:ScaledLinear",
        "latent diffusion's betas",
    ),
    ("noise_scheduler", "cosine", "noise_schedulers.discrete:Cosine", "squared-cosine signal, T steps"),
    ("noise_scheduler", "sigmoid", "noise_schedulers.discrete:Sigmoid", "signal falls as a sigmoid, T steps"),
    ("noise_scheduler", "edm", "noise_schedulers.edm:EDM", "Karras's sigmas and preconditioning"),
    ("noise_scheduler", "flow", "noise_schedulers.flow:Flow", "straight path from data to noise"),
    (
        "latent_scaling",
        "unit_variance",
        "latent_scalings.unit_variance:UnitVariance",
        "measured over a full pass",
    ),
    ("timestep_weighting", "uniform", "timestep_weightings.weightings:Uniform", "every time alike"),
    ("timestep_weighting", "logit_normal", "timestep_weightings.weightings:LogitNormal", "mostly the middle"),
    ("timestep_weighting", "min_snr", "timestep_weightings.weightings:MinSNR", "SNR weight, clipped"),
    ("timestep_weighting", "soft_min_snr", "timestep_weightings.weightings:SoftMinSNR", "SNR weight, bent"),
    ("condition", "labels", "conditions.labels:Labels", "a dataset's own classes"),
    ("condition", "clusters", "conditions.clusters:Clusters", "k-means of latents or features, no labels"),
    ("coupling", "independent", "couplings.independent:Independent", "noise as it comes"),
    ("coupling", "minibatch_ot", "couplings.minibatch_ot:MinibatchOT", "the nearest noise, batch by batch"),
    ("guidance", "none", "guidance.none:NoGuidance", "the denoiser as it is"),
    (
        "guidance",
        "classifier_free",
        "guidance.classifier_free:ClassifierFree",
        "away from the denoiser that is not told its condition",
    ),
    ("guidance", "auto", "guidance.auto:Auto", "away from a weaker denoiser"),
    (
        "guidance",
        "adaptive_projected",
        "guidance.adaptive_projected:AdaptiveProjected",
        "as classifier_free, for larger weights",
    ),
    ("denoiser", "mlp", "denoisers.mlp:MLP", "residual MLP over all positions, quick on a CPU"),
    ("denoiser", "unet", "denoisers.unet:UNet", "U-Net, configured level by level"),
    ("denoiser", "unet_2d", "denoisers.unet_2d:UNet2D", "U-Net in diffusers' layout, loads its weights"),
    ("denoiser", "dit", "denoisers.dit:DiT", "diffusion transformer, adaLN-zero"),
    ("sampler", "ddpm", "samplers.ancestral:DDPM", "ancestral sampling"),
    ("sampler", "ddim", "samplers.ancestral:DDIM", "deterministic, or with eta as noisy as ddpm"),
    ("sampler", "euler_ancestral", "samplers.ancestral:EulerAncestral", "Euler steps with fresh noise"),
    ("sampler", "dpmpp_2m", "samplers.ode:DPMpp2M", "second order from one call a step"),
    ("sampler", "dpmpp_3m", "samplers.ode:DPMpp3M", "like dpmpp_2m, from one prediction more"),
    ("sampler", "euler", "samplers.ode:Euler", "first-order ODE; DDIM with eta 0"),
    ("sampler", "heun", "samplers.ode:Heun", "second-order ODE"),
    ("metric", "frechet", "metrics.frechet:Frechet", "Fréchet distance in any backbone's features"),
    ("metric", "frechet_mnist", "metrics.frechet:FrechetMnist", "Fréchet distance in mnist_judge's features"),
    (
        "metric",
        "class_balance",
        "metrics.frechet:ClassBalance",
        "smallest and largest class share of samples",
    ),
    ("metric", "fid", "metrics.frechet:Fid", "Fréchet distance in Inception's features"),
    ("metric", "kid", "metrics.kid:KID", "kernel distance in any backbone's features, unbiased"),
    ("metric", "precision_recall", "metrics.manifold:PrecisionRecall", "fidelity and variety of samples"),
    ("metric", "density_coverage", "metrics.manifold:DensityCoverage", "the same, outliers counting less"),
    ("metric", "nearest_neighbour", "metrics.manifold:NearestNeighbour", "distance to the training images"),
    ("metric", "psnr", "metrics.pairs:PSNR", "signal-to-noise ratio of reconstructions"),
    ("metric", "ssim", "metrics.pairs:SSIM", "structural similarity of reconstructions"),
    ("metric", "lpips", "metrics.pairs:LPIPSMetric", "perceptual distance of reconstructions"),
    ("metric", "codebook_usage", "metrics.codebook:CodebookUsage", "codes in use, and their perplexity"),
    ("optimizer", "adamw", "optimizers.adam:adamw", "Adam with decoupled weight decay, fused"),
    ("optimizer", "adam", "optimizers.adam:adam", "Adam, fused"),
    ("optimizer", "muon", "optimizers.muon:Muon", "orthogonal updates for matrices, AdamW for the rest"),
    ("lr_schedule", "constant", "lr_schedules.schedules:Constant", "after a warm-up"),
    ("lr_schedule", "linear", "lr_schedules.schedules:Linear", "warm-up, hold, straight fall"),
    ("lr_schedule", "cosine", "lr_schedules.schedules:Cosine", "warm-up, fall along half a cosine"),
    ("lr_schedule", "linear_warmup", "lr_schedules.schedules:LinearWarmup", "a rise, then constant"),
    ("lr_schedule", "one_cycle", "lr_schedules.schedules:OneCycle", "up and down along half cosines"),
    ("stage", "train_autoencoder", "stages.train_autoencoder:TrainAutoencoder", "trains an autoencoder"),
    ("stage", "train_diffusion", "stages.train_diffusion:TrainDiffusion", "trains a denoiser on latents"),
    ("stage", "train_classifier", "stages.train_classifier:TrainClassifier", "trains a classifier backbone"),
    ("stage", "tune", "stages.tune:Tune", "chooses how samples are drawn"),
    ("stage", "sample", "stages.sample:Sample", "draws new images"),
    ("stage", "evaluate", "stages.evaluate:Evaluate", "measures samples and reconstructions"),
    ("tracker", "jsonl", "trackers.jsonl:Jsonl", "the run's own log: lines of JSON, images as PNG"),
    ("tracker", "tensorboard", "trackers.tensorboard:TensorBoard", "event files, a TensorBoard run a stage"),
    ("tracker", "wandb", "trackers.wandb:Wandb", "Weights & Biases; offline where there is no key"),
    ("tracker", "mlflow", "trackers.mlflow:MLflow", "MLflow; a database in the run's folder, or a server"),
    ("tracker", "trackio", "trackers.trackio:Trackio", "Trackio, on this machine or in a space"),
    ("tracker", "report", "report.tracker:Report", "the run as one page to look at"),
)

_SAMPLES = Path(__file__).parent / "datasets" / "image_samples"
_ARRAYS = Path(__file__).parent / "datasets" / "array_samples"
_EXAMPLES: dict[
    str, dict[str, object]
] = {  # where the defaults need a download, or would be checked without the half of it
    "dataset/image_folder": {"root": str(_SAMPLES), "test_share": 0.25},
    "dataset/arrays": {
        "root": str(_ARRAYS),
        "layout": "NHWC",
        "labels": str(_ARRAYS / "labels.txt"),
        "test_share": 0.25,
    },
    "augmentation/compose": {"of": ["flip", {"use": "translate", "share": 0.25}, "color"]},
    "guidance/classifier_free": {"classes": 10},
    "guidance/adaptive_projected": {"classes": 10},
    "condition/labels": {"classes": 10},
    "backbone/vgg16": {"weights": "random"},
    "backbone/alexnet": {"weights": "random"},
    "backbone/squeezenet": {"weights": "random"},
    "loss/lpips": {"backbone": {"use": "squeezenet", "weights": "random"}},
    "metric/frechet": {"backbone": "mnist_judge"},
    "metric/kid": {"backbone": "mnist_judge"},
    "metric/precision_recall": {"backbone": "mnist_judge"},
    "metric/density_coverage": {"backbone": "mnist_judge"},
    "metric/lpips": {"backbone": "dummy", "heads": "even"},
    "stage/train_autoencoder": {"adversarial": "hinge"},
    "stage/tune": {"sampler_steps": [2, 5]},
    "tracker/wandb": {"mode": "offline"},
    "stage/train_classifier": {"backbone": {"use": "mnist_classifier", "weights": "random"}},
}

_XFAIL = {
    "backbone/inception": {
        "passes_gradients": "images are rounded to bytes, as the published FID has it",
        "bfloat16": "torch-fidelity's network is float32",
    },
    "quantizer/fsq": {"idempotent": "its codes are squashed again, as the paper has it"},
}

_REQUIRES = {
    "backbone/inception": "torch_fidelity",
    "tracker/tensorboard": "tensorboard",
    "tracker/wandb": "wandb",
    "tracker/mlflow": "mlflow",
    "tracker/trackio": "trackio",
}

_ALWAYS = ("tracker/jsonl", "tracker/report")

_COMMANDS = (
    ("show", "commands.show:show", "Show what a component is, and its options."),
    ("cp", "commands.cp:cp", "Copy a shipped recipe, to change it."),
    (
        "doctor",
        "commands.doctor:doctor",
        "Show versions, devices, plugins, and what is missing; or check a run's files.",
    ),
    ("sample", "commands.sample:sample", "Draw images from a trained run."),
    ("evaluate", "commands.evaluate:evaluate", "Measure a run's samples and reconstructions."),
    ("new", "commands.new:new", "Write a starting point: a recipe, or a package of your own."),
    ("diff", "commands.diff:diff", "Show what differs between two runs or recipes."),
    (
        "diagram",
        "commands.diagram:diagram",
        "Draw a recipe: its stages, and its networks level by level.",
    ),
    ("schema", "commands.schema:schema", "Print the JSON Schema of recipes, for help in the editor."),
    ("report", "commands.report:report", "Write a run's report.html anew."),
    ("log", "commands.log:log", "Show what happened to a run, and what happens."),
    ("compare", "commands.compare:compare", "Lay runs side by side on one page."),
    ("reconstruct", "commands.reconstruct:reconstruct", "Pass images through a run's autoencoder."),
    ("lpips", "commands.lpips:lpips", "Measure and show how two images differ to a feature network."),
    ("codebook", "commands.codebook:codebook", "Show how a run uses its codebook, and what its codes mean."),
)


@hookimpl
def uldm_components() -> list[Component]:
    """Return the built-in components."""
    return [
        Component(
            kind,
            name,
            f"uldm_plugins.{target}",
            summary=summary,
            example=_EXAMPLES.get(f"{kind}/{name}", {}),
            requires=_REQUIRES.get(f"{kind}/{name}"),
            xfail=_XFAIL.get(f"{kind}/{name}", {}),
            always=f"{kind}/{name}" in _ALWAYS,
        )
        for kind, name, target, summary in _COMPONENTS
    ]


@hookimpl
def uldm_commands() -> list[Command]:
    """Return the built-in commands that know components."""
    return [Command(name, f"uldm_plugins.{target}", summary) for name, target, summary in _COMMANDS]


@hookimpl
def uldm_recipes() -> list[Path]:
    """Return the folder of the shipped recipes: in the wheel, else the checkout's."""
    installed = Path(__file__).parent / "recipes"
    return [installed if installed.is_dir() else Path(__file__).parents[1] / "recipes"]
