"""What a target's process said of itself: ``environment.json``, which everybody may have written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bncheck.errors import RunFolderError
from bncheck.run_folder.folder import read_json

NAME = "environment.json"
MOST = 1024 * 1024  # bytes; the longest that a shipped backend writes is below 4 kB


def read_environment(folder: Path) -> dict[str, Any] | None:
    """What the target said of itself, sorted by name; None where it said nothing yet.

    RunFolderError in a sentence for what is no object, or larger or deeper than anybody reads.
    """
    if not os.path.lexists(folder / NAME):
        return None
    found = read_json(folder / NAME, MOST)
    if not isinstance(found, dict):
        raise RunFolderError(f"{folder / NAME} holds no object.", "The file was edited.")
    return dict(sorted(found.items()))
