"""``--set KEY=VALUE``: what the command line changes of a scenario file."""

from __future__ import annotations

import tomllib
from typing import Any

from bncheck.errors import UsageError
from bncheck.scenario_files.shipped import MOST_LETTERS
from bncheck.scenario_files.toml_lines import split_key, written
from bncheck.scenario_files.toml_text import TomlFault, look_over, unreadable

SHOWN_BY = "a shipped scenario (bncheck list) shows every key in use"
SET_REMEDY = f"correct that --set; {SHOWN_BY}"


def parse_override(text: str) -> tuple[str, Any]:
    """``key=value`` of ``--set``: a dotted key and a TOML value; what is not TOML is a string.

    >>> parse_override("input.shape=[2, 3]")
    ('input.shape', [2, 3])
    >>> parse_override("input.fill=ones")
    ('input.fill', 'ones')
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    try:
        split_key(key)
    except ValueError:
        equals = ""
    if not equals:
        raise UsageError(
            f'"{text[:MOST_LETTERS]}" is not key=value',
            'for example --set program.repeat=10 or --set input.fill="ones"',
        )
    try:
        parsed = tomllib.loads(f"value = {value}") if is_shallow(value) else {}
    except tomllib.TOMLDecodeError:
        parsed = {}
    except (ValueError, RecursionError):
        raise UsageError(f"--set {key}: its value has more digits or brackets than bncheck reads", SET_REMEDY) from None
    found = parsed["value"] if len(parsed) == 1 else value.strip()
    check_override(key, found)
    return key, found


def is_shallow(value: str) -> bool:
    try:
        look_over(value)
    except TomlFault as fault:
        raise UsageError(f"--set: {fault.sentence}", SET_REMEDY) from None
    return True


def check_override(key: str, value: Any) -> None:
    """An override comes from the command line, or from the plan of a run folder."""
    for place, sentence in unreadable({key: value}):
        raise UsageError(f"--set {written(place)}: its value {sentence}", SET_REMEDY)
