"""Signals that end bncheck, from its first line on: Ctrl-C, SIGTERM, and SIGHUP of a terminal that was closed.

Only ``os`` and ``signal`` are imported here, for ``end_at_once`` stands before the imports that take a second.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # as mypy knows it
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# Signal → what a process that nobody has set up does with it. One that is ignored (``nohup``) stays so.
USUAL: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


def end_at_once() -> None:
    """Where nothing is to be kept yet, or any more, such a signal ends the process with a line and the code of the
    signal; Python itself would show where in an import it was."""
    for each, usual in USUAL.items():
        if signal.getsignal(each) is usual:
            signal.signal(each, leave)


def leave(number: int, frame: FrameType | None) -> None:
    for each in USUAL:  # a second one has nothing to add
        signal.signal(each, signal.SIG_IGN)
    try:
        os.write(2, b"bncheck: interrupted\n")
    finally:
        os._exit(128 + number)


def is_untouched(number: signal.Signals) -> bool:
    """Whether nobody but Python and ``end_at_once`` has said what this signal does."""
    return signal.getsignal(number) in (leave, USUAL.get(number, signal.SIG_DFL))
