"""A model of the user's, as it was handed over and through a short life: eval, eval in other batches, training, eval.

Loaded by run.py by path; Python 3.7 syntax. What its layers hold goes to ``held.npz``, what they live through to
``watched/`` (worker/watching), the rest into the answer. The process ends afterwards: nothing of the user's is changed.
"""

import copy
import os
import sys
import time

import numpy as np

LEARNING_RATE = 1e-3
PARTS = (1, 3)  # sizes of the other batches
UNPLAYED = {"from": "none", "shapes": []}
LARGE = 1 << 26  # parameters of a model that is copied beside itself
RANDOM = 1e-5  # relative difference of two runs from which on a layer's output is random, in eval too


def play(torch, part, failed, job, thing, folder):
    custom, keeping = part("torch_side", "custom"), part("torch_side", "keeping")
    inputs, held = part("subject", "inputs"), part("torch_side", "held")
    transformed = part("subject", "transformed")
    net, remarks = transformed.opened(thing.module)
    sealed = transformed.sealed(net)
    norms = held.normalisers(torch, net, keeping)
    loaded = None
    modes = {name: getattr(module, "training", None) for name, module in net.named_modules()}
    if job["weights"]:
        loaded = part("subject", "weights").load(torch, custom, failed, net, job["weights"])
    unbuilt = not sealed and any(map(held.lazy, net.state_dict().values()))
    batch, how = (None, UNPLAYED) if sealed else inputs.choose(torch, custom, failed, net, job, norms)
    if unbuilt:
        build(torch, net, batch)
    shown = []
    if not sealed:
        shown = part("torch_side", "shown").learn(
            torch, lambda name: part("torch_side", name), net, lambda other: call(other, batch)
        )
        norms = held.normalisers(torch, net, keeping)
    np.savez(os.path.join(folder, "held.npz"), **held.arrays(torch, norms, keeping))
    found = {
        "kind": "model",
        "class": type(net).__name__,
        "torch": str(torch.__version__),
        "input": how,
        "weights": loaded,
        "layers": [held.describe(name, module, modes.get(name)) for name, module in norms.items()],
        "training": modes.get("") is not False,
        "others": held.others(net, norms),
        "remarks": [],
        "sealed": sealed,
        "shown": shown,
    }
    found["layers"] = transformed.as_computed(net, found["layers"], sealed)
    found["remarks"] += transformed.of_training(found["layers"], sealed)
    if sealed:
        return found
    if norms or aside(net, norms, keeping, keeping.builtin_classes(torch)):
        found.update(live(torch, part, job, net, norms, batch, folder))
    found["remarks"] += remarks
    return found


def aside(net, norms, keeping, builtin):
    """Whether a normalising layer lies in a plain list or dict of a module of it, where named_modules() sees none."""
    known = set(map(id, norms.values()))
    return any(
        id(inner) not in known and (isinstance(inner, builtin) or keeping.words_of(inner))
        for owner in net.modules()
        for kept in keeping.kept_in(owner)
        if hasattr(kept, "modules")
        for inner in kept.modules()
    )


# ------------------------------------------------------------------------------------------------------- its life


def live(torch, part, job, net, norms, batch, folder):
    """Play it, recorded; what could not be played is said, and is no fault of the model's."""
    found = {"remarks": []}
    leaves = part("torch_side", "whole").leaves
    # Before it trains: gamma and beta of other names are known by the ones and zeros that they begin with.
    own = {name: each for name, each in norms.items() if not type(each).__module__.startswith("torch.")}
    part("torch_side", "inside").remember(part("torch_side", "custom"), part("torch_side", "keeping"), own)
    twin = copied(net)
    recorder = part("watching", "recorder").Recorder({"folder": os.path.join(folder, "watched"), "keep": "all"})
    part("torch_side", "watching").install(torch, recorder, lambda name: part("torch_side", name))
    phases = [("eval", lambda: evaluate(torch, leaves, net, batch))]
    if job["steps"]:
        phases.append(("training", lambda: train(torch, leaves, net, batch, job["steps"], recorder)))
        phases.append(("eval after training", lambda: evaluate(torch, leaves, net, batch)))
    outputs = {}
    for name, action in phases:
        recorder.happen("phase", name=name)
        began = time.perf_counter()
        try:
            outputs[name] = action()
        except (Exception, SystemExit) as error:
            found["remarks"].append("%s was not played: %s" % (name, raised(part, error, job)))
            if name == "training":
                break
        found.setdefault("seconds", {})[name] = time.perf_counter() - began
    recorder.stop()
    if "eval" in outputs:
        found["output"] = outputs["eval"]
        try:
            where = part("torch_side", "places")
            found["places"] = where.seen(torch, part("own_side", "places"), net, norms, lambda: call(net, batch))
            found["batches"] = in_batches(torch, leaves, net, norms, batch)
        except (Exception, SystemExit) as error:
            found["remarks"].append("eval in other batches was not played: %s" % raised(part, error, job))
    if twin is not None and not finite(torch, found, outputs, norms):
        found["born"] = birth(torch, part, twin, net, norms, batch)
    found["steps"] = job["steps"] if "training" in outputs else 0
    found["loss"] = outputs.get("training")
    if "training" in outputs:
        found["alone"], found["unplayed"] = alone(torch, part, leaves, net, own, batch, folder, job["ops"])
    return found


def copied(net):
    """What a first NaN is looked for in; None of a network that is large, or cannot be copied."""
    try:
        return copy.deepcopy(net) if sum(each.numel() for each in net.parameters()) < LARGE else None
    except Exception:
        return None


def finite(torch, found, outputs, norms):
    """Whether what it gave, its losses and its statistics are all finite."""
    losses = [each for each in outputs.get("training") or [] if each - each != 0]
    held = [each for module in norms.values() for each in module.buffers() if each.is_floating_point()]
    good = all(bool(torch.isfinite(each).all()) for each in held)
    return good and not losses and not any(each["bad"] for each in found.get("output", ()))


def birth(torch, part, twin, net, norms, batch):
    """Where the first NaN or Inf arises, in eval or else in training, of the model as it was handed over."""
    paths = {id(module): path for path, module in net.named_modules()}
    twins = dict(twin.named_modules())
    same = {name: twins[paths[id(module)]] for name, module in norms.items() if id(module) in paths}
    for mode in (False, True):
        twin.train(mode)
        found = part("torch_side", "birth").look(torch, twin, same, lambda other: call(other, batch))
        if found:
            return found
    return {}


def alone(torch, part, leaves, net, own, batch, folder, ops):
    """(what is said of the user's own layers, each played by itself (own_side/alone.py), {name: why one is not}): the
    model's end."""
    if not own:
        return [], {}
    try:
        shapes = {name: seen[2] for name, seen in tapped(torch, leaves, net, own, batch).items()}
    except (Exception, SystemExit):
        return [], {}  # the play itself has said why
    net.train()
    inside, custom = part("torch_side", "inside"), part("torch_side", "custom")
    found, why = inside.playable(torch, custom, own, shapes)
    if not found:
        return [], why
    said, arrays = part("own_side", "alone").play(part, "torch", ("", "builtin"), found, ops)
    np.savez(os.path.join(folder, "alone.npz"), **arrays)
    return said, why


def raised(part, error, job):
    custom = part("torch_side", "custom")
    return "%s%s" % (custom.said(error).split("\n")[0][:400], custom.line_in(job["module"], error))


def build(torch, net, batch):
    """The first forward of lazy layers, in eval: what they hold is then what a new layer holds."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            call(net, batch)
    except (Exception, SystemExit):
        pass  # the play itself says why
    for module, training in modes:
        module.training = training


def evaluate(torch, leaves, net, batch):
    """The shapes and non-finite values of what it gives in eval."""
    net.eval()
    with torch.no_grad():
        out = call(net, batch)
    tensors = leaves(torch, out)
    return [
        {"name": name or "output", "shape": list(each.shape), "bad": int((~torch.isfinite(each)).sum())}
        for name, each in tensors.items()
        if each.is_floating_point()
    ]


def train(torch, leaves, net, batch, steps, recorder):
    """Steps of plain gradient descent on the mean of the squares of all its outputs; returns the losses.

    By hand: making a torch.optim.SGD imports torch._dynamo, which takes as long as torch itself."""
    net.train()
    parameters = [each for each in net.parameters() if each.requires_grad]
    losses = []
    for _ in range(steps):
        for each in parameters:
            each.grad = None
        with torch.set_grad_enabled(bool(parameters)):
            tensors = [each for each in leaves(torch, call(net, batch)).values() if each.is_floating_point()]
        loss = sum((each.float() ** 2).mean() for each in tensors)
        losses.append(float(loss.detach()) if hasattr(loss, "detach") else float(loss))
        if getattr(loss, "requires_grad", False):
            loss.backward()
        with torch.no_grad():
            for each in parameters:
                if each.grad is not None:
                    each -= LEARNING_RATE * each.grad
        recorder.stepped()
    return losses


def call(net, batch):
    args, keywords = batch
    return net(*args, **keywords)


# --------------------------------------------------------------------------------------------------- other batches


def in_batches(torch, leaves, net, norms, batch):
    """How far each layer's input and output in eval depend on who else is in the batch: largest difference over the
    largest value, between all samples at once and the first of them in batches of 1 and 3."""
    size = samples_of(torch, leaves, batch)
    if size < 2:
        return None
    net.eval()
    whole, again = (tapped(torch, leaves, net, norms, batch) for _ in range(2))
    whole = {name: each for name, each in whole.items() if name in again and gap(each[1], again[name][1]) < RANDOM}
    found = {}
    for part in [part for part in PARTS if part < size]:
        less = tapped(torch, leaves, net, norms, cut(torch, batch, part, size))
        for name, (given, out, shape) in whole.items():
            if name not in less or shape[0] != size or less[name][2][0] != part:
                continue
            gaps = [gap(one[:part], two) for one, two in zip((given, out), less[name][:2])]
            kept = found.setdefault(name, [0.0, 0.0])
            found[name] = [worse(one, two) for one, two in zip(kept, gaps)]
    return {"sizes": [part for part in PARTS if part < size], "samples": size, "layers": found}


def samples_of(torch, leaves, batch):
    sizes = {len(each) for each in leaves(torch, batch).values() if each.dim()}
    return sizes.pop() if len(sizes) == 1 else 0


def cut(torch, batch, count, size):
    def less(value):
        if isinstance(value, torch.Tensor):
            return value[:count] if value.dim() and len(value) == size else value
        if isinstance(value, dict):
            return {key: less(each) for key, each in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(less(each) for each in value)
        return value

    return less(batch[0]), less(batch[1])


def tapped(torch, leaves, net, norms, batch):
    """{layer: (input, output, shape)} of its first call in one eval forward; "" is the model's own output."""
    seen, hooks, hook_on = {}, [], sys.modules["bncheck_torch_keeping"].hook_on  # play() has loaded it

    def keeping(name):
        def hook(module, given, out):
            if name not in seen and given and isinstance(out, torch.Tensor) and isinstance(given[0], torch.Tensor):
                if out.dim():
                    seen[name] = (given[0].detach().clone(), out.detach().clone(), tuple(out.shape))

        return hook

    for name, module in norms.items():
        if isinstance(module._buffers, dict):  # a scripted layer takes no hook
            hooks.append(hook_on(module, keeping(name)))
    try:
        with torch.no_grad():
            out = call(net, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for each in leaves(torch, out).values():
        if each.is_floating_point() and each.dim():
            seen[""] = (each, each, tuple(each.shape))
            break
    return seen


def gap(one, two):
    """Largest difference, relative to the largest value; infinite where one side alone is not finite."""
    if one.shape != two.shape or not one.numel():
        return 0.0
    one, two = one.double(), two.double()
    finite = [abs(each) < float("inf") for each in (one, two)]  # False for NaN, too; isfinite is younger
    if not bool(finite[0].all() & finite[1].all()):
        return 0.0 if bool((finite[0] == finite[1]).all()) else float("inf")
    largest = float(one.abs().max())
    return float((one - two).abs().max()) / largest if largest else float((one - two).abs().max() > 0)


def worse(one, two):
    return max(one, two)
