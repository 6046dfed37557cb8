"""Whether samples copy training images: the share that are nearer to one than unseen images are."""

import json
import re

import pytest
import torch

from uldm_core import registry
from uldm_core.cli import main as program
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.progress import Silent
from uldm_core.engine.run import run as run_recipe
from uldm_core.recipe import Recipe
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_plugins.report.run_reader import Measured
from uldm_plugins.shared.diagnostics import MOST_COPIES, copies_diagnostics
from uldm_plugins.stages.evaluate import compare
from uldm_plugins.stages.sample import save_images

FEW = 800


class Messages(Silent):
    """Keeps what is shown."""

    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def digits():
    """Training images, and test images that are not among the first ``FEW``."""
    train = registry.build("dataset", "mnist")
    return train.images(torch.arange(FEW)), train.split("test").images(torch.arange(FEW, 2 * FEW))


def evaluated(samples, folder):
    """Return what the stage measures of samples, and what it says; nothing is trained."""
    folder.mkdir()
    save_images(folder / "samples.npz", samples)
    place, shown = StageFolder(folder / "stages" / "scores"), Messages()
    place.path.mkdir(parents=True)
    dataset = registry.build("dataset", "mnist", limit=FEW)
    parts = {"dataset": dataset, "autoencoder": registry.build("autoencoder", "identity", in_channels=1)}
    stage = registry.build(
        "stage", "evaluate", **parts, metrics=[registry.build("metric", "nearest_neighbour")]
    )
    device = Device(torch.device("cpu"), torch.float32)
    stage.run(Context("scores", 0, device, place, {"samples.npz": folder / "samples.npz"}, shown))
    results = json.loads(place.artifact("metrics.json").read_text())["results"]
    return results, [line for line in shown.lines if "warning" in line]


def test_training_images_as_samples_raise_the_alarm_and_unseen_ones_do_not(digits, tmp_path):
    train, unseen = digits
    results, said = evaluated(train, tmp_path / "copies")
    assert results["samples"]["copies"] == 1 and 0.01 <= results["floor"]["copies"] < 0.02
    assert len(said) == 1 and "100.0% of the samples" in said[0] and "More data" in said[0]
    results, said = evaluated(unseen, tmp_path / "unseen")
    assert results["samples"]["copies"] < MOST_COPIES and not said


def test_copies_with_noise_and_among_others_are_found(digits, tmp_path):
    train, unseen = digits
    noise = torch.randint(-8, 9, train.shape, generator=torch.Generator().manual_seed(0))
    alike = (train.short() + noise).clamp(0, 255).to(torch.uint8)
    results, said = evaluated(torch.cat([alike[:100], unseen[100:]]), tmp_path / "some")
    assert 0.12 < results["samples"]["copies"] < 0.2 and said


def test_so_many_of_each_set_are_compared(digits):
    """Chosen by chance: of a set that begins with copies, not those alone."""
    train, unseen = digits
    fake = torch.cat([train[:400], unseen[400:]])
    sets, real = {"samples": lambda: [fake]}, {"train": lambda: [train], "test": lambda: [unseen]}
    few = compare([registry.build("metric", "nearest_neighbour", count=100)], sets, real)
    every = compare([registry.build("metric", "nearest_neighbour")], sets, real)
    assert every["samples"]["copies"] == pytest.approx(0.5, abs=0.02)
    assert few["samples"]["copies"] == pytest.approx(0.5, abs=0.12)
    assert few["floor"]["copies"] == pytest.approx(0.01)


def test_without_unseen_images_there_is_no_share(digits):
    train, unseen = digits
    found = compare(
        [registry.build("metric", "nearest_neighbour")],
        {"samples": lambda: [train]},
        {"test": lambda: [unseen]},
    )
    assert "copies" not in found["samples"]
    assert not list(copies_diagnostics(found)) and not list(copies_diagnostics(Measured().results))


FEW_IMAGES = """
uldm = 1

[dataset]
use = "synthetic"
count = 48
size = 8
channels = 1

[autoencoder]
use = "identity"

[denoiser]
use = "mlp"
width = 128
hidden = 256

[noise_scheduler]
use = "flow"

[stages.second]
use = "train_diffusion"
steps = 800
batch_size = 32
held_out = 0.33
previews = 0
optimizer = { use = "adamw", lr = 3e-3 }

[stages.samples]
use = "sample"
count = 100

[stages.scores]
use = "evaluate"
metrics = [{ use = "psnr" }]
"""


@pytest.mark.slow
def test_a_denoiser_of_32_images_memorises_them_and_everything_says_so(tmp_path, capsys):
    """The log, ``uldm evaluate`` and the report; and the best weights of the same training copy less."""
    (tmp_path / "few.toml").write_text(FEW_IMAGES)
    (tmp_path / "best.toml").write_text('uldm = 1\nextends = "few.toml"\nstages.second.checkpoint = "best"\n')
    copies = {}
    for name in ("few", "best"):
        run, shown = tmp_path / name, Messages()
        run_recipe(Recipe.load(tmp_path / f"{name}.toml"), out=run, reporter=shown)
        text = "\n".join(shown.lines)
        assert ("it memorises" in text) is (name == "few")
        assert ("the weights are those of step" in text) is (name == "best")
        capsys.readouterr()
        assert program._run(["evaluate", str(run), "--metrics", "nearest_neighbour"]) == 0
        out, error = capsys.readouterr()
        copies[name] = float(re.search(r"^copies +([\d.]+)", out, re.MULTILINE).group(1))
        page = (run / "report.html").read_text()
        flagged = "the model repeats images that it was trained on"
        assert (flagged in error) is (flagged in page) is (copies[name] > MOST_COPIES)
        assert "has risen since step" in page
        assert ("the weights that were best are kept" in page) is (name == "best")
    assert copies["few"] > 0.3 and copies["few"] > copies["best"]
