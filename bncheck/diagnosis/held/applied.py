"""What a function of the user's did to a model: what its layers held, their modes and its outputs in eval, before and
after."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.diagnosis.held.advice import SWITCH, in_its_words
from bncheck.diagnosis.held.likeness import Pair, compared
from bncheck.diagnosis.held.matching import match
from bncheck.diagnosis.held.outputs import DRAWS, MOST_OF_IT, gap, percent
from bncheck.diagnosis.held.reading import AFFINE, STATISTICS, Others, Reading, joined
from bncheck.diagnosis.held.shortened import changed, of_layers, shortened, type_of
from bncheck.diagnosis.rules.holdings.start import at_start
from bncheck.diagnosis.rules.layer_names import listed, verb
from bncheck.diagnosis.rules.wording import number
from bncheck.life import Held, Holding
from bncheck.trace import Array, Place

# Roundings of the outputs' own type that two ways to compute the same may lie apart, of the largest value.
ROUNDINGS = 16
MOST_ROUNDING = 1e-2
LEAST = 0.01  # of a difference, to be spoken of
# Causes that are about what a layer holds.
OF_STATE = (
    "poisoned-state", "update-count", "stale-state", "state-mismatch", "hyperparameter-lost", "reduced-precision",
)  # fmt: skip
# FrozenBatchNorm2d: its mode is that of any module, and says nothing.
MODELESS = re.compile(r"froze|freez", re.IGNORECASE)
# A shorter type holds 0.1 and 1e-5 off by this much.
SAME_SETTING = 1e-6


@dataclass(frozen=True)
class Moment:
    """A model before the function, or after it. ``training``: the mode of the model as a whole; ``cumulative`` and
    ``frozen``: layers that average cumulatively, and those none of whose parameters is trained; ``kinds``: their
    classes."""

    holding: Holding
    training: bool
    cumulative: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Application:
    """``function`` as sentences call it. ``plays``: outputs in eval, "eval" before it, "nudged" likewise with an input
    that is off by a rounding, "given" after it, "restored" after it with what layers held before put back.
    ``unplayed``: which of them failed, and why. ``precision``: spacing at 1 of the outputs' type. ``others`` are the
    tensors of no normalising layer, ``flipped`` other modules whose mode changed, ``replaced`` those that are of
    another class now ("relu: ReLU → GELU")."""

    function: str
    before: Moment
    after: Moment
    plays: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    unplayed: Mapping[str, str] = field(default_factory=dict)
    precision: float = 2.0**-23
    others: Others = Others()
    flipped: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    returned: str = ""

    @property
    def framework(self) -> str:
        return self.before.holding.framework

    @property
    def gap(self) -> float | None:
        """How far the outputs in eval lie apart, of the largest; None where one of the two was not played."""
        return gap(self.plays["eval"], self.plays["given"]) if {"eval", "given"} <= self.plays.keys() else None

    @property
    def bound(self) -> float:
        """Up to where that is rounding."""
        found = [ROUNDINGS * self.precision]
        if {"eval", "nudged"} <= self.plays.keys() and np.isfinite(
            apart := gap(self.plays["eval"], self.plays["nudged"])
        ):
            found.append(DRAWS * apart)
        return min(max(found), MOST_ROUNDING)

    @property
    def differs(self) -> bool:
        return self.gap is not None and self.gap > self.bound

    @property
    def explained(self) -> float | None:
        """The share of the difference in eval that goes away with what layers held before."""
        if not self.differs or "restored" not in self.plays or not self.gap:
            return None
        left = gap(self.plays["eval"], self.plays["restored"])
        if left <= self.bound:
            return 1.0
        return max(0.0, 1 - left / self.gap) if np.isfinite(self.gap) else None

    @property
    def does(self) -> str:
        return f"{self.function}()"


def pairs_of(application: Application) -> tuple[list[Pair], tuple[Held, ...], tuple[Held, ...]]:
    """(layers that are there before and after, those that are gone, those that are new)."""
    matching = match(application.before.holding, application.after.holding)
    if matching.how == "order" and application.after.holding.layers:
        names = {layer.layer for layer in application.after.holding.layers}
        kept = [(a, b) for a, b in matching.pairs if a.layer in names and a.layer == b.layer]
        gone = [layer for layer in application.before.holding.layers if layer.layer not in {a.layer for a, _ in kept}]
        new = [layer for layer in application.after.holding.layers if layer.layer not in {b.layer for _, b in kept}]
        return [compared(a, b) for a, b in kept], tuple(gone), tuple(new)
    return [compared(a, b) for a, b in matching.pairs], matching.only_a, matching.only_b


def readings(application: Application) -> list[Reading]:
    """What it did, each once; nothing where it changed nothing."""
    pairs, gone, new = pairs_of(application)
    others = [pair for pair in pairs if not type_of(pair)]
    found = [*broken(application, pairs), *shortened(application.does, pairs), *statistics(application, others)]
    # A model without any of its normalising layers is made for eval.
    found += [] if gone and not pairs and not new and not application.after.training else modes(application, pairs)
    found += [*affine(application, others), *settings(application, pairs), *replaced(application, gone, new)]
    found = with_output(application, found)
    return [in_its_words(each, application.framework) for each in (*found, *outputs(application, found))]


def unchanged(application: Application) -> str:
    """The sentence that it changed nothing; "" where it did, or where that was not seen."""
    if readings(application) or application.gap is None:
        return ""
    count = len(application.before.holding.layers)
    pairs = pairs_of(application)[0]
    state = "state, modes and" if all(pair.a.training == pair.b.training for pair in pairs) else "state and"
    same = f"{state} the output in eval are the same to the bit, in {layers_word(count)}"
    kinds: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        words = (application.before.kinds[pair.a.layer], application.after.kinds[pair.b.layer])
        if words[0] != words[1]:
            kinds.setdefault(words, []).append(pair.name)
    if not kinds:
        return f"{application.does} changed nothing: {same}."
    put = joined([f"put {new} in the place of {old} in {of_layers(where)}" for (old, new), where in kinds.items()])
    return f"{application.does} {put}, and changed nothing else: {same}."


def layers_word(count: int) -> str:
    return "1 normalising layer" if count == 1 else f"{count} normalising layers"


def with_output(application: Application, found: list[Reading]) -> list[Reading]:
    """The first reading of what layers hold says what of the outputs' difference goes away with it put back."""
    share = application.explained
    at = next((place for place, reading in enumerate(found) if reading.cause in OF_STATE), None)
    if share is None or share < LEAST or at is None:
        return found
    part = "all" if share == 1 else f"{100 * share:.3g} %"
    said = f" In eval its output {apart(application)}; {part} of that goes away with the old values put back."
    places = (*found[at].places, *([("", "output")] if share >= MOST_OF_IT else []))
    size = {"gap in eval": application.gap} if application.gap is not None and np.isfinite(application.gap) else {}
    evidence = {**found[at].evidence, **size, "goes away": share}
    told = replace(found[at], title=found[at].title + said, places=places, evidence=evidence)
    return [*found[:at], told, *found[at + 1 :]]


def apart(application: Application) -> str:
    size = application.gap
    if size is None or not np.isfinite(size):
        return "cannot be held against what it was (another shape, or NaN on one side alone)"
    return f"is {percent(size)} of the largest away from what it was"


# ------------------------------------------------------------------------------------------------------- its state


def broken(application: Application, pairs: Sequence[Pair]) -> Iterator[Reading]:
    """NaN, Inf or a variance below zero that was not there before."""
    places = [
        (pair.name, what)
        for pair in pairs
        for what in (*STATISTICS, *AFFINE)
        if unsound(pair.b, what) and not unsound(pair.a, what)
    ]
    if places:
        layers = list(dict.fromkeys(layer for layer, _ in places))
        quantities = list(dict.fromkeys(what for _, what in places))
        yield Reading(
            cause="poisoned-state",
            kind="defect",
            title=f"{application.does} put NaN, Inf or a variance below zero into {joined(quantities)} of "
            f"{of_layers(layers)}.",
            advice="look at what it divides by, and at the numbers that it was given",
            places=tuple(places),
        )


def unsound(held: Held, what: str) -> bool:
    value: Array | None = getattr(held, what)
    if value is None or not value.size:
        return False
    return not np.isfinite(value).all() or (what == "running_var" and bool((value < 0).any()))


def statistics(application: Application, pairs: Sequence[Pair]) -> Iterator[Reading]:
    """Statistics and counters that moved, by what the move looks like."""
    groups: dict[tuple[str, float], list[Pair]] = {}
    for pair in pairs:
        moved = changed(pair, (*STATISTICS, "counter"))
        if moved and not any(unsound(pair.b, what) for what in STATISTICS):
            groups.setdefault(way_of(pair, moved), []).append(pair)
    for (way, count), chosen in groups.items():
        places = tuple((pair.name, what) for pair in chosen for what in changed(pair, (*STATISTICS, "counter")))
        quantities = [what for what in (*STATISTICS, "counter") if any(what == other for _, other in places)]
        shown = [what for what in quantities if what != "counter"] or ["the counter"]
        who = of_layers([pair.name for pair in chosen])
        cause, title, advice = WAYS[way]
        forwards = "one training forward does" if count == 1 else f"{count:.0f} training forwards do"
        title = title.format(does=application.does, what=joined(shown), who=who, forwards=forwards)
        yield Reading(
            cause=cause,
            kind="hazard",
            title=title,
            advice=advice,
            places=places,
            evidence={
                f"largest change of {what}": max(
                    pair.quantities[what].size for pair in chosen if what in pair.quantities
                )
                for what in quantities
            },
        )


def way_of(pair: Pair, moved: Sequence[str]) -> tuple[str, float]:
    """("forwards", how many), ("start", 0), ("shape", 0), ("count", 0) or ("moved", 0)."""
    words = {what: pair.quantities[what].word for what in moved}
    if set(words.values()) & {"missing", "width"}:
        return "shape", 0.0
    if moved == ["counter"]:
        return "count", 0.0
    if at_start(pair.b) and not at_start(pair.a):
        return "start", 0.0
    if pair.a.counter is not None and pair.b.counter is not None and pair.b.counter > pair.a.counter:
        return "forwards", pair.b.counter - pair.a.counter
    return "moved", 0.0


WAYS: Mapping[str, tuple[str, str, str]] = {
    "forwards": (
        "update-count",
        "{does} moved {what} of {who}, as {forwards}.",
        "give it a copy of the model (copy.deepcopy), or call model.eval() before it and train() after it",
    ),
    "start": (
        "stale-state",
        "{does} put {what} of {who} back to the start, mean 0 and variance 1.",
        "load the statistics again after it, or estimate them anew (torch.optim.swa_utils.update_bn)",
    ),
    "moved": (
        "state-mismatch",
        "{does} moved {what} of {who}, with no training forward that a counter shows.",
        "give it a copy of the model (copy.deepcopy) if the statistics are to stay",
    ),
    "count": (
        "counter-skew",
        "{does} changed {what} of {who}, and no statistics with it.",
        "copy num_batches_tracked with the statistics",
    ),
    "shape": (
        "state-mismatch",
        "{does} left {who} without {what}, or with a shape of another width.",
        "copy running_mean, running_var and num_batches_tracked into the new layers",
    ),
}


def affine(application: Application, pairs: Sequence[Pair]) -> Iterator[Reading]:
    chosen = [pair for pair in pairs if changed(pair, AFFINE)]
    if chosen:
        places = tuple((pair.name, what) for pair in chosen for what in changed(pair, AFFINE))
        quantities = [what for what in AFFINE if any(what == other for _, other in places)]
        yield Reading(
            cause="state-mismatch",
            kind="hazard",
            title=f"{application.does} changed {joined(quantities)} of {of_layers([pair.name for pair in chosen])}.",
            advice="copy weight and bias into the new layers, if they are to stay",
            places=places,
        )


def settings(application: Application, pairs: Sequence[Pair]) -> Iterator[Reading]:
    """eps and momentum, a cumulative average included."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for pair in pairs:
        for what in ("eps", "momentum"):
            one, two = getattr(pair.a, what), getattr(pair.b, what)
            if one is not None and two is not None and abs(one - two) > SAME_SETTING * max(abs(one), abs(two)):
                groups.setdefault((what, number(one), number(two)), []).append(pair.name)
        modes = [pair.a.layer in application.before.cumulative, pair.b.layer in application.after.cumulative]
        if modes[0] != modes[1]:
            words = [
                "None" if yes else number(held.momentum) for yes, held in zip(modes, (pair.a, pair.b), strict=True)
            ]
            groups.setdefault(("momentum", words[0], words[1]), []).append(pair.name)
    for (what, before, after), layers in groups.items():
        yield Reading(
            cause="hyperparameter-lost",
            kind="hazard",
            title=f"{application.does} changed {what} of {of_layers(layers)} from {before} to {after}.",
            advice=f"set {what} again after it, or hand it over to the new {verb(layers, 'layer', 'layers')}",
            places=tuple((layer, what) for layer in layers),
            evidence={"before": before, "after": after},
        )


# --------------------------------------------------------------------------------------------------------- its modes


def modes(application: Application, pairs: Sequence[Pair]) -> Iterator[Reading]:
    """Layers in another mode than before, and parameters that are trained now, or not any more."""
    whole = application.before.training != application.after.training
    pairs = [pair for pair in pairs if not MODELESS.search(application.after.kinds.get(pair.b.layer, ""))]
    on = [pair.name for pair in pairs if pair.a.training is False and pair.b.training is True]
    off = [pair.name for pair in pairs if pair.a.training is True and pair.b.training is False]
    thawed = [pair.name for pair in pairs if trainable(application, pair, before=False, after=True)]
    frozen = [pair.name for pair in pairs if trainable(application, pair, before=True, after=False)]
    said, switch = [], SWITCH.get(application.framework, SWITCH["torch"])
    if whole and not application.after.training:
        said.append("left the model in eval mode" if off or not pairs else "put the model itself into eval mode")
    elif whole:
        said.append("left the model in training mode" if on or not pairs else "put the model itself into training mode")
    elif on:
        was = "a frozen layer" if len(on) == 1 else f"{len(on)} frozen layers"
        was = was if application.before.training else f"{len(on)} {verb(on, 'layer', 'layers')}"
        said.append(f"put {was} into training ({listed(on)})")
    if off and not whole:
        said.append(f"put {of_layers(off)} into eval")
    if not whole and not on and not off and application.flipped:
        said.append(f"changed the mode of {of_layers(application.flipped)}")
    if thawed:
        said.append(f"let gamma and beta of {of_layers(thawed)} be trained again ({switch})")
    if frozen:
        said.append(f"stopped gamma and beta of {of_layers(frozen)} from being trained ({switch})")
    if said:
        places: list[Place] = [(layer, "training") for layer in (*on, *off)]
        places += [(layer, "gamma") for layer in (*thawed, *frozen)]
        who = of_layers(on) if on and whole else verb(on, "It", "They")
        follows = verb(on, "normalises by the batch and moves its", "normalise by the batch and move their")
        follows = f" {who} {follows} statistics from the next forward on." if on else ""
        yield Reading(
            cause="mode-leak",
            kind="hazard",
            title=f"{application.does} {joined(said)}.{follows}",
            advice=WITH_MODE if whole else FROZEN if frozen and not (on or off or thawed) else WITH_LAYERS,
            places=tuple(places),
            evidence={word: len(moved) for word, moved in (("into training", on), ("into eval", off)) if moved},
        )


WITH_MODE = "set the mode again after it: model.train() or model.eval()"
WITH_LAYERS = "copy `training` and requires_grad to each new layer, or set the modes again after it"
FROZEN = (
    "nothing, if it was to freeze them and they are in eval as well; else copy requires_grad to each new layer, or set "
    "it again"
)


def trainable(application: Application, pair: Pair, *, before: bool, after: bool) -> bool:
    """Whether a layer with gamma and beta was, and is, trained."""
    has = pair.a.gamma is not None and pair.b.gamma is not None
    was = pair.a.layer not in application.before.frozen
    return has and was == before and (pair.b.layer not in application.after.frozen) == after


# ------------------------------------------------------------------------------------------- its layers and outputs


def replaced(application: Application, gone: Sequence[Held], new: Sequence[Held]) -> Iterator[Reading]:
    """Layers that are there on one side alone: folded where the outputs stay what they were."""
    if not gone and not new:
        return
    took = f"took {of_layers([layer.layer for layer in gone])} away" if gone else ""
    put = f"put {of_layers([layer.layer for layer in new])} in" if new else ""
    said = f"{application.does} {joined([word for word in (took, put) if word])}"
    places: tuple[Place, ...] = tuple((layer.layer, "output") for layer in (*gone, *new))
    if application.gap is not None and not application.differs:
        size = f"{percent(application.gap)} of the largest, where rounding may come to {percent(application.bound)}"
        same_output = "the same to the bit" if application.gap == 0 else f"equal up to rounding: {size}"
        how = "folded" if gone and not new else "replaced"
        yield Reading(
            cause="folding",
            kind="rounding",
            title=f"{application.does} {how} {of_layers([layer.layer for layer in gone or new])}; the output in eval "
            f"is {same_output}.",
            advice="",
            places=(*places, ("", "output")),
            evidence={"gap": application.gap, "bound": application.bound},
        )
        return
    known = f" In eval its output {apart(application)}." if application.gap is not None else ""
    failed = application.unplayed.get("given", "")
    known = f" In eval the model fails now: {failed}." if failed else known
    yield Reading(
        cause="folding",
        kind="hazard",
        title=f"{said}.{known}",
        advice="fold in eval mode, with the statistics that the model was trained to; see which layer differs in the "
        "table",
        places=(*places, ("", "output")),
        evidence={} if application.gap is None else {"gap": application.gap, "bound": application.bound},
    )


def outputs(application: Application, found: Sequence[Reading]) -> Iterator[Reading]:
    """What the outputs say that no reading has said: other tensors, rounding, or a difference that nothing explains."""
    said = any(("", "output") in reading.places for reading in found)
    others = application.others.different
    tensors = f"{application.does} changed {len(others)} of {application.others.total} other tensors ({listed(others)})"
    failed = application.unplayed.get("given", "") if "eval" not in application.unplayed else ""
    if failed and not said:
        yield Reading(
            cause="unexplained",
            kind="unexplained",
            title=f"After {application.does} the model fails in eval on the batch that it took before: {failed}.",
            advice="call it on a copy, and see what it left behind",
            places=(("", "output"),),
        )
    elif application.differs and not said:
        size = application.gap or 0.0
        yield Reading(
            cause="state-mismatch" if others else "unexplained",
            kind="hazard" if others else "unexplained",
            title=f"{tensors}; in eval its output {apart(application)}." if others else unaccounted(application, found),
            advice="call it on a copy of the model (copy.deepcopy), if its weights are to stay"
            if others
            else "see which layer differs in the table",
            places=(("", "output"),),
            evidence={"gap": size, "bound": application.bound} if np.isfinite(size) else {},
        )
    elif others and not said and not application.differs:
        yield Reading(
            cause="state-mismatch",
            kind="hazard",
            title=f"{tensors}.",
            advice="call it on a copy of the model (copy.deepcopy), if its weights are to stay",
            places=(("", "output"),),
        )
    elif application.gap and not said:
        yield Reading(
            cause="rounding",
            kind="rounding",
            title=f"After {application.does} the output in eval is equal up to rounding: {percent(application.gap)} of "
            f"the largest, where rounding may come to {percent(application.bound)}.",
            advice="",
            places=(("", "output"),),
            evidence={"gap": application.gap, "bound": application.bound},
        )


def unaccounted(application: Application, found: Sequence[Reading]) -> str:
    does = f"After {application.does} the output in eval {apart(application)}"
    if application.replaced:
        return f"{does}: it put other modules in ({listed(application.replaced)})."
    beside = " beside that" if found else ""
    rounding = percent(application.bound)
    return f"{does}, where rounding may come to {rounding}; nothing{beside} that bncheck looks at accounts for it."
