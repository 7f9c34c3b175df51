"""Normalising layers of a framework whose modules have no hooks of their own: their forward is wrapped, class by class.

The backend file says how to read a layer (an **eye**); everything here is NumPy. A beat begins with a layer that has
run in this one, after an optimiser step, or in another mode: the outermost module is not known. Loaded by recorder.py's
``part``. Python 3.7 syntax; a wrapper never raises of its own.
"""

import functools
import os
import sys
import weakref

import numpy as np

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Eye:
    """How to read the layers of a class. Functions get the layer, and the arguments of its forward where named."""

    def __init__(self, name, seen, training, state, settings, array, gradients, device, traced=None, same=None):
        self.name = name  # (layer) → what its model calls it
        self.seen = seen  # (layer, args, kwargs) → its input, or None where it is no array of numbers now
        self.training = training  # (layer, args, kwargs) → whether the batch normalises and moves the statistics
        self.state = state  # (layer) → {"mean", "var", "gamma", "beta": tensor or None}
        # (layer, input) → {"axis", "eps", "momentum", "trainable"}, and "learns" where the layer's flag says less
        self.settings = settings
        self.array = array  # (tensor) → NumPy array
        self.gradients = gradients  # () → whether gradients are recorded
        self.device = device  # (layer) → where its statistics lie: cpu, gpu:0, …
        self.traced = traced  # (layer, args, kwargs) → (shape, dtype) of an input that is traced only; None: it is not
        self.same = same or (lambda layer: layer)  # (layer) → the one that a copy stands for


class Followed:
    """One layer: the recorder's record of it, and its statistics as the last forward left them."""

    def __init__(self, layer, record):
        self.layer, self.record, self.after, self.trainable, self.bad = weakref.ref(layer), record, None, None, False


class Watcher:
    """What is known of all layers of this process."""

    def __init__(self, recorder, moments, framework, version, folders, calls):
        """``folders`` hold frames that are not the user's, ``calls`` are the code of the framework's module call."""
        recorder.framework, recorder.version = framework, version
        self.recorder, self.moments, self.calls = recorder, moments, calls
        self.compiled = None  # compiled.Calls, where the framework compiles functions
        self.own = tuple(folder + os.sep for folder in (*folders, HERE, os.path.dirname(os.__file__)))
        self.born_again()
        recorder.on_birth.append(self.born_again)

    def born_again(self):
        self.known = {}  # id of a layer → Followed
        self.ran, self.mode, self.step = set(), None, -1  # of this beat
        self.clock, self.look, self.beats = None, False, 0
        self.deep = 0  # inside a method that may call itself for others

    def wrap(self, holder, name, eye):
        """Follow every layer of a class by its forward."""
        original = getattr(holder, name)

        @functools.wraps(original)
        def forward(layer, *args, **kwargs):
            before = self.quietly("enter", self.enter, eye, layer, args, kwargs)
            found = original(layer, *args, **kwargs)
            if before is not None:
                self.quietly("leave", self.leave, eye, layer, before, found, sys._getframe(1))
            return found

        self.put(holder, name, forward)

    def put(self, holder, name, function):
        """A function in the place of another, until recording stops."""
        own, original = name in holder.__dict__, holder.__dict__.get(name)
        setattr(holder, name, function)
        self.recorder.on_stop.append(lambda: setattr(holder, name, original) if own else delattr(holder, name))

    def quietly(self, name, function, *args):
        if self.recorder.stopped:
            return None
        try:
            with self.recorder.lock:
                return function(*args)
        except Exception as error:
            self.recorder.failed(name, error)
            return None

    def steps(self, holder, name):
        """Count the optimiser's steps: calls of its method, but for those from inside one."""
        original = holder.__dict__[name]

        @functools.wraps(original)
        def step(*args, **kwargs):
            self.deep += 1
            try:
                found = original(*args, **kwargs)
            finally:
                self.deep -= 1
            if not self.deep:
                self.quietly("step", self.stepped, args[0])
            return found

        setattr(holder, name, step)
        self.recorder.on_stop.append(lambda: setattr(holder, name, original))

    def stepped(self, optimiser):
        if self.compiled is None or not self.compiled.stepping(optimiser):
            self.recorder.stepped()

    def modes(self, holder, inside):
        """Tell who calls train() and eval(); ``inside``: (module) → the modules in it."""
        for name in ("train", "eval"):
            self.mode_of(holder, name, inside)

    def mode_of(self, holder, name, inside):
        original = holder.__dict__[name]

        @functools.wraps(original)
        def switch(module, *args, **kwargs):
            self.deep += 1
            try:
                found = original(module, *args, **kwargs)
            finally:
                self.deep -= 1
            if not self.deep:
                to = "train" if name == "train" and (args[0] if args else kwargs.get("mode", True)) else "eval"
                self.quietly(name, self.switched, to, module, inside(module), sys._getframe(1))
            return found

        setattr(holder, name, switch)
        self.recorder.on_stop.append(lambda: setattr(holder, name, original))

    def switched(self, to, module, inside, frame):
        numbers = [self.known[id(each)].record.number for each in inside if id(each) in self.known]
        if numbers:
            self.recorder.happen(to, numbers, self.where(frame), module=type(module).__name__)

    # -- one forward ------------------------------------------------------------------------------------------

    def enter(self, eye, layer, args, kwargs):
        """(input, training, statistics) before a forward; None where nothing can be seen of it."""
        x = eye.seen(layer, args, kwargs)
        if x is None:
            traced = eye.traced(layer, args, kwargs) if eye.traced is not None else None
            if traced is not None:
                training, axis = bool(eye.training(layer, args, kwargs)), eye.settings(layer, None)["axis"]
                self.compiled.met(eye, eye.same(layer), training, bool(eye.gradients()), traced[0], axis, traced[1])
            return None
        state = {name: eye.array(value) for name, value in eye.state(layer).items() if value is not None}
        return x, bool(eye.training(layer, args, kwargs)), state

    def follow(self, eye, layer, state):
        known = self.known.get(id(layer))
        if known is None or known.layer() is not layer:
            record = self.recorder.new_layer(type(layer).__name__, int(np.size(state["mean"])))
            if record is None:
                return None
            record.name, record.registered = self.free(eye.name(layer)), True
            record.device = eye.device(layer)
            record.dtypes = {"running_mean": str(state["mean"].dtype), "running_var": str(state["var"].dtype)}
            known = self.known[id(layer)] = Followed(layer, record)
            weakref.finalize(layer, self.known.pop, id(layer), None)
        return known

    def free(self, name):
        taken, plain, number = {other.name for other in self.recorder.layers}, name, 2
        while name in taken:
            name, number = "%s (%d)" % (plain, number), number + 1
        return name

    def leave(self, eye, layer, before, y, frame):
        x, training, state = before
        if "mean" not in state or "var" not in state:
            return
        own = eye.same(layer)
        known = self.follow(eye, own, state)
        if known is None:
            return
        recorder, record = self.recorder, known.record
        settings = eye.settings(layer, x)
        self.beat(own, training)
        left = eye.state(layer)
        after = {name: eye.array(left[name]) for name in ("mean", "var")}
        self.jumped(known, state)
        known.after = after
        moved = any(after[name].tobytes() != state[name].tobytes() for name in after)
        self.frozen(known, settings)
        where = self.where(frame)
        shape = tuple(int(length) for length in x.shape)
        axis = settings["axis"] % len(shape)
        n = int(np.prod(shape)) // max(1, shape[axis])
        index = recorder.forwards
        dtype = str(x.dtype).rpartition(".")[2]
        recorder.describe(record)
        recorder.place()
        key = (training, False, bool(eye.gradients()), dtype)
        recorder.forward(record, key, n, moved, where)
        born = moved and not known.bad and not all(np.isfinite(value).all() for value in after.values())
        if not (self.look or born) or not n:
            recorder.left_out += 1
            return
        moment = self.moment(eye.array(x), eye.array(y), axis, state, after)
        moment.update(
            index=index,
            call=self.beats,
            step=recorder.steps,
            training=np.int8(training),
            in_backward=np.int8(0),
            gradients=np.int8(key[2]),
            n=n,
            eps=float(settings["eps"]),
            momentum=float(settings["momentum"]),
        )
        recorder.moment(record, self.clock, moment)
        self.poisoned(known, moment, state, where)

    def moment(self, x, y, axis, state, after):
        """The quantities of :mod:`bncheck.life` that arrays show."""
        with np.errstate(all="ignore"):
            wide = np.moveaxis(x.astype(np.float64), axis, 0).reshape(x.shape[axis], -1)
            mean = wide.mean(1)
            var = ((wide - mean[:, None]) ** 2).mean(1)
        found = {
            "samples": int(x.shape[0]),
            "input_mean": mean,
            "input_var": var,
            "input_bad": bad(x),
            "output_bad": bad(y),
            "mean_before": state["mean"],
            "var_before": state["var"],
            "mean_after": after["mean"],
            "var_after": after["var"],
            "counter_before": np.nan,
            "counter_after": np.nan,
            "used_mean": np.full(len(mean), np.nan),
            "used_invstd": np.full(len(mean), np.nan),
            "used_residual": np.nan,
            "output_scale": float(np.std(y, dtype=np.float64)) if y.size else np.nan,
        }
        found.update({name: state[name] for name in ("gamma", "beta") if name in state})
        if y.shape == x.shape:
            step = max(1, wide.shape[1] // self.moments.POINTS) | 1
            out = np.moveaxis(y.astype(np.float64), axis, 0).reshape(len(mean), -1)[:, ::step]
            fitted = self.moments.revealed(
                np.ascontiguousarray(wide[:, ::step]), out, state.get("gamma"), state.get("beta")
            )
            found.update(zip(("used_mean", "used_invstd", "used_residual"), fitted))
        return found

    def beat(self, layer, training):
        recorder = self.recorder
        if id(layer) not in self.ran and training == self.mode and recorder.steps == self.step:
            self.ran.add(id(layer))
            return
        recorder.breathe()
        self.ran, self.mode, self.step = {id(layer)}, training, recorder.steps
        self.beats += 1
        self.clock = recorder.clock(training)
        self.look = recorder.beat(self.clock)

    # -- between forwards -------------------------------------------------------------------------------------

    def jumped(self, known, state):
        if known.after is None:
            return
        for name, quantity in (("mean", "running_mean"), ("var", "running_var")):
            left, now = known.after[name], state[name]
            if left.tobytes() != now.tobytes() and left.shape == now.shape:
                with np.errstate(all="ignore"):
                    largest = float(np.max(np.abs(now.astype(np.float64) - left), initial=0.0))
                self.recorder.happen("jump", [known.record.number], None, quantity=quantity, largest=largest, by="")
                self.recorder.notable(self.clock)

    def frozen(self, known, settings):
        learns = settings.get("learns", settings["trainable"])
        was, known.trainable = known.trainable, learns
        known.record.trainable = learns
        if was is not None and was != learns:
            flag = {"flag": settings["trainable"]} if "learns" in settings else {}
            self.recorder.happen("requires_grad", [known.record.number], None, value=learns, **flag)

    def poisoned(self, known, moment, state, where):
        if known.bad or not (
            moment["input_bad"] or moment["output_bad"] or not np.isfinite(moment["mean_after"]).all()
        ):
            return
        known.bad = True
        clean = not moment["input_bad"]
        held = all(np.isfinite(state[name]).all() for name in ("mean", "var"))
        place = "input" if not clean else "output" if held and moment["output_bad"] else "state"
        self.recorder.happen("nonfinite", [known.record.number], where, **{"in": place, "born": clean})
        self.recorder.notable()

    def where(self, frame):
        """(file, line, function) of the user's frame that called the outermost module that is being called."""
        outermost, each = frame, frame
        while each is not None:
            if each.f_code in self.calls:
                outermost = each
            each = each.f_back
        while outermost is not None:
            code = outermost.f_code
            if not code.co_filename.startswith("<") and not self.of_others(code.co_filename):
                return (self.recorder.file_of(code.co_filename), outermost.f_lineno, code.co_name)
            outermost = outermost.f_back
        return None

    def of_others(self, name):
        return name.startswith(self.own) and not (name.startswith(self.own[-1]) and "-packages" in name)


def bad(values):
    return int(np.size(values) - np.count_nonzero(np.isfinite(values)))
