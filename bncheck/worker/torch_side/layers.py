"""Layers of a scenario as torch modules, and the hooks that look at what goes through them.

Loaded by backends/torch.py by path, Python 3.7 syntax.
"""


def functional_class(torch):
    """The operator behind the module, with the same parameters and buffers but none of its checks."""

    class FunctionalBatchNorm(torch.nn.modules.batchnorm._BatchNorm):
        def forward(self, x):
            batch = self.training or not self.track_running_stats
            if self.training and self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
            momentum = self.momentum
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked) if self.training else 0.0
            return torch.batch_norm(
                x,
                self.weight,
                self.bias,
                self.running_mean,
                self.running_var,
                batch,
                momentum,
                self.eps,
                torch.backends.cudnn.enabled,
            )

    return FunctionalBatchNorm


def batch_norm(torch, layer, variant, custom=None):
    """One BatchNorm layer of the scenario: PyTorch's own, the operator behind it, or what ``custom`` constructs."""
    keywords = {"affine": layer["affine"]}
    if layer["batch_weight"] is not None:
        keywords["momentum"] = layer["batch_weight"]
    if layer["averaging"] == "cumulative":
        keywords["momentum"] = None
    if layer["eps"] is not None:
        keywords["eps"] = layer["eps"]
    if not layer["track_running_stats"]:
        keywords["track_running_stats"] = False
    keywords.update(layer["native"].get("torch", {}))
    if custom and variant != "builtin":
        return custom(layer["channels"], keywords, layer["rank"])
    if variant == "functional":
        return functional_class(torch)(layer["channels"], **keywords)
    kinds = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}
    return kinds[layer["rank"]](layer["channels"], **keywords)


def make(torch, layer, params, variant, custom, earlier=None):
    """Any layer of the scenario; sizes of weights are those of the host's arrays."""
    kind, options, nn = layer["type"], layer["options"], torch.nn
    if earlier is not None:
        return again_class(torch)(getattr(earlier, layer["same_as"]))
    if kind == "batch_norm":
        return batch_norm(torch, layer, variant, custom)
    if kind == "flatten":
        return flatten_class(torch)()
    if kind == "relu":
        return nn.ReLU()
    if kind == "global_avg_pool":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), flatten_class(torch)())
    if kind not in ("dense", "conv2d"):
        raise NotImplementedError("this backend has no layer %r" % kind)
    weight = params[layer["name"] + "/weight"].shape
    if kind == "dense":
        return nn.Linear(weight[1], weight[0])
    return nn.Conv2d(
        weight[1], weight[0], weight[2:], stride=options.get("stride", 1), padding=options.get("padding", 0)
    )


def again_class(torch):
    class Again(torch.nn.Module):
        """A layer at its second place. The layer is no child of this one: it belongs where it stands first."""

        def __init__(self, first):
            super(Again, self).__init__()
            object.__setattr__(self, "first", first)

        def forward(self, x):
            # Hooks look at a layer's first place; this call is seen by those of this module.
            hooks, self.first._forward_hooks = self.first._forward_hooks, type(self.first._forward_hooks)()
            try:
                return self.first(x)
            finally:
                self.first._forward_hooks = hooks

    return Again


def viewed(data, view):
    """The same values, laid out in memory otherwise; what lies between them is NaN, so that nobody reads it unseen."""
    if view == "permuted":
        return data.transpose(1, -1).contiguous().transpose(1, -1)
    if view == "strided":
        wide = data.new_full(tuple(data.shape[:-1]) + (2 * data.shape[-1] + 1,), float("nan"))
        wide[..., 1::2] = data
        return wide[..., 1::2]
    if view == "sliced":
        wide = data.new_full((data.shape[0], data.shape[1] + 2) + tuple(data.shape[2:]), float("nan"))
        wide[:, 1:-1] = data
        return wide[:, 1:-1]
    return data


def seeing(model, name):
    def hook(module, given, out):
        if not (given and hasattr(given[0], "detach") and hasattr(out, "detach")):
            return  # nothing is known of this call
        # What comes behind it in a network of the user's may write into its output: an nn.ReLU(inplace=True) does.
        model.seen[name] = (given[0], out.detach().clone() if model.whole else out)

    return hook


def keeping(model):
    def hook(module, given, out):
        model.returned = out

    return hook


def flatten_class(torch):
    class Flatten(torch.nn.Module):  # nn.Flatten came with 1.2
        def forward(self, x):
            return x.reshape(x.shape[0], -1)

    return Flatten
