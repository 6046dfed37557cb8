"""The contract suite itself: what it reports, when it fails, and its doors."""

import gc
import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import ModuleType

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from uldm_core import Component, MistakeError, hookimpl
from uldm_core import registry as default_registry
from uldm_core.cli.main import _run as uldm
from uldm_core.kinds import BUILTIN_KINDS, Kind
from uldm_core.testing import (
    Contract,
    Profile,
    Skip,
    check_component,
    check_plugin,
    expect,
    expect_close,
    isolation,
    strategies,
)
from uldm_core.testing.contract import contract_of
from uldm_core.testing.isolation import TookTooLong, contained
from uldm_core.testing.runner import Report, Result, check_subject, run_check
from uldm_core.testing.subject import subject_of


class Mean:
    """A sound loss."""

    def __call__(self, prediction, target):
        return (prediction - target).square().mean()


class Total:
    """A loss that is summed."""

    def __call__(self, prediction, target):
        return (prediction - target).square().sum()


class Unbuildable:
    def __init__(self) -> None:
        raise ValueError("out of luck")


def one_check(function):
    contract = Contract()
    contract.check(function)
    patient = Profile(seconds=10)  # on a busy machine one example may take longer than a check usually may
    return run_check(contract.checks[0], contract, subject_of("loss", Mean), patient)


def test_a_sound_component_passes_everything():
    report = check_component("loss", Mean)
    assert report.ok
    assert report.failed == ()
    assert "0 failed" in report.summary()
    report.raise_for_failures()


def test_a_broken_component_fails_by_the_check_that_names_the_fault():
    report = check_component("loss", Total)
    assert set(report.failed) == {"averaged_over_batch", "averaged_over_places"}
    assert not report.ok
    with pytest.raises(AssertionError, match="three copies of an image cost something else"):
        report.raise_for_failures()


def test_only_the_checks_asked_for_run():
    report = check_component("loss", Total, only=["scalar"])
    assert [result.check for result in report] == ["scalar"]


def test_an_expected_failure_must_fail():
    known = {"averaged_over_batch": "by design", "averaged_over_places": "by design"}
    report = check_component("loss", Total, known)
    assert report.ok
    assert report.count("expected failure") == 2
    report = check_component("loss", Mean, known)
    assert set(report.failed) == set(known)
    assert "take it out of xfail" in str(report)


def test_a_skipped_check_is_no_expected_failure():
    assert check_component("loss", Mean, {"symmetric": "not so"}).failed == ("symmetric",)


@pytest.mark.parametrize("arguments", [{"only": ["scalr"]}, {"xfail": {"scalr": "?"}}])
def test_a_check_that_does_not_exist_is_a_mistake(arguments):
    with pytest.raises(MistakeError, match="did you mean 'scalar'"):
        check_component("loss", Mean, **arguments)


def test_an_unknown_kind_is_a_mistake():
    with pytest.raises(MistakeError, match="unknown kind"):
        check_component("lose", Mean)


def test_what_cannot_be_built_fails_once():
    report = check_component("loss", Unbuildable)
    assert report.failed == ("builds",)
    assert "out of luck" in str(report)


def test_a_report_in_which_nothing_ran_is_not_ok():
    assert not Report("nothing", ()).ok
    assert not Report("skips", (Result("one", "skipped", "why"),)).ok


def test_the_example_shown_is_the_smallest_that_fails():
    def small(case):
        number = case.draw(st.integers(0, 1000), "number")
        expect(number < 17, f"{number} is too much")

    result = one_check(lambda case: small(case))
    assert result.outcome == "failed"
    assert result.example == {"number": 17}
    assert "17 is too much" in str(result)
    assert "smallest example: number=17" in str(result)


def test_an_error_of_the_component_is_shown_with_its_place():
    def breaks(case):
        raise KeyError("weights")

    result = one_check(breaks)
    assert result.message.startswith("KeyError: 'weights' (")
    assert "test_contract_suite.py" in result.message


def test_a_check_that_skips_every_example_is_skipped_with_its_reason():
    def skips(case):
        raise Skip("it claims nothing")

    result = one_check(skips)
    assert (result.outcome, result.message) == ("skipped", "it claims nothing")


def test_a_check_leaves_torchs_random_state_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one_check(lambda case: torch.manual_seed(9))
    assert torch.equal(torch.get_rng_state(), state)


def test_time_is_bounded_and_the_failure_kept():
    def slow(case):
        number = case.draw(st.integers(0, 10**9), "number")
        time.sleep(0.02)
        expect(number < 1, "no")

    contract = Contract()
    contract.check(slow)
    started = time.monotonic()
    hurried = Profile(examples=1000, seconds=0.2)
    result = run_check(contract.checks[0], contract, subject_of("loss", Mean), hurried)
    assert result.outcome == "failed"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("kind", BUILTIN_KINDS, ids=lambda kind: kind.name)
def test_every_kind_has_checks_that_say_why(kind):
    checks = contract_of(kind).checks
    assert len(checks) >= 4
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert len(check.summary) > 25, check.name


def test_closeness_is_of_shape_and_value():
    one = torch.ones(2, 3)
    expect_close(one, one.clone(), "same")
    with pytest.raises(AssertionError, match="shapes"):
        expect_close(one, torch.ones(3), "other")
    with pytest.raises(AssertionError, match=r"differ by up to 0\.5"):
        expect_close(one, one * 1.5, "other")
    with pytest.raises(AssertionError):
        expect_close(one * float("nan"), one, "nan")


def example_of(strategy):
    from hypothesis import find

    return find(strategy, lambda value: True)


def test_strategies_give_what_they_say():
    assert example_of(strategies.images()).abs().max() <= 1
    assert example_of(strategies.latents(3)).shape[1] == 3
    assert example_of(strategies.timesteps(4)).shape == (4,)
    assert example_of(strategies.sides(16, 32, 8)) % 8 == 0
    for pattern in strategies.PATTERNS:
        assert strategies.fill((2, 1, 5, 6), pattern, 0).shape == (2, 1, 5, 6)
    assert strategies.fill((1, 1, 4, 4), "spike", 0).count_nonzero() == 1
    assert strategies.fill((1, 1, 4, 4), "checkerboard", 0).sum() == 0


# components that are copied


class Counted(nn.Module):
    """A backbone that counts how often it is built."""

    built = 0
    channels = (4,)

    def __init__(self):
        super().__init__()
        type(self).built += 1
        self.convolution = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)

    def forward(self, images):
        return (self.convolution(images.expand(-1, 3, -1, -1)),)


class Knotted(Counted):
    """Its convolution is called by a function that a deep copy does not copy."""

    def __init__(self):
        super().__init__()
        self.called = lambda images: (self.convolution(images.expand(-1, 3, -1, -1)),)

    def forward(self, images):
        return self.called(images)


@pytest.mark.parametrize(("backbone", "few"), [(Counted, True), (Knotted, False)])
def test_a_module_is_built_once_for_many_checks_unless_its_copies_hang_on_it(backbone, few, monkeypatch):
    monkeypatch.setattr(backbone, "built", 0)
    subject = subject_of("backbone", backbone)
    report = check_subject(subject, {}, profile=Profile(examples=1))
    assert (backbone.built < len(report.results)) == few
    assert report.failed == (() if few else ("bfloat16", "deepcopy_independent", "moves_whole"))
    assert not subject.originals


# what a component does to the process it is checked in


def _closes():
    sys.stdout.close()


def _takes_apart():
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer)


def _replaces():
    sys.stderr = io.StringIO()


def _ends():
    sys.exit(3)


def _closes_below():
    os.close(1)


def _redirects_below():
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)


def _moves():
    os.chdir("/")


def _sleeps():
    with suppress(Exception):
        time.sleep(60)


def _is_gentle():
    print("it may print, log, start threads that end, and pools, which Python ends")
    logging.getLogger("gentle").warning("odd")
    threading.Thread(target=time.sleep, args=(0.01,)).start()
    ThreadPoolExecutor().submit(int)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (_closes, "it closes sys.stdout"),
        (_takes_apart, "it replaces sys.stdout"),
        (_replaces, "it replaces sys.stderr"),
        (_closes_below, "it closes or redirects file descriptor 1"),
        (_redirects_below, "it closes or redirects file descriptor 2"),
        (_ends, "it ends the program: sys.exit(3)"),
        (_moves, "it changes the working folder, to '/'"),
        (_sleeps, "took longer than 0.1 s"),
        (_is_gentle, ""),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_component_keeps_to_itself(does, said, in_memory, monkeypatch, tmp_path):
    contract = Contract()
    contract.check(lambda case: does())
    own = io.TextIOWrapper(io.BytesIO()) if in_memory else (tmp_path / "o").open("w")
    monkeypatch.setattr(sys, "stdout", own)
    errors, folder = sys.stderr, os.getcwd()
    result = run_check(
        contract.checks[0], contract, subject_of("loss", Mean), Profile(limit=0.1 if does is _sleeps else 60)
    )
    assert (sys.stdout, sys.stderr, os.getcwd()) == (own, errors, folder)
    print("the report is still printed", flush=True)
    own.close()
    assert result.outcome == ("failed" if said else "passed")
    assert said in result.message
    assert result.hung == (does is _sleeps)


def test_ctrl_c_ends_the_checks_however_long_they_have_taken():
    contract = Contract()
    contract.check(lambda case: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_check(contract.checks[0], contract, subject_of("loss", Mean), Profile(seconds=0.0))


def test_a_thread_that_a_component_leaves_is_named():
    ends = threading.Event()
    contract = Contract()
    contract.check(lambda case: threading.Thread(target=ends.wait, name="watcher").start())
    result = run_check(contract.checks[0], contract, subject_of("loss", Mean))
    ends.set()
    assert result.message == "it leaves a thread running that keeps the program from ending: 'watcher'"


class Sleeper(Mean):
    """A loss that hangs."""

    def __call__(self, prediction, target):
        time.sleep(60)


def test_after_a_check_that_hangs_no_other_is_tried():
    started = time.monotonic()
    first, second, *others = check_component("loss", Sleeper, profile=Profile(limit=0.1))
    assert (first.outcome, second.outcome, second.hung) == ("passed", "failed", True)
    assert others and {other.message for other in others} == {"a check before it took too long"}
    assert time.monotonic() - started < 5


class Destroyed:
    """Takes its time when it is thrown away, where what is raised is lost."""

    def __init__(self):
        self.myself = self

    def __del__(self):
        time.sleep(0.1)


def test_an_alarm_while_garbage_is_collected_rings_again(monkeypatch):
    monkeypatch.setattr(isolation, "AGAIN", 0.2)
    Destroyed()
    started = time.monotonic()
    with pytest.raises(TookTooLong), contained(0.05):
        gc.collect()  # pytest makes an error of what is raised in here
        assert time.monotonic() - started > 0.1
        time.sleep(5)


def test_another_alarm_is_left_alone():
    monkeyed = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        with contained(0.01):
            time.sleep(0.05)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 90
    finally:
        signal.setitimer(signal.ITIMER_REAL, *monkeyed)


LEAVES_A_THREAD = """
import sys, threading
from uldm_core import Component, hookimpl

class Watched:
    def __init__(self) -> None:
        threading.Thread(target=threading.Event().wait, name="watcher").start()
        sys.stdout.close()

@hookimpl
def uldm_components():
    return [Component("loss", "watched", Watched)]
"""


def test_the_program_ends_though_a_component_leaves_a_thread(tmp_path):
    (tmp_path / "watched.py").write_text(LEAVES_A_THREAD)
    command = [sys.executable, "-m", "uldm_core.cli.main", "check", "--plugin", "watched.py", "loss/watched"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "builds: it closes sys.stdout; it leaves a thread running" in done.stdout
    assert "0 passed, 1 failed" in done.stdout


# A kind of its own, with checks of its own, through the hook.


class Doubler:
    def double(self, x):
        return 2 * x


class Tripler(nn.Module):
    def double(self, x):
        return 3 * x


doubling = Contract()


@doubling.check
def doubles(case):
    """It doubles numbers, or nobody would call it so."""
    expect(case.build().double(2) == 4, "two is not doubled to four")


class _Stranger:
    """A plugin with a kind."""

    @hookimpl
    def uldm_kinds(self):
        return [Kind("doubler", f"{__name__}:Doubler", "twice", checks=f"{__name__}:doubling")]


@pytest.fixture
def doubler(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or ModuleType(__name__))
    monkeypatch.setattr(sys.modules[__name__], "Doubler", Doubler, raising=False)
    monkeypatch.setattr(sys.modules[__name__], "doubling", doubling, raising=False)
    (kind,) = _Stranger().uldm_kinds()
    monkeypatch.setitem(default_registry.default().kinds, "doubler", kind)


def test_a_new_kind_brings_its_own_checks(doubler):
    assert check_component("doubler", Doubler).ok
    assert check_component("doubler", Tripler).failed == ("doubles",)


# pytest


def test_each_check_is_a_test_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            from uldm_core.testing import parametrize_with_checks

            class Total:
                def __call__(self, prediction, target):
                    return (prediction - target).square().sum()

            @parametrize_with_checks("loss", [Total, "l1"], xfail={})
            def test_contract(check):
                check()
            """
        )
    )
    plugins = [f"-pno:{name}" for name in ("cacheprovider", "faulthandler", "xdist")]
    code = pytest.main(["-q", "-rA", *plugins, f"--rootdir={tmp_path}", str(tmp_path)])
    out = capsys.readouterr().out
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "PASSED test_it.py::test_contract[loss/l1-averaged_over_batch]" in out
    assert "FAILED test_it.py::test_contract[Total-averaged_over_batch]" in out
    assert "three copies" in out
    assert "2 failed" in out


# whole plugins


def plugin_of(*components):
    module = ModuleType("some_plugin")
    module.uldm_components = hookimpl(lambda: list(components))
    return module


def test_a_sound_plugin_passes():
    report = check_plugin(plugin_of(Component("loss", "mean", Mean)))
    assert report.ok, report
    assert "records_well_formed" in str(report)


@pytest.mark.parametrize(
    ("components", "said"),
    [
        ([Component("loss", "total", Total)], "three copies"),
        ([Component("loss", "gone", "no_such_module:Loss")], "no_such_module"),
        ([Component("lose", "mean", Mean)], "unknown kind"),
        (["loss"], "TypeError"),
        ([], "announces nothing"),
        ([Component("loss", "mean", Mean, example={"weight": 3})], "unknown option 'weight'"),
        ([Component("loss", "total", Total, xfail={"scalr": "?"})], "there is no check 'scalr'"),
    ],
)
def test_a_plugin_with_a_fault_is_reported(components, said):
    report = check_plugin(plugin_of(*components))
    assert not report.ok
    assert said in str(report)
    with pytest.raises(AssertionError):
        report.raise_for_failures()


def test_a_plugin_module_that_imports_torch_is_reported(tmp_path, monkeypatch):
    (tmp_path / "eager_plugin.py").write_text(
        "import torch\nfrom uldm_core import Component, hookimpl\n\n\n"
        "@hookimpl\ndef uldm_components():\n"
        "    return [Component('loss', 'eager', 'uldm_plugins.losses.pixel:L1')]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = check_plugin("eager_plugin")
    assert "eager_plugin imports torch" in str(report)


def test_our_own_distribution_is_a_plugin_like_any_other():
    from uldm_core.testing.plugin import _importable, _is_lazy, _modules, _records

    for name, module in _modules("uldm"):
        plugin, result = _records(name, module)
        assert _is_lazy(name).outcome == result.outcome == "passed"
        assert {_importable(component).outcome for component in plugin.components} == {"passed"}


def test_what_is_no_plugin_is_a_mistake():
    with pytest.raises(MistakeError, match="no entry point"):
        check_plugin("torch")
    assert "No module named" in str(check_plugin("no_such_module"))


# the command


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["loss/l1"], 0, "0 failed"),
        (["timestep_weighting/logit_normal", "mean=-1.0"], 0, "passed           times_in_range"),
        (["loss/lpisp"], 2, "did you mean 'lpips'"),
        (["l1"], 2, "is no KIND/NAME"),
        (["loss/l1", "weight=2"], 2, "unknown option 'weight'"),
        ([], 2, "or --all"),
        (["--all", "loss/l1"], 2, "or --all"),
        (["timestep_weighting/logit_normal", "std=-1.0"], 1, "failed           builds"),
    ],
)
def test_the_command_says_what_became_of_each_check(arguments, code, said, capsys):
    with pytest.raises(SystemExit) if code in (0, 1) else _nothing() as exit_:
        assert uldm(["check", *arguments]) == code
    if code in (0, 1):
        assert exit_.value.code == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def _nothing():
    from contextlib import nullcontext

    return nullcontext()
