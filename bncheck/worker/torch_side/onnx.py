"""Export the network to ONNX and run the file: what the export did to the model, and what the file says and computes.

Loaded by backends/torch.py by path. Python 3.7 syntax. Nothing here puts the model back as it was: that is what the
events measure. Notes hold numbers and words only; a number that is not finite becomes a word.
"""

import copy
import inspect
import math
import os
import warnings

import numpy as np

TENSORS = ("running_mean", "running_var", "num_batches_tracked")
NUMBERS = ("momentum", "eps")
MOST_MODULES = 1000  # flags of more modules than this would fill the notes of a cell
MODES = {True: "TRAINING", False: "EVAL", "training": "TRAINING", "eval": "EVAL", "preserve": "PRESERVE"}


def export(model, folder, x, exporter="default", **asked):
    """Export the network as it stands. ``keep`` asks the exporter to leave its graph as traced (no folding)."""
    training, keep = asked.get("training"), asked.get("keep")
    mode = None if training is None else MODES[training.lower() if isinstance(training, str) else training]
    call = exporter_call(model.torch, exporter, asked.get("opset"), mode, keep)
    data = model.tensor(x)
    name = "model-%d.onnx" % (1 + getattr(model, "exports", 0))
    path = os.path.join(folder, name)
    with model.unwatched():
        twin = duplicate(model)
        before, outputs = snapshot(model), all_modes(model.torch, twin, data)
        call(model.net, data, path)
        after, later = snapshot(model), all_modes(model.torch, duplicate(model), data)
    model.exports, model.exported, model.exported_twin = getattr(model, "exports", 0) + 1, path, twin
    found = {"exporter": exporter, "asked_training": mode or "default", "file": name, "folding": not keep}
    found.update(compare_snapshots(before, after))
    found["output_change"] = difference(outputs[0], later[0])
    found["eval_change"] = difference(outputs[1], later[1])
    found["graph"] = read_graph(model, path)
    kept = [name] + [extra for extra in (name + ".data",) if os.path.exists(os.path.join(folder, extra))]
    return {"artifacts": kept, "notes": {"export": found}}


def exporter_call(torch, exporter, opset, mode, keep):
    """torch.onnx.export with the words of this version of torch, as a function of (net, data, path)."""
    import torch.onnx

    known = inspect.signature(torch.onnx.export).parameters
    has_dynamo = "dynamo" in known
    if exporter not in ("legacy", "dynamo", "default"):
        raise ValueError("the exporter %r is neither legacy nor dynamo" % exporter)
    if exporter == "dynamo" and not has_dynamo:
        raise NotImplementedError("torch %s has no dynamo exporter; it came with 2.5" % torch.__version__)
    keywords = {} if opset is None else {"opset_version": opset}
    if has_dynamo and exporter != "default":
        keywords["dynamo"] = exporter == "dynamo"
    if mode is not None:
        keywords["training"] = training_mode(torch, mode)
    if keep:
        keywords["optimize" if exporter == "dynamo" else "do_constant_folding"] = False
    need(torch, exporter)

    def call(net, data, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the legacy exporter announces on every call that it is one
            torch.onnx.export(net, (data,), path, **keywords)

    return call


def training_mode(torch, mode):
    """Before 1.6 the argument is a boolean, and there is no PRESERVE."""
    modes = getattr(torch.onnx, "TrainingMode", None)
    if modes is not None:
        return getattr(modes, mode)
    if mode == "PRESERVE":
        raise NotImplementedError("torch %s cannot export with training=PRESERVE" % torch.__version__)
    return mode == "TRAINING"


def need(torch, exporter):
    """Say at once which package is missing; the exporters fail half-way with an error of their own."""
    version = tuple(int(word) for word in torch.__version__.split("+")[0].split(".")[:2])
    needed = [] if version < (1, 13) else ["onnx"]
    if exporter == "dynamo" or (exporter == "default" and version >= (2, 9)):
        needed.append("onnxscript")
    for name in needed:
        if not has(name):
            raise NotImplementedError("exporting needs the package %s: use the target torch[onnx]" % name)


def has(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


# -------------------------------------------------------------------------------------------- the model around it


def snapshot(model):
    """{module: training flag}, {BatchNorm layer: its numbers and statistics} as they are now."""
    flags = {name or "the network": bool(module.training) for name, module in model.net.named_modules()}
    held = {}
    for name, norm in model.norms.items():
        held[name] = {key: getattr(norm, key, None) for key in NUMBERS}
        for key in TENSORS:
            tensor = getattr(norm, key, None)
            held[name][key] = None if tensor is None else np.array(tensor.detach().cpu().double().numpy())
    return flags, held


def compare_snapshots(before, after):
    """Which flags flipped, and what of every BatchNorm layer is no longer what it was."""
    flags, held = before
    now, held_now = after
    flipped = [[name, was, now[name]] for name, was in flags.items() if now.get(name, was) != was]
    norms = {}
    for name, was in held.items():
        norms[name] = {"training": [flags[name], now[name]]}
        for key in NUMBERS:
            norms[name][key] = [was[key], held_now[name][key]]
        for key in TENSORS:
            if was[key] is not None:
                norms[name][key + "_moved"] = difference(was[key], held_now[name][key])
    kept = dict(list(flags.items())[:MOST_MODULES])
    return {"modules": len(flags), "training_before": kept, "flipped": flipped, "norms": norms}


def duplicate(model):
    """A deep copy, so that looking moves nothing; None, and no comparison, where a layer refuses to be copied."""
    try:
        return copy.deepcopy(model.net)
    except RuntimeError:
        return None


def all_modes(torch, twin, data):
    """Outputs of copies of the twin as it is, in eval mode and in training mode; None for one that refuses."""
    found = []
    for mode in (None, False, True):
        again = copy.deepcopy(twin)
        if twin is not None and mode is not None:
            again.train(mode)
        try:
            with torch.no_grad():
                found.append(None if twin is None else again(data).detach().cpu().double().numpy())
        except ValueError:
            found.append(None)  # one value per channel, in training mode
    return tuple(found)


def difference(a, b):
    """Largest |a − b| as a number, or a word when there is none."""
    if a is None or b is None:
        return "not comparable"
    if np.shape(a) != np.shape(b):
        return "shapes %s and %s" % (np.shape(a), np.shape(b))
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # NaN or Inf in the same place is no difference
    return plain(np.where(same, 0.0, np.abs(a - b)).max() if a.size else 0.0)


def plain(value):
    value = float(value)
    return value if math.isfinite(value) else str(value)


# ------------------------------------------------------------------------------------------------------- the file


def read_graph(model, path):
    """What the file declares: its opset, kinds of node, the mode and numbers of BatchNorm and Dropout nodes."""
    files = model.part("file", "onnx")
    try:
        found = files.describe(files.read(path))
    except files.FileError as error:
        return {"unreadable": str(error)}
    for node in found["batch_norms"]:
        node.update(momentum=plain(node["momentum"]), eps=plain(node["eps"]))
    return found


def run(model, x):
    """Run the last exported file on onnxruntime, with its graph optimisation and without."""
    path = getattr(model, "exported", None)
    if path is None:
        raise NotImplementedError("there is no exported file to run: no export before it went through")
    if not has("onnxruntime"):
        raise NotImplementedError("running a file needs the package onnxruntime: use the target torch[onnx]")
    data = model.tensor(x)
    array = np.ascontiguousarray(data.detach().cpu().numpy())
    optimised, version = play(path, array, True)
    unoptimised, _ = play(path, array, False)
    with model.unwatched():
        as_was, evaluated, trained = all_modes(model.torch, model.exported_twin, data)
    notes = {
        "onnxruntime": version,
        "optimisation_change": difference(optimised, unoptimised),
        "difference_as_exported": difference(optimised, as_was),
        "difference_eval": difference(optimised, evaluated),
        "difference_train": difference(optimised, trained),
        "plain_as_exported": difference(unoptimised, as_was),
        "plain_eval": difference(unoptimised, evaluated),
        "plain_train": difference(unoptimised, trained),
        "modes_apart": difference(as_was, evaluated),
        "scale": plain(np.abs(evaluated).max()) if evaluated is not None and evaluated.size else 0.0,
    }
    # bncheck/diagnosis/rules/exported.py has the same bound
    bound = 1e-5 + 1e-4 * notes["scale"] if isinstance(notes["scale"], float) else 1e-5

    def right(names):
        gap = difference(play(path, array, True, names)[0], unoptimised)
        return isinstance(gap, float) and gap <= bound

    if not isinstance(notes["optimisation_change"], float) or notes["optimisation_change"] > bound:
        judge = model.part("judge", "onnx")
        judge.find_optimiser(notes, judge.at_work(lambda severity: play(path, array, True, (), severity)), right)
    return {"output": model.array(model.torch.from_numpy(optimised)), "notes": {"run_exported": notes}}


def play(path, array, optimise, without=(), severity=3):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = severity
    more = {"disabled_optimizers": list(without)} if without else {}
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], **more)
    return session.run(None, {session.get_inputs()[0].name: array})[0], onnxruntime.__version__
