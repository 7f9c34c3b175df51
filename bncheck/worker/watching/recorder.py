"""What is kept of a running program, and how it gets to disk. Knows no framework: hooks tell it what they see.

Which forwards are looked at whole is said in units.py, how those get into files in streams.py; this is what all hooks
talk to. Python 3.7 syntax and NumPy. Nothing here is called by more than one thread at a time but through ``lock``.
"""

import atexit
import os
import sys
import threading
import time

PROTOCOL = 1
SECONDS = 2.0  # between flushes at least: so much a kill can lose
SHARE = 0.003  # of the time that flushes may take
MOST_SPANS, MOST_LAYERS, MOST_ALIKE, MOST_SIGNS, MOST_CLOCKS = 200, 2000, 20, 2000, 64
INTERLEAVED = 8  # forwards of a layer between two of one span
LONGEST, MOST_NAMES = 1000, 100  # what a reader takes: letters of a name, names of a layer
AROUND = 4  # units that are looked at whole after something notable


def part(name):
    """A neighbouring file of the worker, by its path. Nothing that a file of the user's could hide is imported for it:
    the interpreter's own machinery is always there."""
    full = "bncheck_worker_" + name.replace("/", "_")
    if full not in sys.modules:
        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        files, start = sys.modules["_frozen_importlib_external"], sys.modules["_frozen_importlib"]
        spec = files.spec_from_file_location(full, os.path.join(folder, name + ".py"))
        sys.modules[full] = start.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


units, streams = part("watching/units"), part("watching/streams")
ALL = units.ALL


def json_of(value):
    return part("watching/text").json_of(value)


class Layer:
    """What the recorder knows of one layer. Hooks set what describes it, and call ``told`` afterwards."""

    def __init__(self, number, kind, channels):
        self.number, self.kind, self.channels = number, kind, channels
        self.name, self.names, self.registered, self.tracks, self.own = "", (), None, True, False
        self.dtypes, self.trainable, self.made_at = {}, None, None
        self.traced = False  # it runs in one mode, whatever it is told
        self.device = ""  # where it computes: cpu, cuda:0, …
        self.forwards, self.open, self.closed = 0, {}, 0
        self.settled = 0  # how often its kind, channels and dtypes were read
        self.told = None  # what was last written of it

    def described(self):
        return {
            "layer": self.number,
            "name": short(self.name),
            "kind": short(self.kind),
            "channels": self.channels,
            "names": [short(name) for name in self.names[:MOST_NAMES]],
            "registered": self.registered,
            "tracks": self.tracks,
            "own": self.own,
            "dtypes": self.dtypes,
            "trainable": self.trainable,
            "made_at": self.made_at,
            "device": short(self.device),
            "traced": self.traced,
        }


class Recorder:
    """Keeps what hooks tell. Its folder is made when the first normalising layer has run."""

    def __init__(self, wanted):
        self.wanted, self.keep = wanted, units.Keep(wanted.get("keep") or ALL)
        self.most_steps = wanted.get("steps")
        self.framework = self.version = ""
        self.lock = threading.RLock()
        self.stopped = False
        self.on_stop = []  # what takes the hooks away
        self.on_birth, self.on_end = [], []  # what hooks forget in a fork, and what they still have to tell
        self.world = None  # a function that gives (rank, world)
        self.born()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.born)

    @staticmethod
    def file_of(name):
        """The path of a file of code; "In[3]" for a cell of a notebook, whose file IPython makes up."""
        if "ipykernel_" in name:
            shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
            known = getattr(getattr(shell, "compile", None), "format_code_name", None)
            said = known(name) if known is not None else None
            if said:
                return str(said[1])
        return os.path.abspath(name)

    def born(self):
        """A new process: nothing is recorded of it yet."""
        self.lock = threading.RLock()
        self.pid, self.folder, self.log, self.began = os.getpid(), None, [], time.time()
        self.steps = self.forwards = self.left_out = 0
        self.layers, self.clocks, self.streams = [], {}, {}
        self.alike, self.remarked = {}, set()
        self.flushed, self.cost, self.ended = -1e9, 0.0, False  # the first beat is written at once
        for forget in self.on_birth:
            forget()

    # -- what hooks tell --------------------------------------------------------------------------------------

    def new_layer(self, kind, channels):
        """None where there are too many: layers that are made anew for each forward are no layers to follow."""
        if len(self.layers) >= MOST_LAYERS:
            self.remark("More than %d normalising layers were met; later ones are not followed." % MOST_LAYERS)
            return None
        layer = Layer(len(self.layers), kind, channels)
        self.layers.append(layer)
        return layer

    def describe(self, layer):
        key = (layer.name, layer.registered, layer.tracks, layer.trainable, len(layer.names), layer.settled)
        if key != layer.told:
            layer.told = key
            self.log.append(dict(layer.described(), dtypes=dict(layer.dtypes)))

    def clock(self, key):
        if key not in self.clocks:
            if len(self.clocks) >= MOST_CLOCKS:
                key = None  # models that are made anew again and again share one
        if key not in self.clocks:
            self.clocks[key] = units.Clock(len(self.clocks))
        return self.clocks[key]

    def beat(self, clock):
        """A call of an outermost module begins; True if its forwards are to be looked at whole."""
        clock.beat(self.steps)
        every = clock.every
        unit = clock.unit
        if clock.rest:
            return True
        looked = self.keep.look(unit)
        if looked and every and unit >= self.keep.first and unit % self.keep.every == 0 and unit % every:
            return bool(self.keep.last) and units.scattered(unit)
        return looked

    def moment(self, layer, clock, moment):
        """A forward that was looked at whole: {quantity: number or array}."""
        kinds = self.keep.classes(clock.unit)
        if kinds == ("every",) and clock.every and clock.unit % clock.every:
            kinds = ("last",)
        if clock.rest and kinds == ("last",):
            kinds = ("note",)
        kept = False
        for kind in kinds:
            key = (kind, clock.number)
            if key not in self.streams:
                self.streams[key] = streams.Stream(self, kind, clock)
            self.place()
            kept = self.streams[key].add(layer.number, clock.unit, moment) or kept
        if not kept:
            self.left_out += 1

    def streams_of(self, kind):
        return sum(stream.kind == kind for stream in self.streams.values())

    def forward(self, layer, key, n, moved, where):
        """Count a forward in its span, and return that. ``key``: training, in_backward, gradients, input_dtype."""
        whole = (key, where)
        span = layer.open.get(whole)
        if span is None or not self.goes_on(layer, span):
            span = self.open_span(layer, whole, n)
        low, high = span["n"]
        if (n < low or n > high) and low >= 0 and n >= 0:  # below zero: not known
            span["n"] = [min(low, n), max(high, n)]
        self.again(layer, span, moved)
        return span

    def goes_on(self, layer, span):
        """Whether a span has not closed, and may have one more forward."""
        return layer.forwards - span["at"] < INTERLEAVED and span["open"]

    def again(self, layer, span, moved):
        """Count one more forward of a span."""
        layer.forwards += 1
        span["at"] = layer.forwards
        span["forwards"] += 1
        if span["last_step"] == self.steps:
            span["within"] += 1
        else:
            span["last_step"], span["within"] = self.steps, 1
        span["most_per_step"] = max(span["most_per_step"], span["within"])
        span["last_index"] = self.forwards
        if moved is not None:
            span["moved"] = (span["moved"] or 0) + moved
        self.forwards += 1

    def open_span(self, layer, whole, n):
        (training, in_backward, gradients, dtype), where = whole
        for other, span in list(layer.open.items()):
            if not self.goes_on(layer, span) or other == whole:
                self.close_span(layer, other)
        span = {
            "span": layer.number, "first_index": self.forwards, "last_index": self.forwards,
            "first_step": self.steps, "last_step": self.steps, "forwards": 0, "training": training,
            "in_backward": in_backward, "gradients": gradients, "n": [n, n], "input_dtype": dtype, "moved": None,
            "most_per_step": 1, "called_from": where, "within": 0, "at": layer.forwards, "open": True,
        }  # fmt: skip
        layer.open[whole] = span
        return span

    def close_span(self, layer, whole):
        """To the log; of a layer with very many spans, those that are alike become one that goes on."""
        span = layer.open.pop(whole)
        span["open"] = False
        layer.closed += 1
        if layer.closed <= MOST_SPANS:
            self.log.append(trimmed(span))
            return
        merged = layer.__dict__.setdefault("merged", {})
        known = merged.setdefault(whole, dict(trimmed(span), forwards=0, moved=None))
        known["forwards"] += span["forwards"]
        known["last_index"], known["last_step"] = span["last_index"], span["last_step"]
        known["n"] = [min(known["n"][0], span["n"][0]), max(known["n"][1], span["n"][1])]
        known["most_per_step"] = max(known["most_per_step"], span["most_per_step"])
        if span["moved"] is not None:
            known["moved"] = (known["moved"] or 0) + span["moved"]

    def happen(self, what, layers=(), where=None, index=None, **detail):
        """Something between forwards; ``layers`` are numbers. What comes again and again is logged some times, then
        counted, and the last one kept. True if it was logged."""
        row = {
            "what": what,
            "index": self.forwards if index is None else index,
            "step": self.steps,
            "layers": sorted(set(layers)),
            "where": where,
            "detail": detail,
        }
        sign = (what, where, *(str(detail.get(name, "")) for name in ("module", "quantity", "by")))
        if sign not in self.alike and len(self.alike) >= MOST_SIGNS:
            sign = (what,)
        known = self.alike.setdefault(sign, [0, None])
        known[0] += 1
        if known[0] <= MOST_ALIKE:
            self.log.append(row)
            return True
        known[1] = row
        return False

    def notable(self, clock=None):
        """What comes now deserves to be looked at whole."""
        for each in [clock] if clock else self.clocks.values():
            each.rest = AROUND

    def remark(self, text):
        if text not in self.remarked and len(self.remarked) < 100:
            self.remarked.add(text)
            self.log.append({"remark": text[:1000]})

    def stepped(self):
        self.steps += 1
        if self.most_steps and self.steps >= self.most_steps:
            self.remark("Recorded up to step %d, as --steps says." % self.steps)
            self.stop()

    def failed(self, place, error):
        """An error of our own: it is said, and watching ends for this process."""
        self.remark("The recorder stopped at %s: %s: %s" % (place, type(error).__name__, error))
        try:
            if self.layers:
                self.place()
            self.stop()
        except Exception:  # the disk may be full: what is there stays readable
            self.stopped = True
            self.leave_word("%s: %s" % (type(error).__name__, error))

    def leave_word(self, text, mark="stopped"):
        """Beside the recordings, for a host that may find none, why recording ended, or cannot be (``unseen``)."""
        try:
            os.makedirs(os.path.join(self.wanted["folder"], "marks"), exist_ok=True)
            with open(os.path.join(self.wanted["folder"], "marks", mark), "w", encoding="utf-8") as handle:
                handle.write(text[:2000])
        except OSError:  # not even that: the host says what it knows
            pass

    def stop(self):
        if not self.stopped:
            self.stopped = True
            for take_away in self.on_stop:
                take_away()
            self.flush()

    # -- to disk ----------------------------------------------------------------------------------------------

    def place(self):
        """Make the folder of this process."""
        if self.folder is not None:
            return
        base, number = os.path.join(self.wanted["folder"], str(self.pid)), 0
        while True:
            folder = "%s-%d" % (base, number)
            try:
                os.makedirs(folder)
                break
            except FileExistsError:  # the same id again, after a process that ended
                number += 1
        self.folder = folder
        self.about()

    def about(self):
        rank, world = self.world() if self.world else (0, 1)
        self.ranked = (rank, world)
        words = list(getattr(sys, "orig_argv", None) or [sys.executable, *sys.argv])
        found = {
            "protocol": PROTOCOL,
            "framework": self.framework,
            "version": self.version,
            "program": short(program()),
            "command": words[:200],
            "pid": self.pid,
            "parent": os.getppid(),
            "rank": rank,
            "world": world,
            "keep": self.wanted.get("keep") or ALL,
            "python": sys.version.split()[0],
            "began": self.began,
            "executable": sys.executable,
        }
        self.write_json("about.json", found)

    def write_npz(self, name, arrays):
        """The path of a new file with these arrays."""
        path = os.path.join(self.folder, name)
        part("archive").write_npz(path, arrays)
        return path

    def write_json(self, name, value):
        data = json_of(value).encode("utf-8")
        part("archive").write_file(os.path.join(self.folder, name), data)

    def breathe(self):
        """After each beat: flush if it is time."""
        now = time.monotonic()
        if now - self.flushed > max(SECONDS, self.cost / SHARE):
            self.flush()

    def flush(self):
        if self.folder is None:
            return
        began = time.monotonic()
        if self.world and self.ranked[1] == 1 and self.world()[1] > 1:
            self.about()  # ranks may be told apart only after a first forward
        for stream in self.streams.values():
            if stream.kind != "every" or self.ended:
                stream.write()
        self.tell()
        self.flushed = time.monotonic()
        self.cost = self.flushed - began

    def tell(self):
        """What happened, and how far the counts have come."""
        lines, self.log = "".join(json_of(row) + "\n" for row in self.log), []
        if lines:
            append(os.path.join(self.folder, "log.jsonl"), lines.encode("utf-8"))
        spans = [trimmed(span) for layer in self.layers for span in layer.open.values()]
        spans += [span for layer in self.layers for span in layer.__dict__.get("merged", {}).values()]
        again = [dict(row, times=times - MOST_ALIKE) for times, row in self.alike.values() if row is not None]
        state = {
            "steps": self.steps, "forwards": self.forwards, "left_out": self.left_out, "spans": spans, "again": again,
            "ended": self.ended,
        }  # fmt: skip
        self.write_json("state.json", state)

    def end(self):
        """The process ends by itself."""
        if self.pid != os.getpid() or self.ended:
            return
        self.ended = True
        try:
            for tell in self.on_end:
                tell()
            # sys.exit(n) leaves no trace in here; the host knows the code of the process that it started.
            self.happen("end", code=1 if hasattr(sys, "last_type") else 0)
            self.flush()
        except Exception:  # at exit nobody could be told; what was flushed before is readable
            pass


def short(name):
    """A name as far as a reader takes it, told apart from others that begin alike by its end."""
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")  # half a surrogate is no text to a reader
    return name if len(name) <= LONGEST else name[: LONGEST // 2] + " … " + name[3 - LONGEST // 2 :]


def append(path, data):
    """All of it or nothing: half a line that a full disk left would run into the next one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before, done = os.fstat(descriptor).st_size, 0
        try:
            while done < len(data):
                done += os.write(descriptor, data[done:])
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def trimmed(span):
    return {name: value for name, value in span.items() if name not in ("within", "at", "open")}


def program():
    """What a reader knows this process by: its script, or the module of python -m."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None) or (sys.argv[0] if sys.argv else "")
    if spec is not None and spec.name != "__main__":
        name = spec.name
        return name[: -len(".__main__")] if name.endswith(".__main__") else name
    return os.path.basename(path) or "python"
