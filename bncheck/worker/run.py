"""Run the cells of one target in the target's own interpreter. This docstring is the worker protocol.

    python -I run.py JOB_DIR
    python -I run.py JOB_DIR --alone       the same once more by hand, in a debugger, when its host is gone
    python -I run.py --later HOST BACKEND VARIANT DEVICE
                                           imports the framework, then reads JOB_DIR, a line, from stdin; it ends by
                                           itself where the import fails, so that another process says why

Python 3.7 syntax, standard library + NumPy + one framework; bncheck itself is never imported. The backend file
is loaded by its path, because a sibling called ``torch.py`` would otherwise shadow the framework.

**Files in** (written by the host before the worker starts)

``JOB_DIR/job.json``
    ``protocol`` 1, ``backend`` (path of the backend file), ``variant``, ``device``, ``inputs`` (folder of input
    archives, relative to JOB_DIR), ``cases`` (the file of the cases, likewise), ``memory_limit`` (bytes of address
    space or null), ``host`` (number of the process that started this one: without it nobody reads what is played, and
    the worker ends).
``JOB_DIR/cells.json``
    ``cells``: names of the cells to run, in order; ``cases``: digest (``archive.py``) of the file of cases. It may come
    later than the others, when everything below is there: the worker imports its framework meanwhile.
``<cases>``
    A line of JSON per case, the same for all targets: ``cell`` (its name, always the first key), ``protocol``,
    ``inputs`` (file name in the inputs folder), ``digest`` (of that file), ``dtype``, ``network``, ``events``,
    ``sample`` (how many elements of each network output to keep), ``views`` (input: how its batches lie in memory,
    where not contiguous).
    ``network.layers`` holds the fields of ``scenario.Layer``; an event has ``op``, ``input``, ``batch`` and
    ``arguments``; ``ops`` says of every op among them what ``scenario.Op`` does: ``runs``, ``reads``, ``call``,
    ``records``, ``folder``.
``<inputs>/<key>.npz``
    ``x/<input>`` (U, batch…), ``dy/<input>`` (U, output…), ``param/<layer>/<name>``. The worker owns no random
    generator: all targets see the same bytes.

**Files out**

``JOB_DIR/environment.json``   what ``describe()`` said, once the framework is imported; ``unavailable`` and
                               ``remedy`` in it mean that no cell was run.
``JOB_DIR/progress.txt``       one line, the cell's name, whenever a cell starts; "." when the last one is done.
``JOB_DIR/stderr.txt``         stdout and stderr of the process. Nothing on either is data.
``JOB_DIR/cells.tar``          grows by two entries with every cell that is done, in one write:
``  <cell>/trace.npz``         the arrays of ``bncheck/trace.py``,
``  <cell>/result.json``       last: its absence means that the process died, had no room on the disk (it then ends
                               with exit code 113), or was disturbed by somebody who took its folder away or changed
                               what it plays from (114). ``protocol``, ``outcome`` (ok, raised,
                               unsupported), ``event``, ``error``, ``failed`` (records of all events that were not
                               ok: raised, unsupported, skipped, or failed: by nobody that is looked at here),
                               ``dtypes``, ``artifacts``, ``notes``, ``seconds``. An error that was raised says in
                               ``origin`` whose it is (``blame.py``). ``trace`` is the digest of the trace, ``seal``,
                               last of all, that of everything before it, the target and the cell (``archive.py``).
``JOB_DIR/<cell>/``            only where there is something for it: ``stderr.txt``, what was printed during the
                               cell (its last 64 kB), and files that its events wrote (exported models).

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
any other event             a method of the event's name taking its arguments as keywords (with ``folder`` in its own
                            row of ops also ``folder``, with ``reads`` also ``x``, a batch of its input), returning
                            None or {"output": array, "arrays": {name: array, kept as ``name/<event>``},
                            "artifacts": [...], "notes": {...}}. A missing method, or
                            NotImplementedError(reason) from any call, is *unsupported*.

Of a whole network (``network.model``) ``notes["cell"]`` also says which ``layers`` are the user's own, and ``alone``
which of them were played by themselves, whose arrays are in the trace (``own_side/alone.py``); the line of its case
knows all events. A model of one with a method ``see(x)`` is shown a batch before anything is played.

A backend with ``CUSTOM = True`` puts ``network.custom`` ("/path/file.py:Class") in the place of its BatchNorm layers,
or is an oracle that ignores it; its state may then hold ``graph_nodes``, ``graph_bytes`` and ``running_covar``, and
``network.parts`` and ``network.oracle`` say what it takes and what it is held against. One with ``WHOLE = True``
takes ``network.model`` ("/path/file.py:function"), called with the keywords ``network.arguments``, as the network. One
with ``FILES = True`` takes ``network.file``, the path of an ONNX file, as the network.
``REPLICAS``, ``COPIES`` and ``SHARES`` = True: it divides batches among ``network.replicas``, keeps a copy of the
network (``network.copied``), and uses a layer once more where another is ``same_as`` it; its ``layers`` then also hold
``bn@1`` (replica 1) or ``bn@copy``. A model with an attribute ``view`` lays the coming inputs out in memory as that
says: permuted (axes 1 and last stored swapped), strided (every second value along the last axis) or sliced (the
middle of two channels more, along axis 1).
"""

import atexit
import errno
import faulthandler
import gc
import importlib.util
import json
import os
import platform
import sys
import time


def read_json(path):
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def part(name):
    """A neighbouring file, loaded by its path: the worker runs with -I, and nothing here is a package to it."""
    full = "bncheck_worker_" + name
    if full not in sys.modules:
        folder = os.path.dirname(os.path.abspath(__file__))
        spec = importlib.util.spec_from_file_location(full, os.path.join(folder, name + ".py"))
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def beside(folder, name):
    """A file of another folder of the worker, as backends load theirs: one module of the process, whoever asks."""
    return part("beside").part_of(folder.replace("_side", ""))(name)


def begin(folder, guarded=False):
    """What has to stand before anything is imported that takes long or may fail: (job, descriptor of the output)."""
    job = read_json(os.path.join(folder, "job.json"))
    if not guarded and "--alone" not in sys.argv:
        part("guard").guard(job["host"])
    output = redirect_output(os.path.join(folder, "stderr.txt"))
    faulthandler.enable(output)
    return job, output


def redirect_output(path):
    """Send file descriptors 1 and 2 to one file and return its descriptor; noise never meets data."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    return descriptor


LATER = __name__ == "__main__" and sys.argv[1] == "--later"
BEGUN = begin(sys.argv[1]) if __name__ == "__main__" and not LATER else None
if LATER:
    part("guard").guard(int(sys.argv[2]))

import numpy as np  # noqa: E402 - an environment without it says so where the host looks

PROTOCOL = 1
STDERR_KEPT = 64 * 1024
MOST_SAID = 1000000  # bytes of what a target says of itself
# Exit codes; the cell that was played is left without a result.
DISK_FULL = 113  # there is no room for it
DISTURBED = 114  # somebody has taken its folder away, or changed what it plays from
ERRORS = (Exception, SystemExit)  # a layer of the user's may call sys.exit: it ends its event, not the process


archive, recorder, blame = part("archive"), part("recorder"), part("blame")


def write_json(path, value):
    archive.write_file(path, json.dumps(value).encode("utf-8"))


# ------------------------------------------------------------------------------------------------------ cells


def failure(index, op, error, judge, shape=None):
    """The record of an event that went wrong. ``shape`` is that of the input, where a forward raised."""
    text, refused = str(error) or repr(error), isinstance(error, NotImplementedError) and judge.refuses(error)
    origin, where = ("", "") if refused else judge.of(error)
    if (
        shape is not None
        and origin == "subject"
        and judge.whole
        and not hasattr(error, "origin")
        and blame.DOES_NOT_FIT.search(text)
    ):
        text = blame.about_input(text, shape)
    status = "unsupported" if refused else "raised" if origin in blame.TELLING else "failed"
    return {
        "event": index,
        "op": op,
        "status": status,
        "origin": origin,
        "error_type": type(error).__name__,
        "error": blame.worded(text[:4000], origin, where),
    }


def about_native(record, network, backend):
    """A layer that is not built with what the scenario says for this framework alone is the scenario's mistake."""
    name = os.path.splitext(os.path.basename(backend))[0]
    given = [layer.get("native", {}).get(name) for layer in network["layers"]]
    given = next((words for words in given if words), None)
    if given is None or record["status"] == "unsupported" or record["origin"] not in ("framework", "bncheck"):
        return record
    text = "the scenario's native.%s = %s: %s: %s" % (name, json.dumps(given), record["error_type"], record["error"])
    return dict(record, status="raised", origin="subject", error=text)


# Parts of a network that a backend has to say it takes: (key, its constant, in words).
OPTIONAL = (
    ("custom", "CUSTOM", "layers of your own (network.custom)"),
    ("model", "WHOLE", "whole networks of your own (network.model)"),
    ("replicas", "REPLICAS", "replicas (network.replicas)"),
    ("copied", "COPIES", "copies of its network (network.copied)"),
    ("file", "FILES", "ONNX files (network.file); onnxruntime does"),
)


def refuse_network(network, backend):
    for key, constant, words in OPTIONAL:
        if network.get(key) and not getattr(backend, constant, False):
            raise NotImplementedError("this backend does not take %s" % words)
    if any(layer.get("same_as") for layer in network["layers"]) and not getattr(backend, "SHARES", False):
        raise NotImplementedError("this backend cannot use a layer at two places (same_as)")


class Cell:
    """One program on one model: plays the events, keeps going after an event that raised."""

    def __init__(self, job, inputs, backend, target, folder, judge=None):
        self.job, self.ops, self.inputs, self.folder = job, job["ops"], inputs, folder
        self.judge, self.backend = judge or blame.Judge([], False, "", ""), backend
        self.failed, self.artifacts, self.notes = [], [], {}
        self.pending, self.last = [], []  # (input, batch) of forwards waiting for, and used by, a backward
        refuse_network(job["network"], backend)
        params = {name[6:]: inputs[name] for name in inputs if name.startswith("param/")}
        self.model = backend.build(job["network"], params, job["dtype"], target["variant"], target["device"])
        batches = [inputs[name] for name in inputs if name.startswith("x/")]
        if job["network"].get("model") and hasattr(self.model, "see") and batches:
            self.model.see(batches[0][0])
        self.recorder = recorder.Recorder(self.model, job["events"], job.get("sample", 4096))

    def play(self):
        self.look(-1)
        for index, event in enumerate(self.job["events"]):
            began = time.perf_counter()
            try:
                self.step(index, event)
            except ERRORS as error:
                self.failed.append(failure(index, event["op"], error, self.judge, self.shape_at(event)))
            self.recorder.seconds[index] = time.perf_counter() - began
            self.look(index)

    def shape_at(self, event):
        runs = self.ops[event["op"]]["runs"] == "network"
        given = self.inputs.get("x/%s" % event.get("input")) if runs else None
        return None if given is None else given.shape[1:]

    def look(self, index):
        """Record the state after an event; a layer whose state cannot be read keeps the one that was seen last."""
        try:
            self.recorder.state()
        except ERRORS as error:
            self.failed.append(failure(index, "state", error, self.judge))
            self.recorder.stay()

    def collect(self):
        """(arrays or None, notes): what was recorded; the user's own layer has a say in both."""
        arrays, notes = None, self.notes
        for keep in (self.recorder.arrays, self.facts):
            try:
                found = keep()
            except ERRORS as error:
                self.failed.append(failure(len(self.job["events"]) - 1, "recording", error, self.judge))
                continue
            arrays, notes = (found, notes) if keep == self.recorder.arrays else (arrays, found)
        if arrays is not None and self.job["network"].get("model"):
            said, more = self.inside()
            arrays.update(more)
            notes = dict(notes, cell=dict(notes.get("cell") or {}, **said))
        return arrays, notes

    def inside(self):
        """({"layers", "alone"}, arrays) of the user's own layers in a whole network, each played by itself; none where
        the network is in several pieces. The network is not used afterwards."""
        network = self.job["network"]
        if network.get("replicas") or network.get("copied"):
            return {}, {}
        try:
            return beside("own_side", "inside").play(self.neighbour, self.model, self.recorder.shapes, self.ops)
        except ERRORS as error:
            self.failed.append(failure(len(self.job["events"]) - 1, "alone", error, self.judge))
            return {}, {}

    def neighbour(self, folder, name):
        """As own_side/alone.py asks for files: this process has loaded its backend and this one already."""
        known = {"backends": self.backend, "": sys.modules[__name__]}
        return known.get(folder) or beside(folder, name)

    def step(self, index, event):
        op = event["op"]
        if self.ops[op]["runs"] == "network":
            self.forward(index, event, self.ops[op])
        elif op == "backward":
            self.backward(index)
        else:
            self.other(index, op, event)

    def forward(self, index, event, op):
        name, batch = event["input"], event["batch"]
        data = self.inputs["x/" + name][batch]
        # A forward that raises leaves nothing to go back through, and what was gone back through before is over.
        if op["records"]:
            self.last = []
        self.look_through(name)
        if op["call"]:
            out = self.model.forward(data, op["call"])
        elif hasattr(self.model, event["op"]):
            out = getattr(self.model, event["op"])(data)
        else:
            raise NotImplementedError("this backend has no recomputation")
        if op["records"]:
            self.pending.append((name, batch, out.shape, out.dtype))
        self.recorder.forward(index, out, ((name, batch), data))
        layers = self.job["network"]["layers"]
        if op["records"] and layers:
            self.recorder.upstream(layers[-1]["name"], index, self.upstream(name, batch, out.shape, out.dtype))

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
            self.failed.append(
                {
                    "event": index,
                    "op": "backward",
                    "status": "skipped",
                    "error_type": "",
                    "error": "no forward before it left a gradient to go back through",
                }
            )
            return
        self.model.keep_graph = self.back_again(index)
        self.recorder.backward(index, self.model.backward([self.upstream(*item) for item in self.last]))

    def back_again(self, index):
        """True if the program goes back through the same forwards once more (F B B)."""
        for later in range(index + 1, len(self.job["events"])):
            op = self.job["events"][later]["op"]
            if op == "backward" or self.ops[op]["records"]:
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
        if self.ops[op]["folder"]:
            os.makedirs(self.folder, exist_ok=True)
            arguments = dict(arguments, folder=self.folder)
        if self.ops[op]["reads"]:
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
    """Play one cell: (result, arrays or None). A cell whose build fails is *raised* (or unsupported) at event -1."""
    began = time.perf_counter()
    result = {"protocol": PROTOCOL, "outcome": "ok", "event": None, "error": None, "failed": [], "dtypes": {},
              "artifacts": [], "notes": {}}  # fmt: skip
    arrays, module = None, getattr(backend, "MODULE", "")
    own = blame.paths_of(job["network"], target["variant"], module, job["events"])
    judge = blame.Judge(own, bool(job["network"].get("model")), target["backend"], module)
    try:
        cell = Cell(job, inputs, backend, target, folder, judge)
    except ERRORS as error:
        result["failed"] = [about_native(failure(-1, "build", error, judge), job["network"], target["backend"])]
    else:
        cell.play()
        arrays, notes = cell.collect()
        result.update(failed=cell.failed, dtypes=cell.dtypes(), artifacts=cell.artifacts, notes=notes)
    for status, words in (("raised", ("raised", "failed")), ("unsupported", ("unsupported",))):
        worst = next((item for item in result["failed"] if item["status"] in words), None)
        if worst is not None:
            result.update(
                outcome=status,
                event=worst["event"],
                error={"type": worst["error_type"], "message": worst["error"], "origin": worst.get("origin", "")},
            )
            break
    result["seconds"] = time.perf_counter() - began
    return result, arrays


def write_cell(path, name, result, arrays):
    """Append trace.npz and result.json of a cell to the target's tar, in one write.

    A trace that cannot be written (too large, objects in it) makes its own cell *crashed*, no other. Where the disk is
    full, or the folder gone, the cell keeps no result: it is played again when there is room.
    """
    try:
        packed = b"" if arrays is None else archive.pack_npz(arrays)
        entry = result_entry(path, name, result, packed)
        archive.append_entries(path, [(name + "/trace.npz", packed), entry] if packed else [entry])
    except (OSError, ValueError) as error:
        end_without_place(error)
        message = "its trace could not be written: %s" % error
        result = dict(result, outcome="crashed", error={"type": type(error).__name__, "message": message})
        archive.append_entries(path, [result_entry(path, name, result, b"")])


def end_without_place(error):
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        os._exit(DISK_FULL)
    if number in (errno.ENOENT, errno.ENOTDIR):
        os._exit(DISTURBED)


def result_entry(path, name, result, packed):
    """The result says which trace is its own, and is sealed to its target and cell (``archive.seal``)."""
    whole = dict(result, trace=archive.digest(packed) if packed else "")
    target = os.path.basename(os.path.dirname(path))
    return name + "/result.json", archive.seal(target, name, json.dumps(whole).encode("utf-8"))


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
        "platform": platform_name(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
    }


def platform_name():
    """What ``platform.platform()`` says; on Linux without starting ``uname -p`` for a word that it then leaves out."""
    if not sys.platform.startswith("linux"):
        return platform.platform()
    here, libc = os.uname(), "".join(platform.libc_ver())
    return "-".join([here.sysname, here.release, here.machine] + (["with", libc] if libc else []))


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
    judge = blame.Judge([], False, job["backend"], "")
    try:
        backend = load(job["backend"])
        machine.update(backend.describe(job["variant"], job["device"]))
    except RuntimeError as error:
        return None, dict(machine, unavailable=str(error))
    except ERRORS as error:
        origin, where = judge.of(error)
        what = "the backend file is wrong" if origin == "backend" else "the framework does not import"
        text = blame.worded("%s: %s: %s" % (what, type(error).__name__, error), origin, where)
        return None, dict(machine, unavailable=text)
    machine["import_seconds"] = time.perf_counter() - began
    size = len(json.dumps(machine))
    if size > MOST_SAID:
        text = "the backend file is wrong: describe() says %d bytes of itself, more than %d" % (size, MOST_SAID)
        return None, dict(describe_machine(), unavailable=text)
    return backend, machine


def limit_memory(limit):
    """Bound the address space. Only asked for on CPU targets: CUDA reserves far more than it uses."""
    if limit:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)  # whoever started bncheck may have set a lower one
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def keep_output(descriptor, folder):
    """Move what a cell printed into its own stderr.txt, the last 64 kB of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.fstat(descriptor).st_size
    if not size:
        return
    start = max(0, size - STDERR_KEPT)
    if os.path.islink(folder):
        os.unlink(folder)
    os.makedirs(folder, exist_ok=True)
    archive.write_file(os.path.join(folder, "stderr.txt"), os.pread(descriptor, size - start, start))
    os.ftruncate(descriptor, 0)


def load_inputs(path, digest, _latest=[]):  # noqa: B006 - the default holds the last archive, which neighbours share
    if not _latest or _latest[0] != path:
        try:
            _latest[:] = [path, archive.read_npz(path, digest)]
        except (OSError, ValueError):
            os._exit(DISTURBED)
    return _latest[1]


def await_cells(folder):
    """The cells to run and the digest of the file of cases, as soon as the host has named them."""
    path = os.path.join(folder, "cells.json")
    while not os.path.exists(path):
        time.sleep(0.002)
    return read_json(path)


def read_cases(path, digest):
    """Cell name → its line of JSON. Each line begins with the name, which holds no quote: it is read when its turn
    comes."""
    try:
        raw = archive.read_regular(path)
    except OSError:
        os._exit(DISTURBED)
    if archive.digest(raw) != digest:
        os._exit(DISTURBED)
    return {line.split(b'"', 4)[3].decode("utf-8"): line for line in raw.splitlines()}


def main(folder, job, output, described=None):
    try:
        work(folder, job, output, described)
    except OSError as error:  # of the protocol's own files: what a backend raises stays in its cell
        end_without_place(error)
        raise


def work(folder, job, output, described=None):
    """``described``: what ``describe_target`` gave, where the framework was imported before there was a job."""
    parent = os.getppid()
    limit_memory(job.get("memory_limit"))
    # A measurement of NaN and Inf is full of them: NumPy's warnings would only be noise.
    np.seterr(all="ignore")
    backend, environment = described or describe_target(job, load_backend)
    os.ftruncate(output, 0) if backend is not None else None
    gc.freeze()  # collecting garbage would walk through the framework's 370,000 objects every few hundred cells
    write_json(os.path.join(folder, "environment.json"), environment)
    if backend is None:
        return
    inputs, done = os.path.join(folder, job["inputs"]), os.path.join(folder, "cells.tar")
    progress = os.open(os.path.join(folder, "progress.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    asked = await_cells(folder)
    cases = read_cases(os.path.join(folder, job["cases"]), asked["cases"]) if asked["cells"] else {}
    for name in asked["cells"]:
        if os.getppid() != parent:
            break  # the host was killed: a resumed run plays the rest
        os.write(progress, (name + "\n").encode("utf-8"))
        cell, task = os.path.join(folder, name), json.loads(cases[name].decode("utf-8"))
        given = load_inputs(os.path.join(inputs, task["inputs"]), task.get("digest", ""))
        write_cell(done, name, *run_cell(cell, task, given, backend, job))
        keep_output(output, cell)
    else:
        os.write(progress, b".\n")


def begin_later(path, variant, device):
    """(folder, what ``describe_target`` gave), once the host says where to play."""
    np.seterr(all="ignore")
    described = describe_target({"backend": path, "variant": variant, "device": device}, load_backend)
    line = sys.stdin.buffer.readline() if described[0] is not None else b""
    if not line.endswith(b"\n"):
        os._exit(0)
    folder = os.fsdecode(line[:-1])
    sys.argv[1:] = [folder]
    return folder, described


def leave():
    """End at once: everything is written, and taking a framework's modules apart takes longer than a small cell."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__" and LATER:
    FOLDER, DESCRIBED = begin_later(*sys.argv[3:])
    main(FOLDER, *begin(FOLDER, guarded=True), described=DESCRIBED)
    leave()
elif __name__ == "__main__":
    main(sys.argv[1], *BEGUN)
    leave()
