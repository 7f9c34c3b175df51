"""Two played cells of one case through everything between traces and findings, as ``analyse`` does it without files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncheck.convention import Convention
from bncheck.diagnosis.audit import silent_drifts
from bncheck.diagnosis.diagnose import diagnose
from bncheck.diagnosis.drifts import drifts_between
from bncheck.diagnosis.fit import Observation, settle
from bncheck.diagnosis.replay import attribute, replay
from bncheck.diagnosis.rules.well_formed import well_formed
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding


def view(observed: Observation, target: str, convention: Convention, arithmetic: str) -> CellView:
    case, trace, outcome = observed
    settled = settle(case, trace, convention)
    curves = replay(case, trace, settled) if trace is not None else {}
    environment = {"accumulates": arithmetic}
    cell = CellView(case, target, target, outcome, trace, convention=settled, replay=curves, environment=environment)
    return well_formed(cell)


def findings_between(
    one: Observation, two: Observation, conventions: Sequence[Convention], arithmetic: Sequence[str]
) -> list[Finding]:
    """Everything that is said about two targets, "one" and "two", in one case; warnings are errors here too."""
    case = one[0]
    with np.errstate(all="ignore"):
        a = view(one, "one", conventions[0], arithmetic[0])
        b = view(two, "two", conventions[1], arithmetic[1])
        drifts = drifts_between(case, a, b)
        found = []
        if any(drift.relation != "agrees" for drift in drifts) and a.trace is not None and b.trace is not None:
            for layer in [name for name in a.trace.layers if name in b.trace.layers]:
                found += attribute(case, a.trace, conventions[0], b.trace, conventions[1], layer)
        said = diagnose([a, b], [PairView(case, a, b, drifts, found)], [])
    silent = list(silent_drifts(drifts, said))  # whatever was planted: nothing differs silently
    assert silent == [], (silent, said)
    return said
