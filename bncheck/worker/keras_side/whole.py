"""A Keras model that a user's function builds, played instead of a scenario's layers.

Loaded by backends/keras.py by path. Python 3.7 syntax. Its weights come from the function, not from the host: it is
called after a fixed seed. Engines draw other numbers from the same seed: what is random, which a second model after
another seed shows, is drawn by NumPy, so that a model is the same one on each. A normalising layer is any that holds a
moving mean and variance, BatchNormalization or not.
"""

import os
import re

import numpy as np

SEEDS = (0, 1)


def whole(base, engines, part):
    """``base`` (the Keras backend's Model) on a model of the user's."""
    own, custom, shared, building = (
        part("own", "keras"),
        part("custom", "torch"),
        part("layer", "own"),
        part("whole", "own"),
    )

    class Whole(base):
        def __init__(self, keras, network, params, dtype, variant="", alike=True):
            """``alike``: what is random is drawn by NumPy."""
            self.alike, self.building = alike, building
            self.to_the_input = network.get("input_gradient", True) and not variant.endswith("plain_input")
            self.keras, self.network, self.dtype, self.params = keras, network, dtype, params
            self.hands = own.hands(keras, shared)
            self.custom, self.returns, self.own, self.training = "", None, {}, False
            self.rows, self.specs, self.first = [], {}, None
            self.assemble()
            self.start()

        def assemble(self):
            self.net = self.build(SEEDS[0])
            if self.alike:
                draw_alike(self, self.build(SEEDS[1]))
            self.gone = {}  # layer that a function of the user's took away → what it held last
            self.norms = self.found()
            self.layers = list(self.norms)
            self.now = {}  # what each normalising layer got and gave in the forward that runs
            self.tap()

        def see(self, x):
            """Before anything is played: know it all by a batch, and what its modules make of that."""
            self.settle(x)
            self.leaves = part("leaves", "own").look(part("places", "own"), self, x)

        def settle(self, x):
            """Find layers whose state has unusual names by what they do with a batch."""
            # Where Dropout draws from: no weights, and not to be moved by a look.
            held = {id(each) for each in self.net.weights}
            seeds = [(each, self.array(each)) for each in self.net.variables if id(each) not in held]
            part("unusual", "own").see(shared, part("behaviour", "torch"), self, x)
            for each, value in seeds:
                each.assign(value)

        def place(self, name):
            """Its number among all layers of the model."""
            return [id(each) for each in self.net._flatten_layers()].index(id(self.norms[name]))

        def found(self):
            return normalisers(self.hands, shared, self.net)

        def tap(self):
            for name, layer in self.norms.items():
                layer.call = tapped(layer.call, self, name)

        def untap(self):
            """Calls as they were: a copy of a layer would call the one that it is made of."""
            for layer in self.norms.values():
                vars(layer).pop("call", None)

        def replace(self, net):
            """Go on with another model, or with this one's layers as they are now."""
            self.untap()
            last = {name: self.state(name) for name in self.norms}
            self.net = net
            self.norms = {name: layer for name, layer in self.found().items() if name in self.layers}
            self.gone.update((name, held) for name, held in last.items() if name not in self.norms)
            self.tap()
            self.start()

        def apply(self, function, x):
            return part("applied", "own").in_cell(self, part, function, x)

        # -- what apply asks for ------------------------------------------------------------------------------

        def root(self):
            return self.net

        def handed(self, batch):
            return batch

        def is_model(self, given):
            return isinstance(given, self.keras.layers.Layer)

        def unusable(self, net):
            ready = net.built and net.weights
            return "" if ready else "has no weights yet: call it once, or model.build(shape)"

        def everything(self, net):
            return {each.path: each for each in net.weights}

        def put(self, held, value):
            held.assign(value)

        def kinds(self, net):
            return {name: type(layer).__name__ for name, layer in self.modules(net).items()}

        def modes(self, net):
            return {}  # an argument of the call

        def set_modes(self, net, modes):
            pass

        def frozen(self, layer):
            return not layer.trainable

        def in_training(self, net, batch):
            return net(self.engine.tensor(batch, self.dtype), training=True)

        def evaluated(self, net, batch):
            return net(self.engine.tensor(batch, self.dtype), training=False)

        # -- how it is made -----------------------------------------------------------------------------------

        def build(self, seed):
            """What the function returns; CustomLayerError where it is no model that has weights."""
            usual = self.keras.config.floatx()
            self.keras.utils.set_random_seed(seed)
            self.keras.config.set_floatx(self.dtype)
            try:
                net, call = building.made(self.hands, custom, self.network["model"], self.network["arguments"])
            finally:
                self.keras.config.set_floatx(usual)
            if not net.built or not net.weights:
                name = call.partition("(")[0]
                raise custom.CustomLayerError(
                    "the model of %s has no weights yet: give it an Input, or call model.build(shape) in %s"
                    % (call, name)
                )
            return net

        def start(self):
            engine = self.keras.backend.backend()
            self.made = {"": self.net}
            kind = on_jax(engines[engine]) if engine == "jax" else engines[engine]
            self.engine = kind(self)
            self.tape, self.used_up, self.seen = [], False, {}

        # -- events -------------------------------------------------------------------------------------------

        def walk(self, x):
            self.now.clear()
            out = self.net(x, training=self.training)
            return self.chosen(out), dict(self.now)

        def chosen(self, out):
            return building.one_tensor(
                custom, self.network["model"].rpartition(":")[2], out, self.network.get("output")
            )

        def forward(self, x, mode):
            if mode != "as_is":
                self.training = mode != "eval"
            data = self.engine.tensor(x, self.dtype)
            if mode in ("eval", "no_grad"):
                out, self.seen = getattr(self.engine, "forward", self.walk)(data)
            else:
                out, self.seen, kept = self.engine.record(data)
                self.tape = [kept] if self.used_up else [*self.tape, kept]
                self.used_up = False
            return self.array(out)

        def backward(self, dys):
            self.used_up = True
            total, words = {"input": None}, self.words()
            for kept, dy in zip(self.tape, dys):
                total["input"], grads = self.engine.backward(kept, self.engine.tensor(dy, self.dtype))
                for held, grad in zip(self.net.trainable_variables, grads[""]):
                    name = words.get(id(held))
                    if name and grad is not None:
                        total[name] = self.array(grad).astype(np.float64).reshape(-1) + total.get(name, 0.0)
            total["input"] = None if total["input"] is None else self.array(total["input"])
            return total

        @property
        def variants(self):
            """Of a layer of the user's, of Keras's own, on this engine."""
            engine = self.keras.backend.backend()
            return ("", "builtin") if engine == "jax" else (engine, "builtin_" + engine)

        def descend(self, dy, rate):
            """One step of plain gradient descent along the last forward's gradient."""
            self.used_up = True
            _, grads = self.engine.backward(self.tape[-1], self.engine.tensor(dy, self.dtype))
            for held, grad in zip(self.net.trainable_variables, grads[""]):
                if grad is not None:
                    held.assign(self.array(held) - rate * self.array(grad))

        def trains(self, name, flag):
            """Whether a call trains: it may have a `training` of its own, and a layer that is not trainable runs in
            inference."""
            return bool(self.training if flag is None else flag) and bool(self.norms[name].trainable)

        def followed(self, modules):
            return part("places", "own").followed(modules, "call")

        def always(self, name):
            """What makes a layer normalise with the batch in inference, too; "" for nothing that it holds."""
            return ""

        def modules(self, net):
            return {layer.name: layer for layer in net._flatten_layers(include_self=False)}

        def declared(self, failed):
            return part("model", "keras").declared(failed, self.net)

        def find(self, layer, what):
            return shared.find(self.hands, layer, what)

        def words(self):
            """{id of a variable: "<layer>/gamma" or "<layer>/beta"}."""
            held = [
                (name, what, shared.find(self.hands, layer, what))
                for name, layer in self.norms.items()
                for what in ("gamma", "beta")
            ]
            return {id(each): "%s/%s" % (name, what) for name, what, each in held if each is not None}

        def set_mode(self, training, layer=None):
            if layer is not None:
                raise NotImplementedError("in Keras the mode is an argument of the call, of all layers of a model")
            self.training = bool(training)

        def freeze(self, layer=None):
            (self.net if layer is None else self.norms[layer]).trainable = False
            self.start()

        def reload(self, folder, drop=()):
            if drop:
                raise NotImplementedError("Keras loads all weights of a model or none")
            path = os.path.join(folder, "model.weights.h5")
            self.net.save_weights(path)
            self.assemble()
            self.net.load_weights(path)
            self.start()
            return {"artifacts": ["model.weights.h5"]}

        # -- what is recorded ---------------------------------------------------------------------------------

        def taps(self):
            return building.last(self.seen, self.array)

        def ran(self):
            return building.ran(self.seen)

        def axis(self, layer):
            axis = getattr(self.norms.get(layer), "axis", -1)
            axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
            return 1 if axis == 1 else -1

        def state(self, layer):
            if layer in self.gone:
                return self.gone[layer]
            norm, found = self.norms[layer], {"training": self.training}
            for what in ("momentum", "eps"):
                held = shared.find(self.hands, norm, what)
                if held is not None:
                    found[what] = held
            for what in ("running_mean", "running_var", "gamma", "beta"):
                held = shared.find(self.hands, norm, what)
                if held is not None:
                    found[what] = np.array(self.hands.array(held)).reshape(-1)
            return found

        def dtypes(self, layer):
            words = ("running_mean", "running_var", "gamma", "beta")
            return dict.fromkeys(words, "bfloat16") if self.dtype == "bfloat16" else {}

        def facts(self):
            return dict(getattr(self, "leaves", {}))

    return Whole


# ------------------------------------------------------------------------------------------------------ the model


def draw_alike(model, other):
    """Give variables that differ between two models of one function numbers that are the same on each engine: normal,
    with the variance 1/fan-in; what is nowhere negative stays so."""
    dice = np.random.default_rng(SEEDS[0])
    for mine, its in zip(model.net.weights, other.weights):
        here, there = model.array(mine), model.array(its)
        if here.shape == there.shape and here.dtype.kind == "f" and not np.array_equal(here, there):
            fan_in = max(1, int(np.prod(here.shape[:-1])))
            drawn = dice.standard_normal(here.shape) / np.sqrt(fan_in)
            if min(here.min(), there.min()) >= 0:  # a variance, or a scale: of a model that its function has trained
                drawn = 0.5 + np.abs(drawn)
            mine.assign(drawn.astype(here.dtype))


def normalisers(hands, shared, net):
    """{name: layer} of every layer that holds a moving mean and variance. A name that Keras made up counts what was
    made in this process before: it is counted within the model instead."""
    found = {}
    for layer in net._flatten_layers():
        if not shared.normalises(hands, layer):
            continue
        stem = re.sub(r"_\d+$", "", layer.name.replace("/", "."))
        made_up = stem.replace("_", "") == type(layer).__name__.lower()
        name = stem if made_up else layer.name.replace("/", ".")
        count = 0
        while name in found:
            count += 1
            name = "%s_%d" % (stem, count)
        found[name] = layer
    return found


def tapped(call, model, name):
    def run(x, *more, **keywords):
        out = call(x, *more, **keywords)
        flag = keywords.get("training", more[0] if more else None)
        flag = flag if isinstance(flag, bool) else None  # else a mask, or what a layer of the user's takes there
        model.building.note(model.now, name, x, out, model.trains(name, flag))
        return out

    return run


def on_jax(base):
    """``base`` (the Keras backend's engine on JAX) with gradients by jax.vjp over stateless_call, compiled as fit()
    does."""

    class OnJax(base):
        def __init__(self, model):
            import jax

            self.jax, self.model = jax, model
            self.run = {
                "forward": jax.jit(self.stateless, static_argnums=0),
                "recorded": jax.jit(self.recorded, static_argnums=0),
                "backward": jax.jit(lambda pull, dy: pull(dy)),
            }

        def stateless(self, training, trainable, fixed, x):
            self.model.now.clear()
            out, moved = self.model.net.stateless_call(trainable, fixed, x, training=training)
            return self.model.chosen(out), (dict(self.model.now), moved)

        def recorded(self, training, trainable, fixed, x):
            if not self.model.to_the_input:
                return self.jax.vjp(lambda p: self.stateless(training, p, fixed, x), trainable, has_aux=True)
            return self.jax.vjp(lambda p, v: self.stateless(training, p, fixed, v), trainable, x, has_aux=True)

        def values(self):
            net = self.model.net
            return (
                self.model.training,
                [held.value for held in net.trainable_variables],
                [held.value for held in net.non_trainable_variables],
            )

        def keep(self, moved):
            for held, value in zip(self.model.net.non_trainable_variables, moved):
                held.assign(value)

        def backward(self, pull, dy):
            data, grads = super().backward(pull, dy)
            return data, {"": grads}

    return OnJax
