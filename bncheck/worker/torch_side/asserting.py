"""Hands on modules of PyTorch for bncheck's assertions, in the user's process. Loaded by path. Python 3.7 syntax."""

import importlib.util
import inspect
import os
import sys

import numpy as np
import torch


def norms(model):
    """{path: module} of what keeps a running mean and variance, found by buffers that are named so."""
    found = {}
    keeping = part("keeping")
    for path, module in model.named_modules():
        if module._buffers or keeping.has_plain(module):
            words = keeping.words_of(module)
            if words is not None and words["var"]:
                found[path or type(module).__name__] = (module, words)
    return found


def part(name):
    full = "bncheck_torch_" + name
    if full not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
        spec = importlib.util.spec_from_file_location(full, path)
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def held(tensor):
    return tensor.detach().to("cpu", torch.float64).numpy().copy()


def states(model):
    """{path: {running_mean, running_var, gamma, beta: float64 array; training: bool; kind}}."""
    found = {}
    for path, (module, words) in norms(model).items():
        layer = {
            "training": bool(module.training),
            "kind": type(module).__name__,
            "counter": None,
            "dtypes": {},
            "keys": {},
            "momentum": getattr(module, "momentum", None),
            "eps": getattr(module, "eps", None),
        }
        for key, word in (("running_mean", "mean"), ("running_var", "var"), ("gamma", "gamma"), ("beta", "beta")):
            value = getattr(module, words[word], None) if words[word] else None
            if value is not None:
                layer[key] = held(value)
                layer["dtypes"][key] = str(value.dtype).replace("torch.", "")
                layer["keys"][key] = path + "." + words[word]
        counter = getattr(module, words["counter"], None) if words["counter"] else None
        if counter is not None:
            layer["counter"] = float(counter)
        found[path] = layer
    return found


def in_eval(model, batches):
    """Outputs of the model in eval on each batch, as lists of float64 arrays, and those of each normalising layer on
    the samples of each batch; modes and hooks are put back."""
    modes = [(module, module.training) for module in model.modules()]
    inner, hooks = [], []

    def keep(path):
        def hook(module, args, output):
            if isinstance(output, torch.Tensor):
                inner[-1].setdefault(path, []).append((held(args[0]), held(output)))

        return hook

    try:
        model.eval()
        hooks = [module.register_forward_hook(keep(path)) for path, (module, _) in norms(model).items()]
        outputs = []
        for batch in batches:
            inner.append({})
            with torch.no_grad():
                outputs.append(arrays(called(model, batch)))
        return outputs, inner
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode


def called(model, batch):
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def arrays(value):
    if isinstance(value, torch.Tensor):
        return [held(value)] if value.is_floating_point() else []
    if isinstance(value, dict):
        return [each for key in value for each in arrays(value[key])]
    if isinstance(value, (tuple, list)):
        return [each for item in value for each in arrays(item)]
    if hasattr(value, "__dict__"):
        return [each for item in vars(value).values() for each in arrays(item)]
    return []


def length(batch):
    first = next((each for each in leaves(batch) if isinstance(each, torch.Tensor) and each.dim()), None)
    return 0 if first is None else int(first.shape[0])


def leaves(batch):
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, (tuple, list)) else [batch]


def samples(batch, start, stop):
    """The samples of a batch from start to stop; what is no tensor of that length stays."""
    size = length(batch)

    def cut(value):
        whole = isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == size
        return value[start:stop] if whole else value

    if isinstance(batch, dict):
        return {key: cut(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(cut(value) for value in batch)
    return cut(batch)


def is_made(kind):
    """Whether somebody gives a layer where the class of one is wanted."""
    return isinstance(kind, torch.nn.Module)


def made(kind, channels, given):
    """A layer of a class or function: the number of channels first, then what it takes of what is given."""
    try:
        taken = inspect.signature(kind).parameters
        any_word = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    except (TypeError, ValueError):
        taken, any_word = {}, True
    return kind(channels, **{key: value for key, value in given.items() if any_word or key in taken})


def affine(layer, word):
    """The tensor that a layer, or what normalises inside it, holds for gamma or beta, whatever its name."""
    for module, words in list(norms(layer).values())[:1]:
        if words[word]:
            return getattr(module, words[word], None)
    names = {"gamma": ("weight", "gamma"), "beta": ("bias", "beta")}[word]
    return next((each for each in (getattr(layer, name, None) for name in names) if each is not None), None)


def lived(layer, shape, steps, seed):
    """What a layer does on the same numbers as any other that gets this seed: {quantity: float64 array} per event."""
    state = np.random.RandomState(seed)
    channels = shape[1]
    spread = (1,) + (channels,) + (1,) * (len(shape) - 2)
    with torch.no_grad():
        # Gamma and beta unlike those of a new layer: one that forgets them is seen.
        for word, values in (("gamma", 0.5 + state.rand(channels)), ("beta", state.randn(channels))):
            value = affine(layer, word)
            if isinstance(value, torch.Tensor) and value.numel() == channels:
                value.copy_(torch.as_tensor(values).reshape(value.shape))
    centre, width = state.randn(*spread), 0.5 + state.rand(*spread)
    found = []
    layer.train()
    for number in range(steps + 1):
        x = torch.as_tensor(centre + width * state.randn(*shape)).to(torch.float32).requires_grad_()
        if number == steps:
            layer.eval()
        y = layer(x)
        event = {"output": held(y)}
        if number < steps:
            grad = torch.as_tensor(state.randn(*shape)).to(torch.float32)
            event["gradient of the input"] = held(torch.autograd.grad((y * grad).sum(), x, retain_graph=True)[0])
        layer_states = states(layer)
        for values in list(layer_states.values())[:1]:
            event.update({key: values[key].reshape(-1) for key in ("running_mean", "running_var") if key in values})
        found.append(event)
    return found
