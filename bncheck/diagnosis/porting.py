"""Porting a model from one framework to another: which numbers to change, from two measured conventions. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from bncheck.convention import Convention

# Facets where two different values need a sentence, in the order of a person porting; what to do about each.
RULES = {
    "update_on": "read or save the statistics of each side only after that event",
    "update_without_grad": "mind forwards in training mode without gradient recording (warm-up, recalibration)",
    "averaging": "the averages weigh early batches differently: compare after many steps, not after a few",
    "statistic": "convert the loaded running_var before use: it holds another statistic",
    "train_normaliser": "training outputs differ by design: convert the model only for inference",
    "eval_normaliser": "inference outputs differ by design: look at this before anything else",
    "eps_placement": "no value of eps makes both equal; keep eps small against every variance",
    "single_value": "never train with one value per channel (drop the last incomplete batch)",
    "single_value_state": "never train with one value per channel (drop the last incomplete batch)",
    "empty_batch": "never feed an empty batch in training",
    "initial_mean": "set it where you train from scratch",
    "initial_var": "set it where you train from scratch, and before any eval without training",
    "initial_gamma": "initialise it yourself where you train from scratch; copied weights are not concerned",
    "initial_beta": "initialise it yourself where you train from scratch; copied weights are not concerned",
}


def advise_paths(source: Mapping[str, Convention], goal: Mapping[str, Convention]) -> list[str]:
    """Advice over all layer paths that both were measured on; what holds on some of them only names them."""
    by_path = {path: advise(source[path], goal[path]) for path in source if path in goal}
    found: dict[str, list[str]] = {}
    for path, lines in by_path.items():
        for line in lines:
            found.setdefault(line, []).append(path)
    everywhere = [line for line, paths in found.items() if len(paths) == len(by_path)]
    return everywhere + [f"on {', '.join(paths)}: {line}" for line, paths in found.items() if line not in everywhere]


def changes(source: Mapping[str, Convention], goal: Mapping[str, Convention]) -> int:
    """How many rules differ between two targets on any path that both have: weight, eps, divisor and the others."""
    names = ("default_batch_weight", "default_eps", "variance_divisor", *RULES)
    return sum(any(differs(source[path], goal[path], name) for path in source if path in goal) for name in names)


def differs(source: Convention, goal: Convention, facet: str) -> bool:
    one, two = source.value(facet), goal.value(facet)
    if one is None or two is None:
        return False
    if isinstance(one, (int, float)) and isinstance(two, (int, float)):
        return abs(one - two) > 1e-3 * max(abs(one), abs(two))
    return one != two


def advise(source: Convention, goal: Convention) -> list[str]:
    """Sentences for somebody who moves a model from ``source`` to ``goal``; empty when nothing known differs."""
    lines = [*weight_lines(source, goal), *eps_lines(source, goal), *divisor_lines(source, goal)]
    for facet, remedy in RULES.items():
        one, two = source.value(facet), goal.value(facet)
        if differs(source, goal, facet):
            lines.append(f"{facet}: {source.target} {one}, {goal.target} {two}: {remedy}.")
    unknown = [name for name in ("variance_divisor", *RULES) if source.value(name) is None or goal.value(name) is None]
    if unknown:
        lines.append(f"not measured on both sides, look yourself: {', '.join(unknown)}.")
    return lines


def spelled(convention: Convention, weight: float) -> str:
    """A weight of the new batch in the framework's own word: which sense it has is read off what the layer holds."""
    match = re.fullmatch(r"(\w+)=([-+.\deE]+)", convention.framework_word.get("batch_weight", ""))
    measured = convention.value("batch_weight")
    if match is None or not isinstance(measured, (int, float)):
        return f"weight of the new batch {weight:g}"
    word, held = match.group(1), float(match.group(2))
    inverted = abs(held - (1 - measured)) < abs(held - measured)
    return f"{word}={1 - weight if inverted else weight:g}"


def weight_lines(source: Convention, goal: Convention) -> Iterator[str]:
    weight, default = source.value("default_batch_weight"), goal.value("default_batch_weight")
    if isinstance(weight, (int, float)):
        now = f"; its default is {spelled(goal, default)}" if isinstance(default, (int, float)) else ""
        yield (
            f"momentum: {spelled(source, weight)} in {source.target} (weight of the new batch {weight:g}) "
            f"is {spelled(goal, weight)} in {goal.target}{now}."
        )


def eps_lines(source: Convention, goal: Convention) -> Iterator[str]:
    eps, default = source.value("default_eps"), goal.value("default_eps")
    if isinstance(eps, (int, float)):
        same = isinstance(default, (int, float)) and abs(eps - default) <= 1e-3 * eps
        verb = "is the default of both" if same else f"has to be set in {goal.target} too: its default is {default}"
        yield f"eps: {eps:g} {verb}."


def divisor_lines(source: Convention, goal: Convention) -> Iterator[str]:
    one, two = source.value("variance_divisor"), goal.value("variance_divisor")
    if one is None or two is None:
        return
    if one == two:
        yield f"running_var: copy it as it is, both average the variance with divisor {one}."
        return
    factor = "n/(n − 1)" if two == "n-1" else "(n − 1)/n"
    yield (
        f"running_var: {source.target} averages with divisor {one}, {goal.target} with {two}. For inference copy it "
        f"as it is; where training continues multiply it by {factor}, n being the values per channel of a batch."
    )
