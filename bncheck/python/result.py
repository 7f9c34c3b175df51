"""What was found, as a notebook shows it, a test asserts it and a report is made of it."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bncheck.finding import Finding
from bncheck.life import Life
from bncheck.run_folder.answer import Answer
from bncheck.run_folder.results import Results
from bncheck.subjects.conclusion import conclude
from bncheck.subjects.watched import judged

# What a layer's owner has to know; conventions and rounding are nobody's fault.
FAULTS = ("defect", "hazard", "unexplained")
FORMATS = ("csv", "html")


@dataclass(frozen=True)
class Result:
    """``findings`` gravest first; ``lives`` what was recorded, one per process (of ``check`` and ``diff``: none).

    In a notebook it shows itself; ``print(result)`` is what the terminal shows."""

    answer: Answer
    results: Results
    lives: tuple[Life, ...] = ()
    folder: Path | None = None  # where cells were played, if any were
    keeper: object = field(default=None, repr=False, compare=False)  # holds that folder as long as the result

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.results.findings

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that somebody has to act on: defects, hazards and what is unexplained."""
        return tuple(found for found in self.findings if found.kind in FAULTS)

    @property
    def headline(self) -> str:
        return self.answer.headline

    def __str__(self) -> str:
        from rich.console import Console, Group

        from bncheck.report.answer_screen import parts
        from bncheck.report.layers import arrange

        console = Console(file=io.StringIO(), width=100, no_color=True, force_terminal=False, highlight=False)
        with console.capture() as capture:
            console.print(Group(*parts(arrange(self.results, self.answer), self.results, Path(), 100, False, None)))
        return "\n".join(line.rstrip() for line in capture.get().split("\n")).strip("\n")

    def __repr__(self) -> str:
        return f"<bncheck: {self.headline}>"

    def _repr_html_(self) -> str:
        from bncheck.report.cell_of_notebook import fragment

        return fragment(self.results, self.answer, self.lives)

    def report(self, folder: str | Path | None = None, formats: Sequence[str] = FORMATS) -> Path:
        """Write a run folder (default: a new one below reports/) that ``bncheck report`` renders again; returns its
        index.html. UsageError where the folder holds something already."""
        from bncheck.report import render
        from bncheck.run_folder.folder import create_run_folder
        from bncheck.run_folder.source_lines import write_lines
        from bncheck.run_folder.write_life import write_life

        run = create_run_folder(None if folder is None else Path(folder))
        if self.folder is not None:
            shutil.copytree(self.folder, run, dirs_exist_ok=True)
            render(run, tuple(formats), results=self.results)
            return run / "index.html"
        for life in self.lives:
            write_life(life, run)
        write_lines(run, self.lives)
        conclude(run, self.answer, self.results, tuple(formats), lambda text: None)
        return run / "index.html"


def result_of(lives: Sequence[Life], subject: str, command: str) -> Result:
    """Judge lives, all rules over each."""
    answer, results = judged(lives, subject, command, now())
    return Result(answer, results, tuple(lives))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
