"""The short script of a kit: the framework's own lines, what came out beside what is expected, and one assertion.

It looks at one quantity, at the last point that shows the problem. What needs more than 30 lines (refusals, files
beside it, two plays) has the elaborate script alone.
"""

# The functions that scripts get a copy of carry no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from bncheck.report.plain_text import one_line
from bncheck.repro.standalone.frame import comment, guarded, input_lines, metadata, program_lines
from bncheck.repro.standalone.literal import scalar
from bncheck.repro.standalone.subject import Quantity, Subject
from bncheck.repro.standalone.tail import gaps
from bncheck.trace import STATES, Array

LONGEST = 30
WIDEST = 120
SEE = re.compile(r'^\s*see\("(?P<name>\w+)"')


def brief_script(subject: Subject, writer: ModuleType) -> str | None:
    """The text, or None where the case does not fit into so few lines."""
    quantity = telling(subject)
    if quantity is None or guarded(subject) or subject.problem not in ("differs", "nonfinite"):
        return None
    beside: dict[str, Array] = {}
    files: dict[str, bytes] = getattr(writer, "files", lambda subject: {})(subject)
    data = [line for line in input_lines(subject, beside) if not line.startswith("#")]
    body = [*getattr(writer, "definitions", lambda subject: [])(subject), *writer.setup(subject, beside)]
    body += [*played(subject, writer, quantity), *getattr(writer, "after", lambda subject: [])(subject)]
    if beside or files or any("zlib." in line for line in data):
        return None
    lines = [*compact(metadata(subject, writer)), *said(subject)]
    lines += [
        "import numpy as np",
        *(line for line in writer.imports(subject) if line and not line.startswith("#")),
        "",
    ]
    lines += [*data, *body, "", *asserted(subject, writer, quantity)]
    found = list(squeezed(lines))
    if len(found) > LONGEST or max(map(len, found)) > WIDEST:
        return None
    return "\n".join(found) + "\n"


def telling(subject: Subject) -> Quantity | None:
    """The quantity to assert: the finding's own, where it shows the problem at its last point, else the first such."""
    shown = [each for each in subject.quantities if at_the_end(subject, each)]
    return next((each for each in shown if each.name == subject.finding.quantity), next(iter(shown), None))


def at_the_end(subject: Subject, quantity: Quantity) -> bool:
    """Whether the last point shows it: a state as it is when all is played, or the last output."""
    here, there = quantity.here[-1:], quantity.there[-1:]
    last_step = subject.case.step_ends[-1] if subject.case.step_ends else -1
    if quantity.name in STATES and (not quantity.events or quantity.events[-1] != last_step):
        return False
    if subject.problem == "nonfinite":
        return not np.isfinite(here).all()
    return bool(gaps(here, there, quantity.rtol, quantity.atol)[2].any())


def compact(lines: list[str]) -> list[str]:
    """The head of PEP 723 with its packages in one line."""
    packages = [line.strip("# ,") for line in lines if line.startswith("#   ")]
    python = next(line for line in lines if "requires-python" in line)
    return ["# /// script", python, f"# dependencies = [{', '.join(packages)}]", "# ///"]


def said(subject: Subject) -> list[str]:
    """The title as a comment of two lines at most."""
    return comment(one_line(subject.finding.title, 200))


def played(subject: Subject, writer: ModuleType, quantity: Quantity) -> Iterator[str]:
    """The program without the looks between its steps; of what it shows only the quantity."""
    for line in program_lines(subject, writer):
        bare = line.strip()
        match = SEE.match(line)
        if bare.startswith("look("):
            continue
        if match is not None:
            if match["name"] == quantity.name:
                yield line.replace(line.strip(), f"here = {value_of(bare)}")
            continue
        yield line


def value_of(call: str) -> str:
    """``see("output", when, VALUE)`` → VALUE."""
    return call.split(", ", 2)[2].removesuffix(")")


def asserted(subject: Subject, writer: ModuleType, quantity: Quantity) -> list[str]:
    lines = [f"here = {writer.held(subject)[quantity.name]}"] if quantity.name in STATES else []
    if subject.problem == "nonfinite":
        return [
            *lines,
            f'print("{quantity.name}:", here)',
            f'assert np.isfinite(here).all(), "{quantity.name} is NaN or Inf"',
        ]
    source = one_line(subject.other, 60)
    return [
        *lines,
        f"expected = {literal(quantity.there[-1])}  # what {source} gives",
        f'print("{quantity.name}:", here, "expected:", expected)',
        f"np.testing.assert_allclose(np.ravel(here), expected, rtol={quantity.rtol!r}, atol={quantity.atol!r})",
    ]


def literal(values: Array) -> str:
    """One number where all are the same, else a list; float32 values with its few digits."""
    narrow = values.astype(np.float32)
    shown = narrow if np.array_equal(narrow.astype(np.float64), values, equal_nan=True) else values
    same = bool((shown == shown[:1]).all())
    return scalar(shown[0]) if same else f"[{', '.join(scalar(value) for value in shown)}]"


def squeezed(lines: list[str]) -> Iterator[str]:
    """One blank line where there were several, and none at the ends."""
    before = ""
    for line in lines:
        if line or before:
            yield line
        before = line
