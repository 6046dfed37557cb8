"""References are other people's code: what they warn of is not ours to mend."""

import pytest


@pytest.fixture(autouse=True)
def _references_may_warn(recwarn):
    """Collect warnings, for a test's own use, in the place of raising them."""
    import warnings

    warnings.simplefilter("always")
