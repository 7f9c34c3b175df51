"""What happened between the forwards of a watched program, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bncheck.life import Happening, Life, Where
from bncheck.report.plain_text import clean, one_line, plural, scalar

NAMED = 3
SENTENCES: Mapping[str, str] = {
    "train": "train() was called",
    "eval": "eval() was called",
    "load": "state was loaded",
    "save": "state was saved",
    "copy": "a module was copied",
    "average": "averaged weights were written into a copy",
    "export": "a module was exported",
    "convert": "a layer was replaced or converted",
    "requires_grad": "gamma and beta were frozen or thawed",
    "jump": "running statistics changed without a forward",
    "nonfinite": "the first NaN or Inf",
    "refused": "a batch was refused",
    "phase": "a part of the program began",
    "end": "the program ended",
}


@dataclass(frozen=True)
class Line:
    """One happening: where on the axis, what, and the line of the user's code that did it (``code`` its text)."""

    at: str
    said: str
    where: str
    code: str = ""


def lines_of(life: Life, process: str) -> Iterator[Line]:
    for happening in life.happenings:
        yield line_of(happening, process)


def line_of(happening: Happening, process: str) -> Line:
    layers = happening.layers
    more = f" and {plural(len(layers) - NAMED, 'more layer')}" if len(layers) > NAMED else ""
    named = f" in {', '.join(one_line(layer, 60) for layer in layers[:NAMED])}{more}" if layers else ""
    return Line(
        at=f"{happening.step:,}" + (f", {process}" if process else ""),
        said=sentence(happening, named),
        where="" if happening.where is None else place_of(happening.where),
        code="" if happening.where is None else one_line(happening.where.text, 200),
    )


def sentence(happening: Happening, named: str) -> str:
    """What happened, to which module, and what is known of it beside."""
    detail = dict(happening.detail)
    said = SENTENCES.get(happening.what, one_line(happening.what, 60))
    module = detail.pop("module", "")
    said += f" on {one_line(str(module), 80)}" if module else ""
    if happening.what == "nonfinite":
        place = one_line(str(detail.pop("in", "")), 20)
        said += f" (in its {place})" if place else ""
        said += named + (", although its input was finite" if detail.pop("born", False) is True else "")
        named = ""
    return said + named + extra(detail)


def extra(detail: Mapping[str, Any]) -> str:
    """Lists are counted; what is empty says nothing."""
    found = [
        f"{clean(str(key))} {plural(len(value), 'key')}"
        if isinstance(value, (list, tuple)) and len(value) > NAMED
        else f"{clean(str(key))} {one_line(scalar(value), 160)}"
        for key, value in detail.items()
        if value not in ("", None, [], ())
    ]
    return f" ({', '.join(found)})" if found else ""


def place_of(where: Where) -> str:
    """``train.py:88 in evaluate()``."""
    inside = f" in {where.function}()" if where.function and not where.function.startswith("<") else ""
    return one_line(f"{where.label}{inside}", 160)
