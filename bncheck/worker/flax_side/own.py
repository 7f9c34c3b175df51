"""How Flax makes, runs and reads a user's layer (an nnx.Module) that stands where nnx.BatchNorm would.

Loaded by backends/flax.py and by subject/run.py by path. Python 3.7 syntax.
"""

import numpy as np

# How a call, or an attribute of a module, may say the mode: word → whether it is true in training.
FLAGS = {"use_running_average": False, "deterministic": False, "inference": False, "training": True, "train": True,
         "is_training": True}  # fmt: skip
ATTRIBUTES = ("use_running_average", "deterministic", "training", "is_training")  # .train() is a method of a module


def hands(shared):
    """A Hands (own_side/layer.py) of Flax nnx; ``shared`` is that file."""
    import jax
    from flax import nnx

    class Flax(shared.Hands):
        title, target, usual, axis = "Flax", "flax", "flax.nnx.Module", -1
        base, builtin = nnx.Module, (nnx.BatchNorm,)
        words = {
            "axis": ("axis", "feature_axis"), "momentum": ("momentum", "decay"), "eps": shared.NAMES["eps"],
            "affine": ("affine",), "center": ("use_bias", "center"), "scale": ("use_scale", "scale"),
        }  # fmt: skip

        def like_of(self, rank):
            return "flax.nnx.BatchNorm"

        def quietly(self, spec, dtype):
            return {"rngs": nnx.Rngs(0), "dtype": jax.numpy.dtype(dtype), "param_dtype": jax.numpy.dtype(dtype)}

        def finish(self, layer, shape, dtype):
            cast(jax, nnx, layer, dtype)

        def signature(self, layer):
            return shared.inspect.signature(type(layer).__call__).parameters

        def is_tensor(self, held):
            return isinstance(held, (nnx.Variable, jax.Array))

        def inner(self, layer):
            return [each for _, each in nnx.iter_modules(layer) if each is not layer]

        def array(self, held):
            found = np.asarray(held[...])
            return found.astype(np.float32) if found.dtype.name == "bfloat16" else found

        def assign(self, layer, name, value):
            held = getattr(layer, name)
            value = jax.numpy.asarray(value, dtype=held.dtype)
            if isinstance(held, nnx.Variable):
                held[...] = value
            else:
                setattr(layer, name, value)

        def learned(self, layer):
            return {name: each for name, each in variables(nnx, layer) if isinstance(each, nnx.Param)}

        def kept(self, layer):
            plain = {name: each for name, each in vars(layer).items() if isinstance(each, jax.Array)}
            return dict(
                plain, **{name: each for name, each in variables(nnx, layer) if not isinstance(each, nnx.Param)}
            )

        def run(self, own, x):
            self.set_mode(own.layer, True)
            return own.layer(jax.numpy.asarray(x), **self.flags(own.layer, True))

        def set_mode(self, layer, training):
            """What train() and eval() do, and attributes that people use beside theirs."""
            found = {word: FLAGS[word] == training for word in ATTRIBUTES}
            layer.set_attributes(raise_if_not_found=False, **found)

        def set_own_mode(self, layer, training):
            """The same, of this module alone."""
            for word in ATTRIBUTES:
                if isinstance(getattr(layer, word, None), bool):
                    setattr(layer, word, FLAGS[word] == training)

        def flags(self, layer, training):
            """{argument: value} by which a call says the mode; None leaves that to the layer."""
            known = self.signature(layer)
            word = next((word for word in FLAGS if word in known), "")
            return {word: FLAGS[word] == training} if word and training is not None else {}

        def asked(self, keywords):
            """Whether a call asks for training; None where it leaves that to the layer."""
            said = (
                value == FLAGS[word] for word, value in keywords.items() if word in FLAGS and isinstance(value, bool)
            )
            return next(said, None)

        def called(self, layer):
            return self.flags(layer, True)

        def mode(self, layer):
            """Whether a layer trains by its own attributes; None where it has none."""
            held = {word: getattr(layer, word, None) for word in ATTRIBUTES}
            return next((value == FLAGS[word] for word, value in held.items() if isinstance(value, bool)), None)

        def moves(self, own):
            return {"nnx.state and nnx.update": shared.attempt(lambda: self.restored(own))}

        def restored(self, own):
            """What a new layer lacks that was given the state of this one."""
            other = own.again()
            other.shown = own.shown
            nnx.update(other.layer, nnx.state(own.layer))
            return shared.lost(own, other)

    return Flax()


def variables(nnx, layer):
    """(dotted path, variable) of all that a module holds."""
    for path, each in nnx.iter_graph(layer):
        if isinstance(each, nnx.Variable):
            yield ".".join(map(str, path)), each


def cast(jax, nnx, layer, dtype):
    """Every variable of floating numbers in the scenario's dtype."""
    for _, each in variables(nnx, layer):
        if hasattr(each, "dtype") and jax.numpy.issubdtype(each.dtype, jax.numpy.floating):
            each.set_value(each[...].astype(dtype)) if hasattr(each, "set_value") else setattr(
                each, "value", each[...].astype(dtype)
            )
