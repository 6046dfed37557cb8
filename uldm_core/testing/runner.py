"""Running checks: Hypothesis looks for the smallest example that breaks one, a report says what it found."""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from attrs import define, evolve, field, frozen
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.reporting import with_reporter

from uldm_core import registry
from uldm_core.errors import MistakeError, UldmError, did_you_mean, is_unavailable, listing
from uldm_core.testing.contract import Case, Check, Contract, contract_of, copies_well
from uldm_core.testing.expectations import Broken, NotApplicable, Skip
from uldm_core.testing.isolation import TookTooLong, contained, restored
from uldm_core.testing.subject import Subject, subject_of

Outcome = Literal["passed", "failed", "expected failure", "skipped"]


@frozen
class Profile:
    """How hard to look.

    Args:
        examples: of each check, at most.
        seconds: after which a check takes no further example, and a failing one is not shrunk further.
        limit: seconds that one example may take; what takes longer is taken to hang.
        repeatable: look at the same examples each time.
    """

    examples: int = 5
    seconds: float = 0.1
    limit: float = 120.0
    repeatable: bool = True


EVERYDAY = Profile()
DEEP = Profile(examples=100, seconds=60.0, limit=600.0, repeatable=False)


@frozen
class Result:
    """What became of one check.

    Args:
        check: its name.
        outcome: ``passed``, ``failed``, ``expected failure`` or ``skipped``.
        message: what is broken, or why it was skipped.
        example: the smallest example that broke it, by the labels of what was drawn.
        examples: how many were tried.
        seconds: how long that took.
        hung: whether it took so long that it was broken off.
        applies: whether the check is of this sort of component at all.
    """

    check: str
    outcome: Outcome
    message: str = ""
    example: Mapping[str, Any] = field(factory=dict)
    examples: int = 0
    seconds: float = 0.0
    hung: bool = False
    applies: bool = True

    def __str__(self) -> str:
        text = f"{self.outcome:<17}{self.check}"
        if self.message:
            text += f": {self.message}"
        if self.outcome == "failed" and self.example:
            text += "\n    smallest example: " + ", ".join(f"{k}={v!r}" for k, v in self.example.items())
        return text


@frozen
class Report:
    """What became of every check of one component."""

    name: str
    results: tuple[Result, ...]

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def count(self, outcome: Outcome) -> int:
        """Return how many checks had this outcome."""
        return sum(result.outcome == outcome for result in self.results)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(result.check for result in self.results if result.outcome == "failed")

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and it was checked at all, or cannot be here."""
        return not self.failed and (self.unavailable or not self.unchecked)

    @property
    def unchecked(self) -> bool:
        """Whether most checks were skipped: a report that only skipped proves nothing."""
        return not self.failed and self.count("skipped") >= len(self.results) / 2

    @property
    def unavailable(self) -> bool:
        """Whether it could not be checked, since what it needs (files, a package) is not here."""
        return [(result.check, result.outcome) for result in self.results] == [(BUILDS, "skipped")]

    def summary(self) -> str:
        """Return the counts."""
        outcomes: tuple[Outcome, ...] = ("passed", "failed", "expected failure", "skipped")
        counts = ", ".join(f"{self.count(outcome)} {outcome}" for outcome in outcomes)
        unchecked = "unchecked, most checks were skipped: " if self.unchecked and not self.unavailable else ""
        return f"{self.name}: {unchecked}{counts}"

    def __str__(self) -> str:
        return "\n".join([*map(str, self.results), self.summary()])

    def raise_for_failures(self) -> None:
        """Raise ``AssertionError`` with the whole report unless it is ok."""
        if not self.ok:
            raise AssertionError(f"\n{self}")


def check_component(
    kind: str,
    factory: Callable[..., Any],
    xfail: Mapping[str, str] | None = None,
    *,
    only: Collection[str] = (),
    profile: Profile = EVERYDAY,
) -> Report:
    """Hold a component to the contract of its kind.

    Args:
        kind: the kind's name, ``"quantizer"``.
        factory: a class, or a callable that returns a new component each time. Options that a recipe fills
            in (``in_channels``, ``channels``, ``size``) and those that a check varies (``steps``,
            ``timesteps``, ``prediction``, ``commitment``) are passed if its signature names them. An
            optimizer's is called with parameters, a learning-rate schedule's with the number of steps.
        xfail: checks that are known to fail, each with the reason; one that does not fail is a failure.
        only: names of the checks to run; all by default.
        profile: how hard to look; ``DEEP`` takes as long as it needs.

    Raises:
        MistakeError: an unknown kind, or ``only`` or ``xfail`` names no check of it.
    """
    return check_subject(subject_of(kind, factory), xfail or {}, only, profile)


def check_subject(
    subject: Subject,
    xfail: Mapping[str, str],
    only: Collection[str] = (),
    profile: Profile = EVERYDAY,
    notify: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Hold a subject to its contract; ``notify`` is called with each result as it comes."""
    checks = checks_for(subject)
    _refuse_unknown({*only, *xfail}, checks)
    try:
        return _check_all(subject, checks, xfail, only, profile, notify)
    finally:
        subject.originals.clear()


def _check_all(
    subject: Subject,
    checks: Mapping[str, tuple[Check, Contract]],
    xfail: Mapping[str, str],
    only: Collection[str],
    profile: Profile,
    notify: Callable[[Result], None],
) -> Report:
    built = run_check(*checks[BUILDS], subject, profile)
    if built.outcome != "passed":
        notify(built)
        return Report(subject.name, (built,))
    results: list[Result] = []
    for check, contract in checks.values():
        if only and check.name not in only:
            continue
        if any(before.hung for before in results):
            result = Result(check.name, "skipped", HANGS)
        else:
            result = _expected(run_check(check, contract, subject, profile), xfail)
        if not result.applies and not only:
            continue
        notify(result)
        results.append(result)
    return Report(subject.name, tuple(results))


def builds(case: Case) -> None:
    """It can be built from its options: where it cannot, nothing else can be checked."""
    try:
        built = case.contract.build(case)
    except Exception as error:
        if is_unavailable(error):
            raise Skip(str(error)) from error
        raise
    case.subject.copies = case.contract.inputs is not None and copies_well(case, built)


BUILDS = builds.__name__
HANGS = "a check before it took too long"


def checks_for(subject: Subject) -> dict[str, tuple[Check, Contract]]:
    """Return the checks a subject is held to, by name: its kind's, and those of every module."""
    from uldm_core.testing.checks import every, module

    own = contract_of(registry.default().kind(subject.kind))
    shared = module.contract.checks if own.inputs and subject.may_be_module else []
    general = every.contract.checks if own.exercise or own.inputs else []
    checks = [Check(BUILDS, builds), *own.checks, *general, *shared]
    return {check.name: (check, own) for check in checks}


def run_check(check: Check, contract: Contract, subject: Subject, profile: Profile = EVERYDAY) -> Result:
    """Run one check over examples, and return its result with the smallest that fails."""
    attempt = _Attempt(check, contract, subject, profile)
    search = settings(
        max_examples=profile.examples,
        derandomize=profile.repeatable,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )(given(st.data())(lambda data: attempt(data)))
    started = time.monotonic()
    with with_reporter(lambda text: None), _quiet():
        try:
            search()
        except (_TimeIsUp, Exception) as error:
            if not isinstance(error, _TimeIsUp) and attempt.failure is None:
                raise  # not the component's fault
    return evolve(attempt.result(), seconds=round(time.monotonic() - started, 3))


class _TimeIsUp(BaseException):
    """Leaves Hypothesis: it lets only what is no ``Exception`` pass."""


@define
class _Attempt:
    """One check on one subject: a test function for Hypothesis that remembers what it saw."""

    check: Check
    contract: Contract
    subject: Subject
    profile: Profile
    started: float = field(factory=time.monotonic)
    examples: int = 0
    failure: Exception | None = None
    example: dict[str, Any] = field(factory=dict)
    skipped: str = ""
    hung: bool = False
    applies: bool = True

    def __call__(self, data: st.DataObject) -> None:
        try:
            self._try(Case(self.subject, self.contract, data.draw))
        except Exception:
            self._end_in_time()
            raise
        self._end_in_time()

    def _end_in_time(self) -> None:
        if time.monotonic() - self.started > self.profile.seconds:
            raise _TimeIsUp

    def _try(self, case: Case) -> None:
        try:
            with contained(self.profile.limit), restored():
                torch.manual_seed(0)
                self.check.function(case)
        except Skip as skip:
            self.skipped, self.applies = str(skip), not isinstance(skip, NotApplicable)
        except TookTooLong as error:
            self.failure, self.example, self.hung = Broken(str(error)), dict(case.drawn), True
            raise _TimeIsUp from error
        except Exception as error:
            self.failure, self.example = error, dict(case.drawn)
            raise
        else:
            self.examples += 1

    def result(self) -> Result:
        """Return what the examples have shown."""
        name = self.check.name
        if self.failure is not None:
            return Result(
                name, "failed", _describe(self.failure), self.example, self.examples, hung=self.hung
            )
        if not self.examples:
            return Result(name, "skipped", self.skipped, applies=self.applies)
        return Result(name, "passed", examples=self.examples)


def _describe(error: Exception) -> str:
    """Describe an error: of a broken contract its message, of anything else its place too."""
    text = " ".join(str(error).split())
    if isinstance(error, (Broken, UldmError)):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({frame.filename}:{frame.lineno}, in {frame.name})"


def _expected(result: Result, xfail: Mapping[str, str]) -> Result:
    """Turn a failure that ``xfail`` names into an expected one, and anything else there into a failure."""
    if result.check not in xfail:
        return result
    reason = xfail[result.check]
    if result.outcome == "failed":
        return evolve(result, outcome="expected failure", message=reason)
    message = f"expected to fail ({reason}), but it {result.outcome}: take it out of xfail"
    return evolve(result, outcome="failed", message=message)


def _refuse_unknown(names: Collection[str], checks: Mapping[str, object]) -> None:
    for name in sorted(names):
        if name not in checks:
            raise MistakeError(
                f"there is no check {name!r}{did_you_mean(name, checks)}",
                hint=f"the checks are: {listing(list(checks))}",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a component's warnings, logged ones too, out of the report, and out of strict test suites."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
