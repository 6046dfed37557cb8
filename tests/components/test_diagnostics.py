"""What is said of a training's curves, on made-up ones."""

import numpy as np
import pytest
import torch

from uldm_core import registry
from uldm_plugins.shared.diagnostics import autoencoder_diagnostics, collapsed, falls
from uldm_plugins.stages.train_autoencoder import TrainAutoencoder

NOISE = np.random.default_rng(0).normal(1, 0.05, 200)


def said(chance=None, rising=True, **curves):
    return [(one.level, one.what.split(":")[0]) for one in autoencoder_diagnostics(curves, chance, rising)]


WINS = ("worry", "the discriminator wins")
LOSES = ("note", "the discriminator cannot distinguish reconstructions from images")
RISES = ("worry", "the reconstruction error rises")
COLLAPSES = ("worry", "the codebook collapses")


@pytest.mark.parametrize(
    ("curve", "chance", "wanted"),
    [
        (np.linspace(2, 0.01, 40) ** 2, None, [WINS]),
        (np.linspace(1, 0.6, 40), None, []),
        (NOISE, None, [LOSES]),
        (NOISE * 0.05, 1.0, [WINS]),
        (NOISE * 0.05, None, [LOSES]),
        (NOISE * 0.7, 1.0, []),
        (np.linspace(0, -3, 40), 0.0, []),
        ([1.0, 0.0, 0.0], None, []),
        ([], 1.0, []),
    ],
)
def test_the_balance_of_a_discriminator(curve, chance, wanted):
    """Resumed in mid-training, its first loss is not that of chance: then the stage gives that."""
    assert said(chance, discriminator=curve) == wanted


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [
        (np.geomspace(1, 0.1, 200) * NOISE, []),
        (np.concatenate([np.geomspace(1, 0.1, 100), np.full(100, 0.12)]) * NOISE, []),
        (np.concatenate([np.geomspace(1, 0.1, 100), np.geomspace(0.1, 0.5, 100)]) * NOISE, [RISES]),
        (np.concatenate([np.geomspace(1, 0.1, 190), np.full(10, 1.0)]), []),
        ([0.1] * 9 + [9.0] * 9, []),
    ],
    ids=["falls", "rests", "rises", "just now", "too short"],
)
def test_a_reconstruction_error_that_rises(curve, wanted):
    assert said(distance=curve) == wanted
    assert said(distance=curve, rising=False) == [], "a loss that starts late raises it rightly"


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [([0.01], []), ([0.01, 0.3], []), ([0.3, 0.01], []), ([0.3, 0.04, 0.01], [COLLAPSES]), ([], [])],
)
def test_a_codebook_that_collapses(curve, wanted):
    """One preview tells nothing: the first is of a codebook that has hardly been used."""
    assert said(code_use=curve) == wanted


def test_all_are_said_with_the_option_to_turn():
    curves = {
        "discriminator": [1.0] * 9 + [0.0] * 31,
        "code_use": [0.01] * 2,
        "distance": [1.0] * 30 + [3.0] * 30,
    }
    found = list(autoencoder_diagnostics(curves))
    assert [one.what.split(":")[0] for one in found] == [WINS[1], COLLAPSES[1], RISES[1]]
    options = ("discriminator_optimizer.lr", "revive_below", "optimizer.lr")
    assert all(option in one.fix for option, one in zip(options, found))


@pytest.mark.parametrize(
    ("used", "size", "perplexity", "wanted"),
    [(10, 64, 9, True), (60, 64, 3, True), (60, 64, 9, False), (16, 16, 1.5, False), (3, 16, 3, True)],
)
def test_a_codebook_has_collapsed_if_few_or_hardly_any_codes_are_used(used, size, perplexity, wanted):
    assert collapsed(used, size, perplexity) is wanted


def test_a_loss_that_falls():
    assert falls(np.linspace(1, 0.5, 40)) and falls([1.0, 2.0]) and not falls([1.0] * 40)


def test_a_trainer_warns_of_what_it_logs_but_does_not_note_what_may_be_fine():
    build = registry.build
    autoencoder = build("autoencoder", "vqvae_fast", in_channels=1, quantizer={"use": "vq_ema", "dim": 4})
    losses = [{"use": "l1"}, {"use": "l2", "start": 50}]
    discriminator = build("discriminator", "patchgan", in_channels=1)
    dataset = build("dataset", "mnist", limit=8)
    curves = {"discriminator": [0.01] * 40, "distance": [1.0] * 30 + [3.0] * 30}

    def warned(losses, curves=curves):
        stage = build(
            "stage",
            "train_autoencoder",
            dataset=dataset,
            autoencoder=autoencoder,
            discriminator=discriminator,
            losses=losses,
            adversarial="hinge",
        )
        assert isinstance(stage, TrainAutoencoder)
        return [what.split(":")[0] for what, _ in stage.diagnose(curves)]

    assert warned(losses[:1]) == [WINS[1], RISES[1]], "chance is known, whatever the first value is"
    assert warned(losses) == [WINS[1]]
    chance = build("adversarial_loss", "hinge").discriminator(torch.zeros(1), torch.zeros(1)).item()
    assert warned(losses, {"discriminator": [chance] * 40}) == []
