"""What a forward normalises with, and eps: from the mean m and inverse deviation r that its output reveals.

m alone tells the source (batch, running statistics before or after the event, a blend of batch and running,
none), r then gives eps, either inside (1/r² - v) or outside (1/r - sqrt(v)) the root. Every channel of every forward
must agree on one eps and, for a blend, on one mixing weight; the rules of average.py for standing and falling apply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.convention import Facet
from bncheck.diagnosis.fit.interval import known, meet, number, quotient
from bncheck.diagnosis.fit.rows import MARGIN, moved
from bncheck.diagnosis.fit.stream import EVAL, FORWARD, Stream
from bncheck.trace import Array

TRAIN_SOURCES = ("batch", "running-before", "running-after", "blend", "none")
EVAL_SOURCES = ("running", "batch", "blend", "none")
PLACEMENTS = ("inside", "outside")
# y = γ·r·(x - m) + β takes up to four roundings of terms of the size of its parts, however it is arranged.
OUTPUT_ROUNDINGS = 8.0
Span = tuple[float, float]
EVERYTHING: Span = (-math.inf, math.inf)
NOTHING: Span = (math.inf, -math.inf)


@dataclass(frozen=True)
class Sides:
    """What a source leaves to say: how far m is from its mean, how far it may be; its variance, how far that may be."""

    gap: Array
    room: Array
    var: Array
    var_error: Array
    far: dict[float, bool] = field(default_factory=dict)  # scale of the room → whether a mean lies outside


@dataclass(frozen=True)
class Seen:
    """Forwards of one phase, every channel an element: what the output revealed and what it may have used."""

    m: Array
    m_error: Array
    r: Array
    r_error: Array  # relative
    batch: tuple[Array, Array, Array, Array]  # mean, its error, biased variance, its error
    before: tuple[Array, Array]
    after: tuple[Array, Array]
    roundoff: Array
    spans: dict[tuple[str, str, float], Span] = field(default_factory=dict)  # answers, each worked out once
    sides: dict[tuple[str, float], Sides] = field(default_factory=dict)


def look(streams: Sequence[Stream], evaluating: bool) -> Seen:
    """Gather the forwards with two or more values per channel of one phase."""
    parts: list[tuple[Array, ...]] = []
    for stream in streams:
        phase = np.array([k == EVAL for k in stream.kinds], dtype=bool) if evaluating else stream.trains
        picked = np.flatnonzero(phase & (stream.n > 1))
        mean_error, var_error = stream.moment_errors
        columns = (
            stream.used_mean,
            stream.used_invstd,
            stream.input_mean,
            mean_error,
            stream.input_var,
            var_error,
            stream.mean[:-1],
            stream.var[:-1],
            stream.mean[1:],
            stream.var[1:],
            stream.gamma[:-1],
            stream.beta[:-1],
            np.full_like(stream.input_mean, OUTPUT_ROUNDINGS * max(stream.output_roundoff, stream.moment_roundoff)),
        )
        parts.append(tuple(column[picked].ravel() for column in columns))
    if not parts:
        parts = [(np.zeros(0),) * 13]
    whole = parts[0] if len(parts) == 1 else tuple(np.concatenate(c) for c in zip(*parts, strict=True))
    m, r, bm, bme, bv, bve, rm, rv, am, av, gamma, beta, unit = whole
    good = np.isfinite(m) & np.isfinite(r) & (bv > 0) & (r != 0) & (gamma != 0)
    held = np.isfinite(rm) & np.isfinite(rv)
    # Beside NaN statistics no output speaks for or against them; where there are none at all, it is not their doing.
    good &= held if (good & held).any() else True
    if not good.all():
        m, r, bm, bme, bv, bve, rm, rv, am, av, gamma, beta, unit = (column[good] for column in whole)
    m_error, r_error = revealed_error(m, r, bm, bv, gamma, beta, unit)
    return Seen(
        m=m,
        m_error=m_error,
        r=r,
        r_error=r_error,
        batch=(bm, bme, bv, bve),
        before=(rm, rv),
        after=(am, av),
        roundoff=unit,
    )


def revealed_error(
    m: Array, r: Array, mean: Array, var: Array, gamma: Array, beta: Array, unit: Array
) -> tuple[Array, Array]:
    """Bounds on the error of m and (relative) of r that the rounding of y puts into the least squares.

    A slope's error is at most mean(|e|·|x - mean|) / var, and |e| <= unit·(|γr|(|x| + |m|) + |β|).
    """
    spread = np.sqrt(var)
    shift = np.abs(beta) / np.abs(gamma * r)
    r_error = unit * (1.0 + (np.abs(mean) + np.abs(m) + shift) / spread)
    m_error = unit * (spread + np.abs(mean) + np.abs(m) + shift) + np.abs(m - mean) * r_error
    return m_error, r_error


def candidates(seen: Seen, source: str, blend: float) -> tuple[Array, Array, Array, Array]:
    """(mean, its error, variance, its error) under a source; "none" is m = 0 and r = 1, given as variance 1 - eps."""
    bm, bme, bv, bve = seen.batch
    rm, rv = seen.before
    if source == "batch":
        return bm, bme, bv, bve
    if source in ("running-before", "running"):
        return rm, seen.roundoff * np.abs(rm), rv, seen.roundoff * np.abs(rv)
    if source == "running-after":
        return (
            seen.after[0],
            seen.roundoff * np.abs(seen.after[0]),
            seen.after[1],
            seen.roundoff * np.abs(seen.after[1]),
        )
    mean, var = blend * bm + (1 - blend) * rm, blend * bv + (1 - blend) * rv
    size_m, size_v = np.abs(bm) + np.abs(rm), np.abs(bv) + np.abs(rv)
    return mean, blend * bme + seen.roundoff * size_m, var, blend * bve + seen.roundoff * size_v


def blend_weight(seen: Seen, scale: float) -> Span:
    """Weight of the batch in m = share·batch + (1 - share)·running."""
    key = ("", "", scale)
    if key not in seen.spans:
        seen.spans[key] = compute_blend_weight(seen, scale)
    return seen.spans[key]


def compute_blend_weight(seen: Seen, scale: float) -> Span:
    rm = seen.before[0]
    error = scale * (seen.m_error + seen.batch[1] + seen.roundoff * (np.abs(rm) + np.abs(seen.batch[0])))
    lo, hi = quotient(seen.m - rm, error, seen.batch[0] - rm, scale * (seen.batch[1] + seen.roundoff * np.abs(rm)))
    low, high = meet(lo, hi)
    return float(low), float(high)


def eps_span(seen: Seen, source: str, placement: str, scale: float) -> Span:
    """Interval of eps under a hypothesis, NOTHING when it falls. The source "none" has no eps: EVERYTHING."""
    key = (source, placement, scale)
    if key not in seen.spans:
        seen.spans[key] = compute_eps_span(seen, source, placement, scale)
    return seen.spans[key]


def compute_eps_span(seen: Seen, source: str, placement: str, scale: float) -> Span:
    if not seen.m.size:
        return EVERYTHING
    if source == "none":
        # y = γ·x + β, so m is 0 and r is 1.
        stands = (np.abs(seen.m) <= scale * seen.m_error).all()
        return EVERYTHING if stands and (np.abs(seen.r - 1) <= scale * seen.r_error).all() else NOTHING
    share = 0.0
    if source == "blend":
        low, high = blend_weight(seen, scale)
        # A weight that may be 0 or 1 is no blend: then the running statistics, or the batch's, give these means too.
        if not low <= high or high < 0.0 or low > 1.0 or low <= 0.0 <= high or low <= 1.0 <= high:
            return NOTHING
        if not known(low, high):
            return EVERYTHING
        share = 0.5 * (low + high)
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = sides_of(seen, source, share)
        if scale not in sides.far:  # what is near enough at one scale is so at every larger one
            near = any(known < scale and not far for known, far in sides.far.items())
            sides.far[scale] = not near and bool((sides.gap > scale * sides.room).any())
        return NOTHING if sides.far[scale] else root_span(seen, sides.var, sides.var_error, placement, scale)


def sides_of(seen: Seen, source: str, share: float) -> Sides:
    """Under every placement and scale the same."""
    key = (source, share)
    if key not in seen.sides:
        mean, mean_error, var, var_error = candidates(seen, source, share)
        seen.sides[key] = Sides(np.abs(seen.m - mean), seen.m_error + mean_error, var, var_error)
    return seen.sides[key]


def root_span(seen: Seen, var: Array, var_error: Array, placement: str, scale: float) -> Span:
    # The inverse root and its addition are four more roundings.
    relative = scale * (seen.r_error + seen.roundoff)
    if placement == "inside":
        middle, error = 1.0 / seen.r**2, 2.0 * relative / seen.r**2 + scale * var_error
        low, high = meet(middle - error - var, middle + error - var)
    else:
        root = np.sqrt(np.maximum(var, 0.0))
        spread = np.fmin(scale * var_error / np.maximum(root, 1e-300), np.sqrt(scale * var_error))
        middle, error = 1.0 / seen.r, relative / np.abs(seen.r) + spread
        low, high = meet(middle - error - root, middle + error - root)
    return (float(low), float(high)) if low <= high and high >= 0.0 else NOTHING


def measure_normaliser(streams: Sequence[Stream], thorough: bool = True) -> tuple[dict[str, Facet], Span]:
    """train_normaliser, eval_normaliser, blend_weight, eps, eps_placement of streams with equal requested eps.

    The second part is the interval of eps, also where it is too wide to call eps identifiable. Which source comes
    second, for people to read, is left out unless ``thorough``.
    """
    seen = {"train": look(streams, False), "eval": look(streams, True)}
    sources: dict[str, Sequence[str]] = {"train": TRAIN_SOURCES, "eval": EVAL_SOURCES}
    moves = [bool(m) for s in streams for k, m in zip(s.kinds, moved(s), strict=True) if k == FORWARD]
    if moves and not any(moves):
        # Where no forward moves the state, before and after it are the same. (One without gradient alone shows nothing
        # of what the others do.)
        sources["train"] = [name for name in TRAIN_SOURCES if name != "running-after"]
    facets: dict[str, Facet] = {}
    standing: dict[str, list[tuple[str, str]]] = {}
    for phase, view in seen.items():
        if not np.isfinite(view.before[0] + view.before[1]).any():
            sources[phase] = [name for name in sources[phase] if name in ("batch", "none")]
        facets[f"{phase}_normaliser"], standing[phase] = measure_source(view, sources[phase], phase, thorough)
    if sources["train"] == ["batch", "none"] and all(sum(k == FORWARD for k in s.kinds) < 2 for s in streams):
        facets["train_normaliser"] = unseen_state(facets["train_normaliser"])
    found, span = measure_eps(streams, seen, standing)
    facets.update(found)
    facets["blend_weight"] = measure_blend(seen, facets)
    return facets, span


def unseen_state(found: Facet) -> Facet:
    """What a first batch is normalised with where no state is seen: an average that it replaces is the batch's too."""
    if found.value != "batch":
        return found
    text = "no running statistics are seen, and after a first batch they may be that batch's"
    return replace(found, value=None, identifiable=False, reason=text, standing=("batch", "running-after"))


def measure_source(
    seen: Seen, sources: Sequence[str], phase: str, thorough: bool
) -> tuple[Facet, list[tuple[str, str]]]:
    """The source of one phase and the (source, placement) pairs that stand at MARGIN bounds."""
    pairs = [(s, p) for s in sources for p in PLACEMENTS]
    if not seen.m.size:
        text = f"no {phase} forward whose output shows what it was normalised with"
        return Facet(None, identifiable=False, reason=text), []
    stands = [pair for pair in pairs if eps_span(seen, *pair, 1.0) != NOTHING]
    remain = [pair for pair in pairs if eps_span(seen, *pair, MARGIN) != NOTHING]
    if not stands:
        return Facet(
            None,
            identifiable=False,
            reason="neither batch nor running statistics, nor a blend, give this output",
        ), []
    names = list(dict.fromkeys(source for source, _ in remain))
    others = [name for name in sources if name not in (stands[0][0], "blend")] if thorough else []
    scored = sorted((source_residual(seen, name), name) for name in others)
    best = source_residual(seen, stands[0][0])
    if not names:
        return Facet(None, identifiable=False, reason="no source gives this output beyond doubt"), []
    if len(names) > 1:
        text = " and ".join(names) + " give this output equally well"
        other = source_residual(seen, names[1])
        return Facet(
            value=None,
            identifiable=False,
            residual=best,
            runner_up=names[1],
            runner_up_residual=other,
            reason=text,
            standing=tuple(names),
        ), remain
    return Facet(
        value=names[0],
        identifiable=True,
        residual=best,
        runner_up=scored[0][1] if scored else "",
        runner_up_residual=scored[0][0] if scored else math.nan,
    ), remain


def source_residual(seen: Seen, source: str) -> float:
    """Largest |m - mean of the source| in units of 1/r, the deviation that normalised."""
    if source == "none":
        return float(np.max(np.abs(seen.m * seen.r)))
    share = 0.0
    if source == "blend":
        low, high = blend_weight(seen, 1.0)
        share = 0.5 * (low + high) if math.isfinite(low + high) else 0.0
    return float(np.max(np.abs((seen.m - candidates(seen, source, share)[0]) * seen.r)))


def measure_eps(
    streams: Sequence[Stream], seen: Mapping[str, Seen], standing: Mapping[str, Sequence[tuple[str, str]]]
) -> tuple[dict[str, Facet], Span]:
    """eps and its placement: one number for the train and the eval forwards together; and its interval."""
    spans: dict[str, Span] = {}
    spread = {placement: union_meet(seen, standing, placement, MARGIN) for placement in PLACEMENTS}
    for placement in PLACEMENTS:
        if union_meet(seen, standing, placement, 1.0) != NOTHING:
            spans[placement] = spread[placement]
    if not spans or all(span == EVERYTHING for span in spans.values()):
        text = "no forward was normalised with a variance that is known here"
        nothing = Facet(None, identifiable=False, reason=text)
        return {"eps": nothing, "eps_placement": nothing}, EVERYTHING
    remain = [placement for placement in PLACEMENTS if spread[placement] != NOTHING]
    best = next(iter(spans))
    if len(remain) == 1:
        place = Facet(
            value=best,
            identifiable=True,
            residual=width(spans[best]),
            runner_up="outside" if best == "inside" else "inside",
        )
    else:
        place = Facet(
            None,
            False,
            width(spans[best]),
            reason="both placements fit: eps is too small against these variances",
            standing=tuple(remain),
        )
    lo, hi = max(0.0, min(spread[p][0] for p in remain)), max(spread[p][1] for p in remain)
    if len(remain) == 1 and known(lo, hi):
        return {"eps": number(lo, hi, width((lo, hi)), streams[0].layer.eps), "eps_placement": place}, (
            lo,
            hi,
        )
    text = f"eps is only known to lie in {lo:.3g} … {hi:.3g}"
    return {"eps": Facet(None, False, width((lo, hi)), reason=text, standing=(lo, hi)), "eps_placement": place}, (
        lo,
        hi,
    )


def width(span: Span) -> float:
    """Half the width of an interval against its middle."""
    lo, hi = max(0.0, span[0]), span[1]
    return (hi - lo) / (hi + lo) if math.isfinite(hi) and hi + lo > 0 else math.nan


def union_meet(
    seen: Mapping[str, Seen], standing: Mapping[str, Sequence[tuple[str, str]]], placement: str, scale: float
) -> Span:
    """Per phase the union over standing sources, then the intersection over phases."""
    low, high = EVERYTHING
    for phase, pairs in standing.items():
        spans = [eps_span(seen[phase], source, where, scale) for source, where in pairs if where == placement]
        spans = [span for span in spans if span != NOTHING]
        if not pairs:
            continue
        if not spans:
            return NOTHING
        low, high = max(low, min(s[0] for s in spans)), min(high, max(s[1] for s in spans))
    return (low, high) if low <= high else NOTHING


def measure_blend(seen: Mapping[str, Seen], facets: Mapping[str, Facet]) -> Facet:
    """The batch's weight in a blend; not identifiable (and not needed) where nothing blends."""
    spans = [
        blend_weight(seen[phase], MARGIN)
        for phase in ("train", "eval")
        if facets[f"{phase}_normaliser"].value == "blend"
    ]
    if not spans:
        return Facet(None, identifiable=False, reason="nothing is normalised with a blend")
    lo, hi = max(s[0] for s in spans), min(s[1] for s in spans)
    if not known(lo, hi):
        return Facet(None, identifiable=False, reason="train and eval blend with different weights")
    return number(lo, hi, width((lo, hi)))
