"""Datasets of Hugging Face's datasets library, as records. Imports neither torch nor datasets."""

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
            "hf_dataset",
            f"{__name__}.hf_dataset:HFDataset",
            summary="images of a dataset of Hugging Face's hub, or saved by its library",
            requires="datasets",
            example={"path": str(_SAMPLES), "label": "kind", "size": 12, "test_share": 0.25},
        )
    ]
