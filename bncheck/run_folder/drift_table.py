"""All drifts of a run in rows of 104 bytes, beyond 256 KiB of them in a temporary file.

Drifts accumulate while a run's arrays stream by: 1,000 cases on 20 targets have 1.3 million. A
:class:`~bncheck.evidence.Drift` is made of a row when somebody looks.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from tempfile import SpooledTemporaryFile
from typing import Any, overload
from weakref import finalize

import numpy as np

from bncheck.evidence import Drift
from bncheck.trace import Array

WORDS = ("scenario", "case", "a", "b", "layer", "quantity", "relation", "dtype")
COUNTS = ("points", "first_event", "nonfinite_a", "nonfinite_b")
SIZES = ("mean_abs", "std_abs", "max_abs", "max_rel", "max_ulp")
ROW = np.dtype([(name, "i4") for name in WORDS] + [(name, "i8") for name in COUNTS] + [(name, "f8") for name in SIZES])
NEVER = np.iinfo(np.int64).min  # in first_event: None
IN_MEMORY = 2**18  # bytes
AT_ONCE = 64  # rows that are objects at the same time while somebody goes through all
REMEMBERED = 128  # pairs whose drifts stay objects for whoever asks next


class DriftTable(Sequence[Drift]):
    """Grows at its end. OverflowError for counts beyond 64 bits, which no run has."""

    def __init__(self, drifts: Iterable[Drift] = ()) -> None:
        self.codes: dict[str, int] = {}  # word → number
        self.file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed when the table goes
        finalize(self, self.file.close)
        self.used = 0
        # Where a case's rows begin, again after rows of other cases; and which case that is.
        self.starts, self.cases = array("q"), array("q")
        self.lately: OrderedDict[tuple[str, str, str, str], tuple[Drift, ...]] = OrderedDict()
        self.asked: tuple[int, Array] | None = None  # the rows of the case that was asked for last
        self.extend(drifts)

    # -- growing ----------------------------------------------------------------------------------------------

    def extend(self, drifts: Iterable[Drift]) -> None:
        if not isinstance(drifts, DriftTable):
            self.append(np.array([self.row(drift) for drift in drifts], ROW))
            return
        codes = np.array([self.code(word) for word in drifts.codes], np.int32)
        for block in drifts.blocks():
            fresh = block.copy()
            for name in WORDS:
                fresh[name] = codes[fresh[name]]
            self.append(fresh)

    def append(self, rows: Array) -> None:
        if not len(rows):
            return
        cases = case_key(rows["scenario"].astype(np.int64), rows["case"])
        before = self.cases[-1] if self.cases else -1
        new = np.flatnonzero(np.concatenate([[cases[0] != before], cases[1:] != cases[:-1]]))
        self.starts.extend((self.used + new).tolist())
        self.cases.extend(cases[new].tolist())
        self.file.seek(self.used * ROW.itemsize)
        self.file.write(rows.tobytes())
        self.used += len(rows)
        self.lately.clear()
        self.asked = None
        self.__dict__.pop("sorted_cases", None)

    def row(self, drift: Drift) -> tuple[int | float, ...]:
        first = NEVER if drift.first_event is None else drift.first_event
        return (
            *(self.code(getattr(drift, name)) for name in WORDS),
            drift.points,
            first,
            drift.nonfinite_a,
            drift.nonfinite_b,
            drift.mean_abs,
            drift.std_abs,
            drift.max_abs,
            drift.max_rel,
            drift.max_ulp,
        )

    def code(self, word: str) -> int:
        found = self.codes.get(word)
        if found is None:
            found = self.codes[word] = len(self.codes)
            self.__dict__.pop("words", None)
        return found

    # -- reading ----------------------------------------------------------------------------------------------

    @cached_property
    def words(self) -> list[str]:
        return list(self.codes)

    def rows(self, start: int, stop: int) -> Array:
        self.file.seek(start * ROW.itemsize)
        return np.frombuffer(self.file.read((stop - start) * ROW.itemsize), ROW)

    def blocks(self) -> Iterator[Array]:
        for start in range(0, self.used, AT_ONCE):
            yield self.rows(start, min(start + AT_ONCE, self.used))

    def __len__(self) -> int:
        return self.used

    @overload
    def __getitem__(self, index: int) -> Drift: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Drift]: ...
    def __getitem__(self, index: int | slice) -> Drift | Sequence[Drift]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self.used))]
        at = range(self.used)[index]
        return self.made(self.rows(at, at + 1))[0]

    def __iter__(self) -> Iterator[Drift]:
        for block in self.blocks():
            yield from self.made(block)

    def differing(self) -> Iterator[Drift]:
        """Those outside tolerance, in order."""
        agrees = self.codes.get("agrees", -1)
        for block in self.blocks():
            yield from self.made(block[block["relation"] != agrees])

    def made(self, rows: Array) -> list[Drift]:
        words = self.words
        return [
            Drift(
                scenario=words[scenario],
                case=words[case],
                a=words[a],
                b=words[b],
                layer=words[layer],
                quantity=words[quantity],
                points=points,
                mean_abs=mean_abs,
                std_abs=std_abs,
                max_abs=max_abs,
                max_rel=max_rel,
                max_ulp=max_ulp,
                first_event=None if first == NEVER else first,
                nonfinite_a=nonfinite_a,
                nonfinite_b=nonfinite_b,
                relation=words[relation],
                dtype=words[dtype],
            )
            for (
                scenario,
                case,
                a,
                b,
                layer,
                quantity,
                relation,
                dtype,
                points,
                first,
                nonfinite_a,
                nonfinite_b,
                mean_abs,
                std_abs,
                max_abs,
                max_rel,
                max_ulp,
            ) in rows.tolist()
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Drift.__eq__, self, other))

    def __repr__(self) -> str:
        return f"DriftTable({list(self)!r})"

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __getstate__(self) -> dict[str, Any]:
        return {"codes": self.codes, "rows": self.rows(0, self.used)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.codes = state["codes"]
        self.append(state["rows"])

    # -- by case ----------------------------------------------------------------------------------------------

    def of_case(self, scenario: str, case: str) -> list[Drift]:
        return self.made(self.rows_of(scenario, case))

    def between(self, scenario: str, case: str, a: str, b: str) -> tuple[Drift, ...]:
        """The drifts of one pair in one case, in either order of a and b."""
        key = (scenario, case, min(a, b), max(a, b))
        found = self.lately.get(key)
        if found is None:
            one, two = self.codes.get(a, -1), self.codes.get(b, -1)
            rows = self.rows_of(scenario, case)
            same = (rows["a"] == one) & (rows["b"] == two) | (rows["a"] == two) & (rows["b"] == one)
            found = self.lately[key] = tuple(self.made(rows[same]))
            if len(self.lately) > REMEMBERED:
                self.lately.popitem(last=False)
        return found

    def rows_of(self, scenario: str, case: str) -> Array:
        if scenario not in self.codes or case not in self.codes:
            return np.zeros(0, ROW)
        key = case_key(self.codes[scenario], self.codes[case])
        if self.asked is None or self.asked[0] != key:  # of many targets, pair after pair of one case is asked for
            order, cases = self.sorted_cases
            first, last = np.searchsorted(cases, [key, key + 1])
            found = [self.rows(*self.span(int(place))) for place in order[first:last]]
            self.asked = key, np.concatenate(found) if found else np.zeros(0, ROW)
        return self.asked[1]

    @cached_property
    def sorted_cases(self) -> tuple[Array, Array]:
        cases = np.array(self.cases, np.int64)
        order = np.argsort(cases, kind="stable")
        return order, cases[order]

    def span(self, place: int) -> tuple[int, int]:
        return self.starts[place], self.starts[place + 1] if place + 1 < len(self.starts) else self.used


def case_key(scenario: Any, case: Any) -> Any:
    """One number of two words' numbers; arrays or single ones."""
    return scenario << 32 | case
