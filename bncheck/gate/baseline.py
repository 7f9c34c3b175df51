"""Baselines: what is known of a run, in a small file under version control, so that only news fails.

The file has one line per known charge, sorted, without dates or versions, sizes to four digits: running the same
thing again changes no byte. An entry stands for every pair of targets on its two sides.

The rule. A charge is *known* when entries of the same scenario, case, cause and layer cover each of its pairs. The
quantity is no part of a finding's identity: a finding speaks of the quantity that its cause explains best, and whether
that is 99.99999 % of running_mean or of running_var is a matter of the machine's last bits. (A drift that no finding is
about is its quantity.) A known one is *worse* when

* its kind is graver (a convention became a defect),
* its drift is more than twice the recorded one and grew by more than the scenario's tolerance
  (size > max(2·recorded, recorded + atol)), or is no longer finite,
* its cause explains less of the drift than recorded, by more than 0.1: something else came in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bncheck.bounded import is_there, read_bounded
from bncheck.errors import BaselineError
from bncheck.gate.charge import Charge

FORMAT = 1
# A baseline of 10,000 entries has 3 MB.
LARGEST = 64 * 1024 * 1024
# Gravest first; what is not here was never graver.
GRAVITY = (
    "crashed",
    "timeout",
    "adapter-error",
    "import-error",
    "subject-error",
    "defect",
    "hazard",
    "unexplained",
    "expectation",
    "convention",
    "drift",
)
# Kinds of charge that are nothing but their quantity.
BY_QUANTITY = ("drift", "expectation")
TIMES_WORSE = 2.0
SHARE_LOST = 0.1
DEFAULT_ATOL = 1e-5


@dataclass(frozen=True, order=True)
class Entry:
    """One known charge; ``size`` None: nothing was measured, NaN: not finite."""

    scenario: str
    case: str
    cause: str
    kind: str
    sides: tuple[tuple[str, ...], ...]
    layer: str = ""
    quantity: str = ""
    size: float | None = None
    explained: float | None = None

    @property
    def key(self) -> tuple[object, ...]:
        return (self.scenario, self.case, self.cause, self.sides, self.layer, self.quantity)

    def covers(self, pair: tuple[str, str]) -> bool:
        if len(self.sides) == 1:
            return pair[0] == pair[1] and pair[0] in self.sides[0]
        a, b = pair
        return any(a in one and b in two for one in self.sides for two in self.sides if one is not two)


def record(charges: Iterable[Charge]) -> tuple[Entry, ...]:
    """The entries that make every one of these charges known; of equal keys the largest drift stays."""
    kept: dict[tuple[object, ...], Entry] = {}
    for charge in charges:
        sides = tuple(sorted(charge.sides))
        entry = Entry(
            scenario=charge.scenario,
            case=charge.case,
            cause=charge.cause,
            kind=charge.kind,
            sides=sides,
            layer=charge.layer,
            quantity=charge.quantity,
            size=rounded(charge.size),
            explained=rounded(charge.explained),
        )
        other = kept.get(entry.key)
        if other is None or magnitude(entry.size) > magnitude(other.size):
            kept[entry.key] = entry
    return tuple(sorted(kept.values(), key=lambda entry: (*map(str, entry.key), entry.kind)))


def standing_of(charge: Charge, entries: Sequence[Entry], atol: float | None = None) -> str:
    """ "new", "known", or how it is worse in words."""
    here = [entry for entry in entries if same_place(entry, charge)]
    covering = [[entry for entry in here if entry.covers(pair)] for pair in charge.pairs]
    if not covering or not all(covering):
        return "new"
    found = [entry for covers in covering for entry in covers]
    # Of several entries (groups of targets that have joined since) the mildest kind and the largest drift count.
    kind = max((entry.kind for entry in found), key=gravity)
    if gravity(charge.kind) < gravity(kind):
        return f"worse: was a {kind}"
    sizes = [entry.size for entry in found if entry.quantity == charge.quantity]
    size = max(sizes, key=magnitude, default=None)
    if grown(charge.size, size, DEFAULT_ATOL if atol is None else atol):
        return f"worse: off by {shown(charge.size)}, was {shown(size)}"
    share = min(1.0 if entry.explained is None else entry.explained for entry in found)
    if charge.explained is not None and charge.explained < share - SHARE_LOST:
        return f"worse: explains {100 * charge.explained:.1f} % of it, was {100 * share:.1f} %"
    return "known"


def by_place(entries: Iterable[Entry]) -> dict[tuple[str, str, str], list[Entry]]:
    """(scenario, case, cause) → entries, so that a long baseline is not read through for every charge."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.scenario, entry.case, entry.cause), []).append(entry)
    return found


def same_place(entry: Entry, charge: Charge) -> bool:
    whole = charge.kind not in BY_QUANTITY or entry.quantity == charge.quantity
    where = (charge.scenario, charge.case, charge.cause, charge.layer)
    return whole and (entry.scenario, entry.case, entry.cause, entry.layer) == where


def grown(size: float | None, recorded: float | None, atol: float) -> bool:
    if size is None or recorded is None or not math.isfinite(recorded):
        return False
    return not math.isfinite(size) or size > max(TIMES_WORSE * recorded, recorded + atol)


def gone(
    entries: Iterable[Entry], charges: Iterable[Charge], played: Mapping[tuple[str, str], set[str]]
) -> list[Entry]:
    """Entries whose case was played on targets of each side, and that nothing charges any more."""
    keys = {
        (charge.scenario, charge.case, charge.cause, charge.layer, one)
        for charge in charges
        for pair in charge.pairs
        for one in (pair, pair[::-1])
    }
    left = []
    for entry in entries:
        there = played.get((entry.scenario, entry.case), set())
        pairs = Charge(kind="", code="", cause="", scenario="", case="", sides=entry.sides, names=(), sentence="").pairs
        ran = [pair for pair in pairs if there.issuperset(pair)]
        where = (entry.scenario, entry.case, entry.cause, entry.layer)
        if ran and not any((*where, pair) in keys for pair in ran):
            left.append(entry)
    return left


def gravity(kind: str) -> int:
    return GRAVITY.index(kind) if kind in GRAVITY else len(GRAVITY)


def magnitude(size: float | None) -> float:
    return -1.0 if size is None else (size if math.isfinite(size) else math.inf)


def rounded(value: float | None) -> float | None:
    return value if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def shown(size: float | None) -> str:
    return "nothing" if size is None else (f"{size:.4g}" if math.isfinite(size) else "NaN or Inf")


# ------------------------------------------------------------------------------------------------- the file


def dump(entries: Iterable[Entry]) -> str:
    """The file's text: JSON with one entry on a line, so that a change of it is one line of a diff."""
    lines = [json.dumps(as_plain(entry), ensure_ascii=False) for entry in entries]
    body = ",\n  ".join(lines)
    return (
        f'{{\n "format": {FORMAT},\n "known": [\n  {body}\n ]\n}}\n'
        if lines
        else f'{{\n "format": {FORMAT},\n "known": []\n}}\n'
    )


def as_plain(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {
        "scenario": entry.scenario,
        "case": entry.case,
        "cause": entry.cause,
        "kind": entry.kind,
        "targets": [list(side) for side in entry.sides],
        "layer": entry.layer,
        "quantity": entry.quantity,
        "size": spelt(entry.size),
        "explained": spelt(entry.explained),
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


def spelt(value: float | None) -> float | str | None:
    return "nonfinite" if value is not None and not math.isfinite(value) else value


def parse(text: str, where: str) -> tuple[Entry, ...]:
    """The entries of a file's text. BaselineError says what is wrong with it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{where} is not JSON: {error}", remedy(where)) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("known"), list):
        raise BaselineError(
            f'{where} is no baseline of bncheck (it has no "format": {FORMAT} and "known")', remedy(where)
        )
    return tuple(parse_entry(item, number, where) for number, item in enumerate(data["known"], 1))


def parse_entry(item: Any, number: int, where: str) -> Entry:
    try:
        texts = {key: item.get(key, "") for key in ("scenario", "case", "cause", "kind", "layer", "quantity")}
        if not all(isinstance(value, str) for value in texts.values()):
            raise TypeError("a name is not a text")
        sides = tuple(tuple(checked(name) for name in side) for side in item["targets"])
        if not 1 <= len(sides) <= 2 or not all(sides) or not texts["scenario"] or not texts["cause"]:
            raise ValueError("scenario, cause or targets are missing")
        return Entry(sides=sides, size=figure(item.get("size")), explained=figure(item.get("explained")), **texts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BaselineError(f"{where}: entry {number} has a wrong shape: {error}", remedy(where)) from error


def checked(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is not a target's name")
    return name


def figure(value: Any) -> float | None:
    if value == "nonfinite":
        return math.nan
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise TypeError(f"{value!r} is not a number")


def remedy(where: str) -> str:
    return f"write it anew with: bncheck baseline update RUN {where}"


def read_baseline(path: Path) -> tuple[Entry, ...]:
    """The entries of a baseline file. BaselineError where there is none, or none of ours."""
    try:
        if path.stat().st_size > LARGEST:
            raise BaselineError(f"{path} is {path.stat().st_size:,} bytes long; no baseline is.", "name another file")
        return parse(read_bounded(path, LARGEST).decode("utf-8"), str(path))
    except FileNotFoundError:
        raise BaselineError(
            f"There is no baseline {path}.",
            f"make one from a run whose findings are accepted: bncheck baseline update latest {path}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path} cannot be read: {error}", "check the path and its permissions") from None


def read_if_there(path: Path) -> tuple[Entry, ...]:
    """The entries that a file which is to be written anew holds until then; () where nothing is there."""
    return read_baseline(path) if is_there(path) else ()
