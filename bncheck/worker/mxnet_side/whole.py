"""A Gluon model that a user's function builds, played instead of a scenario's layers.

Loaded by backends/mxnet.py by path. Python 3.7 syntax. Its weights come from the function, which is called after a
fixed seed. A normalising layer is any that holds a running mean and variance. It runs block by block: in a hybridized
model nothing can be seen of the layers inside.
"""


def whole(base, part):
    """``base`` (the MXNet backend's Model) on a model of the user's."""
    shared, custom, building = part("layer", "own"), part("custom", "torch"), part("whole", "own")

    class Whole(part("own").by_own_names(base)):
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
            self.blocks, self.hooks, self.gone = [("net", net)], [], {}
            self.norms = self.found()
            self.own = {name: shared.Own(self.hands, block) for name, block in self.norms.items()}
            self.layers = list(self.norms)
            self.tap()

        def see(self, x):
            """Before anything is played: know it all by a batch, and what its modules make of that."""
            self.settle(x)
            self.leaves = part("leaves", "own").look(
                part("places", "own"), self, shared.np.asarray(x, dtype=self.dtype)
            )
            self.mx.random.seed(building.PLAYED)

        def settle(self, x):
            """Let parameters that wait for a batch have one, in inference; find layers whose state has unusual names by
            what they do with it."""
            batch = shared.np.asarray(x, dtype=self.dtype)
            if any(part("own").unknown(each) for each in self.hands.parameters(self.root())):
                try:
                    self.evaluated(self.root(), batch)
                except (Exception, SystemExit) as error:
                    said = "parameters of %s wait for a first batch, and one of the shape %s raises %s%s"
                    where = custom.line_in(self.network["model"].rpartition(":")[0], error)
                    text = said % (self.call, tuple(batch.shape), custom.said(error), where)
                    raise custom.failed(text, error)
            part("unusual", "own").see(shared, part("behaviour", "torch"), self, batch)
            self.mx.random.seed(building.PLAYED)  # what is played does not depend on what was looked at before

        def place(self, name):
            return "" if self.norms[name] is self.root() else name

        def found(self):
            """One that stands at two places goes by the first of its names."""
            found, known = {}, set()
            for name, block in part("own").blocks(self.root()):
                if id(block) not in known and shared.normalises(self.hands, block):
                    found[name or "net"] = block
                    known.add(id(block))
            return found

        def tap(self):
            self.hooks = [block.register_forward_hook(self.seeing(name)) for name, block in self.norms.items()]

        def untap(self):
            for hook in self.hooks:
                hook.detach()
            self.hooks = []

        def seeing(self, name):
            def see(block, given, out):
                if given and hasattr(given[0], "asnumpy") and hasattr(out, "asnumpy"):
                    building.note(self.seen, name, given[0], out, self.trains(block))

            return see

        def play(self, x):
            self.seen, self.returned, self.hasty = {}, None, {}
            return building.one_tensor(custom, self.call, self.blocks[0][1](x), self.network.get("output"))

        def taps(self):
            return building.last(self.seen, lambda tensor: tensor.asnumpy())

        def ran(self):
            return building.ran(self.seen)

        def axis(self, layer):
            return self.hands.axis_of(self.norms.get(layer), {})

        def held(self, layer):
            if layer in self.gone:
                return self.gone[layer]
            own = self.own[layer]
            channels = shared.np.prod(own.find("running_mean").shape)
            return dict(shared.state(own, int(channels)), training=self.training)

        def facts(self):
            return dict(getattr(self, "leaves", {}))

        # -- what apply asks for ------------------------------------------------------------------------------

        def apply(self, function, x):
            return part("applied", "own").in_cell(self, part, function, x)

        def replace(self, net):
            """Go on with another model, or this one's layers as they are now; what is gone keeps its last state."""
            self.untap()
            last = {name: self.held(name) for name in self.norms}
            self.blocks = [("net", net)]
            self.norms = {name: block for name, block in self.found().items() if name in self.layers}
            self.gone.update((name, held) for name, held in last.items() if name not in self.norms)
            self.own = {name: shared.Own(self.hands, block) for name, block in self.norms.items()}
            self.tap()
            self.tape, self.used_up, self.seen = [], False, {}

        def root(self):
            return self.blocks[0][1]

        def handed(self, batch):
            return self.mx.nd.array(batch, ctx=self.context, dtype=batch.dtype)

        def is_model(self, given):
            return isinstance(given, self.mx.gluon.Block)

        def unusable(self, net):
            lacks = [each for each in self.hands.parameters(net) if part("own").unknown(each) or each._data is None]
            return "has no numbers yet: call initialize(), and the model once" if lacks else ""

        def everything(self, net):
            """By place, for a copy's parameters have other names."""
            return {
                "%s.%s" % (path, name) if path else name: each
                for path, block in part("own").blocks(net)
                for name, each in part("own").named(block)
                if self.hands.is_tensor(each)
            }

        def put(self, held, value):
            array = self.mx.nd.array(value, ctx=self.context, dtype=value.dtype)
            if hasattr(held, "set_data"):
                held.set_data(array)
            else:
                held[:] = array

        def kinds(self, net):
            return {name: type(block).__name__ for name, block in self.modules(net).items()}

        def modes(self, net):
            return {}  # autograd's, for all blocks

        def set_modes(self, net, modes):
            pass

        def frozen(self, layer):
            held = [self.find(layer, what) for what in ("gamma", "beta")]
            held = [each for each in held if hasattr(each, "grad_req")]
            return bool(held) and all(each.grad_req == "null" for each in held)

        def in_training(self, net, batch):
            with self.mx.autograd.record(train_mode=True):
                return net(self.handed(batch))

        def array(self, x, dtype=None):
            """An array of MXNet's of NumPy's, and back where no dtype is asked for."""
            return base.array(self, x, dtype) if dtype is not None else x.asnumpy()

        def evaluated(self, net, batch):
            with self.mx.autograd.pause(train_mode=False):
                return net(self.handed(batch))

        # -- what a short life of check asks for besides ---------------------------------------------------------

        variants = ("", "builtin")  # of a layer of the user's, of the framework's own

        def find(self, layer, what):
            return shared.find(self.hands, layer, what)

        def trains(self, block):
            """Whether it normalises with the batch in the forward that runs."""
            fixed = getattr(block, "_kwargs", {}).get("use_global_stats", False)
            return self.mx.autograd.is_training() and not fixed

        def followed(self, modules):
            return part("places", "own").followed(modules, "forward")

        def always(self, name):
            """What makes a layer normalise with the batch in inference, too; "" for nothing that it holds."""
            return ""

        def modules(self, net):
            return {name: block for name, block in part("own").blocks(net) if name}

        def descend(self, dy, rate):
            """One step of plain gradient descent along the last forward's gradient."""
            weights = self.hands.weights(self.blocks[0][1])
            if weights:
                base.backward(self, [dy])
            for held in weights:
                held.set_data(held.data(self.context) - rate * held.grad(self.context))

    return Whole
