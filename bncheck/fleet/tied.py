"""``python -m bncheck.fleet.tied WORDS``: bncheck that ends with whoever holds the other end of its standard input.

A worker of a fleet may be killed at any moment; what plays its part, and the frameworks below that, must not go on.
"""

from __future__ import annotations

import os
import signal
from runpy import run_module
from threading import Thread


def end_with_input() -> None:
    while os.read(0, 1):  # not sys.stdin: Python ends with an error while another thread holds that one's lock
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    Thread(target=end_with_input, daemon=True).start()
    run_module("bncheck", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
