"""What a run folder says, arranged for reading. Nothing is judged here: verdicts come from the run itself.

A *theme* is one finding that came up in several cases, so that a reader meets it once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bncheck.evidence import Drift
from bncheck.finding import KINDS, NODES, Finding
from bncheck.gate.shortfall import Asked, asked_cells, available, compared, with_itself
from bncheck.report.plain_text import amount, clean, number, one_line, plural, scalar, words
from bncheck.report.standing import Standing, standing
from bncheck.run_folder.results import CaseResult, Expectation, Results, ScenarioResult, TargetResult
from bncheck.trace import GRADIENTS

NUMBER = re.compile(r"\d[\d.e+-]*")
FEW = 2  # targets that a list of values names
MOST_ULP = 1000.0  # that a reader can picture
GIST = 100  # letters: behind them a title goes into detail
ENDINGS = re.compile(r"(?<=[a-z])e?s?\b")  # "loses" and "lose": one target or several


@dataclass(frozen=True)
class Theme:
    """One cause between the same targets, in one or more cases; the first finding speaks for all."""

    first: Finding
    findings: tuple[Finding, ...]

    @property
    def cases(self) -> tuple[tuple[str, str], ...]:
        return tuple(dict.fromkeys((item.scenario, item.case) for item in self.findings))

    @property
    def groups(self) -> int:
        """How many different sets of targets it is about."""
        return len({frozenset(item.targets) for item in self.findings})


def rows(results: Results, probes: bool = True) -> list[tuple[ScenarioResult, CaseResult]]:
    """Scenario × case, in the run's order. ``probes`` False leaves out what only served to measure conventions,
    unless nothing else was run."""
    asked = [scenario for scenario in results.scenarios if probes or not scenario.probe]
    return [(scenario, case) for scenario in asked or results.scenarios for case in scenario.cases]


@dataclass(frozen=True)
class Row:
    """One case and how it stands on each target, by the target's name."""

    scenario: ScenarioResult
    case: CaseResult
    stands: Mapping[str, Standing]

    @property
    def label(self) -> str:
        """The case in words."""
        return self.case.label or self.case.name


@dataclass(frozen=True)
class Matrix:
    """Cases × targets, in the run's order: what every table of a whole run shows, each in its own way."""

    targets: tuple[TargetResult, ...]
    yardstick: str
    rows: tuple[Row, ...]
    more: int  # cases beyond the rows


def make_matrix(results: Results, probes: bool = True, most: int | None = None) -> Matrix:
    """At most so many rows; ``probes`` as for :func:`rows`."""
    every = rows(results, probes)
    shown = [
        Row(
            scenario=scenario,
            case=case,
            stands={t.name: standing(results, scenario.name, case.name, t.name) for t in results.targets},
        )
        for scenario, case in every[:most]
    ]
    return Matrix(targets=results.targets, yardstick=results.yardstick, rows=tuple(shown), more=len(every) - len(shown))


def heading(matrix: Matrix, target: TargetResult, write: Callable[[str], str]) -> str:
    """The head of a target's column; ``write`` makes its label safe where it is to stand."""
    return f"{'compared with ' if target.name == matrix.yardstick else ''}{write(target.label)}"


def themes(results: Results) -> list[Theme]:
    """Findings grouped by code and departing side, those about single targets by what they say as well, and what no
    rule explains by its targets: which of many stand on which side differs from case to case. First
    what came up in the scenarios that were asked for,
    then what only the probes showed, rounding last; in each the gravest kind first, then the widest spread."""
    probes = {scenario.name for scenario in results.scenarios if scenario.probe}
    grouped: dict[tuple[object, ...], list[Finding]] = {}
    nameless = without_names(results)
    for item in results.findings:
        whom = item.targets if item.kind == "unexplained" else ()
        grouped.setdefault((item.code, whom, item.departs, item.kind, gist(item, nameless)), []).append(item)
    # The one of a group that speaks for it: not from a probe, and the best explained.
    found = [
        Theme(group[0], tuple(group))
        for group in (
            sorted(group, key=lambda item: (item.scenario in probes, -(item.explained or 0.0), *loudness(item)))
            for group in grouped.values()
        )
    ]
    return sorted(found, key=lambda theme: (*order(theme.first, probes), -len(theme.findings)))


def loudness(finding: Finding) -> tuple[bool, float]:
    """Of rounding the largest speaks; gradients cancel, and are counted in many ULP without saying much."""
    size = finding.evidence.get("max_ulp") if finding.kind == "rounding" else None
    return finding.quantity in (*GRADIENTS, "grad_input"), -size if isinstance(size, int | float) else 0.0


def gist(finding: Finding, nameless: Callable[[str], str]) -> str:
    """What a finding about single targets says, whatever its targets, numbers and layer: NaN may begin in several
    ways."""
    if finding.of_difference:
        return ""
    said = nameless(finding.title.replace(f" {finding.layer} ", " # "))
    return ENDINGS.sub("", NUMBER.sub("#", said))[:GIST]


def without_names(results: Results) -> Callable[[str], str]:
    """A function that puts one sign in the place of each row of targets' names in a title."""
    names = {target.name for target in results.targets} | {shown_name(target) for target in results.targets}
    if not names:
        return lambda title: title
    one = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    one = rf"(?<![\w.])(?:{one})(?![\w.\[]*\w)"
    many = re.compile(rf"{one}(?:(?:, | and )(?:{one}|\d+ others))*")
    return lambda title: many.sub("*", title)


def shown_name(target: TargetResult) -> str:
    """``torch[onnx] 2.13.0``, as the sentences of findings name it."""
    bare, _, _ = target.name.partition("==")
    where = "" if target.device == "cpu" else f"@{target.device}"
    bare = bare.removesuffix(where) if where else bare.removesuffix("@cpu")
    version = target.version.partition("+")[0]
    return f"{bare}{' ' + version if version and target.backend != 'reference' else ''}{where}"


def short_label(target: TargetResult) -> str:
    """The same for the head of a column, which also says who is not real."""
    return f"{shown_name(target)}{' (simulated)' if target.simulated else ''}"


OF_TARGET = re.compile(r"(?P<rule>\w+) of (?P<target>\S+)")


def by_value(theme: Theme) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A rule and its values → the targets that follow each, over all cases of a theme, fewest first; a target that
    follows two, on other shapes, stands apart. Empty where the findings name no values, or those of several rules."""
    votes: dict[str, dict[str, dict[str, None]]] = {}
    for finding in theme.findings:
        for key, value in finding.evidence.items():
            match = OF_TARGET.fullmatch(key)
            if match is None or not finding.of_difference or match["target"] not in finding.targets:
                continue
            side = next((side for side in finding.sides if match["target"] in side), ())
            for member in (name for name in side if name in finding.targets):
                votes.setdefault(match["rule"], {}).setdefault(member, {})[scalar(value)] = None
    if len(votes) != 1:
        return "", {}
    ((facet, given),) = votes.items()
    values: dict[str, list[str]] = {}
    for member, followed in given.items():
        values.setdefault(" or ".join(sorted(followed)), []).append(member)
    return words(facet), {value: tuple(values[value]) for value in sorted(values, key=lambda each: len(values[each]))}


def values_of(theme: Theme, results: Results) -> str:
    """``variance divisor n-1 in torch and mlx, n in 9 of 13 targets``; "" where the values are not known."""
    facet, values = by_value(theme)
    if not values:
        return ""
    of = sum(target.status == "ok" for target in results.targets)
    said = [f"{value} in {' and '.join(names) if len(names) <= FEW else len(names)}" for value, names in values.items()]
    said[-1] += f" of {of} targets" if len([*values.values()][-1]) > FEW else ""
    start = "" if facet == words(theme.first.cause.replace("-", "_")) else f"{facet} "
    return clean(f"{start}{', '.join(said)}")


def elsewhere(theme: Theme, results: Results) -> str:
    """``the same between torch 2.13.0 and mxnet 1.9.1``: the targets that the speaking finding does not name."""
    shown = {target.name: shown_name(target) for target in results.targets}
    met, said = {frozenset(theme.first.targets)}, []
    for item in theme.findings:
        if frozenset(item.targets) not in met:
            met.add(frozenset(item.targets))
            sides = item.sides if item.of_difference else (item.targets,)
            said.append(" and ".join(" and ".join(shown.get(name, name) for name in side) for side in sides))
    how = "between" if theme.first.of_difference else "in"
    more = f"; and {len(said) - FEW} more" if len(said) > FEW else ""
    return clean(f"the same {how} {f'; {how} '.join(said[:FEW])}{more}") if said else ""


def order(finding: Finding, probes: set[str]) -> tuple[bool, bool, int]:
    return finding.kind == "rounding", finding.scenario in probes, KINDS.index(finding.kind)


def headline(results: Results) -> str:
    """The run in one sentence. It counts the cells of targets that are held against the yardstick."""
    if not results.cells:
        return "Nothing was run."
    matrix, base = make_matrix(results, probes=False), results.yardstick
    every = [(target.name, row.stands[target.name]) for row in matrix.rows for target in available(results)]
    stands = [each.against for target, each in every if target != base]
    cells, off, counters = sum(map(bool, stands)), stands.count("differs"), stands.count("counter")
    shown = {row.scenario.name for row in matrix.rows}
    counts = count_kinds(results, lambda scenario: scenario in shown)
    # Of a target as a whole, or of small cases that nobody asked for.
    beside = count_kinds(results, lambda scenario: scenario not in shown)
    failed = sum(each.word == "failed" for _, each in every)
    if not cells:
        found = [*counts, *(f"{each} beside the cases" for each in beside)]
        return why_nothing(results, failed) + (f" Found: {', '.join(found)}." if found else "")
    lost = f" {plural(failed, 'cell')} could not be played." if failed else ""
    lost += f" Beside these cases: {', '.join(beside)}." if beside else ""
    cause = f": {', '.join(counts)}" if counts else "; no cause was named"
    if off or counters:
        some, more = off or counters, f", {counters} more in a counter only" if off and counters else ""
        which = f"{some} of {cells} cells" if cells > 1 else "The one compared cell"
        how = f"{'differs' if some == 1 else 'differ'} from {base}{more}{'' if off else ' in a counter only'}"
        return f"{which} {how}{cause}.{lost}"
    agree = (
        f"All {cells} compared cells agree with {base}." if cells > 1 else f"The one compared cell agrees with {base}."
    )
    return agree + (f" Also found: {', '.join(counts)}." if counts else "") + lost


def why_nothing(results: Results, failed: int) -> str:
    """No cell was held against the yardstick; ``failed`` of them could not be played."""
    ran = [target.name for target in available(results)]
    if not ran:
        return "No target ran; there is nothing to compare."
    if any(NODES in finding.evidence for finding in results.findings):
        return "Only single BatchNormalization nodes were compared, each from its own input."
    if failed:
        return f"{plural(failed, 'cell')} could not be played; there is nothing to compare."
    if len(ran) > 1 and compared(results, asked_cells(results), Asked()):
        return f"No target could be compared with {results.yardstick}."
    if len(ran) > 1:
        return "No case was played by two targets; there is nothing to compare."
    itself = any(with_itself(case.ops) for _, case in rows(results, probes=False))
    judged = max((cell.judged for cell in asked_cells(results)), default=0)
    how = "was judged by itself" if judged == 1 else "were judged one by one"
    layers = f"{plural(judged, 'normalising layer')} in it {how}"
    done = [*(["it was compared with itself"] if itself else []), *([layers] if judged else [])]
    return f"Only {ran[0]} ran; {' and '.join(done) or 'there is nothing to compare'}."


def count_kinds(results: Results, concerns: Callable[[str], bool]) -> list[str]:
    """``2 defects``, ``1 convention`` … of the themes that came up in such scenarios; rounding is none to count."""
    kinds = [theme.first.kind for theme in themes(results) if concerns(theme.first.scenario)]
    return [
        f"{count} unexplained" if kind == "unexplained" else plural(count, kind)
        for kind in KINDS
        if kind != "rounding" and (count := kinds.count(kind))
    ]


def expectation_sentence(expect: Expectation) -> str:
    """``mxnet and torch show update-phase when …``. A cause may be between the two, or in one of them."""
    a, b = expect.between
    what = "agree" if expect.agree else f"show {', '.join(expect.causes) or 'a named cause'}"
    when = f" when {scalar(expect.when)}" if expect.when else ""
    return clean(f"{a} and {b} {what}{when}")


SETTLED = re.compile(r"^(?P<why>.*?);?\s*settled by:\s*(?P<how>.+)$", re.S)


def unsettled(finding: Finding) -> list[tuple[str, str, str]]:
    """(facet, why, what settles it) of everything that this case's input cannot tell."""
    found = []
    for facet, text in finding.not_identifiable.items():
        match = SETTLED.match(text)
        why, how = (match["why"], match["how"]) if match else ("", f"bncheck run {text}" if text else "")
        found.append((words(facet), one_line(why, 200), one_line(how, 100)))
    return found


def evidence(finding: Finding) -> list[tuple[str, str]]:
    """The numbers behind a finding as (words, value). Counted in ULP, a difference of values near 0 is in millions:
    its absolute size stands beside it and says more."""
    found = [
        (words(key), scalar(value))
        for key, value in finding.evidence.items()
        if not (key == "max_ulp" and isinstance(value, int | float) and value >= MOST_ULP)
    ]
    return found + [("follows from it", one_line(item.title, 300)) for item in finding.follows]


def numbers(drift: Drift) -> list[str]:
    """The figures of one drift in the order of the reports' tables."""
    return [
        amount(drift.mean_abs, drift.std_abs),
        number(drift.max_abs),
        number(drift.max_rel),
        f"{drift.max_ulp:.0f}" if abs(drift.max_ulp) < 1e6 else number(drift.max_ulp),
    ]
