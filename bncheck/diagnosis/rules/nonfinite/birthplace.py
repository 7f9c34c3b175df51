"""The operation in which the first NaN or Inf of a whole network arose, as a worker saw it (torch_side/birth.py)."""

from __future__ import annotations

from collections.abc import Mapping

from bncheck.diagnosis.rules.wording import number
from bncheck.evidence import CellView

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38}
CASTS = ("_to_copy", "to", "copy_", "_to")
MOST = 200  # letters of what a run folder brings


def born_in(cell: CellView) -> str:
    """The sentence about a cell's birth; "" where the worker does not say."""
    told = cell.notes.get("cell")
    return in_words(told.get("born")) if isinstance(told, Mapping) else ""


def in_words(born: object) -> str:
    """Where it arose, in a sentence; "" where nobody says."""
    if not isinstance(born, Mapping):
        return ""
    op, dtype, held, module, kind, where, code = (
        str(born.get(key) or "")[:MOST] for key in ("op", "dtype", "held", "module", "kind", "where", "code")
    )
    line = f" ({where}{': ' + code if code else ''})" if where else ""
    if born.get("from") == "input":
        return "The batch that goes in holds it already."
    if born.get("from") == "outside":
        return (
            f"No operation of PyTorch makes it{line}: it comes out of other code, such as NumPy's, or was there before."
        )
    if held:
        return f"It comes from {held}, which holds NaN or Inf itself."
    if not op:
        return ""
    size = born.get("largest")
    most = LARGEST.get(dtype)
    known = isinstance(size, int | float) and most is not None
    end = f"{most:,.0f}" if most and most < 1e6 else number(most or 0.0)
    went = f": numbers up to {number(size)} go in, and {dtype} ends at {end}" if known else ""
    if op in CASTS:
        return f"It is born in a cast to {dtype}{line}{went}."
    narrow = dtype in ("float16", "bfloat16")
    what = f"{module} ({kind})" if module else f"the operation {op}"
    return f"It is born in {what}{f', which computes in {dtype}' if narrow else ''}{line}{went if narrow else ''}."
