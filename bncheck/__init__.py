"""bncheck: why BatchNorm behaves differently, from one framework, version, device or export to another.

The walk of ``bncheck run all-ones``, a stage a line (``session.py`` conducts it):

======================  ==========================================================  ===============================
stage                   modules                                                     what it hands on
======================  ==========================================================  ===============================
what was asked          cli, commands/, config                                      Request
who plays               lineup, targets, backend_file                               targets, and which must run
scenario → cases        scenario_file, _matrix, _schema, _rules, _targets, shapes   Plan
interpreters            environments, installer, interpreters, devices              a Python per target
playing                 run, cases_file, pace, workers; worker/ (Python 3.7)        the run folder
reading                 run_folder, cell_files, recording, trace                    CellView: a case on a target
measuring               fit/                                                        Convention: facet by facet
comparing               compare                                                     Drift: a quantity of a layer
explaining              replay/                                                     Attribution: shares of a drift
naming                  rules/ (a file per cause), diagnose                         Finding
accounting              accounting, equivalence, audit                              nothing differs silently
results                 analyse, results, blamed                                    run.json
holding it against      charge, gate, baseline, waiver, shortfall, expectations     Verdict and exit code
telling                 report/ (a file per format, standing, overview), kits       terminal, HTML, …
======================  ==========================================================  ===============================

Three lines hold it together (``tests/test_firm_lines.py``): the host knows no framework; nothing between a trace and a
finding does I/O; reports compute nothing. A new rule is a file in ``rules/`` that says what its cause explains, and its
literal test; a new framework a file in ``worker/backends/`` (ADDING.md there); a new format a file in ``report/``; a
new scenario a TOML file; each has its row in the README.
"""

__version__ = "0.1.0"
