"""One target refuses what the other carries out.

Signature: an event raises on one side and runs on the other, with more than one value per channel (with one value
or none see single-value and empty-batch). A framework is named only where its own layer refuses; a layer of yours that
raises where BatchNorm runs is named by its class. A layer that raises *after* it moved its statistics is worse than one
that refuses: the next forward starts from half an update.

What to do: read the error, in the target's own words, in the evidence. If the state moved before the error, restore
the statistics before you go on, and report it: a refused call should leave nothing behind.
"""

from collections.abc import Iterable, Iterator

from bncheck.diagnosis.rules.autograd import says_why
from bncheck.diagnosis.rules.movement import moved
from bncheck.diagnosis.rules.onnx_files import file_facts, file_name
from bncheck.diagnosis.rules.refused import origin_at, own_name, refused_events, values_per_channel
from bncheck.diagnosis.rules.wording import name, names, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import BUILT_IN, Finding
from bncheck.run_folder.results import OUR_ERRORS
from bncheck.trace import STATISTICS, EventRecord

CODE = "BN501"
CAUSE = "refusal"
EXPLAINS = ("refused", "statistics", "counter", "evaluations", "gradients", "events")


def check_pair(pair: PairView) -> Iterable[Finding]:
    for refuser, other, event in refused_events(pair):
        if values_per_channel(pair, event) in (0, 1):
            continue
        op, kind, words = error_at(refuser, event)
        if says_why(words):
            continue
        if origin_at(refuser, event) == "subject":
            yield of_own_code(pair, refuser, other, event)
            continue
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=(
                f"{names(refuser.members)} {verb(refuser.members, 'refuses', 'refuse')} {op} with "
                f"{kind or 'an error'}; {names(other.members)} {verb(other.members, 'carries', 'carry')} it out."
            ),
            targets=targets(refuser.members, other.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            event=event,
            evidence={"error": words},
            advice="read the error; a program meant for both has to avoid this event",
        )


def of_own_code(pair: PairView, refuser: CellView, other: CellView, event: int) -> Finding:
    """A layer of the user's against the built-in one, or the same code on two targets."""
    op, kind, words = error_at(refuser, event)
    who, same = own_name(refuser), bool(other.own_code)
    when = f"in {op}" if event >= 0 else "when it is built"
    where = f" on {names(refuser.members)}" if same else ""
    runs = (
        f"it runs on {names(other.members)}"
        if same
        else f"{names(other.members)} {verb(other.members, 'carries', 'carry')} it out"
    )
    half = next((f"{quantity} of {layer}" for layer, quantity in half_updates(refuser, event)), "")
    # What bncheck itself says of a layer is a sentence about it.
    what = words if kind in OUR_ERRORS else f"{who} raises {kind or 'an error'} {when}{where}; {runs}"
    return Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard",
        title=f"{what}.",
        targets=targets(refuser.members, other.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        event=event,
        departs="" if same else refuser.target,
        departs_from="" if same else BUILT_IN,
        evidence={"error": words, **({"moved by then": half} if half else {})},
        advice="look at the line that the error names"
        if same
        else "make the layer take what BatchNorm takes, or keep such batches away from it",
    )


def half_updates(cell: CellView, event: int) -> Iterator[tuple[str, str]]:
    """(layer, quantity) of the statistics that the event moved although it raised."""
    for layer in cell.trace.layers if cell.trace is not None and event >= 0 else ():
        for quantity in STATISTICS:
            assert cell.trace is not None
            mask = moved(cell.trace, layer, quantity)
            if event < len(mask) and mask[event]:
                yield layer, quantity


def error_at(cell: CellView, event: int) -> tuple[str, str, str]:
    """(what was tried, error type, message) at an event; −1 is building the network."""
    if cell.trace is not None and 0 <= event < len(cell.trace.events):
        record = cell.trace.events[event]
        return record.op, record.error_type or cell.error_type, record.error or cell.error
    return "the network itself", cell.error_type, cell.error


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from closed_input(cell)
    if cell.trace is None:
        return
    for layer in cell.trace.layers:
        for quantity in STATISTICS:
            mask = moved(cell.trace, layer, quantity)
            events = zip(cell.trace.events, mask, strict=False)
            event = next((t for t, (record, yes) in enumerate(events) if yes and of_framework(record)), None)
            if event is None:
                continue
            op, kind, words = error_at(cell, event)
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="defect",
                title=f"{name(cell)} raises {kind or 'an error'} in {op}, but has moved {quantity} of {layer} by then.",
                targets=targets(cell.members),
                scenario=cell.case.scenario,
                case=cell.case.name,
                layer=layer,
                event=event,
                quantity=quantity,
                departs=cell.target,
                departs_from="itself",
                evidence={"error": words},
                advice="restore the statistics after this error before going on; report it",
            )
            break


def of_framework(record: EventRecord) -> bool:
    return record.status == "raised" and record.origin in ("", "framework")


def closed_input(cell: CellView) -> Iterator[Finding]:
    """An ONNX file that writes 0 where it means any size; it was played with that size open."""
    facts = file_facts(cell)
    closed = facts.get("closed") if facts is not None else None
    if not isinstance(closed, list) or not closed:
        return
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard",
        title=f"{file_name(cell)} gives its input {closed[0]} a size of 0, which {names(cell.members)} "
        f"{verb(cell.members, 'takes', 'take')} literally: it lets no batch in. It was played with that size open.",
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        event=None,
        advice="write the size as open: set dim_param of that input's shape to a name, say N, and save the file again",
    )
