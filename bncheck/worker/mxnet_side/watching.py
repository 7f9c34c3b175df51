"""What ``bncheck watch`` follows in a program on MXNet Gluon: each BatchNorm block, and the state around calls of
hybridized blocks (../watching/compiled.py).

MXNet moves the running statistics in the backward. So a forward that is recorded for one is told of when it is known
what it did: at the next forward, at the trainer's step, or at the end. Loaded by recorder.py's ``part``, in the user's
program. Python 3.7 syntax.
"""

import functools
import os
import sys

UNSEEN = "a block was traced to be exported or to make a symbol of it."


def install(recorder):
    import mxnet as mx
    from mxnet.gluon import nn

    part = sys.modules["bncheck_watching_recorder"].part
    layers = part("watching/layers")
    watcher = kind_of(layers.Watcher)(
        recorder,
        part("torch_side/moments"),
        "mxnet",
        mx.__version__,
        [os.path.dirname(mx.__file__)],
        {mx.gluon.Block.__call__.__code__},
    )
    watcher.compiled = part("watching/compiled").Calls(
        watcher, "hybridized blocks", UNSEEN, lambda layer: read(mx, layer), lambda trainer: None
    )
    eye = layers.Eye(
        name=lambda layer: getattr(layer, "name", type(layer).__name__),
        seen=None,
        training=None,
        state=lambda layer: read(mx, layer),
        settings=settings,
        array=lambda value: value,
        gradients=mx.autograd.is_recording,
        device=lambda layer: str(layer.running_mean.list_ctx()[0]).replace("(0)", ""),
    )
    kinds = getattr(nn.basic_layers, "_BatchNorm", nn.BatchNorm)
    blocks(watcher, mx, eye, kinds)
    for name in ("step", "update"):
        steps(watcher, mx.gluon.Trainer, name)
    recorder.on_end.append(lambda: watcher.settle(True))


def read(mx, layer):
    """Its state as arrays; None while nobody has said of which size it is."""
    mx.nd.waitall()  # a read alone may come before what is still to be computed
    try:
        found = {"mean": layer.running_mean.data(), "var": layer.running_var.data(), "beta": layer.beta.data()}
        found["gamma"] = None if layer._kwargs["fix_gamma"] else layer.gamma.data()
    except mx.gluon.parameter.DeferredInitializationError:
        return None
    return {word: None if value is None else value.asnumpy() for word, value in found.items()}


def settings(layer, x):
    held = layer._kwargs
    return {
        "axis": held["axis"],
        "eps": held["eps"],
        "momentum": held["momentum"],
        "trainable": any(each.grad_req != "null" for each in (layer.gamma, layer.beta)),
    }


def mode_of(mx):
    return mx.autograd.is_training(), mx.autograd.is_recording()


def kind_of(watcher):
    class MxnetWatcher(watcher):
        """Forwards that wait for their backward."""

        def born_again(self):
            super(MxnetWatcher, self).born_again()
            self.waiting = []  # (block, what tells of its forward)
            self.unsure = set()  # ids of blocks that ran again before it was known what they had done

        def where(self, frame):
            return frame if isinstance(frame, tuple) else super(MxnetWatcher, self).where(frame)

        def settle(self, sure):
            """Tell of what waits. ``sure``: every backward has run."""
            waiting, self.waiting = self.waiting, []
            for _, tell in waiting:
                tell(sure)
            if sure:
                self.unsure.clear()

        def ready(self, block, trains):
            """Before a block runs: what it did last has to be told first, and all of it before an evaluation."""
            if self.waiting and (not trains or any(each is block for each, _ in self.waiting)):
                self.settle(False)

    return MxnetWatcher


def blocks(watcher, mx, eye, kinds):
    original, calls = mx.gluon.Block.__call__, watcher.compiled

    @functools.wraps(original)
    def call(block, *args):
        if watcher.recorder.stopped or not args:
            return original(block, *args)
        array, norm = isinstance(args[0], mx.nd.NDArray), isinstance(block, kinds) and followed(block)
        if norm and not array and calls.open is not None:
            watcher.quietly("met", calls.met, eye, block, True, True, (None, None), 1, "")
        if calls.open is not None or not array or not (norm or getattr(block, "_active", False)):
            return original(block, *args)
        trains = tuple(map(bool, (mx.autograd.is_training(), mx.autograd.is_recording())))
        watcher.quietly("ready", watcher.ready, block, all(trains))
        if norm:
            found = original(block, *args)
            where = watcher.where(sys._getframe(1))
            watcher.quietly("forward", forward, watcher, mx, eye, block, args[0], found, trains, where)
            return found
        begun = watcher.quietly("begin", lambda: calls.begin(block, None, mode=trains))
        try:
            found = original(block, *args)
        except BaseException:
            calls.failed()
            raise
        if begun is not None:
            watcher.quietly("end", hybrid, watcher, begun, all(trains), watcher.where(sys._getframe(1)))
        return found

    watcher.put(mx.gluon.Block, "__call__", call)


def followed(block):
    """Statistics over several devices, and an output that is rectified already, are another matter."""
    return "Sync" not in type(block).__name__ and not getattr(block, "fuse_relu", False)


def forward(watcher, mx, eye, block, x, y, trains, where):
    """A block has run by itself. What it is to train by moves only in the backward."""
    before = read(mx, block)
    if before is None or not hasattr(y, "asnumpy"):
        return
    training, gradients = trains[0] and not block._kwargs["use_global_stats"], trains[1]
    state = {name: value for name, value in before.items() if value is not None}
    seen, x, y = (training, state), x.asnumpy(), y.asnumpy()

    def tell(sure):
        eye.gradients = lambda: gradients
        if training and gradients:
            after = read(mx, block)
            still = all(after[name].tobytes() == before[name].tobytes() for name in ("mean", "var"))
            if id(block) in watcher.unsure or (still and not sure):
                watcher.unsure.add(id(block))
                return unknown(watcher, eye, block, before, after, x, where)
        return watcher.leave(eye, block, (x, *seen), y, where)

    if training and gradients:
        watcher.waiting.append((block, tell))
    else:
        tell(True)


def unknown(watcher, eye, block, before, after, x, where):
    """A forward of which nobody knows what it did to the statistics: another one came before its backward."""
    known = watcher.follow(eye, block, before)
    if known is None:
        return
    watcher.beat(block, True)
    known.after = {name: after[name] for name in ("mean", "var")}
    recorder = watcher.recorder
    recorder.describe(known.record)
    recorder.place()
    n = x.size // x.shape[block._kwargs["axis"]]
    recorder.forward(known.record, (True, False, True, str(x.dtype)), n, None, where)
    recorder.left_out += 1


def hybrid(watcher, call, trains, where):
    """A hybridized block has run. Its layers are told of when its backward has."""
    calls = watcher.compiled
    calls.failed()  # it is over, what comes now is none of its own
    trace = call.trace if call.trace.events else calls.of(call.holder, call.key)
    for ran in trace.forwards if trace is not None else ():
        call.look(call.who(ran))
    if trains:
        watcher.waiting.append((call.holder, lambda sure: calls.end(call, where)))
    else:
        calls.end(call, where)


def steps(watcher, holder, name):
    original = getattr(holder, name)

    @functools.wraps(original)
    def step(*args, **kwargs):
        watcher.quietly("settle", watcher.settle, True)
        found = original(*args, **kwargs)
        watcher.quietly("step", watcher.recorder.stepped)
        return found

    watcher.put(holder, name, step)
