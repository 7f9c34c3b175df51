"""Layers of a model whose names say nothing, known by what their buffers do in a few forwards of a copy that trains.

Loaded by path, by subject/ and by backends/torch.py. Python 3.7 syntax. What is found goes to ``keeping.SHOWN``, which
everything asks that looks for normalising layers; the model itself is left as it was.
"""

import copy

FORWARDS = 2
SAMPLES, SIDE = 8, 5  # of a batch for a layer by itself
STATISTICS = ("running_mean", "running_var")
LARGE = 1 << 28  # parameters of a model that is copied


def learn(torch, part, net, run):
    """Sentences: what was taken for the statistics of which layers, and which layers could not be made out.
    ``run(copy)``: a forward of the network on a batch that it takes; ``part(name)``: a file of this folder."""
    keeping, behaviour, strangers = part("keeping"), part("behaviour"), strange(torch, part, net)
    if not strangers or sum(each.numel() for each in net.parameters()) > LARGE:
        return []
    try:
        other = copy.deepcopy(net)
    except Exception as error:
        told = "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:200])
        return ["%s cannot be copied (%s), so its buffers were not looked at as it trains." % (called(strangers), told)]
    pairs = [
        (name, one, two)
        for (name, one), (_, two) in zip(everything(torch, keeping, net), everything(torch, keeping, other))
    ]
    looks = [
        (name, one, Look(torch, part, behaviour.suspect(two, True), two))
        for name, one, two in pairs
        if one in strangers
    ]
    other.train()
    with torch.random.fork_rng(devices=[]):
        for _ in range(FORWARDS):
            try:
                run(other)
            except (Exception, SystemExit):
                break  # what plays the network itself says why
            if not any(look.open for _, _, look in looks):
                break
        for _, _, look in looks:
            look.probe()
            look.by_itself()
    remarks = []
    for name, module, look in looks:
        look.end()
        if look.words is not None:
            keeping.SHOWN[module] = plainly(look.words)
            remarks.append(taken(module, look.words))
        elif look.moved:
            why = "towards no mean and variance of its input" if look.called else "without a call of it"
            remarks.append(
                "%s (%s) keeps %s, which moved in training, but %s: whether it is a BatchNorm is not known."
                % (name or "One", type(module).__name__, " and ".join(look.moved[:4]), why)
            )
    return list(dict.fromkeys(remarks))


def learn_alone(torch, part, module, shape):
    """The same of one layer, which takes a batch of that shape; custom.py knows its names from then on, and those of
    others of its class."""
    if part("arguments").shapeless(module):
        return []
    found = learn(torch, part, module, lambda other: other(torch.randn(*shape)))
    custom, keeping = part("custom"), part("keeping")
    for each in module.modules():
        known = isinstance(each._buffers, dict) and [custom.attribute(each, what) for what in STATISTICS]
        if known and any(held is None for held in known):
            words = keeping.words_of(each)
            if words is not None and words["var"]:
                # Of one over a deviation that has an eps of unknown size in it nothing is held against a variance.
                words = dict(words, var="", form="") if words.get("unsure") else words
                custom.LEARNT[each] = custom.LEARNT[type(each)] = words
    return found


def learn_layers(model):
    """Of layers of the user's in a backend's model, each by itself: {layer: what was taken for it}."""
    found = {}
    for name, norm in model.norms.items():
        shape = [SAMPLES, model.specs[name]["channels"]] + [SIDE] * (model.rank - 2)
        said = learn_alone(model.torch, model.part, norm, shape)
        if said:
            found[name] = said
    return found


def needs_batch(torch, part, net):
    """Whether it has layers that only a forward shows, or that have no shape before the first one."""
    return bool(strange(torch, part, net)) or any(map(part("held").lazy, net.state_dict().values()))


def settle(torch, part, net, x):
    """Both: what ``learn`` says, of a network that has had its first forward, in eval."""
    if any(map(part("held").lazy, net.state_dict().values())):
        modes = [(module, module.training) for module in net.modules()]
        with torch.no_grad():
            net.eval()(x)
        for module, training in modes:
            module.training = training
    return learn(torch, part, net, lambda other: other(x))


def everything(torch, keeping, net):
    """(path, module) of all modules, then those in plain lists and dicts, which have no path."""
    for item in net.named_modules():
        yield item
    known = set(net.modules())
    for owner in list(known):
        for kept in keeping.kept_in(owner):
            for inner in kept.modules() if isinstance(kept, torch.nn.Module) else ():
                if inner not in known:
                    known.add(inner)
                    yield "", inner


def taken(module, words):
    """What of a layer was taken for what."""
    forms = {
        "deviation": "a standard deviation",
        "inverse": "one over a standard deviation",
        "logarithm": "a logarithm",
        "log deviation": "the logarithm of a standard deviation",
    }
    held, kind = forms.get(words.get("form"), ""), type(module).__name__
    mean, spread = words["mean"], words["var"] or words["deviation"]
    if words.get("guessed"):
        said = "By what it does in training, %s of %s was taken for its running mean; %s, which moves beside it, for "
        return said % (mean, kind, spread) + "its running variance."
    said = "By what they do %s, %s and %s of %s were taken for its running mean and variance%s."
    where = "to its output in eval" if words.get("probed") else "in training"
    return said % (where, mean, spread, kind, ", which it holds as %s" % held if held else "")


def strange(torch, part, net):
    """{module: path} of the user's that keeps two tensors of one size, and whose names do not say what they are."""
    keeping, behaviour, found = part("keeping"), part("behaviour"), {}
    builtin = keeping.builtin_classes(torch)
    for name, module in everything(torch, keeping, net):
        if isinstance(module, builtin) or not isinstance(module._buffers, dict):
            continue
        words = keeping.words_of(module)
        if (words is None or not words["var"]) and behaviour.suspect(module, True) is not None:
            found[module] = name
    return found


def called(strangers):
    return ", ".join("%s (%s)" % (name or "one", type(each).__name__) for each, name in list(strangers.items())[:3])


def plainly(words):
    """As keeping.words_of says it: the buffer in the variance's place, whatever its form."""
    return dict(words, var=words["var"] or words["deviation"])


def outdoes(used, known):
    """Whether statistics that the output in eval shows are taken in the place of those that training showed: where it
    showed none, or others (of a fast and a slow average), or one over a deviation with an eps that nobody knows."""
    if used is None or known is None:
        return used is not None
    unlike = "unsure" in known and used.get("form") != known["form"]
    one, other = ((each["mean"], each["var"] or each["deviation"]) for each in (used, known))
    return unlike or one != other


class Look:
    """Hooks on one module, until its forwards have shown what its buffers are. ``moved``: buffers that moved, as long
    as an axis of its input where it was ``called``."""

    def __init__(self, torch, part, suspect, module):
        self.torch, self.part, self.moments = torch, part, part("moments")
        self.suspect, self.module = suspect, module
        self.words, self.moved, self.called, self.given, self.alone = None, [], False, None, False
        self.contrary = []  # names of what eval takes for no variance
        self.suspect.look(module, self.moments.held)
        self.hooks = [
            module.register_forward_pre_hook(self.before),
            part("keeping").hook_on(module, self.after),
        ]

    def before(self, module, given):
        self.suspect.look(module, self.moments.held)

    def after(self, module, given, out):
        x, self.called = given[0] if given else None, True
        if self.words is not None or not isinstance(x, self.torch.Tensor) or not x.is_floating_point() or x.dim() < 2:
            return
        self.given = x.detach()
        self.words = self.suspect.words(self.torch, module, x, self.moments, rest=self.alone)
        self.moved = self.moved or self.changed([size for size in self.suspect.sizes if size in x.shape[1:]])

    @property
    def open(self):
        """Whether it may show more: buffers of a layer that is called moved, and are not made out yet."""
        return self.words is None and bool(self.moved)

    def probe(self):
        """Ask the output what its tensors are: where no forward in training showed statistics; whether eval takes them
        for what training makes them; and of gamma and beta whose names say nothing."""
        x, probing, keeping = self.given, self.part("probing"), self.part("keeping")
        for size, names in self.suspect.sizes.items() if x is not None else ():
            known = self.words
            fitting = [axis for axis in range(1, x.dim()) if x.shape[axis] == size]
            if not fitting or (known is not None and self.suspect.after[known["mean"]].size != size):
                continue
            probe = probing.Probe(self.torch, self.module, x, 1 if 1 in fitting else fitting[-1])
            held = self.suspect.tensors(self.module)
            used = probing.words_of(probe, {name: held[name] for name in names if name in held})
            known = self.words  # its training forwards may have shown what those of the model did not
            if outdoes(used, known):
                self.words = known = used
            if known is None:
                self.contrary += probing.contrary(probe, {name: held[name] for name in names if name in held})
            if known is not None and not (keeping.named(known) and "unsure" not in known):
                probing.add_weights(probe, known)
                probing.add_eps(probe, known)
            self.module.train()

    def by_itself(self):
        """Once more where means of 0 or equal variances, as behind another normalisation, showed nothing."""
        x = self.given
        if self.words is not None or not self.moved or x is None:
            return
        size = self.suspect.after[self.moved[0]].size
        axis = next(axis for axis in range(x.dim() - 1, 0, -1) if x.shape[axis] == size)
        wide = [1] * x.dim()
        wide[axis] = size
        self.alone = True
        grow = self.torch.linspace(0.5, 2.0, size, dtype=x.dtype, device=x.device).reshape(wide)
        try:
            self.module(x * grow + grow.flip(axis))
        except (Exception, SystemExit):
            pass  # it takes more than one input: it stays unknown, which is said
        if self.words is not None and self.words.get("guessed") and self.words["var"] in self.contrary:
            self.words = None

    def changed(self, sizes):
        """Names of the buffers of such sizes that moved since ``before``, where there are two."""
        before, after = self.suspect.before, self.suspect.values(self.module, self.moments.held)
        names = [name for size in sizes for name in self.suspect.sizes[size] if name in before and name in after]
        found = [
            name for name in names if before[name].shape != after[name].shape or (before[name] != after[name]).any()
        ]
        return found if len(found) > 1 else []

    def end(self):
        for hook in self.hooks:
            hook.remove()
        if not self.called:
            self.moved = self.changed(list(self.suspect.sizes))
