"""Take a layer of the user's apart: the simplest rules that make every value it gave and every state it left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bncheck.diagnosis.anatomy import affine, domains, memory, normaliser
from bncheck.diagnosis.anatomy.activations import SMOOTH, Activation, candidates, leaky
from bncheck.diagnosis.anatomy.groups import Group, groupings, mask, subsets
from bncheck.diagnosis.anatomy.lines import Shown, show, solution
from bncheck.diagnosis.anatomy.memory import Memory
from bncheck.diagnosis.anatomy.normaliser import EVAL_SOURCES, TRAIN_SOURCES, Normaliser
from bncheck.diagnosis.anatomy.replay import Parts
from bncheck.diagnosis.anatomy.twists import TWISTS
from bncheck.diagnosis.anatomy.values import Forward, Life, moments_of, moved_by_backward
from bncheck.trace import Array

NONE = Activation()
PLAIN = 0.25  # a factor of 1/r² within this of 1 is nothing that anybody scales by: it is an eps, or a divisor
# Choices of values are tried on so many values in all, in each mode and behind each activation: some 0.5 s.
MOST_VALUES, LEAST_TRIED = 1 << 20, 24


def dissect(life: Life) -> Parts | None:
    """None where outputs are not made by any rule that is tried."""
    found = dissected(life)
    if found is None and any(one.training and not one.graded for one in life.forwards):
        found = dissected(life.by_gradients)
        found = None if found is None else replace(found, by_gradients=True)
    return found or otherwise_scaled(life)


def otherwise_scaled(life: Life) -> Parts | None:
    """What one other way of scaling and shifting makes of it; None where none does, or more than one."""
    ways: Iterator[affine.Affine | domains.Domains] = itertools.chain(affine.likely(life), domains.likely(life))
    made = [replace(found, affine=way) for way in ways if (found := dissected(affine.as_used(life, way))) is not None]
    return made[0] if len(made) == 1 else None


def dissected(life: Life) -> Parts | None:
    with np.errstate(all="ignore"):
        for activation in (NONE, *behind(life)):
            found = phases(life, activation)
            if found is not None and not merely_scaled(life, activation, found):
                training, evaluating = found
                return Parts(
                    activation=activation,
                    training=training,
                    evaluating=evaluating,
                    memory=remembered(life, training),
                )
        return None


def behind(life: Life) -> Iterator[Activation]:
    outputs = np.concatenate([one.y.ravel() for one in life.forwards])
    yield from candidates(outputs[np.isfinite(outputs)])
    x, y = (by_channel(part) for part in ([one.x for one in life.forwards[:1]], [one.y for one in life.forwards[:1]]))
    bent = leaky(x, y)
    if bent is not None:
        yield bent


def by_channel(parts: Sequence[Array]) -> Array:
    return np.concatenate([np.moveaxis(part, 1, 0).reshape(part.shape[1], -1) for part in parts], axis=1)


def phases(life: Life, activation: Activation) -> tuple[Normaliser | None, Normaliser | None] | None:
    """The rules of training and of eval behind an activation; None where one of the two that were played has none."""
    found: list[list[Normaliser]] = []
    for training in (True, False):
        forwards = life.of(training)
        if not forwards:
            found.append([])
            continue
        shown = [show(forward, activation, life.u) for forward in forwards]
        every = rules(life, shown, activation, training)
        rule = next(every, None)
        if rule is not None and rule.group.taken != "all":
            rule = the_one(life, [rule, *every])
        if rule is None:
            return None
        found.append(alike(life, shown, activation, rule))
    return at_one(life, activation, *found)


def merely_scaled(life: Life, activation: Activation, found: tuple[Normaliser | None, Normaliser | None]) -> bool:
    """Whether another eps is told by nothing that one factor in front of every output would not tell, too."""
    rules = [
        (rule, mode)
        for rule, mode in zip(found, (True, False), strict=True)
        if rule is not None and (rule.eps, rule.placement) != (life.eps, "inside")
    ]
    if not rules or any(rule.twist or rule.source not in ("batch", "running") for rule, _ in rules):
        return False
    ends = [
        normaliser.one_factor(rule, [show(one, activation, life.u) for one in life.of(mode)], life)
        for rule, mode in rules
    ]
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    modes = sum(rule is not None for rule in found)
    alone = len(rules) < modes  # another eps in one mode is hardly ever meant, and takes more than one factor to tell
    return low <= high and (alone or low > 1.0 + PLAIN or high < 1.0 - PLAIN)


def alike(life: Life, shown: Sequence[Shown], activation: Activation, rule: Normaliser) -> list[Normaliser]:
    """The rule, and those of the same group and source with another divisor or eps that make the outputs as well."""
    if rule.source == "mixture" or rule.twist or not normaliser.departures(rule, life):
        return [rule]
    forwards = [one.forward for one in shown]
    others = normaliser.hypotheses(shown, rule.group, rule.source, life, rule.within)
    return [rule, *(one for one in others if one != rule and normaliser.reproduces(one, activation, forwards, life))]


def the_one(life: Life, standing: Sequence[Normaliser]) -> Normaliser | None:
    """Of several choices of values that all make the outputs: the one that is averaged too; None where that tells none
    from the others. Choices of the very same values are one, by the word that says most."""
    kept: list[Normaliser] = []
    for rule in standing:
        if not any(same_values(life, rule.group, other.group) for other in kept):
            kept.append(rule)
    if len(kept) > 1:
        kept = [rule for rule in kept if (held := memory.fit(life, [rule.group])) is not None and not held.never]
    return kept[0] if len(kept) == 1 else None


def same_values(life: Life, one: Group, two: Group) -> bool:
    """Whether two choices are of the same values in every training batch."""
    alike = one.kind == two.kind
    return alike and all(np.array_equal(mask(one, f.x), mask(two, f.x)) for f in life.of(True))


def at_one(
    life: Life, activation: Activation, training: Sequence[Normaliser], evaluating: Sequence[Normaliser]
) -> tuple[Normaliser | None, Normaliser | None] | None:
    """The pair with the fewest departures, with one eps at one place where that makes the outputs of either mode; None
    where as few of another kind do."""
    pairs: list[tuple[Normaliser | None, Normaliser | None]] = []
    nobody: list[Normaliser | None] = [None]
    for one, two in itertools.product(training or nobody, evaluating or nobody):
        if one is not None and two is not None and two.source != "running-std" and not (one.twist or two.twist):
            pairs += with_one_eps(life, activation, one, two)
        pairs.append((one, two))
    ranked = sorted(pairs, key=lambda pair: sum(kinds(pair, life)))
    best = kinds(ranked[0], life)
    rivals = [pair for pair in ranked if sum(kinds(pair, life)) == sum(best)]
    return ranked[0] if all(kinds(pair, life) == best for pair in rivals) else None


def with_one_eps(
    life: Life, activation: Activation, training: Normaliser, evaluating: Normaliser
) -> Iterator[tuple[Normaliser, Normaliser]]:
    for other in (evaluating, training):
        pair = [replace(rule, eps=other.eps, placement=other.placement) for rule in (training, evaluating)]
        modes = zip(pair, (True, False), strict=True)
        if all(normaliser.reproduces(rule, activation, life.of(mode), life) for rule, mode in modes):
            yield pair[0], pair[1]


def kinds(pair: tuple[Normaliser | None, Normaliser | None], life: Life) -> tuple[int, int, int]:
    """How often the divisor, the place of eps and eps itself depart; one eps of both modes counts once."""
    known = [rule for rule in pair if rule is not None]
    places = {(rule.placement, rule.eps) for rule in known}
    return (
        sum(rule.divisor != "n" for rule in known),
        sum(place != "inside" for place, _ in places),
        sum(eps != life.eps for _, eps in places),
    )


def rules(life: Life, shown: Sequence[Shown], activation: Activation, training: bool) -> Iterator[Normaliser]:
    """Rules that reproduce every output of one mode, the simplest first."""
    forwards = [one.forward for one in shown]
    for rule in proposed(life, shown, training, activation.name not in SMOOTH):
        if normaliser.reproduces(rule, activation, forwards, life):
            yield rule


def proposed(life: Life, shown: Sequence[Shown], training: bool, parts: bool) -> Iterator[Normaliser]:
    """``parts``: whether other values than the whole batch's are tried: not behind a smooth activation."""
    sources = [name for name in (TRAIN_SOURCES if training else EVAL_SOURCES) if life.tracked or name in STATELESS]
    for source in sources:
        yield from normaliser.hypotheses(shown, Group(), source, life)
    if not parts:
        return
    first = shown[0]
    room = max(LEAST_TRIED, MOST_VALUES // first.forward.x.size)
    for group in itertools.islice(subsets(first.forward.x, first.forward.width), room) if training else ():
        if plausible(first, group, life):
            yield from normaliser.hypotheses(shown, group, "batch", life)
    for group in itertools.islice(groupings(first.forward.x.shape), room):
        for source in ("batch", "mean-square"):
            if source == "mean-square" or plausible(first, group, life):
                yield from normaliser.hypotheses(shown, group, source, life)
    for group in itertools.islice(groupings(first.forward.x.shape), room) if training else ():
        if group.kind in POOLED:
            yield from normaliser.hypotheses(shown, Group(), "within", life, group)
    if first.forward.x.shape[2] > 1:
        yield from normaliser.mixture(shown, life)
    if training and life.tracked:
        yield from normaliser.hypotheses(shown, Group(), "renorm", life)
    source = "batch" if training else "running"
    for twist in TWISTS if training or life.tracked else ():
        yield from normaliser.hypotheses(shown, Group(), source, life, twist=twist)
        if not TWISTS[twist].plain:  # what takes its place may have no eps beside it
            yield from normaliser.hypotheses(shown, Group(), source, replace(life, eps=0.0), twist=twist)


STATELESS = ("batch", "mean-square")
POOLED = ("sample", "chunks", "strides")  # groups of a channel, whose variances somebody may have averaged
ONE_CHANNEL = ("batch", "chunks", "parts", "strides", "sample", "position")


def of_one_channel(shown: Shown) -> Shown:
    one, f = slice(0, 1), shown.forward
    before, after = ((state[0][one], state[1][one]) for state in (f.before, f.after))
    less = replace(
        f,
        x=f.x[:, one],
        y=f.y[:, one],
        gamma=f.gamma[..., one],
        beta=f.beta[..., one],
        before=before,
        after=after,
        kept={},
    )
    return Shown(less, shown.z[:, one], shown.known[:, one], shown.slack[:, one])


def plausible(shown: Shown, group: Group, life: Life) -> bool:
    """Whether the means of the groups are those of the lines, in the first forward: most hypotheses fall here. One
    channel tells, where groups do not reach over channels."""
    if group.kind in ONE_CHANNEL and group.taken != "unpadded":
        shown = of_one_channel(shown)
    found = moments_of(group, shown.forward)
    line = solution(shown, found, life.u)
    use = normaliser.of_groups(Normaliser(group=group), shown.forward, found, life)
    return line.straight and bool(line.known.any()) and normaliser.means_fit(line, use)


def remembered(life: Life, training: Normaliser | None) -> Memory | None:
    """What goes into the running statistics: the whole batch, else the values that normalise, else others."""
    if not life.tracked or moved_by_backward(life.stream):
        return None
    own = [group for group in (training.group, training.within) if not group.usual] if training is not None else []
    found = memory.fit(life, [Group(), *own])
    if found is not None or not life.of(True):
        return found
    first: Forward = life.of(True)[0]
    room = max(LEAST_TRIED, MOST_VALUES // first.x.size)
    others = [*itertools.islice(subsets(first.x, first.width), room), *itertools.islice(groupings(first.x.shape), room)]
    return memory.fit(life, [group for group in others if group not in own])
