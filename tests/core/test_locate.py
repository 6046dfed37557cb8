"""Every key's line, against texts whose lines are known and against whatever tomllib accepts."""

import string

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from uldm_core.errors import MistakeError
from uldm_core.toml_text.locate import locate
from uldm_core.toml_text.parse import parse_toml

WRITTEN = '''\
title = "a # no comment"   # a comment

[owner]
name.first = "Ada"
'name'."last.one" = 'Lovelace'
inline = { x = 1, "y z" = [1, { deep = true }] }

[[fruit]]
name = """
many [lines] = not keys
"""
colours = [
  "red",  # one
  [ "green",
    "blue" ],
]
[fruit.taste]
sweet = true
[[fruit.variety]]
name = "x"

[[fruit]]
name = \'\'\'
''ends in quotes\'\'\'\'\'
when = 1979-05-27T07:32:00Z
'''

LINES = {
    ("title",): 1,
    ("owner",): 3,
    ("owner", "name"): 4,
    ("owner", "name", "first"): 4,
    ("owner", "name", "last.one"): 5,
    ("owner", "inline"): 6,
    ("owner", "inline", "y z"): 6,
    ("owner", "inline", "y z", 1, "deep"): 6,
    ("fruit",): 8,
    ("fruit", 0): 8,
    ("fruit", 0, "name"): 9,
    ("fruit", 0, "colours"): 12,
    ("fruit", 0, "colours", 0): 13,
    ("fruit", 0, "colours", 1, 1): 15,
    ("fruit", 0, "taste"): 17,
    ("fruit", 0, "taste", "sweet"): 18,
    ("fruit", 0, "variety", 0): 19,
    ("fruit", 0, "variety", 0, "name"): 20,
    ("fruit", 1): 22,
    ("fruit", 1, "name"): 23,
    ("fruit", 1, "when"): 25,
}


def test_a_text_with_everything_in_it():
    parse_toml(WRITTEN)
    found = locate(WRITTEN)
    assert {key: found.get(key) for key in LINES} == LINES


def test_windows_line_endings_change_nothing():
    assert locate(WRITTEN.replace("\n", "\r\n")) == locate(WRITTEN)


def keys_of(value, key=()):
    if key:
        yield key
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in items:
        yield from keys_of(inner, (*key, part))


NAMES = st.text(string.ascii_letters + string.digits + "-_ .\"'\\é#[]=", min_size=1, max_size=6)
SCALARS = st.one_of(st.booleans(), st.integers(-99, 99), st.text(max_size=12), st.floats(allow_nan=False))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.booleans())
def test_every_key_is_found_and_its_line_names_it(data, multiline):
    text = tomli_w.dumps(data, multiline_strings=multiline)
    found, lines = locate(text), text.splitlines() if "\r" not in text else None
    assert set(keys_of(parse_toml(text))) <= set(found)
    if lines is None or any(c in text for c in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        return  # splitlines() sees line ends that TOML does not
    for key, line in found.items():
        if isinstance(key[-1], str) and key[-1].isalnum():
            assert key[-1] in lines[line - 1]


@given(st.text("ab.=[]{}\"'\\#,\n\r 1t", max_size=40))
def test_whatever_is_toml_can_be_walked(text):
    try:
        data = parse_toml(text)
    except MistakeError:
        return
    assert set(keys_of(data)) <= set(locate(text))
