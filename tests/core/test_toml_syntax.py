"""Texts that are not TOML: what is never closed is told where it opens, what stands twice where it does."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from uldm_core import MistakeError
from uldm_core.errors import dotted
from uldm_core.recipe.document import Document
from uldm_core.toml_text.locate import locate
from uldm_core.toml_text.parse import parse_toml

GOOD = """\
uldm = 1
text = '''
[not a table]
x = [1,
'''

[autoencoder]
use = "vqvae" # [ and { and " in a comment
quantizer = { use = "vq_ema", levels = [8, 5], name = "a]b}c" }
down_channels = [
  32, # one
  64,
]

[stages.first]
losses = [
  { use = "l1" },
  { use = "l2", list = [[1], [2, 3]] },
]
more = ["a", 'b', \"\"\"c\"\"\"]

[[stages.list]]
steps = 3
"""
OPENINGS = {"]": "[", "}": "{"}


def brackets():
    """Yield (offset of the closing bracket, line of the opening one) of every list and inline table."""
    stack, inside, at = [], "", 0
    while at < len(GOOD):
        quote = next((q for q in ("'''", '"""', '"', "'") if GOOD.startswith(q, at)), "")
        if inside:
            step = len(inside) if GOOD.startswith(inside, at) else 1
            inside = "" if GOOD.startswith(inside, at) else inside
            at += step
            continue
        if quote:
            inside, at = quote, at + len(quote)
            continue
        if GOOD[at] == "#":
            at = GOOD.index("\n", at)
        elif GOOD[at] in "[{" and (stack or "=" in GOOD[GOOD.rfind("\n", 0, at) : at]):
            stack.append(at)
        elif GOOD[at] in "]}" and stack:
            yield at, GOOD.count("\n", 0, stack.pop()) + 1
        at += 1


def problems(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("toml") / "r.toml"
    path.write_bytes(text.encode())
    with pytest.raises(MistakeError) as caught:
        Document.read(path)
    return caught.value.problems


def test_the_text_is_good_and_has_brackets_to_lose():
    assert parse_toml(GOOD) and len(list(brackets())) == 10


@pytest.mark.parametrize(("offset", "line"), list(brackets()))
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_lost_bracket_is_reported_where_it_was_opened(offset, line, ending, tmp_path_factory):
    text = GOOD[:offset] + GOOD[offset + 1 :]
    (problem,) = problems(text.replace("\n", ending), tmp_path_factory)
    on_one_line = GOOD.count("\n", 0, offset) + 1 == line
    assert problem.where.line == line or (on_one_line and problem.where.line <= line), str(problem)


@pytest.mark.parametrize(
    ("old", "line"),
    [('"vqvae"', 8), ('name = "a]b}c"', 9), ('"l1"', 17), ("'b'", 20), ("'''\n[not", 2), ('"a"', 20)],
)
def test_a_lost_quote_is_reported_where_the_string_was_opened(old, line, tmp_path_factory):
    lost = old[: -len("\n[not")] + "\n[not" if "\n" in old else old[:-1]
    text = GOOD.replace(old, lost)
    if "\n" in old:
        text = GOOD.replace("x = [1,\n'''\n", "x = [1,\n")
    (problem,) = problems(text, tmp_path_factory)
    assert problem.where.line == line


@given(st.data())
def test_a_key_that_is_written_twice_is_reported_with_both_lines(tmp_path_factory, data):
    lines = GOOD.splitlines()
    simple = [
        index
        for index, line in enumerate(lines)
        if line.startswith(("use", "uldm", "quantizer", "more", "steps"))
    ]
    index = data.draw(st.sampled_from(simple))
    lines.insert(index + 1, lines[index])
    (problem,) = problems("\n".join(lines), tmp_path_factory)
    assert problem.where.line == index + 2 and problem.hint.startswith(f"first on line {index + 1}:")


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("[[a]]\nx = 1\n[a]\ny = 2", "a", (1, 3)),
        ("[a]\nb = { c = 1 }\n[a.b]\nd = 2", "a.b", (2, 3)),
        ("a.b = 1\n\na.b = 2", "a.b", (1, 3)),
    ],
)
def test_a_table_that_is_written_in_two_ways_is_reported_with_both_lines(text, key, lines, tmp_path_factory):
    (problem,) = problems(text, tmp_path_factory)
    assert dotted(problem.where.key) == key
    assert (problem.hint, problem.where.line) == (f"first on line {lines[0]}: keep one of the two", lines[1])


@given(st.integers(0, len(GOOD)), st.integers(1, 8))
def test_whatever_is_cut_out_is_reported_on_a_line_of_the_file(tmp_path_factory, begin, length):
    text = GOOD[:begin] + GOOD[begin + length :]
    try:
        parse_toml(text)
    except MistakeError:
        for problem in problems(text, tmp_path_factory):
            assert 1 <= problem.where.line <= text.count("\n") + 1 and problem.what
    else:
        assume(False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbfx = 1\n", None),
        (b"x = 1\ny = '\xff'\n", "r.toml:2: not UTF-8"),
        (b"x = " + b"[" * 5000, "r.toml:1: not TOML: nested too deeply"),
        (b"x = " + b"9" * 5000, "r.toml:1: not TOML: an integer of too many digits"),
        (b"x = [" + b"[" * 600 + b"]" * 600 + b"]", "nested"),
    ],
)
def test_odd_files_are_read_or_reported_as_odd(content, said, tmp_path):
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    try:
        document = Document.read(path)
    except MistakeError as error:
        assert said is not None and said in str(error)
    else:
        assert not said and "x" in document.data


def test_lines_are_those_of_the_file_whatever_ends_them():
    expected = locate(GOOD)
    assert locate(GOOD.replace("\n", "\r\n")) == expected
    assert (
        expected[("stages", "first", "losses", 1, "list", 1)] == 18 and expected[("stages", "list", 0)] == 22
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MistakeError, match=r"none\.toml: No such file"):
        Document.read(Path(tmp_path / "none.toml"))
