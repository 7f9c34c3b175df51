"""The Flax backend's model with an nnx.Module of the user's (network.custom) in the place of each BatchNorm.

Loaded by backends/flax.py by path. Python 3.7 syntax. It runs jitted, as a training loop of Flax does, unless
jax.jit refuses it.
"""

import numpy as np

WORDS = ("gamma", "beta", "running_mean", "running_var")


def with_own_layers(base, plain, part):
    """``base`` (the Flax backend's Model), its normalising layers made by own_side/layer.py; ``plain`` is its
    part of one nnx module."""
    shared, custom = part("layer", "own"), part("custom", "torch")

    class OwnLayers(base):
        def __init__(self, jax, network, params, dtype, variant):
            self.hands, self.own, self.remarks = part("own", "flax").hands(shared), {}, {}
            self.custom, self.arguments = network["custom"], dict(network.get("arguments") or {})
            base.__init__(self, jax, network, params, dtype, variant)
            self.run = part("jitted", "flax").Willing(jax, self.play, self.run, custom, self.to_the_input)

        def part(self, layer, shapes, variant):
            if layer["type"] != "batch_norm":
                return base.part(self, layer, shapes, variant)
            if layer["averaging"] == "cumulative":
                raise NotImplementedError("flax has no cumulative average")
            own = shared.make(self.hands, custom, self.custom, layer, self.dtype.name, self.arguments)
            self.own[layer["name"]] = own
            shape = [2] * layer["rank"]
            shape[layer["axis"]] = layer["channels"]
            shared.learn_names(own, part("behaviour", "torch"), shape, layer["axis"])
            return owned(plain, custom, own)

        def put(self, name, value):
            layer, what = name.split("/")
            if layer not in self.own:
                base.put(self, name, value)
                return
            said = shared.put(custom, self.own[layer], what, np.asarray(value))
            self.remarks.setdefault(layer, []).extend([said] if said else [])

        def gradients(self, layer, grads):
            if layer not in self.own:
                return base.gradients(self, layer, grads)
            return self.parts[layer].gradients(grads[layer])

        def state(self, layer):
            found = shared.state(self.own[layer], self.specs[layer]["channels"])
            training = self.modes[layer] if self.modes[layer] is not None else self.hands.mode(self.own[layer].layer)
            return found if training is None else dict(found, training=training)

        def dtypes(self, layer):
            held = {what: self.own[layer].find(what) for what in WORDS}
            return {
                what: "bfloat16" for what, each in held.items() if each is not None and "bfloat16" in str(each.dtype)
            }

        def facts(self):
            more = [self.run.remark] if self.run.remark else []
            said = {
                name: shared.facts(own, self.specs[name], self.remarks.get(name, []) + more)
                for name, own in self.own.items()
            }
            return {"custom": said}

    return OwnLayers


def owned(plain, custom, own):
    """A part whose module says its mode as it takes it, and lies in the scenario's layout."""
    import jax.numpy as jnp
    from flax import nnx

    hands = own.hands

    def call(static, params, stats, x, training):
        module = nnx.merge(static, params, stats, copy=True)  # a copy: it may be changed inside jax.vjp
        data = jnp.moveaxis(x, *own.turned) if own.turned else x
        out = module(data, **hands.flags(module, training))
        custom.check_output(module, (data,), out)
        out = jnp.moveaxis(out, *own.turned[::-1]) if own.turned else out
        return out, nnx.split(module, nnx.Param, ...)[2]

    class Owned(plain):
        def split(self, training):
            if training is not None:
                hands.set_mode(self.module, training)
            static, params, stats = nnx.split(self.module, nnx.Param, ...)
            return static, params, stats

        def gradients(self, grads):
            places = {id(each): path for path, each in nnx.iter_graph(self.module) if isinstance(each, nnx.Param)}
            held = {what: places.get(id(own.find(what))) for what in ("gamma", "beta")}
            return {what: at(grads, path)[...].reshape(-1) for what, path in held.items() if path is not None}

    part = Owned(own.layer)
    part.call = call
    return part


def at(grads, path):
    for key in path:
        grads = grads[key]
    return grads
