"""From a subject to the text of a script: header, input, the framework's own lines, expected values, comparison."""

# The functions that scripts get a copy of carry no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from bncheck import __version__
from bncheck.report.plain_text import one_line, plural, words
from bncheck.repro.standalone import tail
from bncheck.repro.standalone.generator import source_of
from bncheck.repro.standalone.literal import array_code, identifier, nested, scalar
from bncheck.repro.standalone.steps import Block, Step, affine, annotate, fold
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.scenario import op_of
from bncheck.trace import STATES, Array

VERSION = re.compile(r"[0-9][0-9A-Za-z.]{0,30}")
# More expected numbers than this lie in an .npz beside the script.
EXPECTED_LITERAL = 160


@dataclass
class Script:
    """A script's text, the arrays that lie beside it (none, nearly always), and its other files by their ending;
    ``brief`` is the same in 30 lines, "" where that is not enough."""

    text: str
    beside: dict[str, Array] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    brief: str = ""


def write_script(subject: Subject, writer: ModuleType, stem: str) -> Script:
    """The whole script. Raises CannotWriteError with the reason where the framework's file cannot say the case."""
    beside: dict[str, Array] = {}
    files: dict[str, bytes] = getattr(writer, "files", lambda subject: {})(subject)
    data = list(input_lines(subject, beside))
    defined: list[str] = getattr(writer, "definitions", lambda subject: [])(subject)
    body = [*writer.setup(subject, beside), "", *state_lines(subject, writer), ""]
    body += [*program_lines(subject, writer), *getattr(writer, "after", lambda subject: [])(subject)]
    body = [*defined, *(twice(body) if subject.problem == "repeated" else body)]
    expected = list(expected_lines(subject, beside))
    imports = sorted(
        {
            "import sys",
            *(["import zlib"] if any("zlib." in line for line in data) else []),
            *(["from pathlib import Path"] if beside or files else []),
        }
    )
    lines = [*metadata(subject, writer), *header(subject), *imports, "", "import numpy as np", *writer.imports(subject)]
    lines += tail.source_of("number", "some", "gaps", "compare")
    lines += ["", ""]
    if beside:
        lines += [f'beside = np.load(Path(__file__).with_name("{stem}.npz"), allow_pickle=False)', ""]
    lines += [*data, "", *expected, "", *recorder(subject), "", "", *body, "", *ending(subject)]
    return Script("\n".join(lines).rstrip() + "\n", beside, files)


# --------------------------------------------------------------------------------------------------------- header


def metadata(subject: Subject, writer: ModuleType) -> list[str]:
    """PEP 723: the measured versions, so that ``uv run`` makes the very environment."""
    python = ".".join(subject.target.python.split(".")[:2])
    wanted = f"=={python}.*" if re.fullmatch(r"3\.\d{1,2}", python) else ">=3.8"
    lines = ["# /// script", f'# requires-python = "{wanted}"', "# dependencies = ["]
    lines += [f'#   "{item}",' for item in (*writer.requirements(subject.target), pinned(subject, "numpy", "numpy"))]
    return [*lines, "# ]", "# ///"]


def pinned(subject: Subject, package: str, key: str) -> str:
    """``numpy==2.4.6``, as measured; without a version where the run does not say a plausible one."""
    version = str(subject.target.environment.get(key, "")).partition("+")[0]
    return f"{package}=={version}" if VERSION.fullmatch(version) else package


def comment(text: str) -> list[str]:
    """Foreign text as comment lines: no line of it can become code."""
    found, line = [], "#"
    for word in one_line(text, 1500).split(" "):
        if len(line) + len(word) > 110 and line != "#":
            found.append(line)
            line = "#"
        line += f" {word}"
    return [*found, line]


def header(subject: Subject) -> list[str]:
    finding, case = subject.finding, subject.case
    lines = comment(f"{finding.code} {finding.cause}: {finding.title}")
    lines += [
        "#",
        *comment(f"Case {case.id} on {subject.target.label}; written by bncheck {__version__}. {meaning(subject)}"),
    ]
    for quantity in subject.quantities:
        if subject.problem not in ("recorded", "repeated"):
            lines += comment(f"Reported: {quantity.name} {figures(quantity.here, quantity.there)}.")
    here, there = (refusals(subject, which) for which in (subject.refused_here, subject.refused_there))
    if here != there:
        lines += comment(f"Reported: refused here: {here or None}; there: {there or None}.")
    return [*lines, ""]


def refusals(subject: Subject, events: Sequence[int]) -> list[str]:
    return [event_label(subject.case.events[t].op, str(t), "") for t in events]


def meaning(subject: Subject) -> str:
    """What is expected, from whom, and what the exit code says."""
    if subject.problem == "nonfinite":
        where = subject.finding.quantity or "what it shows"
        beside = f"; the values beside are those of {subject.other}" if subject.other else ""
        return f"It exits 1 while NaN or Inf is in {where}, and 0 when all is finite{beside}."
    if subject.problem == "rounding":
        return f"Differences from {subject.other} are rounding, so there is no problem: it prints them and exits 0."
    if subject.problem == "repeated":
        return (
            "It plays the case twice in one process, each time by a new network: it exits 1 while the second time "
            "gives something else, else 0. What only another case leaves behind does not show."
        )
    if subject.problem == "recorded":
        return (
            "No other target of the run gave anything else, so the values beside are those that were recorded "
            "here: it exits 1 while it still gives them, and 0 when it no longer does."
        )
    return (
        f"The expected values are those of {subject.other} on the same bytes: it exits 1 while any value is outside "
        "the tolerance, or one side refuses what the other carries out, else 0."
    )


def figures(here: Array, there: Array) -> str:
    """``off by 0.90099 ± 0.20569``: the words that the script itself prints."""
    gap, both, _ = tail.gaps(here, there, 0.0, 0.0)
    held = both.any(axis=1)
    points = gap.sum(axis=1)[held] / both.sum(axis=1)[held]
    mean, std = (float(points.mean()), float(points.std())) if len(points) else (float("nan"), float("nan"))
    spread = f"{std:.5f}" if 1e-3 <= abs(mean) < 1e5 else tail.number(std)
    return f"off by {tail.number(mean)} ± {spread} over {plural(len(here), 'point')}"


# ---------------------------------------------------------------------------------------------------------- input


def variable(kind: str, name: str) -> str:
    """X and DY are the main input and its upstream gradient; X_bad those of the input "bad"."""
    return kind if name == "main" else f"{kind}_{identifier(name)}"


def input_lines(subject: Subject, beside: dict[str, Array]) -> Iterator[str]:
    """The arrays that the program reads, and the recipe of those that are made again."""
    functions: list[str] = []
    body: list[str] = []
    used = {input_of(subject, event.input) for event in subject.case.events if op_of(event.op).reads}
    for key in sorted(subject.inputs):
        kind, _, name = key.partition("/")
        if kind not in ("x", "dy") or name not in used:
            continue
        array = subject.inputs[key]
        if kind == "dy" and (not_needed(subject) or all_ones(array)):
            continue
        which = variable("X" if kind == "x" else "DY", name)
        spec = subject.specs.get(name) if has_generators(subject) else None
        recipe, lines = array_code(which, array, spec, kind, beside)
        functions += [recipe] if recipe and recipe not in functions else []
        body += [
            f"# The batches of input {one_line(name, 40)!r}, one per row."
            if kind == "x"
            else "# The upstream gradient of each batch.",
            *lines,
        ]
    for recipe in functions:
        yield from [*source_of(recipe), "", ""]
    yield from body


def has_generators(subject: Subject) -> bool:
    """Whether the target's NumPy can make an input again: its random generators came with 1.17."""
    found = re.match(r"(\d{1,3})\.(\d{1,3})", str(subject.target.environment.get("numpy", "")))
    return not found or (int(found[1]), int(found[2])) >= (1, 17)


def not_needed(subject: Subject) -> bool:
    return not any(step.op == "backward" and step.status in ("ok", "raised") for step in annotate(subject))


def all_ones(array: Array) -> bool:
    return bool(array.size) and bool((array == 1).all())


# ------------------------------------------------------------------------------------------------- expected values


def expected_lines(subject: Subject, beside: dict[str, Array]) -> Iterator[str]:
    if subject.problem == "repeated":
        yield "# Expected: that the second time gives the same, point by point."
        yield 'SOURCE = "the first time"'
        yield f"EXPECTED = dict.fromkeys({[quantity.name for quantity in subject.quantities]!r})"
    else:
        source = subject.other or "recorded here"
        yield f"# Expected: what {one_line(source, 80)} gave on the same bytes, point by point."
        yield f"SOURCE = {one_line(source, 80)!r}"
        yield "EXPECTED = {"
        for quantity in subject.quantities:
            yield f'    "{quantity.name}": {table(quantity.name, quantity.there, beside)},'
        yield "}"
    pairs = ", ".join(f'"{q.name}": dict(rtol={q.rtol!r}, atol={q.atol!r})' for q in subject.quantities)
    yield f"TOLERANCE = {{{pairs}}}"
    if subject.refused_here or subject.refused_there:
        there = refusals(subject, subject.refused_there)
        yield f"REFUSED = {there!r}  # events that raise where the expected values come from"


def table(name: str, rows: Array, beside: dict[str, Array]) -> str:
    """Rows as a literal. Values that float32 holds are written with its few digits, and read back as float32."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is not narrow
        short = rows.astype(np.float32)
    narrow = np.array_equal(short.astype(np.float64), rows, equal_nan=True)
    rows = short if narrow else rows
    first = rows.reshape(-1)[0]
    if rows.size > 8 and bool((rows == first).all()) and float(first).is_integer():
        return f"np.full({rows.shape}, {scalar(first)})"
    same = rows.shape[1] > 2 and bool((rows == rows[:, :1]).all())
    if (len(rows) if same else rows.size) > EXPECTED_LITERAL:
        beside[f"expected_{name}"] = rows
        return f'beside["expected_{name}"]'
    text = f"[[v] * {rows.shape[1]} for v in {nested(rows[:, 0])}]" if same else nested(rows)
    return f"np.float32({text})" if narrow and not bool((rows == np.round(rows)).all()) else text


def recorder(subject: Subject) -> list[str]:
    lines = ["found = {name: [] for name in EXPECTED}", *(["refused = []"] if guarded(subject) else []), "", ""]
    lines += [
        "def see(name, when, value):",
        '    """Keep one point of a quantity."""',
        '    found[name].append((when, np.array(value, dtype="float64").reshape(-1)))',
    ]
    if guarded(subject):
        lines += [
            "",
            "",
            "def refuse(when, error):",
            "    refused.append(when)",
            '    print(f"{when}: {type(error).__name__}: {error}")',
        ]
    return lines


def guarded(subject: Subject) -> bool:
    return bool(subject.refused_here or subject.refused_there)


# -------------------------------------------------------------------------------------------------------- program


def state_lines(subject: Subject, writer: ModuleType) -> list[str]:
    """``look(when)``: the layer's state as the framework holds it now."""
    held = writer.held(subject)
    shown = [q.name for q in subject.quantities if q.name in STATES]
    missing = [name for name in shown if name not in held]
    if missing:
        raise CannotWriteError(f"{subject.target.name} has no {words(missing[0])} that a script could read")
    lines = ["", "def look(when):", *[f"    {line}" for line in getattr(writer, "before_look", lambda s: [])(subject)]]
    lines += [f'    see("{name}", when, {held[name]})' for name in shown] or ["    pass"]
    return [*lines, ""]


def twice(body: Sequence[str]) -> list[str]:
    """Build the network and play the program two times; the first gives what is expected."""
    return [
        "for turn in range(2):  # in one process, each time by a new network",
        "    found = {name: [] for name in EXPECTED}",
        *(f"    {line}" if line else line for line in body),
        "    if turn == 0:",
        "        EXPECTED = {name: [values for _, values in rows] for name, rows in found.items()}",
    ]


def event_label(op: str, event: str, loop: str) -> str:
    return f"event {{{event}}} ({op})" if loop else f"event {event} ({op})"


def program_lines(subject: Subject, writer: ModuleType) -> Iterator[str]:
    yield 'look("start")'
    for block in fold(annotate(subject)):
        yield ""
        if block.repeats > 1:
            yield f"for i in range({block.repeats}):"
        for position, step in enumerate(block.steps):
            lines = step_lines(subject, writer, block, step, position)
            yield from [f"    {line}" if line else line for line in lines] if block.repeats > 1 else lines


def step_lines(subject: Subject, writer: ModuleType, block: Block, step: Step, position: int) -> list[str]:
    loop = block.repeats > 1
    stride = block.strides[position] if loop and position < len(block.strides) else 0
    label = event_label(step.op, affine(step.event, len(block.steps) if loop else 0), "loop" if loop else "")
    when = f'f"{label}"' if loop else f'"{label}"'
    if step.status in ("skipped", "unsupported"):
        why = subject.trace.events[step.event].error or step.status
        lines = comment(f"{step.op}: {step.status} here ({one_line(why, 90)})")
    else:
        name = input_of(subject, step.input)
        x = f"{variable('X', name)}[{place(subject, 'x', name, step.batch, stride)}]"
        dys = [gradient(subject, name, batch, stride) for name, batch in step.through]
        lines = writer.play(subject, step, x, dys, when)
        if step.guarded:
            lines = [
                "try:",
                *[f"    {line}" for line in lines],
                "except Exception as error:",
                f"    refuse({when}, error)",
            ]
    if step.ends:
        number = affine(step.ends, block.ends if loop else 0)
        lines = [*lines, f'look(f"step {{{number}}}")' if loop else f'look("step {number}")']
    return lines


def input_of(subject: Subject, name: str) -> str:
    """The input that an event reads: where a scenario has none called "main", its first one, as in the worker."""
    known = [key[2:] for key in subject.inputs if key.startswith("x/")]
    return name if name in known or not known else known[0]


def place(subject: Subject, kind: str, name: str, batch: int, stride: int) -> str:
    """The row of an input; inputs whose batches are the same have one."""
    return "0" if len(subject.inputs[f"{kind}/{name}"]) == 1 else affine(batch, stride)


def gradient(subject: Subject, name: str, batch: int, stride: int) -> str:
    """The upstream gradient as NumPy, or "" for ones."""
    array = subject.inputs.get(f"dy/{name}")
    if array is None or all_ones(array):
        return ""
    return f"{variable('DY', name)}[{place(subject, 'dy', name, batch, stride)}]"


# ------------------------------------------------------------------------------------------------------------ end


def ending(subject: Subject) -> list[str]:
    """Compare everything, then say in the exit code whether the problem is there."""
    lines = [
        "problems = []",
        "for name, expected in EXPECTED.items():",
        "    if compare(name, found[name], np.array(expected), SOURCE, **TOLERANCE[name]):",
        "        problems.append(name)",
    ]
    if guarded(subject):
        lines += [
            "if refused != REFUSED:",
            '    problems.append("refusals")',
            '    print(f"\\nrefused here: {refused or None}; there: {REFUSED or None}")',
        ]
    if subject.problem == "rounding":
        return [*lines, 'print("\\nThe differences are rounding; no problem.")', "sys.exit(0)"]
    if subject.problem == "recorded":
        lines += [
            'print("\\nThe problem is gone: " + ", ".join(problems) if problems else "\\nThe problem is there.")',
            "sys.exit(0 if problems else 1)",
        ]
        return lines
    if subject.problem == "nonfinite":
        named = [q.name for q in subject.quantities if q.name == subject.finding.quantity]
        names = named or [q.name for q in subject.quantities]
        lines += [
            f"watched = {names!r}",
            "problems = [name for name in watched if not all(np.isfinite(values).all() for _, values in found[name])]",
        ]
    lines += ['print("\\nThe problem is there: " + ", ".join(problems) if problems else "\\nThe problem is gone.")']
    return [*lines, "sys.exit(1 if problems else 0)"]
