"""The contract checks kill every mutant by the check that names its fault, and accuse no sound component."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

from mutants.catalogue import MUTANTS, SOUND
from uldm_core import registry
from uldm_core.kinds import BUILTIN_KINDS
from uldm_core.testing import Profile, check_component
from uldm_core.testing.checks import every, module
from uldm_core.testing.contract import contract_of

QUICK = Profile(examples=2, seconds=0.05)
PATIENT = Profile(seconds=20.0)

for path in sorted(Path(__file__).parent.glob("*.py")):
    if not path.stem.startswith(("test_", "__")):
        import_module(f"mutants.{path.stem}")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """What a mutant leaves in the working folder is no file of this project."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.kind}-{mutant.name}")
def test_the_check_that_names_the_fault_kills_the_mutant(mutant):
    report = check_component(mutant.kind, mutant.factory, only=[mutant.killed_by])
    if not report.failed:  # on a busy machine time may be up before the example that kills
        report = check_component(mutant.kind, mutant.factory, only=[mutant.killed_by], profile=PATIENT)
    assert report.failed == (mutant.killed_by,), f"{mutant.mistake}\n{report}"


@pytest.mark.parametrize("sound", SOUND, ids=lambda sound: f"{sound.kind}-{sound.factory.__name__}")
def test_a_sound_component_is_not_accused(sound):
    check_component(sound.kind, sound.factory, sound.xfail, profile=QUICK).raise_for_failures()


def killed_alone(mutants):
    """Hold mutants to everything; return the checks that alone kill one of them."""
    alone = set()
    for mutant in mutants:
        report = check_component(mutant.kind, mutant.factory)
        assert mutant.killed_by in report.failed, f"{mutant.name} survives:\n{report}"
        assert report.count("passed") > 0, f"the mutant is broken beyond its mistake:\n{report}"
        alone |= set(report.failed) if len(report.failed) == 1 else set()
    return alone


SHARED = {check.name for contract in (every.contract, module.contract) for check in contract.checks}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind.name for kind in BUILTIN_KINDS])
def test_each_check_of_a_kind_alone_kills_a_mutant(kind):
    """One that does not is none the poorer for being left out."""
    own = {check.name for check in contract_of(registry.default().kind(kind)).checks}
    idle = own - killed_alone(mutant for mutant in MUTANTS if mutant.kind == kind)
    assert not idle, f"no mutant is killed by these checks alone: {', '.join(sorted(idle))}"


@pytest.mark.slow
def test_each_check_of_all_kinds_alone_kills_a_mutant():
    idle = SHARED - killed_alone(mutant for mutant in MUTANTS if mutant.killed_by in SHARED)
    assert not idle, f"no mutant is killed by these checks alone: {', '.join(sorted(idle))}"


@pytest.mark.slow
@pytest.mark.parametrize("sound", SOUND, ids=lambda sound: f"{sound.kind}-{sound.factory.__name__}")
def test_a_sound_component_is_not_accused_when_looked_at_harder(sound):
    harder = Profile(examples=20, seconds=2.0, repeatable=settings().derandomize)
    check_component(sound.kind, sound.factory, sound.xfail, profile=harder).raise_for_failures()


def test_there_are_mutants_and_sound_components_of_every_kind():
    kinds = {kind.name for kind in BUILTIN_KINDS}
    assert {mutant.kind for mutant in MUTANTS} == kinds == {sound.kind for sound in SOUND}
    assert len({(mutant.kind, mutant.name) for mutant in MUTANTS}) == len(MUTANTS) >= 500
    assert len(SOUND) > 170
