"""A model against its ONNX file, a file against another, a model against another: the same bytes through both."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.checkpoints.arrays import npy_of
from bncheck.checkpoints.normalisers import plain_name
from bncheck.checkpoints.recognise import Checkpoint, read_checkpoint
from bncheck.checkpoints.tensor import Tensor
from bncheck.checkpoints.zipped import entries
from bncheck.diagnosis.held.outputs import Measured, gap, hold_against, readings
from bncheck.diagnosis.held.reading import Sides, finding_of
from bncheck.environments.backend_file import find_backends
from bncheck.environments.installed import installed_in
from bncheck.environments.pythons import Unavailable, make_ready
from bncheck.environments.targets import Target
from bncheck.errors import EnvironmentFailure, UsageError
from bncheck.finding import KINDS, Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.folder import create_run_folder, read_json, write_json
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.asked import parse_input
from bncheck.subjects.conclusion import conclude, results_of, slug_of
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.made import Making
from bncheck.subjects.model import holding_of
from bncheck.subjects.sides import AskedDiff, Side, names_of
from bncheck.subjects.two_files import others, side_by_side
from bncheck.trace import Array
from bncheck.worker.onnx_side import file as onnx_file

if TYPE_CHECKING:
    from bncheck.session import Listener  # it imports what plays cells

PLAYER = Path(__file__).parent.parent / "worker" / "onnx_side" / "outputs.py"
BATCH, SIDE = 4, {4: 64, 3: 32, 5: 16}


@dataclass(frozen=True)
class Played:
    """One side: what it holds, and its outputs for each way to run it. ``python`` ran it; ``version`` its framework."""

    checkpoint: Checkpoint
    plays: Mapping[str, Sequence[Array]]
    taps: Mapping[str, Array]
    arrays: Path  # the .npz with its inputs
    backend: str
    version: str
    python: str
    remarks: tuple[str, ...] = ()


def compare_plays(asked: AskedDiff, listener: Listener) -> tuple[Path, Results]:
    """Play both on the same input, compare and write down; (the run folder, what was found)."""
    with tempfile.TemporaryDirectory(prefix="bncheck-") as name:
        folder = Path(name)
        first, second = (asked.a, asked.b) if asked.a.kind == "code" or asked.b.kind != "code" else (asked.b, asked.a)
        one = play(first, second, asked, folder / "one", None, listener)
        two = play(second, first, asked, folder / "two", one.arrays, listener)
        names = names_of(first, second)
        answer, findings, missed = judged(one, two, names)
    targets = [target_of(word, each) for word, each in zip(names, (one, two), strict=True)]
    run = create_run_folder(asked.out)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results = results_of(answer, findings, targets, asked.command, created)
    conclude(run, answer, results, asked.bar, asked.formats, listener.say, missed)
    return run, results


def target_of(name: str, played: Played) -> TargetResult:
    return TargetResult(
        name=name, slug=slug_of(name), backend=played.backend, version=played.version, python=played.python
    )


def play(side: Side, other: Side, asked: AskedDiff, folder: Path, given: Path | None, listener: Listener) -> Played:
    folder.mkdir()
    if side.kind == "code":
        return play_model(side, other, asked, folder, given, listener)
    return play_file(side, asked, folder, given, listener)


# ------------------------------------------------------------------------------------------------------- a model


def play_model(
    side: Side, other: Side, asked: AskedDiff, folder: Path, given: Path | None, listener: Listener
) -> Played:
    assert side.thing is not None
    backend = find_backends(())[side.thing.framework]
    python = find_python(asked.python, backend, report=listener.say)
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
    }
    said = Making(python.path, job, folder).wait(asked.seconds)
    arrays = arrays_of(folder / "outputs.npz")
    holding = holding_of(side.text, said, folder / "held.npz")
    # The state is read now: its file goes with the folder.
    state = {key: in_memory(tensor) for key, tensor in state_of(folder / "state.npz").items()}
    return Played(
        checkpoint=Checkpoint(holding=holding, tensors=state),
        plays=grouped(arrays),
        taps={key.removeprefix("tap/"): array for key, array in arrays.items() if key.startswith("tap/")},
        arrays=folder / "outputs.npz" if given is None else given,
        backend=backend.name,
        version=str(said["torch"]),
        python=str(python.path),
        remarks=remarks_of(said, side.text),
    )


def remarks_of(said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    shapes = ", ".join(f"{each['dtype']} {'×'.join(map(str, each['shape']))}" for each in said["input"]["shapes"])
    found = [f"Both got the same bytes: {shapes}."]
    loaded = said.get("weights")
    if not loaded:
        found.append(f"{name} was taken as it is built. Weights from a file: --weights FILE.")
    if loaded and any(loaded["counts"]):
        missing, unexpected, misshaped = loaded["counts"]
        found.append(
            f"{loaded['path']}: {missing} keys missing, {unexpected} unexpected, {misshaped} of another shape."
        )
    return tuple(found)


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


def arrays_of(path: Path) -> dict[str, Array]:
    return {key: tensor.read() for key, tensor in state_of(path).items()}


def state_of(path: Path) -> dict[str, Tensor]:
    found = {name.removesuffix(".npy"): npy_of(path, entry.whole()) for name, entry in entries(path).items()}
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def in_memory(tensor: Tensor) -> Tensor:
    array = tensor.read()
    return replace(tensor, read=lambda: array)


def grouped(arrays: Mapping[str, Array]) -> dict[str, list[Array]]:
    """Way to run it → its outputs in order."""
    found: dict[str, list[tuple[int, Array]]] = {}
    for key, array in arrays.items():
        way, _, place = key.rpartition("/")
        if place.isdigit() and way not in ("input", "tap"):
            found.setdefault(way, []).append((int(place), array))
    return {way: [array for _, array in sorted(items, key=lambda item: item[0])] for way, items in found.items()}


# --------------------------------------------------------------------------------------------------------- a file


def play_file(side: Side, asked: AskedDiff, folder: Path, given: Path | None, listener: Listener) -> Played:
    assert side.path is not None
    graph_of(side)
    (checkpoint,) = read_checkpoint(side.path)
    if given is None:
        given = asked.data.absolute() if asked.data else random_inputs(side, asked, folder)
    python = python_with_onnxruntime(asked, listener)
    write_json(folder / "play.json", {"file": str(side.path.absolute()), "arrays": str(given)})
    try:
        done = subprocess.run(
            [str(python), "-I", str(PLAYER), str(folder)], capture_output=True, timeout=asked.seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailure(
            f"{side.text} did not end within {asked.seconds:g} s", "give it more time: --timeout SECONDS"
        ) from None
    if not (folder / "played.json").is_file():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise EnvironmentFailure(f"onnxruntime died on {side.text}: {last[0][:500]}", "try another version of it")
    said = read_json(folder / "played.json")
    if said["error"]:
        why = " ".join(str(said["error"]).split())
        raise UsageError(f"onnxruntime does not run {side.text} on this input: {why}", "give one: --input, or --data")
    return Played(
        checkpoint=checkpoint,
        plays=grouped(arrays_of(folder / "played.npz")),
        taps={},
        arrays=given,
        backend="onnxruntime",
        version=str(said["version"]),
        python=str(python),
    )


def random_inputs(side: Side, asked: AskedDiff, folder: Path) -> Path:
    import numpy as np

    wanted = inputs_of(asked, side)
    if not wanted:
        raise UsageError(f"{side.text} does not say what it takes.", "say it: --input 4,3,64,64, or --data batch.npz")
    dice = np.random.default_rng(0)
    made = {}
    for place, each in enumerate(wanted):
        kind = "float32" if each["dtype"] == "bfloat16" else each["dtype"]
        whole = kind.startswith(("int", "uint", "bool"))
        numbers = dice.integers(0, 2, each["shape"]) if whole else dice.standard_normal(each["shape"])
        made[f"input/{place}"] = numbers.astype(kind)
    np.savez(folder / "inputs.npz", **made)
    return folder / "inputs.npz"


def python_with_onnxruntime(asked: AskedDiff, listener: Listener) -> Path:
    """The user's Python where it has onnxruntime; bncheck's environment for it else."""
    backend = find_backends(())["onnxruntime"]
    if asked.python:
        given = Path(asked.python).expanduser()
        answer = installed_in(given, "onnxruntime") if given.is_file() else None
        if answer is not None and "onnxruntime" in answer[1]:
            return given
    ready = make_ready(Target("onnxruntime"), backend, {}, listener.say, devices=False)
    if isinstance(ready, Unavailable):
        raise EnvironmentFailure(f"no Python here has onnxruntime: {ready.reason}", ready.remedy)
    return ready.python


# -------------------------------------------------------------------------------------------------- what it means


def judged(one: Played, two: Played, names: tuple[str, str]) -> tuple[Answer, list[Finding], tuple[Shortfall, ...]]:
    answer, held, _ = side_by_side(one.checkpoint, two.checkpoint, names)
    eps = {layer.eps for layer in one.checkpoint.holding.layers}
    sides = Sides(
        a=names[0], b=names[1], case=slug_of(answer.subject), eps_a=next(iter(eps)) if len(eps) == 1 else None
    )
    other = two.plays.get("plain") or two.plays.get("eval") or ()
    found = hold_against(ways(one), other)
    outputs = [finding_of(sides, reading) for reading in readings(sides, found)]
    if "optimised" in two.plays:
        outputs += [finding_of(sides, each) for each in optimised(sides, two)]
    outputs = [with_layers(finding, held) for finding in outputs]
    equal = all(finding.kind == "rounding" for finding in outputs)
    # What layers hold in another way and nobody sees in the outputs (a pruned layer, a constant) is no difference.
    kept = [finding for finding in held if not equal or finding.kind == "rounding" or finding.cause in OF_STATE]
    if any(finding.cause == "mode-leak" for finding in outputs):  # exporting in training mode moves statistics
        kept = [finding for finding in kept if finding.cause != "mode-leak" and not of_statistics(finding)]
    said = {finding.cause for finding in outputs}
    kept = [finding for finding in kept if finding.cause not in ("eps", "stale-state") or finding.cause not in said]
    if nothing_else_differs(one, two, answer):
        outputs, kept = followed(outputs, kept)
    findings = sorted([*outputs, *kept], key=lambda found: KINDS.index(found.kind))
    answer = replace(
        answer,
        headline=headline(answer, sides, found, findings),
        rows=tuple(as_computed(row, findings) for row in answer.rows) if equal else answer.rows,
        notes=(*one.remarks, *first_tap(one, two, names), *answer.notes),
    )
    return answer, findings, ()


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
    if row.mark != "defect" or row.layer in named:
        return row
    return replace(row, cells=(*row.cells[:-1], "folded, by its outputs"), mark="agrees")


# Causes that outputs of eval do not show.
OF_STATE = ("batch-weight", "counter-skew", "poisoned-state")


def ways(played: Played) -> dict[str, Sequence[Array]]:
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
    folded = sum("folded:" in row.cells[-1] for row in answer.rows)
    layers = f", {folded} BatchNorm folded" if folded else ""
    return f"{sides.b} and {sides.a} give outputs that are {how}{layers}."


def optimised(sides: Sides, two: Played) -> list[Any]:
    """Whether onnxruntime's own optimisation of the file changes what it gives."""
    from bncheck.diagnosis.held.outputs import bound
    from bncheck.diagnosis.held.reading import Reading

    apart, allowed = gap(two.plays["plain"], two.plays["optimised"]), bound(two.plays, "plain")
    if apart <= allowed:
        return []
    return [
        Reading(
            cause="folding",
            kind="hazard",
            title=f"onnxruntime {two.version} gives other outputs for {sides.b} with graph optimisation than without: "
            f"{100 * apart:.3g} % of the largest, where rounding goes to {100 * allowed:.2g} %.",
            advice=f"see which is right: bncheck check {sides.b}",
            places=(("", "output"),),
        )
    ]


def first_tap(one: Played, two: Played, names: tuple[str, str]) -> list[str]:
    """Of two models: the first normalising layer whose output differs, by the order in which they ran."""
    if not one.taps or not two.taps:
        return []
    if len(one.taps) != len(two.taps):
        return [f"{names[0]} ran {len(one.taps)} normalising layers, {names[1]} {len(two.taps)}."]
    for (name, mine), (other, theirs) in zip(one.taps.items(), two.taps.items(), strict=True):
        apart = gap([mine], [theirs])
        if apart > 1e-4:
            also = "" if name == other else f" ({other} in {names[1]})"
            return [
                f"The first layer whose output differs in eval is {name}{also}: {100 * apart:.3g} % of its largest."
            ]
    return ["Every normalising layer gives the same in eval, up to rounding."]
