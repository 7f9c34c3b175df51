"""What one cell says of a layer of the user's: its state, its copies, what saving and moving it does, its time.

Loaded by backends/torch.py by path. Python 3.7 syntax. ``custom`` is custom.py.
"""

import copy
import time
import warnings

TIMED_SECONDS, TIMED_LEAST, TIMED_REPEATS = 0.5, 5, 101


def facts(model, custom, name, batch_norm):
    """What one cell says of a layer: names, copies, dtypes, which buffers carry a graph; its time if asked for."""
    torch, norm, spec = model.torch, model.norms[name], model.specs[name]
    builtin = batch_norm(torch, spec, "builtin").to(device=model.device, dtype=model.dtype)
    kept = custom.kept_tensors(torch, norm)
    own, usual = set(norm.state_dict()), set(builtin.state_dict())
    found = {
        "class": type(norm).__name__,
        "state": custom.names_in(norm),
        "left_out": sorted(getattr(norm, "bncheck_left_out", {})),
        "remarks": model.part("arguments").missing_arguments(custom, norm) + model.remarks.get(name, []),
        "state_dict": {"missing": sorted(usual - own), "additional": sorted(own - usual)},
        "kept": {
            key: "%s %s" % (tuple(tensor.shape), str(tensor.dtype).replace("torch.", ""))
            for key, tensor in kept.items()
        },
        "not_in_state_dict": sorted(set(kept) - own),
        "with_graph": {
            key: len(custom.walk_graph([tensor])) for key, tensor in kept.items() if tensor.grad_fn is not None
        },
        "nodes_of": {key: counts for key, counts in model.behind.get(name, {}).items() if key},
        "deepcopy": attempt(custom, lambda: copy.deepcopy(norm) and None),
    }
    if name in model.seen:
        data = model.seen[name][0].detach()
        found["moves"], refusal = (
            moves(model, custom, spec, batch_norm, data.float()) if data.shape[0] > 1 else ({}, "")
        )
        found["remarks"] += [refusal] if refusal else []
        if model.variant == "timed":
            fresh = batch_norm(torch, spec, model.variant, model.custom).to(device=model.device, dtype=model.dtype)
            found["time"] = attempt(custom, lambda: time_ratio(torch, custom, fresh, builtin, data))
    return found


def moves(model, custom, spec, batch_norm, data):
    """What moves.py found; the built-in layer starts from the own one's gamma and beta (torch 1.1 draws its)."""
    torch = model.torch
    custom.remember_lines(torch, False)  # nothing goes back through these; the lines took half of the time

    def own():
        return batch_norm(torch, spec, model.variant, model.custom)

    def untouched():
        return batch_norm(torch, spec, "builtin")

    def builtin():
        usual, given = untouched(), own()
        with torch.no_grad():
            for what in ("gamma", "beta"):
                mine, theirs = custom.find(given, what), custom.find(usual, what)
                if mine is not None and theirs is not None and mine.shape == theirs.shape:
                    theirs.copy_(mine)
        return usual

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casting complex buffers to real ones warns, and is told in words here
        taken, refusal = batch_it_takes(custom, own, data, model.device)
        if taken is None:
            return {}, refusal
        trial = model.part("moves").Trial(
            torch,
            custom,
            own,
            builtin if model.parts == 1 else None,
            taken,
            model.device,
            model.parts == "complex",
            untouched if model.parts == 1 else None,
        )
        chance = trial.remark()
        return trial.all(), refusal or ("%s %s" % (type(own()).__name__, chance) if chance else "")


def batch_it_takes(custom, own, data, device):
    """(a batch that a fresh layer trains on, "") or, where it refuses the case's own, the part of it that it takes.

    A layer that cannot take the batch refuses it in every action: that is one refusal, and nothing about the actions.
    """
    sizes, refusal = [len(data)], ""
    sizes += [len(data) - 1, 1 << (len(data).bit_length() - 1), len(data) // 2]
    for size in sizes:
        part = data[:size] if size > 1 else data[:0]
        try:
            if len(part):
                norm = own().to(device=device).train()
                for _ in range(2):
                    norm(part.clone())
                less = "%s; what else it does was tried with %d samples instead of %d" % (refusal, size, len(data))
                return part, less if refusal else ""
        except Exception as error:
            refusal = refusal or "%s refuses this batch (%s)" % (
                type(own()).__name__,
                custom.said(error).split("\n")[0],
            )
    return None, "%s, and smaller parts of it: moving, copying, saving and loading it was not tried" % refusal


def attempt(custom, action):
    """ "ok", or the error in the layer's own words: a finding about it, not a failure of the cell."""
    try:
        return action() or "ok"
    except Exception as error:
        return custom.said(error)


def time_ratio(torch, custom, norm, builtin, data):
    """Median seconds of a training step of the layer and of the built-in one, taken in turns, on one thread.

    On many threads a small batch mostly times how busy the machine is (87 ms against 0.1 ms, seen on a full one).
    """
    threads, dy = torch.get_num_threads(), torch.ones_like(data)
    torch.set_num_threads(1)
    custom.remember_lines(torch, False)
    spent = {"own": [], "builtin": []}
    began = time.perf_counter()
    try:
        while len(spent["own"]) < TIMED_LEAST or (
            len(spent["own"]) < TIMED_REPEATS and time.perf_counter() - began < TIMED_SECONDS
        ):
            for name, layer in (("own", norm), ("builtin", builtin)):
                start = time.perf_counter()
                layer.train()(data.clone().requires_grad_()).backward(dy)
                spent[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    own, usual = (sorted(spent[name])[len(spent[name]) // 2] for name in ("own", "builtin"))
    return {"own_seconds": own, "builtin_seconds": usual, "ratio": own / usual, "repeats": len(spent["own"])}
