"""Where each key of a TOML text stands: ``("network", "layers", 0, "eps")`` → line 7.

``tomllib`` tells what a file says but not where, and an error without a line is of little use. This scanner
reads a text that ``tomllib`` has already accepted, so it needs no error handling of its own: it only has to
find where keys, array elements and tables begin. The keys are those of ``tomllib``'s result, list positions
are ints. The first mention of a key wins, except that a table's header beats the dotted keys inside it.
"""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]
LONGEST_KEY = 500  # letters

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line (from 1) of every key, table and array element of a valid TOML ``text``."""
    return _Scan(text).document()


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """Line of ``path`` or of the nearest table around it that the text mentions."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def written(path: KeyPath) -> str:
    """A path as one would write it: ``network.layers[0].eps``, ``matrix."program.events"[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"')
    return text


def split_key(text: str) -> tuple[str, ...]:
    """Parts of a dotted key, quoted parts included; raises ValueError when it is not one.

    >>> split_key('matrix."program.events"')
    ('matrix', 'program.events')
    """
    try:
        if len(text) > LONGEST_KEY:
            raise ValueError(f"a key of {len(text):,} letters is more than bncheck reads")
        found = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{text!r} is not a dotted key") from error
    parts: list[str] = []
    here: object = found
    while isinstance(here, dict):
        if len(here) != 1:
            raise ValueError(f"{text!r} is not one dotted key")
        ((part, here),) = here.items()
        parts.append(part)
    if here != 0 or isinstance(here, bool):
        raise ValueError(f"{text!r} is not a dotted key")
    return tuple(parts)


class _Scan:
    """One pass over the text; ``place`` is the offset, ``line`` its line."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.line = text.replace("\r\n", "\n"), 0, 1
        self.lines: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}  # arrays of tables seen so far → how many

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.place < len(self.text):
            if self.text.startswith("[[", self.place):
                table = self.header(2)
            elif self.text.startswith("[", self.place):
                table = self.header(1)
            else:
                self.pair(table)
            self.skip(_BLANK)
        return self.lines

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.place)
        found = match.group() if match else ""
        self.advance(len(found))
        return found

    def advance(self, count: int) -> None:
        self.line += self.text.count("\n", self.place, self.place + count)
        self.place += count

    def header(self, brackets: int) -> KeyPath:
        line = self.line
        self.advance(brackets)
        parts = self.key()
        self.advance(brackets)
        path: KeyPath = ()
        for part in parts[:-1]:
            path = self.last_of((*path, part))
        path = (*path, parts[-1])
        if brackets == 2:
            self.lines.setdefault(path, line)
            self.lengths[path] = self.lengths.get(path, 0) + 1
            path = self.last_of(path)
        self.mention(path, line)
        self.lines[path] = line
        return path

    def last_of(self, path: KeyPath) -> KeyPath:
        return (*path, self.lengths[path] - 1) if path in self.lengths else path

    def mention(self, path: KeyPath, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def pair(self, table: KeyPath) -> None:
        line = self.line
        path = (*table, *self.key())
        self.mention(path, line)
        self.advance(1)  # the equals sign
        self.skip(_SPACE)
        self.value(path)

    def key(self) -> tuple[str, ...]:
        parts = []
        while True:
            self.skip(_SPACE)
            if self.text[self.place] in "\"'":
                (part,) = tomllib.loads(self.skip(_STRING) + " = 0")
            else:
                part = self.skip(_BARE)
            parts.append(part)
            self.skip(_SPACE)
            if not self.text.startswith(".", self.place):
                return tuple(parts)
            self.advance(1)

    def value(self, path: KeyPath) -> None:
        first = self.text[self.place]
        if first in "\"'":
            self.skip(_STRING)
        elif first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        else:
            self.skip(_SCALAR)

    def array(self, path: KeyPath) -> None:
        index = 0
        self.advance(1)
        self.skip(_BLANK)
        while self.text[self.place] != "]":
            self.lines[(*path, index)] = self.line
            self.value((*path, index))
            index += 1
            self.separator()
        self.advance(1)

    def inline_table(self, path: KeyPath) -> None:
        self.advance(1)
        self.skip(_BLANK)
        while self.text[self.place] != "}":
            self.pair(path)
            self.separator()
        self.advance(1)

    def separator(self) -> None:
        self.skip(_BLANK)
        if self.text[self.place] == ",":
            self.advance(1)
            self.skip(_BLANK)
