"""Components of vector-quantize-pytorch, as records. Imports neither torch nor the library."""

from __future__ import annotations

from uldm_core.registry.component import Component
from uldm_core.registry.plugins import hookimpl

_IN_EVAL_MODE = {
    "straight_through": "in eval mode the library passes no gradient",
    "losses_pull_together": "in eval mode the library's loss is zero",
}
_QUANTIZERS = (
    ("vector_quantize", "VectorQuantize", _IN_EVAL_MODE),
    ("residual_vq", "ResidualVQ", _IN_EVAL_MODE),
    ("fsq", "FSQ", {"idempotent": "its codes are squashed again, as the paper has it"}),
)


@hookimpl
def uldm_components() -> list[Component]:
    """Return the adapted components."""
    return [
        Component(
            "quantizer",
            name,
            f"{__name__}.quantizers:{target}",
            summary=f"vector-quantize-pytorch's {target}",
            requires="vector_quantize_pytorch",
            xfail=xfail,
        )
        for name, target, xfail in _QUANTIZERS
    ]
