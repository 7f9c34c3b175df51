"""A network with a copy of itself (network.copied): made whole, through a state dict, exported, or averaged.

Loaded by backends/torch.py by path, Python 3.7 syntax. Nothing here trains parameters: what is looked at is what
becomes of the buffers. ``<layer>@copy`` is the copy's layer in the trace.
"""

import copy

# As hand-written teachers have it: teacher = decay · teacher + (1 − decay) · student, over parameters() alone.
DECAY = 0.9


def copied(base):
    """``base`` (the torch backend's Model) with the events update_copy, train_copy and eval_copy."""

    class Copied(base):
        def __init__(self, network, params, dtype, variant, device):
            base.__init__(self, network, params, dtype, variant, device)
            self.norm_names = list(self.layers)
            self.layers = [name + end for name in self.norm_names for end in ("", "@copy")]
            self.way = network["copied"]
            self.second = None
            if self.way != "export":
                with self.unwatched():
                    self.second = WAYS[self.way][0](self.torch, self.net)

        def assemble(self):
            self.layers = list(self.specs)
            base.assemble(self)

        def update_copy(self, x):
            with self.unwatched():
                self.second = WAYS[self.way][1](self.torch, self.net, self.second, self.tensor(x))

        def run_copy(self, x, training):
            if self.second is None:
                self.update_copy(x)
            if self.way != "export":  # an exported program stays in the mode it was exported in
                self.second.train(training)
            with self.torch.no_grad():
                return {"output": self.array(self.second(self.tensor(x)))}

        def train_copy(self, x):
            return self.run_copy(x, True)

        def eval_copy(self, x):
            return self.run_copy(x, False)

        def state(self, layer):
            name, _, second = layer.partition("@")
            return base.state(self, name) if not second else self.state_of_copy(name)

        def state_of_copy(self, name):
            """Found by the ends of names: an averaged model holds the network as ``module``."""
            if self.second is None:  # not yet exported: what it would be made of
                return {what: value for what, value in base.state(self, name).items() if what in WORDS}
            found = {}
            for key, tensor in self.second.state_dict().items():
                for what, word in WORDS.items():
                    if ("." + key).endswith("." + name + "." + word):
                        value = tensor.detach().cpu()
                        value = value.float() if self.wide else value
                        found[what] = int(value) if what == "counter" else value.numpy().copy()
            return found

        def axis(self, layer):
            return base.axis(self, layer)

        def dtypes(self, layer):
            return base.dtypes(self, layer.partition("@")[0])

    return Copied


WORDS = {
    "running_mean": "running_mean",
    "running_var": "running_var",
    "counter": "num_batches_tracked",
    "gamma": "weight",
    "beta": "bias",
}


def whole(torch, net, second=None, x=None):
    return copy.deepcopy(net)


def through_state_dict(torch, net, second=None, x=None):
    fresh = copy.deepcopy(net)
    fresh.load_state_dict(net.state_dict())
    return fresh


def assigned(torch, net, second=None, x=None):
    fresh = copy.deepcopy(net)
    try:
        fresh.load_state_dict(net.state_dict(), assign=True)
    except TypeError:
        raise NotImplementedError("load_state_dict(assign=True) came with torch 2.1; this is %s" % torch.__version__)
    return fresh


def exported(torch, net, second=None, x=None):
    try:
        import torch.export
    except ImportError:
        raise NotImplementedError("torch.export came with 2.1; this is %s" % torch.__version__)
    return torch.export.export(net, (x,)).module()


def teacher(torch, net, second, x=None):
    with torch.no_grad():
        for held, new in zip(second.parameters(), net.parameters()):
            held.mul_(DECAY).add_((1 - DECAY) * new)
    return second


def averaged_model(torch, net, **keywords):
    try:
        from torch.optim.swa_utils import AveragedModel
    except ImportError:
        raise NotImplementedError("AveragedModel came with torch 1.6; this is %s" % torch.__version__)
    return AveragedModel(net, **keywords)


def averaged(torch, net):
    return averaged_model(torch, net)


def averaged_with_buffers(torch, net):
    try:
        return averaged_model(torch, net, use_buffers=True)
    except TypeError:
        raise NotImplementedError("AveragedModel(use_buffers=True) is not in torch %s" % torch.__version__)


def average(torch, net, second, x=None):
    second.update_parameters(net)
    return second


# How the copy is made at first, and what an update of it does.
WAYS = {
    "deepcopy": (whole, whole),
    "state_dict": (through_state_dict, through_state_dict),
    "assign": (assigned, assigned),
    "export": (None, exported),
    "ema_parameters": (whole, teacher),
    "averaged": (averaged, average),
    "averaged_buffers": (averaged_with_buffers, average),
}
