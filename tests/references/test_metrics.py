"""Metrics against torchmetrics, torch-fidelity and their published formulas, on shared features."""

import hashlib

import numpy as np
import pytest
import torch
import torch_fidelity
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_prc import calculate_precision_recall_part
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import (
    FrechetInceptionDistance,
    KernelInceptionDistance,
    PeakSignalNoiseRatio,
)

from uldm_core import registry
from uldm_core.testing import check_component
from uldm_plugins.backbones.inception import Inception

CLOSE = {"rel": 1e-3, "abs": 1e-6}


class Features(nn.Module):
    """A backbone of few numbers that both sides see: means and deviations of the image's quarters."""

    channels = (8,)
    num_features = 8

    def forward(self, images):
        images = images.float()
        quarters = images.mean(1).unfold(1, 14, 14).unfold(2, 14, 14).flatten(1, 2).flatten(2)
        return torch.cat([quarters.mean(-1), quarters.std(-1)], 1)


class Backbone(Features):
    def forward(self, images):
        return (super().forward((images + 1) * 127.5)[:, :, None, None],)


def digits():
    """Return real images and fakes that are a little off, uint8 [N, 1, 28, 28]."""
    dataset = registry.build("dataset", "mnist", subset="test")
    real, fake = dataset.images(torch.arange(120)), dataset.images(torch.arange(120, 240))
    fake = (
        fake.float() * 0.8 + 20 * torch.rand(fake.shape, generator=torch.Generator().manual_seed(0))
    ).byte()
    return real, fake


def measured(name, real, fake, **options):
    metric = registry.build("metric", name, **options)
    for images, is_real in ((real, True), (fake, False)):
        for batch in images.split(50):
            metric.update(batch, real=is_real)
    return metric.compute()


def theirs(metric, real, fake):
    metric.update(real.expand(-1, 3, -1, -1), real=True)
    metric.update(fake.expand(-1, 3, -1, -1), real=False)
    return metric.compute()


def test_frechet_is_torchmetrics():
    real, fake = digits()
    expected = theirs(FrechetInceptionDistance(feature=Features()).set_dtype(torch.float64), real, fake)
    ours = measured("frechet", real, fake, backbone=Backbone())["frechet"]
    assert ours == pytest.approx(expected.item(), **CLOSE) and ours > 1


def test_kid_over_whole_sets_is_torchmetrics():
    real, fake = digits()
    reference = KernelInceptionDistance(feature=Features(), subsets=1, subset_size=len(real))
    expected, _ = theirs(reference, real, fake)
    ours = measured("kid", real, fake, backbone=Backbone())["kid"]
    assert ours == pytest.approx(expected.item(), **CLOSE) and ours > 1


def features_of(images):
    return Backbone()(images.float() / 127.5 - 1)[0].flatten(1).double()


def test_precision_and_recall_are_torch_fidelitys():
    real, fake = digits()
    precision, recall = calculate_precision_recall_part(features_of(fake), features_of(real), 3)
    ours = measured("precision_recall", real, fake, backbone=Backbone())
    assert ours == {"precision": pytest.approx(precision, **CLOSE), "recall": pytest.approx(recall, **CLOSE)}
    assert 0 < precision < 1


def test_density_and_coverage_are_their_formulas():
    real, fake = digits()
    a, b = (features_of(images).numpy() for images in (real, fake))
    own = np.sort(np.linalg.norm(a[:, None] - a[None], axis=-1), axis=1)[:, 5]
    cross = np.linalg.norm(a[:, None] - b[None], axis=-1)
    density = (cross < own[:, None]).sum(0).mean() / 5
    coverage = (cross.min(1) < own).mean()
    ours = measured("density_coverage", real, fake, backbone=Backbone())
    assert ours == {"density": pytest.approx(density, **CLOSE), "coverage": pytest.approx(coverage, **CLOSE)}
    assert 0 < coverage < 1


@pytest.mark.parametrize("metric", ["precision_recall", "density_coverage"])
def test_so_many_images_of_each_side_are_compared(metric):
    real, fake = digits()
    every = measured(metric, real, fake, backbone=Backbone())
    assert measured(metric, real, fake, backbone=Backbone(), count=max(len(real), len(fake))) == every
    assert measured(metric, real, fake, backbone=Backbone(), count=30) != every


def test_the_nearest_neighbour_is_the_nearest():
    real, fake = digits()
    fake[7] = real[9]
    a, b = (images.numpy().reshape(len(images), -1) / 255 for images in (real, fake))
    cross = np.sqrt(((a[:, None] - b[None]) ** 2).mean(-1))
    ours = measured("nearest_neighbour", real, fake)
    assert ours["nearest_neighbour"] == pytest.approx(cross.min(0).mean(), **CLOSE)
    assert ours["nearest_neighbour_min"] == pytest.approx(0, abs=1e-4)


def test_psnr_and_ssim_are_torchmetrics():
    real, fake = digits()
    psnr = PeakSignalNoiseRatio(data_range=255.0)(fake.float(), real.float())
    assert measured("psnr", real, fake)["psnr"] == pytest.approx(psnr.item(), rel=1e-5)
    assert measured("ssim", real, fake)["ssim"] == pytest.approx(ssim_inside(real, fake), rel=1e-5)
    colour = torch.randint(256, (2, 4, 3, 20, 31), dtype=torch.uint8)
    assert measured("ssim", *colour)["ssim"] == pytest.approx(ssim_inside(*colour), rel=1e-5)


def ssim_inside(real, fake):
    """Return torchmetrics' mean over windows inside the image, as the paper has it; it reflects the rest."""
    _, whole = structural_similarity_index_measure(
        fake.double(), real.double(), data_range=255.0, return_full_image=True
    )
    return whole[..., 5:-5, 5:-5].mean().item()


def test_lpips_is_the_mean_over_pairs():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randint(256, (2, 3, 3, 40, 40), dtype=torch.uint8, generator=generator)
    metric = registry.build("metric", "lpips", backbone={"use": "squeezenet", "weights": "random"})
    reference = metric.distance.distances
    metric.update(real, real=True)
    metric.update(fake, real=False)
    expected = reference(fake.float() / 127.5 - 1, real.float() / 127.5 - 1).mean()
    assert metric.compute()["lpips"] == pytest.approx(expected.item(), rel=1e-5)


def test_codebook_usage_counts_over_the_whole_set():
    autoencoder = registry.build("autoencoder", "vqvae_fast", in_channels=1).eval()
    metric = registry.build("metric", "codebook_usage", autoencoder=autoencoder)
    images, _ = digits()
    for batch in images.split(50):
        metric.update(batch, real=False)
    with torch.no_grad():
        indices = autoencoder.encode_with_indices(images.float() / 127.5 - 1)[2]
    counts = np.bincount(indices.flatten().numpy(), minlength=autoencoder.quantizer.codebook_size)
    shares = counts[counts > 0] / counts.sum()
    found = metric.compute()
    assert found["used_codes"] == (counts > 0).sum()
    assert found["used_share"] == pytest.approx((counts > 0).mean())
    assert found["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_codebook_usage_counts_several_codebooks_apart():
    quantizer = registry.build("quantizer", "residual_vq", codebook_size=16, dim=4, num_quantizers=2)
    autoencoder = registry.build("autoencoder", "vqvae_fast", in_channels=1, quantizer=quantizer).eval()
    metric = registry.build("metric", "codebook_usage", autoencoder=autoencoder)
    images, _ = digits()
    metric.update(images, real=False)
    with torch.no_grad():
        indices = autoencoder.encode_with_indices(images.float() / 127.5 - 1)[2]
    perplexities = []
    for found in indices.unbind(1):
        shares = np.bincount(found.flatten().numpy(), minlength=16) / found.numel()
        perplexities.append(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))
    used = sum(len(found.unique()) for found in indices.unbind(1))
    assert metric.compute() == {
        "used_codes": used,
        "used_share": pytest.approx(used / 32),
        "perplexity": pytest.approx(np.mean(perplexities), rel=1e-6),
    }


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index].expand(3, -1, -1)


@pytest.fixture
def inception_weights(tmp_path, monkeypatch):
    """Random weights in a file named by its hash, as the published ones are."""
    with monkeypatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "raw.pth")
    digest = hashlib.sha256((tmp_path / "raw.pth").read_bytes()).hexdigest()
    return (tmp_path / "raw.pth").rename(tmp_path / f"inception-{digest[:8]}.pth")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fid_is_torch_fidelitys(inception_weights):
    real, fake = (images[:40] for images in digits())
    expected = torch_fidelity.calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(inception_weights),
    )["frechet_inception_distance"]
    ours = measured("fid", real, fake, backbone={"use": "inception", "weights": inception_weights})
    assert ours["fid"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_inception_keeps_the_contract_of_backbones(inception_weights):
    xfail = registry.default().get("backbone", "inception").xfail
    check_component("backbone", lambda: Inception(inception_weights), xfail).raise_for_failures()
