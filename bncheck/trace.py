"""What a worker recorded in a cell, event by event, as arrays. Pure data and its reading; no framework.

Array names (``T`` events, ``C`` channels; states have ``T + 1`` rows, row 0 is the initial state and row
``t + 1`` the state after event ``t``, also when that event raised):

==========================  ==========  =================================================================
``<layer>/running_mean``    (T+1, C)    as held; the dtype is the buffer's own (bfloat16 is widened, see dtypes)
``<layer>/running_var``     (T+1, C)    likewise
``<layer>/running_covar``   (T+1, K)    covariances of a channel's parts, upper triangle row by row; own layers only
``<layer>/counter``         (T+1,)      float64, NaN where the layer has no counter
``<layer>/gamma``, ``beta`` (T+1, C)    affine parameters as held
``<layer>/training``        (T+1,)      int8: 1 training, 0 eval, -1 the layer holds no flag
``<layer>/momentum``        (T+1,)      float64, the framework's own word; NaN when it holds none
``<layer>/eps``             (T+1,)      float64, likewise
``<layer>/input_mean``      (T, C)      float64 mean of the layer's actual input; NaN rows: no forward
``<layer>/input_var``       (T, C)      float64 biased two-pass variance of it
``<layer>/n``               (T,)        int64 values per channel (-1: no forward)
``<layer>/input_bad``       (T,)        int64 count of NaN/Inf in the input
``<layer>/output_bad``      (T,)        int64 count of NaN/Inf in the layer's output
``<layer>/used_mean``       (T, C)      the mean that the output reveals: y = gamma·(x − m)·r + beta solved for m, r
``<layer>/used_invstd``     (T, C)      r of the same; NaN where x does not vary enough to tell
``<layer>/used_residual``   (T, C)      largest |y − fit| of that solution, per channel
``<layer>/grad_gamma``      (T, C)      float64; rows of backward events, NaN elsewhere
``<layer>/grad_beta``       (T, C)      likewise
``network_bad``             (T,)        int64 count of NaN/Inf in the network's output (-1: no forward)
``event_seconds``           (T,)        float64
``output/<t>``              any         network output of event ``t`` (dtype of the network), whole or sampled
``grad_input/<t>``          any         gradient by the network's input after backward event ``t``
``given/<layer>/<t>``       (N, C, …)   what a layer of the user's got in forward ``t``, channels second; of as many
                                        channels as fit (``worker/recorder.py``)
``gave/<layer>/<t>``        (N, C, …)   what it made of that
``upstream/<layer>/<t>``    (N, C, …)   dy of the backward of forward ``t``, where it is the network's last layer
``calls:<layer>:<what>``    (K, …)      of a layer of a whole network that a forward calls more than once, call by
                                        call: what stands above of a forward, ``event``, and the state around it
                                        (``running_mean_before``, ``running_mean_after``, …)
``ran:<layer>:calls``       (T,)        int64 how often a forward called a layer of a whole network (-1: not at all)
``ran:<layer>:trains``      (T,)        int64: 1 if it trained in the last of these calls, whatever flag it holds
``alone:<k>:<who>:<what>``  any         of a layer inside a whole network, played by itself (``own_side/alone.py``)
==========================  ==========  =================================================================

A quantity that a layer does not have (no running statistics, no affine) has no array.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STATES = ("running_mean", "running_var", "running_covar", "counter", "gamma", "beta")
STATISTICS = ("running_mean", "running_var")
GRADIENTS = ("grad_gamma", "grad_beta")
Place = tuple[str, str]  # (layer, quantity); the layer is "" for the network itself


@dataclass(frozen=True)
class EventRecord:
    """How one event went: ``ok``, ``raised``, ``skipped``, ``unsupported``, or ``failed`` (bncheck's own error, or that
    of a file that it was given: nothing is known of the event); error in the target's words.

    ``origin`` says whose error it is (``worker/blame.py``); runs of earlier versions do not say: it is "" there."""

    op: str
    status: str = "ok"
    error_type: str = ""
    error: str = ""
    seconds: float = 0.0
    origin: str = ""


@dataclass(frozen=True)
class Trace:
    """One cell's recording; array names are those of the module's table."""

    events: tuple[EventRecord, ...]
    arrays: Mapping[str, Array]
    dtypes: Mapping[str, str] = field(default_factory=dict)  # array name → real dtype where widened
    # What somebody has worked out of it, as of a cell (``evidence.CellView``).
    worked_out: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property  # rules ask for it in loops, and a network of 169 layers has 2,700 arrays
    def layers(self) -> tuple[str, ...]:
        """BatchNorm layers in network order."""
        return tuple(dict.fromkeys(name.split("/", 1)[0] for name in self.arrays if name.endswith("/n")))

    @cached_property
    def statuses(self) -> tuple[str, ...]:
        """How each event went."""
        return tuple(event.status for event in self.events)

    def get(self, layer: str, quantity: str) -> Array | None:
        return self.arrays.get(f"{layer}/{quantity}")

    def ran(self, layer: str, what: str, event: int) -> int:
        """``calls`` or ``trains`` of a layer of a whole network in one event; -1 where it is not known."""
        rows = self.arrays.get(f"ran:{layer}:{what}")
        fits = rows is not None and rows.shape == (len(self.events),) and rows.dtype.kind == "i"
        return int(rows[event]) if rows is not None and fits else -1

    def output(self, event: int) -> Array | None:
        return self.arrays.get(f"output/{event}")

    def dtype_of(self, name: str) -> str:
        """The dtype the target really holds ``name`` in (``bfloat16`` is stored widened to float32)."""
        return self.dtypes.get(name) or spelt(self.arrays[name].dtype)


@cache  # NumPy composes the name anew each time, and rules ask for it in loops
def spelt(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def unsound(trace: Trace) -> tuple[Place, ...]:
    """Where a trace holds NaN, Inf or a variance below zero: states, outputs of layers, and the network's.

    A state that is NaN throughout before any event is one that the layer does not hold, or not yet.
    """
    found: list[Place] = []
    for layer in trace.layers:
        for quantity in ("running_mean", "running_var", "running_covar", "gamma", "beta"):
            rows = trace.get(layer, quantity)
            if rows is None or not rows.size or rows.dtype.kind != "f" or np.isnan(rows[0]).all():
                continue
            if not np.isfinite(rows).all() or (quantity == "running_var" and bool((rows < 0).any())):
                found.append((layer, quantity))
        bad = trace.get(layer, "output_bad")
        if bad is not None and bool((bad > 0).any()):
            found.append((layer, "output"))
    network = trace.arrays.get("network_bad")
    if network is not None and bool((network > 0).any()):
        found.append(("", "output"))
    return tuple(found)
