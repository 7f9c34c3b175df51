"""How large an error correct arithmetic may leave in a running value or in what normalises, by dtype, n and length.

One update adds at most 3 roundings of the value (two products, one sum) and carries on keep·(error so far), keep <= 1.
T of them add up to at most 3·T roundings; as they are independent, to more than 6·sqrt(T) of them only with probability
3e-8 (the bound of stream.SUM_LAMBDA). A batch's moments enter as a weighted mean with weights that add up to at most
1, so their error adds at most the largest of theirs. What normalises has the error of its source, plus what the
rounding of y puts into the least squares that reveal it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bncheck.diagnosis.fit.normaliser import OUTPUT_ROUNDINGS, revealed_error
from bncheck.diagnosis.fit.rows import averaged
from bncheck.diagnosis.fit.stream import SUM_LAMBDA, Stream, read_stream
from bncheck.scenario import DEFAULT_EPS, Case
from bncheck.trace import Array, Trace

UPDATE_ROUNDINGS = 3.0


def rounding_bound(case: Case, trace: Trace, layer: str, quantity: str) -> float:
    """The largest rounding error that ``quantity`` of a layer may have; 0 when it was not recorded."""
    spec = case.network.layer(layer)
    stream = read_stream(case, trace, spec) if spec is not None else None
    if stream is None:
        return 0.0
    eps = DEFAULT_EPS if stream.layer.eps is None else stream.layer.eps
    with np.errstate(all="ignore"):
        found = bounds(stream, {"statistic": "variance", "variance_divisor": "n-1", "eps": eps})[quantity]
    return float(np.max(found, initial=0.0))


def bounds(stream: Stream, rules: Mapping[str, Any]) -> dict[str, Array]:
    """Bounds of all quantities of a layer under rules (statistic, variance_divisor, eps).

    (C,) of the states, the worst row of each channel; (T, C) of used_mean and used_invstd and (T, 2C) of the output
    proxy, 0 where an output reveals nothing.
    """
    _, mean_error, _, var_error = averaged(stream, rules["statistic"], rules["variance_divisor"], rules["eps"])
    updates = max(stream.events, 1)
    grown = UPDATE_ROUNDINGS * min(updates, SUM_LAMBDA * np.sqrt(updates))
    found = {}
    for name, state, error in (
        ("running_mean", stream.mean, mean_error),
        ("running_var", stream.var, var_error),
    ):
        found[name] = grown * (stream.roundoff * largest(state) + stream.smallest) + largest(error[stream.n > 1])
    return {**found, **output_bounds(stream, found, float(rules["eps"]))}


def largest(values: Array) -> Array:
    """(C,) the largest finite |value| of each channel."""
    return np.asarray(np.max(np.where(np.isfinite(values), np.abs(values), 0.0), axis=0, initial=0.0))


def output_bounds(stream: Stream, state: Mapping[str, Array], eps: float) -> dict[str, Array]:
    """Bounds of used_mean, used_invstd and the output proxy, row by row."""
    m, r = stream.used_mean, np.abs(stream.used_invstd)
    mean, var = stream.input_mean, stream.input_var
    gamma, beta = stream.gamma[:-1], stream.beta[:-1]
    unit = np.full_like(m, OUTPUT_ROUNDINGS * max(stream.output_roundoff, stream.moment_roundoff))
    m_error, r_error = revealed_error(m, r, mean, var, np.where(gamma == 0, 1.0, gamma), beta, unit)
    batch_m, batch_v = stream.moment_errors
    source_m = m_error + np.maximum(batch_m, state["running_mean"])
    # r = (v + eps)^-1/2, so r is off by r³/2 times the error of v; relative to r at most by all of it.
    source_r = r * np.minimum(r_error + 0.5 * r**2 * np.maximum(batch_v, state["running_var"]), 1.0)
    out = source_m * r + source_r * (np.abs(mean - m) + np.sqrt(var))
    revealed = np.isfinite(m) & np.isfinite(r) & (var > 0) & (r != 0)
    sides = {"used_mean": source_m, "used_invstd": source_r, "output": out}
    found = {name: np.where(revealed & np.isfinite(bound), bound, 0.0) for name, bound in sides.items()}
    return {**found, "output": np.concatenate([found["output"], found["output"]], axis=1)}
