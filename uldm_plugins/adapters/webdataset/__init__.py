"""Datasets in the shards of webdataset, as records. Imports neither torch nor webdataset."""

from __future__ import annotations

from pathlib import Path

from uldm_core.registry.component import Component
from uldm_core.registry.plugins import hookimpl

_SAMPLES = Path(__file__).parent / "samples"


@hookimpl
def uldm_components() -> list[Component]:
    """Return the adapted components."""
    return [
        Component(
            "dataset",
            "webdataset",
            f"{__name__}.shards:WebDataset",
            summary="images in .tar files, as webdataset has them",
            requires="webdataset",
            example={"root": str(_SAMPLES), "label": "cls", "size": 12, "test_share": 0.25},
        )
    ]
