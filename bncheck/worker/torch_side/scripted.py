"""Models that torch.jit.script or torch.jit.load made: they run without Python, and only their state is seen.

What each call did to the statistics is read around it; num_batches_tracked tells how many forwards in training there
were, where the layer has it: else one that moved them. Loaded by watching.py by path. Python 3.7 syntax.
"""

import sys
import weakref

import numpy as np

keeping = sys.modules["bncheck_torch_keeping"]  # watching.py has loaded it
alike, finite = keeping.alike, keeping.finite
SAID = (
    "A scripted model ran (torch.jit): the statistics of its layers were read around each call, what went into the "
    "layers and came out was not seen. In eval mode a layer is taken to run once in each call."
)
SAID_OF_TRACED = (
    "A traced model ran (torch.jit.trace): the statistics of its layers were read around each call, what went into the "
    "layers and came out was not. It runs in the mode in which it was traced, whatever train() and eval() say. A layer "
    "whose statistics stand still is taken to run once in each call."
)
STATISTICS, COUNTER = ("running_mean", "running_var"), "num_batches_tracked"


def kinds(torch):
    """Classes of models that run without Python; () before torch 1.4."""
    scripted = getattr(torch.jit, "RecursiveScriptModule", None)
    if scripted is None:
        return ()
    traced = getattr(torch.jit, "TopLevelTracedModule", None)
    return (scripted,) if traced is None else (scripted, traced)


class Inside:
    """One layer of a scripted model."""

    def __init__(self, module, layer):
        self.module, self.layer = module, layer
        self.before = self.after = None  # (mean, var, counter)
        self.index, self.bad = -1, False


class Scripted:
    """The part of Watching for them. ``scripts``: id of a model → its layers, in order."""

    def inside(self, root):
        known = self.scripts.get(id(root))
        if known is None:
            known = self.scripts[id(root)] = list(filter(None, self.met_inside(root)))
            weakref.finalize(root, self.scripts.pop, id(root), None)
        return known

    def met_inside(self, root):
        for path, module in root.named_modules():
            held = dict(module.named_buffers(recurse=False))
            if not all(name in held for name in STATISTICS) or held["running_mean"].device.type != "cpu":
                continue
            if held["running_mean"].numel() != held["running_var"].numel():
                continue
            kind = getattr(module, "original_name", type(module).__name__)
            layer = self.recorder.new_layer(kind, int(held["running_mean"].numel()))
            if layer is not None:
                layer.name, layer.names, layer.registered = self.free_inside(root, path or kind), (path,), True
                layer.traced = hasattr(root, "_actual_script_module")
                layer.device = str(held["running_mean"].device)
                layer.dtypes = {name: self.dtypes[held[name].dtype] for name in STATISTICS}
                yield Inside(module, layer)

    def free_inside(self, root, name):
        """The model that was scripted has layers of the same paths."""
        taken, number = {other.name for other in self.recorder.layers}, 2
        if name in taken:
            name = "%s.%s" % (getattr(root, "original_name", "scripted"), name)
        plain = name
        while name in taken:
            name, number = "%s (%d)" % (plain, number), number + 1
        return name

    def enter_scripted(self, root):
        for each in self.inside(root):
            each.before = self.state_of(each.module)
            if each.after is not None:
                self.jumped(each, each.module)

    def leave_scripted(self, root):
        traced = hasattr(root, "_actual_script_module")
        for each in self.inside(root):
            if each.before is not None:
                self.ran_inside(each, traced)
                each.before = None
        if self.inside(root):
            self.recorder.remark(SAID_OF_TRACED if traced else SAID)

    def state_of(self, module):
        mean, var = (getattr(module, name) for name in STATISTICS)
        return self.moments.held(mean), self.moments.held(var), float(getattr(module, COUNTER, "nan"))

    def ran_inside(self, each, traced):
        """Count the forwards of a layer in a call that has ended."""
        recorder, local, layer, module = self.recorder, self.local, each.layer, each.module
        each.after = self.state_of(module)
        moved, told = not alike(each.before, each.after), each.after[2] - each.before[2]
        told = 0 if np.isnan(told) else int(told)
        training = told > 0 or moved
        if module.training and not training and not traced:
            return  # it did not run, or the trace that it comes from was made in eval mode
        parameters = [getattr(module, name, None) for name in ("weight", "bias")]
        trainable = any(value is not None and value.requires_grad for value in parameters)
        self.freeze_inside(layer, trainable)
        recorder.describe(layer)
        recorder.place()
        key = (training, local.again, self.torch.is_grad_enabled(), "")
        index, each.index, many = recorder.forwards, recorder.forwards, max(1, told)
        for _ in range(many):
            recorder.forward(layer, key, -1, moved, local.where)
        if local.look and many == 1:
            recorder.moment(layer, local.clock, self.moment_inside(each, parameters, index, key))
        else:
            recorder.left_out += many
        if moved and not each.bad and not finite(*each.after[:2]):
            each.bad = True
            if finite(*each.before[:2]):
                recorder.happen("nonfinite", [layer.number], local.where, index, **{"in": "state", "born": None})
                recorder.notable()

    def freeze_inside(self, layer, trainable):
        was, layer.trainable = layer.trainable, trainable
        if was is not None and was != trainable:
            self.recorder.happen("requires_grad", [layer.number], None, value=trainable)

    def moment_inside(self, each, parameters, index, key):
        before, after, number = each.before, each.after, self.moments.number
        found = {
            "mean_before": before[0],
            "var_before": before[1],
            "mean_after": after[0],
            "var_after": after[1],
            "counter_before": before[2],
            "counter_after": after[2],
            "index": index,
            "call": self.local.call,
            "step": self.recorder.steps,
            "training": np.int8(key[0]),
            "in_backward": np.int8(key[1]),
            "gradients": np.int8(key[2]),
            "n": -1,
            "samples": -1,
            "eps": number(getattr(each.module, "eps", None)),
        }
        if hasattr(each.module, "momentum"):  # a traced layer has none, and None would mean a cumulative average
            found["momentum"] = number(each.module.momentum)
        for word, value in zip(("gamma", "beta"), parameters):
            if value is not None:
                found[word] = self.moments.held(value)
        return found
