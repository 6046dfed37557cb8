"""Telling a torch function that refuses shapes from one that only lacks values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class ShapeError(RuntimeError):
    """A torch function does not take tensors of these shapes, whatever their values are."""


class ShapeErrors(TorchFunctionMode):
    """Raises ``ShapeError`` where a torch function fails on tensors without values, and on zeros too.

    Many functions raise ``RuntimeError`` for both reasons. Trying the one function again with values costs
    the memory of its arguments, not that of the component.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """Call the function."""
        kwargs = kwargs or {}
        try:
            return function(*args, **kwargs)
        except NotImplementedError:
            raise
        except RuntimeError:
            _try_on_zeros(function, args, kwargs)
            raise


def _try_on_zeros(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> None:
    with torch._C.DisableTorchFunction(), torch.no_grad():  # under which tensors keep their values
        args, kwargs = tree_map_only(Tensor, _zeros, (args, dict(kwargs)))
        try:
            function(*args, **kwargs)
        except RuntimeError as error:
            raise ShapeError(*error.args) from None  # with the better message of the two


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
