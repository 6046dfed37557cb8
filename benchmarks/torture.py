"""Kill runs, damage their files, fill their disk and cut their power; count what is lost or said wrongly.

    python benchmarks/torture.py --kills 200 --flips 1000 [--disk-full N] [--power-cuts N]
                                 [--seed N] [--workers N] [--work DIR] [--json FILE] [--only ROW:INDEX]

A tiny recipe of every kind of stage is run once as reference, in this process, which imports all there is to
import. Each trial is run in forks of it, on one thread, so that a run takes a second. A trial interrupts or
damages a run and issues the same command again; its weights, artifacts and logs must then equal the
reference's bit for bit. The table counts:

- unloadable: the command issued again does not end well
- unequal: a weight, artifact, record or logged number differs from the reference's
- lost: more steps are made twice than lie between two checkpoints
- left over: files that the reference does not have
- silent: damage is used, or left where a person believes in it, and nothing said; a run that lacks something
  exits with 0
- traceback: shown instead of a message
- unnamed: refused without the name of the file, or with another exit code than the manual's
- doctor: damage in a file that matters which ``uldm doctor RUN`` does not name, or named where there is none
- refused, repaired: with the name of the file; without effect: the output equals the reference's

``--disk-full`` (tmpfs) and ``--power-cuts`` (ext4 on a loop device, of which a copy holds what was synced)
mount file systems, which takes Linux and root; elsewhere they are skipped. Every trial is drawn from the
seed, its row and its index.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch

from uldm_core import registry
from uldm_core.cli import main as program

EVERY = 4
"""Steps between two checkpoints of the recipe."""
KEEP = 2
"""How many of them a stage keeps."""

RECIPE = Path(__file__).with_suffix(".toml").read_text()

RUN = ["run", "tiny.toml", "--out", "x"]
OTHER = "denoiser.width=20"
PATIENCE = 120.0
"""Seconds after which a command hangs."""


# Forks -----------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a command ended: exit code (negative: by a signal), what it printed, how far it came."""

    code: int
    text: str
    steps: int = 0
    changes: int = 0
    seconds: float = 0.0

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text


class Counts:
    """Two numbers that a fork shares with its parent, also when it is killed: steps and changes of files."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16)

    def add(self, place: int) -> int:
        """Add one to a number and return it."""
        numbers = list(self.read())
        numbers[place] += 1
        self.memory[:] = struct.pack("qq", *numbers)
        return numbers[place]

    def read(self) -> tuple[int, int]:
        """Return both numbers."""
        steps, changes = struct.unpack("qq", self.memory[:])
        return steps, changes


@dataclass(frozen=True)
class Death:
    """When a command kills itself: before a step or before a change of a file, counted from 1."""

    step: int = 0
    change: int = 0


COUNTS = Counts()
NEVER = Death()
DEATH = NEVER


def count_steps(replace: Callable[[object, str, object], object] = setattr) -> None:
    """Have every trainer count its steps in ``COUNTS``."""
    for component in registry.default().components():
        trainer = component.load() if component.kind == "stage" else None
        if step := getattr(trainer, "step", None):
            replace(trainer, "step", _counting(step))


def _counting(step: Callable[..., object]) -> Callable[..., object]:
    def counted(self: object, number: int, context: object) -> object:
        if COUNTS.add(0) == DEATH.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number, context)

    return counted


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}


def _count_changes(event: str, arguments: tuple[object, ...]) -> None:
    """Count what changes the run's folder, as an audit hook: before it is done."""
    if event not in CHANGES and not (event == "open" and _is_writing(arguments)):
        return
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
    relative = os.path.relpath(path) if path else ""
    in_folder = isinstance(arguments[-1], int) and arguments[-1] >= 0 and event != "open"
    if (relative.split(os.sep)[0] == "x" or in_folder) and COUNTS.add(1) == DEATH.change:
        os.kill(os.getpid(), signal.SIGKILL)


def _is_writing(arguments: tuple[object, ...]) -> bool:
    return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


def command(
    arguments: Sequence[str],
    folder: Path,
    *,
    death: Death = NEVER,
    meanwhile: Callable[[int], object] = lambda pid: None,
) -> Outcome:
    """Run a command in a fork, in a folder, and wait for its end.

    Args:
        arguments: of ``uldm``.
        folder: where it runs.
        death: when it kills itself.
        meanwhile: called with its process id while it runs.
    """
    global COUNTS
    COUNTS = Counts()
    began = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        if not (pid := os.fork()):
            _be_the_program(arguments, folder, printed.fileno(), death)
        meanwhile(pid)
        code = _ended(pid)
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    return Outcome(code, text, *COUNTS.read(), time.monotonic() - began)


def _be_the_program(arguments: Sequence[str], folder: Path, printed: int, death: Death) -> None:
    global DEATH
    DEATH = death
    code = 1
    try:
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.chdir(folder)
        sys.addaudithook(_count_changes)
        program.main(list(arguments))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _ended(pid: int) -> int:
    """Wait for a process; return its exit code, negative if a signal ended it."""
    until = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            until += PATIENCE
        time.sleep(0.004)


# What a run holds ------------------------------------------------------------------------------------------

CHANGING = ("run.json", "report.html", "environment.json", "events.jsonl", ".lock", "lock.json")
"""Files that differ between two runs of one recipe: times, and what happened."""
RECORDS = ("stage.json", "stage_copy.json", "state.json")
TIMES = {"images_per_second", "seconds", "when", "checksum", "metrics.jsonl"}
"""What differs between them in a line of a log or in a record, and the checksums of what has times in it."""


def contents(run: Path) -> dict[str, object]:
    """Return what a run's folder holds, without times: the content of each file by its name.

    Of checkpoints the last one: which others are kept depends on when a run was stopped.
    """
    found = {name: content(run / name) for name in files_of(run) if name not in CHANGING}
    for folder in run.glob("**/checkpoints"):
        steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        if len(steps) <= KEEP:
            earlier = tuple(f"{(folder / str(step)).relative_to(run).as_posix()}/" for step in steps[:-1])
            found = {name: value for name, value in found.items() if not name.startswith(earlier)}
    return found


def content(path: Path) -> object:
    """Return a file's content without times; None if it is not there, or may differ."""
    if path.is_dir():
        return "a folder"
    if not path.is_file():
        return None
    data = path.read_bytes()
    if path.suffix == ".jsonl" or path.name in RECORDS:
        with suppress(ValueError):
            lines = data.splitlines() if path.suffix == ".jsonl" else [data]
            return [_without_times(json.loads(line)) for line in lines]
    return data


def _without_times(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_times(item) for key, item in value.items() if key not in TIMES}


def files_of(run: Path) -> list[str]:
    """Return the files below a folder, and folders that hold nothing."""
    paths = [path for path in run.rglob("*") if not path.is_dir() or not any(path.iterdir())]
    return sorted(path.relative_to(run).as_posix() for path in paths)


@dataclass
class Reference:
    """The run that nothing happened to."""

    folder: Path
    held: dict[str, object]
    steps: int
    changes: int
    seconds: float
    other: Outcome
    other_held: dict[str, object]
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)


def make_reference(work: Path) -> Reference:
    """Run the recipe in a fork and keep what it made."""
    folder = work / "reference"
    fresh(folder)
    whole = command(RUN, folder)
    if whole.code:
        sys.exit(f"the reference run failed with {whole.code}:\n{whole.text}")
    held = contents(folder / "x")
    with scratch() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        other = command([*RUN, OTHER], copy)
        other_held = contents(copy / "x")
    return Reference(folder, held, whole.steps, whole.changes, whole.seconds, other, other_held)


def fresh(folder: Path) -> None:
    """Make a folder that holds the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text(RECIPE)


# Trials ----------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """What was tried, and what was found wrong or right about it."""

    row: str
    index: int
    tried: str = ""
    found: list[str] = field(default_factory=list)
    detail: str = ""

    @property
    def draw(self) -> random.Random:
        return random.Random(f"{SEED}/{self.row}/{self.index}")


SEED = 0
REFERENCE: Reference
WORK: Path


def resumed(trial: Trial, folder: Path, steps: int, interruptions: int) -> None:
    """Issue the command again, to its end, and note what differs from the reference."""
    if last := again(trial, folder, RUN):
        compare(trial, contents(folder / "x"), REFERENCE.held)
        twice = steps + last.steps - REFERENCE.steps
        if twice > EVERY * interruptions:
            note(trial, "lost", f"{twice} steps made twice")
        if (checked := command(DOCTOR, folder)).code:
            note(trial, "doctor", f"finds damage where there is none: {checked.text[-600:]}")


def again(trial: Trial, folder: Path, arguments: Sequence[str]) -> Outcome | None:
    """Run a command that should end well now; return None if it does not."""
    last = command(arguments, folder)
    if last.has_traceback:
        note(trial, "traceback", last.text[-1500:])
    if last.code:
        note(trial, "unloadable", f"exit {last.code}: {last.text[-600:]}")
    return None if last.code else last


def compare(trial: Trial, held: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Note which files a run has too many, and which differ or are not there."""
    if more := sorted(set(held) - set(expected)):
        note(trial, "left over", ", ".join(more))
    if other := [name for name in differing(held, expected) if name in expected]:
        note(trial, "unequal", ", ".join(other))


def note(trial: Trial, what: str, detail: str) -> None:
    """Add a finding to a trial."""
    trial.found.append(what)
    trial.detail += f"{what}: {detail}\n"


def differing(held: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """Return the names that are not in both, or not with the same content."""
    return sorted(
        name
        for name in {**held, **expected}
        if (name in held) != (name in expected) or held.get(name) != expected.get(name)
    )


def killed_at_a_change(trial: Trial, folder: Path) -> None:
    """SIGKILL before a change of a file; in every second trial also while it resumes."""
    draw = trial.draw
    deaths = [Death(change=draw.randint(1, REFERENCE.changes))]
    if draw.random() < 0.5:
        deaths.append(Death(change=draw.randint(1, REFERENCE.changes // 3)))
    killed(trial, folder, deaths)


def killed_at_a_step(trial: Trial, folder: Path) -> None:
    """SIGKILL before a step."""
    killed(trial, folder, [Death(step=trial.draw.randint(1, REFERENCE.steps))])


def killed(trial: Trial, folder: Path, deaths: Sequence[Death]) -> None:
    """Kill a run, and what resumes it, then resume to the end."""
    steps, trial.tried = 0, ", ".join(map(str, deaths))
    for death in deaths:
        outcome = command(RUN, folder, death=death)
        steps += outcome.steps
        if outcome.code not in (0, -signal.SIGKILL):
            note(trial, "unloadable", f"exit {outcome.code}: {outcome.text[-600:]}")
    resumed(trial, folder, steps, len(deaths))


def killed_while_archiving(trial: Trial, folder: Path) -> None:
    """SIGKILL while a finished run is done again with another option; afterwards the first option returns."""
    death = Death(change=trial.draw.randint(1, REFERENCE.other.changes))
    trial.tried = f"{OTHER}, {death}"
    shutil.copytree(REFERENCE.folder, folder, dirs_exist_ok=True)
    outcome = command([*RUN, OTHER], folder, death=death)
    last = again(trial, folder, [*RUN, OTHER])
    if last and outcome.steps + last.steps - REFERENCE.other.steps > EVERY:
        note(trial, "lost", f"{outcome.steps} and {last.steps} steps made")
    compare(trial, contents(folder / "x"), REFERENCE.other_held)
    last = again(trial, folder, RUN)
    held = {name: value for name, value in contents(folder / "x").items() if not name.startswith("set_aside")}
    compare(trial, held, REFERENCE.held)
    if last and last.steps:
        note(trial, "lost", f"{last.steps} steps of an archived result made again")


def killed_at_a_moment(trial: Trial, folder: Path) -> None:
    """SIGKILL at a moment."""
    _signalled(trial, folder, [signal.SIGKILL])


def stopped_once(trial: Trial, folder: Path) -> None:
    """SIGTERM, SIGINT or SIGUSR1 at a moment."""
    _signalled(trial, folder, [trial.draw.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])])


def stopped_twice(trial: Trial, folder: Path) -> None:
    """The same signal twice."""
    _signalled(trial, folder, [trial.draw.choice([signal.SIGTERM, signal.SIGINT])] * 2)


CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 75}
"""With which exit code a run that is not done yet ends."""


def _signalled(trial: Trial, folder: Path, signals: Sequence[signal.Signals]) -> None:
    draw = trial.draw
    waits = [draw.uniform(0, 1.05 * REFERENCE.seconds), draw.uniform(0, 0.2)]
    trial.tried = ", ".join(f"{number.name} after {wait:.3f} s" for number, wait in zip(signals, waits))

    def send(pid: int) -> None:
        for number, wait in zip(signals, waits):
            time.sleep(wait)
            os.kill(pid, number)  # of a process that has ended, its parent knows still: us

    outcome = command(RUN, folder, meanwhile=send)
    if outcome.has_traceback:
        note(trial, "traceback", outcome.text[-1500:])
    expected = CODES[signals[0]]
    if outcome.code not in (0, expected):
        note(trial, "unnamed", f"exit {outcome.code}, not {expected}: {outcome.text[-200:]}")
    resumed(trial, folder, outcome.steps, 1)


# Damaged files ---------------------------------------------------------------------------------------------

COMMANDS = {
    "run": ["run", "x", "--out", "x"],
    "more": ["run", "x", "--out", "x", "stages.second.steps=26"],
    "sample": ["sample", "x", "--out", "y.npz", "--count", "2"],
    "evaluate": ["evaluate", "x", "--metrics", "psnr"],
    "report": ["report", "x"],
    "compare": ["compare", "x", "x", "--count", "1", "--out", "y.html"],
    "reconstruct": ["reconstruct", "x", "--out", "y.npz", "--count", "2"],
    "codebook": ["codebook", "x", "--out", "y.json"],
    "diff": ["diff", "x", "x"],
    "validate": ["validate", "x"],
}
"""What reads a run's files."""
OF_UNFINISHED = ("run", "sample", "reconstruct", "report", "compare")
DOCTOR = ["doctor", "x"]
IMMATERIAL = re.compile(r"(run|environment|lock)\.json|report\.html|\.lock|.*/images/.*")
"""Files that nothing is made of."""


def flip(path: Path, draw: random.Random) -> str:
    """Flip a bit."""
    data = bytearray(path.read_bytes())
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place}"


def cut(path: Path, draw: random.Random) -> str:
    """Cut a file short."""
    length = draw.randrange(path.stat().st_size)
    os.truncate(path, length)
    return f"cut to {length} bytes"


def empty(path: Path, draw: random.Random) -> str:
    """Empty a file."""
    path.write_bytes(b"")
    return "emptied"


def lose(path: Path, draw: random.Random) -> str:
    """Remove a file."""
    path.unlink()
    return "removed"


def swap(path: Path, draw: random.Random) -> str:
    """Put another file of the run in its place, of the same suffix if there is one."""
    run = next(parent for parent in path.parents if parent.name == "x")
    others = [run / name for name in files_of(run) if (run / name).is_file() and run / name != path]
    others = [other for other in others if other.read_bytes() != path.read_bytes()]
    like = [other for other in others if other.suffix == path.suffix]
    other = draw.choice(like if like and draw.random() < 0.7 else others)
    shutil.copy(other, path)
    return f"replaced by {other.relative_to(run)}"


def folder_instead(path: Path, draw: random.Random) -> str:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()
    return "a folder in its place"


DAMAGES = {
    "flip": flip,
    "cut": cut,
    "empty": empty,
    "missing": lose,
    "foreign": swap,
    "folder": folder_instead,
}
SHARES = (10, 4, 2, 2, 3, 1)


@dataclass
class Answer:
    """What a command printed and made, without times."""

    code: int
    text: str
    made: dict[str, object]

    @property
    def pages(self) -> str:
        return " ".join(str(value) for name, value in self.made.items() if name.endswith(".html"))


def ask(name: str, folder: Path) -> Answer:
    """Run a command on the run in a folder and return its answer."""
    outcome = command(COMMANDS[name], folder)
    made: dict[str, object] = {}
    for path in sorted(folder.glob("y.*")):
        made[path.name] = path.read_text() if path.suffix == ".html" else content(path)
    if name == "report" and (page := folder / "x/report.html").is_file():
        made["report.html"] = page.read_text()
    if name in ("run", "more"):
        made.update(contents(folder / "x"))
    elif name == "evaluate":
        kept = (json.loads(path.read_bytes()) for path in (folder / "x/evaluations").glob("*.json"))
        made["evaluations"] = [_without_times(each) for each in kept]
    elif name != "report":
        made["printed"] = outcome.text
    return Answer(outcome.code, outcome.text, made)


def damaged(trial: Trial, folder: Path) -> None:
    """Damage a file of a run, finished or not; ask the doctor and then a command that reads runs."""
    draw = trial.draw
    kind = trial.row.partition(" of ")[2]
    shutil.copytree(WORK / kind, folder, dirs_exist_ok=True)
    names = [name for name in files_of(folder / "x") if (folder / "x" / name).stat().st_size]
    name = draw.choice(sorted(_by_kind(names).items()))[1]
    name = draw.choice(name)
    damage = draw.choices(list(DAMAGES), SHARES)[0]
    asked = draw.choice(["run"] * 3 + [*COMMANDS] if kind == "finished" else ["run"] * 3 + [*OF_UNFINISHED])
    how = DAMAGES[damage](folder / "x" / name, draw)
    trial.tried = f"{name}: {how}; uldm {asked}"
    left = content(folder / "x" / name)
    found = is_named(name, command(DOCTOR, folder).text)
    if not found and not IMMATERIAL.fullmatch(name) and not (name == "events.jsonl" and "cut to" in how):
        note(trial, "doctor", "does not name it")
    _judge(trial, name, left, asked, ask(asked, folder), found)


def _by_kind(names: Sequence[str]) -> dict[str, list[str]]:
    """Group files by what they are, so that each kind is drawn as often."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        top, _, rest = name.partition("/")
        kind = re.sub(r"[0-9]+|^[^/]*", "", rest) if top == "stages" else name
        kinds.setdefault(kind, []).append(name)
    return kinds


def is_named(name: str, text: str) -> bool:
    """Whether a text names a file, or the checkpoint that it belongs to."""
    checkpoint = re.match(r"stages/\w+/checkpoints/[0-9]+", name)
    text = text.replace("\n", "")
    return name in text or bool(checkpoint and checkpoint[0] in text)


def _judge(trial: Trial, name: str, left: object, asked: str, answer: Answer, found: bool) -> None:
    """Note which kind of answer it is."""
    kind = trial.row.partition(" of ")[2]
    expected = REFERENCE.answers[kind, asked]
    named = is_named(name, answer.text + answer.pages)
    other = differing(answer.made, expected.made)
    untouched = all(each == name or each.endswith(_in_archive(name)) for each in other)
    untouched = untouched and left in [answer.made.get(each) for each in other]
    if "Traceback (most recent call last)" in answer.text:
        note(trial, "traceback", answer.text[-1500:])
    elif answer.code != expected.code:
        note(trial, "refused" if named else "unnamed", f"exit {answer.code}: {answer.text[-600:]}")
    elif not other:
        note(trial, "repaired" if named else "without effect", "")
    elif named:
        note(trial, "refused", f"said, and shown without it: {answer.text[-300:]}")
    elif untouched and found:
        note(trial, "without effect", "left for the doctor")
    else:
        note(
            trial,
            "silent",
            f"{', '.join(other)}{' left as it is' if untouched else ''}: {answer.text[-300:]}",
        )


def _in_archive(name: str) -> str:
    """Return how a file's name ends once its stage is archived."""
    return "/" + name.split("/", 2)[-1] if name.startswith("stages/") else name


def prepare_damage(work: Path) -> None:
    """Make a finished and an unfinished run, and what each command answers of them undamaged."""
    shutil.copytree(REFERENCE.folder, work / "finished")
    fresh(work / "unfinished")
    outcome = command(RUN, work / "unfinished", death=Death(step=REFERENCE.steps - 4))
    if outcome.code != -signal.SIGKILL:
        sys.exit(f"the unfinished run ended with {outcome.code}:\n{outcome.text}")
    for kind, names in (("finished", COMMANDS), ("unfinished", OF_UNFINISHED)):
        for name in names:
            answers = []
            for _ in range(2):
                with scratch() as folder:
                    shutil.copytree(work / kind, folder, dirs_exist_ok=True)
                    answers.append(ask(name, folder))
            REFERENCE.answers[kind, name] = answers[0]
            if changing := differing(answers[0].made, answers[1].made):
                print(f"{name} of the {kind} run: not the same twice: {changing}", file=sys.stderr)


# File systems ----------------------------------------------------------------------------------------------


def can_mount() -> str:
    """Return why file systems cannot be mounted here; empty if they can."""
    if sys.platform != "linux" or os.geteuid():
        return "mounting takes Linux and root"
    if missing := [tool for tool in ("mount", "umount", "mkfs.ext4") if not shutil.which(tool)]:
        return f"{missing[0]} is not installed"
    with scratch() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip()
        subprocess.run(["umount", folder], check=True)
    return ""


@contextmanager
def mounted(folder: Path, *arguments: str):
    """Mount a file system at a folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(trial: Trial, folder: Path) -> None:
    """A disk too small for the run, then a larger one."""
    size = int((0.03 + 0.1 * trial.index % 1.1) * 1.1 * size_of(REFERENCE.folder))
    trial.tried = f"a disk of {size} bytes"
    place = folder / "disk"
    with mounted(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        fresh(place)
        outcome = command(RUN, place)
        _judge_full(trial, place, outcome)
        subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
        resumed(trial, place, outcome.steps, 1)


def full_for_a_while(trial: Trial, folder: Path) -> None:
    """A disk that others fill while the run goes on, and empty again."""
    draw, place = trial.draw, folder / "disk"
    wait, hold = draw.uniform(0.05, REFERENCE.seconds), draw.uniform(0.05, 0.5)
    trial.tried = f"full after {wait:.2f} s for {hold:.2f} s"

    def fill(pid: int) -> None:
        time.sleep(wait)
        room = shutil.disk_usage(place).free
        with suppress(OSError), (place / "filling").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room))
        time.sleep(hold)
        (place / "filling").unlink(missing_ok=True)

    with mounted(place, "-t", "tmpfs", "-o", f"size={4 * size_of(REFERENCE.folder)}", "tmpfs"):
        fresh(place)
        outcome = command(RUN, place, meanwhile=fill)
        _judge_full(trial, place, outcome)
        resumed(trial, place, outcome.steps, 1)


def _judge_full(trial: Trial, place: Path, outcome: Outcome) -> None:
    """Note what a run on a full disk said and left."""
    state = place / "x/run.json"
    if outcome.has_traceback:
        note(trial, "traceback", outcome.text[-1500:])
    if outcome.code == 0:
        held = contents(place / "x")
        lost = differing(held, REFERENCE.held)
        note(trial, "silent", ", ".join(lost)) if lost else note(trial, "without effect", "")
        return
    errors = " ".join(line for line in outcome.text.splitlines() if "error:" in line)
    told = re.search(r"\bx[/:]", errors) and "free" in errors
    note(trial, "refused" if told else "unnamed", f"exit {outcome.code}: {outcome.text[-600:]}")
    if parts := [name for name in files_of(place / "x") if ".part" in name]:
        note(trial, "left over", ", ".join(parts))
    if state.is_file() and state.stat().st_size and '"running"' in state.read_text():
        note(trial, "silent", "run.json says running")


def size_of(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def power_cut(trial: Trial, folder: Path) -> None:
    """Power that goes at a moment or as the run ends: what was not synced is lost."""
    draw = trial.draw
    wait = draw.uniform(0.05, REFERENCE.seconds) if draw.random() < 0.7 else 0.0
    trial.tried = f"cut after {wait:.3f} s" if wait else "cut at the end"
    image, copy, place = folder / "image", folder / "copy", folder / "disk"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with mounted(place, "-o", "loop", image):
        fresh(place)
        os.sync()

    def stop_and_copy(pid: int) -> None:
        if wait:
            time.sleep(wait)
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            _copy_of_disk(image, copy)
            os.kill(pid, signal.SIGKILL)

    with mounted(place, "-o", "loop,noauto_da_alloc,commit=3000", image):
        outcome = command(RUN, place, meanwhile=stop_and_copy)
        if not copy.exists():
            _copy_of_disk(image, copy)
    if outcome.code not in (0, -signal.SIGKILL):
        note(trial, "unloadable", outcome.text[-600:])
    with mounted(place, "-o", "loop", copy):
        resumed(trial, place, outcome.steps, 1)


def _copy_of_disk(image: Path, copy: Path) -> None:
    """Copy what a disk holds; what is still in memory above it is not of it."""
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)


# The table -------------------------------------------------------------------------------------------------

KILLS = {
    "SIGKILL before a change of a file": (killed_at_a_change, 0.4),
    "SIGKILL before a change of a file, with archived results": (killed_while_archiving, 0.1),
    "SIGKILL before a step": (killed_at_a_step, 0.1),
    "SIGKILL at a moment": (killed_at_a_moment, 0.15),
    "SIGTERM, SIGINT, SIGUSR1": (stopped_once, 0.15),
    "the same signal twice": (stopped_twice, 0.1),
}
FLIPS = {"damaged file of finished": (damaged, 0.6), "damaged file of unfinished": (damaged, 0.4)}
FULL = {"full disk": (full_disk, 0.5), "full disk for a while": (full_for_a_while, 0.5)}
POWER = {"power cut": (power_cut, 1.0)}
ROWS = {**KILLS, **FLIPS, **FULL, **POWER}
BAD = ("unloadable", "unequal", "lost", "left over", "silent", "traceback", "unnamed", "doctor")
COLUMNS = (*BAD, "refused", "repaired", "without effect")


def trials(options: argparse.Namespace) -> list[Trial]:
    """Return the trials that were asked for."""
    if options.only:
        row, _, index = options.only.rpartition(":")
        return [Trial(row, int(index))]
    counts = [
        (options.kills, KILLS),
        (options.flips, FLIPS),
        (options.disk_full, FULL),
        (options.power_cuts, POWER),
    ]
    return [
        Trial(row, index)
        for count, rows in counts
        for row, (_, share) in rows.items()
        for index in range(round(count * share))
    ]


@contextmanager
def scratch():
    """Make a folder below the work folder, and remove it."""
    folder = Path(tempfile.mkdtemp(dir=WORK))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def attempt(trial: Trial) -> Trial:
    """Do a trial; an error of this program itself is one of its findings."""
    with scratch() as folder:
        fresh(folder)
        try:
            ROWS[trial.row][0](trial, folder)
        except Exception:
            note(trial, "traceback", f"of torture.py itself: {traceback.format_exc()}")
    return trial


def table(done: Sequence[Trial]) -> str:
    """Return the table of counts, as Markdown."""
    lines = [f"| | tried | {' | '.join(COLUMNS)} |", f"|---|{'---|' * (len(COLUMNS) + 1)}"]
    for row in ROWS:
        mine = [trial for trial in done if trial.row == row]
        counts = Counter(what for trial in mine for what in set(trial.found))
        if mine:
            lines.append(f"| {row} | {len(mine)} | {' | '.join(str(counts[name]) for name in COLUMNS)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("kills", "flips", "disk-full", "power-cuts", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where runs are made: in memory, fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial and its findings")
    parser.add_argument("--only", metavar="ROW:INDEX", help="repeat one trial")
    return parser.parse_args()


def main() -> int:
    """Do all trials and print the table; return 1 if any found something bad."""
    global SEED, REFERENCE, WORK
    options = parse()
    SEED = options.seed
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="torture", dir=options.work) as work:
        WORK = Path(work)
        warm(WORK / "warm")
        count_steps()
        REFERENCE = make_reference(WORK)
        wanted = trials(options)
        if any(trial.row in {**FULL, **POWER} for trial in wanted) and (why := can_mount()):
            print(f"full disks and power cuts are skipped: {why}", file=sys.stderr)
            wanted = [trial for trial in wanted if trial.row not in {**FULL, **POWER}]
        if any(trial.row in FLIPS for trial in wanted):
            prepare_damage(WORK)
        done = []
        with suppress(KeyboardInterrupt), get_context("fork").Pool(options.workers) as pool:
            for trial in pool.imap_unordered(attempt, wanted):
                done.append(trial)
                if set(trial.found) & set(BAD):
                    print(
                        f"{trial.row}:{trial.index}: {trial.tried}\n  {trial.detail.strip()}", file=sys.stderr
                    )
    print(table(done))
    if options.json:
        options.json.write_text(json.dumps([vars(trial) for trial in done], indent=1))
    return int(any(set(trial.found) & set(BAD) for trial in done))


def warm(folder: Path, commands: Sequence[Sequence[str]] = (RUN, *COMMANDS.values(), DOCTOR)) -> None:
    """Run the recipe and every command in this process: forks then need not import anything."""
    fresh(folder)
    before, printed = os.getcwd(), (os.dup(1), os.dup(2))
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        for arguments in commands:
            with suppress(SystemExit):
                program.main(list(arguments))
    finally:
        os.chdir(before)
        for number, copy in enumerate(printed, 1):
            os.dup2(copy, number)


if __name__ == "__main__":
    sys.exit(main())
