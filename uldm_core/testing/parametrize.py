"""The checks as pytest tests: one each, so that a failure names its component and its check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from uldm_core.testing.runner import EVERYDAY, Profile, check_subject, checks_for
from uldm_core.testing.subject import Subject, registered, subject_of

Test = TypeVar("Test", bound=Callable[..., object])


def parametrize_with_checks(
    kind: str,
    factories: Iterable[Callable[..., object] | str],
    xfail: Mapping[str, str] | None = None,
    *,
    profile: Profile = EVERYDAY,
) -> Callable[[Test], Test]:
    """Make a test function run once for each factory and check: a decorator for ``def test_contract(check)``.

    ::

        @parametrize_with_checks("quantizer", [MyQuantizer])
        def test_contract(check):
            check()

    Args:
        kind: the kind's name.
        factories: classes, callables or registered names, as ``check_component`` takes factories.
        xfail: checks that all of them are known to fail, each with the reason.
        profile: how hard to look.
    """
    import pytest

    parameters = []
    for factory in factories:
        subject, known = _subject(kind, factory, xfail or {})
        for name in checks_for(subject):
            run = _Run(subject, name, {key: known[key] for key in known if key == name}, profile)
            parameters.append(pytest.param(run, id=f"{subject.name}-{name}"))
    return pytest.mark.parametrize("check", parameters)


def _subject(
    kind: str, factory: Callable[..., object] | str, xfail: Mapping[str, str]
) -> tuple[Subject, Mapping[str, str]]:
    if not isinstance(factory, str):
        return subject_of(kind, factory), xfail
    from uldm_core import registry

    return registered(kind, factory), {**registry.default().get(kind, factory).xfail, **xfail}


class _Run:
    """One check of one component; calling it passes, fails or skips the test that calls it."""

    def __init__(self, subject: Subject, name: str, xfail: Mapping[str, str], profile: Profile) -> None:
        self.subject, self.name, self.xfail, self.profile = subject, name, xfail, profile

    def __call__(self) -> None:
        """Run the check."""
        import pytest

        (result,) = check_subject(self.subject, self.xfail, [self.name], self.profile)
        if result.outcome == "failed":
            pytest.fail(f"{self.subject.name}: {result}", pytrace=False)
        if result.outcome == "expected failure":
            pytest.xfail(result.message)
        if result.outcome == "skipped":
            pytest.skip(result.message)

    def __repr__(self) -> str:
        return f"{self.subject.name}-{self.name}"
