"""The MXNet backend's model with a Gluon block of the user's (network.custom) in the place of each BatchNorm.

Loaded by backends/mxnet.py by path. Python 3.7 syntax.
"""

import numpy as np

WORDS = ("gamma", "beta", "running_mean", "running_var")


def with_own_layers(base, part):
    """``base`` (the MXNet backend's Model), its normalising layers made by own_side/layer.py."""
    shared, custom = part("layer", "own"), part("custom", "torch")

    class OwnLayers(part("own").by_own_names(base)):
        def __init__(self, network, params, dtype, variant, device):
            self.hands, self.own, self.remarks = None, {}, {}
            self.custom, self.arguments = network["custom"], dict(network.get("arguments") or {})
            base.__init__(self, network, params, dtype, variant, device)

        def make(self, layer):
            if layer["type"] != "batch_norm":
                return base.make(self, layer)
            if layer["averaging"] == "cumulative":
                raise NotImplementedError("mxnet has no cumulative average")
            self.hands = self.hands or part("own").hands(shared, self.context)
            own = shared.make(self.hands, custom, self.custom, layer, self.dtype, self.arguments)
            self.own[layer["name"]] = own
            shape = [2] * layer["rank"]
            shape[layer["axis"]] = layer["channels"]
            shared.learn_names(own, part("behaviour", "torch"), shape, layer["axis"])
            return own.layer

        def start(self, name, block, params):
            if name not in self.own:
                base.start(self, name, block, params)
                return
            for what in WORDS:
                value = params.get(name + "/" + what)
                said = "" if value is None else shared.put(custom, self.own[name], what, np.asarray(value))
                self.remarks.setdefault(name, []).extend([said] if said else [])

        def called(self, name, block, x):
            """In the layer's own layout; what else than BatchNorm's one tensor comes back is said."""
            if name not in self.own:
                return base.called(self, name, block, x)
            turned = self.own[name].turned
            data = moved(self.mx, x, *turned) if turned else x
            out = block(data)
            custom.check_output(block, (data,), out)
            return moved(self.mx, out, *turned[::-1]) if turned else out

        def held(self, layer):
            return dict(shared.state(self.own[layer], self.specs[layer]["channels"]), training=self.training)

        def facts(self):
            said = {
                name: shared.facts(own, self.specs[name], self.remarks.get(name, ())) for name, own in self.own.items()
            }
            return {"custom": said}

    return OwnLayers


def moved(mx, x, source, target):
    """The axis ``source`` at the place ``target``, -1 the last."""
    order = list(range(x.ndim))
    axis = order.pop(source)
    order.insert(x.ndim - 1 if target == -1 else target, axis)
    return x.transpose(order)
