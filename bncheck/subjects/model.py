"""Is a model right? What its layers hold as it was handed over, and what they did in a short life that was made up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.diagnosis.alone import judge_holding, judge_life, ordered
from bncheck.diagnosis.inside import findings_inside
from bncheck.diagnosis.rules.own_advice import in_its_words
from bncheck.diagnosis.shared import at_several_places
from bncheck.finding import Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.run_folder.folder import create_run_folder
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.conclusion import conclude, results_of, slug_of
from bncheck.subjects.interpreter import UsersPython
from bncheck.subjects.model_answer import answer_of
from bncheck.subjects.places import aside, training_in_eval
from bncheck.subjects.played import (
    batch_dependence,
    misfit,
    nonfinite,
    set_by_forward,
    switched_off,
    unlike_data,
)
from bncheck.subjects.seen import Seen, none_ran, read, stopped, unplayed, unregistered

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener
    from bncheck.subjects.asked import Asked

# What a life of a few steps on made-up numbers, or on one batch, says of those numbers and not of the model.
OF_THE_EXPERIMENT = ("few-updates", "never-updated", "update-count", "stale-state", "data-shift")
# And what only the user's own data can show.
OF_THE_DATA = ("cancellation", "value-count", "single-value", "normaliser-source", "train-eval-gap", "averaging")
HIDES = {
    "torch": "torch.jit.script() or a function of torch.compile()",
    "flax": "nnx.jit(), nnx.remat() or nnx.scan()",
}
HALF = (
    "what it runs may know no half precision here: check it in float32 (return model.float()), or give a batch that it "
    "takes: --data batch.npz"
)


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
        if seen.life.framework != "torch":  # there the recorder saw who called train()
            own += training_in_eval(seen.said, seen.life, seen.holding.name)
    own += at_several_places(seen.life, seen.said.get("places"), seen.holding.name, lived)
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
                "names of its own is checked by itself: bncheck check FILE.py:CLASS; a model that calls "
                "torch.nn.functional.batch_norm itself is not seen into",
                "there is nothing to judge",
            ),
        )
    played = seen.life is not None or seen.said.get("steps")
    if played and not stopped(seen) and not seen.said.get("remarks") and none_ran(seen):
        hides = HIDES.get(asked.thing.framework)
        return (
            Shortfall(
                f"no normalising layer of {asked.thing.text} was seen to run",
                f"what runs inside {hides} cannot be seen: check the model without it"
                if hides
                else "check a layer by itself: bncheck check FILE.py:CLASS",
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
            else f"what runs inside {HIDES.get(asked.thing.framework, 'a compiled function')} cannot be seen: "
            "check the model without it"
        )
        return (Shortfall(f"{asked.thing.text} was not played: {why}", remedy),)
    return ()
