"""Which layers of the user's inside a model of PyTorch can be taken out and played by themselves (own_side/alone.py).

Loaded by path, by backends/torch.py and by subject/model.py. Python 3.7 syntax.
"""

import copy


class Inside:
    """What is asked of a whole network beside what a model is asked: its layers one by one, call by call, and where the
    first NaN or Inf arises. ``model`` is the backend's."""

    def __init__(self, model):
        self.model, self.part = model, model.part
        self.example, self.learnt = None, []  # a batch that shows what layers do; sentences about what they showed
        self.called = {}  # layer: its calls in the last forward
        self.ways = {}  # layer: how often that called it, and whether it trained in the last of these calls
        self.batch, self.several = None, False  # of the last forward; whether one called a layer more than once
        self.born = None  # what birth.py says, once something was not finite
        self.leaves = None

    # -- before anything is played ----------------------------------------------------------------------------

    def see(self, x):
        """Build it anew where it has layers that only a batch shows: ``x`` is one that it is to get."""
        model = self.model
        if self.part("shown").needs_batch(model.torch, self.part, model.net):
            self.example = model.torch.from_numpy(x)
            model.assemble()

    def settle(self, net):
        if self.example is not None:
            self.learnt = self.part("shown").settle(self.model.torch, self.part, net, self.example)

    # -- a forward --------------------------------------------------------------------------------------------

    def call(self, mode, data):
        model, self.called, self.ways = self.model, {}, {}
        if model.variant == "compile":
            return model.call(data)  # it would compile what looks on
        if self.leaves is None:
            self.leaves = self.part("leaves").Leaves(model.torch, model.net)
        out = self.leaves.around(mode, lambda: model.call(data))
        self.batch = data.detach()
        self.look_for_birth(data, out)
        return out

    def following(self, module, name):
        """Hooks that keep each call of one forward: the statistics of a layer that is called at two places move twice.
        What it holds between two calls is looked at when the second begins."""

        def enter(module, given):
            calls = self.called.get(name)
            if calls:
                calls[-1][3] = self.model.state(name)

        def leave(module, given, out):
            self.ways[name] = (self.ways.get(name, (0, 0))[0] + 1, bool(module.training))
            if name in self.model.seen:
                (x, y), calls = self.model.seen[name], self.called.setdefault(name, [])
                calls.append([x.detach(), y, calls[-1][3] if calls else None, None])

        return [module.register_forward_pre_hook(enter), self.part("keeping").hook_on(module, leave)]

    def ran(self):
        return dict(self.ways)

    def calls(self):
        """{layer: [(input, output, state before, state after)]} of those that the last forward called several times.
        The state before the first call is None: it is the one before the forward."""
        model, found = self.model, {name: calls for name, calls in self.called.items() if len(calls) > 1}
        for name, calls in found.items():
            calls[-1][3] = model.state(name)
        self.several = self.several or bool(found)
        return {
            name: [(model.array(x), model.array(y), before, after) for x, y, before, after in calls]
            for name, calls in found.items()
        }

    def look_for_birth(self, data, out):
        """After a forward that brought the first NaN or Inf of a finite batch: where it arose."""
        model, birth = self.model, self.part("birth")
        torch = model.torch
        if self.born is not None or birth.bad(torch, data):
            return
        seen = [each for pair in model.seen.values() for each in pair] + [out]
        if not any(birth.bad(torch, each) for each in seen if isinstance(each, torch.Tensor)):
            return
        self.born = {}
        try:
            with model.unwatched():
                twin = copy.deepcopy(model.net)
        except Exception:
            return  # it stays unknown
        paths = dict(twin.named_modules())
        norms = {name: paths[place] for name, place in model.places.items()}
        with torch.random.fork_rng(devices=[]):
            self.born = birth.look(torch, twin, norms, lambda other: self.call_as(other, data.detach()))

    def call_as(self, net, data):
        """As the variant calls its network, where that changes what is computed."""
        model = self.model
        whose, model.net = model.net, net
        try:
            return self.part("variants").runner(model, model.variant)(data)
        finally:
            model.net = whose

    # -- after the last event ---------------------------------------------------------------------------------

    def facts(self):
        found = {"born": self.born} if self.born else {}
        places = self.at_several_places()
        found.update({"places": places} if places else {})
        return dict(found, modules=self.leaves.rows) if self.leaves is not None else found

    def at_several_places(self):
        """As ``check`` asks it, of a network that called a layer more than once in a forward."""
        model, torch = self.model, self.model.torch
        if not self.several:
            return {}
        norms = {name: each for name, each in model.norms.items() if name not in model.gone}
        try:
            with model.unwatched(), torch.random.fork_rng(devices=[]):
                return self.part("places").seen(
                    torch, self.part("places", "own"), model.net, norms, lambda: model.call(self.batch)
                )
        except Exception:
            return {}  # the play itself has said why

    def taken_out(self, shapes):
        """As own_side/inside.py asks. The network is in training from then on."""
        model = self.model
        model.net.train()
        paths = self.part("naming").tree_of(model.net)
        own = {name: each for name, each in model.norms.items() if not type(each).__module__.startswith("torch.")}
        layers = {
            name: {
                "kind": type(each).__name__,
                "own": name in own,
                "calls": int(model.variant != "compile"),  # which would compile what counts them; 0: not known
                "dtype": dtype_of(model.seen[name][1]) if name in model.seen else "",
                "names": paths.get(id(each)) or [name],
            }
            for name, each in model.norms.items()
        }
        for name, each in own.items():
            layers[name]["state"] = self.part("custom").names_in(each)
        found, why = playable(model.torch, self.part("custom"), own, shapes)
        for name, reason in why.items():
            layers[name]["why"] = reason
        return (
            "torch",
            ("", "builtin"),
            layers,
            found,
            self.learnt + aside(model.torch, self.part("keeping"), model.net),
        )


def narrow(torch, net):
    """The type of its first parameter, where that is a short one."""
    first = next((each.dtype for each in net.parameters() if each.is_floating_point()), None)
    return first if str(first) in ("torch.float16", "torch.bfloat16") else None


def single(torch, net):
    """Whether it has parameters, and all in float32: whatever else it holds is in a dtype of its own choice."""
    kinds = {each.dtype for each in net.parameters()}
    return kinds == {torch.float32}


def places(torch, part, net):
    """{name of each normalising layer: its path in the network}; a scripted one takes no hook, and is not looked at."""
    paths = {id(module): path for path, module in net.named_modules()}
    found = part("held").normalisers(torch, net, part("keeping"))
    found = {name: module for name, module in found.items() if isinstance(module._buffers, dict)}
    remember(part("custom"), part("keeping"), found)
    return {name: paths[id(module)] for name, module in found.items()}


def remember(custom, keeping, norms):
    """Tell custom.py under which names the user's layers hold what."""
    for module in norms.values():
        if not type(module).__module__.startswith("torch."):
            custom.LEARNT[module] = keeping.words_of(module) or {}


def aside(torch, keeping, net):
    """A sentence on the normalising layers that lie in plain lists and dicts; none where there are none."""
    known, found = set(net.modules()), []
    for owner in list(known):
        inner = [
            each for kept in keeping.kept_in(owner) if isinstance(kept, torch.nn.Module) for each in kept.modules()
        ]
        found += [each for each in inner if each not in known and keeping.words_of(each)]
    if not found:
        return []
    kinds = ", ".join(sorted({type(each).__name__ for each in found}))
    said = "in a plain list or dict of the model, where eval(), parameters() and state_dict() do not reach it"
    return ["%s: %s; it was not judged. Keep it in nn.ModuleList or nn.ModuleDict." % (kinds, said)]


def dtype_of(tensor):
    return str(tensor.dtype).replace("torch.", "")


def playable(torch, custom, own, shapes):
    """({name: (layer, its facts)} of those of ``own``, the user's layers, that alone.py can play, {name: why not}) in a
    model that trains; ``shapes``: of their inputs."""
    said = {name: facts(torch, custom, each, shapes.get(name)) for name, each in own.items()}
    found = {name: (own[name], each) for name, each in said.items() if isinstance(each, dict)}
    return found, {name: each for name, each in said.items() if name not in found}


def facts(torch, custom, layer, shape):
    """Of a layer that alone.py can play; why not, a text, of any other."""
    held = {what: custom.find(layer, what) for what in custom.TENSORS}
    known = {id(each) for each in held.values()}
    if any(held[what] is None for what in ("running_mean", "running_var")):
        return "it keeps no running mean and variance that are known"
    if not layer.training:
        return "it stays in eval while the model trains"
    if shape is None:
        return "it did not run in training, or gives more than one tensor"
    kept_whole = {custom.learnt(layer).get(word, "").partition("[")[0] for word in ("mean", "var")}
    more = [name for name, each in layer.named_parameters() if id(each) not in known and name not in kept_whole]
    if more:
        return "it learns %s, which is not known to be its gamma or beta" % more[0]
    channels, (eps, momentum) = held["running_mean"].numel(), (custom.find(layer, word) for word in ("eps", "momentum"))
    last = len(shape) > 2 and shape[1] != channels and shape[-1] == channels
    shape = [shape[0], channels] + list(shape[1:-1]) if last else list(shape)
    if len(shape) < 2 or shape[1] != channels:
        return "its %d statistics are no number for each channel of its input, %s" % (channels, tuple(shape))
    if hasattr(layer, "momentum") and layer.momentum is None:
        return "it averages all batches alike (momentum=None)"
    sizes = {what: held[what].numel() for what in ("gamma", "beta") if held[what] is not None}
    odd = ["%s of the shape %s" % (what, tuple(held[what].shape)) for what in sizes if sizes[what] not in (1, channels)]
    why = "it has a %s, and not a number for each of its %d channels" % (" and a ".join(odd), channels) if odd else ""
    if custom.learnt(layer).get("unsure"):
        why = why or "it holds one over a standard deviation, and how much eps is in that does not show"
    for what in ("gamma", "beta"):
        if isinstance(held[what], torch.nn.Parameter):
            held[what].requires_grad_()  # frozen from outside, for fine-tuning: what the layer computes is the question
    counter = custom.find(layer, "counter")
    if isinstance(counter, torch.Tensor):
        counter.zero_()  # as the built-in layer's that it is played beside
    return {
        "shape": shape,
        "play": turned(torch, layer) if last else layer,
        "axis": 1,
        "channels": channels,
        "eps": plain(eps),
        "weight": plain(momentum),
        "has": [what for what, each in held.items() if each is not None],
        "single": [what for what in sizes if sizes[what] == 1 < channels],
        "why": why,
        "form": custom.learnt(layer).get("form", ""),
        "root": torch.nn.Module,
    }


def turned(torch, layer):
    """A layer whose channels come last, in the place of one that has them second."""

    class Turned(torch.nn.Module):
        def __init__(self):
            super(Turned, self).__init__()
            self.inner = layer

        def forward(self, x):
            order = [0] + list(range(2, x.dim())) + [1]
            back = [0, x.dim() - 1] + list(range(1, x.dim() - 1))
            return self.inner(x.permute(*order)).permute(*back)

    Turned.__name__ = type(layer).__name__
    return Turned()


def plain(value):
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
