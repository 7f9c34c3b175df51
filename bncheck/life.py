"""What normalising layers hold and live through in a user's program: the words of ``check``, ``diff`` and
``watch``. Pure data; no framework, no file.

A **holding** is what the layers of one thing hold at one moment: a checkpoint, a model as it was handed over. A
**life** is what a recorder saw of one process: each layer's forwards, and what happened between them. Rules take
either (``check_holding``, ``check_life``), as they take cells and pairs of ``run``.

A forward that was kept whole is a **moment**. ``LayerLife.moments`` holds them as arrays (``K`` moments, ``C``
channels), in order; names are those of :mod:`bncheck.trace` where it has the quantity:

============================  =======  ==========================================================================
``index``                     (K,)     int64: forwards of normalising layers in this process before it (all layers)
``call``                      (K,)     int64: number of the call of an outermost module that it belongs to
``step``                      (K,)     int64: steps of an optimiser before it
``training``                  (K,)     int8: the layer's own flag; -1 it holds none
``in_backward``               (K,)     int8: 1 if it ran inside a backward (recomputation)
``gradients``                 (K,)     int8: 1 if gradients were recorded
``n``                         (K,)     int64 values per channel that went in
``samples``                   (K,)     int64 length of the batch axis
``input_mean``, ``_var``      (K, C)   float64 mean and biased variance of the input
``input_bad``, ``output_bad``  (K,)    int64 count of NaN and Inf
``mean_before``, ``_after``   (K, C)   running mean before and after the forward, in its own dtype (bfloat16 widened)
``var_before``, ``_after``    (K, C)   running variance likewise
``counter_before``, ``_after``  (K,)   float64; NaN where it has no counter
``gamma``, ``beta``           (K, C)   as held at the forward; absent where the layer has none
``eps``, ``momentum``         (K,)     float64 as held, the framework's own word; NaN where it holds none
``used_mean``, ``used_invstd``  (K, C)  what the output reveals: y = gamma·(x − m)·r + beta solved for m and r; NaN
                                       where x does not vary enough to tell
``used_residual``             (K,)     largest |y − fit| over the largest |y − beta|; NaN likewise
``output_scale``              (K,)     float64 standard deviation of the layer's output, all channels together
============================  =======  ==========================================================================

A quantity that a layer does not have has no array. Forwards that were not kept are counted in its **spans**: runs of
forwards that are alike in mode, place and size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

# What happens between forwards, and what its ``detail`` says.
HAPPENINGS: Mapping[str, str] = {
    "train": "train() or train(True) was called on a module (module)",
    "eval": "eval() or train(False) was called on a module (module)",
    "load": "state was loaded (module, missing, unexpected, misshaped: keys of normalising layers alone)",
    "save": "state was saved or read out (module)",
    "copy": "a module was copied (module)",
    "average": "averaged weights were written into a copy (module; buffers: whether statistics are averaged, too)",
    "export": "a module was exported, traced or compiled (module, by)",
    "convert": "a layer was put in another's place, or changed its class or dtype (was, became)",
    "requires_grad": "gamma or beta was frozen or thawed (layers, value; flag: the layer's own, where it says less)",
    "jump": "running statistics changed although no forward of the layer did it (quantity, largest)",
    "nonfinite": "the first NaN or Inf of a layer (in: input, state or output; born: true if the input was finite)",
    "refused": "a layer refused a batch of training (n: values per channel)",
    "phase": "a part of the program with a name of its own began (name)",
    "end": "the program ended (code; absent where it was killed)",
}


@dataclass(frozen=True, slots=True)
class Where:
    """A line of the user's code; ``text`` is the line itself, where it could be had."""

    file: str
    line: int
    function: str = ""
    text: str = ""

    @property
    def label(self) -> str:
        name = self.file.replace("\\", "/").rpartition("/")[2]
        return f"{name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Held:
    """What one layer holds; None where it has no such thing, or the file does not say. Arrays are (C,) as stored,
    ``shapes`` their shapes as they were (``(1, C, 1, 1)``), ``dtypes`` the real dtypes where widened."""

    layer: str
    running_mean: NDArray[Any] | None = None
    running_var: NDArray[Any] | None = None
    counter: float | None = None
    gamma: NDArray[Any] | None = None
    beta: NDArray[Any] | None = None
    eps: float | None = None
    momentum: float | None = None
    training: bool | None = None
    weighed: bool = True  # False: a layer of the user's that has no momentum, and so says nothing by None
    dtypes: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)  # quantity → the thing's own name for it
    kind: str = ""  # its class, where it is a model's


@dataclass(frozen=True)
class Holding:
    """The normalising layers of one thing at one moment. ``framework`` says whose words and start values they are
    (``torch``, ``keras``, ``mxnet``, ``paddle``, ``flax``, ``onnx``; "" where the file does not tell), ``format`` the
    kind of file or "model". ``others`` are the keys of everything else, with shapes."""

    name: str
    framework: str
    format: str
    layers: tuple[Held, ...]
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """Forwards of one layer, one after the other, that were alike in mode, place and gradients; ``n`` from low to
    high. ``moved`` counts those in which the running statistics changed, where that was looked at (None: it was not).
    ``ever`` steps hold more than one of them: ``most_per_step`` is the largest number within one step."""

    first_index: int
    last_index: int
    first_step: int
    last_step: int
    forwards: int
    training: bool | None
    in_backward: bool = False
    gradients: bool = True
    n: tuple[int, int] = (-1, -1)
    input_dtype: str = ""
    moved: int | None = None
    most_per_step: int = 1
    called_from: Where | None = None


@dataclass(frozen=True)
class LayerLife:
    """What one layer lived through. ``name`` is its path in the user's model where one is known, else its class and
    number; ``kind`` its class; ``registered`` False if the model that runs it does not reach it (None: not known);
    ``names`` every path that leads to it (a layer at two places has two)."""

    name: str
    kind: str
    channels: int
    moments: Mapping[str, NDArray[Any]]
    spans: tuple[Span, ...] = ()
    tracks: bool = True
    own: bool = False  # no class of the framework
    registered: bool | None = None
    names: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    trainable: bool | None = None  # gamma and beta get gradients
    made_at: Where | None = None
    device: str = ""  # where it computes, in its framework's word
    traced: bool = False  # it runs in the mode in which its model was traced, whatever train() and eval() say

    def get(self, quantity: str) -> NDArray[Any] | None:
        return self.moments.get(quantity)

    @property
    def forwards(self) -> int:
        return sum(span.forwards for span in self.spans)


@dataclass(frozen=True, slots=True)
class Happening:
    """Something between two forwards. ``index`` is the number of forwards before it, ``step`` of optimiser steps;
    ``layers`` the normalising layers that it concerns (empty: all, or none in particular)."""

    what: str
    index: int
    step: int
    layers: tuple[str, ...] = ()
    where: Where | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Life:
    """What a recorder saw of one process. ``program`` is what a reader knows it by (``train.py``); ``left_out`` counts
    forwards of which no moment was kept; ``remarks`` say what could not be seen, in sentences."""

    program: str
    framework: str
    version: str
    layers: tuple[LayerLife, ...]
    happenings: tuple[Happening, ...] = ()
    steps: int = 0
    forwards: int = 0
    left_out: int = 0
    rank: int = 0
    world: int = 1
    pid: int = 0
    command: tuple[str, ...] = ()
    python: str = ""  # its version
    code: int | None = None  # exit code; None: it did not end by itself
    remarks: tuple[str, ...] = ()
    # What rules have worked out of this life: each layer is measured once, not once for every rule.
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, question: str, work: Callable[[Life], Any]) -> Any:
        if question not in self.known:
            self.known[question] = work(self)
        return self.known[question]

    def layer(self, name: str) -> LayerLife:
        return next(layer for layer in self.layers if layer.name == name)
