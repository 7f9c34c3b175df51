"""Does an ONNX file do what ONNX says? Its own input, its own opset's text in float64, played by onnxruntime."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.diagnosis.rules.layer_names import listed
from bncheck.environments.devices import physical_memory
from bncheck.errors import NothingToJudge, UsageError
from bncheck.finding import KINDS, NODES, Finding
from bncheck.playing.job import Limits
from bncheck.playing.jobs import Options
from bncheck.playing.progress import Listener
from bncheck.report.plain_text import plural
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.results import CellResult, Results
from bncheck.session import Request, carry_out
from bncheck.subjects.begun import AT_ONCE, PLAYERS
from bncheck.worker.onnx_side import file as onnx_file

if TYPE_CHECKING:
    from bncheck.playing.readied import Readied
    from bncheck.subjects.asked import Asked

SCENARIO = "onnx-file"
COLUMNS = ("mode", "channels", "eps", "verdict")


def check_file(asked: Asked, listener: Listener, ready: tuple[Readied, ...] = ()) -> tuple[Path, Results]:
    """Play it as it is, in inference and in training mode, and hold it to its opset."""
    from bncheck.subjects.asked import parse_input

    path = asked.thing.path
    assert path is not None
    refuse_options(asked)
    graph = read(str(path))
    norms = onnx_file.batch_norms(graph)
    if not norms:
        raise NothingToJudge(
            f"{path.name} has no BatchNormalization node: there is nothing to check",
            "exporters fold BatchNorm into the convolution before it; compare file and model with: bncheck diff",
        )
    overrides = [f"network.file={path}"]
    if asked.inputs:
        given = parse_input(asked.inputs[0])
        overrides.append(f"input.shape={given['shape']}")
        overrides += [f"dtype={given['dtype']}"] if ":" in asked.inputs[0] else []
    request = Request(
        scenarios=(SCENARIO,),
        targets=PLAYERS,
        optional=PLAYERS[:1],  # where it lacks an operator each node is judged alone, and that is an answer
        overrides=overrides,
        pythons=(f"onnxruntime={asked.python}",) if asked.python else (),
        out=asked.out,
        probes=False,
        bar=asked.bar,
        formats=asked.formats,
        options=Options(AT_ONCE, Limits(cell_seconds=asked.seconds, memory=physical_memory()), ready=ready),
        concluding=lambda results: concluded(asked.thing.text, graph, norms, results),
        command=asked.command,
    )
    run, results = carry_out(request, listener)
    if asked.save_scenario is not None:
        save(asked, results, listener)
    return run, results


def save(asked: Asked, results: Results, listener: Listener) -> None:
    """As a scenario, with the shape and type that were played."""
    from bncheck.subjects.saved_scenario import save_file

    assert asked.save_scenario is not None
    cases = [case for scenario in results.scenarios if scenario.name == SCENARIO for case in scenario.cases]
    shapes = [value for case in cases for value in case.inputs.values() if isinstance(value, Mapping)]
    if not shapes:
        raise UsageError("Nothing was played that a scenario could hold.", "Leave out --save-scenario.")
    dtype = str(shapes[0].get("dtype") or "float32")
    again = save_file(asked, shapes[0]["shape"], dtype, asked.save_scenario)
    listener.say(f"play it again with: {again}")


def refuse_options(asked: Asked) -> None:
    for word, value in (("--weights", asked.weights), ("--data", asked.data), ("--with", asked.given)):
        if value:
            raise UsageError(f"{asked.thing.text} is an ONNX file, and {word} is for code.", f"Leave out {word}.")
    if len(asked.inputs) > 1:
        raise UsageError("an ONNX file is checked on one input so far.", "Give one --input, or none.")


def read(path: str) -> Any:
    try:
        return onnx_file.read(path)
    except onnx_file.FileError as error:
        raise UsageError(f"{path} cannot be checked: {error}", "export it again, or name another file") from None


def concluded(subject: str, graph: Any, norms: Sequence[Any], results: Results) -> tuple[Results, Answer]:
    """What happened, in the words of this command: a shape is given by --input here, and by --set in a run."""
    cells = tuple(replace(cell, error=in_words_of_check(cell.error)) for cell in results.cells)
    results = replace(results, cells=cells)
    return results, answer_of(subject, graph, norms, results)


def in_words_of_check(error: str) -> str:
    said = re.sub(r"the scenario gives (\[[\d, ]*\])", r"and --input gives \1", error)
    return re.sub(
        r"say --set input\.shape=\[([\d, ]*)\]", lambda found: f"say --input {found[1].replace(' ', '')}", said
    )


def answer_of(subject: str, graph: Any, norms: Sequence[Any], results: Results) -> Answer:
    cells = [cell for cell in results.cells if cell.scenario == SCENARIO]
    found = [item for item in results.findings if item.scenario == SCENARIO and item.kind != "rounding"]
    leading = min(found, key=lambda item: KINDS.index(item.kind), default=None)
    return Answer(
        verb="check",
        subject=subject,
        headline=headline(len(norms), leading, cells, graph.opset),
        columns=COLUMNS,
        rows=tuple(row(graph, norm, found, stopped_by(cells) is None) for norm in norms),
        notes=notes(graph, norms, results, cells),
    )


def headline(count: int, leading: Finding | None, cells: Sequence[CellResult], opset: int) -> str:
    if leading is not None:
        return leading.title
    why = stopped_by(cells)
    if why is not None:
        return f"The file could not be played: {why}"
    return f"The file does what ONNX opset {opset} says: {plural(count, 'BatchNormalization node')} checked."


def stopped_by(cells: Sequence[CellResult]) -> str | None:
    """Why the runtime did not play the file; None where it did."""
    stopped = next((cell for cell in cells if cell.target != "reference" and cell.outcome != "ok"), None)
    if stopped is not None:
        return " ".join((stopped.error or stopped.outcome).split())
    return None if cells else "onnxruntime did not run"


def row(graph: Any, norm: Any, found: Sequence[Finding], played: bool) -> Row:
    own = [item for item in found if item.layer == norm.layer or (item.cause == "mode-leak" and norm.training)]
    worst = min(own, key=lambda item: KINDS.index(item.kind), default=None)
    sizes = [graph.weights[name].size for name in norm.node.inputs[1:5] if name in graph.weights]
    said = worst.cause if worst is not None else as_found(graph, norm) if played else "not played"
    cells = ("training" if norm.training else "inference", str(sizes[0]) if sizes else "?", f"{norm.eps:g}", said)
    return Row(
        layer=norm.layer, cells=cells, mark=worst.kind if worst is not None else "agrees" if played else "not compared"
    )


def as_found(graph: Any, norm: Any) -> str:
    return "as ONNX says" + (", statistics at their start" if at_start(graph, norm) else "")


def at_start(graph: Any, norm: Any) -> bool:
    """Whether it holds the statistics of a layer that no training has reached: mean 0 and variance 1."""
    mean, var = (graph.weights.get(name) for name in norm.node.inputs[3:5])
    return mean is not None and var is not None and not mean.any() and bool((var == 1).all())


def biased(graph: Any) -> int:
    """Convolutions that add a bias and have no BatchNormalization behind them: folding leaves such ones."""
    behind = {name for node in graph.every_node if node.kind == "BatchNormalization" for name in node.inputs[:1]}
    convolutions = [node for node in graph.every_node if node.kind in ("Conv", "ConvTranspose")]
    return sum(len(node.inputs) > 2 and not behind & set(node.outputs) for node in convolutions)


def notes(graph: Any, norms: Sequence[Any], results: Results, cells: Sequence[CellResult]) -> tuple[str, ...]:
    case = next((case for scenario in results.scenarios if scenario.name == SCENARIO for case in scenario.cases), None)
    shapes = [value.get("shape") for value in (case.inputs if case else {}).values() if isinstance(value, Mapping)]
    begun = any(cell.outcome == "ok" for cell in cells)
    shown = " and ".join("×".join(map(str, shape)) for shape in shapes if shape and begun)
    said = [f"Opset {graph.opset}" + (f", written by {graph.producer}." if graph.producer else ".")]
    said += [f"Played on made-up numbers: {shown}. Another shape: --input SHAPE."] if shown else []
    new = [norm.layer for norm in norms if at_start(graph, norm)]
    if new:
        hold = "holds" if len(new) == 1 else "hold"
        said.append(
            f"{listed(new)} {hold} mean 0 and variance 1, as before any training. If the model was trained, its "
            f"statistics did not reach the file: bncheck diff MODEL.py:build {Path(graph.path).name} compares them."
        )
    folded = biased(graph)
    if folded:
        said.append(
            f"{plural(folded, 'convolution')} with a bias may hold a BatchNorm that the exporter folded in, which this "
            f"file alone does not show: bncheck diff MODEL.py:build {Path(graph.path).name} compares them."
        )
    lacking = next((cell.error for cell in cells if cell.target == "reference" and cell.outcome != "ok"), "")
    alone = any(NODES in item.evidence for item in results.findings)
    if lacking and alone:
        said.append(
            f"Each node was held to the text of its opset on the input that it got: {' '.join(lacking.split())}."
        )
    return tuple(said)
