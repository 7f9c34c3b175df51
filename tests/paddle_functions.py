"""Functions that people call with their Paddle model, for test_own_elsewhere.py."""

import copy

import paddle
from paddle_layers import build  # noqa: F401 - what the scenario plays


def summarise(model):
    return sum(int(each.size) for each in model.parameters())


def freeze(model):
    for each in model.parameters():
        each.stop_gradient = True


def spoil(model):
    model.bn1._variance.set_value(paddle.to_tensor([4.0, 9.0, 1.0, 2.0]))


def calibrate(model, x):
    """Forgets to call eval()."""
    model.train()
    with paddle.no_grad():
        model(x)


def evaluate(model):
    model.eval()


def anew(model):
    """Weights and statistics are forgotten."""
    return type(model)(type(model.bn1))


def copied(model):
    return copy.deepcopy(model)


def crash(model):
    raise RuntimeError("no")
