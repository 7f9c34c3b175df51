"""bncheck: why BatchNorm behaves differently, from one framework, version, device or export to another.

What stays on top are the words, as frozen data that import nothing but each other (``scenario``, ``trace``, ``life``,
``convention``, ``evidence``, ``finding``), the face (``cli``, ``errors``, ``bounded``) and the conductor (``session``).
Every folder is a stage; this is the walk of ``bncheck run all-ones``:

======================  ==========================================================  ===============================
stage                   where                                                       what it hands on
======================  ==========================================================  ===============================
what was asked          cli, commands/, gate/config                                 Request
who plays               environments/: lineup, targets, backend_file                targets, and which must run
scenario → cases        scenario_files/                                             Case, in a Plan
interpreters            environments/: pythons, folder, installer, devices          a Python per target
playing                 playing/: begun, kept, jobs, workers; worker/ (Python 3.7)  cells in the run folder
reading                 run_folder/: folder, cell, cell_files, arrays               CellView: a case on a target
measuring               diagnosis/fit/                                              Convention: facet by facet
an own layer            diagnosis/anatomy/                                          Anatomy: value by value
comparing               diagnosis/drifts                                            Drift: a quantity of a layer
explaining              diagnosis/replay/                                           Attribution: shares of a drift
naming                  diagnosis/rules/ (a file per cause), diagnosis/diagnose     Finding
accounting              diagnosis/: accounting, equivalence, audit                  nothing differs silently
results                 diagnosis/: judge (a case), analyse; run_folder/results     run.json
holding it against      gate/: charge, bar, baseline, waiver, shortfall             Verdict and exit code
telling                 report/ (a file per format), repro/ (scripts, kits)         terminal, HTML, …
======================  ==========================================================  ===============================

What starts from something of the user's (``check``, ``diff``, ``watch``: subjects/) comes back as lives and holdings
(``life``), is judged by the same rules (diagnosis/alone), told by the same reports; python/ is all of it from Python.
``bncheck compare`` enters at *results* with other people's run folders (joining/); ``run --executor`` sends the plan in
parts to other machines and enters there with what they send back (fleet/).

Lines that hold it together (``tests/test_firm_lines.py``): the host knows no framework; nothing between a trace and a
finding does I/O; reports compute nothing; no stage imports one that imports it. Where something new goes:

- a cause: a file in its family's folder of ``diagnosis/rules`` that says what it explains, and its literal test;
- a framework: a file in ``worker/backends`` (ADDING.md there; its parts in a folder beside them);
- a checkpoint's format: a file in ``checkpoints``, and a row in its ``recognise``;
- a format: a file in ``report``; one that is a page: its template in ``report/templates`` too;
- a page of docs/: a file there, and a link in README;
- a kind of script: a file in ``repro/scripts``;
- an event: a row of ``scenario.OPS``, and a method of its name in each backend that has it;
- a type of layer: a row of ``scenario.LAYERS``, and each backend that builds it;
- a scenario: a TOML file in ``scenarios``; a command: a file in ``commands``.

A test demands the row in the docs of each.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as mypy knows it: importing typing takes longer than all else before signals are heard
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

# Name → its module of bncheck/python; ``import bncheck`` alone imports neither NumPy nor pandas.
_PYTHON = {
    "judge": "recording",
    "watch": "watching",
    "check": "checking",
    "diff": "checking",
    "assert_clean": "asserting",
    "assert_equivalent": "asserting",
    "assert_frozen": "asserting",
    "assert_statistics_move": "asserting",
    "assert_same_in_any_batch": "asserting",
    "Result": "result",
}


def __getattr__(name: str) -> Any:
    if name not in _PYTHON:
        raise AttributeError(f"module 'bncheck' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"bncheck.python.{_PYTHON[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PYTHON])
