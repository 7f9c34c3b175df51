"""What ``bncheck init`` writes: the texts of a configuration and of a workflow. Pure."""

from __future__ import annotations

BASELINE = "bncheck-baseline.json"
WORKFLOW = """\
# Runs bncheck on every push and pull request; the job fails for what is new or worse.
name: bncheck
on: [push, pull_request]
permissions:
  contents: read

jobs:
  bncheck:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.11"
      - run: pip install bncheck
      # What to run and what is accepted stand in pyproject.toml.
      - run: bncheck run --out bncheck-run
      - uses: actions/upload-artifact@v4
        if: ${{ !cancelled() }}
        with:
          name: bncheck-run
          path: bncheck-run
"""


def table(baseline: bool) -> str:
    """``[tool.bncheck]``; the baseline is named where there is one."""
    known = f'baseline = "{BASELINE}"  # what is known; only what is new or worse fails'
    later = f"# After a first run: bncheck baseline update {BASELINE}\n# {known}"
    return f"""\
[tool.bncheck]
targets = ["reference", "torch"]  # each must run; bncheck list names others
scenarios = ["all-ones", "batch-sizes", "events"]  # names, or files beside this one: bncheck new NAME
{known if baseline else later}
"""
