"""The text to file: short enough to be read. All figures stand in ``details.md`` beside it.

A convention or rounding is nobody's bug: of these a note says what to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from numpy import isfinite

from bncheck.finding import Finding
from bncheck.report.machine import portable
from bncheck.report.markdown_text import code, fenced, link, table, text
from bncheck.report.plain_text import clean, one_line, plural
from bncheck.repro.details import expected, layer_words
from bncheck.repro.scene import Scene, concerned
from bncheck.repro.standalone.frame import figures
from bncheck.repro.standalone.steps import fold
from bncheck.repro.standalone.subject import Subject
from bncheck.run_folder.results import Results

LONGEST_TITLE = 80
LONGEST = 60  # lines
MOST_OBSERVED, MOST_TARGETS = 4, 6
# Where a framework's maintainers want to hear of it.
TRACKERS: Mapping[str, str] = {
    "torch": "https://github.com/pytorch/pytorch/issues",
    "keras": "https://github.com/keras-team/keras/issues",
    "tf_keras": "https://github.com/keras-team/tf-keras/issues",
    "flax": "https://github.com/google/flax/issues",
    "haiku": "https://github.com/google-deepmind/dm-haiku/issues",
    "mlx": "https://github.com/ml-explore/mlx/issues",
    "paddle": "https://github.com/PaddlePaddle/Paddle/issues",
    "onnxruntime": "https://github.com/microsoft/onnxruntime/issues",
    "tinygrad": "https://github.com/tinygrad/tinygrad/issues",
}
ARCHIVED = ("mxnet",)
UPSTREAM = re.compile(r"(?<![\w/])([\w.-]+/[\w.-]+)#(\d{1,7})\b")
# A tracker's title is about its framework: "in reference and torch 2.13.0" is "in torch 2.13.0" there.
BESIDE_REFERENCE = re.compile(r"\b(in|of|on) reference and (?=\S)")
REFERENCE = "`reference` is BatchNorm as in the paper, computed by NumPy in float64; it is no framework."


def file_name(finding: Finding) -> str:
    return "issue.md" if finding.reportable else "note.md"


def issue_text(
    results: Results, scene: Scene, subjects: Sequence[Subject], scripts: Mapping[str, str], reasons: Mapping[str, str]
) -> str:
    """``scripts`` maps a file name to its text, ``short_*`` among them; ``reasons`` a target to why it has none."""
    finding = scene.finding
    head = [f"# {title_of(finding.gist)}", "", text(finding.sentence), ""]
    lines = [*head, *what(scene), *both(finding, subjects, bool(scripts)), *helps(finding), ""]
    end = [*known(results, scene), *versions(results, scene)]
    pasted = best(scripts, subjects, finding)
    does = "fails while the problem is there" if finding.reportable else "prints both, and fails while they differ"
    shown = [*reproduce(scripts, reasons, pasted, does)]
    if len(lines) + len(shown) + len(end) > LONGEST:
        shown = [*reproduce(scripts, reasons, "", does)]
    return "\n".join([*lines, *shown, *end]).rstrip() + "\n"


def title_of(sentence: str) -> str:
    """At most 80 letters, without anything that Markdown would read: a title field shows escapes as they are."""
    plain = re.sub(r"[`*<>|\\#~]|(?<![A-Za-z0-9.])@", "", one_line(clean(sentence), 400)).strip().rstrip(".")
    plain = BESIDE_REFERENCE.sub(r"\1 ", plain.replace("](", "] (").replace("&", "and"))
    if len(plain) <= LONGEST_TITLE:
        return plain
    # The first clauses where they say something by themselves, else whole words.
    clauses = [
        match.start() for match in re.finditer(r"[:;,.] ", plain) if LONGEST_TITLE // 2 < match.start() <= LONGEST_TITLE
    ]
    return plain[: clauses[-1]] if clauses else plain[: plain.rindex(" ", 0, LONGEST_TITLE - 1)] + " …"


def what(scene: Scene) -> Iterator[str]:
    case = scene.case
    layers = ", ".join(layer_words(layer) for layer in case.network.layers[:3]) or "a network from a file"
    more = f" and {len(case.network.layers) - 3} more layers" if len(case.network.layers) > 3 else ""
    shapes = [str(list(array.shape[1:])) for name, array in scene.inputs.items() if name.startswith("x/")]
    given = text(", ".join(dict.fromkeys(shapes)) or "none")
    note = f" {text(scene.note)}" if scene.note else ""  # else the figures of the title are looked for in the script
    yield f"**What was done**: {layers}{more}; input {given}; {program(scene)}.{note}"
    yield ""


def program(scene: Scene) -> str:
    from bncheck.repro.standalone.steps import Step

    steps = [Step(event=place, op=event.op, input="", batch=0) for place, event in enumerate(scene.case.events)]
    parts = []
    for block in fold(steps):
        one = ", ".join(code(step.op) for step in block.steps)
        parts.append(f"{block.repeats} × ({one})" if block.repeats > 1 else one)
    return one_line(", then ".join(parts), 300)


def both(finding: Finding, subjects: Sequence[Subject], scripted: bool) -> Iterator[str]:
    yield wanted(finding, subjects)
    yield ""
    yield "**Observed**:"
    yield ""
    found = [line for subject in subjects for line in observed(subject)]
    yield from found[:MOST_OBSERVED] or [f"- see {'the script, and ' * scripted}details.md"]
    if len(found) > MOST_OBSERVED:
        yield f"- and {len(found) - MOST_OBSERVED} more, in details.md"
    yield ""


def wanted(finding: Finding, subjects: Sequence[Subject]) -> str:
    if not finding.reportable:
        convention = finding.kind == "convention"
        why = "neither side contradicts its own documentation" if convention else "the difference is rounding"
        return f"**Nobody is wrong**: {why}."
    spoilt = [
        quantity.name
        for subject in subjects
        if subject.problem == "nonfinite"
        for quantity in subject.quantities
        if not isfinite(quantity.here).all()
    ]
    if spoilt:
        return f"**Expected**: finite values in {', '.join(map(code, dict.fromkeys(spoilt)))}."
    return f"**Expected**: {expected(finding, subjects)}"


def observed(subject: Subject) -> Iterator[str]:
    """What is off, once: NaN said as NaN, a refusal as a refusal."""
    label = code(subject.target.label)
    for quantity in subject.quantities:
        bad = int((~isfinite(quantity.here)).sum())
        if bad:
            yield f"- {label}: {code(quantity.name)} holds NaN or Inf in {plural(bad, 'value')} of {quantity.here.size}"
        elif quantity.outside and subject.problem != "nonfinite":
            off = figures(quantity.here, quantity.there)
            yield f"- {label}: {code(quantity.name)} {off} from {code(subject.other)}"
    if subject.refused_here != subject.refused_there:
        for event in subject.refused_here[:1]:
            record = subject.trace.events[event]
            yield f"- {label} refuses {code(record.op)}: {code(f'{record.error_type}: {record.error}', 200)}"


def helps(finding: Finding) -> Iterator[str]:
    if finding.advice:
        yield f"**What helps meanwhile**: {text(finding.advice)}"


def best(scripts: Mapping[str, str], subjects: Sequence[Subject], finding: Finding) -> str:
    """The short script to paste: on the side at fault, else of the first target that has one."""
    short = [name for name in scripts if name.startswith("short_")]
    at_fault = [subject.target for subject in subjects if subject.target.name == finding.departs]
    wanted = [f"short_{name}.py" for target in at_fault for name in (target.slug, target.backend)]
    return next((name for name in short if name in wanted), next(iter(short), ""))


def reproduce(scripts: Mapping[str, str], reasons: Mapping[str, str], pasted: str, does: str) -> Iterator[str]:
    if pasted:
        yield f"{code(f'uv run {pasted}')} {does}:"
        yield from ["", *fenced(scripts[pasted], "python"), ""]
    others = [name for name in scripts if name != pasted]
    if others:
        yield f"Attached: {', '.join(map(code, others[:6]))}. What begins with repro prints every figure."
        yield ""
    for target, reason in list(reasons.items())[:2]:
        yield from [f"No script for {code(target)}: {text(reason)}.", ""]
    if not scripts and not reasons:
        yield from ["No framework of this finding has a script; see the run's own command.", ""]


def known(results: Results, scene: Scene) -> Iterator[str]:
    """What `reference` is, reports that the scenario knows, and where to file."""
    named = concerned(scene.finding, scene.played)
    backends = {target.name: target.backend for target in results.targets}
    told = "reference" in (backends.get(name) for name in scene.finding.targets)
    said = [REFERENCE] if told else []
    described = next((each for each in results.scenarios if each.name == scene.finding.scenario), None)
    found = dict.fromkeys(
        UPSTREAM.findall(f"{described.title} {described.why} {described.remarks}" if described else "")
    )
    links = [
        link(f"{place}#{number}", f"https://github.com/{place}/issues/{number}") for place, number in list(found)[:3]
    ]
    said += [f"Reported before: {', '.join(links)}."] if links else []
    own = bool(scene.custom_source) and not scene.finding.of_difference  # a fault of the user's own code
    if scene.finding.reportable and not own:
        asked = dict.fromkeys(
            target.backend for target in named if scene.finding.departs in ("", target.name) or len(named) == 1
        )
        places = [TRACKERS[backend] for backend in asked if backend in TRACKERS]
        said += [f"To file at: {link(places[0], places[0])}."] if len(places) == 1 else []
        said += [f"{name} is archived; nobody answers there." for name in asked if name in ARCHIVED]
    yield from [" ".join(said), ""] if said else []


def versions(results: Results, scene: Scene) -> list[str]:
    """The environment, folded."""
    targets = list({target.name: target for target in concerned(scene.finding, scene.played)}.values())
    rows = [
        [code(t.name), *map(text, (t.version or "-", t.device, t.python, t.environment.get("numpy", "-")))]
        for t in targets[:MOST_TARGETS]
    ]
    more = [f"and {plural(len(targets) - MOST_TARGETS, 'more target')}, in environment.md", ""]
    lines = ["<details><summary>Versions</summary>", *table(("target", "version", "device", "Python", "NumPy"), rows)]
    lines += more if len(targets) > MOST_TARGETS else []
    return [*lines, f"bncheck {text(results.version)}, {code(portable(results.command))}", "", "</details>"]
