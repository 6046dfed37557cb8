"""The program from outside: exit codes, what it says on which stream, and the layers of the house."""

import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest
from attrs import evolve
from click.testing import CliRunner
from rich.console import Console

from uldm_core import MistakeError, RunError, registry
from uldm_core.cli import console
from uldm_core.cli import main as program
from uldm_core.cli.progress import Terminal
from uldm_core.cli.run_options import run_options, run_overrides
from uldm_core.engine.signals import Interrupted
from uldm_core.errors import Problem, Where
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.recipe.run_options import MOST_THREADS
from uldm_core.registry.plugins import CORE_COMMANDS, GROUP, Command, Plugin, PluginWarning, load_file
from uldm_core.spec.docstrings import argument_help

ROOT = Path(__file__).parent.parent.parent

PLUGIN = '''
import signal

from uldm_core import Component, RunError, hookimpl


class Wait:
    """Does as it is told.

    Args:
        what: what to do.
    """

    trains, makes, needs = (), (), ()

    def __init__(self, what: str = "work", times: int = 1) -> None:
        if what == "object":
            raise ValueError("I object")
        self.what = what
        self.times = times

    def run(self, context):
        context.begin("waiting", 2)
        if self.what == "fail":
            raise RunError("it does not work", hint="try again")
        if self.what == "full":
            raise OSError(28, "No space left")
        for _ in range(self.times):
            for name in self.what.split("+") if self.what.startswith("SIG") else ():
                signal.raise_signal(signal.Signals[name])
        context.advance(2)
        return {"value": 0.5}


@hookimpl
def uldm_components():
    return [Component("stage", "wait", Wait)]
'''


@pytest.fixture
def uldm(tmp_path, monkeypatch, capsys):
    """Run the program in this process, in an empty folder, and tell exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    Path("wait.py").write_text(PLUGIN)
    Path("r.toml").write_text('[stages.only]\nuse = "wait"\n')
    registry.default.cache_clear()
    monkeypatch.setattr("warnings.formatwarning", None)  # main() sets it: have it put back

    def uldm(*arguments):
        with pytest.raises(SystemExit) as caught:
            program.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        wanted = "--traceback" in arguments or "ULDM_TRACEBACK" in os.environ
        assert wanted or "Traceback" not in captured.err
        return caught.value.code, captured.out, captured.err

    yield uldm
    registry.default.cache_clear()


def run_it(uldm, *overrides):
    return uldm("run", "r.toml", "--plugin", "wait.py", "--device", "cpu", *overrides)


def test_a_run_exits_with_0_and_tells_its_progress_apart_from_its_output(uldm):
    code, out, err = run_it(uldm)
    assert (code, out) == (0, "")
    assert "[only] waiting: 2" in err and "[only] done in 0 s value 0.5" in err and "runs/r: done in" in err
    assert json.loads(Path("runs/r/stages/only/stage.json").read_text())["done"]
    code, _, err = run_it(uldm)
    assert code == 0 and err.splitlines()[-2:] == [
        "runs/r: nothing to do: every stage is done",
        "report: runs/r/report.html",
    ]


@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("stages.only.what=fail", 1, "error: it does not work\n    try again"),
        ("stages.only.what=full", 1, "error: stages.only: No space left; "),
        ("stages.only.what=object", 2, "error: r.toml:1: stages.only: I object"),
        ("stages.only.what=SIGINT", 130, "stopped by SIGINT: the state is saved; the same command resumes"),
        ("stages.only.what=SIGTERM", 143, "stopped by SIGTERM: the state is saved"),
        ("stages.only.what=SIGUSR1", 75, "stopped by SIGUSR1: the state is saved"),
        ("stages.only.what=SIGTERM+SIGTERM", 143, ""),
        ("stages.only.what=SIGTERM+SIGINT", 130, ""),
        ("--max-minutes=1e-9", 75, "stopped, its time is up: nothing was begun; repeat the command"),
        ("--max-minutes=60", 0, "done in"),
        ("--max-minutes=0", 2, "Invalid value for '--max-minutes'"),
        ("--max-minutes=nan", 2, "not in the range x>0"),
    ],
)
def test_what_happens_in_a_run_decides_its_exit_code(uldm, override, code, said):
    found, out, err = run_it(uldm, override)
    assert (found, out) == (code, "") and said in err


RAISED = 'raise ValueError("I object")'


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize("flags", [("--traceback",), ()])
def test_a_traceback_leads_to_the_line_of_a_component_that_raised(uldm, monkeypatch, command, flags):
    """By the option, or by the environment; the line in words stays, and what is raised is shown once."""
    if not flags:
        monkeypatch.setenv("ULDM_TRACEBACK", "1")
    code, out, err = uldm(command, "r.toml", "--plugin", "wait.py", "stages.only.what=object", *flags)
    assert (code, out) == (2, "") and "r.toml:1: stages.only: I object\n" in err
    assert err.count(RAISED) == 1 and "wait.py" in err and "in __init__" in err


def test_a_traceback_shows_what_an_error_was_raised_from(uldm):
    os.symlink("loop.toml", "loop.toml")
    code, _, err = uldm("run", "--traceback", "loop.toml")
    assert code == 2 and err.splitlines()[-1] == "error: loop.toml: Too many levels of symbolic links"
    assert "OSError" in err and "direct cause" in err and "uldm_core.errors.MistakeError" in err
    code, _, err = uldm("ls", "--jsn", "--traceback")
    assert code == 2 and "NoSuchOption" in err and "No such option" in err.splitlines()[-1]


def test_an_error_that_is_a_cause_as_well_is_shown_once(capsys):
    cause = ValueError("I object")
    error = MistakeError(Problem(Where(), "I object", cause=cause))
    error.__cause__ = cause
    with click.Context(program.cli) as context:
        context.meta[console.TRACEBACK] = True
        console.show_tracebacks(error, cause, None)
    assert capsys.readouterr().err.count("ValueError: I object") == 1


@pytest.mark.parametrize("value", ["", "0"])
def test_without_being_asked_no_traceback_is_shown(uldm, monkeypatch, value):
    monkeypatch.setenv("ULDM_TRACEBACK", value)
    assert "Traceback" not in uldm("validate", "r.toml", "--plugin", "wait.py", "stages.only.what=object")[2]


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_signal_before_there_is_anything_to_stop_ends_with_a_word(uldm, monkeypatch, command, number, code):
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Recipe, "load", lambda *_: signal.raise_signal(signal.Signals[number]))
    found, out, err = uldm(command, "r.toml")
    assert (found, out) == (code, "") and err.strip().startswith(f"stopped by {number}")
    assert "\n" not in err.strip() and "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) is handler and not Path("runs").exists()


SIGNALLED_EARLY = """
import signal, sys

class Finder:
    def find_spec(name, *_):
        if name == "click":
            signal.raise_signal(signal.{number})

sys.meta_path.insert(0, Finder)
signal.signal(signal.SIGINT, signal.{before})
sys.argv[1:] = ["--version"]
from uldm_core.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("number", "before", "code"),
    [
        ("SIGTERM", "default_int_handler", 143),
        ("SIGINT", "default_int_handler", 130),
        ("SIGINT", "SIG_IGN", 0),
    ],
)
def test_a_signal_while_the_program_is_imported_ends_it_with_a_line(number, before, code):
    command = [sys.executable, "-c", SIGNALLED_EARLY.format(number=number, before=before)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr == (f"stopped by {number} before it was done\n" if code else "")
    assert done.stdout.startswith("uldm") is (not code)


def test_a_second_ctrl_c_exits_at_once_with_130(uldm):
    code, _, err = run_it(uldm, "stages.only.what=SIGINT", "stages.only.times=2")
    assert code == 130 and "saved" not in err


def test_mistakes_of_a_recipe_exit_with_2_all_of_them_each_with_its_line(uldm):
    Path("r.toml").write_text('seed = -1\n[stages.only]\nuse = "wiat"\n[denoizer]\n')
    code, out, err = run_it(uldm)
    assert (code, out) == (2, "") and not Path("runs").exists()
    lines = [line for line in err.splitlines() if line.startswith("r.toml:")]
    assert [line.split(": ")[0:2] for line in lines] == [
        ["r.toml:1", "seed"],
        ["r.toml:3", "stages.only.use"],
        ["r.toml:4", "denoizer"],
    ]
    assert "(did you mean 'wait'?)" in lines[1] and "(did you mean 'denoiser'?)" in lines[2]


def test_a_single_mistake_begins_with_error(uldm):
    Path("r.toml").write_text("x = [")
    assert run_it(uldm)[2].startswith("error: r.toml:1: not TOML")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "r.toml", "--plugin", "none.py"], "--plugin none.py: no such Python file"),
        (["run", "r.toml", "--until"], "Option '--until' requires an argument"),
        (["run", "r.toml", "--threads", "-1"], "Invalid value for '--threads'"),
        (["run", "r.toml", "--precision", "half"], "Invalid value for '--precision'"),
        (["run", "r.toml", "--plugin", "wait.py", "nonsense"], "override 'nonsense': expected KEY=VALUE"),
        (
            ["run", "r.toml", "--plugin", "wait.py", "--until", "onyl"],
            "there is no stage 'onyl' (did you mean",
        ),
        (["ls", "los"], "unknown kind 'los' (did you mean 'loss'?)"),
        (["lss"], "No such command 'lss'"),
        (["ls", "--jsn"], "No such option"),
    ],
)
def test_a_mistake_in_a_command_exits_with_2_and_says_it_on_stderr(uldm, arguments, said):
    code, out, err = uldm(*arguments)
    assert (code, out) == (2, "") and said in err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe.toml", "pipe.toml: not a file"),
        ("/dev/zero", "/dev/zero: not a file"),
        ("large.toml", "large.toml: of 20 MB, no recipe is as large"),
        ("folder", "folder: a folder without a recipe.toml"),
        ("utf16.toml", "utf16.toml:1: not UTF-8"),
        ("loop.toml", "loop.toml: Too many levels of symbolic links"),
        ("r.toml/x.toml", "there is no recipe 'r.toml/x.toml'"),
        ("", ".: a folder without a recipe.toml"),
    ],
)
def test_what_is_no_recipe_is_said_at_once(uldm, name, said):
    os.mkfifo("pipe.toml")
    os.mkdir("folder")
    os.symlink("loop.toml", "loop.toml")
    Path("large.toml").touch()
    os.truncate("large.toml", 20_000_000)
    Path("utf16.toml").write_text("seed = 1", "utf-16")
    code, out, err = uldm("run", name)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}")


def test_a_module_that_ends_the_program_as_it_is_imported_does_not(uldm, monkeypatch):
    Path("ends.py").write_text("import sys\nsys.exit(5)\n")
    with pytest.raises(MistakeError, match="SystemExit: 5"):
        load_file(Path("ends.py"))
    monkeypatch.syspath_prepend(".")
    record = 'Component("stage", "wait", "ends:Wait")'
    Path("wait.py").write_text(PLUGIN.replace('Component("stage", "wait", Wait)', record))
    code, _, err = run_it(uldm)
    assert code == 2 and "stage/wait cannot be imported: " in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=99999999999999999999"], "is too large: an integer has 64 bits"),
        (["run.threads=99999"], "expected an integer >= 0 and <= 1024, got 99999"),
        (["--threads", "99999"], "Invalid value for '--threads'"),
        (["--device", "meta"], "unknown device 'meta'"),
        (["--device", ""], "unknown device ''"),
        (["--out", ""], "Invalid value for '--out'"),
    ],
)
def test_numbers_and_names_that_are_slips_are_said(uldm, arguments, said):
    code, out, err = run_it(uldm, *arguments)
    assert (code, out) == (2, "") and said in err


@pytest.mark.parametrize("out", ["r.toml/below", "r.toml"])
def test_a_run_whose_folder_cannot_be_made_fails_in_a_line(uldm, out):
    code, _, err = run_it(uldm, "--out", out)
    assert code in (1, 2) and err.splitlines()[-1].startswith(f"error: {out}")


@pytest.mark.parametrize(
    ("raised", "code"),
    [(Interrupted(2), 130), (Interrupted(15), 143), (click.Abort(), 130), (click.UsageError("x"), 2)],
)
def test_what_is_raised_decides_the_exit_code(uldm, monkeypatch, raised, code):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(program.cli, "main", fail)
    assert uldm()[0] == code


@pytest.mark.parametrize("raised", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory", "x")])
def test_memory_that_does_not_suffice_outside_of_a_stage_is_said_with_what_to_lower(
    uldm, monkeypatch, raised
):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(program.cli, "main", fail)
    code, _, err = uldm()
    assert code == 1 and err.startswith("error: out of memory\n    lower") and "batch_size" in err


def test_a_fault_of_ours_is_not_dressed_up(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(program.cli, "main", fail)
    with pytest.raises(ZeroDivisionError):
        program._run([])


def test_several_problems_and_hints_are_said_line_by_line(capsys, monkeypatch):
    for error, code in ((MistakeError("a", "b", hint="c"), 2), (RunError("a", "b", hint="c"), 1)):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(program.cli, "main", fail)
        assert program._run([]) == code
        assert capsys.readouterr().err == "a\n    c\nb\n    c\n"


def test_a_warning_of_ours_is_one_line_and_others_keep_their_place():
    ours = console.format_warning(PluginWarning("plugin 'x' was skipped"), PluginWarning, "f.py", 3)
    assert ours == "warning: plugin 'x' was skipped\n"
    assert console.format_warning("odd", UserWarning, "f.py", 3) == "warning: f.py:3: odd\n"


def shell(command, **environment):
    """Run a command of the shell in which ``uldm`` is the program; return its exit code and errors."""
    program = f'uldm() {{ {sys.executable} -W error -m uldm_core.cli.main "$@"; }}; {command}'
    bash = ["bash", "-o", "pipefail", "-c", program]
    done = subprocess.run(bash, capture_output=True, timeout=60, env={**os.environ, **environment})
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    ("command", "code"),
    [("uldm ls | true", 141), ("uldm lss 2>&1 | true", 141), ("uldm ls >&-", 0), ("uldm lss >&- 2>&-", 2)],
)
def test_output_that_nobody_reads_ends_the_program_quietly(command, code):
    assert shell(command) == (code, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding):
    code, error = shell("uldm show $'loss/\\xff\u2713'", PYTHONIOENCODING=f"{encoding}:strict")
    assert code == 2 and error.startswith("error: unknown loss '") and "\\udcff" in error


def test_what_is_printed_from_inside_is_escaped_as_well(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, "latin-1"))
    monkeypatch.setattr(sys, "stdout", None)
    console.prepare_streams()
    terminal = Terminal(Console(stderr=True, force_terminal=True))
    terminal.stages(["\u2713\udcff"])
    terminal.message("\u2713\udcff")
    terminal.close()
    sys.stdout.close()
    sys.stderr.flush()
    assert written.getvalue().decode("latin-1").count("\\u2713\\udcff") >= 2


def test_a_folder_whose_name_is_not_utf8_holds_a_run(uldm):
    code, _, err = run_it(uldm, "--out", os.fsdecode(b"runs/\xff"))
    assert code == 0 and "report: runs/\\udcff/report.html" in err
    assert "\\udcff" in (Path(os.fsdecode(b"runs/\xff")) / "report.html").read_text("utf-8")


def test_no_recipe_holds_what_is_not_utf8():
    with pytest.raises(MistakeError, match=r"is not UTF-8"):
        Recipe.from_dict({"run": {"out": Path(os.fsdecode(b"\xff"))}})


def test_what_uldm_and_its_components_log_is_shown_while_the_program_runs(capsys):
    log = logging.getLogger("uldm_plugins.some.module")
    log.info("unseen")
    with console.logs_shown():
        log.debug("unseen")
        log.info("checked %d of [2] images", 1)
        log.warning("1 is left out")
        log.error("it failed")
        logging.getLogger("other").info("unseen")
    log.info("unseen")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "checked 1 of [2] images\nwarning: 1 is left out\nerror: it failed\n"
    assert not log.isEnabledFor(logging.INFO) and not logging.getLogger("uldm_plugins").handlers


def test_a_component_may_log_in_a_run(uldm):
    Path("wait.py").write_text(
        PLUGIN.replace("import signal", "import logging\nimport signal").replace(
            "context.advance(2)",
            "logging.getLogger('uldm_plugins.x').warning('odd')\n        context.advance(2)",
        )
    )
    code, out, err = run_it(uldm)
    assert (code, out) == (0, "") and "\nwarning: odd\n" in err


def test_help_lists_every_command_with_its_summary(uldm):
    code, out, _ = uldm("--help")
    assert code == 0
    brought = {name: record.summary for name, record in program.LazyGroup().brought().items()}
    for name, summary in {**program.CORE, **brought}.items():
        assert f"  {name} " in out and summary in " ".join(out.split())
    assert uldm("-h")[1] == out
    assert uldm("--version")[1].startswith("uldm, version ")


def test_every_command_can_be_imported_and_has_help():
    group = program.cli
    for name in group.list_commands(click.Context(group)):
        result = CliRunner().invoke(group, [name, "--help"])
        assert result.exit_code == 0 and result.output.startswith("Usage:"), name


def test_no_plugin_takes_the_name_of_a_command_of_the_core():
    own = registry.default()
    before = dict(own.commands)
    assert tuple(program.CORE) == CORE_COMMANDS
    try:
        for taken in (*CORE_COMMANDS, "sample"):
            with pytest.raises(MistakeError, match=f"it brings a command '{taken}', which uldm has"):
                own.add_plugin(Plugin("zz", commands=(Command(taken, "elsewhere:run"),)))
        own.add_plugin(Plugin("zz", commands=(Command("fly", "elsewhere:fly"),)))
        group = program.LazyGroup()
        assert group.brought()["fly"].target == "elsewhere:fly"
        assert group.get_command(None, "run").callback.__module__ == "uldm_core.cli.run"
    finally:
        own.commands = before
        del own.plugins["zz"]


def test_flags_become_overrides_of_the_run_table():
    assert run_overrides({"device": "cpu", "threads": 2, "compile": False}) == (
        "run.device='cpu'",
        "run.threads=2",
        "run.compile=false",
    )


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], {}),
        (["--device", "cuda:1", "--no-compile"], {"device": "cuda:1", "compile": False}),
        (["--precision", "bfloat16", "--threads", "0"], {"precision": "bfloat16", "threads": 0}),
    ],
)
def test_flags_of_the_run_table_are_those_of_its_signature(arguments, given):
    @click.command()
    @run_options("device", "precision", "threads", "compile")
    def command(run_options):
        return run_options

    assert command.main(arguments, standalone_mode=False) == given
    assert RunOptions(**given) == evolve(RunOptions(), **given)
    flags = {option.name: option for option in command.params}
    assert flags["precision"].type.choices == ("auto", "float32", "bfloat16")
    assert (flags["threads"].type.min, flags["threads"].type.max) == (0, MOST_THREADS)
    for name, text in argument_help(RunOptions).items():
        assert name not in flags or flags[name].help.lower() == text.replace("``", "").lower()


def outside(code, **environment):
    """Run Python apart from this process, warnings being errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LISTING = """
import sys
from uldm_core.cli.main import _run
assert _run({arguments!r}) == 0
print("\\n" + " ".join(sorted({{name.split(".")[0] for name in sys.modules}} - {{*sys.stdlib_module_names}})))
print(" ".join(name for name in sys.modules if name.startswith("uldm_plugins.")))
"""


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "loss", "--json"], ["--help"]])
def test_listing_and_help_import_no_library_that_costs(arguments):
    *_, libraries, plugins = outside(LISTING.format(arguments=arguments)).splitlines()
    heavy = {"torch", "torchvision", "numpy", "cattrs", "safetensors", "rich", "PIL"}
    assert not heavy & {*libraries.split()}
    records = {entry.value for entry in distribution("uldm").entry_points.select(group=GROUP)}
    assert {*plugins.split()} == records | {"uldm_plugins.adapters"}


def test_listed_json_has_every_component_with_its_origin():
    code = "from uldm_core.cli.main import main; main(['ls', '--json'])"
    rows = json.loads(outside(code))
    assert len(rows) == len(registry.default().components()) and rows == sorted(
        rows, key=lambda row: list(registry.default().kinds).index(row["kind"])
    )
    columns = ("kind", "name", "summary", "distribution", "version", "plugin", "requires", "installed")
    assert {tuple(row) for row in rows} == {columns}


def test_importing_the_core_and_its_protocols_imports_no_torch():
    code = "import sys, uldm_core, uldm_core.protocols, uldm_core.recipe; print('torch' in sys.modules)"
    assert outside(code) == "False\n"
