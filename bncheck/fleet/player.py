"""What a worker of a fleet does with a part: unpack its plan, play it in a process, pack the run folder.

``play_part`` is all that is sent there, and by its name: the worker imports it from its own bncheck.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bncheck import __version__
from bncheck.errors import BncheckError
from bncheck.fleet.parcel import pack, unpack

SAID = 1000  # characters of what went wrong
# The job's page and annotations are the business of the bncheck at home.
HOME_ONLY = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")


def play_part(parcel: bytes, words: Sequence[str], version: str) -> dict[str, bytes | str]:
    """Play the plan that an archive holds (its ``plan.json`` and scenario files), with more words of the command line.

    Returns ``run``, the run folder as an archive, or ``said``, the sentence why there is none, and ``remedy``."""
    if version != __version__:
        return {
            "said": f"bncheck {__version__} is installed there, and {version} here",
            "remedy": "install the same version on all machines",
        }
    try:
        with tempfile.TemporaryDirectory(prefix="bncheck-part-") as scratch:
            return play_in(Path(scratch), parcel, words)
    except BncheckError as error:
        return {"said": error.message.rstrip("."), "remedy": error.remedy}
    except OSError as error:
        return {"said": f"the system refused there: {error}", "remedy": "look at the space on that machine's disk"}


def play_in(scratch: Path, parcel: bytes, words: Sequence[str]) -> dict[str, bytes | str]:
    run, archive, errors = scratch / "run", scratch / "plan.zip", scratch / "errors.txt"
    archive.write_bytes(parcel)
    unpack(archive, run)
    command = [sys.executable, "-m", "bncheck.fleet.tied", "run", "--resume", str(run), *words]
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: it ends when this process does
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=scratch,
            env=home_left_out(os.environ),
        ) as process,
    ):
        code = process.wait()
    if 0 <= code < 128 and (run / "run.json").is_file():  # not one that was ended on the way
        return {"run": pack(run)}
    return {"said": f"bncheck ended there with exit code {code}: {last_words(errors)}"}


def home_left_out(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in HOME_ONLY}


def last_words(errors: Path) -> str:
    text = errors.read_bytes()[-SAID:].decode(errors="replace")
    return " ".join(text.split()) or "it said nothing"
