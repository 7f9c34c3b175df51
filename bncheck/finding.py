"""A finding: the named cause of a difference, with evidence, explained share and advice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bncheck.trace import Place

Kind = Literal["defect", "convention", "hazard", "rounding", "unexplained"]
# What matters first. A defect breaks the target's own documentation, its other device, or arithmetic.
KINDS: tuple[Kind, ...] = ("defect", "hazard", "unexplained", "convention", "rounding")
# Kinds that somebody can be asked to mend; of the others a note can be written.
REPORTABLE: tuple[Kind, ...] = ("defect", "hazard", "unexplained")

# What a layer of the user's departs from.
BUILT_IN = "the built-in layer"

CAUSES = (
    "update-phase",
    "update-count",
    "never-updated",
    "few-updates",
    "counter-skew",
    "batch-weight",
    "hyperparameter-lost",
    "variance-divisor",
    "wrong-statistic",
    "value-count",
    "single-value",
    "empty-batch",
    "initial-state",
    "state-mismatch",
    "call-mode",
    "mode-leak",
    "normaliser-source",
    "normaliser-divisor",
    "eps",
    "affine",
    "activation",
    "cancellation",
    "summation",
    "normalise-arithmetic",
    "reduced-precision",
    "low-precision-stall",
    "overflow",
    "layout",
    "stale-state",
    "data-shift",
    "mixed-batches",
    "shared-state",
    "unregistered",
    "synchronisation",
    "order-dependence",
    "folding",
    "poisoned-state",
    "graph-retention",
    "in-place",
    "layer-contract",
    "gradient",
    "refusal",
    "crash",
    "averaging",
    "rounding",
    "unexplained",
)


# Evidence of a finding of rounding: the largest share that one of its differences has of the bound that excuses it.
SHARE = "share of the rounding bound"
# Evidence of findings about nodes of an ONNX file that were compared one by one.
NODES = "nodes compared"
# Evidence of a finding that says by how much an evaluation is off: a cause of its own absorbs it (diagnosis/alone.py).
GAP = "gap, in deviations of the output"
# Evidence of findings about NaN, Inf and running variances that cannot be one. Reports make the word of a cell of it.
NONFINITE = "takes the value"  # of a state or an output: NaN, Inf, or NaN or Inf
LOWEST = "lowest"  # the running variance, where it is below zero
NAN_IN = "gives NaN in"  # eval, training, or eval and in training
GAIN = "gain"  # what eval multiplies by, where the running variance is zero
# Causes that are about NaN, Inf and such variances themselves. Others have them as a consequence.
OF_NAN = ("poisoned-state", "overflow")


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows from a finding and is therefore none of its own: its sentence, whom and what it is about."""

    title: str
    targets: tuple[str, ...]
    sides: tuple[tuple[str, ...], ...] = ()
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One named cause.

    ``targets`` names the two sides (or the one target a hazard concerns); ``departs`` is the one that
    departs from its documentation, from arithmetic or from itself, empty when nobody does (a convention).
    ``explained`` is the share (0…1) of ``quantity``'s drift that vanishes when one side is given the other's
    rule; None where no drift is attributed. ``evidence`` holds the numbers behind the sentence.
    """

    code: str
    cause: str
    kind: Kind
    title: str  # the sentence a reader sees first: what is wrong, and where
    targets: tuple[str, ...]
    scenario: str
    case: str
    layer: str = ""
    event: int | None = None
    quantity: str = ""
    explained: float | None = None
    departs: str = ""
    departs_from: str = ""  # "documentation", "arithmetic", "itself" or ""
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)
    advice: str = ""
    link: str = ""
    # The two groups of targets that differ (the members of each agree); empty when it is about targets one by one.
    sides: tuple[tuple[str, ...], ...] = ()
    # Facets that this case's input cannot identify, with the scenario that settles each.
    not_identifiable: Mapping[str, str] = field(default_factory=dict)
    # (layer, quantity) of each further difference between the sides that this cause accounts for (accounting.py).
    accounts: tuple[Place, ...] = ()
    follows: tuple[Consequence, ...] = ()
    # Facets of conventions that it names: replay says in which quantities they take part.
    facets: tuple[str, ...] = ()
    proof: str = ""  # how far it accounts for the difference: a sentence of its own, behind the title

    @property
    def sentence(self) -> str:
        """The title, with what shows that it is the cause."""
        return f"{self.title} {self.proof}".strip()

    @property
    def gist(self) -> str:
        """The first sentence of the title, for lists."""
        first, stop, _ = self.title.partition(". ")
        return first + stop.rstrip()

    @property
    def reportable(self) -> bool:
        return self.kind in REPORTABLE

    @property
    def of_difference(self) -> bool:
        """True if it is about a difference between two groups of targets, not about targets one by one."""
        return len(self.sides) == 2

    @property
    def of_nan(self) -> bool:
        """True if NaN, Inf or a variance that cannot be one is what it is about, and not what follows from it."""
        return self.cause in OF_NAN

    @property
    def places(self) -> frozenset[Place]:
        """(layer, quantity) of every difference that it is about."""
        return frozenset([(self.layer, self.quantity), *self.accounts])

    def between(self, a: str, b: str) -> bool:
        """Whether it is about a difference that has a on one side and b on the other."""
        return parts(self.sides, a, b)

    def concerns(self, a: str, b: str) -> bool:
        """Whether it says something about a and b side by side: it lies between them, or it is about either alone."""
        return self.between(a, b) if self.of_difference else a in self.targets or b in self.targets


def parts(sides: Sequence[Sequence[str]], a: str, b: str) -> bool:
    """Whether two groups of targets have a in one and b in the other."""
    if len(sides) != 2:
        return False
    one, two = sides
    return (a in one and b in two) or (b in one and a in two)


def numbered(findings: Sequence[Finding], probes: Collection[str], wanted: Finding) -> int:
    """Which of the findings of its code it is, counted from 1: what only a probe shows comes last, for its input was
    made for measuring, not for people."""
    same = sorted((item for item in findings if item.code == wanted.code), key=lambda item: item.scenario in probes)
    return next(place for place, item in enumerate(same, 1) if item is wanted)
