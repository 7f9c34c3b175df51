"""Where keys stand in a TOML text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.scenario_files.toml_lines import KeyPath, key_lines, line_of, split_key

TEXT = '''\
# a comment = 1
title = "x" # line 2
why = """
three = [
"""
[network] # line 6
layers = [ # line 7
  { name = "bn", eps = 1e-5 }, # line 8
  # a comment ] between
  { name = "two", native = { torch = { momentum = 0.9 } } }, # line 10
]
a.b."c.d" = [[1, 2], [ # line 12
  3]]
[[expect]] # line 14
between = ["a]", 'b}', "\\"c"] # line 15
when = { "program.events" = ["x"] }
[[expect]]
cause = \'\'\'
]
\'\'\' # line 18
[expect.more]
deep = 2020-01-01 10:00:00 # line 22
[matrix]
"program.events" = [
  ["a"],
  ["b",
   "c"],
]
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("why",), 3),
        (("network",), 6),
        (("network", "layers"), 7),
        (("network", "layers", 0, "eps"), 8),
        (("network", "layers", 1), 10),
        (("network", "layers", 1, "native", "torch", "momentum"), 10),
        (("network", "a", "b", "c.d"), 12),
        (("network", "a", "b", "c.d", 1), 12),
        (("network", "a", "b", "c.d", 1, 0), 13),
        (("expect",), 14),
        (("expect", 0, "between", 2), 15),
        (("expect", 0, "when", "program.events", 0), 16),
        (("expect", 1), 17),
        (("expect", 1, "cause"), 18),
        (("expect", 1, "more", "deep"), 22),
        (("matrix", "program.events", 1), 26),
        (("matrix", "program.events", 1, 1), 27),
    ],
)
def test_line_of_each_key(path: KeyPath, line: int) -> None:
    tomllib.loads(TEXT)
    assert key_lines(TEXT)[path] == line


def test_windows_line_ends_count_once() -> None:
    assert key_lines("a = 1\r\nb = [\r\n 2,\r\n]\r\nc = 3\r\n")[("c",)] == 5


def test_nearest_table_stands_in_for_a_missing_key() -> None:
    lines = key_lines(TEXT)
    assert line_of(lines, ("network", "layers", 1, "epss")) == 10
    assert line_of(lines, ("nowhere",)) is None


def test_quoted_part_with_a_dot_stays_whole() -> None:
    assert split_key('matrix."program.events"') == ("matrix", "program.events")
    assert split_key("input.shape.0") == ("input", "shape", "0")


@pytest.mark.parametrize("text", ["", "a..b", "a = 1\nb", "a = {x", "a b"])
def test_what_is_not_a_dotted_key(text: str) -> None:
    with pytest.raises(ValueError, match="dotted key"):
        split_key(text)


def paths(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key and array element of a parsed document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*path, index))


def written(value: object) -> str:
    """A value as TOML, arrays spread over lines, with comments that look like syntax."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[ # [{\n" + "".join(f"  {written(inner)}, # ]}}\n" for inner in value) + "]"
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    escaped = "".join(char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in text)
    return f'"{escaped}"'


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=4)
VALUES = st.recursive(
    st.integers(0, 99) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_key_of_any_document_has_a_line(document: dict[str, object]) -> None:
    text = "".join(f"{quoted(key)} = {written(value)}\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    lines = key_lines(text)
    assert set(lines) == set(paths(document))
    tops = [lines[(key,)] for key in document]
    assert tops == sorted(tops)
