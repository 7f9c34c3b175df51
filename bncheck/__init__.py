"""bncheck: why BatchNorm behaves differently, from one framework, version, device or export to another.

What stays on top are the words, as frozen data that import nothing but each other (``scenario``, ``trace``, ``life``,
``convention``, ``evidence``, ``finding``), the face (``cli``), errors and how much is read of anything (``errors``,
``bounded``), and the conductor (``session``). This is the walk of ``bncheck run all-ones``:

======================  ==========================================================  ===============================
stage                   where                                                       what it hands on
======================  ==========================================================  ===============================
what was asked          cli, commands/, gate/config                                 Request
scenario → cases        scenario_files/ (remembered: as an earlier run read them)  Case, in a Plan
who plays               environments/: lineup, targets, backend_file                targets, and which must run
interpreters            environments/: pythons, folder, installer, devices          a Python per target
playing                 playing/: begun, kept, jobs, workers; worker/ (Python 3.7)  cells in the run folder
reading                 run_folder/cell (record, trace); diagnosis/views            CellView: a case on a target
measuring               diagnosis/fit/, as soon as a target has ended               Convention: facet by facet
an own layer            diagnosis/anatomy/, in place of measuring                   Anatomy: value by value
comparing               diagnosis/drifts                                            Drift: a quantity of a layer
explaining              diagnosis/replay/                                           Attribution: shares of a drift
naming                  diagnosis/rules/ (a file per cause), diagnosis/diagnose     Finding
accounting              diagnosis/: accounting, equivalence, audit                  nothing differs silently
results                 run_folder/results                                          run.json
holding it against      gate/: charge, bar, baseline, waiver, shortfall             Verdict and exit code
telling                 report/ (a file per format)                                 terminal, HTML, …
======================  ==========================================================  ===============================

``session`` leads from one to the next; ``diagnosis/judge`` from reading to accounting for one case, and
``diagnosis/analyse`` for all of them. What begins early: imports of frameworks before there is a plan
(``playing/begun``), and measuring while others still play (``session.Meanwhile``).

What starts from something of the user's (``check``, ``diff``, ``watch``) is in subjects/. A layer or an ONNX file takes
this same walk with scenarios that are made for it; models, checkpoints and programs come back as lives and holdings
(``life``), are judged by the same rules (``diagnosis/alone``; two of them: ``diagnosis/held``) and told by the same
reports. checkpoints/ reads their files, python/ is ``check``, ``diff`` and ``watch`` from Python. repro/ makes kits of
findings (``bncheck repro``). ``bncheck compare`` joins the cells of other people's run folders (joining/) and goes on
at *reading*; ``run --executor`` sends the plan in parts to other machines (fleet/) and goes on there, too.

Lines that hold it together (``tests/test_firm_lines.py``): the host knows no framework; nothing between a trace and a
finding does I/O, but for ``diagnosis/analyse`` and ``views``, which read before and write behind it; no stage imports
one that imports it. Reports judge nothing: they show what run.json says. Where something new goes:

- a cause: ``diagnosis/rules/<family>/bnNNN_<cause>.py`` (families: conventions, mode_and_state, nonfinite, numerics,
  refusals, remainder) that says what it explains, its word in ``finding.CAUSES``, and its literal test in a test_rules
  file; of a watched program it has ``check_life``;
- a framework: ``worker/backends/<name>.py`` (the contract is in worker/ADDING.md; its parts are in worker/<name>_side);
- a kind of thing that ``check`` takes: ``subjects/<kind>.py``, its word in ``subjects/thing``, a branch in
  ``subjects/check``; a checkpoint's format: a file in ``checkpoints``, and a row in its ``recognise``;
- a format: a file in ``report`` with ``NAME`` and ``render``; one that is a page: its template in ``report/templates``;
- a page of docs/: a file there, and a link in README;
- a kind of script: a file in ``repro/scripts``;
- an event: a row of ``scenario.OPS``, and a method of its name in each backend that has it;
- a type of layer: a row of ``scenario.LAYERS``, each backend that builds it, and ``scenario_files/shapes`` where it
  makes new shapes;
- a scenario: a TOML file in the repository's ``scenarios``;
- a command: a file in ``commands``, and its line in ``cli.COMMANDS``;
- a fact about the machine: ``environments/devices`` for the host, ``describe_machine`` in worker/run.py for a target.

Tests demand the rows in docs of commands, targets, rules, scenarios, events and keys.
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
