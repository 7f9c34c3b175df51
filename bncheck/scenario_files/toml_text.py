"""TOML from anywhere, as data of bounded depth, numbers of 64 bits and texts without a NUL; or where it is wrong.

``tomllib`` recurses once per bracket, takes quadratic time for a key of many dots, refuses a number of 4,301 digits
with an error of its own and reads one of 5,000 hexadecimal ones, which then cannot be printed. So a text is looked over
before it is parsed, and its values after that.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from bncheck.scenario_files.toml_lines import KeyPath, key_lines, line_of, written

DEEPEST = 50  # brackets in one another, and parts of a dotted key; a scenario takes eight
LONGEST_NUMBER = 1000  # letters
BITS = 64
SURROGATE = re.compile("[\ud800-\udfff]")
TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*|[\[\](){}=,.\n]|[^\[\](){}=,.\n\"'#]+|.",
    re.DOTALL,
)


class TomlFault(ValueError):
    """What is wrong with a text, and in which of its lines (from 1)."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line, self.sentence = line, sentence


def read_toml(text: str, of: KeyPath = ()) -> dict[str, Any]:
    """What the text says. Raises TomlFault; values outside of the table ``of`` are somebody else's."""
    look_over(text)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise fault_of(str(error), text) from None
    except (ValueError, RecursionError) as error:
        raise TomlFault(1, f"this is not valid TOML: {error}") from None
    table: Any = found
    for key in of:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    for inner, sentence in unreadable(table):
        path = (*of, *inner)
        where = written(path)
        where = where if len(where) <= 60 else where[:57] + "..."
        raise TomlFault(line_of(key_lines(text), path) or 1, f"{where} {sentence}")
    return found


def fault_of(message: str, text: str) -> TomlFault:
    at = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", message)
    line = int((at and at.group(1)) or text.count("\n") + 1)
    return TomlFault(line, f"this is not valid TOML: {message[: at.start()] if at else message}")


def look_over(text: str) -> None:
    """Raises TomlFault for brackets that lie too deep, keys of too many parts and numbers of too many digits."""
    line, depth, dots = 1, 0, 0
    for found in TOKEN.finditer(text):
        token = found.group()
        if token in "[{":
            depth, dots = depth + 1, 0
        elif token in "]}":
            depth, dots = max(0, depth - 1), 0
        elif token == ".":
            dots += 1
        elif token in "=,\n":
            dots = 0
        elif len(token) > LONGEST_NUMBER and token[0] not in "\"'#" and token.strip():
            raise TomlFault(line, f"a number or key of {len(token):,} letters is more than bncheck reads")
        if depth > DEEPEST or dots > DEEPEST:
            what = "brackets lie in one another" if depth > DEEPEST else "parts of one key follow each other"
            raise TomlFault(line, f"more than {DEEPEST} {what}")
        line += token.count("\n")


def unreadable(value: Any) -> Iterator[tuple[KeyPath, str]]:
    """Places of values that nobody can use, each with a sentence. Level by level: it may come from JSON as well."""
    level: list[tuple[KeyPath, Any]] = [((), value)]
    while level:
        deeper: list[tuple[KeyPath, Any]] = []
        for path, item in level:
            if isinstance(item, Mapping):
                for key, inner in item.items():
                    deeper.append(((*path, str(key)), inner))
                    if sentence := unusable(str(key)):
                        yield path or ("",), f"a key {sentence}"
            elif isinstance(item, list | tuple):
                deeper += [((*path, index), inner) for index, inner in enumerate(item)]
            elif sentence := unusable(item):
                yield path, sentence
            if len(path) > DEEPEST:
                yield path, f"lies more than {DEEPEST} levels deep"
                return
        level = deeper


def unusable(value: Any) -> str:
    """Why a value can be used nowhere, or nothing."""
    if isinstance(value, int) and value.bit_length() > BITS:
        return f"is a whole number of {value.bit_length():,} bits; at most {BITS} are read"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character"
    if isinstance(value, str) and SURROGATE.search(value):
        return "holds bytes that are not UTF-8"
    return ""
