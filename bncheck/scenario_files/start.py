"""A new scenario, begun from a shipped one: its text, and the files that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bncheck.bounded import read_bounded
from bncheck.errors import UsageError
from bncheck.scenario_files.files import MOST_BYTES, load_scenario, read_text
from bncheck.scenario_files.toml_text import read_toml

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
SCHEMA_LINE = "#:schema ./bncheck.schema.json"
# What makes the package play or list it by itself, and is no part of what it tries.
OURS = re.compile(r"^(default|probe|tags)\s*=.*\n", re.MULTILINE)


def begun_from(source: Path, name: str, folder: Path) -> dict[Path, bytes]:
    """Path → content of the new scenario and of the files beside it that it names. Raises UsageError where one exists:
    nothing is overwritten."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name[:60]!r} is no name for a scenario", "use letters, digits, _ and -, without .toml")
    text = read_text(source)
    kept = OURS.sub("", "\n".join(line for line in text.splitlines() if not line.startswith("#:schema")) + "\n")
    files = {folder / f"{name}.toml": f"{SCHEMA_LINE}\n{kept}".encode()}
    for one in named_files(text, source):
        files[folder / one.relative_to(source.parent)] = read_bounded(one, MOST_BYTES)
    for path in files:
        if path.exists():
            raise UsageError(
                f"{path} is there already, and is not overwritten", "choose another name, or another folder"
            )
    return files


def named_files(text: str, source: Path) -> Iterator[Path]:
    """Files that the network names; they lie beside the scenario, or the scenario would not load."""
    load_scenario(source)
    network = read_toml(text).get("network", {})
    for key in ("custom", "model", "file"):
        given = str(network.get(key, ""))
        found = source.parent / (given if key == "file" else given.rpartition(":")[0])
        if given and found.is_file():
            yield found
