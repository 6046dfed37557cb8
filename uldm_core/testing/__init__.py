"""The contracts of components, for anyone to hold a component of theirs to.

Three entry points: ``uldm check KIND/NAME`` on the command line; ``check_component`` and ``check_plugin``
in Python; ``parametrize_with_checks`` in pytest, a test a check. ``strategies`` are the Hypothesis strategies
that the checks draw from. Needs Hypothesis: ``pip install 'uldm[testing]'``.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    from uldm_core.errors import MistakeError

    raise MistakeError("contract checks need Hypothesis", hint="pip install 'uldm[testing]'") from error

from uldm_core.testing import strategies
from uldm_core.testing.contract import Case, Check, Contract
from uldm_core.testing.expectations import Broken, Skip, expect, expect_close, expect_finite
from uldm_core.testing.parametrize import parametrize_with_checks
from uldm_core.testing.plugin import check_plugin
from uldm_core.testing.runner import DEEP, EVERYDAY, Profile, Report, Result, check_component

__all__ = [
    "DEEP",
    "EVERYDAY",
    "Broken",
    "Case",
    "Check",
    "Contract",
    "Profile",
    "Report",
    "Result",
    "Skip",
    "check_component",
    "check_plugin",
    "expect",
    "expect_close",
    "expect_finite",
    "parametrize_with_checks",
    "strategies",
]
