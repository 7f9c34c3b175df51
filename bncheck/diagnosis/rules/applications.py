"""A function of the user's that a program called with its network (the event apply): findings about what it did."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.diagnosis.held import applied
from bncheck.diagnosis.held.applied import Application
from bncheck.diagnosis.held.recorded import application_of
from bncheck.diagnosis.rules.wording import names, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding


def applications(cell: CellView) -> Iterator[tuple[int, Application]]:
    """(event, what it did) of every call; what a damaged trace or its notes say otherwise is left out."""
    for event, record in enumerate(cell.trace.events if cell.trace is not None else ()):
        said = cell.notes.get(str(event))
        if record.op != "apply" or record.status != "ok" or not isinstance(said, dict) or cell.trace is None:
            continue
        end = f"/{event}"
        keys = [key for key in cell.trace.arrays if key.startswith("applied/") and key.endswith(end)]
        which = {key.removeprefix("applied/").removesuffix(end): key for key in keys}
        found = application_of(said.get("applied"), cell.trace.arrays, cell.target, cell.backend, which)
        if found is not None:
            yield event, found


def found(cell: CellView, code: str, cause: str) -> Iterator[Finding]:
    """Findings of one cause."""
    for event, application in applications(cell):
        for reading in applied.readings(application):
            if reading.cause != cause:
                continue
            layer, quantity = reading.places[0] if reading.places else ("", "")
            yield Finding(
                code=code,
                cause=cause,
                kind=reading.kind,
                title=f"{names(cell.members)}: {reading.title}",
                targets=targets(cell.members),
                scenario=cell.case.scenario,
                case=cell.case.name,
                layer=layer,
                event=event,
                quantity=quantity,
                evidence=reading.evidence,
                advice=reading.advice,
                accounts=reading.places[1:],
            )


def unchanged(cell: CellView) -> list[str]:
    """What is no finding: a function that changed nothing."""
    return [said for _, application in applications(cell) if (said := applied.unchanged(application))]
