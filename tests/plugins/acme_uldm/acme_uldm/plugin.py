"""What acme brings to uldm. Imports no torch."""

from uldm_core import Component, hookimpl


@hookimpl
def uldm_components():
    """Return acme's components."""
    return [
        Component("quantizer", "acme_grid", "acme_uldm.quantizers:GridQuantizer", summary="rounds to a grid")
    ]
