"""Recipes that nobody would write: no traceback, no module that is not registered, no long wait."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shipped import COMPLETE

from uldm_core import MistakeError, check, registry
from uldm_core.recipe import Recipe
from uldm_core.recipe.reader import RESERVED
from uldm_core.toml_text.parse import parse_toml

ROOT = Path(__file__).parents[1]
GOOD = [path.read_text("utf-8") for path in COMPLETE]
SECONDS = 2.0
POISON = "poison_that_nobody_registered"
WORDS = sorted(
    {component.name for component in registry.default().components()}
    | set(registry.default().kinds)
    | {"use", "ref", "from", "kind", "weight", "start", "steps", *RESERVED}
)
NAMES = st.sampled_from(WORDS) | st.text(max_size=8)
STRINGS = st.one_of(
    NAMES,
    st.sampled_from(
        [
            *(POISON, f"{POISON}:run", f"{POISON}.run", "${vars.", "${env:HOME}", "runs/none", "a" * 5000),
            *("${vars.x}", "${vars.x}" * 40),
        ]
    ),
)
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, -1, 10**9, 2**53 + 1, 10**400]),
    st.floats(),
    st.booleans(),
)
VALUES = st.recursive(
    STRINGS | NUMBERS | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)

PIECES = ['"', '"""', "[", "]", "{", "}", "=", "#", "\n", "\r\n", "\x00", "é"]


def places(value, at=()):
    """Yield the way to every value of nested tables."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*at, name)
        yield from places(item, (*at, name))


@st.composite
def mutated_tables(draw):
    """A shipped recipe with one to four of its values replaced, removed, renamed or added to."""
    data = parse_toml(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        *outer, last = draw(st.sampled_from(list(places(data))))
        table = data
        for part in outer:
            table = table[part]
        match draw(st.sampled_from(["replace", "remove", "rename", "add"])):
            case "replace":
                table[last] = draw(VALUES)
            case "remove":
                del table[last]
            case "rename" if isinstance(table, dict):
                table[draw(NAMES)] = table.pop(last)
            case "add" if isinstance(table, dict):
                table[draw(NAMES)] = draw(VALUES)
        if not data:
            break
    return data


@st.composite
def mutated_texts(draw):
    """A shipped recipe's text with one to three pieces cut out, put in or written twice."""
    text = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 30)))
        piece = draw(
            st.sampled_from(
                [
                    "",
                    text[begin:end] * 2,
                    ".a" * 600,
                    "[" * 600,
                    '"',
                    "[",
                    "]",
                    "{",
                    "}",
                    "=",
                    "\n",
                    "\r\n",
                    '"""',
                    "\x00",
                    "#",
                    "é",
                ]
            )
        )
        text = text[:begin] + piece + text[end:]
    return text


def survive(make):
    """Make and check a recipe as ``validate`` does; return how long that took."""
    began = time.process_time()
    try:
        problems = check(make())
    except MistakeError as error:
        problems = error.problems
    for problem in problems:
        assert problem.what.strip() and str(problem)
    assert POISON not in sys.modules
    return time.process_time() - began


def nothing_gets_through(tmp_path, monkeypatch, examples):
    for component in registry.default().components():  # whose libraries are not what is timed
        with suppress(MistakeError):
            component.load()
    (tmp_path / f"{POISON}.py").write_text("run = print")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "fuzzed.toml"
    quick = settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )

    @quick
    @given(mutated_tables())
    def of_tables(data):
        assert survive(lambda: Recipe.from_dict(data)) < SECONDS

    @quick
    @given(st.dictionaries(NAMES, VALUES, max_size=8))
    def of_any_tables(data):
        assert survive(lambda: Recipe.from_dict(data)) < SECONDS

    @quick
    @given(mutated_texts() | st.text(max_size=60) | st.binary(max_size=60))
    def of_texts(text):
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
        assert survive(lambda: Recipe.load(path)) < SECONDS

    for property_holds in (of_tables, of_any_tables, of_texts):
        property_holds()


def test_nothing_gets_through(tmp_path, monkeypatch):
    nothing_gets_through(tmp_path, monkeypatch, examples=60)


@pytest.mark.slow
def test_nothing_gets_through_ten_thousand_times(tmp_path, monkeypatch):
    nothing_gets_through(tmp_path, monkeypatch, examples=3400)


@settings(max_examples=40)
@given(mutated_tables())
def test_what_is_right_is_written_and_read_again_as_it_is(data):
    """Saving a resolved recipe and loading it again changes nothing."""
    try:
        resolved = Recipe.from_dict(data).resolve()
    except MistakeError:
        return
    text = tomli_w.dumps(resolved.to_dict())
    again = Recipe.from_dict(parse_toml(text)).resolve()
    assert tomli_w.dumps(again.to_dict()) == text


def parent_of(data, key):
    for part in key[:-1]:
        data = data[part]
    return data


def misspell(data, key):
    """Rename a key of a table, which keeps its place."""
    table = parent_of(data, key)
    renamed = [(f"{name[:-1]}qq{name[-1:]}" if name == key[-1] else name, table[name]) for name in table]
    table.clear()
    table.update(renamed)


def put_nonsense(data, key):
    """Replace a value by one that no option takes."""
    table = parent_of(data, key)
    table[key[-1]] = 3.5 if isinstance(table[key[-1]], (dict, list)) else "nonsense"


@settings(max_examples=25)
@given(st.sampled_from(GOOD), st.sampled_from([misspell, put_nonsense]), st.data())
def test_a_slip_is_one_problem_without_what_follows_from_it(text, slip, data):
    recipe = parse_toml(text)
    keys = [
        key
        for key in places(recipe)
        if slip is put_nonsense or (isinstance(key[-1], str) and (key[0] != "stages" or len(key) != 2))
    ]
    slip(recipe, data.draw(st.sampled_from(keys)))
    assert len(problems_in(recipe)) == 1


@settings(max_examples=15)
@given(st.sampled_from(GOOD), st.data())
def test_independent_problems_are_reported_at_once(text, data):
    recipe = parse_toml(text)
    keys = [key for key in places(recipe) if key != ("uldm",)]
    numbers = [key for key in keys if isinstance(parent_of(recipe, key)[key[-1]], (int, float))]
    slips = data.draw(st.lists(st.sampled_from(numbers), min_size=2, max_size=5, unique=True))
    for key in slips:
        put_nonsense(recipe, key)
    assert {problem.where.key for problem in problems_in(recipe)} == {*slips}


def problems_in(tables):
    try:
        return check(Recipe.from_dict(tables))
    except MistakeError as error:
        return error.problems
