"""Names are the field's words: those of the first version's private English do not come back."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

ANYWHERE = {
    "anatomy": "network levels",
    "blame": "locate",
    "blueprint": "component spec",
    "dissection": "network levels",
    "door": "entry point",
    "exhibit": "artifact",
    "finding": "diagnostic",
    "house": "layout",
    "judge": "discriminator, or evaluation classifier",
    "mend": "fix",
    "noun": "component",
    "objection": "error",
    "planner": "validator",
    "rehearsal": "dry build",
    "room": "package",
    "surrounding": "inferred option",
    "told": "notified, logged, or reported",
    "trial": "dry build",
    "verb": "stage",
    "workshop": "component store",
}
"""Words that no name has, nor their plurals, with what to write instead."""

AT_THE_BEGINNING = {"say": "describe or format", "tell": "notify or log"}
"""Words that no name begins with: in a sentence, which a test's name is, they are ordinary English."""

PHRASES = {"goes on": "resumes", "set aside": "archive", "takes over": "replaces"}
"""Words that no name has one after the other."""

WHOLE = {
    "alone": "run_stage",
    "descent": "optimizer_step",
    "Descent": "OptimizerStep",
    "ears": "trackers",
    "Factory": "Partial",
    "machine": "device",
    "plan": "resolve, or resolved",
    "says": "description",
    "Term": "Weighted",
}
"""Words that no name consists of: beside others they may mean something else."""

REGISTERED = re.compile(r"mnist_?judge", re.IGNORECASE)
"""What recipes and run folders name stays."""


def old_words(name: str) -> Iterator[str]:
    """Yield what is to be written otherwise in a name, and how."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", REGISTERED.sub("", name))]
    pairs = [" ".join(pair) for pair in pairwise(words)]
    singular = [word.removesuffix("s") for word in words]
    for found, table in [
        (singular, ANYWHERE),
        (words[:1], AT_THE_BEGINNING),
        (pairs, PHRASES),
        ([name], WHOLE),
    ]:
        yield from (f"{word!r} is {table[word]!r}" for word in found if word in table)


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a file's names, each with its line: its own, classes, functions, parameters, fields."""
    yield 1, path.name.partition(".")[0]
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if isinstance(node, ast.ClassDef):
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
            yield from ((one.lineno, ast.unparse(one.target)) for one in fields)


@pytest.mark.parametrize("package", ["uldm_core", "uldm_plugins", "tests"])
def test_names_have_none_of_the_old_words(package):
    files = [path for path in sorted((ROOT / package).rglob("*")) if "__pycache__" not in path.parts]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {word}"
        for path in files
        for line, name in names_in(path)
        for word in old_words(name)
    ]
    assert not found, "\n".join(["old words, and what to write instead:", *found])


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")]), ids=lambda page: page.name
)
def test_pages_have_none_of_the_old_words(page):
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [
        f"{line}: {word!r} is {instead!r}"
        for line in prose.splitlines()
        for word, instead in ANYWHERE.items()
        if re.search(rf"\b{word}s?\b", line, re.IGNORECASE)
    ]
    assert not found, "\n".join(["old words, and what to write instead:", *found])


@pytest.mark.parametrize(
    "name",
    [
        "_noun_kinds",
        "NounOf",
        "all_the_nouns",
        "say_type",
        "_tell",
        "goes_on",
        "_set_aside_what_used",
        "machine",
    ],
)
def test_an_old_word_is_found_in_a_name(name):
    assert len(list(old_words(name))) == 1


@pytest.mark.parametrize(
    "name",
    [
        "mnist_judge",
        "MnistJudge",
        "_machine",
        "essay",
        "test_they_say_so",
        "HTTPRoommate",
        "going_on",
        "renouns",
    ],
)
def test_a_word_within_another_is_none(name):
    assert not list(old_words(name))
