"""Which kinds of events move the running statistics, and which demonstrably do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bncheck.convention import Facet
from bncheck.diagnosis.fit.rows import MARGIN, Pair, Rows, averaged, horizon, moved
from bncheck.diagnosis.fit.stream import BACKWARD, CHECKPOINTED, EVAL, FLUSH, FORWARD, NO_GRAD

MOVING: Mapping[str, str] = {FORWARD: "forward", BACKWARD: "backward", FLUSH: "flush", EVAL: "eval"}


def moving_kinds(rows: Rows, pairs: Sequence[Pair]) -> dict[str, bool]:
    """Kind of event → whether it moves the statistics; kinds that show neither are left out.

    ``pairs``: the statistics and divisors that stand, whatever the averaging."""
    smallest = smallest_weight(rows, pairs)
    found: dict[str, bool] = {}
    present = {kind for stream in rows.streams for kind in stream.kinds}
    for kind in (FORWARD, NO_GRAD, CHECKPOINTED, BACKWARD, EVAL, FLUSH):
        if kind not in present:
            continue
        if kind in rows.moving:
            found[kind] = True
        elif stays_put(rows, pairs, kind, smallest):
            found[kind] = False
    return found


def measure_phase(rows: Rows, known_kinds: Mapping[str, bool]) -> dict[str, Facet]:
    """update_on and update_without_grad: which kinds of events move, and which demonstrably do not."""
    needed = [FORWARD, BACKWARD, EVAL] + ([FLUSH] if not rows.moving else [])
    missing = [kind for kind in needed if kind not in known_kinds]
    found = [MOVING[kind] for kind in MOVING if known_kinds.get(kind)]
    if missing:
        seen = " + ".join(found) or "nothing"
        text = f"{seen} moves them; no {', '.join(missing)} event that would show a move"
        update_on = Facet(None, identifiable=False, reason=text)
    else:
        update_on = Facet("+".join(found) or "never", True, 0.0, reason="the state is recorded after every event")
    without = known_kinds.get(NO_GRAD)
    if known_kinds.get(FLUSH):
        no_grad = Facet(None, identifiable=False, reason="a flush averages what waited, with gradient or without")
    elif without is None:
        no_grad = Facet(None, identifiable=False, reason="no forward without gradient that would show a move")
    else:
        no_grad = Facet("yes" if without else "no", True, 0.0)
    return {"update_on": update_on, "update_without_grad": no_grad}


def smallest_weight(rows: Rows, pairs: Sequence[Pair]) -> float:
    """The smallest weight an unseen move could have had: half the least seen one, or half of what was asked for."""
    if pairs:
        lows = [rows.intervals(*pair, 1.0)[0][rows.fitted] for pair in pairs]
        seen = min(float(np.min(low[np.isfinite(low)], initial=1.0)) for low in lows)
        return max(0.5 * seen, 0.0)
    asked = rows.streams[0].layer.batch_weight if rows.streams else None
    return 0.5 * asked if asked and not rows.moving else 0.0


def stays_put(rows: Rows, pairs: Sequence[Pair], kind: str, smallest: float) -> bool:
    """Whether some row of a kind would have shown a move, under every standing hypothesis, and showed none."""
    if smallest <= 0.0:
        return False
    if kind == BACKWARD and has_no_backward(rows):
        return True
    mine = rows.kinds == kind
    tried = pairs or (("variance", "n"), ("swapped", "n"))
    if not mine.any():
        return all(several_stay_put(rows, pair, kind, smallest) for pair in {mean_candidate(pair) for pair in tried})
    return all(bool(np.any(rows.intervals(*pair, MARGIN)[1][mine] < smallest)) for pair in tried)


def mean_candidate(pair: Pair) -> Pair:
    """The first pair that puts the same into running_mean."""
    return pair if pair[0] == "swapped" else ("variance", "n")


def several_stay_put(rows: Rows, pair: Pair, kind: str, smallest: float) -> bool:
    """The same for events with several batches: pulled the same way by all, a channel would have moved."""
    for stream in rows.streams:
        still = ~moved(stream)
        taken, error, _, _ = averaged(stream, *pair, rows.eps, rows.eps_error)
        for t in range(horizon(stream)):
            own = list(stream.sources[t])
            if stream.kinds[t] != kind or len(own) < 2 or not still[t] or np.any(stream.n[own] < 2):
                continue
            gap = taken[own] - stream.mean[t]
            same_way = np.all(gap > 0, axis=0) | np.all(gap < 0, axis=0)
            least = np.min(np.abs(gap) - MARGIN * error[own], axis=0)
            seen = smallest * least > MARGIN * stream.step_error(stream.mean)[t]
            if np.any(same_way & seen):
                return True
    return False


def has_no_backward(rows: Rows) -> bool:
    """Whether the target plays forwards and no backward at all (onnxruntime): what it cannot play moves nothing."""
    played = [(kind, s.status[t]) for s in rows.streams for t, kind in enumerate(s.kinds)]
    return (FORWARD, "ok") in played and {word for kind, word in played if kind == BACKWARD} == {"unsupported"}
