"""The outputs agree, the gradients do not.

Signature: forward outputs and statistics agree, and dx, dgamma or dbeta of a backward differ by more than rounding. The
reference has the closed form dx = γ/std · (dy − mean(dy) − x̂ · mean(dy · x̂)): with running statistics the two means
are missing, which a layer that is frozen in the wrong place shows.

What to do: compare with a gradient check in float64. A target that departs from the reference here has a defect in its
backward kernel; between two other targets it is not known which one is right.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bncheck.diagnosis.rules.attributed import summary
from bncheck.diagnosis.rules.leftover import batch_facts, is_whole, upstream, within_rounding
from bncheck.diagnosis.rules.movement import forwards_behind
from bncheck.diagnosis.rules.numerics.stacked_gradients import grows_alike
from bncheck.diagnosis.rules.revealed import asked_eps, eps_rows
from bncheck.diagnosis.rules.roundoff import arithmetic_dtype, summation, unit
from bncheck.diagnosis.rules.wording import GRADIENT_WORDS, names, number, targets, verb
from bncheck.evidence import CellView, Drift, PairView
from bncheck.finding import Finding
from bncheck.trace import Array

CODE = "BN206"
CAUSE = "gradient"
EXPLAINS = ("gradients",)
FOLLOWS_FROM = ("gradients",)
ADVICE = "check the gradient in float64 (bncheck repro gives the script)"
OWN = (
    "let the gradient flow through the batch's mean and variance: no .detach(), .data or torch.no_grad() around them, "
    "only around the update of the running statistics; torch.autograd.gradcheck tests it in float64"
)


def check_pair(pair: PairView) -> Iterator[Finding]:
    yield from without(pair)
    if not outputs_agree(pair):
        return  # the gradient of another output is another gradient
    output = pair.drift("", "output")
    near = "" if output is None or output.relation == "agrees" else " up to rounding"
    for drift in pair.differing:
        if (
            drift.quantity not in GRADIENT_WORDS
            or drift.relation not in ("differs", "nonfinite")
            or is_rounding(pair, drift)
        ):
            continue
        if of_lost_outputs(pair, drift):
            continue  # both are NaN in y, which is no agreement
        truth = any(cell.target == "reference" for cell in (*pair.a.members, *pair.b.members))
        wrong = pair.b if any(cell.target == "reference" for cell in pair.a.members) else pair.a
        odd, other = (pair.a, pair.b) if (wrong is pair.a if truth else pair.a.own_layer) else (pair.b, pair.a)
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect" if truth else "unexplained",
            title=(
                f"{names(odd.members)} {verb(odd.members, 'agrees', 'agree')} with {names(other.members)} in "
                f"y{near}, but "
                f"not in {GRADIENT_WORDS[drift.quantity]}{' of ' + drift.layer if drift.layer else ''}: "
                f"{how_far(pair, drift)}."
            ),
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=drift.layer,
            event=drift.first_event,
            quantity=drift.quantity,
            departs=wrong.target if truth else "",
            departs_from="arithmetic" if truth else "",
            evidence=summary(drift),
            advice=OWN if odd.own_layer else ADVICE,
        )


def how_far(pair: PairView, drift: Drift) -> str:
    """Where one side has no numbers: what is recorded does not tell NaN from a backward that brings none."""
    off = f"off by up to {number(drift.max_abs)}"
    if drift.relation != "nonfinite":
        return off
    bad = {drift.a: drift.nonfinite_a, drift.b: drift.nonfinite_b}
    for x, y in ((pair.a, pair.b), (pair.b, pair.a)):
        if bad.get(x.target) and not bad.get(y.target):
            apart = f"; elsewhere {off}" if np.isfinite(drift.max_abs) and drift.max_abs > 0 else ""
            who = f"{names(x.members)} {verb(x.members, 'gives', 'give')}"
            return f"{who} NaN, Inf or none where the other gives numbers{apart}"
    return "NaN, Inf or none in other places"


def without(pair: PairView) -> Iterator[Finding]:
    """Parameters that one side's backward does not reach: no optimiser ever moves them. One finding per layer and
    side."""
    lost = [drift for drift in pair.differing if drift.relation == "missing" and drift.quantity in GRADIENT_WORDS]
    for x, y in ((pair.a, pair.b), (pair.b, pair.a)):
        for layer in dict.fromkeys(drift.layer for drift in lost):
            here = [drift for drift in lost if drift.layer == layer and not holds(x, drift)]
            if not here:
                continue
            gives, do = verb(x.members, "gives", "give"), verb(y.members, "does", "do")
            what, stay, advice = lost_words(layer, here)
            yield Finding(
                code=CODE,
                cause=CAUSE,
                kind="defect",
                title=f"In backward {names(x.members)} {gives} {what} no gradient, {names(y.members)} {do}: {stay}.",
                targets=targets(pair.a.members, pair.b.members),
                scenario=pair.case.scenario,
                case=pair.case.name,
                layer=layer,
                event=here[0].first_event,
                quantity=here[0].quantity,
                departs=x.target,
                departs_from="arithmetic",
                advice=advice,
                accounts=tuple((layer, drift.quantity) for drift in here),
            )


def lost_words(layer: str, lost: Sequence[Drift]) -> tuple[str, str, str]:
    """(what gets no gradient, what that means, what to do)."""
    if not layer:
        advice = "let the output depend on the input, without detach() or no_grad() on the way"
        return "the network's input", "nothing in front of this layer learns anything", advice
    what = " and ".join(drift.quantity.removeprefix("grad_") for drift in lost)
    stay = "training leaves it as it is" if len(lost) == 1 else "training leaves them as they are"
    return f"{what} of {layer}", stay, f"let the output depend on {what}, without detach() or no_grad() on the way"


def holds(cell: CellView, drift: Drift) -> bool:
    if cell.trace is None:
        return False
    if not drift.layer:
        return any(name.startswith(f"{drift.quantity}/") for name in cell.trace.arrays)
    return cell.trace.get(drift.layer, drift.quantity) is not None


def is_rounding(pair: PairView, drift: Drift) -> bool:
    if drift.relation == "nonfinite" or not np.isfinite(drift.max_abs):
        return False
    if is_whole(pair):
        return grows_alike(pair, drift)
    # Outputs that are apart for a cause are no rounding, and neither is what a backward makes of them.
    gap = forward_gap(pair) if outputs_agree(pair) else {}
    with np.errstate(all="ignore"):
        bound = sum(bound_of(cell, drift, gap) for cell in (pair.a, pair.b))
    # Where a ReLU's input is zero to rounding its gate may open on one side only: single gradients then change by
    # their whole size, the mean over all of them does not.
    return (drift.mean_abs if gates_may_differ(pair) else drift.max_abs) <= bound


def outputs_agree(pair: PairView) -> bool:
    """To within rounding."""
    output = pair.drift("", "output")
    return output is None or output.relation == "agrees" or within_rounding(pair, output)


def gates_may_differ(pair: PairView) -> bool:
    """Whether a ReLU may be open on one side only. Where it is the last layer its outputs show that it is not."""
    gates = [layer for layer in pair.case.network.layers if layer.type in ("relu", "custom")]
    if not gates or pair.a.trace is None or pair.b.trace is None:
        return bool(gates)
    last = next((layer for layer in reversed(pair.case.network.layers) if layer.type != "flatten"), None)
    if len(gates) > 1 or gates[0] is not last or last.type != "relu":
        return True
    behind = {event for events in forwards_behind(pair.a.trace).values() for event in events}
    outputs = [(pair.a.trace.output(event), pair.b.trace.output(event)) for event in behind]
    return any(
        one is None or two is None or one.shape != two.shape or bool(((one > 0) != (two > 0)).any())
        for one, two in outputs
    )


def of_lost_outputs(pair: PairView, drift: Drift) -> bool:
    """Whether no output of the forwards that the first differing gradient goes back through is finite."""
    trace = pair.a.trace
    if trace is None or drift.first_event is None:
        return False
    behind = forwards_behind(trace).get(drift.first_event, ())
    found = [y for event in behind if (y := trace.output(event)) is not None]
    return bool(found) and not any(np.isfinite(y).any() for y in found)


def forward_gap(pair: PairView) -> Mapping[str, float]:
    """Layer → how far the two sides' normalised values are apart in standard deviations, as their outputs reveal it: a
    backward starts from them."""
    found: Mapping[str, float] = pair.once(("forward gap",), lambda: dict(forward_gaps(pair)))
    return found


def forward_gaps(pair: PairView) -> Iterator[tuple[str, float]]:
    a, b = pair.a.trace, pair.b.trace
    if a is None or b is None:
        return
    behind = sorted({event for events in forwards_behind(a).values() for event in events})
    for layer in a.layers:
        rows = [trace.get(layer, name) for name in ("used_mean", "used_invstd") for trace in (a, b)]
        if any(row is None or len(row) <= max(behind, default=0) for row in rows):
            continue
        m_a, m_b, r_a, r_b = (np.asarray(row, dtype=np.float64)[behind] for row in rows if row is not None)
        if m_a.shape == m_b.shape:
            gap = np.abs(r_a - r_b) / np.maximum(r_a, r_b) + np.abs(m_a - m_b) * np.minimum(r_a, r_b)
            yield layer, float(np.max(gap, where=np.isfinite(gap), initial=0.0))


def bound_of(cell: CellView, drift: Drift, gap: Mapping[str, float]) -> float:
    """u times the terms of the sums, times conditioning, times the size of what is summed (dy or what is held); and
    what the forward is off by, in every term alike."""
    if cell.trace is None:
        return 0.0
    u, held = unit(arithmetic_dtype(cell)), gradients(cell, drift)
    scale = max((float(np.max(np.abs(g), where=np.isfinite(g), initial=0.0)) for g in held), default=0.0)
    forwards = max(map(len, forwards_behind(cell.trace).values()), default=1)
    total = 0.0
    for layer in cell.trace.layers:
        facts = batch_facts(cell, layer)
        if facts is None:
            continue
        mean, var, n = facts
        spread = np.sqrt(var + eps_of(cell, layer))
        # dy is drawn from N(0, 1) or is one. In dx 8 bounds it; sums of it grow as √n, or up to the gradient itself,
        # and by how much it grew on its way through a linear layer the gradient's own size says.
        root = np.sqrt(n)
        if drift.quantity == "grad_input":
            terms = everywhere = 1.0 / spread
        else:
            terms, everywhere = np.minimum(n, 8.0 * root) * np.maximum(1.0, scale / root), forwards * n
        gamma, kappa = gamma_size(cell, layer), 1 + np.sqrt(mean * mean + var) / spread
        # Measured on 20 targets: at most 0.22 of this. What E[x²] − E[x]² loses of a variance is not asked of a
        # backward, where the outputs show it.
        lost = np.minimum(4.0 * gap.get(layer, 0.0), 4.0 * u * summation(n, u) * kappa**2)
        own = 0.5 * u * summation(n, u) * kappa * (terms * gamma + scale) + lost * (everywhere * gamma + scale)
        # Without eps a channel that does not vary has no gradient whose rounding could be bounded.
        total += float(np.max(own, where=spread > 0, initial=0.0))
    return total + upstream(cell, None) * scale


def eps_of(cell: CellView, layer: str) -> float:
    """The least eps that the layer holds or was measured to add; where neither is known, as the scenario asks."""
    rows = eps_rows(cell, layer, len(cell.trace.events)) if cell.trace is not None else np.zeros(0)
    known = rows[rows > 0]
    return float(known.min()) if known.size else asked_eps(cell.case, layer)


def gamma_size(cell: CellView, layer: str) -> float:
    gamma = cell.trace.get(layer, "gamma") if cell.trace is not None else None
    return max(1.0, float(np.max(np.abs(gamma), where=np.isfinite(gamma), initial=0.0))) if gamma is not None else 1.0


def gradients(cell: CellView, drift: Drift) -> list[Array]:
    assert cell.trace is not None
    if drift.layer:
        rows = cell.trace.get(drift.layer, drift.quantity)
        return [] if rows is None else [rows]
    return [rows for name, rows in cell.trace.arrays.items() if name.startswith(f"{drift.quantity}/")]
