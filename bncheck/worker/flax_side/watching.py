"""What ``bncheck watch`` follows in a program on Flax nnx: each BatchNorm that runs eagerly, also inside nnx.grad, and
the state around calls of nnx.jit (../watching/compiled.py).

A transform of nnx hands copies of modules to the function that it transforms. A copy is known by its place: the
layers among the arguments inside come in the order of those outside. Loaded by recorder.py's ``part``, in the user's
program. Python 3.7 syntax.
"""

import functools
import importlib
import os
import sys
import weakref

import numpy as np

WORDS = {"mean": "mean", "var": "var", "gamma": "scale", "beta": "bias"}
GRADIENTS = ("grad", "value_and_grad")
JITTED = ("JitWrapped", "SimpleJitWrapped", "SimpleJitPartialWrapped")
MOST_NAMED = 2000
UNSEEN = (
    "jax.jit hands arrays to a function, and a module that it makes of them is gone behind it. Use nnx.jit, which is "
    "seen."
)


def install(recorder):
    import flax
    import jax
    from flax import nnx

    part = sys.modules["bncheck_watching_recorder"].part
    watcher = kind_of(part("watching/layers").Watcher, nnx)(
        recorder,
        part("torch_side/moments"),
        "flax",
        flax.__version__,
        [os.path.dirname(flax.__file__), os.path.dirname(jax.__file__)],
        set(),
    )
    copies = Copies(nnx, jax)
    recorder.on_birth.append(copies.born_again)
    watcher.compiled = part("watching/compiled").Calls(watcher, "nnx.jit", UNSEEN, copies.read, copies.count)
    eye = part("watching/layers").Eye(
        name=copies.name,
        seen=lambda layer, args, kwargs: copies.seen(args, kwargs),
        training=training,
        state=lambda layer: {word: held(getattr(layer, name)) for word, name in WORDS.items()},
        settings=lambda layer, x: {
            "axis": layer.axis,
            "eps": layer.epsilon,
            "momentum": layer.momentum,
            "trainable": None,
        },
        array=lambda value: np.array(copies.concrete(value)),
        gradients=lambda: copies.grads > 0,
        device=lambda layer: device_of(copies.concrete(held(layer.mean))),
        traced=lambda layer, args, kwargs: copies.traced(args, kwargs),
        same=copies.same,
    )
    watcher.wrap(nnx.BatchNorm, "__call__", eye)
    watcher.modes(nnx.Module, lambda module: copies.layers_in([module]))
    steps(watcher, copies, nnx)
    transforms(watcher, copies, nnx)


def kind_of(watcher, nnx):
    class FlaxWatcher(watcher):
        """A model's own __call__ is what calls its layers: the user's line is the one that called the model."""

        def where(self, frame):
            outermost, each = frame, frame
            while each is not None:
                if each.f_code.co_name == "__call__" and isinstance(each.f_locals.get("self"), nnx.Module):
                    outermost = each.f_back
                each = each.f_back
            return super(FlaxWatcher, self).where(outermost)

    return FlaxWatcher


def held(variable):
    """The value of a variable, under the name that this version of Flax has for it."""
    if variable is None:
        return None
    return variable.get_value() if hasattr(variable, "get_value") else variable.value


def device_of(value):
    """Where a value of JAX lies: ``cpu``, ``gpu:0``; "" where none is known yet."""
    places = value.devices() if hasattr(value, "devices") else ()
    return ", ".join(sorted({each.platform if each.platform == "cpu" else "%s:%d" % (each.platform, each.id)
                             for each in places}))  # fmt: skip


def training(layer, args, kwargs):
    told = args[1] if len(args) > 1 else kwargs.get("use_running_average")
    return not (layer.use_running_average if told is None else told)


class Copies:
    """Which of the user's layers and optimisers a copy inside a transform stands for."""

    def __init__(self, nnx, jax):
        self.nnx, self.tracer, self.array = nnx, jax.core.Tracer, jax.Array
        self.leaves = jax.tree_util.tree_leaves
        self.born_again()

    def born_again(self):
        self.stack, self.kept, self.stands = [], [], {}  # calls of transforms; copies and what they stand for
        self.grads = 0  # functions that nnx.grad differentiates, which run now
        self.inside = weakref.WeakKeyDictionary()  # module → what lies in it, with paths
        self.names = {}  # id of a variable of statistics → path of its layer
        self.first = {}  # id of a variable of statistics → the first module that held it

    # -- values -----------------------------------------------------------------------------------------------

    def concrete(self, value):
        """What a tracer of a gradient knows; None where a value is known to no one yet."""
        while isinstance(value, self.tracer):
            value = getattr(value, "primal", None)
        return value

    def seen(self, args, kwargs):
        x = self.concrete(args[0] if args else kwargs.get("x"))
        return x if isinstance(x, self.array) and kwargs.get("mask") is None else None

    def traced(self, args, kwargs):
        x = args[0] if args else kwargs.get("x")
        return (tuple(x.shape), str(x.dtype)) if isinstance(x, self.tracer) else None

    def read(self, layer):
        found = {}
        for word, name in WORDS.items():
            value = held(getattr(layer, name))
            if isinstance(value, self.tracer):
                return None  # a copy that stands for nothing that is known
            found[word] = None if value is None else np.array(value)
        return found

    def count(self, optimiser):
        value = held(optimiser.step)
        return None if isinstance(value, self.tracer) else int(value)

    # -- places -----------------------------------------------------------------------------------------------

    def nodes(self, things):
        """Modules and optimisers among arguments, in order, each once."""
        found, boxes = {}, list(things)
        while boxes:
            thing = boxes.pop(0)
            if isinstance(thing, (self.nnx.Module, self.nnx.Optimizer)):
                found.setdefault(id(thing), thing)
            elif isinstance(thing, (list, tuple)):
                boxes[:0] = list(thing)
            elif isinstance(thing, dict):
                boxes[:0] = list(thing.values())
        return list(found.values())

    def parts(self, things, remembered=True):
        """Layers and optimisers in arguments, in order, each once."""
        found = {}
        for node in self.nodes(things):
            known = self.inside.get(node) if remembered else None
            if known is None:
                known = [(path, each) for path, each in self.nnx.iter_graph(node) if self.wanted(each)]
                if remembered:
                    self.inside[node] = [(path, weakref.ref(each)) for path, each in known]
            for path, each in known:
                each = each() if isinstance(each, weakref.ref) else each
                if each is not None and id(each) not in found:
                    found[id(each)] = (path, each)
        return list(found.values())

    def wanted(self, each):
        return isinstance(each, (self.nnx.BatchNorm, self.nnx.Optimizer))

    def layers_in(self, things):
        return [self.same(each) for _, each in self.parts(things) if isinstance(each, self.nnx.BatchNorm)]

    def same(self, each):
        """The user's own module or optimiser that one stands for; the first of those that share their variables."""
        known = self.stands.get(id(each))
        if known is not None:
            return known
        if not isinstance(each, self.nnx.BatchNorm) or isinstance(held(each.mean), self.tracer):
            return each
        first = self.first.get(id(each.mean))
        if first is None or first() is None or first().mean is not each.mean:
            first = self.first[id(each.mean)] = weakref.ref(each)
        return first()

    def leave(self, args, kwargs):
        """A transform is called: these are what its function gets copies of."""
        parts = self.parts([*args, *kwargs.values()], not self.stack)
        for path, each in parts:
            if isinstance(each, self.nnx.BatchNorm) and not self.stack and len(self.names) < MOST_NAMED:
                self.names.setdefault(id(each.mean), ".".join(map(str, path)))
        self.stack.append([self.same(each) for _, each in parts])

    def back(self):
        self.stack.pop()
        if not self.stack:
            self.kept, self.stands = [], {}

    def arrive(self, args, kwargs):
        """Inside the transformed function: its copies stand for what the call was given."""
        if not self.stack:
            return
        parts = [each for _, each in self.parts([*args, *kwargs.values()], False)]
        given = self.stack[-1]
        if [type(each) for each in parts] == [type(each) for each in given]:
            self.kept += parts
            self.stands.update((id(copy), each) for copy, each in zip(parts, given) if copy is not each)

    def name(self, layer):
        """Its path in what was handed to a transform, else in the outermost module that is being called."""
        known = self.names.get(id(layer.mean))
        frame, outermost = sys._getframe(1), None
        while frame is not None and not known:
            if frame.f_code.co_name == "__call__" and isinstance(frame.f_locals.get("self"), self.nnx.Module):
                outermost = frame.f_locals["self"]
            frame = frame.f_back
        if outermost is not None and not known:
            paths = [path for path, each in self.parts([outermost]) if each is layer or self.same(each) is layer]
            known = ".".join(map(str, paths[0])) if paths else ""
        return known or type(layer).__name__


def steps(watcher, copies, nnx):
    original = nnx.Optimizer.update

    @functools.wraps(original)
    def update(optimiser, *args, **kwargs):
        found = original(optimiser, *args, **kwargs)
        traced = copies.count(optimiser) is None
        if watcher.compiled.open is not None and traced:
            watcher.quietly("step", watcher.compiled.stepping, copies.same(optimiser))
        elif not traced:
            watcher.quietly("step", watcher.recorder.stepped)
        return found

    watcher.put(nnx.Optimizer, "update", update)


def transforms(watcher, copies, nnx):
    compilation = importlib.import_module("flax.nnx.transforms.compilation")
    autodiff = importlib.import_module("flax.nnx.transforms.autodiff")
    for name in JITTED:
        if hasattr(compilation, name):
            around_jit(watcher, copies, getattr(compilation, name))
    jit = function_of(watcher, copies, compilation.jit, False)
    for holder in (nnx, compilation):
        watcher.put(holder, "jit", jit)
    for name in GRADIENTS:
        grad = function_of(watcher, copies, getattr(autodiff, name), True)
        for holder in (nnx, autodiff):
            watcher.put(holder, name, grad)


def function_of(watcher, copies, transform, differentiates):
    """A transform whose function says what it gets, and, of a gradient, whose result says what it is given."""

    @functools.wraps(transform)
    def transformed(*args, **kwargs):
        if not args or not callable(args[0]):
            return transform(*args, **kwargs)  # a decorator with arguments: it comes back here
        made = transform(inside(watcher, copies, args[0], differentiates), *args[1:], **kwargs)
        return outside(watcher, copies, made) if differentiates else made

    return transformed


def inside(watcher, copies, function, differentiates):
    @functools.wraps(function)
    def told(*args, **kwargs):
        watcher.quietly("arrive", copies.arrive, args, kwargs)
        copies.grads += differentiates
        try:
            return function(*args, **kwargs)
        finally:
            copies.grads -= differentiates

    return told


def outside(watcher, copies, function):
    @functools.wraps(function)
    def told(*args, **kwargs):
        if watcher.recorder.stopped:
            return function(*args, **kwargs)
        watcher.quietly("leave", copies.leave, args, kwargs)
        try:
            return function(*args, **kwargs)
        finally:
            if copies.stack:
                copies.back()

    return told


def around_jit(watcher, copies, kind):
    original, calls = kind.__call__, watcher.compiled

    @functools.wraps(original)
    def call(function, *args, **kwargs):
        if watcher.recorder.stopped:
            return original(function, *args, **kwargs)
        watcher.quietly("leave", copies.leave, args, kwargs)
        places = tuple(copies.stack[-1]) if copies.stack else ()
        begun = watcher.quietly("begin", lambda: calls.begin(function, key_of(copies, args, kwargs), places=places))
        try:
            found = original(function, *args, **kwargs)
        except BaseException:
            if begun is not None:
                calls.failed()
            raise
        finally:
            if copies.stack:
                copies.back()
        if begun is not None:
            watcher.quietly("end", calls.end, begun, watcher.where(sys._getframe(1)))
        return found

    watcher.put(kind, "__call__", call)


def key_of(copies, args, kwargs):
    """What decides which trace of a function runs: which modules, in which mode, on arrays of which shapes."""
    parts = copies.stack[-1] if copies.stack else []
    modes = tuple(bool(getattr(each, "use_running_average", False)) for each in parts)
    plain = [each for each in (*args, *kwargs.values()) if not copies.nodes([each])]
    return modes, tuple(sign(each) for each in copies.leaves(plain))


def sign(each):
    if hasattr(each, "shape") and hasattr(each, "dtype"):
        return tuple(each.shape), str(each.dtype)
    return each if isinstance(each, (bool, int, float, str)) else id(each)
