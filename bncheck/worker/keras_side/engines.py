"""Keras's engines: how gradients come from each, and the walk of a network through its layers.

A model says ``to_the_input``: whether its input asks for a gradient, too. Python 3.7 syntax. On JAX the network is
jitted, as fit() does: one operation at a time, every new shape took 1 s and every cell 40 ms.
"""

import json

import numpy as np


class Jax:
    """Gradients by jax.vjp; layers are called without their state, which is put back afterwards."""

    def __init__(self, model):
        import jax

        self.jax, self.model = jax, model
        frozen = [name for name, layer in model.made.items() if not layer.trainable]
        given = [model.rows, model.shapes, model.dtype, model.last, frozen, repr(model.custom), model.arguments]
        given += [] if model.to_the_input else ["plain input"]
        text = json.dumps(given, sort_keys=True)
        self.run = compiled(jax, model, text)

    def tensor(self, x, dtype):
        return self.jax.numpy.asarray(x, dtype=dtype)

    def values(self):
        made = self.model.made
        variables = {name: [held.value for held in layer.trainable_variables] for name, layer in made.items()}
        fixed = {name: [held.value for held in layer.non_trainable_variables] for name, layer in made.items()}
        return tuple(self.model.modes.items()), variables, fixed

    def keep(self, moved):
        for name, values in moved.items():
            for held, value in zip(self.model.made[name].non_trainable_variables, values):
                held.assign(value)

    def forward(self, data):
        out, (seen, moved) = self.run["forward"](*self.values(), data)
        self.keep(moved)
        return out, seen

    def record(self, data):
        out, pull, (seen, moved) = self.run["recorded"](*self.values(), data)
        self.keep(moved)
        return out, seen, pull

    def backward(self, pull, dy):
        """(gradient by the input, {layer: gradients in the order of its trainable variables})."""
        found = self.run["backward"](pull, dy)
        return found[1] if len(found) > 1 else None, found[0]


def compiled(jax, model, text, _made={}):  # noqa: B006 - the default is the cache: one compilation per network and shape
    """Jitted functions of a network; its layers serve as the pattern for all later ones, their state is never used."""
    if text in _made:
        return _made[text]
    pattern = (model.keras.ops, model.rows, model.made, model.last, model.own)
    to_the_input = model.to_the_input

    def forward(modes, trainable, fixed, x):
        moved = {}

        def call(name, layer, x, **keywords):
            y, moved[name] = layer.stateless_call(trainable[name], fixed[name], x, **keywords)
            return y

        out, seen = walk(pattern, dict(modes), x, call)
        return out, (seen, moved)

    def recorded(modes, trainable, fixed, x):
        if not to_the_input:
            return jax.vjp(lambda p: forward(modes, p, fixed, x), trainable, has_aux=True)
        return jax.vjp(lambda p, v: forward(modes, p, fixed, v), trainable, x, has_aux=True)

    _made[text] = {
        "forward": jax.jit(forward, static_argnums=0),
        "recorded": jax.jit(recorded, static_argnums=0),
        "backward": jax.jit(lambda pull, dy: pull(dy)),
    }
    return _made[text]


class TensorFlow:
    """Gradients by a persistent GradientTape per forward."""

    def __init__(self, model):
        import tensorflow

        self.tf, self.model = tensorflow, model

    def tensor(self, x, dtype):
        return self.tf.cast(self.tf.convert_to_tensor(x), dtype)

    def forward(self, data):
        return self.model.walk(data)

    def record(self, data):
        with self.tf.GradientTape(persistent=True) as tape:
            if self.model.to_the_input:
                tape.watch(data)
            out, seen = self.forward(data)
        return out, seen, (tape, data, out)

    def backward(self, kept, dy):
        tape, data, out = kept
        variables = {
            name: [held.value for held in layer.trainable_variables] for name, layer in self.model.made.items()
        }
        return tape.gradient(out, (data, variables), output_gradients=dy)


class Function(TensorFlow):
    """The network in a tf.function, as fit() runs it: one per mode. Its gradient is a function as well."""

    compiled = None

    def __init__(self, model):
        TensorFlow.__init__(self, model)
        self.functions = {}

    def forward(self, data):
        modes = (
            self.model.training if hasattr(self.model, "training") else self.model.modes
        )  # of all its layers, or each
        mode = repr(modes)
        if mode not in self.functions:
            # Neither does fit() have AutoGraph convert what it calls.
            self.functions[mode] = self.tf.function(self.model.walk, autograph=False, jit_compile=self.compiled)
        return self.functions[mode](data)


class Xla(Function):
    """The same, compiled by XLA, as compile(jit_compile=True) asks fit() to do."""

    compiled = True


class Torch:
    """Gradients by torch.autograd."""

    def __init__(self, model):
        import torch

        self.torch, self.model = torch, model

    def tensor(self, x, dtype):
        return self.model.keras.ops.convert_to_tensor(np.array(x), dtype=dtype)

    def record(self, data):
        if self.model.to_the_input:
            data.requires_grad_()
        out, seen = self.model.walk(data)
        return out, seen, (data, out)

    def backward(self, kept, dy):
        data, out = kept
        made = self.model.made
        names = [(name, held.value) for name, layer in made.items() for held in layer.trainable_variables]
        asked = ([data] if self.model.to_the_input else []) + [held for _, held in names]
        if not asked:
            return None, {name: [] for name in made}
        found = list(self.torch.autograd.grad(out, asked, dy, retain_graph=True, allow_unused=True))
        first = found.pop(0) if self.model.to_the_input else None
        grads = {name: [] for name in made}
        for (name, _), grad in zip(names, found):
            grads[name].append(grad)
        return first, grads


def engines(variant):
    """{engine of Keras: how it runs}."""
    ways = {"tensorflow_function": Function, "tensorflow_jit_compile": Xla}
    return {"jax": Jax, "tensorflow": ways.get(variant, TensorFlow), "torch": Torch}


def walk(pattern, modes, x, call):
    """(output, {layer: (input, output)}). Flattening is in channels-first order: that is how dense weights come."""
    ops, rows, made, last, own = pattern
    seen = {}
    for row in rows:
        name, kind, before, rank = row["name"], row["type"], x, len(x.shape)
        if kind == "batch_norm" and name in own:
            turned = own[name].turned
            x = ops.moveaxis(x, 1, -1) if turned else x
            x = call(name, made[name], x, **({"training": modes[name]} if own[name].told else {}))
            x = ops.moveaxis(x, -1, 1) if turned else x
        elif kind == "batch_norm":
            x = call(name, made[name], x, training=modes[name])
        elif kind == "dense":
            x = call(name, made[name], x)
        elif kind == "conv2d":
            x = x if last else ops.transpose(x, (0, 2, 3, 1))
            x = call(name, made[name], padded(ops, x, row["options"].get("padding", 0)))
            x = x if last else ops.transpose(x, (0, 3, 1, 2))
        elif kind == "relu":
            x = ops.relu(x)
        elif kind == "flatten":
            x, last = ops.reshape(ops.moveaxis(x, -1, 1) if last else x, (x.shape[0], int(np.prod(x.shape[1:])))), False
        else:
            x, last = ops.mean(x, axis=tuple(range(1, rank - 1) if last else range(2, rank))), False
        seen[name] = (before, x)
    return x, seen


def padded(ops, x, pad):
    return ops.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]) if pad else x
