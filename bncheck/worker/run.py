"""Run the cells of one target in the target's own interpreter. This docstring is the worker protocol.

    python -I run.py JOB_DIR

Python 3.7 syntax, standard library + NumPy + one framework; bncheck itself is never imported. The backend file
is loaded by its path, because a sibling called ``torch.py`` would otherwise shadow the framework.

**Files in** (written by the host before the worker starts)

``JOB_DIR/job.json``
    ``protocol`` 1, ``backend`` (path of the backend file), ``variant``, ``device``, ``inputs`` (folder of input
    archives, relative to JOB_DIR), ``memory_limit`` (bytes of address space or null), ``cells`` (folder names to
    run, in order).
``JOB_DIR/<cell>/job.json``
    ``protocol``, ``inputs`` (file name in the inputs folder), ``dtype``, ``network``, ``events``, ``sample`` (how
    many elements of each network output to keep), ``views`` (input: how its batches lie in memory, where not
    contiguous). ``network.layers`` holds the fields of ``scenario.Layer``;
    an event has ``op``, ``input``, ``batch`` and ``arguments``.
``<inputs>/<key>.npz``
    ``x/<input>`` (U, batch…), ``dy/<input>`` (U, output…), ``param/<layer>/<name>``. The worker owns no random
    generator: all targets see the same bytes.

**Files out**

``JOB_DIR/environment.json``   what ``describe()`` said, once the framework is imported; ``unavailable`` and
                               ``remedy`` in it mean that no cell was run.
``JOB_DIR/progress.txt``       one line, the cell's folder name, whenever a cell starts.
``JOB_DIR/stderr.txt``         stdout and stderr of the process. Nothing on either is data.
``<cell>/trace.npz``           the arrays of ``bncheck/trace.py``.
``<cell>/stderr.txt``          what was printed during that cell, its last 64 kB.
``<cell>/result.json``         written last, with os.replace: its absence means that the process died.
                               ``protocol``, ``outcome`` (ok, raised, unsupported), ``event``, ``error``, ``failed``
                               (records of all events that were not ok), ``dtypes``, ``artifacts``, ``notes``,
                               ``seconds``.

**The backend contract**: a module with literal constants (read by the host without importing the file: TITLE,
MODULE, DISTRIBUTION, DEFAULT_VERSION, VARIANTS, DEVICES, REQUIREMENTS, DOCUMENTED) and two functions

``describe(variant, device)``
    imports the framework and returns a JSON-able dict with at least ``version``; raises ``RuntimeError(reason)``
    when the device or variant cannot run here (that is *unavailable*, never a failure).
``build(network, params, dtype, variant, device)``
    returns a model. ``params`` maps ``<layer>/<name>`` to arrays; one that is missing keeps the framework's own value.

A model has

``forward(x, mode)``        mode "train", "eval", "no_grad" or "as_is"; NumPy in, NumPy out.
``backward(dys)``           one upstream gradient per forward since the last backward (the same again when there
                            was none); returns {"input": gradient by the last input or None, "<layer>/gamma": …,
                            "<layer>/beta": …}.
``layers``                  names of its BatchNorm layers, in order.
``taps()``                  {layer: (input, output)} of the last forward, NumPy.
``state(layer)``            running_mean, running_var, counter, gamma, beta, training, momentum, eps: as held now;
                            a key that the layer does not have is left out.
``axis(layer)``             channel axis of the arrays that taps() returns (1 or -1).
``dtypes(layer)``           optional: {quantity: "bfloat16"} where state() had to widen.
``facts()``                 optional: what is to be said of the whole cell; kept as ``notes["cell"]``.
``keep_graph``              set before each backward: whether another backward through the same forwards follows.
any other event             a method of the event's name taking its arguments as keywords (those that write files
                            also ``folder``, the ONNX ones and eval_in_batches also ``x``, their input's batch),
                            returning None or {"output": array, "arrays": {name: array, kept as ``name/<event>``},
                            "artifacts": [...], "notes": {...}}. A missing method, or
                            NotImplementedError(reason) from any call, is *unsupported*.

A backend with ``CUSTOM = True`` puts ``network.custom`` ("/path/file.py:Class") in the place of its BatchNorm layers,
or is an oracle that ignores it; its state may then hold ``graph_nodes`` and ``graph_bytes``. One with ``WHOLE = True``
takes ``network.model`` ("/path/file.py:function"), called with the keywords ``network.arguments``, as the network.
``REPLICAS``, ``COPIES`` and ``SHARES`` = True: it divides batches among ``network.replicas``, keeps a copy of the
network (``network.copied``), and uses a layer once more where another is ``same_as`` it; its ``layers`` then also hold
``bn@1`` (replica 1) or ``bn@copy``. A model with an attribute ``view`` lays the coming inputs out in memory as it says:
permuted (axes 1 and last stored swapped), strided (every second value along the last axis) or sliced (the middle of
two channels more, along axis 1).
"""

import faulthandler
import importlib.util
import io
import json
import os
import platform
import struct
import sys
import time
import zlib
from math import gcd

import numpy as np

PROTOCOL = 1
STDERR_KEPT = 64 * 1024
FORWARDS = {
    "train_forward": "train",
    "eval_forward": "eval",
    "no_grad_forward": "no_grad",
    "forward": "as_is",
}
# Recorded only where a layer's state has them: autograd nodes behind its buffers, bytes those keep alive.
GRAPH = ("graph_nodes", "graph_bytes")
STATES = ("running_mean", "running_var", "gamma", "beta")
SCALARS = ("counter", "training", "momentum", "eps")


# ---------------------------------------------------------------------------------------------------- arrays


def npy_header(dtype, shape, _known={}):  # noqa: B006 - the default is the cache
    """Header of an .npy version 1.0 entry; cached, because a run has few distinct ones."""
    key = (dtype.str, shape)
    if key not in _known:
        text = "{'descr': '%s', 'fortran_order': False, 'shape': %r, }" % (dtype.str, shape)
        text += " " * (-(len(text) + 11) % 64) + "\n"
        _known[key] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")
    return _known[key]


def write_npz(path, arrays):
    """Write an uncompressed .npz under a temporary name, then rename.

    np.savez takes about 25 µs an array, which is most of a small cell; this takes 5. One read by np.load.
    """
    body, directory, offset = [], [], 0
    for name in arrays:
        array = np.ascontiguousarray(arrays[name])
        entry = (name + ".npy").encode("utf-8")
        head = npy_header(array.dtype, np.shape(arrays[name]))
        data = array.tobytes()
        size = len(head) + len(data)
        # Version 2.0, UTF-8 names, stored, a fixed time stamp: equal arrays give equal files.
        fields = struct.pack(
            "<HHHHHIIIHH", 20, 0x800, 0, 0, 33, zlib.crc32(data, zlib.crc32(head)), size, size, len(entry), 0
        )
        local = b"PK\x03\x04" + fields + entry
        directory.append(b"PK\x01\x02\x14\x00" + fields + struct.pack("<HHHII", 0, 0, 0, 0, offset) + entry)
        body += (local, head, data)
        offset += len(local) + size
    if offset >= 2**32 or len(directory) >= 2**16:
        raise ValueError(
            "a trace of %d bytes in %d arrays is more than an archive holds: record less" % (offset, len(directory))
        )
    index = b"".join(directory)
    body += (
        index,
        struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(directory), len(directory), len(index), offset, 0),
    )
    with open(path + ".part", "wb") as handle:
        handle.write(b"".join(body))
    os.replace(path + ".part", path)


def read_npz(path, _known={}):  # noqa: B006 - the default is the cache of headers
    """Arrays of an archive. One that write_npz made is stored with nothing between its entries, and read here in a
    tenth of np.load's time; any other goes to np.load."""
    with open(path, "rb") as handle:
        raw = handle.read()
    found, at = {}, 0
    while raw[at : at + 4] == b"PK\x03\x04":
        method, size, name_size, extra = struct.unpack_from("<H", raw, at + 8) + struct.unpack_from(
            "<IHH", raw, at + 22
        )
        if method or size == 0xFFFFFFFF:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        start = at + 30 + name_size + extra
        name = raw[at + 30 : at + 30 + name_size].decode("utf-8")
        length = struct.unpack_from("<H", raw, start + 8)[0] + 10
        head = raw[start : start + length]
        if head not in _known:
            stream = io.BytesIO(head)
            np.lib.format.read_magic(stream)
            _known[head] = np.lib.format.read_array_header_1_0(stream)
        shape, _, dtype = _known[head]
        count = (size - length) // dtype.itemsize
        found[name[:-4]] = np.frombuffer(raw, dtype, count, start + length).reshape(shape).copy()
        at = start + size
    return found


def write_json(path, value):
    with open(path + ".part", "w", encoding="utf-8") as handle:
        handle.write(json.dumps(value))
    os.replace(path + ".part", path)


def read_json(path):
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def sample(array, limit):
    """At most ``limit`` elements of an array, evenly spread by a stride that shares no factor with its size."""
    if array.size <= limit:
        return np.array(array)
    step = -(-array.size // limit)
    while gcd(step, array.size) != 1:
        step += 1
    return np.array(array.reshape(-1)[::step])


# ----------------------------------------------------------------------------------------------- measurements


def channel_rows(array, axis):
    """(C, n) float64 rows of an array whose channels lie on ``axis``."""
    if array.ndim == 2:
        rows = array if axis == 0 else array.T
    else:
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return np.ascontiguousarray(rows, dtype=np.float64)


def moments(rows):
    """Two-pass mean and biased variance per channel, and the centred rows. All NaN for no values."""
    count = rows.shape[1]
    if not count:
        nothing = np.full(rows.shape[0], np.nan)
        return nothing, nothing, rows
    mean = rows.sum(axis=1) / count
    centred = rows - mean[:, None]
    # The second pass also takes out what rounding left in the mean.
    rest = centred.sum(axis=1) / count
    mean = mean + rest
    centred -= rest[:, None]
    return mean, np.einsum("ij,ij->i", centred, centred) / count, centred


def reveal(centred, mean, var, out, gamma, beta):
    """Solve y = gamma·(x − m)·r + beta for m and r per channel, by least squares of y against x.

    Returns (m, r, largest residual); NaN where x is constant, gamma is 0 or anything is not finite.
    """
    count = out.shape[1]
    if not count:
        nothing = np.full(out.shape[0], np.nan)
        return nothing, nothing, nothing
    level = out.sum(axis=1) / count
    spread = out - level[:, None]
    slope = np.einsum("ij,ij->i", spread, centred) / (var * count)
    residual = np.abs(spread - slope[:, None] * centred).max(axis=1)
    used_mean = mean - (level - beta) / slope
    used_invstd = slope / gamma
    lost = ~np.isfinite(used_mean) | ~np.isfinite(used_invstd)
    return np.where(lost, np.nan, used_mean), np.where(lost, np.nan, used_invstd), np.where(lost, np.nan, residual)


class Recorder:
    """Collects one cell's arrays event by event; ``arrays()`` stacks them under the names of the trace table."""

    def __init__(self, model, events, limit, samples):
        self.model, self.total, self.limit, self.samples = model, len(events), limit, samples
        self.states = {layer: [] for layer in model.layers}
        self.forwards = {layer: [None] * self.total for layer in model.layers}
        self.gradients = {layer: {} for layer in model.layers}
        self.network_bad = np.full(self.total, -1, dtype=np.int64)
        self.seconds = np.zeros(self.total)
        self.loose = {}
        self.known = {}  # moments of inputs that come straight from the archive, by their address

    def state(self):
        for layer, rows in self.states.items():
            rows.append(self.model.state(layer))

    def forward(self, event, out, source):
        for layer, (data, result) in self.model.taps().items():
            self.forwards[layer][event] = self.measure(layer, data, result, source)
        self.output(event, out)

    def measure(self, layer, data, result, source):
        axis = self.model.axis(layer)
        first = source is not None and data.shape == source[1].shape and np.shares_memory(data, source[1])
        facts = self.known.get(source[0]) if first else None
        if facts is None:
            rows = channel_rows(data, axis)
            bad = int(rows.size - np.count_nonzero(np.isfinite(rows)))
            facts = moments(rows) + (bad, rows.shape[1])
            if first:
                self.known[source[0]] = facts
        mean, var, centred, bad, count = facts
        out = channel_rows(result, axis)
        state = self.states[layer][-1]
        used = reveal(centred, mean, var, out, state.get("gamma", 1.0), state.get("beta", 0.0))
        bad_out = int(out.size - np.count_nonzero(np.isfinite(out)))
        return mean, var, count, bad, bad_out, used

    def output(self, event, out):
        self.network_bad[event] = out.size - np.count_nonzero(np.isfinite(out))
        self.loose["output/%d" % event] = sample(out, self.limit)

    def backward(self, event, found):
        data = found.get("input")
        if data is not None:
            self.loose["grad_input/%d" % event] = sample(data, self.limit)
        for layer, kept in self.gradients.items():
            for name in ("gamma", "beta"):
                if found.get(layer + "/" + name) is not None:
                    kept.setdefault("grad_" + name, {})[event] = found[layer + "/" + name]

    def arrays(self):
        found = {"network_bad": self.network_bad, "event_seconds": self.seconds}
        for layer, rows in self.states.items():
            found.update(stack_states(layer, rows))
            found.update(stack_forwards(layer, self.forwards[layer], rows[0]))
            for name, by_event in self.gradients[layer].items():
                width = len(next(iter(by_event.values())))
                table = np.full((self.total, width), np.nan)
                for event, value in by_event.items():
                    table[event] = value
                found[layer + "/" + name] = table
        found.update(self.loose)
        return found


def stack_states(layer, rows):
    found = {}
    for name in STATES:
        if any(row.get(name) is not None for row in rows):
            first = next(row[name] for row in rows if row.get(name) is not None)
            blank = np.full(first.shape, np.nan, dtype=first.dtype)
            found[layer + "/" + name] = np.stack([blank if row.get(name) is None else row[name] for row in rows])
    for name in SCALARS:
        missing = -1 if name == "training" else np.nan
        values = [missing if row.get(name) is None else row[name] for row in rows]
        found[layer + "/" + name] = np.array(values, dtype=np.int8 if name == "training" else np.float64)
    for name in GRAPH:
        if any(name in row for row in rows):
            found[layer + "/" + name] = np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)
    return found


def stack_forwards(layer, rows, state):
    """Rows of the forward events; the width of rows without a forward comes from any that had one, or the state."""
    width = next((len(row[0]) for row in rows if row is not None), len(state.get("running_mean", (0,))))
    blank = np.full(width, np.nan)
    nothing = (blank, blank, -1, -1, -1, (blank, blank, blank))
    rows = [nothing if row is None else row for row in rows]
    names = ("input_mean", "input_var", "n", "input_bad", "output_bad")
    found = {layer + "/" + name: np.array([row[k] for row in rows]) for k, name in enumerate(names)}
    for k, name in enumerate(("used_mean", "used_invstd", "used_residual")):
        found[layer + "/" + name] = np.array([row[5][k] for row in rows])
    return found


# ------------------------------------------------------------------------------------------------------ cells


def failure(index, op, status, error):
    text = str(error) or repr(error)
    return {"event": index, "op": op, "status": status, "error_type": type(error).__name__, "error": text[:4000]}


# Parts of a network that a backend has to say it takes: (key, its constant, in words).
OPTIONAL = (
    ("custom", "CUSTOM", "layers of your own (network.custom)"),
    ("model", "WHOLE", "whole networks of your own (network.model)"),
    ("replicas", "REPLICAS", "replicas (network.replicas)"),
    ("copied", "COPIES", "copies of its network (network.copied)"),
)


def refuse_network(network, backend):
    for key, constant, words in OPTIONAL:
        if network.get(key) and not getattr(backend, constant, False):
            raise NotImplementedError("this backend does not take %s" % words)
    if any(layer.get("same_as") for layer in network["layers"]) and not getattr(backend, "SHARES", False):
        raise NotImplementedError("this backend cannot use a layer at two places (same_as)")


class Cell:
    """One program on one model: plays the events, keeps going after an event that raised."""

    def __init__(self, job, inputs, backend, target, folder):
        self.job, self.inputs, self.folder = job, inputs, folder
        self.failed, self.artifacts, self.notes = [], [], {}
        self.pending, self.last = [], []  # (input, batch) of forwards waiting for, and used by, a backward
        refuse_network(job["network"], backend)
        params = {name[6:]: inputs[name] for name in inputs if name.startswith("param/")}
        self.model = backend.build(job["network"], params, job["dtype"], target["variant"], target["device"])
        self.recorder = Recorder(self.model, job["events"], job.get("sample", 4096), None)

    def play(self):
        recorder = self.recorder
        recorder.state()
        for index, event in enumerate(self.job["events"]):
            began = time.perf_counter()
            try:
                self.step(index, event)
            except NotImplementedError as error:
                self.failed.append(failure(index, event["op"], "unsupported", error))
            except Exception as error:
                self.failed.append(failure(index, event["op"], "raised", error))
            recorder.seconds[index] = time.perf_counter() - began
            recorder.state()

    def step(self, index, event):
        op = event["op"]
        if op in FORWARDS or op == "checkpointed_forward":
            self.forward(index, event)
        elif op == "backward":
            self.backward(index)
        else:
            self.other(index, op, event)

    def forward(self, index, event):
        name, batch = event["input"], event["batch"]
        data = self.inputs["x/" + name][batch]
        op = event["op"]
        self.look_through(name)
        # A forward that raises leaves nothing to go back through, and what was gone back through before is over.
        if op not in ("eval_forward", "no_grad_forward"):
            self.last = []
        if op == "checkpointed_forward":
            if not hasattr(self.model, op):
                raise NotImplementedError("this backend has no recomputation")
            out = self.model.checkpointed_forward(data)
        else:
            out = self.model.forward(data, FORWARDS[op])
        if op not in ("eval_forward", "no_grad_forward"):
            self.pending.append((name, batch, out.shape, out.dtype))
        self.recorder.forward(index, out, ((name, batch), data))

    def look_through(self, name):
        """Ask for the memory layout of an input; a backend that only ever copies its input has none."""
        view = self.job.get("views", {}).get(name, "contiguous")
        if hasattr(self.model, "view"):
            self.model.view = view
        elif view != "contiguous":
            raise NotImplementedError("this backend copies its input: it has no %s views" % view)

    def backward(self, index):
        if self.pending:
            self.last, self.pending = self.pending, []
        if not self.last:
            self.failed.append({"event": index, "op": "backward", "status": "skipped", "error_type": "",
                                "error": "no forward before it left a gradient to go back through"})  # fmt: skip
            return
        self.model.keep_graph = self.back_again(index)
        self.recorder.backward(index, self.model.backward([self.upstream(*item) for item in self.last]))

    def back_again(self, index):
        """True if the program goes back through the same forwards once more (F B B)."""
        for later in range(index + 1, len(self.job["events"])):
            op = self.job["events"][later]["op"]
            if op in ("backward", "train_forward", "forward", "checkpointed_forward"):
                return op == "backward"
        return False

    def upstream(self, name, batch, shape, dtype):
        given = self.inputs.get("dy/" + name)
        if given is None or given.shape[1:] != shape:
            return np.ones(shape, dtype=dtype)
        return given[batch if len(given) > 1 else 0]

    def other(self, index, op, event):
        arguments = event.get("arguments") or {}
        method = getattr(self.model, op, None)
        if method is None:
            raise NotImplementedError("this backend has no event %r" % op)
        if arguments.get("drop") and "drop" not in method.__code__.co_varnames:
            raise NotImplementedError("this backend cannot leave a state out of what it loads")
        if op in ("export_onnx", "run_exported", "reload"):
            arguments = dict(arguments, folder=self.folder)
        if op in ("export_onnx", "run_exported", "eval_in_batches", "update_copy", "train_copy", "eval_copy"):
            named = self.inputs.get("x/" + event["input"])  # a scenario may have no input called "main"
            batches = next(self.inputs[name] for name in self.inputs if name[:2] == "x/") if named is None else named
            arguments["x"] = batches[event["batch"]]
        found = method(**arguments) or {}
        if found.get("output") is not None:
            self.recorder.output(index, found["output"])
        for name, array in found.get("arrays", {}).items():
            self.recorder.loose["%s/%d" % (name, index)] = array
        self.artifacts += found.get("artifacts", [])
        if found.get("notes"):
            self.notes[str(index)] = found["notes"]

    def facts(self):
        """What the model says of the whole cell, under "cell" among the notes."""
        ask = getattr(self.model, "facts", None)
        found = ask() if ask is not None else None
        return dict(self.notes, cell=found) if found else self.notes

    def dtypes(self):
        ask = getattr(self.model, "dtypes", None)
        if ask is None:
            return {}
        return {layer + "/" + name: kind for layer in self.model.layers for name, kind in ask(layer).items()}


def run_cell(folder, job, inputs, backend, target):
    """Run one cell and write its files. A cell whose build fails is *raised* (or unsupported) at event -1."""
    began = time.perf_counter()
    result = {"protocol": PROTOCOL, "outcome": "ok", "event": None, "error": None, "failed": [], "dtypes": {},
              "artifacts": [], "notes": {}}  # fmt: skip
    try:
        cell = Cell(job, inputs, backend, target, folder)
    except NotImplementedError as error:
        result["failed"] = [failure(-1, "build", "unsupported", error)]
    except Exception as error:
        result["failed"] = [failure(-1, "build", "raised", error)]
    else:
        cell.play()
        write_npz(os.path.join(folder, "trace.npz"), cell.recorder.arrays())
        result.update(failed=cell.failed, dtypes=cell.dtypes(), artifacts=cell.artifacts, notes=cell.facts())
    for status in ("raised", "unsupported"):
        worst = next((item for item in result["failed"] if item["status"] == status), None)
        if worst is not None:
            result.update(
                outcome=status, event=worst["event"], error={"type": worst["error_type"], "message": worst["error"]}
            )
            break
    result["seconds"] = time.perf_counter() - began
    write_json(os.path.join(folder, "result.json"), result)


# ---------------------------------------------------------------------------------------------------- process


def load_backend(path):
    name = "bncheck_backend_" + os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def describe_machine():
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
    }


def processor_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform module knows
    return platform.processor()


def describe_target(job, load):
    """(backend module or None, environment dict). Importing is part of it: a broken install is *unavailable*."""
    began = time.perf_counter()
    machine = describe_machine()
    try:
        backend = load(job["backend"])
        machine.update(backend.describe(job["variant"], job["device"]))
    except RuntimeError as error:
        return None, dict(machine, unavailable=str(error))
    except Exception as error:
        return None, dict(machine, unavailable="the framework does not import: %s: %s" % (type(error).__name__, error))
    machine["import_seconds"] = time.perf_counter() - began
    return backend, machine


def die_with_parent():
    """Ask Linux to kill this process when the host is killed, even in the middle of an endless cell."""
    if sys.platform.startswith("linux"):
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG


def limit_memory(limit):
    """Bound the address space. Only asked for on CPU targets: CUDA reserves far more than it uses."""
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def redirect_output(path):
    """Send file descriptors 1 and 2 to one file and return its descriptor; noise never meets data."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    return descriptor


def keep_output(descriptor, folder):
    """Move what a cell printed into its own stderr.txt, the last 64 kB of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.fstat(descriptor).st_size
    if not size:
        return
    start = max(0, size - STDERR_KEPT)
    with open(os.path.join(folder, "stderr.txt"), "wb") as handle:
        handle.write(os.pread(descriptor, size - start, start))
    os.ftruncate(descriptor, 0)


def load_inputs(path, _latest=[]):  # noqa: B006 - the default holds the last archive, shared by neighbouring cells
    if not _latest or _latest[0] != path:
        _latest[:] = [path, read_npz(path)]
    return _latest[1]


def main(folder):
    job = read_json(os.path.join(folder, "job.json"))
    output = redirect_output(os.path.join(folder, "stderr.txt"))
    faulthandler.enable(output)
    die_with_parent()
    limit_memory(job.get("memory_limit"))
    # A measurement of NaN and Inf is full of them: NumPy's warnings would only be noise.
    np.seterr(all="ignore")
    backend, environment = describe_target(job, load_backend)
    os.ftruncate(output, 0) if backend is not None else None
    write_json(os.path.join(folder, "environment.json"), environment)
    if backend is None:
        return
    inputs = os.path.join(folder, job["inputs"])
    progress = os.open(os.path.join(folder, "progress.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    parent = os.getppid()
    for name in job["cells"]:
        if os.getppid() != parent:
            return  # the host was killed: a resumed run plays the rest
        os.write(progress, (name + "\n").encode("utf-8"))
        cell = os.path.join(folder, name)
        task = read_json(os.path.join(cell, "job.json"))
        run_cell(cell, task, load_inputs(os.path.join(inputs, task["inputs"])), backend, job)
        keep_output(output, cell)


if __name__ == "__main__":
    main(sys.argv[1])
