"""Components of timm, as records. Imports neither torch nor timm."""

from __future__ import annotations

from uldm_core.registry.component import Component
from uldm_core.registry.plugins import hookimpl


@hookimpl
def uldm_components() -> list[Component]:
    """Return the adapted components."""
    return [
        Component(
            "backbone",
            "features",
            f"{__name__}.features:Features",
            summary="any timm model that gives feature maps",
            requires="timm",
            example={"model": "test_resnet", "weights": "random"},
        )
    ]
