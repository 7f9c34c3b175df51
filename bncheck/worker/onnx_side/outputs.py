"""What an ONNX file gives on arrays, as onnxruntime runs it. ``python -I outputs.py FOLDER``; Python 3.7 syntax.

``FOLDER/play.json`` (in): ``file``, ``inputs`` (name of each input, in order), ``arrays`` (an .npz with ``input/<k>``).
``FOLDER/played.npz`` (out): ``plain/<k>`` without graph optimisation, ``optimised/<k>`` with all of it, ``nudged/<k>``
with an input that is off by a rounding. ``FOLDER/played.json``: ``error`` ("" where it ran), ``version``.
"""

import json
import os
import sys

import numpy as np

TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8,
}  # fmt: skip


def session_of(path, optimise):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def nudge(array):
    if array.dtype.kind != "f":
        return array
    noise = np.random.RandomState(1).uniform(-0.5, 0.5, array.shape)
    return (array * (1 + 2.0**-22 * noise)).astype(array.dtype)


def play(job):
    with np.load(job["arrays"], allow_pickle=False) as held:
        named = [key for key in held.files if key.startswith("input/")]
        # A batch of the user's has names of its own: its order is that of the inputs.
        given = [held["input/%d" % place] for place in range(len(named))] or [held[key] for key in held.files]
    found = {}
    for optimise, name in ((False, "plain"), (True, "optimised")):
        session = session_of(job["file"], optimise)
        wanted = session.get_inputs()
        if len(given) < len(wanted):
            raise ValueError("the file takes %d inputs, and there are %d" % (len(wanted), len(given)))
        feed = {item.name: array.astype(TYPES.get(item.type, array.dtype)) for item, array in zip(wanted, given)}
        keep(found, name, session.run(None, feed))
        if not optimise:
            keep(found, "nudged", session.run(None, {key: nudge(array) for key, array in feed.items()}))
    return found


def keep(found, name, outputs):
    arrays = [each for each in outputs if hasattr(each, "dtype") and each.dtype.kind == "f"]
    found.update(("%s/%d" % (name, place), each) for place, each in enumerate(arrays))


def main(folder):
    with open(os.path.join(folder, "play.json"), encoding="utf-8") as handle:
        job = json.load(handle)
    said = {"error": "", "version": ""}
    try:
        import onnxruntime

        said["version"] = onnxruntime.__version__
        np.savez(os.path.join(folder, "played.npz"), **play(job))
    except Exception as error:
        said["error"] = "%s: %s" % (type(error).__name__, str(error)[:600])
    with open(os.path.join(folder, "played.json"), "w", encoding="utf-8") as handle:
        json.dump(said, handle)


if __name__ == "__main__":
    main(sys.argv[1])
