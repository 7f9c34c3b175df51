"""``python -m bncheck`` and ``bncheck``: the standard library goes first, then everything else is imported.

A folder of the user's that Python searches first (PYTHONPATH, or the working folder of ``python -m``) may hold a
``json.py`` of their own, which is meant for their programs.
"""

import os
import sys


def main() -> None:
    """The command line of :mod:`bncheck.cli`."""
    sys.path.sort(key=lambda entry: not of_the_library(entry))
    from bncheck.cli import main as answer

    answer()


def of_the_library(entry: str) -> bool:
    """Whether an entry of sys.path is the standard library's: its folder, what lies in that, or its archive."""
    folder = os.__file__.rpartition(os.sep)[0]
    inside = entry == folder or entry.startswith(folder + os.sep)
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return (inside and "-packages" not in entry) or entry.rpartition(os.sep)[2] == archive


if __name__ == "__main__":  # a spawned process imports this file again
    main()
