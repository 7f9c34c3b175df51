"""Is a model right? What its layers hold as it was handed over, and what they did in a short life that was made up."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bncheck.diagnosis.alone import judge_holding, judge_life, ordered
from bncheck.diagnosis.inside import (
    Alone,
    Framework,
    Verdict,
    findings_inside,
    read_alone,
    remarks_inside,
    verdicts,
)
from bncheck.diagnosis.lived.innocence import NAMES
from bncheck.diagnosis.rules.nonfinite.birthplace import in_words
from bncheck.diagnosis.rules.own_advice import in_its_words
from bncheck.environments.backend_file import find_backends
from bncheck.finding import KINDS, Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.life import Held, Holding, LayerLife, Life
from bncheck.report.plain_text import plural
from bncheck.run_folder.answer import MOST, Answer, Row
from bncheck.run_folder.arrays import open_archive
from bncheck.run_folder.folder import create_run_folder
from bncheck.run_folder.lives import read_lives
from bncheck.run_folder.recordings import life_of
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.conclusion import conclude, results_of, slug_of
from bncheck.subjects.interpreter import UsersPython
from bncheck.subjects.places import aside, at_unlike_places, training_in_eval
from bncheck.subjects.played import (
    at_two_places,
    batch_dependence,
    gaps,
    misfit,
    nonfinite,
    set_by_forward,
    switched_off,
    unlike_data,
)

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener
    from bncheck.subjects.asked import Asked

COLUMNS = ("kind", "mode", "n", "moved", "gap", "verdict")
# What a life of a few steps on made-up numbers, or on one batch, says of those numbers and not of the model.
OF_THE_EXPERIMENT = ("few-updates", "never-updated", "update-count", "stale-state", "data-shift")
# And what only the user's own data can show.
OF_THE_DATA = ("cancellation", "value-count", "single-value", "normaliser-source", "train-eval-gap", "averaging")
MARKS = {"in order": "agrees"}
HALF = (
    "what it runs may know no half precision here: check it in float32 (return model.float()), or give a batch that it "
    "takes: --data batch.npz"
)
QUANTITIES = ("running_mean", "running_var", "gamma", "beta")


@dataclass(frozen=True)
class Seen:
    """Everything that came back: what the model's process said, what it holds, what it lived through (None: nothing was
    played)."""

    said: Mapping[str, Any]
    holding: Holding
    life: Life | None
    alone: tuple[Alone, ...] = ()  # layers of the user's, each played by itself

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What layers of the user's do unlike the framework's own."""
        documented = find_backends(())[self.holding.framework].documented
        version = str(self.said.get("version", self.said.get("torch", "")))
        return verdicts(self.alone, Framework(self.holding.framework, documented, version))


def check_model(
    asked: Asked, found: Mapping[str, Any], folder: Path, python: UsersPython, listener: Listener
) -> tuple[Path, Results]:
    """Judge what ``worker/subject`` recorded in ``folder``; (the run folder, what was found)."""
    seen = read(asked.thing.text, found, folder, asked.thing.framework)
    findings = tuple(replace(item, case=slug_of(asked.thing.text)) for item in findings_of(seen))
    answer = answer_of(asked.thing.text, seen, findings)
    run = create_run_folder(asked.out)
    if (folder / "watched").is_dir():
        shutil.copytree(folder / "watched", run / "watched")
    target = TargetResult(
        name=seen.holding.name,
        slug=slug_of(seen.holding.name),
        backend=asked.thing.framework,
        version=str(found.get("version", found.get("torch"))),
        python=str(python.path),
    )
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results = results_of(answer, findings, [target], asked.command, created)
    conclude(run, answer, results, asked.formats, listener.say, asked.bar, missed(asked, seen))
    return run, results


def read(name: str, said: Mapping[str, Any], folder: Path, framework: str = "torch") -> Seen:
    holding = holding_of(name, said, folder / "held.npz", framework)
    played = open_archive(folder / "alone.npz") if said.get("alone") else None
    alone = read_alone(said.get("alone"), {} if played is None else played, name.rpartition(":")[0])
    handed = folder / "recording.npz"
    if handed.is_file():
        life = handed_in(holding.name, said, handed, framework)
        return Seen(said=said, holding=holding, life=life, alone=alone)
    lives = read_lives(folder)
    return Seen(said=said, holding=holding, life=lives[0] if lives else None, alone=alone)


def handed_in(name: str, said: Mapping[str, Any], path: Path, framework: str) -> Life | None:
    """A life that the model's process wrote down as plain arrays; None where no layer ran."""
    layers: dict[str, dict[str, Any]] = {}
    archive = open_archive(path)
    for key in archive or ():
        layer, _, quantity = key.rpartition("/")
        layers.setdefault(layer, {})[quantity] = archive[key]  # type: ignore[index]
    if not layers:
        return None
    known = {str(layer["name"]): layer for layer in said["layers"]}
    for layer, found in layers.items():
        found.update(kind=str(known[layer]["kind"]), own=bool(known[layer]["own"]))
    life = life_of(
        {
            "program": name,
            "framework": framework,
            "version": str(said["version"]),
            "steps": int(said["steps"]),
            "layers": layers,
            "happenings": said["happenings"],
        }
    )
    return replace(life, layers=tuple(described(layer, known[layer.name]) for layer in life.layers))


def described(layer: LayerLife, facts: Mapping[str, Any]) -> LayerLife:
    """With what arrays do not show: whether it is trained, and dtypes that NumPy lacks."""
    dtypes = {**layer.dtypes, **{str(what): str(each) for what, each in (facts.get("dtypes") or {}).items()}}
    return replace(layer, trainable=facts.get("trainable"), dtypes=dtypes)


def holding_of(name: str, said: Mapping[str, Any], path: Path, framework: str = "torch") -> Holding:
    archive = open_archive(path)
    arrays: Mapping[str, Any] = {} if archive is None else {key: archive[key] for key in archive}
    layers = [held_of(place, layer, arrays) for place, layer in enumerate(said["layers"])]
    others = {str(key): tuple(shape) for key, shape in said["others"].items()}
    short = name.replace("\\", "/").rpartition("/")[2]
    return Holding(name=short, framework=framework, format="model", layers=tuple(layers), others=others)


def held_of(place: int, layer: Mapping[str, Any], arrays: Mapping[str, Any]) -> Held:
    found = {what: arrays[f"{place}/{what}"] for what in QUANTITIES if f"{place}/{what}" in arrays}
    if layer.get("own"):
        found = {what: array for what, array in found.items() if per_channel(array, found)}
    counter = arrays.get(f"{place}/counter")
    there = [*found, *(["counter"] if counter is not None else [])]
    path = "" if layer["name"] == layer["kind"] else f"{layer['name']}."
    return Held(
        layer=str(layer["name"]),
        running_mean=flat(found.get("running_mean")),
        running_var=flat(found.get("running_var")),
        counter=float(counter.reshape(-1)[0]) if counter is not None and counter.size == 1 else None,
        gamma=flat(found.get("gamma")),
        beta=flat(found.get("beta")),
        eps=layer["eps"],
        momentum=layer["momentum"],
        training=layer["training"],
        dtypes={what: str(arrays[f"{place}/{what}/dtype"]) for what in there},
        shapes={what: found[what].shape for what in found},
        keys={what: path + str(arrays[f"{place}/{what}/key"]) for what in there},
        kind=str(layer["kind"]),
    )


def per_channel(array: Any, found: Mapping[str, Any]) -> bool:
    """Whether a layer of the user's holds a number for each channel there, or one for all: a scale for each position is
    no gamma."""
    return "running_mean" not in found or array.size in (1, found["running_mean"].size)


def flat(array: Any) -> Any:
    return None if array is None else array.reshape(-1)


# --------------------------------------------------------------------------------------------------- what it means


def findings_of(seen: Seen) -> tuple[Finding, ...]:
    """Findings about what it holds and what it lived through, gravest first; each cause once per layer."""
    turned = {name for verdict in seen.verdicts if verdict.turned for name in verdict.names}
    held = [item for item in judge_holding(seen.holding) if not misread(item, turned) and not meant_so(item, seen)]
    held += findings_inside(seen.verdicts)
    lived = [
        item
        for item in (judge_life(seen.life) if seen.life is not None else ())
        if of_the_model(item, seen) and not said_already(item, held)
    ]
    own = [
        *switched_off(seen.said, seen.holding),
        *misfit(seen.said, seen.holding.name),
        *nonfinite(seen.said, seen.holding.name, (*held, *lived)),
    ]
    if seen.life is not None:
        own += set_by_forward(seen.life, seen.holding.name)
        own += at_two_places(seen.life, seen.holding.name, lived)
        if seen.life.framework != "torch":  # there the recorder saw who called train()
            own += training_in_eval(seen.said, seen.life, seen.holding.name)
    own += at_unlike_places(seen.said, seen.holding.name, (*lived, *own))
    own += aside(seen.said, seen.holding.name, seen.holding.framework)
    backends = [seen.holding.framework]
    dependent = batch_dependence(seen.said, seen.holding.name, (*held, *lived, *own))
    own += [in_its_words(item, backends) if item.layer else item for item in dependent]
    if seen.life is not None and seen.said["input"]["from"] == "data":
        own += unlike_data(seen.life.layers, seen.holding.name)
    named = [replace(item, targets=(seen.holding.name,), scenario="check") for item in (*held, *lived, *own)]
    return ordered(named)


def misread(item: Finding, turned: Collection[str]) -> bool:
    """Whether it takes a momentum for what layers that were seen to average do not mean by it."""
    return item.cause == "batch-weight" and {place for place, _ in item.places} <= set(turned)


def meant_so(item: Finding, seen: Seen) -> bool:
    """Whether it calls modes mixed that the model's own train() mixes: it was handed over in training mode, and its
    layers in eval stayed so when the whole of it was put into training and trained."""
    if item.cause != "mode-leak" or seen.life is None or not seen.said.get("training") or not seen.said.get("steps"):
        return False
    still = {held.layer for held in seen.holding.layers if held.training is False}
    frozen = {layer.name for layer in seen.life.layers if not any(span.training for span in layer.spans)}
    return still <= frozen


def said_already(item: Finding, held: Sequence[Finding]) -> bool:
    """Whether what was lived through only repeats what is held: the same cause in the same layers, or the NaN that
    follows from a defect of their state."""
    same = [one for one in held if one.cause == item.cause or (item.of_nan and one.kind == "defect")]
    return {place for place, _ in item.places} <= {place for one in same for place, _ in one.places}


def of_the_model(item: Finding, seen: Seen) -> bool:
    """Whether a finding of the life that was made up is about the model. What depends on the numbers that went in is
    not, unless they are the user's; that a few steps are few, never."""
    if item.cause in OF_THE_EXPERIMENT and "forwards in a backward" not in item.evidence:
        return False  # what is recomputed is: the model does it by itself
    return seen.said["input"]["from"] == "data" or item.cause not in OF_THE_DATA


def missed(asked: Asked, seen: Seen) -> tuple[Shortfall, ...]:
    if seen.said.get("sealed"):
        what, call = seen.said["sealed"]
        return (
            Shortfall(
                f"{asked.thing.text} was not played: it is {what}, and PyTorch lets nobody look into its layers",
                f"check the function that builds your model, without {call}; bncheck diff FILE.py:FUNCTION "
                f"{asked.thing.text} compares the two",
            ),
        )
    if not seen.holding.layers and not unregistered(seen):
        return (
            Shortfall(
                f"{asked.thing.text} has no layer that is known to normalise by running statistics",
                "nothing is to be done if it is meant to have none; a layer of your own that keeps statistics under "
                "names of its own is checked by itself: bncheck check FILE.py:CLASS",
                "there is nothing to judge",
            ),
        )
    if seen.life is not None and not stopped(seen) and not seen.said.get("remarks") and none_ran(seen):
        return (
            Shortfall(
                f"no normalising layer of {asked.thing.text} was seen to run",
                "what runs inside torch.jit.script() or a function of torch.compile() cannot be seen: check the model "
                "without it",
            ),
        )
    if stopped(seen):
        return (
            Shortfall(
                f"{asked.thing.text} was played and not recorded to its end: {stopped(seen)}",
                "report it, with what the model is made of",
            ),
        )
    broken = unplayed(seen, "eval") and not seen.said.get("steps")
    if broken or (seen.life is None and not (unregistered(seen) and not seen.said.get("remarks"))):
        why = "; ".join(seen.said.get("remarks", ())) or "no normalising layer ran"
        remedy = (
            HALF
            if any(word in why.lower() for word in ("half", "float16"))
            else "give a batch that it takes: --data batch.npz"
            if any("was not played" in remark for remark in seen.said.get("remarks", ()))
            else "what runs inside torch.compile() cannot be seen: check the model without it"
        )
        return (Shortfall(f"{asked.thing.text} was not played: {why}", remedy),)
    return ()


# ------------------------------------------------------------------------------------------------------ the answer


def answer_of(subject: str, seen: Seen, findings: Sequence[Finding]) -> Answer:
    return Answer(
        verb="check",
        subject=subject,
        headline=headline(seen, findings),
        columns=COLUMNS,
        rows=tuple(row_of(layer, seen, findings) for layer in [*seen.said["layers"], *unregistered(seen)][:MOST]),
        notes=tuple(notes(seen)),
    )


def unregistered(seen: Seen) -> list[dict[str, Any]]:
    """Layers that ran and that the model does not reach, as the worker describes those that it does."""
    layers = seen.life.layers if seen.life is not None else ()
    return [
        {"name": layer.name, "kind": layer.kind, "training": None, "tracks": layer.tracks}
        for layer in layers
        if layer.registered is False
    ] + [dict(each, training=None, tracks=True) for each in seen.said.get("aside") or ()]


def headline(seen: Seen, findings: Sequence[Finding]) -> str:
    count = len(seen.holding.layers)
    if not count and not unregistered(seen):
        if seen.said.get("sealed"):
            return f"None of its layers can be seen: it is {seen.said['sealed'][0]}."
        return "It has no layer that is known to normalise by running statistics."
    telling = [item for item in findings if item.kind != "rounding"]
    if telling:
        more, first = len(telling) - 1, leading(telling)
        return first.title.rstrip(".") + (f" (and {plural(more, 'more finding')})" if more else "") + "."
    steps = int(seen.said.get("steps") or 0)
    phases = [] if unplayed(seen, "eval") else ["in eval"]
    phases += [f"through {plural(steps, 'training step')}"] if steps else []
    played = f", played {' and '.join(phases)}" if phases else " as far as its forward came"
    if seen.life is None:
        held = "it holds" if count == 1 else "they hold"
        return f"{plural(count, 'normalising layer')}, nothing wrong with what {held}."
    if none_ran(seen):
        return f"{plural(count, 'normalising layer')}, none of which was seen to run."
    idle = len(not_run(seen))
    among = f" with the {count - idle} that ran" if idle else ""
    return f"{plural(count, 'normalising layer')}, nothing wrong{among}{played}{left_open(seen)}."


def left_open(seen: Seen) -> str:
    """How many layers of the user's are not known to compute what the framework's does."""
    strange = sum(len(each.names) for each in seen.verdicts if each.strange)
    unheld = sum(len(each.names) for each in seen.verdicts if each.remark) + len(untold(seen))
    parts = [f"{strange} unlike the built-in layer by no known rule"] if strange else []
    parts += [f"{unheld} not compared with the built-in layer"] if unheld else []
    return f"; {' and '.join(parts)}" if parts else ""


def leading(telling: Sequence[Finding]) -> Finding:
    """The gravest; of those about one layer that replay gave a share, the one with the largest."""
    first = telling[0]
    if first.explained is None:
        return first
    like = [item for item in telling if (item.kind, item.layer) == (first.kind, first.layer)]
    return max(like, key=lambda item: item.explained or 0.0)


def not_run(seen: Seen) -> list[str]:
    """Layers that no forward reached, or none that could be seen."""
    ran = {layer.name for layer in seen.life.layers} if seen.life is not None else set()
    return [str(layer["name"]) for layer in seen.said["layers"] if str(layer["name"]) not in ran]


def unplayed(seen: Seen, phase: str) -> bool:
    """Whether a forward of that phase did not come to its end."""
    return any(str(remark).startswith(f"{phase} was not played") for remark in seen.said.get("remarks") or ())


def none_ran(seen: Seen) -> bool:
    return len(not_run(seen)) == len(seen.said["layers"]) and not unregistered(seen)


def stopped(seen: Seen) -> str:
    """What the recorder says where it ended before the model did; "" where it did not."""
    remarks = seen.life.remarks if seen.life is not None else ()
    return next((remark for remark in remarks if remark.startswith("The recorder stopped")), "")


def row_of(layer: Mapping[str, Any], seen: Seen, findings: Sequence[Finding]) -> Row:
    name = str(layer["name"])
    own = [item for item in findings if name in {place for place, _ in item.places}]
    worst = min(own, key=lambda item: KINDS.index(item.kind), default=None)
    lived = next((each for each in seen.life.layers if each.name == name), None) if seen.life is not None else None
    mode = {True: "train", False: "eval", None: "fixed" if layer.get("fixed") else "per call"}[layer["training"]]
    said = worst.cause if worst is not None else as_it_ran(name, seen) if lived is not None else "not run"
    cells = (str(layer["kind"]), mode, n_of(lived), moved_of(lived, layer), gap_of(lived, seen), said)
    return Row(layer=name[:1000], cells=cells, mark=worst.kind if worst is not None else MARKS.get(said, ""))


def as_it_ran(name: str, seen: Seen) -> str:
    """Of a layer about which nothing was found: a class of the user's that nothing was compared with is not "in
    order"."""
    known = {name: verdict for verdict in seen.verdicts for name in verdict.names}
    if name in known:
        return "unlike" if known[name].strange else "not compared" if known[name].remark else "in order"
    return "not compared" if name in {each for each, _, _ in untold(seen)} else "in order"


def untold(seen: Seen) -> list[tuple[str, str, str]]:
    """(name, class, why) of the user's layers that ran and were not taken out."""
    why = seen.said.get("unplayed") or {}
    known = {name for verdict in seen.verdicts for name in verdict.names}
    idle = not_run(seen)
    return [
        (str(layer["name"]), str(layer["kind"]), str(why.get(layer["name"]) or ""))
        for layer in seen.said["layers"]
        if layer.get("own") and layer["name"] not in known and layer["name"] not in idle
    ]


def n_of(lived: LayerLife | None) -> str:
    sizes = [size for span in lived.spans for size in span.n if size >= 0] if lived is not None else []
    return "–" if not sizes else f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,}–{max(sizes):,}"


def moved_of(lived: LayerLife | None, layer: Mapping[str, Any]) -> str:
    """How many of the forwards moved the statistics."""
    if lived is None or not layer["tracks"]:
        return "–"
    looked = [span for span in lived.spans if span.moved is not None]
    return f"{sum(span.moved or 0 for span in looked)} of {lived.forwards}" if looked else "–"


def gap_of(lived: LayerLife | None, seen: Seen) -> str:
    """How far the batch's own statistics lie from the running ones that eval uses, in standard deviations."""
    gap = gaps(lived) if lived is not None and seen.said["input"]["from"] == "data" else math.nan
    return "–" if not np.isfinite(gap) else f"{gap:.2g} σ"


def notes(seen: Seen) -> list[str]:
    given = seen.said["input"]
    if given["from"] == "none":
        return [str(remark) for remark in (*seen.said.get("remarks", ()), *seen.said.get("shown", ()))]
    shapes = " and ".join(f"{each['dtype']} {'×'.join(map(str, each['shape']))}" for each in given["shapes"])
    words = {"data": "Played on your data", "input": "Played on made-up numbers", "made": "Played on made-up numbers"}
    said = [f"{words[given['from']]}: {shapes}."]
    if given["from"] == "made":
        said.append("No shape was given; this one fits its first layer. Yours: --input SHAPE, or --data batch.npz.")
    if given["from"] != "data":
        said.append("Made-up numbers do not show whether the statistics suit your data: give a batch with --data.")
    if seen.said.get("steps"):
        said.append(
            f"Training was {plural(int(seen.said['steps']), 'step')} of plain gradient descent (learning rate 0.001) "
            "on the mean of the squares of its outputs, in a process of its own: nothing of yours was changed."
        )
    loaded = seen.said.get("weights")
    if loaded:
        where = f", found in {loaded['inside']!r}" if loaded["inside"] else ""
        bare = loaded["prefix"]
        where += f"; {bare[1:]!r} was {'taken from' if bare.startswith('-') else 'put before'} its keys" if bare else ""
        said.append(f"{loaded['loaded']} of {loaded['keys']} keys were loaded from {Path(loaded['path']).name}{where}.")
    born = in_words(seen.said.get("born"))
    said += [f"Of the first NaN or Inf: {born[0].lower()}{born[1:]}"] if born else []
    said += [str(remark) for remark in (*seen.said.get("remarks", ()), *seen.said.get("shown", ()))]
    said += remarks_inside(seen.verdicts, untold(seen), NAMES[seen.holding.framework])
    return said + (list(seen.life.remarks) if seen.life is not None else [])
