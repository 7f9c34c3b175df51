"""Play a run's cells a second time, in reversed order and in processes of their own, and compare.

What a case gives must not depend on what ran before it. The second playing lies in ``<run>/again/``, laid out like the
run itself, and reads the run's cases and inputs. Comparing streams case by case and keeps small records only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bncheck.evidence import CellView, Repeat
from bncheck.rules.bn403_order_dependence import difference
from bncheck.run import Options, Seat, job_of
from bncheck.scenario import Case
from bncheck.trace import Trace
from bncheck.workers import Progress, play

INPUTS, CASES = "../../../inputs", "../../../cases.jsonl"  # of the run, seen from <run>/again/cells/<target>


def again_folder(run: Path) -> Path:
    return run / "again"


def play_again(
    run: Path, cases: Sequence[Case], seats: Sequence[Seat], options: Options, tell: Callable[[Progress], None]
) -> None:
    """Every cell once more, last case first, in new processes; cells that already have a second result are kept."""
    ready = [seat for seat in seats if seat.python is not None and seat.result.status == "ok"]
    folder = again_folder(run)
    cells = tuple(case.id for case in reversed(cases))
    jobs = [replace(job_of(folder, seat, cells, options), inputs=INPUTS, cases=CASES) for seat in ready]
    play(jobs, options.at_once, tell)


def compare_again(first: CellView, second: CellView) -> Repeat:
    """What became of a case when it was played a second time; holds no trace."""
    bare = replace(first, trace=None, replay={})
    found = difference(first, second)
    if found is not None:
        return Repeat(bare, *found)
    return Repeat(bare, identical=same_bits(first.trace, second.trace))


def same_bits(one: Trace | None, two: Trace | None) -> bool:
    """True if all recorded arrays are equal to the bit; how long events took does not count."""
    if one is None or two is None:
        return one is two
    names = set(one.arrays) | set(two.arrays)
    return all(
        name in one.arrays and name in two.arrays and one.arrays[name].tobytes() == two.arrays[name].tobytes()
        for name in names
        if name != "event_seconds"
    )
