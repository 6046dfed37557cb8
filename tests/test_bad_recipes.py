"""Each recipe of ``bad_recipes/`` has the problems that its header lists: line, key, message, hint."""

import re
import time
import warnings
from pathlib import Path

import pytest
from attrs import define, field

from uldm_core import Component, MistakeError, Registry, check
from uldm_core.errors import dotted
from uldm_core.protocols import Loss
from uldm_core.recipe import Recipe

CORPUS = sorted((Path(__file__).parent / "bad_recipes").glob("*.toml"))
CODES = {
    "absent": {"unavailable-component"},
    "broken": {"unavailable-component"},
    "code": {"names-code"},
    "constructor": {"component-error", "unknown-component", "unknown-option", "wrong-type"},
    "duplicate": {"duplicate", "shared-backbone"},
    "exclusive": {"exclusive-options", "unknown-option"},
    "extends": {"cycle", "wrong-type"},
    "format": {"unsupported-format"},
    "inferred": {"out-of-range"},
    "kind": {"unknown-component", "unknown-table", "wrong-kind", "wrong-type"},
    "missing": {"missing-component", "missing-option", "unknown-option"},
    "name": {"bad-name"},
    "order": {"cycle", "wrong-order"},
    "path": {"missing-file", "wrong-type"},
    "range": {"out-of-range"},
    "ref": {"cycle", "missing-component", "unknown-component", "unknown-option", "wrong-kind", "wrong-type"},
    "several": {"out-of-range", "unknown-component", "unknown-option", "unknown-table", "wrong-type"},
    "toml": {"toml-syntax"},
    "type": {"out-of-range", "wrong-type"},
    "unknown": {
        *("bad-variable", "out-of-range", "unknown-component", "unknown-option", "unknown-table"),
        *("unknown-variable", "wrong-kind"),
    },
    "unused": {"untrained", "unused"},
    "variable": {"bad-variable", "cycle", "unknown-table", "unknown-variable", "unused", "wrong-type"},
}
"""The codes of the problems in the recipes whose names begin so."""


class Wrapped:
    """A loss that may be made from another."""

    def __init__(self, inner: Loss | None = None) -> None:
        self.inner = inner

    def __call__(self, prediction, target):
        return (prediction - target).abs().mean()


class NeedsRight:
    """A stage that needs what the other one makes."""

    trains, makes, needs = (), ("left.txt",), ("right.txt",)

    def run(self, context):
        return {}


class NeedsLeft(NeedsRight):
    """The other one."""

    makes, needs = ("right.txt",), ("left.txt",)


STRANGERS = (
    Component("loss", "wrapped", Wrapped),
    Component("stage", "needs_right", NeedsRight),
    Component("stage", "needs_left", NeedsLeft),
    Component("denoiser", "needs_absent", "no_such_library:Net", requires="no_such_library"),
    Component("metric", "needs_extra", "no_such_library:Score", requires="no_such_extra_library"),
    Component("denoiser", "broken", "no_such_module.nets:Net"),
)


@define
class Expected:
    """One problem, as a header lists it."""

    line: int
    key: str = ""
    what: str = ""
    hint: str = field(default="")


def expected_of(text):
    """Read the header: ``# line:`` begins a problem, ``# key:``, ``# what:`` and ``# hint:`` belong to it."""
    found = []
    for name, value in re.findall(r"^# (line|key|what|hint): ?(.*?)\r?$", text, re.MULTILINE):
        if name == "line":
            found.append(Expected(int(value)))
        else:
            setattr(found[-1], name, value)
    return found


@pytest.fixture(scope="module")
def everything():
    """The installed plugins, and strangers: some lack their libraries."""
    registry = Registry()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry.load_plugins()
    for component in STRANGERS:
        registry.register(component)
    return registry


def problems_of(path, registry):
    try:
        return check(Recipe.load(path), registry)
    except MistakeError as error:
        return list(error.problems)


def category(path):
    return path.stem.partition("_")[0]


def test_the_corpus_is_large_enough_and_holds_every_category():
    assert len(CORPUS) >= 80
    assert {category(path) for path in CORPUS} == CODES.keys()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_every_problem_is_reported_with_its_place_its_code_and_how_to_fix_it(path, everything):
    expected = expected_of(path.read_bytes().decode("utf-8-sig"))
    began = time.process_time()
    found = problems_of(path, everything)
    assert time.process_time() - began < 4, "two seconds, and as many for what the first of them imports"
    assert expected and len(found) == len(expected), "\n".join(map(str, found))
    for wanted, problem in zip(expected, found):
        assert (problem.where.source, problem.where.line) == (str(path), wanted.line), problem
        assert dotted(problem.where.key) == wanted.key, problem
        assert wanted.what in problem.what, problem
        assert wanted.hint in problem.hint, problem
        assert problem.code in CODES[category(path)], problem
        assert str(problem).startswith(f"{path}:{wanted.line}: "), problem


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_line_that_a_header_names_is_the_one_to_fix(path):
    """The header cannot drift from the recipe: the named line says something of the key."""
    lines = path.read_bytes().decode("utf-8-sig").splitlines()
    for wanted in expected_of("\n".join(lines)):
        written = lines[wanted.line - 1]
        assert written.strip() and not written.startswith("#")
        last = re.split(r"[.\[]", wanted.key)[-1].rstrip("]")
        assert wanted.key == "" or last in written or last.isdigit() or last in ("use", "kind"), written
