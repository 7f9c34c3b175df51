"""A model of the user's before and after a function of theirs: made, given a batch, handed to the function.

Loaded by run.py by path; Python 3.7 syntax. What torch_side/applied.py says goes into the answer (``applied``), its
arrays to ``applied.npz``.
"""

import os

import numpy as np


def play(torch, part, failed, job, thing, folder):
    custom, keeping = part("torch_side", "custom"), part("torch_side", "keeping")
    held, applied = part("torch_side", "held"), part("torch_side", "applied")
    net = thing.module
    loaded = part("subject", "weights").load(torch, custom, failed, net, job["weights"]) if job["weights"] else None
    batch, how = part("subject", "inputs").choose(
        torch, custom, failed, net, job, held.normalisers(torch, net, keeping)
    )
    try:
        _, notes, arrays = applied.apply(torch, lambda name: part("torch_side", name), job["after"], net, *batch)
    except custom.CustomLayerError as error:
        path = job["after"].rpartition(":")[0]
        raise failed(getattr(error, "short", str(error)), "correct %s" % os.path.basename(path))
    np.savez(os.path.join(folder, "applied.npz"), **arrays)
    return {
        "kind": "model",
        "class": type(net).__name__,
        "torch": str(torch.__version__),
        "input": how,
        "weights": loaded,
        "applied": notes,
    }
