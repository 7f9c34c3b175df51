"""What a rule looks at: one cell, one pair of cells of the same case, or one target. Pure data, built once.

Rules (``bncheck/diagnosis/rules/``) are functions from one of these views to findings; they do no I/O and no fitting of
their own: conventions, replays and attributions arrive ready here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, overload

import numpy as np

from bncheck.convention import Convention
from bncheck.scenario import Case, Tolerance
from bncheck.trace import Array, Trace

# Error types of cells that are *crashed* because what they left is damaged or gone: the disk's fault or somebody's who
# edited it, and nothing is known about the target.
BROKEN_RESULT, BROKEN_TRACE, LOST_RESULT = DAMAGED = ("BrokenResult", "BrokenTrace", "LostResult")


BUILTIN = re.compile(r"\[builtin(_jax|_tensorflow|_torch)?\]")  # a framework's own layer in the place of the user's


@dataclass(frozen=True, slots=True)  # a large run holds tens of thousands
class Drift:
    """Difference of two traces of one case in one quantity of one layer ("" for the network itself).

    mean_abs ± std_abs (population) are over the recorded points of the event sequence, the initial state included
    for states; each point is the mean |difference| over channels. ``first_event`` is the first event outside
    tolerance: -1 the initial state, None when never. ``nonfinite_a/b`` count NaN and Inf; equal ones in the same
    place do not drift.
    ``relation``: they agree ("agrees"), or differs, nonfinite (on one side only), missing (one side has no such
    quantity), refused.
    """

    scenario: str
    case: str
    a: str
    b: str
    layer: str
    quantity: str
    points: int
    mean_abs: float
    std_abs: float
    max_abs: float
    max_rel: float
    max_ulp: float
    first_event: int | None
    nonfinite_a: int
    nonfinite_b: int
    relation: str
    dtype: str = "float32"
    KEYS: ClassVar[Mapping[str, str]] = MappingProxyType({"relation": "verdict"})  # of run.json and drifts.csv


@dataclass(frozen=True, slots=True)
class CellView:
    """One case on one target."""

    case: Case
    target: str
    backend: str
    outcome: str  # ok, unsupported, raised, crashed, timeout, unavailable
    trace: Trace | None
    error_type: str = ""
    error: str = ""
    event: int | None = None  # where it raised or died
    origin: str = ""  # whose error it is (worker/blame.py); "": a run that does not say
    convention: Convention | None = None  # measured by the probes, on this case's layer path
    documented: Mapping[str, Any] = field(default_factory=dict)  # facet → documented value
    link: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    # layer/quantity → width of recorded states that do not fit the layer, and are left out of the trace.
    other_widths: Mapping[str, int] = field(default_factory=dict)
    # Replay of this case in float64 with the target's own measured convention: layer → quantity → array (T+1, C).
    replay: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    # Other cells of this case that agree with this one: a sentence about it names them too (diagnose.py).
    peers: tuple[CellView, ...] = ()
    # Layers of the user's that were taken apart, by name.
    anatomy: Mapping[str, Anatomy] = field(default_factory=dict)
    # What rules have worked out of this cell, as in a pair.
    worked_out: dict[tuple[str, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: tuple[str, ...], work: Callable[[], Any]) -> Any:
        if key not in self.worked_out:
            self.worked_out[key] = work()
        return self.worked_out[key]

    @property
    def members(self) -> tuple[CellView, ...]:
        return (self, *self.peers)

    @property
    def own_layer(self) -> str:
        """The class of the user's own layer that stood in this cell, "" for a framework's own one. The reference and
        the variants "builtin" and "builtin_<engine>" ignore ``network.custom``."""
        custom = self.case.network.custom
        if custom is None or self.backend == "reference" or BUILTIN.search(self.target):
            return ""
        return custom.rpartition(":")[2]

    @property
    def own_inside(self) -> frozenset[str]:
        """Layers of the user's inside a whole network: what they do is no habit of the framework's."""
        cell = self.notes.get("cell")
        told = cell.get("layers") if isinstance(cell, Mapping) else None
        found = told.items() if isinstance(told, Mapping) else ()
        return frozenset(str(name) for name, each in found if isinstance(each, Mapping) and each.get("own") is True)

    @property
    def own_code(self) -> str:
        """The user's own layer or whole network in this cell, by name; "" where all is a framework's own."""
        return self.own_layer or (self.case.network.model or "").rpartition(":")[2]


@dataclass(frozen=True)
class Attribution:
    """How much of one quantity's drift each differing facet explains (one layer of one pair).

    ``shares`` maps a facet to its share (0…1); they sum to ``explained`` (the rule: Shapley values, see
    replay/attribution.py). ``residual`` is the largest |measured − replayed| left on either side and
    ``rounding_bound`` the size float32 (or the buffer's dtype) arithmetic of that length may have.
    """

    layer: str
    quantity: str
    shares: Mapping[str, float]
    values: Mapping[str, tuple[Any, Any]]  # facet → (a's value, b's value)
    explained: float  # all facets together
    residual: float
    rounding_bound: float
    not_identifiable: Mapping[str, str] = field(default_factory=dict)  # facet → why, and what settles it
    # facet → mean |change| when it is swapped, alone or last, against the drift; a share is less where causes cancel
    effects: Mapping[str, float] = field(default_factory=dict)


class Deferred(Sequence[Attribution]):
    """Attributions that are made when somebody first looks at them.

    Of 20 targets that form four groups rules look at few of the 190 pairs, and replaying is half of judging.
    """

    def __init__(self, make: Callable[[], Iterable[Attribution]]) -> None:
        self.make = make

    @cached_property
    def made(self) -> tuple[Attribution, ...]:
        return tuple(self.make())

    def __len__(self) -> int:
        return len(self.made)

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.made)

    @overload
    def __getitem__(self, index: int) -> Attribution: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Attribution]: ...
    def __getitem__(self, index: int | slice) -> Attribution | Sequence[Attribution]:
        return self.made[index]


@dataclass(frozen=True)
class PairView:
    """Two cells of the same case, their drifts, and what replay says about them."""

    case: Case
    a: CellView
    b: CellView
    drifts: Sequence[Drift]
    attributions: Sequence[Attribution] = ()
    tolerance: Tolerance = Tolerance()
    # What rules have worked out of this pair: each of 60 layers is looked at once, not once for every drift.
    worked_out: dict[tuple[str, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: tuple[str, ...], work: Callable[[], Any]) -> Any:
        if key not in self.worked_out:
            self.worked_out[key] = work()
        return self.worked_out[key]

    def drift(self, layer: str, quantity: str) -> Drift | None:
        return next((d for d in self.drifts if d.layer == layer and d.quantity == quantity), None)

    @property
    def differing(self) -> list[Drift]:
        return [d for d in self.drifts if d.relation != "agrees"]


@dataclass(frozen=True)
class Repeat:
    """One case of a target played a second time, in another order and process (``playing/again.py``).

    ``quantity`` names the first difference that is not rounding ("" for none), ``layer`` and ``size`` belong to it;
    ``identical`` says whether everything recorded is the same to the bit.
    """

    cell: CellView
    quantity: str = ""
    layer: str = ""
    size: float = 0.0
    identical: bool = False


@dataclass(frozen=True)
class TargetView:
    """One target over the whole run: its conventions per layer path, and its cases that were played twice."""

    target: str
    backend: str
    conventions: Mapping[str, Convention]
    documented: Mapping[str, Any] = field(default_factory=dict)
    link: str = ""
    repeats: Sequence[Repeat] = ()


def first_true(mask: Array) -> int | None:
    """Index of the first true entry of a 1-D mask, None when there is none."""
    found = np.flatnonzero(mask)
    return int(found[0]) if found.size else None


@dataclass(frozen=True, slots=True)
class Departure:
    """One rule in which a layer of the user's parts from BatchNorm's, found in its values (``diagnosis/anatomy``).

    ``says`` follows the layer's name in a sentence. ``shares`` maps output, running_mean and running_var to what of
    the layer's difference from BatchNorm vanishes when this rule is undone; those of all departures sum to 1."""

    cause: str
    says: str
    advice: str
    shares: Mapping[str, float]
    of_inner: bool = False  # another layer inside it does so to some of the samples


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a layer of the user's does with each value: its ``departures`` make every output that was recorded (and,
    with ``states``, every running statistic), within rounding.

    ``gradients`` maps grad_gamma and grad_beta to whether they are those of these outputs, where dy is known.
    ``lines``: (used_mean, used_invstd, used_residual), (T, C) each, as they are once the departures are known; NaN
    where no line of a whole batch shows them."""

    layer: str
    departures: tuple[Departure, ...]
    states: bool
    gradients: Mapping[str, bool]
    lines: tuple[Array, Array, Array]
    values: int  # per channel of the first training batch
    reached: int  # of them, that go into its statistics
