"""A model against its file, a file against another, a model against another: the same bytes through both."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bncheck.bounded import expanded
from bncheck.checkpoints.normalisers import plain_name
from bncheck.checkpoints.recognise import Checkpoint
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.outputs import aligned, as_cast, bound, gap, hold_against, in_the_files_type, readings
from bncheck.diagnosis.held.reading import Reading, Sides, finding_of
from bncheck.environments.backend_file import find_backends
from bncheck.errors import UsageError
from bncheck.finding import KINDS, Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.report.plain_text import plural
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.folder import create_run_folder
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.asked import parse_input
from bncheck.subjects.conclusion import conclude, results_of, slug_of
from bncheck.subjects.exchanged import exchanged, follows, in_its_type
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.made import Making, SubjectFailure
from bncheck.subjects.played_file import (
    Played,
    arrays_of,
    grouped,
    has,
    in_memory,
    play_file,
    play_unrounded,
    players,
    state_of,
    write_restored,
)
from bncheck.subjects.quantised import is_quantised, played_without, readings_of, with_folds
from bncheck.subjects.refolded import explained, refolded
from bncheck.subjects.said_of_plays import given_as, remarks_of
from bncheck.subjects.seen import holding_of
from bncheck.subjects.sides import AskedDiff, Side, names_of
from bncheck.subjects.two_causes import in_two_ways
from bncheck.subjects.two_files import others, side_by_side
from bncheck.worker.onnx_side import file as onnx_file

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener

NONE: Mapping[str, Any] = {}
BATCH, SIDE = 4, {4: 64, 3: 32, 5: 16}
# The side that is told more about, and run in more ways, comes first.
ORDER = ("code", "keras", "onnx", "exported", "checkpoint")


def compare_plays(asked: AskedDiff, listener: Listener) -> tuple[Path, Results]:
    """Play both on the same input, compare and write down; (the run folder, what was found)."""
    with tempfile.TemporaryDirectory(prefix="bncheck-") as name:
        folder = Path(name)
        first, second = sorted((asked.a, asked.b), key=told_more)
        # What says which input it takes goes first: a file, and of two files the one with fewer sizes left open.
        if first.kind == "code" and second.kind in ("code", "onnx"):
            one = play(first, second, asked, folder / "one", None, listener)
            two = play(second, first, asked, folder / "two", one.arrays, listener)
        else:
            two = play(second, first, asked, folder / "two", None, listener)
            one = play(first, second, asked, folder / "one", two.arrays, listener)
        if first.kind == second.kind and len(one.checkpoint.holding.layers) < len(two.checkpoint.holding.layers):
            one, two, first, second = two, one, second, first  # what lacks layers is told by what has them
        two = played_without(second, two, one, folder / "unrounded", asked.seconds)
        two = refolded(one, two, partial(play_restored, second, first, two, asked, folder / "refolded", listener))
        if first.kind == "code" and two.quantised is None:
            again = partial(play_model, first, second, asked, folder / "again", one.arrays, listener)
            one = in_two_ways(one, two, again)
            cast = partial(play_model, first, second, asked, folder / "cast", one.arrays, listener, (), NONE)
            one = in_its_type(one, two, cast) if second.kind == "code" else one
            one = exchanged(one, two, partial(play_restored, first, second, one, asked, folder / "other", listener))
        names = names_of(first, second)
        answer, findings, missed = judged(one, two, names)
    targets = [target_of(word, each) for word, each in zip(names, (one, two), strict=True)]
    run = create_run_folder(asked.out)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results = results_of(answer, findings, targets, asked.command, created)
    conclude(run, answer, results, asked.formats, listener.say, asked.bar, missed)
    return run, results


def told_more(side: Side) -> tuple[int, bool]:
    """Of two files a quantised one comes second: the other's numbers are those that were rounded."""
    return ORDER.index(side.kind), is_quantised(side)


def target_of(name: str, played: Played) -> TargetResult:
    return TargetResult(
        name=name, slug=slug_of(name), backend=played.backend, version=played.version, python=played.python
    )


def play(side: Side, other: Side, asked: AskedDiff, folder: Path, given: Path | None, listener: Listener) -> Played:
    folder.mkdir()
    if side.kind != "code":
        return play_file(side, asked, folder, given, listener)
    failed: SubjectFailure | None = None
    for place, arrays in enumerate(as_a_model_takes_them(given, folder) if other.kind != "code" else [given]):
        (folder / str(place)).mkdir()
        try:
            return play_model(side, other, asked, folder / str(place), arrays, listener)
        except SubjectFailure as failure:
            failed = failed or failure
    assert failed is not None
    raise failed


def as_a_model_takes_them(given: Path | None, folder: Path) -> Iterator[Path | None]:
    """The inputs of a file as it has them, and with the axis of channels moved, likeliest first."""
    arrays = [value for key, value in arrays_of(given).items() if key.startswith("input/")] if given else []
    if not any(each.ndim > 2 for each in arrays):
        yield given
        return
    moved = folder / "channels-first.npz"
    changed = [np.moveaxis(each, -1, 1) if each.ndim > 2 else each for each in arrays]
    named: dict[str, Any] = {f"input/{place}": np.ascontiguousarray(each) for place, each in enumerate(changed)}
    np.savez(moved, **named)
    channels_last = any(each.ndim > 2 and each.shape[-1] < each.shape[1] for each in arrays)
    yield from (moved, given) if channels_last else (given, moved)


# ------------------------------------------------------------------------------------------------------- a model


def play_model(
    side: Side,
    other: Side,
    asked: AskedDiff,
    folder: Path,
    given: Path | None,
    listener: Listener,
    together: Sequence[float] = (),
    restored: Mapping[str, NDArray[Any]] = NONE,
    cast: str = "",
) -> Played:
    """``together`` are eps to run it with in each other way too; ``restored`` weights that stand for its own; ``cast``
    a type to run it in."""
    assert side.thing is not None
    backend = find_backends(())[side.thing.framework]
    given_python = None if for_the_file_alone(asked.python, backend.module, other) else asked.python
    python = find_python(given_python, backend, report=listener.say)
    job = {
        "module": side.thing.module,
        "name": side.thing.name,
        "with": {},
        "as": "model",
        "inputs": inputs_of(asked, other),
        "weights": str(asked.weights.absolute()) if asked.weights else "",
        "data": str(given or (asked.data.absolute() if asked.data else "")),
        "steps": 0,
        "play": "outputs",
        "together": list(together),
        "restored": write_restored(folder, restored),
        "cast": cast,
    }
    said = Making(python.path, job, folder, asked.nursery_of(python.path)).wait(asked.seconds)
    arrays = arrays_of(folder / "outputs.npz")
    holding = holding_of(side.text, said, folder / "held.npz")
    # The state is read now: its file goes with the folder.
    halves = {str(key): str(kind) for key, kind in said.get("halves", {}).items()}
    state = {
        key: replace(in_memory(tensor), dtype=halves.get(key, tensor.dtype))
        for key, tensor in state_of(folder / "state.npz").items()
    }
    return Played(
        checkpoint=Checkpoint(
            holding=holding,
            tensors=state,
            axes={str(key): 1 if axis else 0 for key, axis in said.get("axes", {}).items()},
        ),
        plays=grouped(arrays),
        taps={key.removeprefix("tap/"): array for key, array in arrays.items() if key.startswith("tap/")},
        arrays=folder / "outputs.npz" if given is None else given,
        backend=backend.name,
        title=backend.title,
        version=str(said["torch"]),
        python=str(python.path),
        remarks=remarks_of(said, side.text),
        narrow={str(kind): int(count) for kind, count in said.get("narrow", {}).items()} | Counter(halves.values()),
    )


def play_restored(
    side: Side,
    other: Side,
    played: Played,
    asked: AskedDiff,
    folder: Path,
    listener: Listener,
    weights: Mapping[str, NDArray[Any]],
) -> Mapping[str, Sequence[NDArray[Any]]]:
    """What it gives on the same input with other weights, as "restored"; nothing for what cannot be changed."""
    if side.kind == "code":
        return play_model(side, other, asked, folder, played.arrays, listener, restored=weights).plays
    return play_unrounded(side, played, weights, folder, asked.seconds) if side.kind == "onnx" else {}


def for_the_file_alone(python: str | None, module: str, other: Side) -> bool:
    """Whether ``--python`` has what plays the file on the other side, and not the model's framework: it was given for
    the file."""
    player = players().get(other.path.suffix.lower()) if other.kind != "code" and other.path is not None else None
    if python is None or player is None:
        return False
    path = expanded(python)
    return not has(path, module) and has(path, player.runtime.module)


def inputs_of(asked: AskedDiff, other: Side) -> list[dict[str, Any]]:
    """What --input says, else what an ONNX file on the other side declares; sizes that it leaves open are small."""
    if asked.inputs:
        return [parse_input(text) for text in asked.inputs]
    if other.kind != "onnx" or asked.data:
        return []
    found = []
    for kind, shape in graph_of(other).inputs.values():
        if shape is None or not kind:
            return []
        sizes = [BATCH if place == 0 else SIDE.get(len(shape), 16) for place in range(len(shape))]
        found.append({"dtype": kind, "shape": [size or usual for size, usual in zip(shape, sizes, strict=True)]})
    return found


def graph_of(side: Side) -> Any:
    try:
        return onnx_file.read(str(side.path))
    except onnx_file.FileError as error:
        raise UsageError(f"{side.text} cannot be compared: {error}", "export it again") from None


# -------------------------------------------------------------------------------------------------- what it means


def judged(one: Played, two: Played, names: tuple[str, str]) -> tuple[Answer, list[Finding], tuple[Shortfall, ...]]:
    rounded = {} if two.quantised is None else two.quantised.folded
    answer, held, _ = side_by_side(one.checkpoint, two.checkpoint, names, played=True, rounded=rounded)
    eps = {layer.eps for layer in one.checkpoint.holding.layers}
    sides = Sides(
        a=names[0], b=names[1], case=slug_of(answer.subject), eps_a=next(iter(eps)) if len(eps) == 1 else None
    )
    usual = one.plays.get("eval") or one.plays.get("plain") or ()
    other = aligned(usual, two.plays.get("plain") or two.plays.get("eval") or ())
    found = hold_against(ways(one), other)
    said_of_outputs = (
        as_cast(sides, one.cast, other, found, two.narrow)
        or in_the_files_type(sides, one.plays, found, two.narrow)
        or readings_of(sides, one, two, found)
    )
    said_of_outputs = said_of_outputs or readings(sides, found, two.narrow)
    outputs = [finding_of(sides, reading) for reading in said_of_outputs]
    if "optimised" in two.plays:
        fits = (found.get("eval") or found["plain"]).fits
        outputs += [finding_of(sides, each) for each in optimised(sides, two, fits)]
    outputs = [with_layers(finding, held) for finding in outputs]
    equal = all(finding.kind == "rounding" for finding in outputs)
    # What layers hold in another way and nobody sees in the outputs (a pruned layer, a constant) is no difference.
    kept = [finding for finding in held if not equal or finding.kind == "rounding" or finding.cause in OF_STATE]
    if any(finding.cause == "mode-leak" for finding in outputs):  # exporting in training mode moves statistics
        kept = [finding for finding in kept if finding.cause != "mode-leak" and not of_statistics(finding)]
    said = {finding.cause for finding in outputs}
    if outputs and "unexplained" not in said and not equal:  # what leaves a layer out is not explained by less
        kept = [finding for finding in kept if finding.cause != "state-mismatch"]
    if two.backend in WITHOUT_BATCHNORM:  # that a layer is not seen there says nothing
        kept = [finding for finding in kept if (finding.cause, finding.kind) != ("state-mismatch", "hazard")]
    kept = [finding for finding in kept if finding.cause not in ("eps", "stale-state") or finding.cause not in said]
    outputs, kept = explained(one, two, outputs, kept, found.get("eval") or found["plain"])
    outputs, kept = follows(sides, one, two, outputs, kept, found.get("eval") or found["plain"])
    if nothing_else_differs(one, two, answer):
        outputs, kept = followed(outputs, kept)
    findings = sorted([*outputs, *kept], key=lambda found: KINDS.index(found.kind))
    answer = replace(answer, rows=with_folds(answer.rows, two.quantised))
    answer = replace(
        answer,
        headline=headline(answer, sides, found, findings),
        rows=tuple(as_computed(row, findings) for row in answer.rows) if equal else answer.rows,
        notes=tuple(
            dict.fromkeys(
                (
                    *how_played(one, two, names),
                    *one.remarks,
                    *given_as(two.remarks, one.remarks, names[1]),
                    *first_tap(one, two, names),
                    *answer.notes,
                )
            )
        ),
    )
    return answer, findings, ()


def how_played(one: Played, two: Played, names: tuple[str, str]) -> list[str]:
    """What ran each, and on what, unless both are code, which says so itself."""
    if (one.title, one.version) == (two.title, two.version):
        return [f"Both were played by {one.title} {one.version}."]
    by = [f"{name} was played by {each.title} {each.version}" for name, each in zip(names, (one, two), strict=True)]
    return [f"{by[0]}, {by[1]}."]


def with_layers(finding: Finding, held: Sequence[Finding]) -> Finding:
    """A finding about outputs, with the layers in which the files themselves show its cause."""
    same = [each for each in held if each.cause == finding.cause and each.kind != "rounding"]
    return replace(finding, accounts=tuple(dict.fromkeys(place for each in same for place in sorted(each.places))))


def nothing_else_differs(one: Played, two: Played, answer: Answer) -> bool:
    """Whether two files hold the same tensors under the same names, but for what their normalising layers hold."""
    files = (one.checkpoint, two.checkpoint)
    keys = [{plain_name(key) for key in each.holding.others} for each in files]
    found = others(*files)
    paired = not any(row.cells[-1].startswith("only in ") for row in answer.rows)
    onnx = all(each.holding.framework == "onnx" for each in files)
    return onnx and paired and keys[0] == keys[1] and found is not None and not found.different


def followed(outputs: Sequence[Finding], held: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Outputs that nothing run another way explains, between files that differ in what named findings say and in
    nothing else: they follow from that."""
    open_ones = [finding for finding in outputs if finding.kind == "unexplained"]
    causes = [finding for finding in held if finding.kind != "rounding"]
    if not open_ones or not causes or any(finding.kind == "unexplained" for finding in causes):
        return list(outputs), list(held)
    size = next((str(value) for key, value in open_ones[0].evidence.items() if key == "gap, plain"), "")
    apart = f" by {100 * float(size):.3g} % of the largest" if size else ""
    first = replace(
        causes[0],
        title=f"{causes[0].title} So their outputs differ{apart}; no other tensor of the files does.",
        accounts=(*causes[0].accounts, ("", "output")),
    )
    return [each for each in outputs if each not in open_ones], [first if each is causes[0] else each for each in held]


def of_statistics(finding: Finding) -> bool:
    """Whether it says no more than that statistics are others: a forward moves those."""
    moved = {quantity for _, quantity in finding.places} <= {"running_mean", "running_var", "counter"}
    return finding.cause == "stale-state" or (finding.kind == "unexplained" and moved)


def as_computed(row: Row, findings: Sequence[Finding]) -> Row:
    """Where outputs are equal, a layer whose weights alone do not show how it was folded is folded all the same."""
    named = {layer for finding in findings for layer, _ in finding.places}
    lacking = row.cells[-1].startswith("only in ")
    if (row.mark != "defect" and not lacking) or row.layer in named:
        return row
    said = f"{row.cells[-1]}, outputs equal" if lacking else "folded, by its outputs"
    return replace(row, cells=(*row.cells[:-1], said), mark="agrees")


# Formats that have no operator for BatchNorm: it is always folded, or a product and a sum.
WITHOUT_BATCHNORM = ("tflite",)
# Causes that outputs of eval do not show.
OF_STATE = ("batch-weight", "counter-skew", "poisoned-state")


def ways(played: Played) -> dict[str, Sequence[NDArray[Any]]]:
    return {name: outputs for name, outputs in played.plays.items() if name != "optimised"}


def headline(
    answer: Answer,
    sides: Sides,
    found: Mapping[str, Measured],
    findings: Sequence[Finding],
) -> str:
    grave = [finding for finding in findings if finding.kind != "rounding"]
    if grave:
        return grave[0].title
    how = "equal to the bit" if (found.get("eval") or found["plain"]).gap == 0 else "equal up to rounding"
    folded = sum(row.cells[-1].startswith("folded") for row in answer.rows)
    layers = f", with {plural(folded, 'BatchNorm layer')} folded" if folded else ""
    return f"{sides.b} and {sides.a} give outputs that are {how}{layers}."


def optimised(sides: Sides, two: Played, equal: bool) -> list[Reading]:
    """Whether what a runtime does to a file by itself changes what it gives. A graph optimiser may be wrong; a lower
    precision is what its runtime documents."""
    apart, allowed = gap(two.plays["plain"], two.plays["optimised"]), bound(two.plays, "plain")
    if apart <= allowed:
        return []
    onnx = two.backend == "onnxruntime"
    otherwise = f" Run the plain way it equals {sides.a} up to rounding." if equal else ""
    return [
        Reading(
            cause="folding" if onnx else "reduced-precision",
            kind="hazard" if onnx else "convention",
            title=f"{two.backend if onnx else two.title} {two.version} gives other outputs for {sides.b} {two.usual}: "
            f"{100 * apart:.3g} % of the largest, where rounding may come to {100 * allowed:.2g} %.{otherwise}",
            advice=f"see which is right: bncheck check {sides.b}" if onnx else PLAIN_WAY.get(two.backend, ""),
            places=(("", "output"),),
        )
    ]


PLAIN_WAY = {
    "openvino": 'where that is too much: compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
    "tflite": "where that is too much: Interpreter(..., experimental_op_resolver_type="
    "OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)",
}


def first_tap(one: Played, two: Played, names: tuple[str, str]) -> list[str]:
    """Of two models: the first normalising layer whose output differs, by the order in which they ran."""
    if not one.taps or not two.taps:
        return []
    if len(one.taps) != len(two.taps):
        return [f"{names[0]} ran {len(one.taps)} normalising layers, {names[1]} {len(two.taps)}."]
    for (name, mine), (other, theirs) in zip(one.taps.items(), two.taps.items(), strict=True):
        apart = gap([mine], aligned([mine], [theirs]))
        if apart > 1e-4:
            also = "" if name == other else f" ({other} in {names[1]})"
            return [
                f"The first layer whose output differs in eval is {name}{also}: {100 * apart:.3g} % of its largest."
            ]
    return ["Every normalising layer gives the same in eval, up to rounding."]
