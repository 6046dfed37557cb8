"""The contract of stages, trainers and others, on a tiny problem in a folder that is thrown away."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uldm_core import registry
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.randomness import derive
from uldm_core.errors import DataError, MistakeError
from uldm_core.protocols import Unfinished
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.doubles import RecordingDataset, TinyDataset, modal_components
from uldm_core.testing.expectations import NotApplicable, Skip, expect, expect_close
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
    """Build the stage on stand-ins for the components that it takes, and return both."""
    return _on_stand_ins(case.subject, case)


def _on_stand_ins(subject: Subject, case: Case, channels: int = 1, **more: Any) -> tuple[Any, dict[str, Any]]:
    """Build a stage on stand-ins for the components that it takes; ``more`` are more options or parts."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        given = {name: part for name, part in modal_components(channels).items() if subject.inferred(name)}
    small = {name: value for name, value in SMALL.items() if subject.inferred(name)}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        stage = subject.factory(**{**given, **small, **more})
    return stage, {
        name: part for name, part in _components_of(stage, given).items() if isinstance(part, nn.Module)
    }


def _components_of(stage: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stage's components: those given, and those that its example has it build itself."""
    own = {name: getattr(stage, name) for name in stage.trains if hasattr(stage, name)}
    return {**given, **own}


@contextmanager
def _context(
    products: Mapping[str, Path] | None = None, seed: int = SEED, kind: type[Context] = Context
) -> Iterator[Context]:
    """Yield a context as the engine would, in a folder that is thrown away."""
    with TemporaryDirectory() as folder:
        place = StageFolder(Path(folder) / "stages" / "checked")
        place.path.mkdir(parents=True)
        yield kind("checked", seed, Device(torch.device("cpu"), torch.float32), place, products or {})


class _SameBatch(Context):
    """Every step gets the images of the first."""

    def batch(self, size: int, batch_size: int, step: int) -> Tensor:
        return super().batch(size, batch_size, 0)


def _exercise(case: Case, stage: Any, given: Mapping[str, Any]) -> list[Tensor]:
    """Do it, and return the weights of all that it was given."""
    with _products(stage, case) as products, _context(products) as context:
        _go_through(stage, context)
    return list(_weights(given, sorted(given)).values())


def _trainer(case: Case, **more: Any) -> tuple[Any, dict[str, Any]]:
    stage, given = _on_stand_ins(case.subject, case, **more)
    if not hasattr(stage, "step"):
        raise NotApplicable("it is no trainer")
    return stage, given


def _no_trainer(case: Case, **more: Any) -> tuple[Any, dict[str, Any]]:
    stage, given = _on_stand_ins(case.subject, case, **more)
    if hasattr(stage, "step"):
        raise NotApplicable("it is a trainer")
    return stage, given


def _trained(stage: Any, given: Mapping[str, Any]) -> list[str]:
    """Return the networks that it trains; an optional component may not be there."""
    return [name for name in stage.trains if name in given]


def _frozen(stage: Any, given: Mapping[str, Any]) -> list[str]:
    """Return the components that nothing may change; a discriminator learns beside what is trained."""
    return [name for name in given if name not in (*stage.trains, "discriminator")]


def _step(trainer: Any, step: int, context: Context) -> dict[str, float]:
    """Take a step as the engine does, its randomness derived from the step."""
    return {name: float(value) for name, value in _metrics(trainer, step, context).items()}


def _metrics(trainer: Any, step: int, context: Context) -> dict[str, Any]:
    torch.manual_seed(derive(SEED, "checked", step))
    return dict(trainer.step(step, context))


def _weights(given: Mapping[str, Any], names: Any) -> dict[str, Tensor]:
    """Return a copy of the weights and buffers of the named components."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name in names
        for key, tensor in given[name].state_dict().items()
    }


@contract.check
def declares_its_work(case: Case) -> None:
    """``trains``, ``makes``, ``needs`` and ``reads`` are sequences of names: the engine's whole graph."""
    stage, given = _build(case)
    for what in ("trains", "makes", "needs", "reads", "optional_needs"):
        names = getattr(stage, what, () if what in ("reads", "optional_needs") else None)
        listed = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
        expect(listed, f"{what} is {names!r}, not a sequence of names")
    for name in stage.trains:
        known = name in given or case.subject.inferred(name)
        expect(known, f"it trains {name!r}, which is none of its options")
    expect(hasattr(stage, "step") or hasattr(stage, "run"), "it has neither step nor run")
    for name in getattr(stage, "adjustable", ()):
        expect(case.subject.inferred(name), f"{name!r} is adjustable, and none of its options")
    if hasattr(stage, "preview"):
        shown = getattr(stage, "preview_options", ())
        expect("previews" in shown, f"preview_options is {shown!r}, without 'previews'")
    numbers = ["steps", "batch_size"] if hasattr(stage, "step") else []
    for name in [*numbers, *(["previews"] if hasattr(stage, "preview") else [])]:
        number = getattr(stage, name, None)
        expect(isinstance(number, int), f"{name} is {number!r}, not a whole number: the engine asks for it")


@contract.check
def logs_scalar_tensors(case: Case) -> None:
    """``step`` returns scalar tensors by name: they wait on the device until they are logged."""
    trainer, _ = _trainer(case)
    with _context() as context:
        trainer.prepare(context)
        for name, value in _metrics(trainer, 0, context).items():
            expect(isinstance(name, str), f"a metric's name is {name!r}, not text")
            expect(isinstance(value, Tensor), f"{name} is {type(value).__name__}, not a tensor")
            expect(value.numel() == 1, f"{name} is {list(value.shape)}, not a scalar")


@contract.check
def training_lowers_loss(case: Case) -> None:
    """Steps on one batch with the same noise lower the loss that it logs first; metrics are finite."""
    trainer, _ = _trainer(case)
    with _context() as context:
        trainer.prepare(context)
        logged = [_step(trainer, 0, context) for _ in range(trainer.steps)]
    for metrics in logged:
        for name, value in metrics.items():
            expect(math.isfinite(value), f"{name} is {value}")
    if not logged[0]:
        raise Skip("it logs nothing")
    first = next(iter(logged[0]))
    losses = [metrics[first] for metrics in logged if first in metrics]
    expect(
        min(losses[-3:]) < losses[0], f"{first} goes from {losses[0]:.4g} to {losses[-1]:.4g} on one batch"
    )


@contract.check
def trains_what_it_says(case: Case) -> None:
    """Training changes every component of ``trains`` and no other: a frozen autoencoder's statistics stay."""
    trainer, given = _trainer(case)
    others = _frozen(trainer, given)
    before, kept = _weights(given, _trained(trainer, given)), _weights(given, others)
    with _context() as context:
        trainer.prepare(context)
        for step in range(4):
            _step(trainer, step, context)
        trained = _weights(given, _trained(trainer, given))
        trainer.finish(context)
    after = _weights(given, _trained(trainer, given))
    for name in _trained(trainer, given):
        keys = [key for key in after if key.startswith(f"{name}.")]
        changed = any(key not in before or not torch.equal(after[key], before[key]) for key in keys)
        expect(changed, f"it trains {name!r}, which stays as it was")
    for key in (key for key in after if key in before and after[key].is_floating_point()):
        forgotten = torch.equal(after[key], before[key]) and not torch.equal(trained[key], before[key])
        expect(not forgotten, f"finish puts {key} back to where it was before the training")
    for key, tensor in _weights(given, others).items():
        expect(torch.equal(tensor, kept[key]), f"{key} changes, though it is not of what is trained")


@contract.check
def parts_in_their_modes(case: Case) -> None:
    """What is trained is in training mode, whatever mode it comes in; all else is used in eval mode."""
    stage, given = _build(case)
    frozen = _frozen(stage, given)
    for name, part in given.items():  # as another stage may have left it
        part.train(name in frozen)
    with _products(stage, case) as products, _context(products) as context, _modes_used(given) as used:
        if hasattr(stage, "step"):
            stage.prepare(context)
            for name in given.keys() - frozen:
                used.pop(name, None)
            for step in range(2):
                _step(stage, step, context)
            for name in given.keys() - frozen:
                expect(used.get(name) != {"eval"}, f"{name} is trained in eval mode: call train()")
            stage.finish(context)
        else:
            stage.run(context)
    for name in frozen:
        wrong = "dropout" in used.get(name, ())
        expect(not wrong, f"{name} is not trained, and used in training mode: call eval()")


@contextmanager
def _modes_used(given: Mapping[str, nn.Module]) -> Iterator[dict[str, set[str]]]:
    """Yield how each component is used: with ``dropout``, with ``other`` parts in training, in ``eval``."""
    used: dict[str, set[str]] = {}

    def note(name: str, dropout: nn.Module) -> None:
        trains = any(part.training for part in given[name].modules())
        mode = "dropout" if dropout.training else "other" if trains else "eval"
        used.setdefault(name, set()).add(mode)

    handles = [
        module.register_forward_pre_hook(lambda module, _, name=name: note(name, module))
        for name, part in given.items()
        for module in part.modules()
        if isinstance(module, nn.Dropout)
    ]
    try:
        yield used
    finally:
        for handle in handles:
            handle.remove()


@contract.check
def uses_every_image(case: Case) -> None:
    """Over a few epochs nearly all images are asked for, those too that fill no last batch."""
    trainer, _ = _trainer(case)
    if not case.subject.inferred("dataset"):
        raise Skip("it takes no dataset")
    count = 2 * trainer.batch_size + trainer.batch_size // 2 + 1
    dataset = RecordingDataset(count=count)
    trainer, _ = _trainer(case, dataset=dataset)
    with _context() as context:
        trainer.prepare(context)
        for step in range(6 * count // trainer.batch_size):
            _step(trainer, step, context)
    missed = count - len(set(dataset.asked))
    expect(missed <= count / 10, f"in six epochs {missed} of {count} images are never asked for")


@contract.check
def images_in_range(case: Case) -> None:
    """An autoencoder is given images in [-1, 1], black at -1, in training as later on."""
    stage, given = _build(case)
    if not case.subject.inferred("autoencoder"):
        raise Skip("it takes no autoencoder")
    seen: list[Tensor] = []
    given["autoencoder"].encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with _products(stage, case) as products, _context(products) as context:
        _go_through(stage, context)
    for images in seen:
        low, high = images.min().item(), images.max().item()
        expect(low >= -2 and high <= 2, f"the autoencoder is given images in [{low:.3g}, {high:.3g}]")
    if seen:
        low = min(images.min().item() for images in seen)
        expect(low < -0.5, f"the autoencoder is given dark images as {low:.3g}: black is -1")


@contract.check
def passes_conditioning(case: Case) -> None:
    """The denoiser is given ``conditioning(t)``, which is 1000 t here, and not the time itself."""
    stage, given = _build(case)
    if not case.subject.inferred("denoiser"):
        raise Skip("it takes no denoiser")
    times: list[Tensor] = []
    given["denoiser"].register_forward_pre_hook(lambda _, inputs: times.append(inputs[1].detach().float()))
    with _products(stage, case) as products, _context(products) as context:
        _go_through(stage, context)
    if times:
        most = torch.cat([each.flatten() for each in times]).max().item()
        expect(most > 1.5, f"the denoiser is given times up to {most:.3g}, not conditioning(t), up to 1000")


@contract.check
def latents_scaled(case: Case) -> None:
    """A ``latent_scaling`` is used: to train a denoiser it normalizes, to draw it brings latents back."""
    stage, given = _build(case)
    trains = "denoiser" in stage.trains
    draws = case.subject.inferred("count") and "denoiser" in given
    if not case.subject.inferred("latent_scaling") or not (trains or draws):
        raise Skip("it neither trains a denoiser with a latent_scaling nor draws with it")
    with _products(stage, case) as products, _context(products) as context:
        _go_through(stage, context)
    method = "normalize" if trains else "denormalize"
    expect(method in given["latent_scaling"].called, f"it takes a latent_scaling and never calls {method}")


@contract.check
def noise_of_each_step(case: Case) -> None:
    """Two steps with the same images give the denoiser other inputs: noise belongs to the step."""
    trainer, given = _trainer(case)
    if "denoiser" not in trainer.trains or "denoiser" not in given:
        raise Skip("it trains no denoiser")
    seen: list[list[Tensor]] = []
    with _context(kind=_SameBatch) as context:
        trainer.prepare(context)
        given["denoiser"].register_forward_pre_hook(
            lambda _, inputs: seen[-1].extend(value.detach().clone() for value in inputs)
        )
        for step in (3, 4):
            seen.append([])
            _step(trainer, step, context)
    same = len(seen[0]) == len(seen[1]) and all(map(torch.equal, *seen))
    expect(not same, "two steps with the same images have the same noise: derive it from the step")


@contract.check
def generator_spares_discriminator(case: Case) -> None:
    """The generator's loss leaves no gradient that the discriminator is then updated with."""
    if not case.subject.inferred("discriminator"):
        raise Skip("it takes no discriminator")
    mark = _mark_after_steps(case)
    if case.subject.inferred("adversarial"):
        loss = registry.default().components("adversarial_loss")[0].name
        try:
            mark = mark or _mark_after_steps(case, adversarial={"use": loss})
        except (MistakeError, TypeError, AttributeError) as error:
            raise Skip(f"its adversarial is no component: {error}") from error
    expect(
        not mark,
        "the discriminator is updated with what images with a graph left in it: detach(), zero_grad()",
    )


def _mark_after_steps(case: Case, **more: Any) -> float:
    trainer, given = _trainer(case, **more)
    with _context() as context:
        trainer.prepare(context)
        for step in range(3):
            _step(trainer, step, context)
    return float(given["discriminator"].mark)


@contract.check
def data_error_undoes_nothing(case: Case) -> None:
    """Where ``step`` raises ``DataError``, nothing of the step is done: the state is saved as it is then."""
    trainer, given = _trainer(case)
    if not case.subject.inferred("dataset"):
        raise Skip("it takes no dataset")
    dataset = RecordingDataset()
    trainer, given = _trainer(case, dataset=dataset)
    with _context() as context:
        trainer.prepare(context)
        prepared = dataset.reads
        _step(trainer, 0, context)
        if dataset.reads == prepared:
            raise Skip("it needs no images in a step")
        dataset.last_read = 2 * dataset.reads - prepared - 1  # all but the last of the next step
        before = _weights(given, given)
        try:
            _step(trainer, 1, context)
        except DataError:
            pass
        except Exception as error:
            raise Skip(f"its error is no DataError: {error}") from error
    for key, tensor in _weights(given, given).items():
        expect(
            torch.equal(tensor, before[key]), f"{key} changes in a step that the dataset has no images for"
        )


@contract.check
def resumes_exactly(case: Case) -> None:
    """Stopped, and resumed from a checkpoint in a new instance, it ends up the same."""
    whole, halves = _trainer(case), _trainer(case)
    with _context() as context:
        whole[0].prepare(context)
        for step in range(6):
            _step(whole[0], step, context)
    with _context() as context:
        halves[0].prepare(context)
        for step in range(3):
            _step(halves[0], step, context)
        context.folder.checkpoints.save(
            3, {name: part.state_dict() for name, part in halves[0].stateful().items()}
        )
        state = context.folder.checkpoints.load(3)
    fresh = _trainer(case)
    with _context() as context:
        fresh[0].prepare(context)
        context.folder.checkpoints.restore(3, state, fresh[0].stateful())
        for step in range(3, 6):
            _step(fresh[0], step, context)
    whole[0].finish(context)
    fresh[0].finish(context)
    wanted = _weights(whole[1], _trained(*whole))
    for key, tensor in _weights(fresh[1], _trained(*fresh)).items():
        expect_close(tensor, wanted[key], f"after resuming, {key} is another", rtol=0, atol=0)


@contract.check
def takes_what_finish_would_leave(case: Case) -> None:
    """``take`` of an unfinished trainer leaves what ``finish`` would at that step, in eval mode."""
    (trainer, given), (unfinished, own) = _trainer(case), _trainer(case)
    if not isinstance(unfinished, Unfinished):
        raise Skip("what it trains is not used before it is done")
    with _context() as context:
        trainer.prepare(context)
        for step in range(3):
            _step(trainer, step, context)
        state = {name: deepcopy(part.state_dict()) for name, part in trainer.stateful().items()}
        trainer.finish(context)
    unfinished.take(state)
    wanted = _weights(given, _trained(trainer, given))
    for key, tensor in _weights(own, _trained(trainer, own)).items():
        expect_close(tensor, wanted[key], f"taken from a checkpoint, {key} is another", rtol=0, atol=0)
    expect(
        not any(_modes({name: own[name] for name in _trained(trainer, own)})),
        "what it trains is in train mode",
    )


@contract.check
def adjusted_optimizer_holds(case: Case) -> None:
    """A trainer whose ``optimizer`` is adjustable continues at the new rate, not at the loaded one."""
    trainer, _ = _trainer(case)
    if "optimizer" not in getattr(trainer, "adjustable", ()):
        raise Skip("its optimizer is not adjustable")
    with _context() as context:
        trainer.prepare(context)
        _step(trainer, 0, context)
        state = {name: deepcopy(part.state_dict()) for name, part in trainer.stateful().items()}
    slow, given = _on_stand_ins(case.subject, case, optimizer={"lr": 1e-12})
    with _context() as context:
        slow.prepare(context)
        for name, part in slow.stateful().items():
            part.load_state_dict(state[name])
        parameters = [(key, p) for name in _trained(slow, given) for key, p in given[name].named_parameters()]
        before = [parameter.detach().clone() for _, parameter in parameters]
        _step(slow, 1, context)
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
                _step(trainer, step, context)
                modes = _modes(given)
                if trainer is shown[0]:
                    trainer.preview(step + 1, context)
                expect(_modes(given) == modes, "after a preview, parts are in another mode")
            trainer.finish(context)
    wanted = _weights(quiet[1], quiet[1])
    for key, tensor in _weights(shown[1], shown[1]).items():
        expect_close(tensor, wanted[key], f"with previews, {key} is another", rtol=0, atol=0)


def _modes(given: Mapping[str, nn.Module]) -> list[bool]:
    return [module.training for part in given.values() for module in part.modules()]


@contract.check
def finishes_in_eval(case: Case) -> None:
    """``finish`` leaves what was trained in eval mode and finite, after a single step too, and a summary."""
    trainer, given = _trainer(case, **({"steps": 1} if case.subject.inferred("steps") else {}))
    with _context() as context:
        trainer.prepare(context)
        _step(trainer, 0, context)
        _expect_numbers(trainer.finish(context))
    for name in _trained(trainer, given):
        expect(not given[name].training, f"{name} is left in training mode")
    for key, tensor in _weights(given, _trained(trainer, given)).items():
        expect(bool(torch.isfinite(tensor).all()), f"{key} is not finite")


def _expect_numbers(summary: Mapping[str, float]) -> None:
    """A summary goes into a file as it is."""
    for name, value in summary.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        expect(number, f"in the summary {name} is {type(value).__name__} {value}, not a Python number")
        expect(math.isfinite(value), f"in the summary {name} is {value}")


@contract.check
def leaves_the_average(case: Case) -> None:
    """With ``ema_decay``, ``finish`` leaves the average of the weights: another decay, other weights."""
    if not case.subject.inferred("ema_decay"):
        raise Skip("it takes no ema_decay")
    same = _decays_agree(case, 6)
    if same and case.subject.inferred("steps"):
        same = _decays_agree(case, 110, {"steps": 110})  # an average may begin late
    expect(not same, "whatever ema_decay is, the same weights are left: not their average")


def _decays_agree(case: Case, steps: int, more: Mapping[str, Any] = {}) -> bool:
    """Whether trainings that average over few and over many steps leave the same."""
    left = []
    for decay in (0.1, 0.9):
        trainer, given = _trainer(case, ema_decay=decay, **more)
        with _context() as context:
            trainer.prepare(context)
            for step in range(steps):
                _step(trainer, step, context)
            trainer.finish(context)
        left.append(_weights(given, _trained(trainer, given)))
    return all(torch.equal(left[1][key], tensor) for key, tensor in left[0].items())


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
    if not case.subject.inferred("dataset"):
        raise Skip("it takes no dataset")
    dataset = _Watched()
    stage, _ = _on_stand_ins(case.subject, case, dataset=dataset)
    if getattr(stage, "reads", None) is None:
        raise Skip("it declares none, so it depends on all splits")
    with _products(stage, case) as products, _context(products) as context:
        if hasattr(stage, "step"):
            stage.prepare(context)
            _step(stage, 0, context)
            stage.finish(context)
        else:
            stage.run(context)
    others = sorted(dataset.read - set(stage.reads))
    expect(not others, f"it reads {', '.join(others)}, which are not among its reads")


@contract.check
def weights_load_elsewhere(case: Case) -> None:
    """What it trains loads into a component built anew: names, shapes and dtypes are the component's own."""
    trainer, given = _trainer(case)
    with _context() as context:
        trainer.prepare(context)
        _step(trainer, 0, context)
        trainer.finish(context)
    _, fresh = _trainer(case)
    for name in _trained(trainer, given):
        dtypes = {key: tensor.dtype for key, tensor in fresh[name].state_dict().items()}
        state = {key: tensor.clone() for key, tensor in given[name].state_dict().items()}
        try:
            fresh[name].load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            expect(False, f"the weights of {name} do not load into one built anew: {error}")
        for key, tensor in state.items():
            expect(dtypes[key] == tensor.dtype, f"{name}.{key} is left as {tensor.dtype}, not {dtypes[key]}")


@contract.check
def makes_what_it_says(case: Case) -> None:
    """``run`` leaves every artifact of ``makes``, a summary of floats, and what it trains not as it was."""
    stage, given = _no_trainer(case)
    before = _weights(given, given)
    with _products(stage, case) as products, _context(products) as context:
        _expect_numbers(stage.run(context))
        for artifact in stage.makes:
            expect(context.folder.artifact(artifact).is_file(), f"it makes no {artifact}")
    for key, tensor in _weights(given, _frozen(stage, given)).items():
        expect(torch.equal(tensor, before[key]), f"{key} changes, though it is not trained")


@contract.check
def same_seed_same_artifacts(case: Case) -> None:
    """The same seed gives the same artifacts, byte for byte, whatever torch's global state."""
    contents = []
    for state in (1, 2):
        stage, _ = _maker(case)
        with _made(stage, case, state=state) as paths:
            contents.append([path.read_bytes() for path in paths])
    expect(contents[0] == contents[1], f"two runs make different {', '.join(stage.makes)}")


@contract.check
def another_seed_another_draw(case: Case) -> None:
    """What draws a ``count`` of new images with a denoiser draws others in a run of another seed."""
    if not (case.subject.inferred("count") and case.subject.inferred("denoiser")):
        raise Skip("it draws no images")
    contents = []
    for seed in (SEED, SEED + 1):
        stage, _ = _maker(case)
        with _made(stage, case, seed=seed) as paths:
            contents.append([path.read_bytes() for path in paths])
    expect(contents[0] != contents[1], f"runs of two seeds make the same {', '.join(stage.makes)}")


@contract.check
def whole_whatever_the_batch(case: Case) -> None:
    """Arrays that it makes have the same shapes for every batch size, one that leaves a rest too."""
    if not case.subject.inferred("batch_size"):
        raise Skip("it takes no batch_size")
    shapes = []
    for batch_size in (8, 3, 50):
        stage, _ = _maker(case, batch_size=batch_size)
        with _made(stage, case) as paths:
            shapes.append([_shapes(path) for path in paths if path.suffix == ".npz"])
        expect(
            shapes[-1] == shapes[0], f"in batches of {batch_size} arrays are {shapes[-1]}, of 8 {shapes[0]}"
        )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with np.load(path) as arrays:
        return {name: arrays[name].shape for name in arrays.files}


def _maker(case: Case, **more: Any) -> tuple[Any, dict[str, Any]]:
    stage, given = _on_stand_ins(case.subject, case, **more)
    if hasattr(stage, "step") or not stage.makes:
        raise Skip("it makes no artifact")
    return stage, given


@contextmanager
def _made(stage: Any, case: Case, state: int = 1, seed: int = SEED) -> Iterator[list[Path]]:
    """Yield the artifacts that it makes in a run of a seed, when torch's own is in a state."""
    with _products(stage, case) as products, _context(products, seed) as context:
        torch.manual_seed(state)
        stage.run(context)
        yield [context.folder.artifact(name) for name in stage.makes]


@contract.check
def takes_colour(case: Case) -> None:
    """Images with three channels, wider than high, are as good as grey squares, unless it refuses them."""
    try:
        stage, _ = _on_stand_ins(case.subject, case, channels=3)
    except ValueError as error:
        raise Skip(f"it refuses them: {error}") from error
    try:
        with _products(stage, case, channels=3) as products, _context(products) as context:
            _go_through(stage, context)
    except MistakeError as error:
        raise Skip(f"it refuses them: {error}") from error


def _go_through(stage: Any, context: Context) -> None:
    """Do all that the engine would have it do, in a few steps."""
    if not hasattr(stage, "step"):
        stage.run(context)
        return
    stage.prepare(context)
    for step in range(2):
        _step(stage, step, context)
    if hasattr(stage, "preview"):
        stage.preview(2, context)
    stage.finish(context)


@contract.check
def writes_within_its_folder(case: Case) -> None:
    """What it writes goes into the run's folder; the working folder is somebody else's."""
    stage, _ = _build(case)
    here = Path.cwd()
    with TemporaryDirectory() as elsewhere, _products(stage, case) as products:
        os.chdir(elsewhere)
        try:
            with _context(products) as context:
                _go_through(stage, context)
            strays = sorted(path.name for path in Path(elsewhere).rglob("*"))
        finally:
            os.chdir(here)
    expect(not strays, f"it writes {', '.join(strays)} into the working folder")


@contextmanager
def _products(stage: Any, case: Case, channels: int = 1) -> Iterator[dict[str, Path]]:
    """Have other registered stages make what this one needs."""
    products: dict[str, Path] = {}
    with _context() as context:
        for artifact in stage.needs:
            maker, _ = _on_stand_ins(_maker_of(artifact), case, channels)
            maker.run(context)
            products[artifact] = context.folder.artifact(artifact)
        yield products


def _maker_of(artifact: str) -> Subject:
    for component in registry.default().components("stage"):
        stage: Callable[..., Any] = component.load()
        if artifact in getattr(stage, "makes", ()):
            return registered("stage", component.name)
    raise Skip(f"no registered stage makes the {artifact} that it needs")
