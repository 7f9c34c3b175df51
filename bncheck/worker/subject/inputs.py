"""What a model is fed: the user's batch, shapes that the user gives, or one that its first layer suggests.

Loaded by run.py by path; Python 3.7 syntax. A batch is (positional arguments, keywords).
"""

import copy
import inspect
import time

import numpy as np

MOST_BYTES = 2 << 30
LARGE, FEW, MANY = 96, 4, 8
TRIAL_SECONDS = 30.0
SIDES = {1: (64, 128, 1024, 16000), 2: (64, 32, 28, 224, 128, 96, 299, 256, 16, 8, 512), 3: (16, 32, 8, 64)}


def choose(torch, custom, failed, net, job, norms):
    """(batch, what is said of it: {"from": "data", "input" or "made", "shapes": […]})."""
    if job["data"]:
        return from_data(torch, failed, net, job["data"])
    if job["inputs"]:
        own = float_of(torch, net)  # a shape alone asks for what the model computes in
        kinds = [own if each["dtype"] == "float32" else each["dtype"] for each in job["inputs"]]
        tensors = [made(torch, net, kind, each["shape"]) for kind, each in zip(kinds, job["inputs"])]
        refuse_count(failed, net, len(tensors))
        return (tuple(tensors), {}), said("input", tensors)
    return found_one(torch, custom, failed, net, job)


def said(where, tensors):
    return {
        "from": where,
        "shapes": [{"dtype": str(each.dtype).replace("torch.", ""), "shape": list(each.shape)} for each in tensors],
    }


def made(torch, net, dtype, shape):
    """Normal numbers; whole numbers below the size of the model's smallest table."""
    generator = torch.Generator()
    generator.manual_seed(0)
    kind = getattr(torch, dtype)
    if dtype == "bool":
        return torch.rand(*shape, generator=generator) > 0.5
    if dtype.startswith(("int", "uint")):
        tables = [each.num_embeddings for each in net.modules() if isinstance(each, torch.nn.Embedding)]
        return torch.randint(0, min(tables or [2]), tuple(shape), generator=generator).to(kind)
    return torch.randn(*shape, generator=generator).to(kind)


def needed(net):
    """Names of the inputs that forward cannot do without, and how many it takes at most."""
    try:
        known = list(inspect.signature(net.forward).parameters.values())
    except (TypeError, ValueError):
        return [], 1 << 20
    kinds, empty = inspect.Parameter, inspect.Parameter.empty
    rest = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    many = any(each.kind == kinds.VAR_POSITIONAL for each in known)
    places = [each for each in known if each.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    return [each.name for each in known if each.default is empty and each.kind not in rest], (
        1 << 20 if many else len(places)
    )


def refuse_count(failed, net, count):
    names, most = needed(net)
    if count < len(names) or count > most:
        raise failed(
            "forward%s takes %s, and --input was given %d times"
            % (inspect.signature(net.forward), counted(names, most), count),
            "give one --input per input, in that order: --input SHAPE, or --input int64:SHAPE",
            "usage",
        )


def counted(names, most):
    return "%d inputs (%s)" % (len(names), ", ".join(names)) if len(names) != 1 else "one input (%s)" % names[0]


# ----------------------------------------------------------------------------------------------------- the user's


def from_data(torch, failed, net, path):
    """.npz and .npy (no pickles), or .pt (weights only): one array, several in order, or by the names of inputs."""
    if path.endswith((".npz", ".npy")):
        try:
            held = np.load(path, allow_pickle=False)
            held = {key: held[key] for key in held.files} if hasattr(held, "files") else held
        except (ValueError, OSError, EOFError) as error:
            raise failed(
                "--data: %s cannot be read: %s" % (path, error), "save it with numpy.savez, without objects", "usage"
            )
    else:
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
        except TypeError:
            raise failed(
                "--data: torch %s cannot read %s without executing it" % (torch.__version__, path),
                "save the batch with numpy.savez",
                "usage",
            )
        except Exception as error:
            first = str(error).split("\n")[0][:300]
            raise failed(
                "--data: %s cannot be read: %s" % (path, first), "save tensors alone, or use numpy.savez", "usage"
            )
    return as_batch(torch, failed, net, held, path)


def as_batch(torch, failed, net, held, path):
    names, most = needed(net)
    items = held if isinstance(held, dict) else dict(enumerate(held if isinstance(held, (tuple, list)) else [held]))
    tensors = {key: tensor_of(torch, value) for key, value in items.items()}
    tensors = {key: value for key, value in tensors.items() if value is not None}
    if not tensors:
        raise failed("--data: %s holds no array" % path, "save the inputs of forward with numpy.savez", "usage")
    floats = next((each.dtype for each in net.parameters() if each.is_floating_point()), torch.float32)
    tensors = {key: value.to(floats) if value.is_floating_point() else value for key, value in tensors.items()}
    takes = set(inspect.signature(net.forward).parameters) if names or most < 1 << 20 else set()
    named = {key: value for key, value in tensors.items() if key in takes}
    if named and all(name in named for name in names):
        return ((), named), said("data", list(named.values()))
    values = list(tensors.values())
    if len(values) < len(names):
        raise failed(
            "--data: %s holds %d arrays (%s), and forward takes %s"
            % (path, len(values), ", ".join(map(str, tensors)), counted(names, most)),
            "save one array per input, under the names of forward's arguments",
            "usage",
        )
    used = values[: max(1, len(names))]  # what is behind may be labels
    return (tuple(used), {}), said("data", used)


def tensor_of(torch, value):
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim:
        return torch.from_numpy(np.ascontiguousarray(value))
    return None


# --------------------------------------------------------------------------------------------------------- made up


def found_one(torch, custom, failed, net, job):
    """The first shape that the model takes, by its first layer."""
    names, _ = needed(net)
    if len(names) > 1:
        raise failed(
            "forward%s takes %s" % (inspect.signature(net.forward), counted(names, 0)),
            "say of which shapes, in that order: %s" % " ".join(["--input SHAPE"] * len(names)),
            "usage",
        )
    before, modes = held(net), [(each, each.training) for each in net.modules()]
    began, first, tried = time.perf_counter(), "", []
    for dtype, shape in candidates(torch, net):
        if time.perf_counter() - began > TRIAL_SECONDS:
            break
        tensor = made(torch, net, dtype, shape)
        tried.append(shape)
        try:
            with torch.no_grad():
                net.eval()(tensor)
        except (Exception, SystemExit) as error:
            first = first or "%s%s" % (custom.said(error).split("\n")[0][:300], custom.line_in(job["module"], error))
            continue
        finally:
            for each, training in modes:
                each.training = training
        restore(net, before)
        return (((tensor,), {})), said("made", [tensor])
    why = "tried %s; the first raised %s" % (", ".join(map(str, tried[:3])), first) if tried else "no layer tells"
    raise failed(
        "no input was found that the model takes: %s" % why,
        "give its shape: --input 8,3,32,32, or a batch of yours: --data batch.npz",
        "usage",
    )


def held(net):
    """A copy of the state, without what lazy layers do not have yet."""
    state = {key: value for key, value in net.state_dict().items() if not type(value).__name__.startswith("Uninit")}
    return copy.deepcopy(state)


def restore(net, before):
    """What a first forward of lazy layers made stays."""
    held = net.state_dict()
    for key, value in before.items():
        if hasattr(value, "shape") and key in held and not type(value).__name__.startswith("Uninitialized"):
            held[key].copy_(value) if held[key].shape == value.shape else None


def candidates(torch, net):
    """(dtype, shape), most likely first."""
    nn, first = torch.nn, None
    wanted = []
    for module in net.modules():
        for rank in (1, 2, 3):
            if isinstance(module, (getattr(nn, "Conv%dd" % rank), getattr(nn, "ConvTranspose%dd" % rank))):
                first = first or ("conv", module.in_channels, rank)
        if isinstance(module, nn.Linear):
            first = first or ("linear", module.in_features, 0)
        if isinstance(module, nn.RNNBase):
            first = first or ("recurrent", module.input_size, 0)
        if isinstance(module, nn.Embedding):
            first = first or ("tokens", 0, 0)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and first is None and module.num_features:
            rank = {"BatchNorm2d": 2, "BatchNorm3d": 3}.get(type(module).__name__, 0)
            first = ("conv", module.num_features, rank) if rank else ("linear", module.num_features, 0)
        if first:
            break
    kind, size, rank = first or ("conv", 3, 2)
    if kind == "tokens":
        wanted += [("int64", (MANY, 16)), ("int64", (MANY, 64))]
    if kind == "recurrent":
        wanted.append(("float32", (MANY, 16, size)))
    if kind == "linear":
        wanted += [("float32", (MANY, size)), ("float32", (MANY, 16, size))]
    channels = (size,) if kind == "conv" and size else (3, 1)
    for axes in (rank,) if kind == "conv" else (2, 1):
        for count in channels:
            for side in SIDES[axes]:
                few = side >= LARGE and axes > 1
                wanted.append(("float32", (FEW if few else MANY, count) + (side,) * axes))
    return [(float_of(torch, net) if dtype == "float32" else dtype, shape) for dtype, shape in wanted]


def float_of(torch, net):
    found = next((each.dtype for each in net.parameters() if each.is_floating_point()), torch.float32)
    return str(found).replace("torch.", "")
