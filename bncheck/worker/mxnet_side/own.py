"""How MXNet makes, runs and reads a user's layer (a gluon.Block) that stands where gluon.nn.BatchNorm would.

Loaded by backends/mxnet.py and by subject/run.py by path. Python 3.7 syntax.
"""

import os
import tempfile


def hands(shared, context=None):
    """A Hands (own_side/layer.py) of MXNet Gluon; ``shared`` is that file."""
    import mxnet as mx

    gluon, where = mx.gluon, context or mx.cpu()
    numpy_arrays = int(mx.__version__.split(".")[0]) >= 2
    kinds = (mx.nd.NDArray, mx.np.ndarray) if numpy_arrays else (mx.nd.NDArray,)
    make_array = mx.np.array if numpy_arrays else mx.nd.array

    class Gluon(shared.Hands):
        title, target, usual = "MXNet", "mxnet", "mxnet.gluon.Block"
        base, builtin, in_backward = gluon.Block, (gluon.nn.BatchNorm,), True

        def like_of(self, rank):
            return "mxnet.gluon.nn.BatchNorm"

        def finish(self, layer, shape, dtype):
            """A layer that learns its number of channels has it from a forward in inference, and then starts anew."""
            layer.initialize(ctx=where)
            if dtype != "float32":
                layer.cast(dtype)
            if any(unknown(each) for each in self.parameters(layer)):
                with mx.autograd.pause(train_mode=False):
                    layer(make_array(shared.np.zeros([size or 2 for size in shape]), ctx=where, dtype=dtype))
                layer.initialize(ctx=where, force_reinit=True)

        def parameters(self, layer):
            return list(layer.collect_params().values())

        def is_tensor(self, held):
            return isinstance(held, (gluon.Parameter,) + kinds)

        def setting(self, layer, what):
            """What built-in layers, and those that derive from them, hand to the operator."""
            known = getattr(layer, "_kwargs", None)
            held = [known.get(name) for name in self.names[what]] if isinstance(known, dict) else []
            return next((self.number(each) for each in held if self.number(each) is not None), None)

        def axis_of(self, layer, given):
            known = getattr(layer, "_kwargs", None)
            asked = known if isinstance(known, dict) and "axis" in known else {}
            return super(Gluon, self).axis_of(layer, dict(asked, **given))

        def inner(self, layer):
            return [each for name, each in blocks(layer) if name]

        def array(self, held):
            return (held.data(where) if isinstance(held, gluon.Parameter) else held).asnumpy()

        def assign(self, layer, name, value):
            held = getattr(layer, name)
            if isinstance(held, gluon.Parameter):
                held.set_data(make_array(value, ctx=where, dtype=held.dtype))
            else:
                held[:] = make_array(value, ctx=where, dtype=held.dtype)

        def weights(self, layer):
            return [each for each in self.parameters(layer) if trained(each)]

        def learned(self, layer):
            return {name: each for name, each in named(layer) if self.is_tensor(each) and trained(each)}

        def kept(self, layer):
            return {name: each for name, each in named(layer) if self.is_tensor(each) and not trained(each)}

        def trains(self, held):
            return trained(held)

        def weighs(self, layer):
            return bool(self.parameters(layer))

        def thaw(self, weights):
            if not any(trained(each) for each in weights):  # one alone is fixed: scale=False
                for each in weights:
                    each.grad_req = "write"

        def run(self, own, x):
            with mx.autograd.record(train_mode=True):
                return own.layer(make_array(x, ctx=where, dtype="float32"))

        def moves(self, own):
            saves = hasattr(own.layer, "save_parameters")
            return {"save_parameters and load_parameters": shared.attempt(lambda: self.restored(own))} if saves else {}

        def restored(self, own):
            """What a new layer lacks that loaded the parameters of this one."""
            other = own.again()
            other.shown = own.shown
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "layer.params")
                own.layer.save_parameters(path)
                other.layer.load_parameters(path, ctx=where)
            return shared.lost(own, other)

    return Gluon()


def unknown(parameter):
    """Whether a parameter has no shape yet."""
    return parameter.shape is None or any(size <= 0 for size in parameter.shape)


def trained(held):
    return getattr(held, "grad_req", "null") != "null"


def named(layer):
    """(attribute, value) of what the layer itself keeps."""
    return [(name, each) for name, each in sorted(vars(layer).items())]


def blocks(layer, path=""):
    """(dotted path, block) of a block and all inside it."""
    yield path, layer
    for name, child in layer._children.items():
        child = child if hasattr(child, "_children") else child()  # 2.0 holds weak references
        for found in blocks(child, "%s.%s" % (path, name) if path else name):
            yield found


def by_own_names(base):
    """``base`` (the MXNet backend's Model), with parameters of layers of the user's in ``own``: under any name, in any
    shape."""

    class ByOwnNames(base):
        def backward(self, dys):
            found = base.backward(self, dys)
            return {word: found[word] if word == "input" else found[word].reshape(-1) for word in found}

        def parameter(self, layer, what):
            held = self.own[layer].find(what) if layer in self.own else None
            return held if hasattr(held, "grad_req") else None

    return ByOwnNames
