"""Is a layer equivalent to the framework's BatchNorm? A scenario made of what the layer takes, played beside it."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.diagnosis.two_sides import without_targets
from bncheck.environments.backend_file import BackendFile, find_backends
from bncheck.environments.devices import physical_memory
from bncheck.finding import KINDS, Finding
from bncheck.playing.job import Limits
from bncheck.playing.jobs import Options
from bncheck.playing.progress import Listener
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.results import CellResult, Results
from bncheck.scenario import is_file
from bncheck.session import Request, carry_out
from bncheck.subjects.conclusion import slug_of
from bncheck.subjects.how_long import as_long_as_it_holds, training_forwards
from bncheck.subjects.interpreter import UsersPython
from bncheck.subjects.thing import Thing

if TYPE_CHECKING:
    from bncheck.playing.nursery import Nursery
    from bncheck.subjects.asked import Asked

# Gamma and beta of the first channels, repeated: a layer that forgets them is seen.
GAMMA, BETA = (1.5, 0.8, -0.6, 1.2), (0.5, -1.0, 0.0, 2.0)
MEAN, STD = (0.5, -2.0, 3.0, 1.0), (1.0, 0.5, 2.0, 1.5)
LOOP = ["train_forward", "backward"]
SAVED = [LOOP[0], "reload"]  # something to lose, and where it would be
AGAIN = ["eval_forward", *LOOP, "eval_forward"]  # what an eval keeps for later ones shows behind more training
USUAL_CASE, LARGE_CASE = "usual-loop", "large-batch"  # as a matrix writes their labels
REPEAT = 6  # of the events of a case that says nothing else
MANY, LARGEST = 200, 200_000  # samples, and values of such a batch
# Quantity → column: its words in the table of what was compared.
QUANTITIES = {
    "output": "output",
    "running_mean": "running mean",
    "running_var": "running variance",
    "counter": "counter",
    "grad_input": "gradient of the input",
    "grad_gamma": "gradient of gamma",
    "grad_beta": "gradient of beta",
    "mode": "training flag",
}


@dataclass(frozen=True)
class Home:
    """The framework that a layer is written for. ``targets``: the layer's, and the built-in one's. ``usual``: eps and
    momentum of the built-in layer; ``asked``: where the layer takes them, other than what anybody writes into a
    forward as a number: it would pass for the eps that was given. ``old``: its momentum is the weight of the old
    average. ``axis`` of the channels."""

    title: str
    targets: tuple[str, str]
    usual: Mapping[str, float]
    asked: Mapping[str, float]
    old: bool = False
    axis: int = 1
    like: str = ""  # what it is compared with; PyTorch's and Keras's are known
    in_backward: bool = False  # the built-in layer moves its statistics there, where no layer of Python can

    def weight(self, momentum: float) -> float:
        """Of the new batch."""
        return 1 - momentum if self.old else momentum


TORCH = Home(
    title="PyTorch",
    targets=("torch", "torch[builtin]"),
    usual={"eps": 1e-5, "momentum": 0.1},
    asked={"eps": 2e-3, "momentum": 0.3},
)
KERAS_ENGINES = {"jax": ("keras", "keras[builtin]")} | {
    engine: (f"keras[{engine}]", f"keras[builtin_{engine}]") for engine in ("torch", "tensorflow")
}


def home_of(found: Mapping[str, Any]) -> Home:
    engine = found.get("engine")
    if engine is None:
        return home_in(find_backends(())[str(found["framework"])], found) if "framework" in found else TORCH
    usual, asked = {"eps": 1e-3, "momentum": 0.99}, {"eps": 2e-2, "momentum": 0.7}
    targets = KERAS_ENGINES[str(engine)]
    return Home(title="Keras", targets=targets, usual=usual, asked=asked, old=True, axis=-1)


def home_in(backend: BackendFile, found: Mapping[str, Any]) -> Home:
    """By what the framework documents of its layer, and what its process said of it."""
    facets = next(row["facets"] for row in backend.documented if "builtin" in row.get("variants", ()))
    old, weight = backend.word.startswith("1"), float(facets["default_batch_weight"])
    return Home(
        title=str(found["title"]),
        targets=(backend.name, f"{backend.name}[builtin]"),
        usual={"eps": float(facets["default_eps"]), "momentum": 1 - weight if old else weight},
        asked={"eps": 2e-3, "momentum": 0.7 if old else 0.3},
        old=old,
        axis=int(found["axis"]),
        like=str(found["like"]),
        in_backward=bool(found["in_backward"]),
    )


@dataclass(frozen=True)
class Looked:
    """What the user's interpreter said of a layer (``worker/subject/look.py``)."""

    name: str
    shape: tuple[int, ...]
    channels: int
    left_out: tuple[str, ...]
    defaults: Mapping[str, float]
    held: Mapping[str, float]
    affine: bool  # gamma and beta are where they can be found
    single: tuple[str, ...] = ()  # of gamma and beta: one value for all channels
    home: Home = TORCH

    @property
    def builtin(self) -> str:
        """The built-in layer that it is compared with."""
        if self.home.like:
            return self.home.like
        if self.home is not TORCH:
            return "keras.layers.BatchNormalization"
        rank = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d"}.get(len(self.shape), "BatchNorm3d")
        return f"torch.nn.{rank}"


def looked(found: Mapping[str, Any]) -> Looked:
    return Looked(
        name=str(found["class"]),
        shape=tuple(int(size) for size in found["shape"]),
        channels=int(found["channels"]),
        left_out=tuple(str(word) for word in found["left_out"]),
        defaults={str(key): float(value) for key, value in found["defaults"].items()},
        held={str(key): float(value) for key, value in found["held"].items()},
        affine=bool(found["affine"]),
        single=tuple(str(word) for word in found["single"]),
        home=home_of(found),
    )


def settings(layer: Looked, given: Mapping[str, Any]) -> dict[str, Any]:
    """eps and momentum that both layers get: the user's, else telling ones; where the constructor takes none, those
    that the layer shows, else the built-in one's."""
    found: dict[str, Any] = {}
    for word, usual in layer.home.usual.items():
        own = layer.held.get(word, usual) if word in layer.left_out else layer.home.asked[word]
        found[word] = given.get(word, own)
    return found


def scenario_text(layer: Looked, given: Mapping[str, Any], custom: str, expecting: bool) -> str:
    """The scenario as TOML: ``bncheck run`` plays it. ``expecting`` lets it fail by itself where the two differ."""
    known = settings(layer, given)
    more = {
        key: value for key, value in given.items() if key not in (*layer.home.usual, "affine", "track_running_stats")
    }
    switches = {key: given[key] for key in ("affine", "track_running_stats") if key in given}
    averaging = {"averaging": "cumulative"} if known["momentum"] is None else {"batch_weight": weight_of(layer, known)}
    norm = {
        "name": "bn",
        "type": "batch_norm",
        "channels": layer.channels,
        **({} if layer.home.axis == 1 else {"axis": layer.home.axis}),
        "eps": known["eps"],
        **averaging,
        **switches,
    }
    if switches.get("affine", True) and layer.affine:
        telling = {"gamma": GAMMA, "beta": BETA}
        norm["initial"] = {
            word: cycle(values[:1] if word in layer.single else values, layer.channels)
            for word, values in telling.items()
        }
    lines = [
        f"title = {toml(f'{layer.name} against {layer.builtin}')}",
        'why = "Written by bncheck check."',
        f"targets = {toml(list(layer.home.targets))}",
        f"tags = {toml(['own layer', layer.home.targets[0].partition('[')[0]])}",
        "",
        "[network]",
        *([f"custom = {toml(custom)}"] if custom else []),
        *([f"arguments = {toml(more)}"] if more else []),
        f"layers = [{toml(norm)}]",
        "",
        "[input]",
        f"shape = {toml(list(layer.shape))}",
        f"mean = {toml(cycle(MEAN, layer.channels))}",
        f"std = {toml(cycle(STD, layer.channels))}",
        "",
        "[program]",
        f"repeat = {REPEAT}",
        f"events = {toml(LOOP)}",
        f"then = {toml(['eval_forward'])}",
        "",
        "[matrix]",
        f"case = [{', '.join(toml(case) for case in cases_of(layer).values())}]",
        "",
        "[matrix.labels]",
        f"case = {toml(list(cases_of(layer)))}",
        *(["", "[[expect]]", f"between = {toml(list(layer.home.targets))}", "agree = true"] if expecting else []),
    ]
    return "\n".join(lines) + "\n"


def weight_of(layer: Looked, known: Mapping[str, Any]) -> float:
    """The weight of the new batch, to as many digits as a person would write."""
    return float(f"{layer.home.weight(known['momentum']):.12g}")


def cases_of(layer: Looked) -> dict[str, dict[str, Any]]:
    """The usual loop; two forwards before one backward, as in a discriminator; more samples than a virtual batch has
    (layers that normalise chunks of the batch take 128 of them at most, by their defaults)."""
    many = [samples_of_many(layer.shape), *layer.shape[1:]]
    if layer.home.in_backward:  # each training forward then has its backward, and no state is compared between the two
        return {
            "usual loop": {"program.events": LOOP, "program.then": ["eval_forward", "reload", "eval_forward"]},
            "large batch": {"program.events": LOOP, "input.shape": many},
        }
    return {
        "usual loop": {
            "program.events": LOOP,
            "program.then": ["eval_forward", "no_grad_forward", *SAVED, "eval_forward"],
        },
        "two forwards per backward": {
            "program.events": ["train_forward", *LOOP],
            "program.repeat": 12,
            "program.then": AGAIN,
        },
        "large batch": {"program.events": LOOP, "input.shape": many},
    }


def samples_of_many(shape: Sequence[int]) -> int:
    count, *rest = shape
    return max(count, MANY) if math.prod(rest) * MANY <= LARGEST else count + 1


def cycle(values: Sequence[float], count: int) -> list[float]:
    return [values[place % len(values)] for place in range(count)]


def toml(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, dict):
        items = (f"{key if key.isidentifier() else json.dumps(key)} = {toml(each)}" for key, each in value.items())
        return "{ " + ", ".join(items) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return json.dumps(value)


def check_layer(
    asked: Asked, found: Mapping[str, Any], python: UsersPython, nursery: Nursery | None, listener: Listener
) -> tuple[Path, Results]:
    """Play it beside the built-in layer, both in the user's Python."""
    layer, thing, given = looked(found), asked.thing, asked.given
    with tempfile.TemporaryDirectory(prefix="bncheck-") as folder:
        path = Path(folder) / f"{slug_of(layer.name)}.toml"
        path.write_text(scenario_text(layer, given, "", False), encoding="utf-8")
        request = Request(
            scenarios=(str(path),),
            targets=layer.home.targets,
            overrides=(f"network.custom={thing.code}",),
            pythons=tuple(f"{target}={python.path}" for target in layer.home.targets),
            out=asked.out,
            bar=replace(asked.bar, fail_on="convention") if asked.strict else asked.bar,
            formats=asked.formats,
            options=Options(2, Limits(cell_seconds=asked.seconds, memory=physical_memory()), nursery=nursery),
            concluding=lambda results: concluded(thing, layer, given, results),
            command=asked.command,
        )
        return carry_out(request, listener)


def save_scenario(thing: Thing, found: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> str:
    """Write what ``check`` played as a scenario; returns the command that plays it again."""
    layer = looked(found)
    module = Path(thing.module)
    beside = is_file(thing.code) and module.is_relative_to(path.absolute().parent)
    custom = f"{module.relative_to(path.absolute().parent)}:{thing.name}" if beside else ""
    path.write_text(scenario_text(layer, given, custom, True), encoding="utf-8")
    # A scenario may name code beside it; other code only the command line may.
    return f"bncheck run {path}" + ("" if beside else f" --set network.custom={thing.code}")


# ------------------------------------------------------------------------------------------------------ the answer


def concluded(thing: Thing, layer: Looked, given: Mapping[str, Any], results: Results) -> tuple[Results, Answer]:
    """The results with plain sentences, and the answer."""
    told = tuple(one_for_all(replace(item, title=in_words(item.title, layer)), layer) for item in results.findings)
    told = as_long_as_it_holds(
        [of_many(item, layer, results) for item in told], training_forwards(cases_of(layer), REPEAT)
    )
    results = replace(results, findings=told)
    answer = answer_of(thing, layer, given, results)  # its notes hold what the cells remark
    return replace(results, cells=tuple(replace(cell, remarks=()) for cell in results.cells)), answer


def of_many(finding: Finding, layer: Looked, results: Results) -> Finding:
    """What only a large batch shows: virtual batches, chunks of so many samples. All other cases are of the few."""
    sizes = {cell.case for cell in results.cells if cell.scenario == finding.scenario and cell.outcome == "ok"}
    here = [item for item in results.findings if item.scenario == finding.scenario]
    usual = {item.cause for item in here if item.case != LARGE_CASE}
    if finding.case != LARGE_CASE or finding.cause in usual or not {USUAL_CASE, LARGE_CASE} <= sizes:
        return finding
    if {finding.kind, finding.cause} & {"rounding", "unexplained"}:  # what has a name in the few may have none here
        return finding
    many, few = samples_of_many(layer.shape), layer.shape[0]
    return replace(finding, title=f"{finding.title} That is so in a batch of {many} samples, not in one of {few}.")


def one_for_all(finding: Finding, layer: Looked) -> Finding:
    """A gradient of one value is none of each channel's; what differs is how many values there are."""
    held = [word for word in layer.single if ("bn", f"grad_{word}") in finding.places]
    if finding.cause != "gradient" or not held:
        return finding
    what = " and ".join(f"one {word}" for word in held)
    return replace(
        finding,
        title=f"{layer.name} holds {what} for all channels, {layer.home.title}'s one for each.",
        advice="hold one value per channel"
        + (": nn.Parameter(torch.ones(num_features))" if layer.home is TORCH else "")
        + ", or compare it as what it is",
    )


def weight(finding: Finding) -> tuple[int, bool, bool]:
    """What the headline tells: the gravest, what changes values before a counter or a refused action."""
    return KINDS.index(finding.kind), finding.cause == "layer-contract", finding.cause == "counter-skew"


def answer_of(thing: Thing, layer: Looked, given: Mapping[str, Any], results: Results) -> Answer:
    own = layer.builtin
    asked = [each for each in results.scenarios if not each.probe]
    names = {scenario.name for scenario in asked}
    cells = [cell for cell in results.cells if cell.scenario in names]
    found = [item for item in results.findings if item.scenario in names and item.kind != "rounding"]
    leading = min(found, key=weight, default=None)
    stopped = next((cell for cell in cells if cell.outcome != "ok"), None)
    return Answer(
        verb="check",
        subject=thing.text,
        headline=headline(layer, own, leading, stopped),
        columns=("largest difference", "verdict"),
        each="quantity",
        rows=tuple(rows(results, names)),
        notes=tuple(notes(layer, given, cells)),
    )


def in_words(title: str, layer: Looked) -> str:
    """A finding's sentence without the targets' names: there are two sides, the user's layer and the framework's."""
    return without_targets(title, layer.name, layer.home.title, layer.home.targets)


def headline(layer: Looked, own: str, leading: Finding | None, stopped: CellResult | None) -> str:
    names_alone = leading is not None and (leading.kind == "convention" or layer.home is not TORCH)
    if leading is not None and names_alone and leading.cause == "layer-contract":
        return f"{layer.name} computes what {own} computes, and is not exchangeable for it: {leading.title}"
    if leading is not None:
        title = leading.title.removeprefix(f"{layer.name}: ")
        said = re.sub(rf"^((In \w+ )?){re.escape(layer.name)} (?!\()", r"\1it ", title)
        named = said.startswith((layer.name, layer.home.title))
        said = said if named else said[:1].lower() + said[1:]
        return f"{layer.name} is not equivalent to {own}: {said}"
    if stopped is not None:
        why = " ".join((stopped.error or stopped.outcome).split())
        return f"{layer.name} could not be compared with {own}: {why}"
    shape = "×".join(map(str, layer.shape))
    tried = "training, eval, backward, statistics, saving, loading, copying and dtypes agree"
    if layer.home is not TORCH:
        tried = "training, inference, gradients, statistics, and what is saved and loaded agree"
    return f"{layer.name} is equivalent to {own} on {shape}: {tried}"


def rows(results: Results, names: set[str]) -> list[Row]:
    """The largest difference of each quantity, over the cases, and what the findings make of it."""
    found, made = [item for item in results.findings if item.scenario in names], []
    for quantity, words in QUANTITIES.items():
        drifts = [each for each in results.drifts if each.scenario in names and each.quantity == quantity]
        if not drifts:
            continue
        worst = max(drifts, key=lambda each: (each.relation == "nonfinite", each.relation == "differs", each.max_abs))
        kinds = [item.kind for item in found if quantity in {what for _, what in item.places}]
        named = min(kinds, key=KINDS.index, default="unexplained")
        kind = "agrees" if worst.relation == "agrees" or named == "rounding" else named
        size = f"{worst.max_abs:.3g}" if math.isfinite(worst.max_abs) else "not held"
        size = "NaN or Inf" if worst.relation == "nonfinite" else size
        made.append(Row(layer=words, cells=(size, "agrees" if kind == "agrees" else "differs"), mark=kind))
    return made


def notes(layer: Looked, given: Mapping[str, Any], cells: Sequence[CellResult]) -> list[str]:
    known = settings(layer, given)
    words = ", ".join(f"{word} = {value}" for word, value in known.items())
    many = [samples_of_many(layer.shape), *layer.shape[1:]]
    sizes = " and ".join("×".join(map(str, shape)) for shape in (layer.shape, many))
    said = [f"Tried on {sizes} values with {words}."]
    for word, usual in layer.home.usual.items():
        value = layer.defaults.get(word, usual)
        if value != usual and word not in given:
            said.append(
                f"Its default {word} is {value:g}, that of {layer.builtin} {usual:g}: both got {known[word]:g}."
            )
    if layer.home.in_backward:
        said.append(
            "Several forwards before one backward were not tried: "
            f"{layer.home.title}'s layer moves its statistics in backward, one written in Python in forward."
        )
    unasked = [word for word in layer.left_out if word in layer.home.usual]
    for word in unasked:
        whose = "the layer shows" if word in layer.held else f"is {layer.home.title}'s own"
        said.append(
            f"Its constructor takes no {word}: {layer.home.title}'s layer got the {known[word]:g} that {whose}."
        )
    # A remark that ends in "asks" says that what could not be asked for is there all the same.
    remarks = dict.fromkeys(remark for cell in cells for remark in cell.remarks if not remark.endswith("asks"))
    return said + [remark for remark in remarks if not any(f"takes no {word}" in remark for word in unasked)]


def undecided(results: Results) -> bool:
    return not any(cell.outcome == "ok" for cell in results.cells)
