"""Measure a target's convention from its traces: every facet, with the reason where the traces leave it open."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bncheck.convention import FACETS, Convention, Facet
from bncheck.diagnosis.fit.average import Averages, measure_average
from bncheck.diagnosis.fit.counting import measure_counter, measure_initial, split_weight
from bncheck.diagnosis.fit.interval import number
from bncheck.diagnosis.fit.normaliser import measure_normaliser
from bncheck.diagnosis.fit.small_batch import died_on_empty, measure_empty, measure_single
from bncheck.diagnosis.fit.stream import Stream, numbers, streams_of
from bncheck.scenario import DEFAULT_EPS, Case, Layer
from bncheck.trace import Trace

Observation = tuple[Case, Trace | None, str]  # a cell: its case, its trace if it left one, its outcome
# Facets that a case sets or that its own steps show; a case's own measurement beats the probe's for all of them.
ABSENT = Facet(None, identifiable=False, reason="no BatchNorm layer with running statistics was recorded")


def measure(traces: Iterable[Observation], target: str = "", path: str = "") -> Convention:
    """The rules of one target on one layer path; pure.

    ``traces`` are (case, trace or None, outcome) of the probe cells. Layers that ask for a weight of their own and
    those that keep the framework's default (None) are measured apart, likewise for eps; layers that ask for a
    cumulative average say nothing about the default kind. Values:

    * ``batch_weight`` is the weight of the new batch per update; where no counter tells how many updates an event
      makes, ``updates_per_event`` is not identifiable and ``batch_weight`` is the weight per *event*;
    * ``update_on`` "never" also covers a weight of zero: nothing tells them apart;
    * residuals are relative: see ``Rows.residual`` (steps), ``source_residual`` (normalisers, in deviations) and,
      for numbers, half the width of the interval against the value.
    """
    observed = list(traces)
    streams = [stream for case, trace, _ in observed for stream in streams_of(case, trace)]
    with np.errstate(all="ignore"):
        facets = measure_streams(streams, {case.id: case for case, _, _ in observed}, died_on_empty(observed))
    return Convention(
        target=target,
        path=path,
        facets={name: facets.get(name, ABSENT) for name in FACETS},
        framework_word=words(streams),
    )


def measure_streams(
    streams: Sequence[Stream], cases: dict[str, Case], crashed: bool, thorough: bool = True
) -> dict[str, Facet]:
    asked = [s for s in streams if s.layer.averaging == "exponential"] or list(streams)
    # The largest eps leaves the clearest mark.
    eps_asked = max((s.layer.eps for s in asked if s.layer.eps is not None), default=None)
    with_eps = [s for s in asked if s.layer.eps == eps_asked]
    facets, span = measure_normaliser(with_eps, thorough)
    eps, eps_error = known_eps(facets["eps"], span, with_eps)
    main = equal_weights(asked)
    averages = measure_average(main, eps, eps_error, thorough)
    facets.update(averages.facets)
    counter, counted = measure_counter(main, averages)
    facets.update(counter)
    facets.update(split_weight(main, averages, counted))
    update_on = facets["update_on"].value
    facets.update(measure_single(main, cases, averages, update_on, (eps, eps_error)))
    facets["empty_batch"] = measure_empty(main, cases, averages, update_on, crashed)
    facets.update(measure_initial(streams))
    facets.update(measure_defaults(asked))
    return facets


def equal_weights(streams: Sequence[Stream]) -> list[Stream]:
    """The streams that ask for the most common weight; those that ask for none when nobody does."""
    groups: dict[float | None, list[Stream]] = {}
    for stream in streams:
        groups.setdefault(stream.layer.batch_weight, []).append(stream)
    return max(
        groups.items(),
        key=lambda item: (item[0] is not None, sum(s.events for s in item[1])),
        default=(None, []),
    )[1]


def known_eps(facet: Facet, span: tuple[float, float], streams: Sequence[Stream]) -> tuple[float, float]:
    """(eps, how far it may be off): as measured; else as held, with all of the measured interval; where neither an
    output nor the layer says anything, the one asked for may be off by whatever it likes."""
    if facet.identifiable and isinstance(facet.value, float):
        return facet.value, facet.uncertainty
    held = next((s.eps_held for s in streams if math.isfinite(s.eps_held)), None)
    guess = held
    if guess is None:
        guess = next((s.layer.eps for s in streams if s.layer.eps is not None), DEFAULT_EPS)
    guess = min(max(guess, span[0]), span[1])
    # Where no output reveals any (a layer that whitens) it is the one that the layer holds, give or take all of it.
    most = math.inf if held is None else 2 * guess
    highest = span[1] if math.isfinite(span[1]) else most
    return guess, max(highest - guess, guess - max(span[0], 0.0))


def measure_defaults(streams: Sequence[Stream]) -> dict[str, Facet]:
    """The weight and eps of layers for which nobody asked anything."""
    found = {}
    for name, facet, free in (
        ("default_batch_weight", "batch_weight", [s for s in streams if s.layer.batch_weight is None]),
        ("default_eps", "eps", [s for s in streams if s.layer.eps is None]),
    ):
        if not free:
            found[name] = Facet(None, identifiable=False, reason=f"every case sets its own {facet}")
            continue
        normaliser, span = measure_normaliser([s for s in free if s.layer.eps is None] or free)
        if facet == "eps":
            found[name] = normaliser["eps"]
        else:
            averages = measure_average(free, *known_eps(normaliser["eps"], span, free))
            _, counted = measure_counter(free, averages)
            found[name] = split_weight(free, averages, counted)["batch_weight"]
    return found


def words(streams: Sequence[Stream]) -> Mapping[str, str]:
    """What the layer itself calls its weight, as it holds it."""
    for stream in streams:
        momentum = stream.trace.get(stream.layer.name, "momentum")
        if (
            stream.layer.batch_weight is not None
            and momentum is not None
            and numbers(momentum, 1)
            and len(momentum)
            and math.isfinite(momentum[0])
        ):
            return {"batch_weight": f"momentum={momentum[0]:g}"}
    return {}


def settle(case: Case, trace: Trace | None, convention: Convention | None, layer: str = "") -> Convention:
    """The convention as it holds in this case: what the case's own steps identify, else what the probes measured.

    A case may set another weight or eps than the probes, hand a framework's own keywords through or take another
    kernel path. What it cannot identify itself keeps the probes' value, with the reason why not here.
    A weight that the probes found to be the one asked for (or its complement) is transferred as that rule.
    """
    base = convention or Convention("")
    if base.settled_on == case.id:
        return base
    own = [s for s in streams_of(case, trace) if layer in ("", s.layer.name)]
    with np.errstate(all="ignore"):
        local = measure_streams(own, {case.id: case}, False, thorough=False) if own else {}
        local, base = one_unit(local, base)
    facets = {}
    for name in FACETS:
        here, there = local.get(name, ABSENT), base.facets.get(name, ABSENT)
        if here.identifiable or not there.identifiable:
            facets[name] = here
        else:
            moved = transfer(name, there, base, own[0].layer) if own else there
            facets[name] = moved.because(here.reason)
    return replace(base, facets=facets, settled_on=case.id)


def one_unit(local: dict[str, Facet], base: Convention) -> tuple[dict[str, Facet], Convention]:
    """Both weights per update, where either side knows how many updates an event makes: a counter may be held in the
    probes and not here, or the other way round, and a weight without one is that of the whole event."""
    name = "updates_per_event"
    here, there = local.get(name, ABSENT), base.facets.get(name, ABSENT)
    if here.identifiable == there.identifiable:
        return local, base
    times = here.value if here.identifiable else there.value
    if not isinstance(times, int) or times < 2:
        return local, base
    if there.identifiable:
        return {**local, "batch_weight": per_update(local.get("batch_weight", ABSENT), times)}, base
    probed = per_update(base.facets.get("batch_weight", ABSENT), times)
    return local, replace(base, facets={**base.facets, "batch_weight": probed})


def per_update(weight: Facet, times: int) -> Facet:
    """The weight of one of several equal updates that together have a measured weight."""
    if not weight.identifiable or not isinstance(weight.value, float):
        return weight
    edges = (weight.value - weight.uncertainty, weight.value + weight.uncertainty)
    lo, hi = (1.0 - (1.0 - min(max(edge, 0.0), 1.0)) ** (1.0 / times) for edge in edges)
    return number(lo, hi, weight.residual, weight.asked)


def transfer(name: str, facet: Facet, probed: Convention, layer: Layer) -> Facet:
    """A number that followed what the probe's layer asked for (or its complement) follows what this layer asks for."""
    if name not in ("batch_weight", "eps") or facet.asked is None:
        return facet
    asks = layer.batch_weight if name == "batch_weight" else layer.eps
    if asks is None:
        return probed.facets.get(f"default_{name}", facet)
    if facet.value == facet.asked:
        return replace(facet, value=asks, asked=asks)
    if name == "batch_weight" and facet.value == 1.0 - facet.asked:
        return replace(facet, value=1.0 - asks, asked=asks)
    return facet


__all__ = ["Averages", "Observation", "measure", "settle"]
