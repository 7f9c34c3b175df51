"""Layers of a model whose names say nothing, known by what their buffers do in a few forwards of a copy that trains.

Loaded by path, by subject/ and by backends/torch.py. Python 3.7 syntax. What is found goes to ``keeping.SHOWN``, which
everything asks that looks for normalising layers; the model itself is left as it was.
"""

import copy

FORWARDS = 2


def learn(torch, part, net, run):
    """Sentences: what was taken for the statistics of which layers, and which layers could not be made out.
    ``run(copy)``: a forward of the network on a batch that it takes; ``part(name)``: a file of this folder."""
    keeping, behaviour, strangers = part("keeping"), part("behaviour"), strange(torch, part, net)
    if not strangers:
        return []
    try:
        other = copy.deepcopy(net)
    except Exception as error:
        told = "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:200])
        return ["%s cannot be copied (%s), so its buffers were not looked at as it trains." % (called(strangers), told)]
    twins = dict(other.named_modules())
    looks = [Look(torch, part, behaviour.suspect(twins[name], True), twins[name]) for name in strangers]
    other.train()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        for _ in range(FORWARDS):
            try:
                run(other)
            except (Exception, SystemExit):
                break  # what plays the network itself says why
    remarks = []
    for (name, module), look in zip(strangers.items(), looks):
        look.end()
        if look.words is not None:
            keeping.SHOWN[module] = plainly(look.words)
            remarks.append(taken(module, look.words))
        elif look.moved:
            remarks.append(
                "%s (%s) keeps %s, which moved in training, but towards no mean and variance of its input: whether it "
                "is a BatchNorm is not known." % (name or "It", type(module).__name__, " and ".join(look.moved[:4]))
            )
    return list(dict.fromkeys(remarks))


def taken(module, words):
    """What of a layer was taken for what."""
    held = {"deviation": "a standard deviation", "inverse": "one over a standard deviation"}.get(words.get("form"), "")
    return "By what they do in training, %s and %s of %s were taken for its running mean and variance%s." % (
        words["mean"],
        words["var"] or words["deviation"],
        type(module).__name__,
        ", which it holds as %s" % held if held else "",
    )


def strange(torch, part, net):
    """{name: module} of the user's that keeps two tensors of one size, and whose names do not say what they are."""
    keeping, behaviour, found = part("keeping"), part("behaviour"), {}
    builtin = keeping.builtin_classes(torch)
    for name, module in net.named_modules():
        if isinstance(module, builtin) or not isinstance(module._buffers, dict):
            continue
        words = keeping.words_of(module)
        if (words is None or not words["var"]) and behaviour.suspect(module, True) is not None:
            found[name] = module
    return found


def called(strangers):
    return ", ".join("%s (%s)" % (name or "it", type(each).__name__) for name, each in list(strangers.items())[:3])


def plainly(words):
    """As keeping.words_of says it: the buffer in the variance's place, whatever its form."""
    return dict(words, var=words["var"] or words["deviation"])


class Look:
    """Hooks on one module, until its forwards have shown what its buffers are."""

    def __init__(self, torch, part, suspect, module):
        self.torch, self.moments, self.suspect = torch, part("moments"), suspect
        self.words, self.moved = None, []
        self.hooks = [module.register_forward_pre_hook(self.before), module.register_forward_hook(self.after)]

    def before(self, module, given):
        self.suspect.look(module, self.moments.held)

    def after(self, module, given, out):
        x = given[0] if given else None
        if self.words is not None or not isinstance(x, self.torch.Tensor) or not x.is_floating_point() or x.dim() < 2:
            return
        self.words = self.suspect.words(self.torch, module, x, self.moments, rest=True)
        sizes = [size for size in self.suspect.sizes if size in x.shape[1:]]
        names = [name for size in sizes for name in self.suspect.sizes[size]]
        before, after = self.suspect.before, self.suspect.after
        found = [name for name in names if name in before and name in after and (after[name] != before[name]).any()]
        self.moved = self.moved or (found if len(found) > 1 else [])

    def end(self):
        for hook in self.hooks:
            hook.remove()
