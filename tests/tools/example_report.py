"""The example report that the README shows, made anew in one go: ``python tests/tools/example_report.py``.

Runs the README's first example, writes reports/example (page, tables, picture, kit) and the example's output into the
README. Nothing of this machine may stand in what is committed: a path in any file stops it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from readme_tables import README, fill_example

EXAMPLE = README.parent / "reports" / "example"
FILES = ("index.html", "drifts.csv", "findings.csv", "run.json", "junit.xml", "summary.md",
         "plots/all-ones--forward.png")  # fmt: skip
COMMAND = ("run", "all-ones")
# Of every framework, so nothing that is made in a minute: `bncheck conventions -t torch -t mxnet … --html FILE`.
KEPT = ("conventions.html",)


def bncheck(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "BNCHECK_CONVENTIONS": ""}  # as on a new machine: none is kept
    command = [sys.executable, "-m", "bncheck", *arguments]
    return subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True).stdout


def publish(folder: Path, example: Path) -> None:
    """Write ``example`` anew from the latest run in ``folder``."""
    run = (folder / "reports" / "latest").resolve()
    bncheck(folder, "report", "latest", "--format", "png", "-q")
    bncheck(folder, "repro", "latest", "BN103", "--out", str(folder / "kit"))
    example.mkdir(exist_ok=True)
    for old in example.iterdir():
        if old.name not in KEPT:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(folder / "kit", example / "kit")
    for name in FILES:
        (example / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(run / name, example / name)
    for path in sorted(example.rglob("*")):
        if path.is_file():
            refuse_paths(path, (str(folder), str(Path.home()), str(README.parent)))


def refuse_paths(path: Path, private: tuple[str, ...]) -> None:
    content = path.read_bytes()
    for text in private:
        if text != "/" and text.encode() in content:
            raise SystemExit(f"{path} names {shlex.quote(text)}, a path of this machine")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        said = bncheck(folder, *COMMAND)
        publish(folder, EXAMPLE)
    README.write_text(fill_example(README.read_text(encoding="utf-8"), said), encoding="utf-8")
