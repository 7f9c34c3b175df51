"""One cell: a program of events played on one model, and what became of it.

Loaded by run.py by path, behind what it loads itself. Python 3.7 syntax, NumPy; the framework is the backend's.
"""

import importlib.util
import json
import os
import sys
import time

import numpy as np

WORKER = os.path.dirname(os.path.abspath(__file__))
PROTOCOL = 1
ERRORS = (Exception, SystemExit)  # a layer of the user's may call sys.exit: it ends its event, not the process


def part(folder, name):
    """A file of the worker, loaded by its path: one module of the process, whoever asks for it."""
    full = "bncheck_%s_%s" % (folder.replace("_side", "") or "worker", name)
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, os.path.join(WORKER, folder, name + ".py"))
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


recorder, blame = part("", "recorder"), part("", "blame")


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
    if origin == "backend" and judge.handed_over(error):
        text = blame.about_handed_over(error)
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


def attempt(work):
    """(what it returned, None) or (None, the error that it raised)."""
    try:
        return work(), None
    except ERRORS as error:
        return None, error


class Cell:
    """One program on one model: plays the events, keeps going after an event that raised."""

    def __init__(self, job, inputs, backend, target, folder, judge=None):
        self.job, self.ops, self.inputs, self.folder = job, job["ops"], inputs, folder
        self.judge, self.backend = judge or blame.Judge([], False, "", ""), backend
        # Whether all that plays is the framework's and bncheck's: no code of the user's that could end this process.
        self.can_wait = not (self.judge.own or self.judge.foreign or job["network"].get("file"))
        self.failed, self.artifacts, self.notes = [], [], {}
        self.pending, self.last = [], []  # (input, batch) of forwards waiting for, and used by, a backward
        refuse_network(job["network"], backend)
        params = {name[6:]: inputs[name] for name in inputs if name.startswith("param/")}
        self.model = backend.build(job["network"], params, job["dtype"], target["variant"], target["device"])
        batches = [inputs[name] for name in inputs if name.startswith("x/")]
        if job["network"].get("model") and hasattr(self.model, "see") and batches:
            self.model.see(batches[0][0])
        asked = any(layer.get("native") for layer in job["network"]["layers"])
        self.recorder = recorder.Recorder(self.model, job["events"], job.get("sample", 4096), whole=asked)

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

    def ask(self):
        """What the model says of itself after its last event. One of bncheck's own is let go then: nothing that comes
        later asks it, and what it recorded can wait."""
        self.recorded = None if self.can_wait else attempt(self.recorder.arrays)
        self.said, self.kinds = attempt(self.facts), self.dtypes()
        if self.can_wait:
            self.model = self.recorder.model = None

    def collect(self):
        """(arrays or None, notes): what was recorded; the user's own layer has a say in both."""
        (arrays, lost), (notes, unsaid) = self.recorded or attempt(self.recorder.arrays), self.said
        for error in (lost, unsaid):
            if error is not None:
                self.failed.append(failure(len(self.job["events"]) - 1, "recording", error, self.judge))
        notes = self.notes if notes is None else notes
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
            return part("own_side", "inside").play(self.neighbour, self.model, self.recorder.shapes, self.ops)
        except ERRORS as error:
            self.failed.append(failure(len(self.job["events"]) - 1, "alone", error, self.judge))
            return {}, {}

    def neighbour(self, folder, name):
        """As own_side/alone.py asks for files: this process has loaded its backend and this one already."""
        known = {"backends": self.backend, "": sys.modules[__name__]}
        return known.get(folder) or part(folder, name)

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
        if op["records"] and layers and self.recorder.room:
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
    return play_cell(folder, job, inputs, backend, target).told()


def play_cell(folder, job, inputs, backend, target):
    began = time.perf_counter()
    result = {"protocol": PROTOCOL, "outcome": "ok", "event": None, "error": None, "failed": [], "dtypes": {},
              "artifacts": [], "notes": {}}  # fmt: skip
    cell, module = None, getattr(backend, "MODULE", "")
    own = blame.paths_of(job["network"], target["variant"], module, job["events"])
    judge = blame.Judge(own, bool(job["network"].get("model")), target["backend"], module)
    try:
        cell = Cell(job, inputs, backend, target, folder, judge)
    except ERRORS as error:
        result["failed"] = [about_native(failure(-1, "build", error, judge), job["network"], target["backend"])]
    else:
        cell.play()
        cell.ask()
    # An event records its input's moments, a sample of its output and states that are no larger than the input.
    weight = len(job["events"]) * sum(each.nbytes for each in inputs.values())
    return Played(result, cell, time.perf_counter() - began, weight)


class Played:
    """A cell that was played in so many ``seconds`` and recorded about ``weight`` bytes at most; ``told`` puts
    together what became of it."""

    def __init__(self, result, cell, seconds, weight):
        self.result, self.cell, self.seconds, self.weight = result, cell, seconds, weight
        self.can_wait = cell is not None and cell.can_wait

    @staticmethod
    def prepare(played):
        """Work that is done sooner for several cells at once than for one after the other."""
        recorder.measure_waiting([each.cell.recorder for each in played if each.can_wait])

    def told(self):
        """(result, arrays or None)."""
        began, arrays = time.perf_counter(), None
        if self.cell is not None:
            arrays, notes = self.cell.collect()
            cell = self.cell
            self.result.update(failed=cell.failed, dtypes=cell.kinds, artifacts=cell.artifacts, notes=notes)
        judged(self.result)
        self.result["seconds"] = self.seconds + time.perf_counter() - began
        return self.result, arrays


def judged(result):
    """Fill in how the cell went: as its gravest event."""
    for status, words in (("raised", ("raised", "failed")), ("unsupported", ("unsupported",))):
        worst = next((item for item in result["failed"] if item["status"] in words), None)
        if worst is not None:
            result.update(
                outcome=status,
                event=worst["event"],
                error={"type": worst["error_type"], "message": worst["error"], "origin": worst.get("origin", "")},
            )
            break
