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

from bncheck.environments.devices import physical_memory
from bncheck.finding import KINDS, Finding
from bncheck.playing.jobs import Options
from bncheck.playing.workers import Limits
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.results import CellResult, Results
from bncheck.scenario import is_file
from bncheck.session import Listener, Request, carry_out
from bncheck.subjects.conclusion import slug_of
from bncheck.subjects.interpreter import UsersPython
from bncheck.subjects.thing import Thing

if TYPE_CHECKING:
    from bncheck.playing.nursery import Nursery
    from bncheck.subjects.asked import Asked

TARGETS = ("torch", "torch[builtin]")
USUAL = {"eps": 1e-5, "momentum": 0.1}  # torch.nn.BatchNorm's
ASKED = {"eps": 1e-3, "momentum": 0.3}  # where the layer takes it: other than both defaults
# Gamma and beta of the first channels, repeated: a layer that forgets them is seen.
GAMMA, BETA = (1.5, 0.8, -0.6, 1.2), (0.5, -1.0, 0.0, 2.0)
MEAN, STD = (0.5, -2.0, 3.0, 1.0), (1.0, 0.5, 2.0, 1.5)
LOOP = ["train_forward", "backward"]
SAVED = [LOOP[0], "reload"]  # something to lose, and where it would be
MANY, LARGEST = 200, 200_000  # samples, and values of such a batch
# Quantity → column: its words in the table of what was compared.
VARIANCES = r"averages the variance over \1 into running_var, PyTorch's the one over \2."
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

    @property
    def builtin(self) -> str:
        return {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d"}.get(len(self.shape), "BatchNorm3d")


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
    )


def settings(layer: Looked, given: Mapping[str, Any]) -> dict[str, Any]:
    """eps and momentum that both layers get: the user's, else telling ones; where the constructor takes none, those
    that the layer shows, else PyTorch's."""
    found: dict[str, Any] = {}
    for word, usual in USUAL.items():
        own = layer.held.get(word, usual) if word in layer.left_out else ASKED[word]
        found[word] = given.get(word, own)
    return found


def scenario_text(layer: Looked, given: Mapping[str, Any], custom: str, expecting: bool) -> str:
    """The scenario as TOML: ``bncheck run`` plays it. ``expecting`` lets it fail by itself where the two differ."""
    known = settings(layer, given)
    more = {key: value for key, value in given.items() if key not in (*USUAL, "affine", "track_running_stats")}
    switches = {key: given[key] for key in ("affine", "track_running_stats") if key in given}
    averaging = {"averaging": "cumulative"} if known["momentum"] is None else {"batch_weight": known["momentum"]}
    norm = {
        "name": "bn",
        "type": "batch_norm",
        "channels": layer.channels,
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
        f"title = {toml(f'{layer.name} against torch.nn.{layer.builtin}')}",
        'why = "Written by bncheck check."',
        f"targets = {toml(list(TARGETS))}",
        'tags = ["own layer", "torch"]',
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
        "repeat = 6",
        f"events = {toml(LOOP)}",
        f"then = {toml(['eval_forward'])}",
        "",
        "[matrix]",
        f"case = [{', '.join(toml(case) for case in cases_of(layer).values())}]",
        "",
        "[matrix.labels]",
        f"case = {toml(list(cases_of(layer)))}",
        *(["", "[[expect]]", f"between = {toml(list(TARGETS))}", "agree = true"] if expecting else []),
    ]
    return "\n".join(lines) + "\n"


def cases_of(layer: Looked) -> dict[str, dict[str, Any]]:
    """The usual loop; two forwards before one backward, as in a discriminator; more samples than a virtual batch has
    (layers that normalise chunks of the batch take 128 of them at most, by their defaults)."""
    count, *rest = layer.shape
    many = [max(count, MANY), *rest] if math.prod(rest) * MANY <= LARGEST else [count + 1, *rest]
    return {
        "usual loop": {
            "program.events": LOOP,
            "program.then": ["eval_forward", "no_grad_forward", *SAVED, "eval_forward"],
        },
        "two forwards per backward": {"program.events": ["train_forward", *LOOP], "program.repeat": 12},
        "large batch": {"program.events": LOOP, "input.shape": many},
    }


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
            targets=TARGETS,
            overrides=(f"network.custom={thing.code}",),
            pythons=(f"torch={python.path}", f"torch[builtin]={python.path}"),
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
    results = replace(results, findings=told)
    answer = answer_of(thing, layer, given, results)  # its notes hold what the cells remark
    return replace(results, cells=tuple(replace(cell, remarks=()) for cell in results.cells)), answer


def one_for_all(finding: Finding, layer: Looked) -> Finding:
    """A gradient of one value is none of each channel's; what differs is how many values there are."""
    held = [word for word in layer.single if ("bn", f"grad_{word}") in finding.places]
    if finding.cause != "gradient" or not held:
        return finding
    what = " and ".join(f"one {word}" for word in held)
    return replace(
        finding,
        title=f"{layer.name} holds {what} for all channels, PyTorch's one for each.",
        advice="hold one value per channel: nn.Parameter(torch.ones(num_features)), or compare it as what it is",
    )


def weight(finding: Finding) -> tuple[int, bool, bool]:
    """What the headline tells: the gravest, what changes values before a counter or a refused action."""
    return KINDS.index(finding.kind), finding.cause == "layer-contract", finding.cause == "counter-skew"


def answer_of(thing: Thing, layer: Looked, given: Mapping[str, Any], results: Results) -> Answer:
    own = f"torch.nn.{layer.builtin}"
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


VERSION = r"[0-9][^ ,:']*[^ ,:'.]"  # and device; a full stop behind it ends the sentence


def in_words(title: str, layer: Looked) -> str:
    """A finding's sentence without the targets' names: there are two sides, the user's layer and PyTorch's."""
    for pattern, words in (
        (rf"{re.escape(layer.name)} in torch {VERSION}", layer.name),
        (rf"torch\[builtin\]( {VERSION})?'s", "PyTorch's"),
        (rf"torch\[builtin\]( {VERSION})?", "PyTorch's"),
        (rf"\btorch {VERSION}", layer.name),
        (r"(the network's|its) output", "the output"),
        (r"divides the variance that is averaged by (\S+), PyTorch's by (\S+)\.", VARIANCES),
        (r"y is ([0-9.]+) times as large on PyTorch's", r"PyTorch's y is \1 times as large"),
        (r" (of|normalises) bn\b", lambda match: " normalises" if match[1] == "normalises" else ""),
    ):
        title = re.sub(pattern, words, title)
    return title


def headline(layer: Looked, own: str, leading: Finding | None, stopped: CellResult | None) -> str:
    if leading is not None and leading.kind == "convention" and leading.cause == "layer-contract":
        return f"{layer.name} computes what {own} computes, and is not exchangeable for it: {leading.title}"
    if leading is not None:
        said = re.sub(rf"^((In \w+ )?){re.escape(layer.name)} (?!\()", r"\1it ", leading.title)
        return f"{layer.name} is not equivalent to {own}: {said[:1].lower() + said[1:]}"
    if stopped is not None:
        why = " ".join((stopped.error or stopped.outcome).split())
        return f"{layer.name} could not be compared with {own}: {why}"
    shape = "×".join(map(str, layer.shape))
    return (
        f"{layer.name} is equivalent to {own} on {shape}: training, eval, backward, statistics, saving, loading, "
        "copying and dtypes agree"
    )


def rows(results: Results, names: set[str]) -> list[Row]:
    """The largest difference of each quantity, over the cases, and what the findings make of it."""
    found, made = [item for item in results.findings if item.scenario in names], []
    for quantity, words in QUANTITIES.items():
        drifts = [each for each in results.drifts if each.scenario in names and each.quantity == quantity]
        if not drifts:
            continue
        worst = max(drifts, key=lambda each: (each.verdict == "nonfinite", each.verdict == "differs", each.max_abs))
        kinds = [item.kind for item in found if quantity in {what for _, what in item.places}]
        named = min(kinds, key=KINDS.index, default="unexplained")
        kind = "agrees" if worst.verdict == "agrees" or named == "rounding" else named
        size = f"{worst.max_abs:.3g}" if math.isfinite(worst.max_abs) else "not held"
        size = "NaN or Inf" if worst.verdict == "nonfinite" else size
        made.append(Row(layer=words, cells=(size, "agrees" if kind == "agrees" else "differs"), mark=kind))
    return made


def notes(layer: Looked, given: Mapping[str, Any], cells: Sequence[CellResult]) -> list[str]:
    known = settings(layer, given)
    words = ", ".join(f"{word} = {value}" for word, value in known.items())
    said = [f"Tried on {'×'.join(map(str, layer.shape))} values with {words}."]
    for word, usual in USUAL.items():
        value = layer.defaults.get(word, usual)
        if value != usual and word not in given:
            said.append(
                f"Its default {word} is {value:g}, that of torch.nn.{layer.builtin} {usual:g}: "
                f"both got {known[word]:g}."
            )
    unasked = [word for word in layer.left_out if word in USUAL]
    for word in unasked:
        whose = "the layer shows" if word in layer.held else "is PyTorch's own"
        said.append(f"Its constructor takes no {word}: PyTorch's layer got the {known[word]:g} that {whose}.")
    # A remark that ends in "asks" says that what could not be asked for is there all the same.
    remarks = dict.fromkeys(remark for cell in cells for remark in cell.remarks if not remark.endswith("asks"))
    return said + [remark for remark in remarks if not any(f"takes no {word}" in remark for word in unasked)]


def undecided(results: Results) -> bool:
    return not any(cell.outcome == "ok" for cell in results.cells)
