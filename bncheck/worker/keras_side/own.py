"""How Keras makes, runs and reads a user's layer that stands where keras.layers.BatchNormalization would.

Loaded by backends/keras.py and by subject/run.py by path. Python 3.7 syntax. ``shared`` is own_side/layer.py, which has
what is not Keras's alone.
"""

NAMES = {
    "running_mean": ("moving_mean", "running_mean"),
    "running_var": ("moving_variance", "moving_var", "running_var", "running_variance"),
    "gamma": ("gamma", "weight", "scale"),
    "beta": ("beta", "bias", "offset"),
}


def hands(keras, shared):
    """A Hands of Keras, on any engine."""

    class Keras(shared.Hands):
        title, target, usual, axis, learns = "Keras", "keras", "keras.layers.Layer", -1, True
        base, builtin = keras.layers.Layer, (keras.layers.BatchNormalization,)
        names = dict(shared.NAMES, **NAMES)

        def quietly(self, spec, dtype):
            return {"dtype": dtype}

        def finish(self, layer, shape, dtype):
            layer.build(shape)
            layer.built = True

        def turned(self, layer, spec, given):
            """Whether the layer normalises the last axis where the scenario's channels lie second."""
            return spec["axis"] == 1 and spec.get("rank", 2) > 2 and self.axis_of(layer, given) != 1

        def signature(self, layer):
            return shared.inspect.signature(layer.call).parameters

        def is_tensor(self, held):
            return hasattr(held, "assign") and hasattr(held, "shape")

        def inner(self, layer):
            return list(layer._flatten_layers(include_self=False))

        def array(self, held):
            found = shared.np.asarray(keras.ops.convert_to_numpy(held))
            return found.astype("float32") if found.dtype.name == "bfloat16" else found

        def assign(self, layer, name, value):
            getattr(layer, name).assign(value)

        def children(self, layer):
            """On PyTorch a Keras layer is a module, which keeps those in it apart."""
            found = dict(vars(layer), **(vars(layer).get("_modules") or {}))
            return {name: each for name, each in found.items() if isinstance(each, keras.layers.Layer)}

        def trains(self, held):
            return held.trainable

        def weighs(self, layer):
            return bool(layer.weights)

        def weights(self, layer):
            return layer.trainable_variables

        def learned(self, layer):
            return {name: each for name, each in self.variables(layer) if each.trainable}

        def kept(self, layer):
            return {name: each for name, each in self.variables(layer) if not each.trainable}

        def variables(self, layer):
            return [(name, each) for name, each in vars(layer).items() if self.is_tensor(each)]

        def told(self, layer):
            """Whether its call takes ``training``."""
            return bool(shared.accepts(self, layer, "training"))

        def run(self, own, x):
            return own.layer(x, **({"training": True} if self.told(own.layer) else {}))

        def called(self, layer):
            return {"training": True} if self.told(layer) else {}

        def moves(self, own):
            return {"get_config and from_config": shared.attempt(lambda: again(own.layer))}

    return Keras()


def again(layer):
    type(layer).from_config(layer.get_config())


def make(keras, shared, custom, behaviour, text, spec, dtype, more=None):
    """A built layer (own_side/layer.py, Own) with ``told``: whether its call takes ``training``."""
    own = shared.make(hands(keras, shared), custom, text, spec, dtype, more)
    own.told = own.hands.told(own.layer)
    shape = [2] * spec.get("rank", 2)
    shape[spec["axis"]] = spec["channels"]
    shared.learn_names(own, behaviour, shape, spec["axis"])
    return own


def gradient_word(own, variable):
    """gamma or beta, by which of the layer's variables it is; "" for another one."""
    return next((what for what in ("gamma", "beta") if own.find(what) is variable), "")


def facts(shared, own, spec, remarks):
    """What the cell says of one layer: its class, what could not be asked of it, whether all its state is saved."""
    said, name = list(remarks), type(own.layer).__name__
    if not own.told:
        said.append("%s.call takes no `training`: it does the same in training and in inference" % name)
    return shared.facts(own, spec, said)
