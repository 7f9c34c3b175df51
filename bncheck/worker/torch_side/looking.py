"""What one forward of a normalising layer was like, and what is recorded of it.

Loaded by watching.py by path. Python 3.7 syntax.
"""

import sys

import numpy as np

keeping = sys.modules["bncheck_torch_keeping"]  # watching.py has loaded it
alike = keeping.alike
UNLOOKED = (
    "Forwards while the program traced or transformed a model were not looked at (torch.jit.trace, torch.export, "
    "torch.onnx.export, torch.func)."
)
EXPORTS = ("trace", "script", "export")  # functions that run a model for their own ends


class Looking:
    """The part of Watching that looks at forwards that have ended."""

    def judge(self, module, root, x, y):
        """Whether a module with buffers of unknown names keeps statistics of its input; from now on it is followed."""
        suspect = self.suspects[id(module)]
        words = suspect.words(self.torch, module, x, self.moments)
        if words is None and suspect.tries:
            return
        del self.suspects[id(module)]
        if words and words["var"]:
            norm = self.norms[id(module)] = self.follow(module, words)
            if norm is not None:
                norm.before = suspect.state(words)
                self.look(norm, module, root, x, y)
        elif words:
            self.recorder.remark(
                "%s keeps %s and no variance (%s): it is not followed."
                % (
                    type(module).__name__,
                    "one over a running standard deviation" if "eps" in words else "a running standard deviation",
                    words["deviation"],
                )
            )

    def look(self, norm, module, root, x, y):
        """A forward of a normalising layer has ended."""
        y = y[0] if isinstance(y, (tuple, list)) and y else y
        if self.unseen(x) or not hasattr(y, "dim"):
            norm.before = None
            if self.local.inside not in EXPORTS:
                norm.after = None  # else what an exporter's forwards change is its jump
            self.recorder.remark(UNLOOKED)
            return
        self.name(norm, module, root)
        recorder, layer, local = self.recorder, norm.layer, self.local
        if norm.axis is None:
            self.settle(norm, module, x)
        if norm.in_place(module):
            norm.after = norm.as_left(norm.before)
        else:
            norm.after = norm.statistics(module, self.moments.held) if self.readable(norm, module) else None
            layer.tracks = norm.tensor(module, "mean") is not None
        known = norm.before is not None and norm.after is not None
        moved = known and norm.after is not norm.before and not alike(norm.before, norm.after)
        gradients = self.torch.is_grad_enabled()
        self.parameters(norm, module)
        born = self.born(norm, x, y, moved) if local.look or x.device.type == "cpu" else False
        index, norm.index = recorder.forwards, recorder.forwards
        n = x.numel() // max(1, x.shape[norm.axis]) if x.dim() else 1
        recorder.describe(layer)
        key = (bool(module.training), local.again, gradients, self.dtypes[x.dtype])
        recorder.place()
        span = recorder.forward(layer, key, n, moved if layer.tracks and known else None, local.where)
        self.usual(norm, module, span, x)
        if known and (local.look or born) and x.numel():
            recorder.moment(layer, local.clock, self.moment(norm, module, x, y, index, n, gradients))
        else:
            recorder.left_out += 1

    def moment(self, norm, module, x, y, index, n, gradients):
        held, number, local = self.moments.held, self.moments.number, self.local
        state, channels = {}, norm.layer.channels
        for word in ("gamma", "beta"):
            value = norm.tensor(module, word)
            if value is not None and self.plain(value) and value.numel() in (1, channels):
                state[word] = np.broadcast_to(held(value), (channels,))
        found = self.moments.forward(self.torch, x, y, norm.axis, state)
        found.update(state)
        for name, values in (("mean", 0), ("var", 1)):
            before, after = norm.before[values], norm.after[values]
            if before is not None and after is not None and len(after) == channels == len(before):
                found[name + "_before"], found[name + "_after"] = before, after
        nan = float("nan")
        found["counter_before"] = nan if norm.before[2] is None else norm.before[2]
        found["counter_after"] = nan if norm.after[2] is None else norm.after[2]
        found.update(
            index=index,
            call=local.call,
            step=self.recorder.steps,
            training=np.int8(bool(module.training)),
            in_backward=np.int8(local.again),
            gradients=np.int8(gradients),
            n=n,
            eps=number(getattr(module, "eps", None)),
            momentum=0.0 if holds_still(norm, module) else number(getattr(module, "momentum", None)),
        )
        return found

    def settle(self, norm, module, x):
        """What a first forward tells of a layer: its channel axis, dtypes."""
        layer = norm.layer
        layer.kind = type(module).__name__  # a lazy layer has become another
        layer.device = str(x.device)
        layer.channels = (
            layer.channels or keeping.channels_of(module, norm.words) or int(x.shape[1 if x.dim() > 1 else 0])
        )
        fitting = [dim for dim in range(x.dim()) if x.shape[dim] == layer.channels]
        norm.axis = 1 if 1 in fitting else fitting[-1] if fitting else min(1, x.dim() - 1)
        for word, name in (("running_mean", "mean"), ("running_var", "var"), ("gamma", "gamma"), ("beta", "beta")):
            value = norm.tensor(module, name)
            if value is not None:
                layer.dtypes[word] = self.dtypes[value.dtype]
        layer.settled += 1

    def parameters_quietly(self, norm, module):
        gamma, beta = norm.tensor(module, "gamma"), norm.tensor(module, "beta")
        if gamma is None and beta is None:
            norm.trainable = norm.layer.trainable = None
        else:
            flag = (gamma is not None and gamma.requires_grad) or (beta is not None and beta.requires_grad)
            norm.trainable = norm.layer.trainable = bool(flag)

    def parameters(self, norm, module):
        """Whether gamma and beta get gradients, and whether that has changed."""
        was = norm.trainable
        self.parameters_quietly(norm, module)
        if was is not None and norm.trainable is not None and norm.trainable != was:
            self.recorder.happen("requires_grad", [norm.layer.number], None, value=norm.trainable)

    def converted(self, norm, module):
        """Whether the statistics have another dtype than at the last forward."""
        held = norm.tensor(module, "mean")
        dtype = None if held is None else held.dtype
        if norm.dtype is not None and dtype is not None and dtype != norm.dtype:
            was, became = (str(kind).replace("torch.", "") for kind in (norm.dtype, dtype))
            self.recorder.happen("convert", [norm.layer.number], None, was=was, became=became)
            norm.axis = None  # its dtypes are to be read again
        norm.dtype = dtype


def holds_still(norm, module):
    """Whether tracking was switched off after PyTorch's layer was made: then no forward moves what it holds."""
    return norm.builtin and getattr(module, "track_running_stats", True) is False
