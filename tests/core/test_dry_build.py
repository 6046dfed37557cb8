"""Building a recipe's components for their shapes alone: what is found, and what is passed over."""

import logging
import subprocess
import sys
import time
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from shipped import RUNNABLE, loaded
from torch import nn

from uldm_core import Component, MistakeError, check, use
from uldm_core.errors import Problem, UnavailableError, Where
from uldm_core.preflight.dry_build import dry_build
from uldm_core.protocols import Denoiser
from uldm_core.recipe import Recipe
from uldm_core.run_folder.data import StandIn
from uldm_core.shapes import is_shapes_only

NOUNS = {
    "dataset": "points",
    "autoencoder": {"use": "coder", "quantizer": {"use": "codes", "codebook_size": 4}},
}


class Picky(nn.Module):
    """A denoiser that objects."""

    def __init__(self, channels: int, width: int = 6, heads: int = 3, head: int = 1) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width {width} of {channels} channels")


class Ensemble(nn.Module):
    """Takes two denoisers, both looked at."""

    def __init__(self, one: Denoiser = use("net"), other: Denoiser = use("net")) -> None:
        super().__init__()


def raising(error):
    class Raises:
        def __init__(self) -> None:
            raise error

    return Raises


class Endless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        while True:
            try:
                self.layers.append(nn.Linear(2, 2))
            except Exception:  # as careless code has it
                continue


class Vast(nn.Module):
    """A loss that would fill any memory, on whatever device it is told to use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10**12, generator=torch.Generator()))
        self.far = nn.Parameter(torch.zeros(10**12, device="cpu"))
        self.layer = nn.Linear(10**6, 10**6)
        nn.init.normal_(self.layer.weight)
        self.register_buffer("table", torch.from_numpy(np.ones(3)))


class Talker:
    def __init__(self) -> None:
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("talker").error("a line")


class Curious:
    """A loss that tells how it was built."""

    def __init__(self) -> None:
        self.shapes_only, self.device = is_shapes_only(), torch.zeros(1).device.type


class Process:
    """A noise scheduler that looks at its values."""

    prediction, timesteps = "flow", 3

    def __init__(self, timesteps: int = 3) -> None:
        self.values = torch.linspace(0, 1, timesteps).tolist()
        self.drawn = torch.rand(1).item()


class Faceless:
    """A dataset that says nothing of its images before it is built."""

    def __init__(self) -> None:
        raise AssertionError("a dataset is not built")


class Sized(Faceless):
    def __init__(self, size: int = 5, channels: int = 2) -> None:
        raise AssertionError("a dataset is not built")


MORE = [
    Component("denoiser", "picky", Picky),
    Component("loss", "ensemble", Ensemble),
    Component("loss", "endless", Endless),
    Component("loss", "vast", Vast),
    Component("loss", "talker", Talker),
    Component("loss", "curious", Curious),
    Component("noise_scheduler", "process", Process),
    Component("dataset", "faceless", Faceless),
    Component("dataset", "sized", Sized),
    Component("loss", "not_implemented", raising(NotImplementedError("its weights make it"))),
    Component("loss", "item", raising(RuntimeError("Tensor.item() cannot be called on meta tensors\nmore"))),
    Component("loss", "unavailable", raising(UnavailableError("no file"))),
    Component("loss", "odd", raising(KeyError("x"))),
    Component("loss", "exits", raising(SystemExit(3))),
    Component("loss", "mistaken", raising(MistakeError(Problem(Where(("inner",)), "is wrong", "mend it")))),
    Component("loss", "silent", raising(ValueError())),
]


@pytest.fixture
def tried(registry):
    """Return what a trial finds of tables that are added to the nouns."""
    for component in MORE:
        registry.register(component)

    def tried(seconds=1.0, **tables):
        return dry_build(Recipe.from_dict({**NOUNS, **tables}).resolve(registry), seconds=seconds)

    return tried


def said(dry_build):
    return [str(problem) for problem in dry_build.problems]


def test_every_component_stage_and_part_is_built_for_its_shapes(tried):
    found = tried(stages={"first": {"use": "train"}})
    assert not found.problems and not found.unmeasured
    coder = found.made["autoencoder",]
    assert coder.quantizer is found.made["autoencoder", "quantizer"]
    assert found.made["stages", "first"].autoencoder is coder
    assert all(parameter.is_meta for parameter in coder.parameters())


def test_a_constructors_error_is_located_at_the_component(tried):
    (problem,) = tried(denoiser={"use": "picky", "heads": 4}).problems
    assert problem.where.key == ("denoiser",)
    assert problem.what == "heads = 4 does not divide width 6 of 4 channels"
    assert (problem.code, problem.hint) == ("component-error", "")
    assert isinstance(problem.cause, ValueError) and MistakeError(problem).__cause__ is problem.cause


def test_a_mistake_that_a_component_finds_itself_stands_within_it(tried):
    (problem,) = tried(loss="mistaken").problems
    assert (problem.where.key, problem.what, problem.hint) == (("loss", "inner"), "is wrong", "mend it")


def test_every_part_is_looked_at_though_another_fails(tried):
    both = {"use": "ensemble", **{name: {"use": "picky", "heads": 4} for name in ("one", "other")}}
    found = tried(net_loss=both, other_loss="silent")
    keys = [problem.where.key for problem in found.problems]
    assert keys == [("net_loss", "one"), ("net_loss", "other"), ("other_loss",)]
    assert found.problems[-1].what == "ValueError()"


def test_what_needs_a_component_that_failed_is_passed_over(tried):
    found = tried(
        autoencoder={"use": "coder", "quantizer": {"use": "codes", "codebook_size": 13}},
        denoiser="picky",
        stages={"first": {"use": "train"}, "second": {"use": "draw"}},
    )
    assert said(found) == ["autoencoder.quantizer: thirteen codes bring bad luck"]
    assert found.unmeasured["autoencoder",] == "needs autoencoder.quantizer, which could not be built"
    assert found.unmeasured["denoiser",] == "needs autoencoder, which could not be built"
    assert {("stages", "first"), ("stages", "second")} <= found.unmeasured.keys()


def test_an_option_must_agree_with_what_is_inferred(tried):
    (problem,) = tried(denoiser={"use": "picky", "channels": 7}).problems
    assert problem.where.key == ("denoiser", "channels")
    assert problem.what == "is 7, but autoencoder.latent_channels is 4"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("not_implemented", "its weights make it"),
        ("item", "RuntimeError: Tensor.item() cannot be called on meta tensors"),
        ("unavailable", "no file"),
        ("odd", "KeyError: 'x'"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_what_cannot_be_built_without_values_is_no_problem(tried, name, why):
    found = tried(loss=name)
    assert not found.problems and found.unmeasured["loss",] == why


def test_time_is_up_for_one_that_never_ends(tried):
    started = time.monotonic()
    found = tried(seconds=0.2, loss="endless", denoiser="net")
    assert time.monotonic() - started < 1
    assert found.unmeasured["loss",] == "took too long" and not found.problems


def test_nothing_is_allocated(tried):
    vast = tried(loss="vast").made["loss",]
    assert all(tensor.is_meta for tensor in vast.state_dict().values())
    assert vast.layer.weight.shape == (10**6, 10**6) and vast.weight.shape == (10**12,)


def test_a_dry_build_says_nothing_and_draws_nothing(tried, caplog, recwarn):
    state = torch.get_rng_state()
    assert not tried(loss="talker", noise_scheduler="process").unmeasured
    assert torch.equal(torch.get_rng_state(), state)
    assert not caplog.records and not recwarn.list
    logging.getLogger("talker").error("heard again")
    assert len(caplog.records) == 1


def test_components_are_notified_that_only_shapes_are_wanted(tried):
    curious = tried(loss="curious").made["loss",]
    assert curious.shapes_only and curious.device == "meta"
    assert not is_shapes_only() and torch.zeros(1).device.type == "cpu"


def test_a_noise_scheduler_has_its_values_unless_they_are_many(tried):
    assert tried(noise_scheduler="process").made["noise_scheduler",].values == [0, 0.5, 1]
    found = tried(noise_scheduler={"use": "process", "timesteps": 10**13})
    assert found.unmeasured["noise_scheduler",] == "timesteps = 10000000000000 is more than can be tried out"


def test_a_dataset_is_stood_in_for_by_what_its_class_or_its_options_say(tried):
    by_class, by_options = tried().made["dataset",], tried(dataset="sized").made["dataset",]
    assert by_class == StandIn(1, (4, 4), ("train", "test"))
    assert by_options == StandIn(2, (5, 5), ("train", "test"))
    assert by_options.split("test").images(torch.arange(3)).shape == (3, 2, 5, 5)
    assert len(by_options.labels) == len(by_options)


def test_without_a_datasets_shapes_there_is_no_dry_build_of_what_needs_them(tried):
    found = tried(dataset="faceless")
    assert found.unmeasured["dataset",] == "neither its class nor its options say its size"
    assert found.unmeasured["autoencoder",] == "needs dataset, which could not be built"
    assert not found.problems


def test_checking_a_recipe_tries_it_and_says_where(registry, write):
    path = write(("codebook_size = 16", "codebook_size = 13"))
    (problem,) = check(Recipe.load(path), registry)
    assert (problem.where.line, problem.what) == (9, "thirteen codes bring bad luck")


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_tried_without_a_network_or_a_file_of_weights(path, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("a trial fetches and reads nothing")

    resolved = loaded(path, tmp_path).resolve()
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("safetensors.torch.safe_open", refuse)
    found = dry_build(resolved, seconds=60)
    assert not found.problems and not found.unmeasured


def test_a_dry_build_is_quick_since_torch_imports_nothing_for_it():
    code = (
        "import sys\n"
        "from uldm_core.recipe import Recipe\n"
        "from uldm_core.preflight.dry_build import dry_build\n"
        "found = dry_build(Recipe.load('mnist_latent').resolve())\n"
        "print(len(found.made) > 20, 'torch._dynamo' in sys.modules, 'sympy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False", "False"], done.stdout + done.stderr
