"""What a component needs and is not here is no fault of the component."""

from uldm_core import MistakeError
from uldm_core.errors import UnavailableError, is_unavailable
from uldm_core.testing import check_component


class Wanting:
    """A loss whose weights cannot be had."""

    def __init__(self):
        raise UnavailableError("weights.pth is not here: put it there")


class Broken:
    """A loss that cannot be built."""

    def __init__(self):
        raise ValueError("no")


def test_a_check_passes_over_what_is_unavailable_and_says_so():
    report = check_component("loss", Wanting)
    assert report.ok and report.unavailable
    assert "skipped" in str(report) and "put it there" in str(report)


def test_a_check_does_not_pass_over_what_is_broken():
    report = check_component("loss", Broken)
    assert not report.ok and not report.unavailable


def test_it_is_known_through_any_chain_of_causes():
    inner = MistakeError("cannot be built")
    inner.__cause__ = UnavailableError("no network")
    outer = RuntimeError("stage failed")
    outer.__cause__ = inner
    assert is_unavailable(outer) and not is_unavailable(RuntimeError("no network"))
