"""A Flax nnx model that a user's function builds, played instead of a scenario's layers.

Loaded by backends/flax.py by path. Python 3.7 syntax. Its weights come from the function, which seeds its own Rngs. It
runs jitted, taken apart and put together again in each call; a normalising layer, any that holds a running mean and
variance, is then seen through the call of its class.
"""

import contextlib


def whole(base, plain, part):
    """``base`` (the Flax backend's Model) on a model of the user's; ``plain`` is its part of one nnx module."""
    shared, custom, building = part("layer", "own"), part("custom", "torch"), part("whole", "own")

    class Whole(base):
        def __init__(self, jax, network, params, dtype, variant):
            from flax import nnx

            self.jax, self.nnx, self.network, self.dtype = jax, nnx, network, jax.numpy.dtype(dtype)
            self.hands, self.specs, self.returns, self.first = part("own", "flax").hands(shared), {}, None, None
            self.to_the_input = network.get("input_gradient", True) and variant != "plain_input"
            self.assemble()
            self.layers = list(self.own)
            self.mode = None  # what the next "as_is" forward does; None is what the model itself was built with
            self.tape, self.used_up, self.seen = [], False, {}

        def assemble(self):
            given = dict(self.network.get("arguments") or {})
            self.net, self.call = building.made(self.hands, custom, self.network["model"], given)
            if self.dtype.name != "float32":  # else what the function made is what is looked at, bfloat16 and all
                self.hands.finish(self.net, (), self.dtype.name)
            self.gone = {}
            self.look()

        def see(self, x):
            """Before anything is played: know it all by a batch, and what its modules make of that."""
            self.settle(x)
            self.leaves = part("leaves", "own").look(part("places", "own"), self, x)

        def settle(self, x):
            """Find layers whose state has unusual names by what they do with a batch."""
            part("unusual", "own").see(shared, part("behaviour", "torch"), self, x)

        def place(self, name):
            return "" if self.own[name].layer is self.net else name

        def look(self):
            """Its normalising layers, and the functions that run it."""
            self.own = {name: shared.Own(self.hands, layer) for name, layer in self.normalisers(self.net).items()}
            jitted = part("jitted", "flax")
            asks = self.to_the_input
            compiled = jitted.functions(self.jax, self.play, self.jax.jit, asks)
            self.run = jitted.Willing(self.jax, self.play, compiled, custom, asks)

        def normalisers(self, net):
            found = [(".".join(map(str, path)), each) for path, each in self.nnx.iter_modules(net)]
            return {name or "net": each for name, each in found if shared.normalises(self.hands, each)}

        def play(self, static, training, params, stats, x):
            """(output, (new state beside the parameters, {layer: (input, output)})); pure."""
            net = self.nnx.merge(static, params, stats, copy=True)
            names = {id(each): name for name, each in self.normalisers(net).items()}
            kinds = {type(own.layer) for own in self.own.values()}
            with tapped(names, kinds, self.hearing(training)) as seen:
                out = net(x, **self.hands.flags(net, training))
            out = building.one_tensor(custom, self.call, out, self.network.get("output"))
            return out, (self.nnx.split(net, self.nnx.Param, ...)[2], seen)

        # -- events -------------------------------------------------------------------------------------------

        def forward(self, x, mode):
            if mode != "as_is":
                self.set_mode(mode != "eval")
            data = self.jax.numpy.asarray(x, dtype=self.dtype)
            static, params, stats = self.nnx.split(self.net, self.nnx.Param, ...)
            if mode in ("eval", "no_grad"):
                out, (moved, self.seen) = self.run["forward"](static, self.mode, params, stats, data)
            else:
                out, pull, (moved, self.seen) = self.run["recorded"](static, self.mode, params, stats, data)
                self.tape = [pull] if self.used_up else self.tape + [pull]
                self.used_up = False
            self.nnx.update(self.net, moved)
            return self.array(out)

        def gradients(self, layer, grads):
            if layer in self.gone:
                return {}
            places = {id(each): path for path, each in self.nnx.iter_graph(self.net)}
            held = {what: self.own[layer].find(what) for what in ("gamma", "beta")}
            held = {what: each for what, each in held.items() if isinstance(each, self.nnx.Param)}
            return {
                what: part("layers", "flax").at(grads, places[id(each)])[...].reshape(-1) for what, each in held.items()
            }

        def set_mode(self, training, layer=None):
            if layer is not None:
                self.hands.set_mode(self.own[layer].layer, training)
                return
            self.mode = bool(training)
            self.hands.set_mode(self.net, training)

        def reload(self, folder):
            """The state of the model into a file, a new model, the state into it."""
            self.write(folder, {"net": plain(self.net)})
            self.assemble()
            self.read(folder, {"net": plain(self.net)})
            if self.mode is not None:
                self.set_mode(self.mode)
            return {"artifacts": ["state.npz"]}

        # -- what is recorded ---------------------------------------------------------------------------------

        def taps(self):
            return building.last(self.seen, self.array)

        def ran(self):
            return building.ran(self.seen)

        def hearing(self, training):
            """What is noted of a call: its mode is what the call says, else the layer, else the whole model."""

            def note(seen, name, layer, given, keywords, out):
                told = self.hands.asked(keywords)
                told = self.hands.mode(layer) if told is None else told
                building.note(seen, name, given, out, training if told is None else told)

            return note

        def axis(self, layer):
            return self.hands.axis_of(self.own[layer].layer, {}) if layer in self.own else -1

        def state(self, layer):
            if layer in self.gone:
                return self.gone[layer]
            own = self.own[layer]
            found = shared.state(own, int(own.find("running_mean").size))
            training = self.hands.mode(own.layer)
            training = self.mode if training is None else training
            return found if training is None else dict(found, training=training)

        def dtypes(self, layer):
            if layer in self.gone:
                return {}
            held = {what: self.own[layer].find(what) for what in ("gamma", "beta", "running_mean", "running_var")}
            return {
                what: "bfloat16" for what, each in held.items() if each is not None and "bfloat16" in str(each.dtype)
            }

        def facts(self):
            remarks = self.manner()
            return dict(getattr(self, "leaves", {}), **({"remarks": remarks} if remarks else {}))

        def manner(self):
            """Sentences on how it was played."""
            return [self.run.remark] if self.run.remark else []

        # -- what apply asks for ------------------------------------------------------------------------------

        def apply(self, function, x):
            return part("applied", "own").in_cell(self, part, function, x)

        def tap(self):
            """Layers are seen through the call of their class, while a function runs."""

        untap = tap

        def replace(self, net):
            """Go on with another model, or this one's layers as they are now; what is gone keeps its last state."""
            last = {name: self.state(name) for name in self.own}
            self.net = net
            self.look()
            self.own = {name: own for name, own in self.own.items() if name in self.layers}
            self.gone.update((name, held) for name, held in last.items() if name not in self.own)
            self.tape, self.used_up, self.seen = [], False, {}

        def root(self):
            return self.net

        def found(self):
            return self.normalisers(self.net)

        def handed(self, batch):
            return self.jax.numpy.asarray(batch, dtype=self.dtype)

        def is_model(self, given):
            return isinstance(given, self.nnx.Module)

        def unusable(self, net):
            return ""

        def everything(self, net):
            found = part("own", "flax").variables(self.nnx, net)
            return {path: each for path, each in found if hasattr(each, "dtype") and each.dtype.kind in "fiu"}

        def put(self, held, value):
            held[...] = self.jax.numpy.asarray(value, dtype=held.dtype)

        def kinds(self, net):
            return {name: type(each).__name__ for name, each in self.modules(net).items()}

        def modes(self, net):
            """Of the modules that hold one: a Dropout's and a BatchNorm's, not the model's own."""
            modules = self.nnx.iter_modules(net)
            held = {".".join(map(str, path)): self.hands.mode(each) for path, each in modules}
            return {name: mode for name, mode in held.items() if mode is not None}

        def set_modes(self, net, modes):
            for path, each in self.nnx.iter_modules(net):
                mode = modes.get(".".join(map(str, path)))
                if mode is not None and self.hands.mode(each) != mode:
                    self.hands.set_own_mode(each, mode)

        def frozen(self, layer):
            return False  # what is trained is the optimiser's matter

        def in_training(self, net, batch):
            self.hands.set_mode(net, True)
            return net(self.handed(batch), **self.hands.flags(net, True))

        def evaluated(self, net, batch):
            self.hands.set_mode(net, False)
            return net(self.handed(batch), **self.hands.flags(net, False))

        # -- what a short life of check asks for besides ---------------------------------------------------------

        variants = ("", "builtin")  # of a layer of the user's, of the framework's own

        @property
        def norms(self):
            return {name: own.layer for name, own in self.own.items()}

        def find(self, layer, what):
            return shared.find(self.hands, layer, what)

        @contextlib.contextmanager
        def followed(self, modules):
            calls, names = [], {id(each): name for name, each in modules.items()}

            def note(seen, name, layer, given, keywords, out):
                calls.append(part("places", "own").called(name, (given,), out))

            with tapped(names, set(map(type, modules.values())), note):
                yield calls

        def always(self, name):
            """What makes a layer normalise with the batch in inference, too; "" for nothing that it holds."""
            return ""

        def modules(self, net):
            return {".".join(map(str, path)): each for path, each in self.nnx.iter_modules(net) if path}

        def descend(self, dy, rate):
            """One step of plain gradient descent along the last forward's gradient."""
            self.used_up = True
            grads = self.run["backward"](self.tape[-1], self.jax.numpy.asarray(dy, dtype=self.dtype))[0]
            params = self.nnx.split(self.net, self.nnx.Param, ...)[1]
            self.nnx.update(self.net, self.jax.tree.map(lambda held, grad: held - rate * grad, params, grads))

    return Whole


@contextlib.contextmanager
def tapped(names, kinds, note):
    """What ``note(seen, name, module, input, keywords, output)`` puts into ``seen`` of the named modules' calls while
    it is open; ``names``: {id: name}."""
    seen, usual, running = {}, {kind: kind.__dict__.get("__call__") for kind in kinds}, set()
    wrapped = {kind: seeing(kind.__call__, names, seen, running, note) for kind in kinds}
    try:
        for kind, call in wrapped.items():
            kind.__call__ = call
        yield seen
    finally:
        for kind, call in usual.items():
            if call is None:
                del kind.__call__  # it was inherited
            else:
                kind.__call__ = call


def seeing(call, names, seen, running, note):
    def run(self, *given, **keywords):
        if id(self) not in names or id(self) in running:  # what it calls of the class that it derives from is one call
            return call(self, *given, **keywords)
        running.add(id(self))
        try:
            out = call(self, *given, **keywords)
        finally:
            running.discard(id(self))
        if given and hasattr(given[0], "shape") and hasattr(out, "shape"):
            note(seen, names[id(self)], self, given[0], keywords, out)
        return out

    return run
