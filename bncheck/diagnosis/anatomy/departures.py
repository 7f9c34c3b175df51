"""In which rules a layer parts from BatchNorm's, in words, and what each of them makes of the difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations

import numpy as np

from bncheck.diagnosis.anatomy.activations import Activation
from bncheck.diagnosis.anatomy.averages import STATISTICS, said_of_schedule
from bncheck.diagnosis.anatomy.domains import Domains
from bncheck.diagnosis.anatomy.groups import Group, mask, strided, words
from bncheck.diagnosis.anatomy.memory import Memory, updates
from bncheck.diagnosis.anatomy.normaliser import NO_LIMIT, Normaliser
from bncheck.diagnosis.anatomy.replay import Parts, Played, play
from bncheck.diagnosis.anatomy.twists import TWISTS
from bncheck.diagnosis.anatomy.values import Forward, Life
from bncheck.evidence import Departure
from bncheck.trace import Array

MOST_UPDATES = 4
QUANTITIES = ("output", "running_mean", "running_var")


@dataclass(frozen=True)
class Rule:
    """One departure: ``undo`` gives the parts with BatchNorm's rule in its place."""

    cause: str
    says: str
    advice: str
    undo: Callable[[Parts], Parts]
    of_inner: bool = False


def departures(parts: Parts, life: Life) -> tuple[Departure, ...]:
    rules = [rule for rule in found(parts, life) if rule is not None]
    with np.errstate(all="ignore"):
        shares = shares_of(parts, rules, life)
    return tuple(
        Departure(cause=rule.cause, says=rule.says, advice=rule.advice, shares=share, of_inner=rule.of_inner)
        for rule, share in zip(rules, shares, strict=True)
    )


def found(parts: Parts, life: Life) -> Sequence[Rule | None]:
    of_values = values(parts, life), source(parts, life), divisor(parts), eps(parts, life)
    return (by_gradients(parts), *of_values, scaling(parts), activation(parts), *remembering(parts, life))


def by_gradients(parts: Parts) -> Rule | None:
    if not parts.by_gradients:
        return None
    return Rule(
        cause="normaliser-source",
        says="asks whether gradients are on, not whether it trains: under torch.no_grad() a training forward is one "
        "of eval",
        advice="test self.training, which train() and eval() set, and not torch.is_grad_enabled()",
        undo=lambda one: replace(one, by_gradients=False),
    )


# ---------------------------------------------------------------------------------------------- which values


def values(parts: Parts, life: Life) -> Rule | None:
    """Other values than those of the whole batch went into the statistics."""
    train, evaluating, held = parts.training, parts.evaluating, parts.memory
    group = train.group if train is not None else Group()
    in_eval = evaluating.group if evaluating is not None else Group()
    kept = held if held is not None and not held.never and not held.usual_values else None
    if train is not None and train.source == "within":
        return within(train, held, life)
    if group.usual and in_eval.usual and kept is None:
        return None
    return Rule(
        cause="value-count",
        says=said_of_values(group, in_eval, held, life),
        advice=f"take mean and variance of each channel over all values of the batch: {whole_mean(life.forwards[0])}",
        undo=with_all_values,
    )


def whole_mean(forward: Forward) -> str:
    """How the mean of each channel is written for inputs of so many axes."""
    positions = forward.x.shape[2]
    if positions == 1:
        return "x.mean(0) of a 2-D x"
    return "x.mean((0, 2)) of a 3-D x" if positions == forward.width else "x.mean((0, 2, 3)) of a 4-D x"


def within(train: Normaliser, held: Memory | None, life: Life) -> Rule:
    x = next((one.x for one in life.forwards if one.training), life.forwards[0].x)
    each = {"sample": "each sample", "strides": strided(train.within.size)}.get(
        train.within.kind,
        "each half of the batch" if 2 * train.within.size == len(x) else f"each chunk of {train.within.size} samples",
    )
    too = ", for its running statistics too" if held is not None and held.group == train.within else ""
    return Rule(
        cause="value-count",
        says=f"averages the variances of {each} for that of the batch{too}, which leaves out how their means differ",
        advice="take the variance of each channel over all values of the batch, or add the variance of the means: "
        "v.mean(0) + m.var(0, unbiased=False)",
        undo=with_all_values,
    )


def with_all_values(parts: Parts) -> Parts:
    def usual(rule: Normaliser | None, source_: str) -> Normaliser | None:
        if rule is not None and rule.source == "within":
            return replace(rule, source="batch", within=Group())
        if rule is None or rule.group.usual:
            return rule
        return replace(rule, group=Group(), source=source_)

    held = parts.memory
    return replace(
        parts,
        training=usual(parts.training, "batch"),
        evaluating=usual(parts.evaluating, "running"),
        memory=None if held is None else replace(held, group=Group(), order="their mean"),
    )


def said_of_values(group: Group, in_eval: Group, held: Memory | None, life: Life) -> str:
    x = next((one.x for one in life.forwards if one.training), life.forwards[0].x)
    samples, positions = x.shape[0], x.shape[2]
    if group.usual and in_eval.usual:
        assert held is not None
        return f"normalises with the whole batch, but averages {of_memory(held, samples, positions)}"
    said = f"normalises {words(group if not group.usual else in_eval, samples, positions)}"
    if group.taken != "all":
        said = f"takes mean and variance of {words(group, samples, positions)}"
    if group.usual:
        said += " in eval"
    elif in_eval == group:
        said += ", in training and in eval"
    if held is None or held.never:
        return said
    if held.group == group:
        several = updates(held, next(one for one in life.forwards if one.training)) > 1
        return said + {
            "each in turn": ", and updates its running statistics once for each" if several else "",
            "the first": ", and averages the first alone",
            "the last": ", and averages the last alone",
        }.get(held.order, "")
    return f"{said}; its running statistics take {of_memory(held, samples, positions)}"


def of_memory(held: Memory, samples: int, positions: int) -> str:
    if held.usual_values:
        return "the whole batch"
    name = words(held.group, samples, positions)
    return {"the first": f"the first alone of {name}", "the last": f"the last alone of {name}"}.get(held.order, name)


def reached(parts: Parts, life: Life) -> tuple[int, int]:
    """(values per channel of a batch, how many of them share one mean at most)."""
    x = next((one.x for one in life.forwards if one.training), life.forwards[0].x)
    whole = x.shape[0] * x.shape[2]
    group = parts.training.group if parts.training is not None else Group()
    if group.usual and parts.memory is not None and not parts.memory.never:
        group = parts.memory.group
    if group.taken != "all":
        return whole, int(mask(group, x)[:, 0].sum())
    share = {"chunks": group.size * x.shape[2], "sample": x.shape[2]}.get(group.kind, whole)
    return whole, min(share, whole)


# -------------------------------------------------------------------------------------- what is normalised with


def source(parts: Parts, life: Life) -> Rule | None:
    """Other statistics than the batch's in training, than the running ones in eval."""
    said = []
    for rule, usual, mode in ((parts.training, "batch", "training"), (parts.evaluating, "running", "eval")):
        if rule is None:
            continue
        if rule.twist or rule.source not in ("within", usual if rule.group.usual else "batch"):
            said.append((mode, said_of_source(rule)))
    if not said:
        return None
    same = len({what for _, what in said}) == 1
    text = (
        f"normalises {said[0][1]} in {' and in '.join(mode for mode, _ in said)}"
        if same
        else "; ".join(f"in {mode} normalises {what.rstrip(',')}" for mode, what in said)
    )
    return Rule(
        cause="normaliser-source",
        says=text,
        advice="normalise with the batch's mean and variance while self.training is true, and with running_mean and "
        "running_var when it is false",
        undo=lambda one: with_usual_source(one, life.eps),
    )


def with_usual_source(parts: Parts, asked: float) -> Parts:
    def usual(rule: Normaliser | None, name: str) -> Normaliser | None:
        if rule is None:
            return None
        used = replace(rule, source=name if rule.group.usual else "batch", shares=(), twist="")
        return replace(used, placement="inside", eps=asked) if without_eps(rule) else used

    return replace(parts, training=usual(parts.training, "batch"), evaluating=usual(parts.evaluating, "running"))


def without_eps(rule: Normaliser) -> bool:
    """Whether nothing that divides has the usual place of eps: running_var may be divided by as it is."""
    return divided(rule) or bool(rule.twist and not TWISTS[rule.twist].plain)


def divided(rule: Normaliser) -> bool:
    return rule.source == "running-std" and rule.placement == "outside"


def said_of_source(rule: Normaliser) -> str:
    if rule.twist:
        return TWISTS[rule.twist].says[rule.source == "running"]
    shares = [f"{share:.4g}" for share in rule.shares]
    if rule.source == "mixture":
        mean, var = (f"{a} instance, {b} layer and {c} batch" for a, b, c in (shares[:3], shares[3:]))
        both = mean if mean == var else f"{mean} for the mean, {var} for the variance"
        return f"with a mixture of instance, layer and batch statistics ({both})"
    if rule.source == "blend":
        return f"with a blend, {shares[0]} of it the batch's statistics and the rest the running ones"
    if rule.source == "renorm":
        limits = [
            f"{name} clipped at {share}"
            for name, share, size in zip("rd", shares, rule.shares, strict=True)
            if size < NO_LIMIT
        ]
        return f"by batch renormalisation ({', '.join(limits) or 'r and d not clipped here'})"
    return {
        "batch": "with the batch's statistics",
        "mean-square": "by the root of the mean square, without subtracting a mean",
        "running-std": "with running_var taken as a standard deviation",
        "running-after": "with the running statistics as this very forward leaves them",
        "running-square": "with running_var minus the square of running_mean as the variance",
        "first-eval": "with the running statistics as its first eval found them, which training no longer moves,",
        "began": "with the statistics that it began with, which no training moves,",
    }.get(rule.source, "with the running statistics")


def divisor(parts: Parts) -> Rule | None:
    rule = parts.training
    if rule is None or rule.divisor == "n":
        return None
    return Rule(
        cause="normaliser-divisor",
        says="divides by the deviation of n - 1 in training, not by that of n",
        advice="normalise with the biased variance, as the paper does: x.var(unbiased=False)",
        undo=lambda one: replace(one, training=replace(one.training, divisor="n") if one.training else None),
    )


def eps(parts: Parts, life: Life) -> Rule | None:
    modes = (parts.training, " in training"), (parts.evaluating, " in eval")
    rules = [(rule, mode) for rule, mode in modes if rule is not None]
    odd = [(rule, mode) for rule, mode in rules if said_of_eps(rule, life.eps)]
    if not odd:
        return None
    everywhere = len(odd) == len(rules) and len({said_of_eps(rule, life.eps) for rule, _ in odd}) == 1
    return Rule(
        cause="eps",
        says=said_of_eps(odd[0][0], life.eps)
        if everywhere
        else ", and ".join(said_of_eps(rule, life.eps, mode) for rule, mode in odd),
        advice="divide by sqrt(var + eps) with the eps that the layer was given (torch.rsqrt(var + eps)); "
        "max(var, eps) adds none to a larger variance",
        undo=lambda one: replace(
            one, training=inside(one.training, life.eps), evaluating=inside(one.evaluating, life.eps)
        ),
    )


def said_of_eps(rule: Normaliser, asked: float, mode: str = "") -> str:
    """ "" where it is the one that was asked for, in its place, or has none."""
    usual = rule.eps == asked and (rule.placement == "inside" or divided(rule))
    if usual or (without_eps(rule) and not divided(rule)):
        return ""
    if divided(rule):
        return f"adds an eps of {rule.eps:.4g} to running_var, by which it divides{mode}, instead of {asked:.4g}"
    if rule.placement == "outside":
        return f"adds eps to the deviation{mode}, sqrt(var) + {rule.eps:.4g}"
    if rule.eps == 0:
        return f"leaves out the eps of {asked:.4g}{mode}"
    return f"adds an eps of {rule.eps:.4g} to the variance{mode}, instead of {asked:.4g}"


def inside(rule: Normaliser | None, asked: float) -> Normaliser | None:
    return None if rule is None else replace(rule, eps=asked, placement="inside")


def scaling(parts: Parts) -> Rule | None:
    if parts.affine is None:
        return None
    undo = partial(replace, affine=None)
    way = parts.affine
    return Rule(cause="affine", says=way.says, advice=way.advice, undo=undo, of_inner=isinstance(way, Domains))


def activation(parts: Parts) -> Rule | None:
    if parts.activation.name == "none":
        return None
    return Rule(
        cause="activation",
        says=f"puts {parts.activation.words} behind the normalisation",
        advice="nothing, if the activation is meant: compare with the built-in layer followed by it; otherwise leave "
        "it out of the layer",
        undo=lambda one: replace(one, activation=Activation()),
    )


# --------------------------------------------------------------------------------------------------- the average


def remembering(parts: Parts, life: Life) -> Sequence[Rule]:
    """Rules of the average in which it parts from s + weight·(u − s) of the weight asked for."""
    held = parts.memory
    if held is None or held.never:
        return ()
    rules = []
    if held.averaging == "scheduled":
        says = said_of_schedule(held.weights, life.weight)
        rules.append(of_average("averaging", says, averaging="exponential"))
    elif held.averaging != "exponential":
        says = {"first-replaces": "lets the first batch replace what the running statistics began with",
                "debiased": "divides its averages by 1 - (1 - weight)^k, so that nothing of the start is left in them",
                "added": "adds each batch to its running statistics and takes nothing off what they held, so that they "
                         "grow without end",
                "cumulative": "averages all batches alike, with weight 1/k"}[held.averaging]  # fmt: skip
        rules.append(of_average("averaging", says, averaging="exponential"))
    if held.var_weight is not None:
        rules.append(weighed_apart(held, held.var_weight, life))
    elif held.weight != life.weight:
        times = next(
            (k for k in range(2, MOST_UPDATES + 1) if abs(1.0 - (1.0 - life.weight) ** k - held.weight) < 1e-6), 0
        )
        if times:
            says = f"moves its running statistics as {times} updates of weight {life.weight:.4g} per forward do"
            rules.append(of_average("update-count", says, weight=life.weight))
        else:
            says = f"gives the new batch a weight of {held.weight:.4g} instead of {life.weight:.4g}"
            rules.append(of_average("batch-weight", says, weight=life.weight))
    if held.statistic != "variance":
        put = STATISTICS[held.statistic]
        usual = {"divisor": life.divisor} if put.of_n else {}
        rules.append(of_average(put.cause, put.says, statistic="variance", **usual))
    if held.divisor != life.divisor and not (held.statistic in STATISTICS and STATISTICS[held.statistic].of_n):
        what = "the variance that is divided" if held.statistic in ("variance", "std") else "what it divides"
        says = f"averages {what} by {held.divisor.replace('-', ' - ')}"
        rules.append(of_average("variance-divisor", says, divisor=life.divisor))
    return rules


def weighed_apart(held: Memory, var_weight: float, life: Life) -> Rule:
    """A weight for the mean and another one for the variance."""
    usual = {"weight": life.weight, "var_weight": None}
    for still, moving, weight in (
        ("running_var", "running_mean", var_weight),
        ("running_mean", "running_var", held.weight),
    ):
        if not weight:
            return of_average(
                "never-updated", f"leaves {still} as it is in training, and moves {moving} alone", **usual
            )
    says = f"gives the new batch a weight of {held.weight:.4g} in running_mean and of {var_weight:.4g} in running_var"
    return of_average("batch-weight", f"{says}, instead of {life.weight:.4g} in both", **usual)


def of_average(cause: str, says: str, **usual: str | float | None) -> Rule:
    def undo(parts: Parts) -> Parts:
        return parts if parts.memory is None else replace(parts, memory=replace(parts.memory, **usual))  # type: ignore[arg-type]

    return Rule(cause=cause, says=says, advice="", undo=undo)


# -------------------------------------------------------------------------------------------------------- shares


def shares_of(parts: Parts, rules: Sequence[Rule], life: Life) -> list[dict[str, float]]:
    """Each rule's Shapley value in the mean |difference| from what was recorded: what goes when it is put back."""
    recorded = Played(tuple(one.y for one in life.forwards), tuple(one.after for one in life.forwards))
    known: dict[frozenset[int], Mapping[str, float]] = {}

    def left(kept: frozenset[int]) -> Mapping[str, float]:
        if kept not in known:
            here = parts
            for number, rule in enumerate(rules):
                here = here if number in kept else rule.undo(here)
            known[kept] = distance(play(here, life), recorded)
        return known[kept]

    nothing = left(frozenset())
    found: list[dict[str, float]] = [{} for _ in rules]
    orders = list(permutations(range(len(rules)))) if len(rules) <= 4 else [tuple(range(len(rules)))]
    for quantity in QUANTITIES:
        if not nothing[quantity] > 0:
            continue
        for order in orders:
            kept: frozenset[int] = frozenset()
            for number in order:
                gain = left(kept)[quantity] - left(kept | {number})[quantity]
                share = gain / nothing[quantity] / len(orders)
                found[number][quantity] = found[number].get(quantity, 0.0) + share
                kept |= {number}
    return found


def distance(one: Played, two: Played) -> dict[str, float]:
    def mean_gap(parts: Sequence[Array], others: Sequence[Array]) -> float:
        gaps = [np.abs(a - b) for a, b in zip(parts, others, strict=True)]
        told = [float(gap[np.isfinite(gap)].mean()) for gap in gaps if np.isfinite(gap).any()]
        return float(np.mean(told)) if told else 0.0

    found = {"output": mean_gap(one.outputs, two.outputs)}
    for which, name in enumerate(("running_mean", "running_var")):
        found[name] = mean_gap([state[which] for state in one.states], [state[which] for state in two.states])
    return found
