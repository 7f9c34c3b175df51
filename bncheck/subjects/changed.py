"""``diff MODEL --after FILE.py:FUNCTION``: a model before and after a function of the user's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.diagnosis.held.applied import Application, pairs_of, readings, unchanged
from bncheck.diagnosis.held.likeness import QUANTITIES, Pair
from bncheck.diagnosis.held.reading import Reading
from bncheck.diagnosis.held.recorded import application_of
from bncheck.diagnosis.rules import load_rules
from bncheck.environments.backend_file import find_backends
from bncheck.errors import EnvironmentFailure
from bncheck.finding import KINDS, Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.run_folder.answer import MOST, Answer, Row
from bncheck.run_folder.folder import create_run_folder
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.asked import parse_input
from bncheck.subjects.conclusion import conclude, results_of, slug_of
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.made import Making
from bncheck.subjects.played_file import arrays_of
from bncheck.subjects.sides import AskedDiff, short
from bncheck.subjects.two_files import cell

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener

COLUMNS = ("class", "mode", "mean", "variance", "gamma", "beta", "counter", "verdict")
MODES = {True: "train", False: "eval", None: "?"}


def compare_change(asked: AskedDiff, listener: Listener) -> tuple[Path, Results]:
    """Make the model, hand it to the function, write down what that did; (the run folder, what was found)."""
    assert asked.a.thing is not None and asked.after is not None and asked.after.thing is not None
    backend = find_backends(())[asked.a.thing.framework]
    python = find_python(asked.python, backend, report=listener.say)
    job = {
        "module": asked.a.thing.module,
        "name": asked.a.thing.name,
        "with": {},
        "as": "model",
        "inputs": [parse_input(text) for text in asked.inputs],
        "weights": str(asked.weights.absolute()) if asked.weights else "",
        "data": str(asked.data.absolute()) if asked.data else "",
        "steps": 0,
        "play": "changed",
        "after": asked.after.thing.code,
    }
    with tempfile.TemporaryDirectory(prefix="bncheck-") as name:
        folder = Path(name)
        said = Making(python.path, job, folder, asked.nursery_of(python.path)).wait(asked.seconds)
        application = application_of(said["applied"], arrays_of(folder / "applied.npz"), short(asked.a), backend.name)
    if application is None:
        raise EnvironmentFailure("what the model's process wrote cannot be read", "run it again")
    subject = f"{short(asked.a)} before and after {application.does}"
    findings = findings_of(application, short(asked.a), slug_of(subject))
    answer = answer_of(application, subject, findings, remarks(said, asked))
    target = TargetResult(
        name=short(asked.a),
        slug=slug_of(asked.a.text),
        backend=backend.name,
        version=str(said["torch"]),
        python=str(python.path),
    )
    run = create_run_folder(asked.out)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results = results_of(answer, findings, [target], asked.command, created)
    conclude(run, answer, results, asked.formats, listener.say, asked.bar, missed(application, asked))
    return run, results


def findings_of(application: Application, name: str, case: str) -> list[Finding]:
    found = [finding_of(reading, name, case) for reading in readings(application)]
    return sorted(found, key=lambda finding: KINDS.index(finding.kind))


def finding_of(reading: Reading, name: str, case: str) -> Finding:
    layer, quantity = reading.places[0] if reading.places else ("", "")
    return Finding(
        code=next(rule.code for rule in load_rules() if rule.cause == reading.cause),
        cause=reading.cause,
        kind=reading.kind,
        title=reading.title,
        targets=(name,),
        scenario="diff",
        case=case,
        layer=layer,
        quantity=quantity,
        evidence=reading.evidence,
        advice=reading.advice,
        accounts=reading.places[1:],
    )


def missed(application: Application, asked: AskedDiff) -> tuple[Shortfall, ...]:
    """Nothing to compare is no success: a model that did not run in eval before the function was called."""
    if "eval" not in application.unplayed:
        return ()
    why = application.unplayed["eval"]
    return (
        Shortfall(
            f"{short(asked.a)} was not played in eval: {why}",
            "give a batch that it takes: --data batch.npz, or --input SHAPE",
            "outputs were not compared",
        ),
    )


# ------------------------------------------------------------------------------------------------------ the answer


def answer_of(application: Application, subject: str, findings: Sequence[Finding], notes: Sequence[str]) -> Answer:
    grave = [finding for finding in findings if finding.kind != "rounding"]
    more = f" And {len(grave) - 1} more {'finding' if len(grave) == 2 else 'findings'}." if len(grave) > 1 else ""
    title = (grave or findings)[0].title + more if findings else unchanged(application)
    return Answer(
        verb="diff",
        subject=subject,
        headline=title or f"{application.does} changed no state and no mode; outputs were not compared.",
        columns=COLUMNS,
        rows=tuple(rows(application, findings))[:MOST],
        notes=tuple(notes),
    )


def remarks(said: Mapping[str, Any], asked: AskedDiff) -> list[str]:
    shapes = " and ".join(f"{each['dtype']} {'×'.join(map(str, each['shape']))}" for each in said["input"]["shapes"])
    found = [f"Evaluated before and after on the same bytes: {shapes}."]
    if said["applied"]["returned"]:
        found.append(f"The function returned {said['applied']['returned']}: that is the model after it.")
    if not said["weights"]:
        found.append(f"{short(asked.a)} was taken as it is built. Weights from a file: --weights FILE.")
    elif any(said["weights"]["counts"]):
        missing, unexpected, misshaped = said["weights"]["counts"]
        counts = f"{missing} keys missing, {unexpected} unexpected, {misshaped} of another shape"
        found.append(f"{said['weights']['path']}: {counts}.")
    return found


def rows(application: Application, findings: Sequence[Finding]) -> list[Row]:
    pairs, gone, new = pairs_of(application)
    found = [row_of(application, pair, findings) for pair in pairs]
    for layers, word, moment in ((gone, "gone", application.before), (new, "new", application.after)):
        for layer in layers:
            worst = worst_of(layer.layer, findings)
            folded = worst is not None and worst.cause == "folding" and worst.kind == "rounding"
            said = "folded" if folded else word
            cells = (moment.kinds[layer.layer], MODES[layer.training], "", "", "", "", "", said)
            found.append(Row(layer=layer.layer[:1000], cells=cells, mark=mark_of(worst)))
    return found


def row_of(application: Application, pair: Pair, findings: Sequence[Finding]) -> Row:
    worst = worst_of(pair.name, findings)
    cells = (
        either(application.before.kinds[pair.a.layer], application.after.kinds[pair.b.layer]),
        either(MODES[pair.a.training], MODES[pair.b.training]),
        *(cell(pair, what) for what in (*QUANTITIES, "counter")),
        worst.cause if worst is not None else "same",
    )
    return Row(layer=pair.name[:1000], cells=cells, mark=mark_of(worst))


def either(one: str, two: str) -> str:
    return one if one == two else f"{one} → {two}"


def worst_of(layer: str, findings: Sequence[Finding]) -> Finding | None:
    own = [finding for finding in findings if layer in {name for name, _ in finding.places}]
    return min(own, key=lambda finding: KINDS.index(finding.kind), default=None)


def mark_of(worst: Finding | None) -> str:
    return "agrees" if worst is None or worst.kind == "rounding" else worst.kind
