"""What ``bncheck watch`` follows in a program on Keras 3: on PyTorch each forward; on TensorFlow and JAX each that runs
eagerly, and around the compiled functions in which most of them run the state (../watching/compiled.py).

Loaded by recorder.py's ``part``, in the user's program. Python 3.7 syntax.
"""

import functools
import importlib
import inspect
import os
import sys

import numpy as np

STATISTICS = {"mean": "moving_mean", "var": "moving_variance", "gamma": "gamma", "beta": "beta"}
COMPILED = {  # what is compiled and seen, and what is not seen
    "tensorflow": ("tf.function, fit()", "a model was traced to be exported, or by get_concrete_function()."),
    "jax": (
        "fit(), evaluate(), predict()",
        "your own jax.jit or jax.grad runs the layers through stateless_call(). fit() is seen, and every loop with "
        "KERAS_BACKEND=torch.",
    ),
}


def install(recorder):
    import keras

    part = sys.modules["bncheck_watching_recorder"].part
    name, layers = keras.backend.backend(), keras.layers
    if name not in ENGINES:
        recorder.leave_word(
            "Keras runs on %s, where its layers are not seen. Set KERAS_BACKEND=torch." % name, "unseen"
        )
        return
    engine = ENGINES[name](keras)
    watcher = part("watching/layers").Watcher(
        recorder,
        part("torch_side/moments"),
        "keras",
        keras.__version__,
        [os.path.dirname(keras.__file__), *engine.folders()],
        {inspect.unwrap(layers.Layer.__call__).__code__},
    )
    if name in COMPILED:
        watcher.compiled = part("watching/compiled").Calls(watcher, *COMPILED[name], engine.read, engine.count)
    eye = part("watching/layers").Eye(
        name=lambda layer: layer.name,
        seen=lambda layer, args, kwargs: seen(keras, engine, layer, args, kwargs),
        training=lambda layer, args, kwargs: (
            bool(kwargs.get("training", args[1] if len(args) > 1 else False)) and layer.trainable
        ),
        state=lambda layer: {word: getattr(layer, kept) for word, kept in STATISTICS.items()},
        settings=lambda layer, x: {
            "axis": layer.axis,
            "eps": layer.epsilon,
            "momentum": layer.momentum,
            "trainable": bool(layer.trainable),
            "learns": learns(layer),
        },
        array=lambda value: np.array(keras.ops.convert_to_numpy(value)),
        gradients=lambda: engine.gradients(watcher),
        device=lambda layer: device_of(layer.moving_mean),
        traced=lambda layer, args, kwargs: traced(keras, engine, layer, args, kwargs),
    )
    watcher.wrap(layers.BatchNormalization, "call", eye)
    watcher.steps(importlib.import_module("keras.src.optimizers.base_optimizer").BaseOptimizer, "apply")
    engine.install(watcher)


def given(keras, layer, args, kwargs):
    """The input of a layer, all of which goes into the statistics; None where it does not, or is no value at all."""
    x = args[0] if args else kwargs.get("inputs")
    masked = len(args) > 2 or kwargs.get("mask") is not None
    if isinstance(x, keras.KerasTensor) or getattr(layer, "renorm", False) or not layer.built or masked:
        return None
    return None if symbolic() else x


def symbolic():
    """Whether Keras only asks for the shape of an output."""
    scope = sys.modules.get("keras.src.backend.common.symbolic_scope")
    return scope is not None and scope.in_symbolic_scope()


def seen(keras, engine, layer, args, kwargs):
    x = given(keras, layer, args, kwargs)
    return x if x is not None and engine.known(x) else None


def traced(keras, engine, layer, args, kwargs):
    x = given(keras, layer, args, kwargs)
    if x is None or engine.known(x) or not engine.unknown(x):
        return None
    return tuple(x.shape), str(getattr(x.dtype, "name", x.dtype))


def learns(layer):
    """Whether gamma or beta is trained: people freeze a layer, or its variables alone."""
    held = [each for each in (layer.gamma, layer.beta) if each is not None]
    return bool(layer.trainable) and (any(each.trainable for each in held) or not held)


def arrays(layer, value_of):
    """The state of a layer as arrays. ``value_of``: variable → what NumPy takes, or None."""
    found = {}
    for word, kept in STATISTICS.items():
        variable = getattr(layer, kept, None)
        value = None if variable is None else value_of(variable)
        found[word] = None if value is None else np.array(value)
    return found


class Torch:
    """Nothing is compiled but what the user asks for, and nothing has to be wrapped."""

    def __init__(self, keras):
        pass

    def folders(self):
        return ()

    def known(self, x):
        return type(x).__name__ in ("Tensor", "Parameter") and x.device.type != "meta"

    def unknown(self, x):
        return False

    def gradients(self, watcher):
        return sys.modules["torch"].is_grad_enabled()

    def install(self, watcher):
        pass


class TensorFlow:
    """Every call of a tf.function from outside of any other is looked at, that of fit() too."""

    def __init__(self, keras):
        import tensorflow

        self.tf = tensorflow
        self.functions = importlib.import_module("tensorflow.python.eager.polymorphic_function.polymorphic_function")
        self.tapes = importlib.import_module("tensorflow.python.pywrap_tfe")
        self.graph = importlib.import_module("tensorflow.python.framework.ops").get_default_graph
        self.tracings = []  # of functions that call each other

    def folders(self):
        return (os.path.dirname(self.tf.__file__),)

    def known(self, x):
        return hasattr(x, "numpy") and self.tf.executing_eagerly()

    def unknown(self, x):
        if not self.tf.is_tensor(x):
            return False
        graph, inside = self.graph(), {}
        while graph is not None:
            inside[id(getattr(graph, "outer_graph", None))] = graph
            graph = getattr(graph, "outer_graph", None)
        for tracing in self.tracings:
            if tracing.anew(inside.get(id(tracing.caller))):
                break
        return True

    def gradients(self, watcher):
        return not self.tapes.TFE_Py_TapeSetIsEmpty()

    def value(self, variable):
        with self.tf.init_scope():  # out of the function that is being traced
            return variable.value.numpy()

    def read(self, layer):
        return arrays(layer, self.value)

    def count(self, optimiser):
        return int(self.value(optimiser.iterations))

    def key(self, args, kwargs):
        """What decides which trace of a function runs: types and shapes of tensors, the values of what is none."""
        return tuple(self.sign(each) for each in self.tf.nest.flatten((args, kwargs)))

    def sign(self, each):
        if hasattr(each, "shape") and hasattr(each, "dtype"):
            return str(each.shape), str(each.dtype)
        if each is None or isinstance(each, (bool, int, float, str)):
            return each
        return str(each.element_spec) if hasattr(each, "element_spec") else id(each)

    def install(self, watcher):
        calls, original, engine = watcher.compiled, self.functions.Function.__call__, self

        @functools.wraps(original)
        def call(function, *args, **kwargs):
            if watcher.recorder.stopped or not (calls.open or engine.tf.executing_eagerly()):
                return original(function, *args, **kwargs)
            begun = None
            if calls.open is None:
                begun = watcher.quietly("begin", lambda: calls.begin(function, engine.key(args, kwargs)))
            engine.tracings.append(Tracing(engine.graph(), calls.open))
            try:
                found = original(function, *args, **kwargs)
            except BaseException:
                if begun is not None:
                    calls.failed()
                raise
            finally:
                engine.tracings.pop()
            if begun is not None:
                watcher.quietly("end", calls.end, begun, watcher.where(sys._getframe(1)))
            return found

        watcher.put(self.functions.Function, "__call__", call)


class Tracing:
    """A call of a function, from a graph. A function that makes variables is traced twice, and the first time is no
    more than that."""

    def __init__(self, caller, call):
        self.caller, self.call, self.graph = caller, call, None
        self.start = len(call.trace.events) if call is not None else 0

    def anew(self, graph):
        """Whether another graph of this function is being made: what was met in the last one is taken back."""
        before, self.graph = self.graph, graph
        if before is None or before is graph or self.call is None:
            return False
        del self.call.trace.events[self.start :]
        return True


class Jax:
    """Keras jits a step of training, evaluation or prediction; state goes in and comes out of each by itself."""

    def __init__(self, keras):
        import jax

        self.jax = jax

    def folders(self):
        return (os.path.dirname(self.jax.__file__),)

    def known(self, x):
        return isinstance(x, self.jax.Array) and not isinstance(x, self.jax.core.Tracer)

    def unknown(self, x):
        return isinstance(x, self.jax.core.Tracer)

    def gradients(self, watcher):
        return watcher.compiled.open is not None and watcher.compiled.open.key == "train"

    def read(self, layer):
        return arrays(layer, lambda variable: variable.value)

    def count(self, optimiser):
        return int(optimiser.iterations.value)

    def install(self, watcher):
        trainer = importlib.import_module("keras.src.backend.jax.trainer").JAXTrainer
        for kind in ("train", "test", "predict"):
            self.make(watcher, trainer, kind)

    def make(self, watcher, trainer, kind):
        name, original = kind + "_function", getattr(trainer, "make_%s_function" % kind)

        @functools.wraps(original)
        def make(model, *args, **kwargs):
            found = original(model, *args, **kwargs)
            function = getattr(model, name, None)
            if function is not None and not hasattr(function, "bncheck_wraps") and not watcher.recorder.stopped:
                setattr(model, name, self.around(watcher, model, kind, function))
            return found

        watcher.put(trainer, "make_%s_function" % kind, make)

    def around(self, watcher, model, kind, function):
        calls = watcher.compiled

        def call(state, *args):
            if watcher.recorder.stopped:
                return function(state, *args)
            begun = watcher.quietly("begin", lambda: calls.begin(call, kind, *self.readers(model, state)))
            try:
                found = function(state, *args)
            except BaseException:
                calls.failed()
                raise
            if begun is not None:
                where = watcher.where(sys._getframe(1))
                watcher.quietly("end", lambda: calls.end(begun, where, *self.readers(model, found[1])))
            return found

        call.bncheck_wraps = function
        return call

    def readers(self, model, state):
        """How to read layers and optimisers while their values are in a state, and not in their variables."""
        held = [model.trainable_variables, model.non_trainable_variables]
        if getattr(model, "optimizer", None) is not None:
            held.append(model.optimizer.variables)
        values = {id(one): value for group, given in zip(held, state) for one, value in zip(group, given)}

        def read(layer):
            return arrays(layer, lambda variable: values.get(id(variable)))

        def count(optimiser):
            value = values.get(id(optimiser.iterations))
            return None if value is None else int(value)

        return read, count


def device_of(variable):
    """Where it lies: ``cpu``, ``cuda:0``, ``gpu:0``. fit() on JAX takes the values out of variables for its time: then
    where JAX computes."""
    value = variable._value
    if value is None and "jax" in sys.modules:
        return sys.modules["jax"].default_backend()
    if hasattr(value, "devices"):  # JAX
        return ", ".join(sorted({each.platform if each.platform == "cpu" else "%s:%d" % (each.platform, each.id)
                                 for each in value.devices()}))  # fmt: skip
    name = str(getattr(value, "device", "")).lower().rpartition("device:")[2]  # TensorFlow: /job:…/device:CPU:0
    return "cpu" if name.startswith("cpu") else name


ENGINES = {"torch": Torch, "tensorflow": TensorFlow, "jax": Jax}
