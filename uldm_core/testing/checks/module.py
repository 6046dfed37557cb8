"""What every component that is an ``nn.Module`` owes its users."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from uldm_core.testing.contract import Case, Contract
from uldm_core.testing.expectations import Broken, Skip, expect, expect_close, expect_finite
from uldm_core.testing.tensors import as_module, copy_of_state, floats_in, set_to_zero, sum_of, tensors_in

T = TypeVar("T")
contract = Contract()
LOW_PRECISION = 0.1
CODES_MAY_FLIP = 0.7
DECIDED_OTHERWISE = 0.2
BATCHES = 4 * (
    (1.0, 0.0),
    (-1.0, 0.0),
    (0.4, 0.5),
    (0.4, -0.5),
    (0.1, 0.0),
    (0.0, 0.0),
    (0.7, 0.2),
    (0.7, -0.2),
)
"""Scale and shift of the batches of which one must reach a parameter; images stay in [-1, 1]."""


def _trained(case: Case) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Build the component, have it see a batch in training mode, and return it in eval mode, with inputs."""
    component = case.module()
    inputs = case.inputs(component)
    component.train()
    case.call(component, *_doubled(inputs))
    return component.eval(), inputs


def _new(case: Case) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Build the component in eval mode, and inputs for it: it has seen nothing yet."""
    component = case.module().eval()
    return component, case.inputs(component)


def _doubled(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Two samples at least, which batch norm needs in training mode."""
    return tuple(torch.cat([tensor, tensor.flip(0) * 0.9]) for tensor in inputs)


def _agree(actual: object, wanted: object, otherwise: str, *, rtol: float = 1e-3, atol: float = 1e-4) -> None:
    """Compare the tensors of two outputs one by one; tolerances are relative to each one's largest value."""
    pairs = list(zip(tensors_in(actual), tensors_in(wanted), strict=True))
    for left, right in pairs:
        reach = right.detach().abs().max().item() if right.numel() else 0.0
        expect_close(left, right, otherwise, rtol=rtol, atol=atol * max(1.0, reach))


def _nearly(case: Case, actual: object, wanted: object, otherwise: str) -> None:
    """Compare the floats of two outputs in norm, as loosely as low precision needs.

    The values that differ most are left out: rounding may send a token to another expert.
    """
    allowed = CODES_MAY_FLIP if case.contract.discrete else LOW_PRECISION
    for left, right in zip(floats_in(actual), floats_in(wanted), strict=True):
        expect_finite(left, otherwise)
        errors = (left.detach().float() - right.detach().float()).abs().flatten().sort().values
        error = errors[: math.ceil(len(errors) * (1 - DECIDED_OTHERWISE))].norm().item()
        scale = right.detach().float().norm().item() + 0.05 * max(1, right.numel()) ** 0.5
        expect(error <= allowed * scale, f"{otherwise}: it is off by {error / scale:.0%}")


@contract.check
def state_round_trip(case: Case) -> None:
    """Saved as safetensors and loaded into a new instance, it gives equal outputs: runs are kept so."""
    component, inputs = _trained(case)
    state = {name: tensor.clone().contiguous() for name, tensor in component.state_dict().items()}
    fresh = case.build(seed=2)
    fresh.load_state_dict(load(save(state)))
    wanted = case.call(component, *inputs)
    _agree(case.call(fresh.eval(), *inputs), wanted, "the loaded instance answers otherwise", atol=1e-5)


@contract.check
def eval_deterministic(case: Case) -> None:
    """In eval mode the same input gives the same output whatever the random state: no dropout, no noise."""
    component, inputs = _trained(case)
    torch.manual_seed(1)
    first = case.contract.call(component, *inputs)
    torch.manual_seed(2)
    _agree(case.contract.call(component, *inputs), first, "two calls in eval mode differ", rtol=0, atol=1e-6)


@contract.check
def batch_independent(case: Case) -> None:
    """In eval mode a sample's output does not depend on its batch mates, nor on how many there are."""
    if not case.contract.per_sample:
        raise Skip("its output is not one a sample")
    component, inputs = _trained(case)
    mates = tuple(torch.cat([_other(x[:1]), x[:1], x[:1] * 0.3]) for x in inputs)
    alone = tensors_in(case.call(component, *(x[:1] for x in inputs)))
    together = tensors_in(case.call(component, *mates))
    for one, many in zip(alone, together, strict=True):
        if one.ndim:
            _agree(many[1:2], one, "a sample's output changes with its batch mates")


def _other(x: Tensor) -> Tensor:
    """Return another sample; what is no image, a time say, stays between 0 and what it is."""
    return 1 - 0.7 * x if x.ndim == 4 else 0.7 * x


@contract.check
def mode_restored(case: Case) -> None:
    """``train()`` after ``eval()`` puts every submodule's mode back, and a call changes none."""
    component, inputs = _trained(case)
    expect(not any(m.training for m in component.modules()), "eval() leaves a submodule in training mode")
    case.call(component, *inputs)
    expect(not any(m.training for m in component.modules()), "a call in eval mode sets training mode")
    trained = [module.training for module in component.train().modules()]
    case.call(component, *_doubled(inputs))
    expect([m.training for m in component.modules()] == trained, "a call in training mode changes the mode")
    component.eval()
    again = [module.training for module in component.train().modules()]
    expect(again == trained, "train() after eval() does not put the modes back")


@contract.check
def still_in_eval(case: Case) -> None:
    """In eval mode nothing in its state changes, seen data or none: validation and sampling train nothing."""
    for trained in (False, True):
        component, inputs = _trained(case) if trained else _new(case)
        before = copy_of_state(component)
        for graph in (True, False):
            with torch.set_grad_enabled(graph):
                case.call_in_full(component, *inputs)
            for name, tensor in component.state_dict().items():
                expect(torch.equal(tensor, before[name]), f"{name} changes in eval mode")


@contract.check
def bfloat16(case: Case) -> None:
    """Cast to bfloat16 together with its input (not with times), it works and stays close to float32.

    Times are small: waves whose frequencies were cast as well are off by whole turns at large ones.
    """
    component, inputs = _trained(case)
    inputs = tuple(x if x.ndim == 4 else 1e-3 * x for x in inputs)
    wanted = case.call(component, *inputs)
    low = deepcopy(component).to(torch.bfloat16)
    try:
        given = [x.to(torch.bfloat16) if x.ndim == 4 else x for x in inputs]
        actual = _in_bfloat16(lambda: case.call(low, *given))
    except NotImplementedError as error:  # torch's own: it has no Fourier transform of bfloat16, say
        raise Skip(f"torch cannot: {error}") from error
    if case.contract.same_dtype:
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in floats_in(actual) if tensor.ndim}
        expect(dtypes <= {"bfloat16"}, f"bfloat16 in, {', '.join(sorted(dtypes))} out")
    _nearly(case, actual, wanted, "its output in bfloat16")


def _in_bfloat16(call: Callable[[], T]) -> T:
    """Return what a call gives, without oneDNN where it is not finite.

    Of maps of a few pixels oneDNN's convolutions in bfloat16 may read memory that nobody wrote.
    """
    output = call()
    if all(bool(tensor.isfinite().all()) for tensor in floats_in(output)):
        return output
    with torch.backends.mkldnn.flags(enabled=False):
        return call()


@contract.check
def memory_formats_agree(case: Case) -> None:
    """channels_last and contiguous inputs give the same output: no ``view`` that trusts the strides."""
    component, inputs = _trained(case)
    formatted = tuple(
        x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.clone() for x in inputs
    )
    _agree(
        case.call(component, *formatted), case.call(component, *inputs), "channels_last changes the output"
    )
    strided = tuple(x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.ndim == 4 else x for x in inputs)
    _agree(case.call(component, *strided), case.call(component, *inputs), "strides change the output")


@contract.check
def inputs_unchanged(case: Case) -> None:
    """It writes into none of its inputs, forwards or backwards: they belong to the caller."""
    component, inputs = _trained(case)
    for mode in (True, False):
        component.train(mode)
        given = tuple(x.clone() for x in (_doubled(inputs) if mode else inputs))
        kept = tuple(x.clone() for x in given)
        total = sum_of(case.call(component, *given))
        if total.requires_grad:
            total.backward()
        for now, before in zip(given, kept, strict=True):
            expect(torch.equal(now, before), "it writes into its input")


@contract.check
def parameters_get_gradients(case: Case) -> None:
    """Every parameter that requires grad gets a finite one: else it is dead weight, or the graph is cut.

    Several batches are tried: an expert, or a branch for some inputs only, need not be called by each.
    """
    component = case.module().train()
    inputs = case.inputs(component)
    learned = {name: p for name, p in component.named_parameters() if p.requires_grad}
    if not learned:
        raise Skip("no parameter requires grad")
    for change in BATCHES:
        sum_of(case.call_in_full(component, *_changed(_doubled(inputs), change))).backward()
        if all(parameter.grad is not None for parameter in learned.values()):
            break
    for name, parameter in learned.items():
        expect(parameter.grad is not None, f"{name} gets no gradient in {len(BATCHES)} different batches")
        expect_finite(_gradient(parameter), f"the gradient of {name}")


def _changed(inputs: tuple[Tensor, ...], change: tuple[float, float]) -> tuple[Tensor, ...]:
    """Return another legal batch: images and latents scaled and shifted, times earlier."""
    scale, shift = change
    return tuple(x * scale + shift if x.ndim == 4 else x * abs(scale) for x in inputs)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros(()) if parameter.grad is None else parameter.grad


@contract.check
def deepcopy_independent(case: Case) -> None:
    """A deep copy gives equal outputs and shares nothing: averages of weights are such copies."""
    component, inputs = _trained(case)
    wanted = case.call(component, *inputs)
    copy, other = deepcopy(component), deepcopy(component)
    _agree(case.call(copy, *inputs), wanted, "a deep copy answers otherwise", rtol=0, atol=1e-6)
    set_to_zero(copy)
    _agree(case.call(component, *inputs), wanted, "changing a deep copy changes the original", rtol=0)
    set_to_zero(component)
    _agree(case.call(other, *inputs), wanted, "changing the original changes a deep copy", rtol=0)


@contract.check
def autocast(case: Case) -> None:
    """Under ``torch.autocast`` it runs forwards and backwards, finite and close to float32."""
    component, inputs = _trained(case)
    wanted = case.call(component, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = _in_bfloat16(lambda: case.call(component, *inputs))
        _nearly(case, actual, wanted, "its output under autocast")
        total = sum_of(case.call_in_full(component.train(), *_doubled(inputs)))
    if total.requires_grad:
        total.backward()
        for name, parameter in component.named_parameters():
            expect_finite(_gradient(parameter), f"under autocast the gradient of {name}")


@contract.check
def moves_whole(case: Case) -> None:
    """``.to(device)`` moves all of it: every tensor and module is registered, none stays behind."""
    for name, module in case.module().named_modules():
        for attribute in vars(module).keys() - _REGISTERED:
            place = ".".join(filter(None, (name, attribute)))
            for what in _strays(vars(module)[attribute]):
                raise Broken(f"{place} holds {what} that is not registered: it stays behind")
    component, inputs = _trained(case)
    _call_on_meta(case, deepcopy(component), inputs)


_REGISTERED = frozenset(vars(nn.Module()))


def _strays(value: object, depth: int = 3) -> Iterator[str]:
    """Yield what ``.to()`` and ``state_dict()`` would not find inside an attribute."""
    if isinstance(value, Tensor):
        yield "a tensor"
    elif isinstance(value, nn.Module):
        yield "a module"
    elif isinstance(value, dict):
        yield from (stray for item in value.values() for stray in _strays(item, depth))
    elif isinstance(value, (list, tuple, set)):
        yield from (stray for item in value for stray in _strays(item, depth))
    elif depth and hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        yield from (stray for item in vars(value).values() for stray in _strays(item, depth - 1))


def _call_on_meta(case: Case, component: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Call it on the meta device: what it makes on the CPU while it runs meets tensors that are elsewhere."""
    try:
        with _OneDevice():  # type: ignore[no-untyped-call]
            case.contract.call(component.to("meta"), *(x.to("meta") for x in inputs))
    except Broken:
        raise
    except Exception as error:  # meta tensors have no values: many calls cannot be made, and prove nothing
        expect("same device" not in str(error), f"on another device it fails: {error}")


class _OneDevice(TorchDispatchMode):
    """Refuses, as an accelerator does, an operation on tensors of two devices; meta kernels let it pass."""

    MAY_CROSS = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put", "aten::index_put_")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().partition(".")[0]
        devices = {tensor.device.type for tensor in tensors_in([args, kwargs]) if tensor.ndim}
        crosses = name in self.MAY_CROSS and not (name == "aten::index" and args[0].device.type == "cpu")
        mixed = " and ".join(sorted(devices))
        expect(crosses or len(devices) < 2, f"elsewhere it still has tensors on the CPU ({mixed} meet)")
        result = func(*args, **kwargs)
        self._check_generator(result, kwargs.get("generator"))
        return result

    @staticmethod
    def _check_generator(result: Any, generator: torch.Generator | None) -> None:
        """An accelerator draws from a generator of its own only."""
        if generator is not None and isinstance(result, Tensor):
            one = generator.device.type == result.device.type
            expect(one, f"elsewhere it draws from a generator that is on the {generator.device.type}")


@contract.check
def extremes_finite(case: Case) -> None:
    """Extreme but legal inputs (blank, saturated, a single spike) give finite outputs and gradients."""
    component, inputs = _trained(case)
    for reach in (0.0, -1.0, 1.0):
        given = [_extreme(x, reach) for x in inputs]
        output = case.call(component, *given)
        for tensor in floats_in(output):
            expect_finite(tensor, f"the output for inputs of {reach:g}")
        if sum_of(output).requires_grad:
            sum_of(output).backward()
            for tensor in given:
                expect_finite(_gradient(tensor), f"the gradient for inputs of {reach:g}")


def _extreme(x: Tensor, reach: float) -> Tensor:
    """Return an input whose 4-D part is constant; times and the like stay as they are."""
    filled = torch.full_like(x, reach) if x.ndim == 4 else x.clone()
    return filled.requires_grad_(filled.is_floating_point())


@contract.check
def same_seed_same_weights(case: Case) -> None:
    """The same seed gives the same initial weights, and building or calling does not reseed anyone else."""
    first, second = case.build(seed=3), case.build(seed=3)
    for name, tensor in as_module(first).state_dict().items():
        expect(torch.equal(tensor, second.state_dict()[name]), f"{name} differs between two builds of a seed")
    after = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        component = case.subject.factory(**case.given())
        case.contract.call(component.eval(), *case.inputs(component))
        after.append(torch.rand(1))
    expect(not torch.equal(*after), "building or calling it sets torch's global seed")
