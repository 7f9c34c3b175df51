"""Where scenario files lie: the shipped ones by name, others by path. Nothing of them is read here."""

from __future__ import annotations

import re
from pathlib import Path

from bncheck.bounded import is_folder, is_regular
from bncheck.errors import UsageError, nearest

MOST_LETTERS = 200  # of somebody's word in an error
# Both places: inside the installed package, and next to it in a checkout.
PACKAGE = Path(__file__).parent.parent
SHIPPED = (PACKAGE / "scenarios", PACKAGE.parent / "scenarios")


def find_scenarios() -> list[Path]:
    """The shipped scenario files, by name; a checkout's file wins over the installed one of the same name."""
    found = {path.stem: path for folder in SHIPPED for path in sorted(folder.glob("*.toml"))}
    return [found[name] for name in sorted(found)]


def find_with(*keys: str) -> list[Path]:
    """Those of them that have one of these keys, so that only they are read: what is no probe and not of the default
    run says nothing of it."""
    line = re.compile(rf"""^\s*["']?({"|".join(keys)})["']?\s*=""", re.MULTILINE)
    return [path for path in find_scenarios() if line.search(path.read_text(encoding="utf-8"))]


def resolve_scenario(name_or_path: str | Path) -> Path:
    """The file of a shipped scenario's name, or of a path. Raises UsageError with the nearest spelling."""
    text = str(name_or_path)
    shipped = {path.stem: path for path in find_scenarios()}
    if text in shipped:
        return shipped[text]
    path = Path(text)
    if is_regular(path):
        return path
    if is_folder(path):
        raise UsageError(f"{text[:MOST_LETTERS]} is a folder, and a scenario is a file", "name a .toml file in it")
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise UsageError(
            f"there is no scenario file {text[:MOST_LETTERS]}", "check the path; bncheck list names the shipped ones"
        )
    near = nearest(text, shipped)
    hint = f"did you mean {near}? " if near else ""
    raise UsageError(
        f'there is no scenario "{text[:MOST_LETTERS]}"',
        f"{hint}bncheck list names them; a path to a .toml file works too",
    )
