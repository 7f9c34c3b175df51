"""A Paddle model that a user's function builds, played instead of a scenario's layers.

Loaded by backends/paddle.py by path. Python 3.7 syntax. Its weights come from the function, which is called after a
fixed seed. A normalising layer is any that holds a running mean and variance, a built-in one or not.
"""


def whole(base, part):
    """``base`` (the Paddle backend's Model) on a model of the user's."""
    shared, custom, building = part("layer", "own"), part("custom", "torch"), part("whole", "own")

    class Whole(base):
        def __init__(self, network, params, dtype, variant, device):
            import paddle

            self.paddle, self.hands = paddle, part("own").hands(shared)
            self.network, self.params, self.dtype, self.variant = network, {}, dtype, variant
            self.specs, self.returns, self.view = {}, None, "contiguous"
            self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
            self.assemble()
            self.layers = list(self.norms)

        def assemble(self):
            paddle = self.paddle
            before = paddle.get_default_dtype()
            paddle.seed(building.SEED)
            paddle.set_default_dtype(self.dtype)
            try:
                net, self.call = building.made(
                    self.hands, custom, self.network["model"], dict(self.network.get("arguments") or {})
                )
            finally:
                paddle.set_default_dtype(before)
            self.blocks, self.hooks, self.gone = [("net", net)], [], {}
            self.norms = self.found()
            self.own = {name: shared.Own(self.hands, layer) for name, layer in self.norms.items()}
            self.tap()
            self.seen, self.returned = {}, None
            self.tape, self.used_up = [], False

        def see(self, x):
            """Before anything is played: know it all by a batch, and what its modules make of that."""
            self.settle(x)
            self.leaves = part("leaves", "own").look(part("places", "own"), self, x)
            self.paddle.seed(building.PLAYED)

        def settle(self, x):
            """Find layers whose state has unusual names by what they do with a batch."""
            part("unusual", "own").see(shared, part("behaviour", "torch"), self, x)
            self.paddle.seed(building.PLAYED)  # what is played does not depend on what was looked at before

        def place(self, name):
            return "" if self.norms[name] is self.root() else name

        def found(self):
            found = self.root().named_sublayers(include_self=True)
            return {name or "net": layer for name, layer in found if shared.normalises(self.hands, layer)}

        def tap(self):
            self.hooks = [layer.register_forward_post_hook(self.seeing(name)) for name, layer in self.norms.items()]

        def untap(self):
            for hook in self.hooks:
                hook.remove()
            self.hooks = []

        def seeing(self, name):
            def see(layer, given, out):
                if given and hasattr(given[0], "shape") and hasattr(out, "shape"):
                    building.note(self.seen, name, given[0], out, self.trains(layer))

            return see

        def play(self, x):
            self.seen = {}
            return building.one_tensor(custom, self.call, self.blocks[0][1](x), self.network.get("output"))

        def backward(self, dys):
            found = base.backward(self, dys)
            return {word: found[word] if word == "input" else found[word].reshape(-1) for word in found}

        def taps(self):
            return building.last(self.seen, self.array)

        def ran(self):
            return building.ran(self.seen)

        def held(self, layer):
            found = {what: self.own[layer].find(what) for what in ("gamma", "beta", "running_mean", "running_var")}
            return {what: tensor for what, tensor in found.items() if tensor is not None}

        def state(self, layer):
            if layer in self.gone:
                return self.gone[layer]
            channels = int(self.own[layer].find("running_mean").size)
            return dict(shared.state(self.own[layer], channels), training=self.norms[layer].training)

        def axis(self, layer):
            norm = self.norms.get(layer)
            return self.hands.axis_of(norm, {"data_format": getattr(norm, "_data_format", "NCHW")})

        def facts(self):
            return dict(getattr(self, "leaves", {}))

        # -- what apply asks for ------------------------------------------------------------------------------

        def apply(self, function, x):
            return part("applied", "own").in_cell(self, part, function, x)

        def replace(self, net):
            """Go on with another model, or this one's layers as they are now; what is gone keeps its last state."""
            self.untap()
            last = {name: self.state(name) for name in self.norms}
            self.blocks = [("net", net)]
            self.norms = {name: layer for name, layer in self.found().items() if name in self.layers}
            self.gone.update((name, held) for name, held in last.items() if name not in self.norms)
            self.own = {name: shared.Own(self.hands, layer) for name, layer in self.norms.items()}
            self.tap()
            self.tape, self.used_up, self.seen = [], False, {}

        def root(self):
            return self.blocks[0][1]

        def handed(self, batch):
            return self.paddle.to_tensor(batch)

        def is_model(self, given):
            return isinstance(given, self.paddle.nn.Layer)

        def unusable(self, net):
            return ""

        def everything(self, net):
            return dict(net.named_parameters(), **dict(net.named_buffers()))

        def put(self, held, value):
            held.set_value(self.paddle.to_tensor(value).astype(held.dtype))

        def kinds(self, net):
            return {name: type(layer).__name__ for name, layer in self.modules(net).items()}

        def modes(self, net):
            return {name: bool(layer.training) for name, layer in net.named_sublayers(include_self=True)}

        def set_modes(self, net, modes):
            for name, layer in net.named_sublayers(include_self=True):
                layer.training = modes[name]

        def frozen(self, layer):
            parameters = layer.parameters(include_sublayers=False)
            return bool(parameters) and all(each.stop_gradient for each in parameters)

        def in_training(self, net, batch):
            net.train()
            with self.paddle.no_grad():
                return net(self.tensor(batch))

        def evaluated(self, net, batch):
            net.eval()
            with self.paddle.no_grad():
                return net(self.tensor(batch))

        # -- what a short life of check asks for besides ---------------------------------------------------------

        variants = ("", "builtin")  # of a layer of the user's, of the framework's own

        def find(self, layer, what):
            return shared.find(self.hands, layer, what)

        def trains(self, layer):
            """Whether it normalises with the batch: use_global_stats says so in either mode, where it is set."""
            asked = getattr(layer, "_use_global_stats", None)
            return bool(layer.training) if asked is None else not asked

        def followed(self, modules):
            return part("places", "own").followed(modules, "forward")

        def always(self, name):
            """What makes a layer normalise with the batch in inference, too; "" for nothing that it holds."""
            return "use_global_stats=False" if getattr(self.norms[name], "_use_global_stats", None) is False else ""

        def modules(self, net):
            return dict(net.named_sublayers())

        def descend(self, dy, rate):
            """One step of plain gradient descent along the last forward's gradient."""
            if any(not held.stop_gradient for held in self.parameters()):
                base.backward(self, [dy])
            for held in self.parameters():
                if held.grad is not None:
                    held.set_value(held - rate * held.grad)

    return Whole
