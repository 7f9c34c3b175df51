"""Load a checkpoint into a model, strictly, and say what fits and what does not. Nothing of the file is executed.

Loaded by run.py by path; Python 3.7 syntax.
"""

import numpy as np

INSIDE = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "module", "params")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
MOST = 200  # keys of one kind that are named


def load(torch, custom, failed, net, path):
    """{missing, unexpected, misshaped: keys; inside, prefix: where the weights lay; statistics: keys of running
    statistics that the file does not have}. What fits is loaded."""
    held = net.state_dict()
    given, inside = state_in(torch, failed, read(torch, failed, path), held, path)
    given, prefix = without_prefix(given, held)
    fitting = {key: value for key, value in given.items() if key in held}
    misshaped = {
        key: [list(value.shape), list(held[key].shape)]
        for key, value in fitting.items()
        if tuple(value.shape) != tuple(held[key].shape) and not lazy(held[key])
    }
    missing = sorted(key for key in held if key not in given)
    if not set(given) & set(held):
        raise failed(
            "no key of %s is one of the model's: the file has %s, the model %s"
            % (path, ", ".join(sorted(given)[:3]), ", ".join(sorted(held)[:3])),
            "build the model that was saved, or name its part of the file",
        )
    empty = sorted(key for key, value in fitting.items() if value.device.type == "meta")
    if empty:
        raise failed(
            "%s has shapes and no numbers for %s%s: it was saved from the meta device"
            % (path, ", ".join(empty[:3]), " and %d more" % (len(empty) - 3) if len(empty) > 3 else ""),
            'fill the model before it is saved: model.to_empty(device="cpu"), then model.load_state_dict(...)',
        )
    net.load_state_dict({key: value for key, value in fitting.items() if key not in misshaped}, strict=False)
    unexpected = sorted(key for key in given if key not in held)
    return {
        "path": path,
        "inside": inside,
        "prefix": prefix,
        "loaded": len(fitting) - len(misshaped),
        "keys": len(held),
        "missing": missing[:MOST],
        "unexpected": unexpected[:MOST],
        "misshaped": dict(list(misshaped.items())[:MOST]),
        "counts": [len(missing), len(unexpected), len(misshaped)],
    }


def lazy(tensor):
    return type(tensor).__name__.startswith("Uninitialized")


def read(torch, failed, path):
    try:
        if path.endswith(".safetensors"):
            return safe(failed, path)
        if path.endswith(".npz"):
            held = np.load(path, allow_pickle=False)
            return {key: torch.from_numpy(np.array(held[key])) for key in held.files}
        return torch.load(path, map_location="cpu", weights_only=True)
    except TypeError as error:
        if "weights_only" in str(error):
            raise failed(
                "torch %s cannot read %s without executing it" % (torch.__version__, path),
                "use torch 1.13 or newer, or save the weights as .safetensors or .npz",
            )
        raise failed(unreadable(path, error), "save it again: torch.save(model.state_dict(), path)")
    except failed:
        raise
    except Exception as error:
        raise failed(unreadable(path, error), "save the weights alone: torch.save(model.state_dict(), path)")


def unreadable(path, error):
    text = " ".join(str(error).split("\n")[0].split())[:300] or type(error).__name__
    if "nsupported" in str(error) or "weights_only" in str(error) or "Weights only" in str(error):
        return "%s holds more than weights, and reading those objects would execute code: nothing was loaded" % path
    return "%s cannot be read as weights: %s" % (path, text)


def safe(failed, path):
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise failed("safetensors is not installed beside torch", "pip install safetensors, or save with torch.save")
    return load_file(path)


def state_in(torch, failed, found, held, path):
    """(the flat {key: tensor} in what was saved that has most of the model's keys, where it lay)."""
    places = []

    def look(value, name, depth):
        if not hasattr(value, "items") or depth > 3:
            return
        tensors = {str(key): each for key, each in value.items() if isinstance(each, torch.Tensor)}
        if tensors:
            places.append((tensors, name))
        for key, each in value.items():
            look(each, "%s.%s" % (name, key) if name else str(key), depth + 1)

    if isinstance(found, torch.nn.Module):
        raise failed("%s holds a whole model, not weights" % path, "save model.state_dict()")
    look(found, "", 0)
    if not places:
        raise failed("%s holds no weights (%s)" % (path, type(found).__name__), "save model.state_dict()")
    ranked = [(matches(without_prefix(tensors, held)[0], held), rank(name), tensors, name) for tensors, name in places]
    best = max(ranked, key=lambda each: (each[0], each[1]))
    return best[2], best[3]


def rank(name):
    last = name.split(".")[-1]
    return -INSIDE.index(last) if last in INSIDE else -len(INSIDE) - ("ema" in name.lower())


def matches(given, held):
    return len(set(given) & set(held))


def in_front(longer, shorter):
    """What stands in front of the longest key of one in the other ("model.backbone."): a module around the model."""
    key = max(shorter, key=len, default="")
    return [each[: -len(key)] for each in longer if key and each.endswith("." + key)][:20]


def without_prefix(given, held):
    """Wrappers (DataParallel, torch.compile) put a word in front of every key, and some users take theirs away."""
    best, prefix = given, ""
    for word in dict.fromkeys((*PREFIXES, *in_front(given, held), *in_front(held, given))):
        for trial, said in (
            ({key[len(word) :] if key.startswith(word) else key: value for key, value in given.items()}, "-" + word),
            ({word + key: value for key, value in given.items()}, "+" + word),
        ):
            if matches(trial, held) > matches(best, held):
                best, prefix = trial, said
    return best, prefix
