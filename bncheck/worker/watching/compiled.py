"""Layers inside compiled functions: a tf.function, a jitted step of Keras, nnx.jit, a hybridized block.

Python meets such a layer once, while its function is traced: in which mode it runs, on how many values. Each later call
does the same again, and what it did to the statistics is read around it. What went into the layers and what came out is
never seen. The backend file says how to read state; everything here is NumPy. Loaded by recorder.py's ``part``.
Python 3.7 syntax.
"""

import weakref

import numpy as np

SAID = (
    "Layers ran inside compiled functions (%s): their modes, counts and statistics were read around each call, what "
    "went into them and came out was not."
)
UNSEEN = "Layers ran where they were not seen: %s"
WHICH = "A compiled function has several forms (%s), and which of them ran could not be told: it was not followed."
MOST_TRACES = 1000


class Ran:
    """One forward of a layer in a traced function. ``n`` values per channel and ``samples``: -1 where not known;
    ``place`` among the arguments of a call, where the same trace serves others too."""

    def __init__(self, eye, who, place, training, gradients, n, samples, dtype):
        self.eye, self.who, self.place, self.training, self.gradients = (
            eye,
            weakref.ref(who),
            place,
            training,
            gradients,
        )
        self.n, self.samples, self.dtype = n, samples, dtype

    def alike(self, other):
        one, two = ((each.place, each.training, each.gradients) for each in (self, other))
        return one == two and (self.place is not None or self.who() is other.who())


class Step:
    """A step of an optimiser in a traced function."""

    def __init__(self, who, place):
        self.who, self.place = weakref.ref(who), place


class Trace:
    """What one compiled function runs, in order: forwards of layers, steps of optimisers."""

    def __init__(self):
        self.events = []

    @property
    def forwards(self):
        return [each for each in self.events if isinstance(each, Ran)]

    @property
    def steps(self):
        return [each for each in self.events if isinstance(each, Step)]

    def alike(self, other):
        pairs = list(zip(self.forwards, other.forwards))
        return len(self.events) == len(other.events) and all(one.alike(two) for one, two in pairs)


class Call:
    """One call of a compiled function, while it runs. ``read``: (layer) → its state now, as arrays; ``mode``:
    (training, gradients) where each call decides them; ``places``: the layers and optimisers that the call was given,
    where a function is called with others."""

    def __init__(self, holder, key, read, count, mode, places):
        self.holder, self.key, self.read, self.count, self.mode = holder, key, read, count, mode
        self.places = places
        self.trace, self.before, self.steps = Trace(), {}, {}

    def who(self, event):
        """The layer of a forward or the optimiser of a step; None where it is gone."""
        if event.place is None:
            return event.who()
        return self.places[event.place] if event.place < len(self.places) else None

    def place(self, who):
        return next((at for at, each in enumerate(self.places) if each is who), None)

    def look(self, layer):
        if layer is not None and self.before.get(id(layer)) is None:
            self.before[id(layer)] = self.read(layer)

    def look_at(self, optimiser):
        if optimiser is not None and id(optimiser) not in self.steps:
            self.steps[id(optimiser)] = self.count(optimiser)


class Calls:
    """The compiled functions of a program. ``what`` compiles them, in the framework's words; ``unseen`` is a sentence
    on what cannot be followed, and what to do."""

    def __init__(self, watcher, what, unseen, read, count):
        """``read``: (layer) → {"mean", "var", "gamma", "beta": array or None}; ``count``: (optimiser) → its steps."""
        self.watcher, self.recorder, self.what, self.unseen = watcher, watcher.recorder, what, unseen
        self.read, self.count = read, count
        self.born_again()
        self.recorder.on_birth.append(self.born_again)

    def born_again(self):
        self.open, self.traces = None, weakref.WeakKeyDictionary()  # function → {key of a call → Trace}

    # -- one call ---------------------------------------------------------------------------------------------

    def begin(self, holder, key=None, read=None, count=None, mode=None, places=()):
        """A call begins; None where it runs inside another."""
        if self.open is not None:
            return None
        self.open = call = Call(holder, key, read or self.read, count or self.count, mode, places)
        trace = self.of(holder, key)
        if trace is not None:
            for ran in trace.forwards:
                call.look(call.who(ran))
            for step in trace.steps:
                call.look_at(call.who(step))
        return call

    def of(self, holder, key):
        """The trace of a call: that of its key, else the one that all traces of the function are like."""
        known = self.traces.get(holder, {})
        if key in known:
            return known[key]
        traces = list(known.values())
        return traces[0] if traces and all(each.alike(traces[0]) for each in traces[1:]) else None

    def met(self, eye, layer, training, gradients, shape, axis, dtype):
        """A layer runs with nothing but the shape of its input known: a function is being traced."""
        call = self.open
        if call is None:
            if self.recorder.folder is None and UNSEEN % self.unseen not in self.recorder.remarked:
                self.recorder.leave_word(self.unseen, "unseen")  # it may be all that there is
            self.recorder.remark(UNSEEN % self.unseen)
            return
        sizes = [None if length is None else int(length) for length in shape]
        others = [length for at, length in enumerate(sizes) if at != axis % len(sizes)]
        n = -1 if None in others else int(np.prod(others))
        samples = -1 if sizes[0] is None else sizes[0]
        call.look(layer)
        call.trace.events.append(Ran(eye, layer, call.place(layer), training, gradients, n, samples, dtype))

    def stepping(self, optimiser):
        """An optimiser steps in the function that is being traced. False where none is."""
        if self.open is None:
            return False
        self.open.look_at(optimiser)
        self.open.trace.events.append(Step(optimiser, self.open.place(optimiser)))
        return True

    def failed(self):
        self.open = None

    def end(self, call, where, read=None, count=None):
        """The call has ended: what it ran is counted, and its state read."""
        self.open = None
        fresh, known = bool(call.trace.events), self.traces.setdefault(call.holder, {})
        if fresh:
            if call.key in known:
                self.blur(known[call.key], call.trace)
            elif len(known) < MOST_TRACES:
                known[call.key] = call.trace
        trace = call.trace if fresh else self.of(call.holder, call.key)
        if trace is None:
            if known:
                self.recorder.remark(WHICH % self.what)
            return
        turns, steps = self.done(trace, call, count or call.count)
        if trace.forwards:
            self.recorder.remark(SAID % self.what)
            self.beat(call, trace)
        seen = self.seen(trace, call, read or call.read, where)
        for event in trace.events * turns:
            if isinstance(event, Step):
                if steps:
                    steps -= 1
                    self.recorder.stepped()
            elif id(call.who(event)) in seen:
                self.tell(event, call, seen[id(call.who(event))], where)
        for layer in seen.values():
            self.keep(layer, turns, call)

    def blur(self, known, now):
        """A function was traced anew under one key: of later calls it is not known how many values go in."""
        if known.alike(now):
            for one, two in zip(known.forwards, now.forwards):
                one.n, one.samples = (one.n, one.samples) if one.n == two.n else (-1, -1)
        else:
            known.events = now.events

    def done(self, trace, call, count):
        """(how often a call ran what was traced, steps that optimisers made in it)."""
        turns, total, times = 1, 0, {}
        for step in trace.steps:
            times.setdefault(id(call.who(step)), [call.who(step), 0])[1] += 1
        for optimiser, traced in times.values():
            before = call.steps.get(id(optimiser))
            after = None if before is None else count(optimiser)
            made = traced if before is None or after is None else after - before
            turns, total = max(turns, -(-made // traced)), total + made
        return turns, total

    def beat(self, call, trace):
        watcher, recorder = self.watcher, self.recorder
        recorder.breathe()
        training = any(self.mode(ran, call)[0] for ran in trace.forwards)
        watcher.ran, watcher.mode = set(), None  # what runs next outside of the function begins anew
        watcher.beats += 1
        watcher.clock = recorder.clock(("compiled", training))
        watcher.look = recorder.beat(watcher.clock)

    def mode(self, ran, call):
        return call.mode or (ran.training, ran.gradients)

    def seen(self, trace, call, read, where):
        """id of each layer that ran and can be read → Seen; what happened to it is told."""
        found = {}
        for ran in trace.forwards:
            layer = call.who(ran)
            if layer is None:
                continue
            if id(layer) in found:
                found[id(layer)].forwards.append(ran)
                continue
            before, after = call.before.get(id(layer)), read(layer)
            if before is None or after is None or before["mean"] is None or before["var"] is None:
                continue
            known = self.watcher.follow(ran.eye, layer, before)
            if known is not None:
                found[id(layer)] = Seen(known, before, after, [ran], ran.eye.settings(layer, None))
        for each in found.values():
            self.happened(each, any(self.mode(ran, call)[0] for ran in each.forwards), where)
        return found

    def happened(self, layer, training, where):
        watcher, known = self.watcher, layer.known
        watcher.jumped(known, layer.before)
        known.after = {name: layer.before[name] for name in ("mean", "var")}
        if layer.changed and not training:  # no forward of it did that
            watcher.jumped(known, layer.after)
        known.after = {name: layer.after[name] for name in ("mean", "var")}
        watcher.frozen(known, layer.settings)
        self.recorder.describe(known.record)
        self.recorder.place()
        self.poisoned(known, layer.before, layer.after, where)

    def tell(self, ran, call, layer, where):
        training, gradients = self.mode(ran, call)
        if layer.index is None:
            layer.index, layer.step = self.recorder.forwards, self.recorder.steps
        key = (bool(training), False, bool(gradients), ran.dtype)
        self.recorder.forward(layer.known.record, key, ran.n, layer.changed and bool(training), where)

    def keep(self, layer, turns, call):
        ran, many = layer.forwards[0], turns * len(layer.forwards)
        if self.watcher.look and many == 1:
            self.recorder.moment(layer.known.record, self.watcher.clock, self.moment(ran, call, layer))
        else:
            self.recorder.left_out += many

    def moment(self, ran, call, layer):
        """A forward whose input and output are not known."""
        before, after, (training, gradients) = layer.before, layer.after, self.mode(ran, call)
        found = {
            "mean_before": before["mean"],
            "var_before": before["var"],
            "mean_after": after["mean"],
            "var_after": after["var"],
            "index": layer.index,
            "call": self.watcher.beats,
            "step": layer.step,
            "training": np.int8(training),
            "in_backward": np.int8(0),
            "gradients": np.int8(gradients),
            "n": ran.n,
            "samples": ran.samples,
            "eps": float(layer.settings["eps"]),
            "momentum": float(layer.settings["momentum"]),
        }
        found.update({name: before[name] for name in ("gamma", "beta") if before.get(name) is not None})
        return found

    def poisoned(self, known, before, after, where):
        """The first NaN or Inf in the statistics. What brought it is not seen."""
        if known.bad or all(np.isfinite(after[name]).all() for name in ("mean", "var")):
            return
        known.bad = True
        if all(np.isfinite(before[name]).all() for name in ("mean", "var")):
            self.recorder.happen("nonfinite", [known.record.number], where, **{"in": "state", "born": None})
            self.recorder.notable()


class Seen:
    """A layer that ran in a call: its state around it, and the forwards of it in the function."""

    def __init__(self, known, before, after, forwards, settings):
        self.known, self.before, self.after, self.forwards, self.settings = known, before, after, forwards, settings
        self.changed = any(before[name].tobytes() != after[name].tobytes() for name in ("mean", "var"))
        self.index = self.step = None  # of its first forward
