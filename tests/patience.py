"""How long tests wait: limits are there for what hangs, and grow with the slowness of this machine, measured once.

The limit of a test (pytest-timeout) also ends what the test waits for, so nothing that a test starts needs another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

QUICK_SECONDS = 0.03  # what the work below takes on the machine that the limits were set on, otherwise idle
MOST = 12.0  # a machine that is slower still would make of a test that hangs a day
MEASURED = "BNCHECK_TEST_SLOWNESS"  # the processes of one session share one measurement


def work() -> int:
    """A fixed bit of what tests spend their time with: Python's own loop."""
    total = 0
    for number in range(1_000_000):
        total += number % 7
    return total


def slowness(
    clock: Callable[[], float] = time.perf_counter, work: Callable[[], object] = work, times: int = 10
) -> float:
    """How many times longer than on a quick machine the work takes by the wall clock, other programs included."""
    began = clock()
    for _ in range(times):
        work()
    return min(max((clock() - began) / times / QUICK_SECONDS, 1.0), MOST)


def measured() -> float:
    if MEASURED not in os.environ:
        os.environ[MEASURED] = f"{slowness():.3g}"
    return float(os.environ[MEASURED])


def patience(seconds: float) -> float:
    """A limit that is generous on a quick machine, for this one."""
    return seconds * measured()
