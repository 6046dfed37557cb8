"""The watch over images that are held out, and the weights that were best on them."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from uldm_core import MistakeError, registry
from uldm_core.engine import loop
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.progress import Silent
from uldm_core.recipe import RunOptions
from uldm_core.recipe.run_options import CheckpointPolicy
from uldm_core.run_folder.folder import RunFolder
from uldm_core.testing.doubles import TinyDataset, TinyDenoiser, components
from uldm_plugins.shared.diagnostics import memorisation_diagnostics
from uldm_plugins.stages import watch
from uldm_plugins.stages.guided import AVERAGES

STEPS = 12
TURNS = {"optimizer": {"use": "adamw", "lr": 0.2}, "lr_schedule": "constant"}
"""With which a tiny denoiser gets better and worse."""


class Noisy(TinyDenoiser):
    """Draws random numbers while it is trained, and notes at which times it is called when it is not."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.3)
        self.seen = []

    def forward(self, latents, time, condition=None):
        if not self.training:
            self.seen.append((len(latents), time.clone(), condition))
        return super().forward(self.dropout(latents), time)


class Frechet:
    """The squared distance of mean brightness."""

    compares, description = True, {}

    def __init__(self):
        self.sets = {True: [], False: []}

    def reset(self, *, keep_real=False):
        self.sets = {True: self.sets[True] if keep_real else [], False: []}

    def update(self, images, *, real):
        self.sets[real].append(images.float())

    def compute(self):
        real, fake = (torch.cat(self.sets[of]) for of in (True, False))
        return {"far": float((real.mean() - fake.mean()) ** 2), "drawn": float(len(fake))}


class Messages(Silent):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def diffusion(**options):
    parts = {"dataset": TinyDataset(count=40), "denoiser": Noisy(), **components(), **options}
    parts["denoiser"] = options.get("denoiser") or Noisy()
    parts["dataset"] = TinyDataset(count=40)
    known = inspect.signature(registry.default().get("stage", "train_diffusion").load()).parameters
    given = {name: part for name, part in parts.items() if name in known}
    more = {"batch_size": 32, "previews": 0, "steps": STEPS, "held_out": 0.25, "weaker": 0.0}
    if "ema" not in options:
        more["ema_decay"] = 0.2
    return registry.build("stage", "train_diffusion", **{**more, **TURNS, **given})


def context_in(folder, reporter=None, every=0):
    options = RunOptions(checkpoint=CheckpointPolicy(every) if every else CheckpointPolicy("1 h"))
    device = Device(torch.device("cpu"), torch.float32)
    return Context(
        "s", 0, device, RunFolder(folder).stage("s"), reporter=reporter or Silent(), options=options
    )


def train(folder, reporter=None, every=0, **options):
    torch.manual_seed(0)
    trainer, context = diffusion(**options), context_in(folder, reporter, every)
    summary = loop.train(trainer, context)
    return trainer, context.curves, summary


def weights(trainer):
    averages = [tensor for average in trainer.averages.values() for tensor in average.parameters]
    return [*trainer.denoiser.state_dict().values(), *averages]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return train(tmp_path_factory.mktemp("quiet"), watch=0)


@pytest.mark.parametrize("metric", [None, Frechet()], ids=["losses", "metric"])
def test_nothing_that_is_trained_changes_by_it(tmp_path, quiet, metric):
    watched, curves, _ = train(tmp_path, watch=4, watch_metric=metric)
    assert all(torch.equal(*both) for both in zip(weights(watched), weights(quiet[0]), strict=True))
    assert curves["loss"] == quiet[1]["loss"] and "held_out_loss" not in quiet[1]
    logged = ["held_out_loss", "trained_loss"] + (["held_out_far", "held_out_drawn"] if metric else [])
    assert {name for name in curves if "held" in name or "trained" in name} == set(logged)
    assert all(len(curves[name]) == 4 for name in logged) and watched.watched.steps == [3, 6, 9, 12]
    assert not metric or curves["held_out_drawn"] == 4 * [watch.SAMPLES]


def test_both_sets_have_the_same_times_again_and_again_and_know_their_classes(tmp_path):
    condition = registry.build("condition", "labels", classes=2)
    denoiser = Noisy()
    trainer, curves, _ = train(tmp_path, watch=2, denoiser=denoiser, condition=condition, drop=0.9)
    assert sum(count for count, _, _ in denoiser.seen) == 2 * 2 * watch.LOSSES
    times = torch.cat([time for _, time, _ in denoiser.seen]).view(4, -1)
    assert all(torch.equal(times[0], other) for other in times[1:]) and len(times[0].unique()) > 200
    told = torch.cat([condition for _, _, condition in denoiser.seen]).view(2, 2, -1)
    assert torch.equal(told[0], told[1]) and int(told.max()) == 1, "none is dropped"
    assert set(trainer.kept_back.tolist()) & set(trainer.trained.tolist()) == set()
    assert curves["held_out_loss"][0] != curves["trained_loss"][0] != curves["trained_loss"][1]


@pytest.mark.parametrize("metric", [None, Frechet()], ids=["loss", "metric"])
def test_the_best_weights_are_those_of_a_training_that_ends_there(tmp_path, metric):
    told = Messages()
    options = {"watch": 6, "watch_metric": metric, "checkpoint": "best"}
    best, curves, summary = train(tmp_path / "best", told, **options)
    name = "held_out_far" if metric else "held_out_loss"
    step = int(summary["best_step"])
    assert 0 < step < STEPS and summary[name] == min(curves[name]) == curves[name][step // 2 - 1]
    assert told.lines[-1] == f"the weights are those of step {step} of 12, the best by {name}"
    short, _, _ = train(tmp_path / "short", watch=0, steps=step)
    last, _, _ = train(tmp_path / "last", watch=0)
    for ours, there, end in zip(*(each.denoiser.parameters() for each in (best, short, last))):
        assert torch.equal(ours, there) and not torch.equal(ours, end)
    assert (RunFolder(tmp_path / "best").stage("s").artifact(AVERAGES)).is_file()


def test_it_survives_a_kill_and_an_unfinished_run_has_the_best_so_far(tmp_path):
    options = {"watch": 6, "checkpoint": "best"}
    whole, _, summary = train(tmp_path / "whole", **options)

    class Killed(BaseException):
        pass

    class Killing(Silent):
        def advanced(self, done, metrics, rate):
            if metrics and done >= 10:
                raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "cut", Killing(), every=9, **options)
    checkpoints = RunFolder(tmp_path / "cut").stage("s").checkpoints
    step, state = checkpoints.newest(lambda text: None)
    assert step == 9 and 0 < state["watched"]["steps"][-1] <= 9
    unfinished = diffusion(**options)
    unfinished.take(state)
    for ours, kept in zip(unfinished.denoiser.parameters(), state["watched"]["parameters"], strict=True):
        assert torch.equal(ours, kept)
    resumed, curves, again = train(tmp_path / "cut", every=9, **options)
    assert again == summary and resumed.watched.values == whole.watched.values
    assert len(curves["held_out_loss"]) < 6 == len(resumed.watched.steps)
    assert all(torch.equal(*both) for both in zip(weights(resumed), weights(whole), strict=True))


def test_the_best_copy_is_counted_in_checkpoints():
    one = sum(4 * parameter.numel() for parameter in TinyDenoiser().parameters())
    sizes = [
        diffusion(**options).checkpoint_bytes for options in ({}, {"checkpoint": "best"}, {"weaker": 0.1})
    ]
    assert sizes == [0, one, one]
    assert diffusion(ema="post_hoc", ema_stds=[0.03, 0.1, 0.2]).checkpoint_bytes == 2 * one


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"checkpoint": "best", "held_out": 0.0}, r'checkpoint = "best" goes by held-out images'),
        ({"checkpoint": "best", "watch": 0}, "and watch = 20"),
        ({"watch_metric": Frechet(), "held_out": 0.0}, "watch_metric goes by held-out images"),
        ({"watch_metric": "psnr"}, "watch_metric: PSNR does not compare"),
        ({"checkpoint": "best", "ema": "post_hoc"}, "take one of them"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, wrong):
    with pytest.raises(MistakeError, match=wrong):
        diffusion(**options)


@pytest.mark.parametrize("method", ["compute", "update"])
def test_a_metric_that_cannot_be_measured_is_found_before_the_first_step(method, tmp_path):
    class Fussy(Frechet):
        pass

    def refuse(*_, **__):
        raise ValueError("10 images are too few")

    setattr(Fussy, method, refuse)
    with pytest.raises(MistakeError, match="Fussy cannot be measured: 10 images are too few"):
        train(tmp_path, watch_metric=Fussy())
    assert not RunFolder(tmp_path).stage("s").checkpoints.steps()


def test_a_later_weaker_denoiser_is_warned_of(tmp_path):
    told = Messages()
    _, _, summary = train(tmp_path, told, watch=6, checkpoint="best", weaker=0.9, guidance="auto")
    assert summary["best_step"] < 11 and "the weaker denoiser is of step 11" in told.lines[-1]


STEP = np.linspace(0, 1, 20)
FALL, RISE = 0.3 + np.exp(-8 * STEP), 0.3 * np.maximum(0, STEP - 0.4)
NOISE = np.random.default_rng(0).normal(1, 1, (300, 2, 20))


def judged(held_out, trained, kept=False):
    steps = range(100, 2001, 100)
    return [(one.level, one.what) for one in memorisation_diagnostics(steps, held_out, trained, kept=kept)]


@pytest.mark.parametrize(
    ("held_out", "trained", "since"),
    [
        (FALL + RISE, FALL * (1 - STEP / 2), "900"),
        ((FALL + RISE) * (1 + 0.01 * NOISE[0, 0]), FALL * (1 - STEP / 2), "900"),
        (FALL, FALL * (1 - STEP / 2), ""),
        (FALL + RISE, FALL + RISE, ""),
        (FALL + RISE, np.ones(20), ""),
        (FALL + RISE / 20, FALL * (1 - STEP / 2), ""),
        ([*FALL[:-1], 9.0], FALL * (1 - STEP / 2), ""),
        ((FALL + RISE)[:9], (FALL * (1 - STEP / 2))[:9], ""),
        ([], [], ""),
        ([*(FALL + RISE)[:-1], np.nan], FALL * (1 - STEP / 2), ""),
    ],
    ids=["memorises", "with noise", "falls", "both rise", "flat", "hardly", "once", "few", "none", "nan"],
)
def test_a_loss_that_rises_on_held_out_images_alone(held_out, trained, since):
    found = judged(held_out, trained)
    assert bool(found) is bool(since)
    if since:
        assert found[0][0] == "worry" and f"has risen since step {since} while" in found[0][1]
        assert judged(held_out, trained, kept=True)[0][0] == "note"


@pytest.mark.parametrize("amount", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("curve", [1, FALL], ids=["flat", "falls"])
def test_noise_is_not_taken_for_it(amount, curve):
    assert not [1 for noise in NOISE if judged(*(curve * (1 + amount * noise)))]
