"""How a finding about a life is made, and how it names layers, lines and steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bncheck.diagnosis.rules.layer_names import listed
from bncheck.finding import Finding, Kind
from bncheck.life import Life, Where


@dataclass(frozen=True)
class Said:
    """One cause in some layers of a life."""

    layers: tuple[str, ...]
    title: str
    advice: str
    kind: Kind = "hazard"
    quantity: str = "running_mean"
    where: Where | None = None
    step: int | None = None
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


def of_life(life: Life, code: str, cause: str, said: Iterable[Said | None]) -> list[Finding]:
    """A finding for each thing that is to be said."""
    return [finding(life, code, cause, item) for item in said if item is not None]


def finding(life: Life, code: str, cause: str, said: Said) -> Finding:
    defect = said.kind == "defect"
    placed: dict[str, float | int | str] = {"layers": listed(said.layers), "layers in all": len(life.layers)}
    if said.where is not None:
        placed["line"] = said.where.label
    elif (made := made_at(life, said)) is not None:
        placed["made at"] = made.label
    if said.step is not None:
        placed["step"] = said.step
    return Finding(
        code=code,
        cause=cause,
        kind=said.kind,
        title=said.title[:1].upper() + said.title[1:] if said.title.startswith(("layer ", "layers ")) else said.title,
        targets=(life.framework,),
        scenario="watch",
        case=life.program,
        layer=said.layers[0] if said.layers else "",
        quantity=said.quantity,
        departs=life.framework if defect else "",
        departs_from="arithmetic" if defect else "",
        evidence={**placed, **said.evidence},
        advice=said.advice,
        accounts=tuple((layer, said.quantity) for layer in said.layers[1:]),
    )


def made_at(life: Life, said: Said) -> Where | None:
    """The line that made the first of the layers, where a recorder saw it."""
    return next((layer.made_at for layer in life.layers if layer.name in said.layers[:1]), None)


def by_line(where: Where | None, otherwise: str = "the program") -> str:
    """ "evaluate() at engine.py:88"; "train.py:12" outside a function."""
    if where is None:
        return otherwise
    inside = where.function and not where.function.startswith("<")
    return f"{where.function}() at {where.label}" if inside else where.label


def behind(evaluation: Where | None) -> str:
    """Where what an evaluation has set is to be set back. A line outside a function has no end to do so at."""
    if evaluation is None:
        return "at the end of the evaluation"
    inside = by_line(evaluation) != evaluation.label
    return f"at the end of {by_line(evaluation)}" if inside else f"behind the evaluation at {evaluation.label}"


def count(number: int, word: str) -> str:
    """ "1 forward", "4,000 forwards"."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def steps(number: int) -> str:
    return count(number, "optimiser step")
