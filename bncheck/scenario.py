"""What is tried: a scenario, its cases, their networks and programs, and what each event does.

Plain frozen data; no I/O, no framework.

A scenario file (``scenario_files``) is parsed into one :class:`Scenario`; its ``[matrix]`` is expanded
into concrete :class:`Case` s. ``scenario_files/inputs.py`` turns a case into arrays, the same bytes for every target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

# A target as scenarios, runs and users write it; all but the backend may be left out.
TARGET_NAME = re.compile(
    r"(?P<backend>[A-Za-z][A-Za-z0-9_.-]*)"
    r"(?:\[(?P<variant>[^\[\]]*)\])?"
    r"(?:==(?P<version>[^@\s]+))?"
    r"(?:@(?P<device>\S+))?"
)
Runs = Literal["", "network", "file", "copy"]
Reads = Literal["", "next", "last", "first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One word of programs and what every stage has to know of it. A new event is a row below, and a method of its
    name in each backend that has it; a backend without one says "unsupported", with the reason."""

    name: str
    says: str
    # Whether a target that lacks it plays another program from there on, so that nothing behind it is compared. One
    # without backward, flush or export goes on as before (onnxruntime has no backward, and updates in forward).
    counts: bool
    arguments: tuple[str, ...] = ()  # what a scenario may say beside its name
    runs: Runs = ""  # whose output on a batch it records: the network's (a forward), the exported file's, the copy's
    reads: Reads = ""  # which batch of its input it is given: the next one, the one that was read last, the first
    mode: Literal["train", "eval", "asked"] | None = None  # what it puts the network into first; None: as it is
    call: str = ""  # what the backend's forward(x, mode) is told; "": a method of the event's name
    records: bool = False  # it leaves a graph that a later backward goes back through
    # What it changes by design of what layers hold: "mode", "state" (the statistics); "copy": either, of the copy.
    changes: tuple[str, ...] = ()
    folder: bool = False  # its method is given a folder for files
    itself: bool = False  # it compares a target with itself, so that no second one is needed

    @property
    def forward(self) -> bool:
        return self.runs == "network"

    @property
    def compared(self) -> bool:
        """Whether its output is held against other targets'. A copy's is not: the reference makes one kind only."""
        return self.runs in ("network", "file")


def _forward(name: str, says: str, *, call: str, mode: Literal["train", "eval"] | None, records: bool = False) -> Op:
    return Op(
        name=name,
        says=says,
        counts=True,
        arguments=("input",),
        runs="network",
        reads="next",
        mode=mode,
        call=call,
        records=records,
        changes=(*(["mode"] if mode else []), *(["state"] if mode != "eval" else [])),
    )


OPS = (
    _forward(
        "train_forward", "the next batch through the network in training", call="train", mode="train", records=True
    ),
    _forward("eval_forward", "the next batch through the network in eval", call="eval", mode="eval"),
    _forward(
        "no_grad_forward", "the same in training, leaving no gradient to go back through", call="no_grad", mode="train"
    ),
    _forward(
        "checkpointed_forward", "the same in training; backward runs it once more", call="", mode="train", records=True
    ),
    _forward("forward", "the same with every layer in the mode it is in", call="as_is", mode=None, records=True),
    Op(
        name="backward",
        # When none was recorded, through the same forwards again: that is how F F B and F B B are told apart.
        says="through the sum of all forwards recorded since the last backward, or the same ones again",
        counts=False,
        changes=("state",),  # MXNet moves its statistics here
    ),
    Op(
        name="set_mode",
        says="`training = true` or `false`, for one `layer` or all",
        counts=True,
        arguments=("training", "layer"),
        mode="asked",
        changes=("mode",),
    ),
    Op(
        name="freeze",
        says="what the framework calls freezing (`requires_grad=False`, `trainable=False`), of one `layer` or all",
        counts=False,
        arguments=("layer",),
        changes=("mode",),  # Keras: inference from then on
    ),
    Op(name="flush", says="wait for asynchronous work, then read the state again", counts=False),
    Op(
        name="reload",
        says="save the state, build the network anew, load it; `drop` are states left out, as in old checkpoints",
        counts=False,
        arguments=("drop",),
        folder=True,
    ),
    Op(
        name="export_onnx",
        says="write the network as ONNX",
        counts=False,
        arguments=("exporter", "opset", "training", "keep"),
        reads="first",
        folder=True,
    ),
    Op(
        name="run_exported",
        says="the exported file on the batch that was read last",
        counts=False,
        arguments=("input",),
        runs="file",
        reads="last",
        folder=True,
    ),
    Op(
        name="draw_graph",
        says="the autograd graph behind each buffer (of one `layer`, or all) as a file",
        counts=False,
        arguments=("layer",),
        folder=True,
    ),
    Op(
        name="eval_in_batches",
        says="the first `samples` of a batch in eval, in batches of each of the `sizes`: how far apart, layer by layer",
        counts=False,
        arguments=("input", "sizes", "samples"),
        reads="first",
        mode="eval",
        changes=("mode",),
        itself=True,
    ),
    Op(
        name="apply",
        says="call a `function` of yours (`file.py:function`) with the network; if it returns one, that plays on",
        counts=True,
        arguments=("function", "input"),
        reads="last",
        changes=("mode", "state"),
        itself=True,
    ),
    Op(
        name="update_copy",
        says="make the copy (`network.copied`) anew, or average into it, as its kind says",
        counts=False,
        arguments=("input",),
        reads="last",
        changes=("copy",),
    ),
    Op(
        name="train_copy",
        says="the copy in training, on the batch that the network read last",
        counts=False,
        arguments=("input",),
        runs="copy",
        reads="last",
        changes=("copy",),
    ),
    Op(
        name="eval_copy",
        says="the copy in eval, on the batch that the network read last",
        counts=False,
        arguments=("input",),
        runs="copy",
        reads="last",
        changes=("copy",),
    ),
)
OP_NAMES = tuple(op.name for op in OPS)
FORWARD_OPS = tuple(op.name for op in OPS if op.forward)
RECORDING = tuple(op.name for op in OPS if op.records)
COMPARED = tuple(op.name for op in OPS if op.compared)
_OP_OF = {op.name: op for op in OPS}


def op_of(name: str) -> Op:
    """The row of an event. Of a word that a run folder brings from elsewhere nothing is known, nor held against it."""
    return _OP_OF.get(name) or Op(name=name, says="", counts=False, changes=("mode",))


TOLD = ("runs", "reads", "call", "records", "folder")  # columns of the table that workers ask


def describe_ops(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the worker has to know of the events that a program holds."""
    return {name: {column: getattr(op_of(name), column) for column in TOLD} for name in dict.fromkeys(names)}


# How network.copied is made: whole and apart, through a state dict (copied, or assigned as it is), as an exported
# program, or averaged (parameters only, as hand-written teachers do; torch's AveragedModel without and with buffers).
COPIES = ("deepcopy", "state_dict", "assign", "export", "ema_parameters", "averaged", "averaged_buffers")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerType:
    """A type of layer and what every stage has to know of it. A new one is a row below, and each backend that builds
    it; what makes other shapes than those named here has its rule in ``scenario_files/shapes.py`` as well."""

    name: str
    keys: tuple[str, ...] = ()  # of its table in a scenario, beside name, type and native
    options: tuple[str, ...] = ()  # more of them, which backends are given as they are written
    required: tuple[str, ...] = ()
    flattens: bool = False  # puts out (batch, features)
    keeps_shape: bool = False


_NORM_KEYS = ("batch_weight", "eps", "averaging", "affine", "track_running_stats", "initial")
LAYERS = (
    LayerType(name="batch_norm", keys=("channels", "axis", "same_as", *_NORM_KEYS), keeps_shape=True),
    LayerType(
        name="conv2d",
        keys=("channels", "axis"),
        options=("out_channels", "kernel", "stride", "padding", "bias"),
        required=("out_channels", "kernel"),
    ),
    LayerType(name="dense", keys=("channels",), options=("units", "bias"), required=("units",), flattens=True),
    LayerType(name="flatten", flattens=True),
    LayerType(name="relu", keeps_shape=True),
    LayerType(name="global_avg_pool", keys=("axis",), flattens=True),
    LayerType(name="custom", keys=("channels", "axis", *_NORM_KEYS)),
)
LAYER_TYPES = tuple(row.name for row in LAYERS)
_LAYER_OF = {row.name: row for row in LAYERS}


def layer_type_of(name: str) -> LayerType:
    """The row of a type. Of a word that a run folder brings from elsewhere nothing is known."""
    return _LAYER_OF.get(name) or LayerType(name=name)


# How a batch lies in memory: whole; axes stored in another order; every second value; some of more channels.
VIEWS = ("contiguous", "permuted", "strided", "sliced")
# What the reference plays where a custom layer stands: BatchNorm, or its parts whitened together.
ORACLES = ("batch_norm", "whitening")
FILLS = ("ones", "zeros", "constant", "normal", "uniform", "exact", "arange")
CONSTANT_FILLS = ("ones", "zeros", "constant")
DTYPES = ("float64", "float32", "float16", "bfloat16")

# The weight of the new batch and eps that bncheck sets on every target unless a scenario says otherwise,
# so that targets whose *defaults* differ are still compared on the same numbers.
DEFAULT_BATCH_WEIGHT = 0.1
DEFAULT_EPS = 1e-5


@dataclass(frozen=True)
class Layer:
    """One layer in neutral words.

    ``axis`` is the channel axis (1 = channels first, -1 = channels last). ``batch_weight`` and ``eps`` may be
    ``None``: the framework's own default is then kept (that is how defaults are measured).
    ``native`` maps a backend's name to keywords handed through untouched.
    """

    name: str
    type: str
    channels: int | None = None
    axis: int = 1
    batch_weight: float | None = DEFAULT_BATCH_WEIGHT
    eps: float | None = DEFAULT_EPS
    averaging: str = "exponential"  # or "cumulative" (torch's momentum=None)
    affine: bool = True
    track_running_stats: bool = True
    # Initial values, each a scalar or one number per channel. None: the framework's own initial value.
    initial: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    # conv2d: out_channels, kernel, stride, padding; dense: units; both: bias (uniform, or zeros).
    options: Mapping[str, Any] = field(default_factory=dict)
    native: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    same_as: str | None = None  # the layer of that name, used once more at this place


def is_file(name: str) -> bool:
    """True for ``file.py:Class``, False for ``package.module:Class``: code that is installed where the target runs."""
    return ":" not in name or name.rpartition(":")[0].endswith(".py")


@dataclass(frozen=True)
class Network:
    """Layers in order. ``custom`` is ``file.py:Class`` that takes the place of every batch_norm layer, or
    ``package.module:Class``.

    ``replicas`` are sizes: the batch is divided among so many replicas, each in a process of its own. A layer ``bn``
    is then recorded as ``bn`` in replica 0 and ``bn@1``, ``bn@2``, … in the others; with ``copied``, as ``bn@copy``.
    """

    layers: tuple[Layer, ...]
    custom: str | None = None
    file: str | None = None  # an existing ONNX file instead of layers
    returns: str | None = None  # name of the layer whose output eval returns (an embedding)
    model: str | None = None  # ``file.py:function`` that builds a whole network, instead of layers
    arguments: Mapping[str, Any] = field(default_factory=dict)  # keywords of that function, or of custom's
    replicas: tuple[int, ...] = ()
    copied: str | None = None  # one of COPIES
    # How a custom layer takes its channels: in one tensor, in so many (layer(real, imaginary)), or "complex".
    parts: int | str = 1
    # Whether the network's input asks for a gradient, as behind other layers it would; a plain input does not.
    input_gradient: bool = True
    output: str | int | None = None  # which tensor of what a whole network returns: a key, a place, a dotted path
    oracle: str = "batch_norm"  # or "whitening": the parts of a channel with the inverse root of their covariance

    @property
    def batch_norms(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers if layer.type == "batch_norm")

    @property
    def recorded(self) -> tuple[Layer, ...]:
        """The layers as traces call them: each replica has its own ``bn``, ``bn@1``, ``bn@2``, …"""
        others = range(1, len(self.replicas))
        copies = (replace(layer, name=f"{layer.name}@{rank}") for layer in self.layers for rank in others)
        return (*self.layers, *copies)

    def layer(self, name: str) -> Layer | None:
        """The layer that traces call so; None where there is none."""
        return next((layer for layer in self.recorded if layer.name == name), None)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How one named input is filled. ``shape`` has the batch axis first; a 0 in front is an empty batch.

    ``batches`` is "same" (one batch used by every event) or "distinct" (a new one per forward).
    ``mean`` and ``std`` are a number or one per channel; ``poison`` puts ``value`` (nan, inf, -inf) into
    sample 0 of channel ``poison_channel``. ``shifts`` cuts the batch into as many equal parts along the batch axis
    and adds one number to each: a batch that is not shuffled. ``padding`` cuts it likewise, and makes so many positions
    at the end of the last axis zero in all channels: sequences of unlike lengths. ``view`` says how the batch lies in
    memory.
    """

    shape: tuple[int, ...]
    fill: str = "normal"
    value: float = 1.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    batches: str = "distinct"
    seed: int = 0
    dtype: str = "float32"
    poison: str | None = None
    poison_channel: int = 0
    channel_axis: int = 1
    gradient: str = "normal"  # the upstream gradient of a backward: "ones" or "normal"
    shifts: tuple[float, ...] = ()
    padding: tuple[int, ...] = ()
    view: str = "contiguous"  # one of VIEWS


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a program. ``input`` names the input spec a forward reads; ``batch`` counts its forwards."""

    op: str
    input: str = "main"
    batch: int = 0  # index of the batch within its input's array (0 when batches are the same)
    arguments: Mapping[str, Any] = field(default_factory=dict)


def batch_counts(inputs: Mapping[str, InputSpec], events: Sequence[Event]) -> dict[str, int]:
    """How many batches each input needs; one that no event reads still has one."""
    counts = dict.fromkeys(inputs, 1)
    for event in events:
        if op_of(event.op).forward and event.batch >= counts[event.input]:
            counts[event.input] = event.batch + 1
    return counts


@dataclass(frozen=True)
class Expect:
    """What a scenario expects between two targets; absent targets make it not applicable, never failed.

    ``causes`` are the words of DESIGN section 10. ``agree = true`` asks for no finding above rounding.
    """

    between: tuple[str, str]
    causes: tuple[str, ...] = ()
    agree: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)


# (rtol, atol) of torch.testing.assert_close per dtype.
TOLERANCES = {
    "float64": (1e-7, 1e-7),
    "float32": (1.3e-6, 1e-5),
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
}


@dataclass(frozen=True)
class Tolerance:
    """|a - b| <= atol + rtol·|reference|. None: nobody has said, and the dtype's own applies."""

    rtol: float | None = None
    atol: float | None = None

    def otherwise(self, other: Tolerance) -> Tolerance:
        """``other`` where this one says nothing."""
        return Tolerance(
            rtol=other.rtol if self.rtol is None else self.rtol, atol=other.atol if self.atol is None else self.atol
        )

    def at(self, dtype: str) -> tuple[float, float]:
        """(rtol, atol) that values of a dtype are held to."""
        found = self.otherwise(Tolerance(*TOLERANCES[dtype]))
        assert found.rtol is not None and found.atol is not None
        return found.rtol, found.atol


@dataclass(frozen=True, slots=True)  # a scenario may have 100,000
class Case:
    """One concrete point of a scenario's matrix: a program on a network with named inputs."""

    scenario: str
    name: str  # slug, unique within the scenario; "base" when there is no matrix
    label: str  # for people, e.g. "forward + backward"
    matrix: Mapping[str, Any]  # the matrix values that made it
    network: Network
    inputs: Mapping[str, InputSpec]
    events: tuple[Event, ...]
    dtype: str = "float32"
    # Index of the last event of each step. A repeat of the program is one step, every event outside it its own.
    # States are compared at the ends of steps: inside one, an update in forward and one in backward differ by design.
    steps: tuple[int, ...] = ()

    @property
    def step_ends(self) -> tuple[int, ...]:
        return self.steps or tuple(range(len(self.events)))

    @property
    def functions(self) -> tuple[str, ...]:
        """``file.py:function`` of each event that calls one."""
        named = (event.arguments.get("function") for event in self.events)
        return tuple(dict.fromkeys(str(name) for name in named if name))

    @property
    def id(self) -> str:
        return f"{self.scenario}--{self.name}"


@dataclass(frozen=True)
class Scenario:
    """A parsed scenario file: why it exists, its cases, what is expected of them."""

    name: str
    title: str
    why: str
    cases: tuple[Case, ...]
    expect: tuple[Expect, ...] = ()
    tolerance: Tolerance = Tolerance()
    default: bool = False  # part of `bncheck run` without arguments
    probe: bool = False  # run once per target to measure its convention
    targets: tuple[str, ...] = ()  # what runs it when the user names no target; empty: the usual ones
    tags: tuple[str, ...] = ()
    path: str = ""
    # Facets that this scenario's input cannot identify, in its author's words; checked against measurement.
    remarks: str = ""
    check_order: bool = False  # its cases are played a second time, last case first, in new processes
