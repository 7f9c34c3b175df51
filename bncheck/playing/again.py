"""Play a run's cells a second time, in reversed order and in processes of their own.

What a case gives must not depend on what ran before it. The second playing lies in ``<run>/again/``, laid out like the
run itself, and reads the run's cases and inputs. ``diagnosis/repeats.py`` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bncheck.playing.jobs import Options, job_of
from bncheck.playing.progress import Progress
from bncheck.playing.seats import Seat
from bncheck.playing.workers import play
from bncheck.run_folder.folder import again_folder
from bncheck.scenario import Case

INPUTS, CASES = "../../../inputs", "../../../cases.jsonl"  # of the run, seen from <run>/again/cells/<target>


def play_again(
    run: Path, cases: Sequence[Case], seats: Sequence[Seat], options: Options, tell: Callable[[Progress], None]
) -> None:
    """Every cell once more, last case first, in new processes; cells that already have a second result are kept."""
    ready = [seat for seat in seats if seat.python is not None and seat.result.status == "ok"]
    folder = again_folder(run)
    cells = tuple(case.id for case in reversed(cases))
    jobs = [replace(job_of(folder, seat, cells, options), inputs=INPUTS, cases=CASES) for seat in ready]
    play(jobs, options.at_once, tell)
