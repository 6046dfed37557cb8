"""The contract of stages, trainers and others, on a tiny problem in a folder that is thrown away."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from uldm_core import registry
from uldm_core.engine.context import Context
from uldm_core.engine.files import write_tensors
from uldm_core.engine.folder import StageFolder
from uldm_core.engine.machine import Machine
from uldm_core.engine.randomness import derive
from uldm_core.testing.case import Case
from uldm_core.testing.contract import Contract, Skip, expect, expect_close
from uldm_core.testing.doubles import TinyDataset, nouns
from uldm_core.testing.subject import Subject, registered

contract = Contract(
    build=lambda case: _build(case),
    exercise=lambda case, built: _exercise(case, *built),
    draws=True,
    remembers=True,
)
SMALL = {"steps": 20, "batch_size": 8, "count": 8}
SEED = 11


def _build(case: Case) -> tuple[Any, dict[str, Any]]:
    """Build the stage on stand-ins for the nouns that it takes, and return both."""
    return _on_stand_ins(case.subject, case)


def _on_stand_ins(subject: Subject, case: Case, **more: Any) -> tuple[Any, dict[str, Any]]:
    """Build a stage on stand-ins for the nouns that it takes; ``more`` are other options, or other nouns."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        given = {name: noun for name, noun in nouns().items() if subject.takes(name)}
    small = {name: value for name, value in SMALL.items() if subject.takes(name)}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        stage = subject.factory(**{**given, **small, **more})
    return stage, {
        name: noun for name, noun in _nouns_of(stage, given).items() if isinstance(noun, nn.Module)
    }


def _nouns_of(stage: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stage's nouns: those given, and those that it was told by its example to make itself."""
    own = {name: getattr(stage, name) for name in stage.trains if hasattr(stage, name)}
    return {**given, **own}


@contextmanager
def _context(products: Mapping[str, Path] | None = None) -> Iterator[Context]:
    """Yield a context as the engine would, in a folder that is thrown away."""
    with TemporaryDirectory() as folder:
        place = StageFolder(Path(folder) / "stages" / "checked")
        place.path.mkdir(parents=True)
        yield Context("checked", SEED, Machine(torch.device("cpu"), torch.float32), place, products or {})


def _exercise(case: Case, stage: Any, given: Mapping[str, Any]) -> list[Tensor]:
    """Do it, and return the weights of all that it was given."""
    with _products(stage, case) as products, _context(products) as context:
        if hasattr(stage, "step"):
            stage.prepare(context)
            for step in range(2):
                _step(stage, step)
            stage.finish()
        else:
            stage.run(context)
    return list(_weights(given, sorted(given)).values())


def _trainer(case: Case) -> tuple[Any, dict[str, Any]]:
    stage, given = _build(case)
    if not hasattr(stage, "step"):
        raise Skip("it is no trainer")
    return stage, given


def _step(trainer: Any, step: int) -> dict[str, float]:
    """Take a step as the engine does, its randomness derived from the step."""
    torch.manual_seed(derive(SEED, "checked", step))
    return {name: float(value) for name, value in trainer.step(step).items()}


def _weights(given: Mapping[str, Any], names: Any) -> dict[str, Tensor]:
    """Return a copy of the weights and buffers of the named nouns."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name in names
        for key, tensor in given[name].state_dict().items()
    }


@contract.check
def declares_its_work(case: Case) -> None:
    """``trains``, ``makes``, ``needs`` and ``reads`` are sequences of names: the engine's whole graph."""
    stage, given = _build(case)
    for what in ("trains", "makes", "needs"):
        names = getattr(stage, what, None)
        listed = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
        expect(listed, f"{what} is {names!r}, not a sequence of names")
    reads = getattr(stage, "reads", ())
    listed = isinstance(reads, (tuple, list)) and all(isinstance(name, str) for name in reads)
    expect(listed, f"reads is {reads!r}, not a sequence of names")
    for name in stage.trains:
        expect(name in given, f"it trains {name!r}, which is none of its options")
    expect(hasattr(stage, "step") or hasattr(stage, "run"), "it has neither step nor run")


@contract.check
def training_lowers_loss(case: Case) -> None:
    """Steps on one batch with the same noise lower the loss that it logs first; metrics are finite."""
    trainer, _ = _trainer(case)
    with _context() as context:
        trainer.prepare(context)
        logged = [_step(trainer, 0) for _ in range(trainer.steps)]
    for metrics in logged:
        for name, value in metrics.items():
            expect(math.isfinite(value), f"{name} is {value}")
    first = next(iter(logged[0]))
    losses = [metrics[first] for metrics in logged]
    expect(
        min(losses[-3:]) < losses[0], f"{first} goes from {losses[0]:.4g} to {losses[-1]:.4g} on one batch"
    )


@contract.check
def trains_what_it_says(case: Case) -> None:
    """Training changes every noun of ``trains`` and no other: a frozen autoencoder's statistics stay."""
    trainer, given = _trainer(case)
    others = [name for name in given if name not in (*trainer.trains, "discriminator")]
    before, kept = _weights(given, trainer.trains), _weights(given, others)
    with _context() as context:
        trainer.prepare(context)
        for step in range(4):
            _step(trainer, step)
        trainer.finish()
    after = _weights(given, trainer.trains)
    for name in trainer.trains:
        keys = [key for key in after if key.startswith(f"{name}.")]
        changed = any(not torch.equal(after[key], before[key]) for key in keys)
        expect(changed, f"it trains {name!r}, which stays as it was")
    for key, tensor in _weights(given, others).items():
        expect(torch.equal(tensor, kept[key]), f"{key} changes, though it is not of what is trained")


@contract.check
def resumes_exactly(case: Case) -> None:
    """Stopped, and gone on with from ``stateful()`` in a new instance, it ends up the same."""
    whole, halves = _trainer(case), _trainer(case)
    with _context() as context:
        whole[0].prepare(context)
        for step in range(6):
            _step(whole[0], step)
    with _context() as context:
        halves[0].prepare(context)
        for step in range(3):
            _step(halves[0], step)
        state = {name: deepcopy(part.state_dict()) for name, part in halves[0].stateful().items()}
    fresh = _trainer(case)
    with _context() as context:
        fresh[0].prepare(context)
        for name, part in fresh[0].stateful().items():
            part.load_state_dict(state[name])
        for step in range(3, 6):
            _step(fresh[0], step)
    whole[0].finish()
    fresh[0].finish()
    wanted = _weights(whole[1], whole[0].trains)
    for key, tensor in _weights(fresh[1], fresh[0].trains).items():
        expect_close(tensor, wanted[key], f"after resuming, {key} is another", rtol=0, atol=0)


@contract.check
def adjusted_optimizer_holds(case: Case) -> None:
    """A trainer whose ``optimizer`` is adjustable goes on at a new rate, not at that of the loaded state."""
    trainer, _ = _trainer(case)
    if "optimizer" not in getattr(trainer, "adjustable", ()):
        raise Skip("its optimizer is not adjustable")
    with _context() as context:
        trainer.prepare(context)
        _step(trainer, 0)
        state = {name: deepcopy(part.state_dict()) for name, part in trainer.stateful().items()}
    slow, given = _on_stand_ins(case.subject, case, optimizer={"lr": 1e-12})
    with _context() as context:
        slow.prepare(context)
        for name, part in slow.stateful().items():
            part.load_state_dict(state[name])
        parameters = [(key, p) for name in slow.trains for key, p in given[name].named_parameters()]
        before = [parameter.detach().clone() for _, parameter in parameters]
        _step(slow, 1)
    for (key, parameter), old in zip(parameters, before):
        expect_close(parameter, old, f"at a rate of 1e-12, {key} still moves", rtol=0, atol=1e-7)


@contract.check
def previews_change_nothing(case: Case) -> None:
    """A trainer that shows itself after every step ends up the same as one that never does."""
    quiet, shown = _trainer(case), _trainer(case)
    if not hasattr(quiet[0], "preview"):
        raise Skip("it shows nothing of itself")
    for trainer, given in (quiet, shown):
        with _context() as context:
            trainer.prepare(context)
            for step in range(4):
                _step(trainer, step)
                modes = _modes(given)
                if trainer is shown[0]:
                    trainer.preview(step + 1)
                expect(_modes(given) == modes, "after a preview, parts are in another mode")
            trainer.finish()
    wanted = _weights(quiet[1], quiet[1])
    for key, tensor in _weights(shown[1], shown[1]).items():
        expect_close(tensor, wanted[key], f"with previews, {key} is another", rtol=0, atol=0)


def _modes(given: Mapping[str, nn.Module]) -> list[bool]:
    return [part.training for noun in given.values() for part in noun.modules()]


@contract.check
def finishes_in_eval(case: Case) -> None:
    """``finish`` leaves what was trained in eval mode, its parameters finite, and a summary of floats."""
    trainer, given = _trainer(case)
    with _context() as context:
        trainer.prepare(context)
        _step(trainer, 0)
        summary = trainer.finish()
    for name, value in summary.items():
        expect(math.isfinite(float(value)), f"in the summary {name} is {value}")
    for name in trainer.trains:
        expect(not given[name].training, f"{name} is left in training mode")
    for key, tensor in _weights(given, trainer.trains).items():
        expect(bool(torch.isfinite(tensor).all()), f"{key} is not finite")


class _Watched(TinyDataset):
    """A dataset that notes which of its splits are read."""

    def __init__(self, subset: str = "train", count: int = 32, read: set[str] | None = None) -> None:
        super().__init__(subset, count)
        self.read: set[str] = set() if read is None else read

    def images(self, indices: Tensor) -> Tensor:
        """Return uint8 [B, 1, 8, 8]."""
        self.read.add(self.subset)
        return super().images(indices)

    def split(self, name: str) -> _Watched:
        """Return ``train`` or ``test``."""
        return _Watched(name, len(self), self.read)


@contract.check
def reads_what_it_declares(case: Case) -> None:
    """A stage that says which splits it ``reads`` reads no others: they would not be in its key."""
    if not case.subject.takes("dataset"):
        raise Skip("it takes no dataset")
    dataset = _Watched()
    stage, _ = _on_stand_ins(case.subject, case, dataset=dataset)
    if getattr(stage, "reads", None) is None:
        raise Skip("it does not say, so it depends on all splits")
    with _products(stage, case) as products, _context(products) as context:
        if hasattr(stage, "step"):
            stage.prepare(context)
            _step(stage, 0)
            stage.finish()
        else:
            stage.run(context)
    others = sorted(dataset.read - set(stage.reads))
    expect(not others, f"it reads {', '.join(others)}, which are not among its reads")


READ = """
import sys
from safetensors.numpy import load_file
for name, values in load_file(sys.argv[1]).items():
    print(f"{name} {list(values.shape)} {values.sum():.4f}")
"""


@contract.check
def weights_load_elsewhere(case: Case) -> None:
    """What it trains is written as safetensors that a fresh process, without torch or this code, can read."""
    trainer, given = _trainer(case)
    with _context() as context:
        trainer.prepare(context)
        _step(trainer, 0)
        trainer.finish()
        for name in trainer.trains:
            path = context.folder.weights(name)
            write_tensors(path, given[name].state_dict())
            read = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
            expect(read.returncode == 0, f"the weights of {name} cannot be read: {read.stderr[-200:]}")
            count = len(given[name].state_dict())
            expect(len(read.stdout.split("[")) == count + 1, f"of {count} tensors of {name} some are missing")


@contract.check
def makes_what_it_says(case: Case) -> None:
    """``run`` leaves every artifact of ``makes``, a summary of floats, and the nouns as they were."""
    stage, given = _build(case)
    if hasattr(stage, "step"):
        raise Skip("it is a trainer")
    before = _weights(given, given)
    with _products(stage, case) as products, _context(products) as context:
        summary = stage.run(context)
        for artifact in stage.makes:
            expect(context.folder.artifact(artifact).is_file(), f"it makes no {artifact}")
    for name, value in summary.items():
        expect(math.isfinite(float(value)), f"in the summary {name} is {value}")
    for key, tensor in _weights(given, given).items():
        expect(torch.equal(tensor, before[key]), f"{key} changes, though it trains nothing")


@contract.check
def same_seed_same_artifacts(case: Case) -> None:
    """The same seed gives the same artifacts, byte for byte, whatever torch's global state."""
    contents = []
    for seed in (1, 2):
        stage, _ = _build(case)
        if hasattr(stage, "step") or not stage.makes:
            raise Skip("it makes no artifact")
        with _products(stage, case) as products, _context(products) as context:
            torch.manual_seed(seed)
            stage.run(context)
            contents.append([context.folder.artifact(name).read_bytes() for name in stage.makes])
    expect(contents[0] == contents[1], f"two runs make different {', '.join(stage.makes)}")


@contextmanager
def _products(stage: Any, case: Case) -> Iterator[dict[str, Path]]:
    """Have other registered stages make what this one needs."""
    products: dict[str, Path] = {}
    with _context() as context:
        for artifact in stage.needs:
            maker, _ = _on_stand_ins(_maker_of(artifact), case)
            maker.run(context)
            products[artifact] = context.folder.artifact(artifact)
        yield products


def _maker_of(artifact: str) -> Subject:
    for component in registry.default().components("stage"):
        stage: Callable[..., Any] = component.load()
        if artifact in getattr(stage, "makes", ()):
            return registered("stage", component.name)
    raise Skip(f"no registered stage makes the {artifact} that it needs")
