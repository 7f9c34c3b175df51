"""A Gluon model that a user's function builds, played instead of a scenario's layers.

Loaded by backends/mxnet.py by path. Python 3.7 syntax. Its weights come from the function, which is called after a
fixed seed. A normalising layer is any that holds a running mean and variance. It runs block by block: in a hybridized
model nothing can be seen of the layers inside.
"""


def whole(base, part):
    """``base`` (the MXNet backend's Model) on a model of the user's."""
    shared, custom, building = part("layer", "own"), part("custom", "torch"), part("whole", "own")

    class Whole(base):
        def assemble(self):
            mx, own = self.mx, part("own")
            self.hands = own.hands(shared, self.context)
            mx.random.seed(building.SEED)
            given = dict(self.network.get("arguments") or {})
            net, self.call = building.made(self.hands, custom, self.network["model"], given)
            net.initialize(ctx=self.context)  # only what the function has not
            if self.dtype != "float32":
                net.cast(self.dtype)
            net.hybridize(active=False)
            self.blocks = [("net", net)]
            self.norms = {
                name or "net": block for name, block in own.blocks(net) if shared.normalises(self.hands, block)
            }
            if any(own.unknown(each) for block in self.norms.values() for each in self.hands.parameters(block)):
                raise custom.CustomLayerError(
                    "a normalising layer of %s has no shape yet: give it in_channels, or run the model once in there"
                    % self.call
                )
            self.own = {name: shared.Own(self.hands, block) for name, block in self.norms.items()}
            self.layers = list(self.norms)
            for name, block in self.norms.items():
                block.register_forward_hook(self.tap(name))

        def tap(self, name):
            def see(block, given, out):
                if given and hasattr(given[0], "asnumpy") and hasattr(out, "asnumpy"):
                    self.seen[name] = (given[0], out)

            return see

        def play(self, x):
            self.seen, self.returned, self.hasty = {}, None, {}
            return building.one_tensor(custom, self.call, self.blocks[0][1](x), self.network.get("output"))

        def backward(self, dys):
            found = base.backward(self, dys)
            return {word: found[word] if word == "input" else found[word].reshape(-1) for word in found}

        def parameter(self, layer, what):
            held = self.own[layer].find(what)
            return held if hasattr(held, "grad_req") else None

        def axis(self, layer):
            return self.hands.axis_of(self.norms[layer], {})

        def held(self, layer):
            own = self.own[layer]
            channels = shared.np.prod(own.find("running_mean").shape)
            return dict(shared.state(own, int(channels)), training=self.training)

        def facts(self):
            return {}

        # -- what a short life of check asks for besides ---------------------------------------------------------

        variants = ("", "builtin")  # of a layer of the user's, of the framework's own

        def find(self, layer, what):
            return shared.find(self.hands, layer, what)

        def told(self, name, training):
            return training and not getattr(self.norms[name], "_kwargs", {}).get("use_global_stats", False)

        def descend(self, dy, rate):
            """One step of plain gradient descent along the last forward's gradient."""
            base.backward(self, [dy])
            for held in self.hands.weights(self.blocks[0][1]):
                held.set_data(held.data(self.context) - rate * held.grad(self.context))

    return Whole
