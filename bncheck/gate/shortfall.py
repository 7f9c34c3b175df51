"""What was asked for and did not come: a target that did not run, or a run that compared nothing. Pure.

Nothing to compare is not success: each of these is exit code 3, at every --fail-on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from bncheck.finding import NODES
from bncheck.gate import blamed
from bncheck.run_folder.results import CRASHED, OUR_ERRORS, CellResult, Results, TargetResult
from bncheck.scenario import op_of

# Events that compare a target with itself.
LONGEST = 300
MOST = 8  # sentences on layers


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A sentence without its full stop, what to do, and the same in few words."""

    sentence: str
    remedy: str = ""
    short: str = ""


@dataclass(frozen=True)
class Asked:
    """What was asked of a run. ``required``: names of targets that must run. ``alone``: one target is enough. ``part``:
    other parts of this run were played elsewhere. ``repeated``: cases were played twice, and compared with themselves.
    ``whole``: nothing but whole models, which the reference cannot play."""

    required: tuple[str, ...] = ()
    alone: bool = False
    part: bool = False
    repeated: bool = False
    whole: bool = False


def shortfalls(results: Results, asked: Asked) -> tuple[Shortfall, ...]:
    """What of it did not come."""
    found = [*missing(results, asked.required), *(() if asked.part else idle(results, asked.required))]
    cells = asked_cells(results)
    if not asked.part and (cells or not available(results)) and not compared(results, cells, asked):
        found.append(nothing(results, cells, asked.whole))
    return tuple(found)


def asked_cells(results: Results) -> list[CellResult]:
    """The cells that somebody asked for: not those that only measured conventions."""
    probes = {scenario.name for scenario in results.scenarios if scenario.probe}
    return [cell for cell in results.cells if cell.scenario not in probes]


def available(results: Results) -> list[TargetResult]:
    return [target for target in results.targets if target.status == "ok"]


def played(cell: CellResult) -> bool:
    """Whether it says something about its target: it ran, or the framework refused an event. A network that could not
    be built, or a file that bncheck could not take, says nothing."""
    began = cell.event is None or cell.event >= 0
    theirs = began and cell.error_type not in OUR_ERRORS and not blamed.own(cell)
    return cell.outcome == "ok" or (cell.outcome == "raised" and theirs)


def took_part(results: Results, cell: CellResult) -> bool:
    """Whether it played, or went on without an event that its framework does not have, and was compared in the rest."""
    if cell.outcome != "unsupported" or (cell.event is not None and cell.event < 0):
        return played(cell)
    here = [
        drift
        for drift in results.drift_table.of_case(cell.scenario, cell.case)
        if cell.target in (drift.a, drift.b)
        # The initial state, which every state has as its first point, is nothing that was played.
        and drift.points > bool(drift.layer)
    ]
    case = results.case_at.get((cell.scenario, cell.case))
    idle = case is not None and cell.event == 0 and all(op_of(op).forward for op in case.ops)
    return any(not (idle and drift.layer) for drift in here)  # without an output what it holds is still the initial one


def missing(results: Results, required: Collection[str]) -> Iterator[Shortfall]:
    for target in results.targets:
        if target.status != "ok" and target.name in required:
            why = (target.reason or "no reason was given").rstrip(".")
            remedy = target.remedy or "see: bncheck doctor"
            yield Shortfall(
                f"{target.name} was asked for and is unavailable: {why}",
                f"{remedy}; where it may be missing: --optional {target.name}",
                f"{target.name} did not run",
            )


def idle(results: Results, required: Collection[str]) -> Iterator[Shortfall]:
    """Required targets that played nothing of what was asked for."""
    asked = asked_cells(results)
    for target in available(results):
        own = [cell for cell in asked if cell.target == target.name and not blamed.own(cell)]  # those say it themselves
        if (
            target.name in required
            and own
            and not any(took_part(results, cell) or cell.outcome in CRASHED for cell in own)
        ):
            cases = "the case" if len(own) == 1 else f"any of {len(own)} cases"
            yield Shortfall(
                f"{target.name} was asked for and did not play {cases}: {why_not(own[0])}",
                f"where it may be missing: --optional {target.name}",
                f"{target.name} played nothing",
            )


def compared(results: Results, cells: list[CellResult], asked: Asked) -> bool:
    """Whether two targets played the same case, one was compared with itself, its layers were each held against what
    they should do, or it was to stand alone."""
    useful = (cell for cell in cells if took_part(results, cell))
    one = len({cell.target for cell in cells}) == 1
    single = asked.repeated or (asked.alone and len(results.targets) == 1)
    if any(NODES in finding.evidence for finding in results.findings):
        return True  # single nodes of an ONNX file, each with the text of its opset
    met: set[tuple[str, str]] = set()
    for cell in useful:
        case = results.case_at.get((cell.scenario, cell.case))
        alone = one and (cell.judged > 0 or (asked.whole and told(results, cell)))
        itself = alone or (case is not None and with_itself(case.ops))
        if single or (cell.scenario, cell.case) in met or itself:
            return True
        met.add((cell.scenario, cell.case))
    return False


def told(results: Results, cell: CellResult) -> bool:
    """Whether a cell's own trace already shows what is wrong, as NaN that reaches a layer."""
    where = (cell.scenario, cell.case)
    return any(
        (item.scenario, item.case) == where and cell.target in item.targets and item.kind in ("defect", "hazard")
        for item in results.findings
    )


def with_itself(ops: Collection[str]) -> bool:
    return any(op_of(op).itself for op in ops)


def nothing(results: Results, cells: list[CellResult], whole: bool) -> Shortfall:
    done = "compared" if any(not scenario.probe for scenario in results.scenarios) else "measured"
    why, remedy = why_nothing(results, cells, whole)
    return Shortfall(f"Nothing was {done}: {why}", remedy, f"nothing was {done}")


def why_nothing(results: Results, cells: list[CellResult], whole: bool) -> tuple[str, str]:
    """(why nothing was compared, what to do)."""
    ran = available(results)
    if not ran:
        reasons = "; ".join(f"{target.name}: {target.reason or 'unavailable'}" for target in results.targets)
        remedy = next((target.remedy for target in results.targets if target.remedy), "see: bncheck doctor")
        return f"no target could run ({shortened(reasons)})", remedy
    if len(ran) == 1:
        remedy = "name another target with -t; if it is to stand alone, say so: --no-reference"
        if not whole:
            return f"{ran[0].name} is the only target that ran", remedy
        why = list(dict.fromkeys(sentence for cell in cells if cell.outcome == "ok" for sentence in cell.unjudged))
        layers = f"; nothing in it was judged by itself: {listed(why)}" if why else ""
        alone = "hold a layer of yours against the built-in one by itself: bncheck check FILE.py:CLASS; or "
        return (
            f"{ran[0].name} is the only target that ran, and the reference cannot play a whole model{layers}",
            f"{alone if why else ''}{remedy}",
        )
    idle_ones = {cell.target: why_not(cell) for cell in reversed(cells) if not took_part(results, cell)}
    reasons = "; ".join(f"{name}: {why}" for name, why in idle_ones.items())
    late = any(cell.outcome == "timeout" for cell in cells)
    remedy = "give the cells more time: --timeout SECONDS" if late else "name targets that can play it: bncheck list"
    return f"no case was played by two targets ({shortened(reasons)})", remedy


def why_not(cell: CellResult) -> str:
    told = cell.error.partition("\n")[0] if cell.outcome in CRASHED else cell.error  # its last stack is for the report
    error = shortened(" ".join(told.split()))
    words = {"raised": "refused", "timeout": "timed out"}
    return f"{words.get(cell.outcome, cell.outcome)}" + (f" ({error})" if error else "")


def listed(sentences: Sequence[str]) -> str:
    more = len(sentences) - MOST
    return "; ".join([*map(shortened, sentences[:MOST]), *([f"and {more} more"] if more > 0 else [])])


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
