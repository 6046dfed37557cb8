"""What runs within a network, in order: noted by hooks while it runs on tensors without values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch.nn.functional as F
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from uldm_core.preflight.measure import parameters_of

Shape = tuple[int, ...]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@frozen
class Block:
    """A module that a person would name when describing the network: a residual block, a convolution.

    Args:
        path: of the module, within the component.
        type: its class.
        input: shape of what it is given, without the batch; empty if that is no tensor.
        output: shape of what it gives, without the batch.
        parameters: its numbers, those of an earlier block excepted.
        attention: whether it attends.
        composite: whether it is made of others.
        conditioning: whether it depends on the conditioning only, and not on the network's input.
        layer: whether it is more than a norm, an activation or dropout.
    """

    path: str
    type: str
    input: Shape
    output: Shape
    parameters: int
    attention: bool
    composite: bool
    conditioning: bool
    layer: bool


@define(eq=False)
class Call:
    """A module that ran, and what ran within it."""

    path: str
    module: nn.Module
    input: Shape = ()
    output: Shape = ()
    follows: bool = False
    attends: bool = False
    calls: list[Call] = field(factory=list)

    def sizes(self) -> Iterator[Shape]:
        """Yield the heights and widths that tensors take on their way through it, changes only."""
        last = self.input[1:]
        for call in self.within():
            if len(call.output) > 2 and call.output[1:] != last:
                last = call.output[1:]
                yield last

    def within(self) -> Iterator[Call]:
        """Yield all that ran within it."""
        for call in self.calls:
            yield call
            yield from call.within()

    def is_block(self) -> bool:
        """Whether a person would name it as a whole, rather than what it is made of.

        It is the innermost module that is more than a layer of torch, and that changes the size once at most.
        """
        if not self.calls or _is_layer(self.module):
            return True
        named = type(self.module) not in CONTAINERS and all(map(_is_simple, self.module.children()))
        return named and len(list(self.sizes())) < 2

    def blocks(self) -> Iterator[Call]:
        """Yield the blocks that it is made of, in the order in which they ran."""
        for call in self.calls:
            if call.is_block():
                yield call
            else:
                yield from call.blocks()

    def attention(self) -> bool:
        """Whether it attends, by what it is called or by what it calls."""
        own = self.attends or "attention" in type(self.module).__name__.lower()
        return own or any(call.attention() for call in self.calls)


class Trace(TorchFunctionMode):
    """Notes every module of a network that runs in its context.

    Whether a module's output depends on the network's input shows in its gradient: the input requires one,
    see ``followed``, and the parameters do not.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.top = Call("", network)
        self._running = [self.top]

    def __enter__(self) -> Trace:
        """Begin to watch."""
        self._hooks = []
        for path, module in self.network.named_modules():
            if path:
                self._hooks.append(module.register_forward_pre_hook(self._before(path), with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._after))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        """Watch no longer."""
        super().__exit__(kind, error, place)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function; take note of attention."""
        if function is F.scaled_dot_product_attention:
            self._running[-1].attends = True
        return function(*args, **(kwargs or {}))

    def _before(self, path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(path, module, _shape(first_tensor((args, kwargs))))
            self._running[-1].calls.append(call)
            self._running.append(call)

        return note

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        call, tensor = self._running.pop(), first_tensor(output)
        call.output = _shape(tensor)
        call.follows = tensor is not None and tensor.requires_grad


def followed(tensor: Tensor) -> Tensor:
    """Return a tensor that requires a gradient, so that what depends on it does as well."""
    return tensor.requires_grad_().clone()  # a leaf could not be changed in place


def blocks_of(calls: Sequence[Call], counted: set[int], *, follow: bool) -> list[Block]:
    """Return calls as blocks.

    Args:
        calls: in order.
        counted: parameters that earlier blocks hold, by ``id``; those of these are added.
        follow: whether to mark blocks that depend on the conditioning only.
    """
    follow = follow and any(call.follows for call in calls)
    return [_block(call, counted, follow) for call in calls]


def _block(call: Call, counted: set[int], follow: bool) -> Block:
    new = {id(parameter): parameter.numel() for parameter in parameters_of(call.module)}
    parameters = sum(count for key, count in new.items() if key not in counted)
    counted.update(new)
    leaf = _is_layer(call.module)
    return Block(
        path=call.path,
        type=type(call.module).__name__,
        input=call.input,
        output=call.output,
        parameters=parameters,
        attention=call.attention(),
        composite=not leaf and bool(call.calls),
        conditioning=follow and not call.follows,
        layer=not leaf or call.input != call.output or _has_matrix(call.module),
    )


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in parameters_of(module))


def _is_layer(module: nn.Module) -> bool:
    """Whether it is one of torch's own, or made of nothing."""
    of_torch = type(module).__module__.startswith("torch.nn.") and type(module) not in CONTAINERS
    return of_torch or next(module.children(), None) is None


def _is_simple(module: nn.Module) -> bool:
    """Whether it is a layer, or a plain row of such."""
    return _is_layer(module) or (type(module) in CONTAINERS and all(map(_is_simple, module.children())))


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor inside nested tuples, lists and tables, or None."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return None


def _shape(tensor: Tensor | None) -> Shape:
    return () if tensor is None else tuple(tensor.shape[1:])
