"""All that a kit knows of a finding: what was done, expected, observed, which side is wrong and why, every figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bncheck.evidence import Drift
from bncheck.finding import BUILT_IN, Finding
from bncheck.report.machine import portable
from bncheck.report.markdown_text import code, fenced, link, table, text
from bncheck.report.overview import evidence, numbers
from bncheck.report.plain_text import plural, scalar, share, since, words
from bncheck.repro.scene import Scene, concerned
from bncheck.repro.standalone.frame import figures
from bncheck.repro.standalone.steps import fold
from bncheck.repro.standalone.subject import Subject
from bncheck.run_folder.results import Results
from bncheck.scenario import Case, Layer
from bncheck.scenario_files.shapes import layer_path

# Cause → the facets of a convention that it is about.
FACETS: Mapping[str, tuple[str, ...]] = {
    "update-phase": ("update_on",),
    "update-count": ("updates_per_event",),
    "batch-weight": ("batch_weight",),
    "variance-divisor": ("variance_divisor",),
    "wrong-statistic": ("statistic",),
    "averaging": ("averaging",),
    "single-value": ("single_value", "single_value_state"),
    "empty-batch": ("empty_batch",),
    "eps": ("eps", "eps_placement"),
    "counter-skew": ("counter",),
    "normaliser-source": ("train_normaliser", "eval_normaliser"),
    "initial-state": ("initial_mean", "initial_var", "initial_gamma", "initial_beta"),
}
# Scripts longer than this are attached, not pasted: a tracker's text has a limit.
PASTED = 12_000


def details_text(
    results: Results, scene: Scene, subjects: Sequence[Subject], scripts: Mapping[str, str], reasons: Mapping[str, str]
) -> str:
    """``scripts`` maps a file name to its text; ``reasons`` a target to why it has none."""
    finding = scene.finding
    lines = [f"# {text(finding.sentence)}", ""]
    lines += ["## What was done", "", *done(results, scene), "", "## Expected", "", expected(finding, subjects), ""]
    lines += [
        "## Observed",
        "",
        *observed(results, scene, subjects),
        "",
        "![measured and expected curves](plot.png)",
        "",
    ]
    lines += [
        "## Which side is wrong",
        "",
        *side(results, finding, layer_path(scene.case) if scene.specs else ""),
        "",
        "## Cause",
        "",
        *cause(finding),
        "",
    ]
    lines += ["## To reproduce", "", *reproduce(scripts, reasons), "## Versions", *versions(results, scene)]
    return "\n".join(lines).rstrip() + "\n"


def done(results: Results, scene: Scene) -> Iterator[str]:
    case = scene.case
    described = next((each for each in results.scenarios if each.name == case.scenario), None)
    recorded = results.case_at.get((case.scenario, case.name))
    title = described.title if described else case.scenario
    label = recorded.label if recorded else case.label
    yield f"{text(title)}{f' ({text(label)})' if label not in ('', 'base') else ''}."
    yield ""
    layers = ", ".join(layer_words(layer) for layer in case.network.layers) or "from a file"
    yield f"- network: {layers}, {text(case.dtype)}"
    for name, array in scene.inputs.items():
        if name.startswith("x/"):
            batches = "the same batch every time" if len(array) == 1 else f"{len(array)} different batches"
            yield f"- input {code(name[2:])}: {list(array.shape[1:])} {text(array.dtype.name)}, {batches}"
    yield f"- program: {program(case, scene)}"


def layer_words(layer: Layer) -> str:
    if layer.type != "batch_norm":
        return text(words(layer.type))
    weight = "" if layer.batch_weight is None else f", weight of the new batch {layer.batch_weight:g}"
    eps = "" if layer.eps is None else f", eps {layer.eps:g}"
    return f"BatchNorm of {plural(layer.channels or 0, 'channel')} (axis {layer.axis}{weight}{eps})"


def program(case: Case, scene: Scene) -> str:
    """``3 × (train_forward, backward), eval_forward``."""
    from bncheck.repro.standalone.steps import Step

    parts = []
    for block in fold(
        [
            Step(event=t, op=event.op, input=event.input, batch=event.batch, ends=1)
            for t, event in enumerate(case.events)
        ]
    ):
        ops = ", ".join(code(step.op) for step in block.steps)
        parts.append(ops if block.repeats == 1 else f"{block.repeats} × ({ops})")
    return ", ".join(parts)


def expected(finding: Finding, subjects: Sequence[Subject]) -> str:
    asked = [subject for subject in subjects if subject.target.name == finding.departs] or list(subjects)
    subject = next(iter(asked), None)
    if subject is None:
        return "That all targets give the same."
    if subject.problem == "nonfinite":
        return f"That {text(subject.finding.quantity or 'every value')} stays finite."
    if subject.problem == "repeated":
        return "That a case gives the same, whatever ran before it."
    if subject.problem == "recorded":
        return "See the title; no other target of the run gave anything else."
    if not finding.departs and len(subjects) > 1:
        return "That all targets give the same on the same bytes, within rounding."
    return f"What {text(subject.other)} gives on the same bytes, within rounding."


def observed(results: Results, scene: Scene, subjects: Sequence[Subject]) -> Iterator[str]:
    if scene.note:
        yield from [text(scene.note), ""]
    for subject in subjects:
        off = [q for q in subject.quantities if q.outside]
        for quantity in off:
            yield (
                f"- {code(subject.target.label)}: {code(quantity.name)} {figures(quantity.here, quantity.there)}"
                f" from {code(subject.other)}"
            )
        if subject.refused_here != subject.refused_there:
            for event in subject.refused_here:
                record = subject.trace.events[event]
                yield (
                    f"- {code(subject.target.label)} refuses event {event} ({code(record.op)}): "
                    f"{code(f'{record.error_type}: {record.error}', 300)}"
                )
    apart = [drift for drift in drifts_of(results, scene.finding) if drift.relation != "agrees"]
    rows = [drift_row(drift, results) for drift in apart if scene.finding.concerns(drift.a, drift.b)]
    if rows:
        yield from [
            "",
            "The run's own case, between the two sides (mean ± population standard deviation over points):",
        ]
        yield from table(("between", "quantity", "mean ± std", "largest", "relative", "ULP", "since"), rows)


def drifts_of(results: Results, finding: Finding) -> list[Drift]:
    return results.drift_table.of_case(finding.scenario, finding.case)


def drift_row(drift: Drift, results: Results) -> list[str]:
    case = results.case_at.get((drift.scenario, drift.case))
    step = case.step_of(drift.first_event) if case is not None and drift.first_event is not None else drift.first_event
    name = f"{drift.layer}.{drift.quantity}" if drift.layer else drift.quantity
    return [f"{code(drift.a)} and {code(drift.b)}", code(name), *map(text, numbers(drift)), text(since(step))]


def side(results: Results, finding: Finding, path: str = "") -> Iterator[str]:
    """The side that departs, and from what; or that nobody is wrong, and who documents which rule."""
    if finding.departs:
        from_what = {"itself": "itself (the same framework elsewhere)", "": "the others"}
        whom = text(from_what.get(finding.departs_from, finding.departs_from))
        yield (
            f"{code(finding.departs)} differs from {whom}"
            f"{': ' + link(finding.link, finding.link) if finding.link else ''}."
        )
    elif finding.kind == "convention":
        yield "Neither: each side keeps its own rule, and this is a difference of conventions, not a defect."
    elif finding.kind == "rounding":
        yield "Neither: the difference is of the size that rounding explains."
    else:
        yield {
            "hazard": "Nobody's rule is broken; it is reported because it will bite.",
            "unexplained": "Not known: no measured rule explains it.",
        }.get(finding.kind, "Not known.")
    yield from rules_table(results, finding, path)


def rules_table(results: Results, finding: Finding, path: str) -> list[str]:
    """The measured rules that the cause is about, beside the documented ones where the run knows them."""
    rows, documents = [], False
    for convention in results.conventions:
        for name in FACETS.get(finding.cause, ()):
            facet = convention.facets.get(name)
            if facet is None or convention.target not in finding.targets or path not in (convention.path, ""):
                continue
            here = finding.evidence.get(f"{name} of {convention.target}")
            if finding.departs_from == BUILT_IN and convention.target == finding.departs:
                if here is not None:  # the probes measured the framework's layer, this case the user's
                    rows.append([code(convention.target), text(words(name)), text(scalar(here)), "-"])
                continue
            measured = text(facet.value) if facet.identifiable else "not identifiable"
            documented = "-" if facet.documented is None else text(facet.documented)
            documented += f" ({link('documentation', facet.link)})" if facet.link else ""
            documents = documents or facet.documented is not None
            rows.append([code(convention.target), text(words(name)), measured, documented])
    head = ["target", "rule", "measured", "documented"]
    shown = 4 if documents else 3
    return table(head[:shown], [row[:shown] for row in rows]) if rows else []


def cause(finding: Finding) -> Iterator[str]:
    explained = ""
    if finding.explained is not None:
        named = text(words(finding.quantity or "output"))
        explained = f" It accounts for {share(finding.explained)} of the difference in {named}."
    yield f"{code(finding.code)} {text(finding.cause)} ({text(finding.kind)}).{explained}"
    found = evidence(finding)
    yield from table(("evidence", "value"), [[text(key), text(value)] for key, value in found]) if found else []
    if finding.not_identifiable:
        yield f"Not identifiable on this input: {text(', '.join(map(words, finding.not_identifiable)))}."
    if finding.advice:
        yield from ["", f"What helps meanwhile: {text(finding.advice)}."]


def reproduce(scripts: Mapping[str, str], reasons: Mapping[str, str]) -> Iterator[str]:
    for name, script in scripts.items():
        yield f"{code(f'uv run {name}')} prints these figures; it exits 1 while the problem is there, else 0."
        yield ""
        if len(script) <= PASTED:
            yield from ["<details><summary>the script</summary>", "", *fenced(script, "python"), "", "</details>", ""]
    for target, reason in reasons.items():
        yield from [f"No script for {code(target)}: {text(reason)}.", ""]
    if not scripts and not reasons:
        yield from ["No framework of this finding has a script; see the run's own command.", ""]


def versions(results: Results, scene: Scene) -> list[str]:
    names = {target.name: target for target in [*concerned(scene.finding, scene.played)]}
    rows = [
        [code(t.name), *map(text, (t.version or "-", t.device, t.python, t.environment.get("numpy", "-")))]
        for t in names.values()
    ]
    lines = table(("target", "version", "device", "Python", "NumPy"), rows)
    return [
        *lines,
        f"Found by bncheck {text(results.version)} with {code(portable(results.command))}; "
        "the whole environment is in environment.md.",
    ]
