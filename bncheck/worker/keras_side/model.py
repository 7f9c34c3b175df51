"""A Keras model of the user's: made, its weights loaded, its input chosen; own_side/model.py has its short life.

Loaded by subject/run.py by path; Python 3.7 syntax.
"""

SAMPLES, SIDE = 8, 32  # of made-up inputs, where the model leaves them open


def play(keras, part, failed, job, folder):
    backend, custom = part("backends", "keras"), part("torch_side", "custom")
    whole = part("keras_side", "whole").whole(backend.Model, part("keras_side", "engines").engines(""), backend.part)
    text = "%s:%s" % (job["module"], job["name"])
    network = {"model": text, "arguments": job["with"], "output": "*", "layers": []}
    try:
        model = whole(keras, network, {}, "float32", alike=False)
    except custom.CustomLayerError as error:
        raise failed(getattr(error, "short", str(error)), "correct it; it is imported by %s" % job["python"])
    about = {
        "weights": load(failed, model.net, job["weights"]) if job["weights"] else None,
        "class": type(model.net).__name__,
        "version": keras.__version__,
    }
    return part("own_side", "model").play(part, part("own_side", "layer"), failed, job, folder, model, about, others)


def load(failed, net, path):
    """Keras loads all weights or raises."""
    try:
        net.load_weights(path)
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise failed("%s does not load into the model: %s" % (path, text), "build the model that was saved")
    return {
        "path": path,
        "keys": len(net.weights),
        "loaded": len(net.weights),
        "inside": "",
        "prefix": "",
        "missing": [],
        "unexpected": [],
        "misshaped": {},
        "counts": [0, 0, 0],
    }


def others(model):
    own = {id(each) for layer in model.norms.values() for each in layer.weights}
    return {each.path: list(each.shape) for each in model.net.weights if id(each) not in own}


def declared(failed, net):
    """(dtype, shape) of what the model says that it takes."""
    inputs = getattr(net, "inputs", None)
    if not inputs:
        raise failed("the model does not say what it takes", "give its shape: --input 8,32,32,3", "usage")
    if len(inputs) > 1:
        raise failed(
            "the model takes %d inputs; check of a Keras model gives one so far" % len(inputs),
            "build a model that takes one",
            "usage",
        )
    sizes = [SAMPLES] + [SIDE] * (len(inputs[0].shape) - 1)
    shape = [usual if size is None else size for size, usual in zip(inputs[0].shape, sizes)]
    return str(inputs[0].dtype), shape
