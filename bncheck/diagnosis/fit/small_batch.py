"""What a training forward does with one value per channel, or with none: the output, and the statistics after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncheck.convention import Facet
from bncheck.diagnosis.fit.average import Averages
from bncheck.diagnosis.fit.interval import meet, quotient
from bncheck.diagnosis.fit.normaliser import OUTPUT_ROUNDINGS
from bncheck.diagnosis.fit.rows import MARGIN, averaged
from bncheck.diagnosis.fit.stream import BACKWARD, FORWARD, Stream
from bncheck.scenario import Case
from bncheck.trace import Array, Trace


def rows_with(streams: Sequence[Stream], count: int, kinds: Sequence[str]) -> list[tuple[Stream, int, int]]:
    """(stream, event, its forward) of the carried-out events of these kinds whose only batch has ``count`` values."""
    return [
        (stream, t, own[0])
        for stream in streams
        for t, own in enumerate(stream.sources)
        if stream.kinds[t] in kinds and len(own) == 1 and stream.n[own[0]] == count
    ]


def declared(case: Case, event: int) -> int | None:
    """Values per channel of the input that an event of a network of one layer reads; None when it cannot be told."""
    spec = case.inputs.get(case.events[event].input)
    if spec is None or len(case.network.layers) != 1 or not spec.shape:
        return None
    axis = case.network.layers[0].axis % len(spec.shape)
    return int(np.prod([side for i, side in enumerate(spec.shape) if i != axis]))


def refusals(streams: Sequence[Stream], cases: dict[str, Case], count: int) -> list[tuple[Stream, int]]:
    """Training forwards on ``count`` values per channel that raised."""
    return [
        (stream, t)
        for stream in streams
        for t, status in enumerate(stream.status)
        if status == "raised" and stream.kinds[t] == FORWARD and declared(cases[stream.case], t) == count
    ]


def measure_single(
    streams: Sequence[Stream], cases: dict[str, Case], averages: Averages, update_on: object, eps: tuple[float, float]
) -> dict[str, Facet]:
    """single_value and single_value_state. ``eps``: its value, and how far it may be off."""
    refused = refusals(streams, cases, 1)
    forwards = rows_with(streams, 1, (FORWARD,))
    if refused and forwards:
        both = Facet(None, identifiable=False, reason="it refused one and carried out another")
        return {"single_value": both, "single_value_state": both}
    if refused:
        states = {state_after(stream, t) for stream, t in refused}
        return {"single_value": Facet("refuses", True, 0.0), "single_value_state": one_state(states)}
    if not forwards:
        none = Facet(None, identifiable=False, reason="no training forward with one value per channel")
        return {"single_value": none, "single_value_state": none}
    found = [output_kind(stream, t, *eps) for stream, t, _ in forwards]
    answers = set.intersection(*found)
    if len(answers) == 1:
        single = Facet(answers.pop(), True, 0.0)
    else:
        text = (
            " and ".join(sorted(answers)) + " give this output"
            if answers
            else "neither nan, zero, the input nor the running statistics"
        )
        single = Facet(None, identifiable=False, reason=text, standing=tuple(sorted(answers)))
    return {"single_value": single, "single_value_state": single_state(streams, averages, update_on)}


def output_kind(stream: Stream, t: int, eps: float, eps_error: float) -> set[str]:
    """Which of nan, zero, identity, running the output of a forward on one value per channel is."""
    output = stream.trace.output(t)
    channels = stream.input_mean.shape[1]
    if stream.output_bad[t] == channels > 0:
        # A negative running variance has no root either.
        return {"nan"} if np.all(np.fmin(stream.var[t], stream.var[t + 1]) + eps > 0) else {"nan", "running"}
    if output is None or output.size != channels or not channels:
        return set()
    y, x = np.asarray(output, dtype=np.float64).ravel(), stream.input_mean[t]
    gamma, beta = stream.gamma[t], stream.beta[t]
    with np.errstate(invalid="ignore"):
        scale = gamma / np.sqrt(stream.var[t] + eps)  # NaN where a negative running variance has no root
    running = (x - stream.mean[t]) * scale + beta
    size = np.abs(np.nan_to_num(scale)) * (np.abs(x) + np.abs(stream.mean[t])) + np.abs(beta) + np.abs(x)
    bound = OUTPUT_ROUNDINGS * MARGIN * stream.output_roundoff * size
    # The running statistics are divided by a root of var + eps, and eps is only known to ± its error.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 0.5 * eps_error / (stream.var[t] + eps)
        loose = bound + share * np.abs(running - beta)
    guesses: dict[str, tuple[Array, Array]] = {
        "zero": (beta, bound),
        "identity": (x, bound),
        "running": (running, loose),
    }
    lost = np.isnan(y)
    found = {
        name
        for name, (guess, error) in guesses.items()
        if np.all(np.where(lost, np.isnan(guess), np.abs(y - guess) <= np.where(np.isnan(error), 0.0, error)))
    }
    # An eps that may be anything fits any output: a tangent says something up to a tenth of what eps is added to.
    return found | {"another rule"} if "running" in found and np.any(share > 0.1) else found


def state_after(stream: Stream, t: int) -> str:
    """unchanged, mean-only, nan, moved or var-only, by comparing bits."""
    mean, var = moves(stream.mean, t), moves(stream.var, t)
    if np.any(np.isnan(stream.var[t + 1]) & ~np.isnan(stream.var[t])):
        return "nan"
    return {(False, False): "unchanged", (True, False): "mean-only", (True, True): "moved"}.get((mean, var), "var-only")


def moves(state: Array, t: int) -> bool:
    return bool(np.any(state[t] != state[t + 1]) and np.any(np.isfinite(state[t])))


def one_state(states: set[str]) -> Facet:
    if len(states) == 1 and states <= {"unchanged", "mean-only", "nan"}:
        return Facet(states.pop(), True, 0.0)
    return Facet(
        None,
        identifiable=False,
        reason="the state after it follows no rule known here: " + ", ".join(sorted(states)),
    )


def single_state(streams: Sequence[Stream], averages: Averages, update_on: object) -> Facet:
    """The state after the event that moves the statistics had its turn with one value per channel."""
    if update_on is None or "flush" in str(update_on):
        return Facet(None, identifiable=False, reason="not known which event averages this batch")
    kinds = [kind for kind in (FORWARD, BACKWARD) if kind in str(update_on).split("+")]
    rows = rows_with(streams, 1, kinds or (FORWARD, BACKWARD))
    if not rows:
        return Facet(
            None,
            identifiable=False,
            reason=f"no {update_on} event after a forward with one value per channel",
        )
    answers = [shown_by(stream, t, source, averages) for stream, t, source in rows if finite(stream, t)]
    if len(set(answers)) == 1 and answers[0] in ("unchanged", "updated", "nan", "mean-only"):
        return Facet(answers[0], True, 0.0)
    return Facet(None, identifiable=False, reason=", ".join(sorted(set(answers))))


def shown_by(stream: Stream, t: int, source: int, averages: Averages) -> str:
    """The state after one such row; an unseen move must have been large enough to see."""
    after = state_after(stream, t)
    if after == "nan":
        return after
    statistic, divisor, _ = averages.best or ("variance", "n", "")
    eps = averages.rows.eps, averages.rows.eps_error
    um, em, uv, ev = (part[source] for part in averaged(stream, statistic, divisor, *eps))
    spans = []
    for state, u, error in ((stream.mean, um, em), (stream.var, uv, ev)):
        step = MARGIN * stream.step_error(state)[t]
        spans.append(meet(*quotient(state[t + 1] - state[t], step, u - state[t], MARGIN * error)))
    (mean_lo, mean_hi), (var_lo, var_hi) = spans
    if after == "moved":
        together = max(mean_lo, var_lo) <= min(mean_hi, var_hi) and min(mean_lo, var_lo) > 0.0
        return "updated" if together and averages.best else "it moved, but not by the rule of larger batches"
    still = [high < averages.smallest for high in (mean_hi, var_hi)]
    if after == "unchanged" and (all(still) or not averages.rows.moving):
        return "unchanged"
    if after == "mean-only" and still[1]:
        return "mean-only"
    return "a move would have been too small to see"


def measure_empty(
    streams: Sequence[Stream], cases: dict[str, Case], averages: Averages, update_on: object, crashed: bool
) -> Facet:
    """empty_batch: refuses, nan, unchanged, updated; "crash" when the process died on it."""
    if crashed:
        return Facet("crash", True, 0.0, reason="the process died in the case that feeds an empty batch")
    refused = refusals(streams, cases, 0)
    forwards = rows_with(streams, 0, (FORWARD,))
    if refused and not forwards:
        return Facet("refuses", True, 0.0)
    if refused or not forwards:
        return Facet(
            None,
            identifiable=False,
            reason="no training forward with an empty batch, or it refused only some",
        )
    if update_on is None or "flush" in str(update_on):
        return Facet(None, identifiable=False, reason="not known which event averages this batch")
    kinds = [kind for kind in (FORWARD, BACKWARD) if kind in str(update_on).split("+")]
    rows = rows_with(streams, 0, kinds or (FORWARD, BACKWARD))
    # Once the state is NaN, later rows say nothing.
    answers = {empty_state(stream, t, averages) for stream, t, _ in rows if finite(stream, t)}
    if len(answers) == 1 and "" not in answers:
        return Facet(answers.pop(), True, 0.0)
    text = (
        f"no {update_on} event after an empty batch" if not answers else "the state after it follows no rule known here"
    )
    return Facet(None, identifiable=False, reason=text)


def empty_state(stream: Stream, t: int, averages: Averages) -> str:
    """An update takes an empty batch's moments as 0, so the state shrinks; NaN where 0/0 was averaged."""
    mean, var = stream.mean[t : t + 2], stream.var[t : t + 2]
    if np.any(np.isnan(mean[1]) | np.isnan(var[1])):
        return "nan"
    if moves(stream.mean, t) or moves(stream.var, t):
        return "updated"
    return "unchanged" if np.any(averages.smallest * np.abs(mean[0]) > stream.step_error(stream.mean)[t]) else ""


def finite(stream: Stream, t: int) -> bool:
    return bool(np.all(np.isfinite(stream.mean[t]) & np.isfinite(stream.var[t])) and stream.mean[t].size)


def has_empty_input(case: Case) -> bool:
    return any(0 in spec.shape for spec in case.inputs.values())


def died_on_empty(traces: Sequence[tuple[Case, Trace | None, str]]) -> bool:
    """Whether the only cases that crashed are ones that feed an empty batch."""
    crashed = [has_empty_input(case) for case, _, outcome in traces if outcome == "crashed"]
    return bool(crashed) and all(crashed)
