"""What every player of a model's file shares. This docstring is the protocol. Python 3.7 syntax, NumPy alone.

    python -I playing.py PLAYER.py FOLDER

``FOLDER/play.json`` (in)
    ``file``; ``arrays``, an .npz with ``input/<k>``, or any arrays in the order of the inputs, or "" where the player
    makes some up; ``inputs`` (each ``{"dtype", "shape"}``) says of which shapes, where the file leaves sizes open;
    ``restored`` (absent: none) names in order the rounded weights that ``w0``, ``w1``, … of ``FOLDER/restored.npz``
    stand for: then the file is played without rounding instead.
``FOLDER/played.npz`` (out)
    ``input/<k>`` what went in, as the file takes it; ``<way>/<k>`` the outputs of each way to run it ("plain" or
    "eval" is the plainest); ``tap/<layer>`` what a normalising layer gave, in the order in which they ran.
``FOLDER/weights.npz`` (out, where the format is read by its own runtime)
    Every constant by name.
``FOLDER/played.json`` (out, last)
    ``error`` ("" where it ran), ``version``, ``remarks``, ``beside`` (weight → the bias beside it), ``narrow`` (dtype
    of weights narrower than float32 → how many), ``usual`` (in which words "optimised" is told apart from "plain").

A player is a file with ``SUFFIXES`` and, unless a backend has its name, a backend's constants
(bncheck/worker/ADDING.md). Its ``opened(path, playing)`` returns an object with ``version``, ``inputs`` (name, dtype
and shape of each, None for an open size), ``ways(batches)`` ((name, outputs) pairs), ``weights()`` (those of
convolutions with the axes of PyTorch), ``beside``, ``taps`` and ``usual``; and ``unrounded(batches, weights)`` where
its format rounds beside float operators.
"""

import importlib.util
import json
import os
import sys

import numpy as np

# Sizes that a file leaves open: the batch, and the sides of what has so many axes.
BATCH, SIDE = 4, {3: 32, 4: 64, 5: 16}
MOST_BYTES = 2 << 30  # of constants that are handed over
MOVES = {"last": (1, -1), "first": (-1, 1)}  # of the axis of channels
NARROW = ("float16", "bfloat16", "int8", "uint8", "int4")


class PlayError(Exception):
    """A sentence about the user's file."""


def play(player, job, folder):
    model = player.opened(job["file"], sys.modules[__name__])
    said = {
        "error": "",
        "version": model.version,
        "remarks": [],
        "beside": dict(model.beside),
        "narrow": {},
        "usual": "",
    }
    arrays = from_file(job["arrays"]) if job["arrays"] else made_up(model.inputs, job["inputs"])
    if len(arrays) < len(model.inputs):
        raise PlayError("it takes %d inputs, and there are %d" % (len(model.inputs), len(arrays)))
    fed, single = [], False
    for array, (name, dtype, shape) in zip(arrays, model.inputs):
        array, word = fitted(array, name, shape)
        single = single or word == "single"
        if word in ("last", "first"):
            said["remarks"].append("its input has channels %s: it got the same values in that order" % word)
        fed.append(array.astype(dtype) if dtype else array)
    if single:
        said["remarks"].append("it takes one sample at a time, and got them so")
    found = {"input/%d" % place: each for place, each in enumerate(fed)}
    batches = one_by_one(fed) if single else [fed]
    ways = model.ways(batches) if "restored" not in job else model.unrounded(batches, restored(job, folder))
    for name, outputs in ways:
        found.update(("%s/%d" % (name, place), each) for place, each in enumerate(outputs))
    found.update(("tap/%s" % name, each) for name, each in model.taps.items())
    said["usual"] = model.usual
    np.savez(os.path.join(folder, "played.npz"), **found)
    weights = {key: value for key, value in model.weights().items() if value.size}
    if sum(value.nbytes for value in weights.values()) <= MOST_BYTES:
        np.savez(os.path.join(folder, "weights.npz"), **{key: wide(value) for key, value in weights.items()})
    for value in weights.values():
        if value.ndim > 1 and str(value.dtype) in NARROW:
            said["narrow"][str(value.dtype)] = said["narrow"].get(str(value.dtype), 0) + 1
    return said


def restored(job, folder):
    with np.load(os.path.join(folder, "restored.npz"), allow_pickle=False) as held:
        return {name: held["w%d" % place] for place, name in enumerate(job["restored"])}


def wide(array):
    """NumPy's file has no bfloat16 or int4."""
    return array if array.dtype.kind in "fiub" and array.dtype.isbuiltin == 1 else array.astype(np.float32)


def from_file(path):
    with np.load(path, allow_pickle=False) as held:
        if not hasattr(held, "files"):
            return [held]
        named = [key for key in held.files if key.startswith("input/")]
        # A batch of the user's has names of its own: its order is that of the inputs.
        return [held["input/%d" % place] for place in range(len(named))] or [held[key] for key in held.files]


def made_up(inputs, asked):
    """Normal numbers, or 0 and 1 where whole ones are taken."""
    dice, found = np.random.RandomState(0), []
    for place, (_, dtype, shape) in enumerate(inputs):
        wanted = asked[place] if place < len(asked) else {"dtype": "", "shape": sizes(shape)}
        kind = np.dtype(wanted["dtype"] if wanted["dtype"] not in ("", "bfloat16") else dtype or "float32")
        numbers = dice.standard_normal(wanted["shape"]) if kind.kind == "f" else dice.randint(0, 2, wanted["shape"])
        found.append(numbers.astype(kind))
    return found


def sizes(shape):
    if shape is None:
        raise PlayError("it does not say what it takes: say it with --input 4,3,64,64, or give --data batch.npz")
    usual = [BATCH if place == 0 else SIDE.get(len(shape), 16) for place in range(len(shape))]
    return [size or other for size, other in zip(shape, usual)]


def fitted(array, name, shape):
    """(the array as a file takes it, what was done: "", "first" or "last" for its channels, "single" for a file that
    takes one sample)."""
    if fits(array.shape, shape):
        return array, ""
    for word, axes in MOVES.items() if array.ndim > 2 else ():
        moved = np.moveaxis(array, *axes)
        if fits(moved.shape, shape):
            return np.ascontiguousarray(moved), word
    if array.ndim and shape and shape[0] == 1 and array.shape[0] > 1:
        one, word = fitted(array[:1], name, shape)
        whole = np.moveaxis(array, *MOVES[word]) if word else array
        return np.ascontiguousarray(whole), "single"
    declared = "×".join("any" if size is None else str(size) for size in shape)
    raise PlayError("its input %s is %s, and the batch %s" % (name, declared, "×".join(map(str, array.shape))))


def fits(shape, declared):
    return declared is None or (
        len(shape) == len(declared) and all(size in (None, own) for own, size in zip(shape, declared))
    )


def one_by_one(arrays):
    return [[each[place : place + 1] for each in arrays] for place in range(len(arrays[0]))]


def joined(batches):
    """The outputs of samples that were run one by one, as those of the batch."""
    if len(batches) == 1:
        return batches[0]
    if any(each.ndim == 0 or len(each) != 1 for outputs in batches for each in outputs):
        raise PlayError("it takes one sample at a time, and its outputs are no samples")
    return [np.concatenate(each) for each in zip(*batches)]


def nudged(arrays, size=2.0**-22):
    """Off by about a rounding of float32."""
    dice = np.random.RandomState(1)
    return [
        (each * (1 + size * dice.uniform(-0.5, 0.5, each.shape))).astype(each.dtype) if each.dtype.kind == "f" else each
        for each in arrays
    ]


def floats(arrays):
    return [np.asarray(each) for each in arrays if hasattr(each, "dtype") and np.asarray(each).dtype.kind == "f"]


def main(path, folder):
    with open(os.path.join(folder, "play.json"), encoding="utf-8") as handle:
        job = json.load(handle)
    said = {"error": "", "version": "", "remarks": [], "beside": {}, "narrow": {}, "usual": ""}
    try:
        spec = importlib.util.spec_from_file_location("bncheck_player", path)
        player = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(player)
        said = play(player, job, folder)
    except PlayError as error:
        said["error"] = str(error)
    except Exception as error:
        said["error"] = "%s: %s" % (type(error).__name__, str(error)[:600])
    with open(os.path.join(folder, "played.json"), "w", encoding="utf-8") as handle:
        json.dump(said, handle)
    sys.stdout.flush()
    os._exit(0)  # taking a framework down takes time, and nothing is left to do


if __name__ == "__main__":
    main(*sys.argv[1:])
