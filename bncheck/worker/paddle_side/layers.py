"""The Paddle backend's model with a layer of the user's (network.custom) in the place of each BatchNorm.

Loaded by backends/paddle.py by path. Python 3.7 syntax.
"""

import numpy as np

WORDS = ("gamma", "beta", "running_mean", "running_var")


def with_own_layers(base, part):
    """``base`` (the Paddle backend's Model), its layers made by own_side/layer.py."""
    shared, custom = part("layer", "own"), part("custom", "torch")

    class OwnLayers(base):
        def __init__(self, network, params, dtype, variant, device):
            self.hands, self.own, self.remarks = part("own").hands(shared), {}, {}
            self.custom, self.arguments = network["custom"], dict(network.get("arguments") or {})
            base.__init__(self, network, params, dtype, variant, device)

        def assemble(self):
            base.assemble(self)
            self.norms.update((name, own.layer) for name, own in self.own.items())

        def make(self, layer):
            if layer["type"] != "batch_norm":
                return base.make(self, layer)
            if layer["averaging"] == "cumulative":
                raise NotImplementedError("paddle has no cumulative average")
            own = shared.make(self.hands, custom, self.custom, layer, self.dtype, self.arguments)
            self.own[layer["name"]] = own
            shape = [2] * layer["rank"]
            shape[layer["axis"]] = layer["channels"]
            behaviour = part("behaviour", "torch")
            shared.learn_names(own, behaviour, shape, layer["axis"])
            return standing(self.paddle, custom, own)

        def start(self, name, block):
            if name not in self.own:
                base.start(self, name, block)
                return
            for what in WORDS:
                value = self.params.get(name + "/" + what)
                said = "" if value is None else shared.put(custom, self.own[name], what, np.asarray(value))
                self.remarks.setdefault(name, []).extend([said] if said else [])

        def backward(self, dys):
            found = base.backward(self, dys)
            words = ["%s/%s" % (name, what) for name in self.own for what in ("gamma", "beta")]
            found.update((word, found[word].reshape(-1)) for word in words if word in found)
            return found

        def held(self, layer):
            found = {what: self.own[layer].find(what) for what in WORDS}
            return {what: tensor for what, tensor in found.items() if tensor is not None}

        def state(self, layer):
            return dict(
                shared.state(self.own[layer], self.specs[layer]["channels"]), training=self.norms[layer].training
            )

        def facts(self):
            said = {
                name: shared.facts(own, self.specs[name], self.remarks.get(name, ())) for name, own in self.own.items()
            }
            return {"custom": said}

    return OwnLayers


def standing(paddle, custom, own):
    """A layer that takes the scenario's layout, and says what else than BatchNorm's one tensor comes back."""

    class Standing(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.layer = own.layer

        def forward(self, x):
            data = paddle.moveaxis(x, *own.turned) if own.turned else x
            out = own.layer(data)
            custom.check_output(own.layer, (data,), out)
            return paddle.moveaxis(out, *own.turned[::-1]) if own.turned else out

    return Standing()
