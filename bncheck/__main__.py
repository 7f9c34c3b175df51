"""``bncheck`` and ``python -m bncheck``: the standard library and signals come first, then everything else is imported.

A folder of the user's that Python searches first (PYTHONPATH, or the working folder of ``python -m``) may hold a
``json.py`` of their own, which is meant for their programs. What is imported after the signals takes a second.
"""

import os
import sys


def of_the_library(entry: str) -> bool:
    """Whether an entry of sys.path is the standard library's: its folder, what lies in that, or its archive."""
    folder = os.__file__.rpartition(os.sep)[0]
    inside = entry == folder or entry.startswith(folder + os.sep)
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return (inside and "-packages" not in entry) or entry.rpartition(os.sep)[2] == archive


try:
    sys.path.sort(key=lambda entry: not of_the_library(entry))
    from bncheck.commands.signals import end_at_once
except KeyboardInterrupt:  # until then Ctrl-C is Python's
    os.write(2, b"bncheck: interrupted\n")
    os._exit(130)


def main() -> None:
    """The command line of :mod:`bncheck.cli`, the console's entry point."""
    end_at_once()
    from bncheck.cli import main as answer

    try:
        answer()
    except SystemExit as ending:
        leave(ending.code)
        raise


def leave(code: object) -> None:
    """End here, as soon as all is said: taking every module apart takes longer than most answers. Not where a thread
    still works, or where there is more to say than a number."""
    import atexit
    import threading

    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if not isinstance(code, int) or not all(thread.daemon for thread in others):
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # Python says it
    os._exit(code)


if __name__ == "__main__":  # a spawned process imports this file again
    main()
