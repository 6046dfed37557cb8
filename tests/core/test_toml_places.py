"""Lines of keys in TOML of every form: a text is written piece by piece, so each key's line is known."""

import string

from hypothesis import assume, example, given
from hypothesis import strategies as st

from uldm_core.errors import MistakeError
from uldm_core.toml_text.locate import locate
from uldm_core.toml_text.parse import parse_toml

SCALARS = (
    "1",
    "-1_000",
    "0xFF",
    "1e-4",
    "inf",
    "true",
    "1979-05-27T07:32:00Z",
    "1979-05-27 07:32:00",
    "07:32:00",
    '"a # no comment"',
    '"\\" [x] = {y}"',
    "'C:\\no\\escape'",
    '""',
    "''",
    '"""one\nk = 2\n[k]"""',
    '"""quote at the end""""',
    '"""\\"""\\\n  joined"""',
    "'''\nk = 1\n'''",
    "''''quoted' '''''",
)
COMMENTS = ("", "  # k = 1 ] } \" '''", "\t#")
PLAIN = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=4)
ODD = st.text("ab .\"'\\#=[]{}\t\x1b", max_size=4)


@st.composite
def names(draw):
    """A key part: its name, and one of the ways of writing it."""
    name = draw(PLAIN | ODD)
    ways = [basic(name)]
    if "'" not in name and "\x1b" not in name:
        ways.append(f"'{name}'")
    if name and all(c in string.ascii_letters + string.digits + "-_" for c in name):
        ways.append(name)
    return name, draw(st.sampled_from(ways))


def basic(name):
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t").replace("\x1b", "\\u001B")
    return f'"{escaped}"'


class Writer:
    """Writes a text, and notes the line of each key as it writes it."""

    def __init__(self, draw):
        self.draw, self.text, self.lines = draw, "", {}

    def write(self, text):
        self.text += text

    def note(self, key):
        self.lines.setdefault(key, self.text.count("\n") + 1)

    def path(self, table):
        """Write a dotted key."""
        key = table
        for index, (name, written) in enumerate(self.draw(st.lists(names(), min_size=1, max_size=3))):
            self.write(self.draw(st.sampled_from([".", " . ", "\t."])) if index else "")
            key = (*key, name)
            self.note(key)
            self.write(written)
        return key

    def pair(self, table, depth):
        key = self.path(table)
        self.write(self.draw(st.sampled_from(["=", " = ", "\t=  "])))
        self.value(key, depth)

    def value(self, key, depth):
        form = self.draw(st.sampled_from(["scalar", "scalar", "array", "table"])) if depth else "scalar"
        if form == "scalar":
            self.write(self.draw(st.sampled_from(SCALARS)))
        elif form == "array":
            self.array(key, depth - 1)
        else:
            self.inline_table(key, depth - 1)

    def array(self, key, depth):
        count = self.draw(st.integers(0, 3))
        self.write("[")
        for index in range(count):
            self.blank()
            self.note((*key, index))
            self.value((*key, index), depth)
            self.blank()
            self.write("," if index < count - 1 or self.draw(st.booleans()) else "")
        self.blank()
        self.write("]")

    def blank(self):
        self.write(self.draw(st.sampled_from(["", " ", "\n", " # ] , }\n\t", "\n\n"])))

    def inline_table(self, key, depth):
        count = self.draw(st.integers(0, 2))
        self.write("{ ")
        for index in range(count):
            self.pair(key, depth)
            self.write(", " if index < count - 1 else " ")
        self.write("}")

    def header(self, counts):
        """Write ``[table]`` or ``[[array]]``; return the key of what follows."""
        array = self.draw(st.booleans())
        self.write("[[ " if array else "[")
        line, written = self.text.count("\n") + 1, self.draw(st.lists(names(), min_size=1, max_size=3))
        self.write(" . ".join(text for _, text in written) + (" ]]" if array else "]"))
        key = ()
        for index, (name, _) in enumerate(written):
            key = (*key, name)
            self.lines.setdefault(key, line)
            if array and index == len(written) - 1:
                counts[key] = counts.get(key, -1) + 1
                key = (*key, counts[key])
                self.lines[key] = line
            elif key in counts and index < len(written) - 1:
                key = (*key, counts[key])
        return key


@st.composite
def documents(draw):
    """A text that is TOML, and the line of each of its keys."""
    writer, table, counts = Writer(draw), (), {}
    for _ in range(draw(st.integers(0, 8))):
        writer.write(draw(st.sampled_from(["", "", "\n", "  ", "# [comment]\n"])))
        if draw(st.integers(0, 2)) == 0:
            table = writer.header(counts)
        else:
            writer.pair(table, 2)
        writer.write(draw(st.sampled_from(COMMENTS)) + "\n")
    try:
        parse_toml(writer.text)
    except MistakeError:
        assume(False)
    return writer.text, writer.lines


def paths(value, key=()):
    if key:
        yield key
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, item in inner:
        yield from paths(item, (*key, part))


@given(documents())
def test_every_key_is_on_the_line_where_it_was_written(document):
    text, lines = document
    assert locate(text) == lines
    assert set(paths(parse_toml(text))) == set(lines)


@given(documents())
def test_windows_line_ends_count_like_others(document):
    text, lines = document
    assert locate(text.replace("\n", "\r\n")) == lines


MARKS = ["a", "b", ".", "=", " ", "\n", "\r\n", "[", "]", "[[", "]]", "{", "}", ",", "#", "1", "true", "\\"]
TEXTS = ["''", '""', '"""', "'''", '"x"', "'y'", '\\"', "\\u0041", "a = 1\n", "[a]\n", "[[a]]\n"]
FRAGMENTS = st.sampled_from([*MARKS, *TEXTS, "1979-05-27"])


@given(st.lists(FRAGMENTS, max_size=14).map("".join))
@example('"" = 1\n[""]\n"" = 2')
@example("a=[[],[[]],{}]")
@example('a."b.c"."\\u0041"={d.e=[1,\n2]}')
def test_no_text_that_the_parser_takes_stops_the_walk(text):
    try:
        data = parse_toml(text)
    except MistakeError:
        return
    assert set(paths(data)) == set(locate(text))


def test_a_long_string_is_passed():
    text = 'a = """' + "x\\\\\n" * 20_000 + '"""\nb = 1'
    assert locate(text) == {("a",): 1, ("b",): 20_002}
