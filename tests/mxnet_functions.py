"""Functions that people call with their Gluon model, for test_own_elsewhere.py."""

import tempfile

from mxnet import autograd, nd
from mxnet_layers import build  # what the scenario plays


def summarise(model):
    return len(list(model.collect_params().keys()))


def freeze(model):
    for each in model.collect_params().values():
        each.grad_req = "null"


def spoil(model):
    model.bn1.running_var.set_data(nd.array([4.0, 9.0, 1.0, 2.0]))


def calibrate(model, x):
    """In training mode, where nothing is trained."""
    with autograd.record(train_mode=True):
        out = model(x)
    out.backward()


def anew(model):
    """Weights and statistics are forgotten."""
    new = build()
    new.initialize()
    new(nd.zeros((1, 3, 6, 6)))
    return new


def copied(model):
    new = build()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.params"
        model.save_parameters(path)
        new.load_parameters(path)
    return new


def crash(model):
    raise RuntimeError("no")
