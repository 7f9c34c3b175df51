"""What a layer of the user's got and gave, value by value, and the state around each forward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.diagnosis.anatomy.groups import Group, Moments, moments
from bncheck.diagnosis.fit.stream import BACKWARD, EVAL, FORWARD, NO_GRAD, Stream, read_stream
from bncheck.scenario import DEFAULT_BATCH_WEIGHT, DEFAULT_EPS, Case, Layer
from bncheck.trace import Array, Trace

# Roundings of y = γ·(x − m)·r + β, however it is arranged, and of an update of a running statistic.
OUTPUT_ROUNDINGS, STATE_ROUNDINGS = 8.0, 16.0


@dataclass(frozen=True)
class Forward:
    """One forward. ``x`` and ``y`` are (N, K, P) float64: samples, the channels that were kept, positions; gamma, beta
    and the states before and after it (K,). ``dy``: of the backward that goes through it, None where that is unknown.
    """

    event: int
    training: bool
    x: Array
    y: Array
    gamma: Array
    beta: Array
    before: tuple[Array, Array]
    after: tuple[Array, Array]
    dy: Array | None = None
    graded: bool = True  # whether gradients were on: a training forward under no_grad is one without
    width: int = 1  # positions of the last axis, of which P is a multiple
    kept: dict[Group, Moments] = field(default_factory=dict, compare=False, repr=False)  # the moments asked for last

    @property
    def affine(self) -> tuple[Array, Array]:
        """gamma and beta, broadcast to x; they may be (N, K), one of each sample (``domains.py``)."""
        gamma, beta = (part[None] if part.ndim == 1 else part for part in (self.gamma, self.beta))
        return gamma[:, :, None], beta[:, :, None]


def moments_of(group: Group, forward: Forward) -> Moments:
    """Those of a forward's input; asked for again and again of one group, and not kept beyond that."""
    if group not in forward.kept:
        forward.kept.clear()
        forward.kept[group] = moments(group, forward.x)
    return forward.kept[group]


@dataclass(frozen=True)
class Life:
    """All forwards of one layer. ``u``: roundoff of outputs and sums, and of what is held."""

    layer: Layer
    stream: Stream
    forwards: tuple[Forward, ...]
    u: float
    u_state: float
    smallest: float
    eps: float
    weight: float
    tracked: bool
    divisor: str = "n-1"  # of the variance that the framework's own layer averages

    @property
    def by_gradients(self) -> Life:
        """The same forwards, as a layer sees them that takes those with gradients for its training."""
        return replace(self, forwards=tuple(replace(one, training=one.graded) for one in self.forwards))

    def of(self, training: bool) -> tuple[Forward, ...]:
        return tuple(forward for forward in self.forwards if forward.training == training)


def lives_of(case: Case, trace: Trace, divisor: str = "n-1") -> Iterator[Life]:
    """The layers whose values were kept in every forward, with all channels and nothing but finite numbers."""
    for layer in case.network.layers:
        if layer.type != "batch_norm" or trace.get(layer.name, "n") is None:
            continue
        stream = read_stream(case, trace, layer)
        forwards = read_forwards(trace, stream) if stream is not None else ()
        if stream is None or not forwards:
            continue
        held = stream.eps_held
        asked = DEFAULT_EPS if layer.eps is None else layer.eps
        yield Life(
            layer=layer,
            stream=stream,
            forwards=forwards,
            u=max(stream.output_roundoff, stream.moment_roundoff),
            u_state=stream.roundoff,
            smallest=stream.smallest,
            eps=held if math.isfinite(held) and layer.eps is None else asked,
            weight=DEFAULT_BATCH_WEIGHT if layer.batch_weight is None else layer.batch_weight,
            tracked=bool(np.isfinite(stream.mean).all() and np.isfinite(stream.var).all()),
            divisor=divisor,
        )


def read_forwards(trace: Trace, stream: Stream) -> tuple[Forward, ...]:
    """() where some forward was not kept whole: what a rule does elsewhere cannot be told from the others. Eval may
    make NaN of some channels, as the root of a mean does that somebody took for a variance."""
    found = []
    channels = stream.mean.shape[1]
    for event, kind in enumerate(stream.kinds):
        if stream.n[event] < 0:
            continue
        words = ("given", "gave", "upstream")
        (x, width), (y, _), (dy, _) = (values(trace, word, stream.layer.name, event) for word in words)
        if x is None or y is None or x.shape != y.shape or x.shape[1] != channels or stream.n[event] < 2:
            return ()
        if kind not in (FORWARD, NO_GRAD, EVAL) or not (np.isfinite(x).all() and told(y, kind == EVAL)):
            return ()
        found.append(
            Forward(
                event=event,
                training=kind != EVAL,
                x=x,
                y=y,
                gamma=stream.gamma[event],
                beta=stream.beta[event],
                before=(stream.mean[event], stream.var[event]),
                after=(stream.mean[event + 1], stream.var[event + 1]),
                dy=dy if dy is not None and dy.shape == y.shape else None,
                graded=kind == FORWARD,
                width=width,
            )
        )
    return tuple(found)


def told(y: Array, evaluating: bool) -> bool:
    """Whether outputs are finite, or in eval at least some are and no other is infinite."""
    finite = np.isfinite(y)
    return bool(finite.all()) or (evaluating and bool(finite.any()) and not np.isinf(y).any())


def values(trace: Trace, word: str, layer: str, event: int) -> tuple[Array | None, int]:
    """((N, C, P) of what was kept of a forward, positions of its last axis)."""
    found = trace.arrays.get(f"{word}/{layer}/{event}")
    if found is None or found.ndim < 2 or found.dtype.kind not in "fiu" or not found.size:
        return None, 1
    width = found.shape[-1] if found.ndim > 2 else 1
    return np.asarray(found, dtype=np.float64).reshape(*found.shape[:2], -1), width


def moved_by_backward(stream: Stream) -> bool:
    """Whether anything but a training forward moves the statistics: what went in is then not one forward's values."""
    return any(kind in (BACKWARD, EVAL) and moves for kind, moves in zip(stream.kinds, stream.moved, strict=True))
