"""What the normalising layers of a model hold at one moment, under bncheck's words.

Loaded by path, by backends/torch.py and by subject/; Python 3.7 syntax.
"""

import numpy as np


def normalisers(torch, net, keeping):
    """{path: module} of every layer that normalises by statistics that it keeps."""
    builtin = keeping.builtin_classes(torch)
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, builtin) or keeping.words_of(module):
            found[name or type(module).__name__] = module
    return found


def describe(name, module, training):
    return {
        "name": name,
        "kind": type(module).__name__,
        "training": training,
        "own": not type(module).__module__.startswith("torch."),
        "eps": number(getattr(module, "eps", None)),
        "momentum": number(getattr(module, "momentum", None)),
        "cumulative": hasattr(module, "momentum") and module.momentum is None,
        "tracks": getattr(module, "track_running_stats", True) is not False,
    }


def number(value):
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def others(net, norms):
    """{key: shape} of everything else in the state dict."""
    own = tuple(name + "." for name in norms)
    return {
        key: list(value.shape)
        for key, value in net.state_dict().items()
        if not key.startswith(own) and not lazy(value) and hasattr(value, "shape")
    }


def without_numbers(net):
    """Which parameters and buffers are on the meta device, in words; "" where all hold numbers."""
    held = list(net.named_parameters()) + list(net.named_buffers())
    names = [name for name, value in held if value is not None and value.device.type == "meta"]
    more = " and %d more" % (len(names) - 3) if len(names) > 3 else ""
    verb = "is" if len(names) == 1 else "are"
    where = "on the meta device, which holds shapes alone"
    return "%s%s %s %s" % (", ".join(names[:3]), more, verb, where) if names else ""


def lazy(value):
    """A parameter or buffer of a lazy layer that has not run yet: it has no shape."""
    return type(value).__name__.startswith("Uninitialized")


def arrays(torch, norms, keeping):
    """``<layer number>/<quantity>``: what it holds now, widened where NumPy has no such type; ``…/dtype`` and ``…/key``
    (the layer's own name for it) too."""
    found = {}
    builtin = keeping.builtin_classes(torch)
    usual = {"mean": "running_mean", "var": "running_var", "counter": "num_batches_tracked", "gamma": "weight",
             "beta": "bias"}  # fmt: skip
    words = {"mean": "running_mean", "var": "running_var", "counter": "counter", "gamma": "gamma", "beta": "beta"}
    for place, module in enumerate(norms.values()):
        names = usual if isinstance(module, builtin) else keeping.words_of(module)
        for word, quantity in words.items():
            value = keeping.kept(module, names.get(word))
            if not hasattr(value, "detach") or lazy(value):
                continue
            data = value.detach().cpu()
            data = keeping.as_variance(data, names) if word == "var" else data
            kept = data.float() if str(data.dtype) in ("torch.bfloat16", "torch.float16") else data
            found["%d/%s" % (place, quantity)] = kept.numpy().copy()
            found["%d/%s/dtype" % (place, quantity)] = np.array(str(data.dtype).replace("torch.", ""))
            found["%d/%s/key" % (place, quantity)] = np.array(names[word])
    return found
