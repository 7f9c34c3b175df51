"""The moments of one layer as float64 arrays of the shapes that :mod:`bncheck.life` promises, and their rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.rules.roundoff import UNIT_ROUNDOFF, unit
from bncheck.life import LayerLife
from bncheck.trace import Array

PER_MOMENT = ("index", "step", "training", "n", "samples", "input_bad", "output_bad", "eps", "momentum")
PER_CHANNEL = ("input_mean", "input_var")
STATES = ("mean_before", "mean_after", "var_before", "var_after")


@dataclass(frozen=True)
class Record:
    """``K`` moments of ``C`` channels, in order. States and parameters that a layer does not have are NaN."""

    life: LayerLife
    index: Array  # (K,) int64
    step: Array
    training: Array  # (K,) bool
    in_backward: Array  # (K,) bool
    n: Array  # (K,) float64
    samples: Array
    sound: Array  # (K,) bool: two or more finite values per channel went in, and the mode is known
    mean: Array  # (K, C) of the input
    var: Array
    m0: Array  # running mean and variance before and after
    v0: Array
    m1: Array
    v1: Array
    gamma: Array  # 1 and 0 where the layer has none
    beta: Array
    eps: Array  # (K,)
    momentum: Array  # (K,) NaN: held none
    counter_before: Array  # (K,) NaN: it has none
    counter: Array  # (K,) after
    gradients: Array  # (K,) bool: gradients were recorded
    used_mean: Array
    used_invstd: Array
    used_residual: Array  # (K,)
    u_state: float  # unit roundoff of the running statistics
    u_sums: float  # of the sums over a batch
    u_output: float  # of the output

    def __len__(self) -> int:
        return len(self.n)

    @property
    def tracked(self) -> Array:
        """(K,) bool: running statistics are held and finite before and after."""
        return np.asarray(np.isfinite(self.m0 + self.v0 + self.m1 + self.v1).all(axis=1))

    @property
    def moved(self) -> Array:
        """(K,) bool: the forward changed them, in any bit."""
        return np.asarray(((self.m0 != self.m1) | (self.v0 != self.v1)).any(axis=1))


def read(life: LayerLife) -> Record | None:
    """The record of a layer; None where it kept no moment whose input and mode are known, or its arrays do not fit."""
    n = numbers(life, "n", 1)
    mean, var = (numbers(life, name, 2) for name in PER_CHANNEL)
    if n is None or mean is None or var is None or not mean.size or mean.shape != var.shape or len(n) != len(mean):
        return None
    shape = mean.shape

    def flat(name: str, otherwise: float) -> Array:
        found = numbers(life, name, 1)
        return found if found is not None and len(found) == shape[0] else np.full(shape[0], otherwise)

    def table(name: str, otherwise: float = np.nan) -> Array:
        found = numbers(life, name, 2)
        return found if found is not None and found.shape == shape else np.full(shape, otherwise)

    training = flat("training", -1)
    finite = np.isfinite(mean + var).all(axis=1)
    output, state = finer(life)
    return Record(
        life=life,
        index=flat("index", 0).astype(np.int64),
        step=flat("step", 0).astype(np.int64),
        training=training == 1,
        in_backward=flat("in_backward", 0) == 1,
        n=n,
        samples=flat("samples", -1),
        sound=finite & (n >= 2) & (training >= 0) & (flat("input_bad", 0) == 0),
        mean=mean,
        var=var,
        m0=table("mean_before"),
        v0=table("var_before"),
        m1=table("mean_after"),
        v1=table("var_after"),
        gamma=table("gamma", 1.0),
        beta=table("beta", 0.0),
        eps=flat("eps", np.nan),
        momentum=flat("momentum", np.nan),
        counter_before=flat("counter_before", np.nan),
        counter=flat("counter_after", np.nan),
        gradients=flat("gradients", 0) == 1,
        used_mean=table("used_mean"),
        used_invstd=table("used_invstd"),
        used_residual=flat("used_residual", np.nan),
        u_state=unit(state),
        # Kernels sum half precision in float32.
        u_sums=unit(state if state in ("float32", "float64") else "float32"),
        u_output=unit(output),
    )


def numbers(life: LayerLife, name: str, dimensions: int) -> Array | None:
    found = life.get(name)
    if found is None or found.ndim != dimensions or found.dtype.kind not in "fiub":
        return None
    return np.asarray(found, dtype=np.float64)


def finer(life: LayerLife) -> tuple[str, str]:
    """(dtype of the output, of the running statistics): the coarsest seen, float32 where nothing is said."""
    inputs = [span.input_dtype for span in life.spans if span.input_dtype in UNIT_ROUNDOFF]
    held = [life.dtypes.get(name, "") for name in ("running_mean", "running_var", "mean_before", "var_before")]
    states = [name for name in held if name in UNIT_ROUNDOFF]
    for name in STATES:
        array = life.get(name)
        states += [str(array.dtype)] if array is not None and str(array.dtype) in ("float32", "float16") else []
    state = max(states, key=unit, default="float32")
    return max([*inputs, state], key=unit), state
