"""A network before its first event: on its device, in its dtype, with the host's parameters.

Loaded by backends/torch.py by path. Python 3.7 syntax.
"""

import numpy as np


def move(model, net):
    """On the case's device, in its dtype. Module.to(dtype) would throw imaginary parts away."""
    if model.dtype == model.torch.float32 and model.device == "cpu" and not model.custom and not model.whole:
        return net  # as PyTorch makes it
    if model.whole and model.dtype == model.torch.float32 and model.part("inside").narrow(model.torch, net):
        model.dtype = model.part("inside").narrow(model.torch, net)  # as it is made, and not silently in float32
        model.wide = str(model.dtype) == "torch.bfloat16"
        return net.to(device=model.device)
    if model.parts != "complex":
        if model.dtype == model.torch.float32 and model.part("inside").single(model.torch, net):
            return net.to(device=model.device)  # statistics in float64 are meant so: lerp_() and the like count on it
        return net.to(device=model.device, dtype=model.dtype)
    wide = model.torch.complex128 if model.dtype == model.torch.float64 else model.torch.complex64
    net._apply(lambda t: t.to(wide) if t.is_complex() else t.to(model.dtype) if t.is_floating_point() else t)
    return net.to(device=model.device)


def put(model, children):
    """Put the host's parameters where they belong; a layer of the user's may hold them in a way of its own."""
    starts = {}
    if model.plain:
        for name, value in model.params.items():
            layer, what = name.split("/")
            tensor = getattr(children[layer], model.words.get(what, what), None)
            if tensor is not None:
                tensor.copy_(model.torch.from_numpy(np.array(value)))
        return
    for name, value in model.params.items():
        layer, what = name.split("/")
        given = model.torch.from_numpy(np.array(value))
        if layer in model.layouts:
            model.layouts[layer].start(what, given)
        elif model.custom and children[layer] is model.norms.get(layer):
            if layer not in starts:
                starts[layer] = model.part("arguments").Start(model.torch, model.part("custom"), model.norms[layer])
            starts[layer].put(what, given)
        else:
            tensor = model.held(children[layer], what)
            if tensor is not None:
                tensor.copy_(given.to(tensor.dtype))
    for layer, each in starts.items():
        each.finish()
        model.remarks[layer] = each.remarks
