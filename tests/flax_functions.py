"""Functions that people call with their Flax model, for test_own_elsewhere.py."""

import jax
from flax import nnx
from flax_layers import build  # noqa: F401 - what the scenario plays


def summarise(model):
    return sum(each.size for each in jax.tree.leaves(nnx.state(model, nnx.Param)))


def spoil(model):
    model.bn1.var[...] = jax.numpy.array([4.0, 9.0, 1.0, 2.0])


def calibrate(model, x):
    """Forgets to call eval()."""
    model.train()
    model(x)


def evaluate(model):
    model.eval()


def anew(model):
    """Weights and statistics are forgotten."""
    return type(model)(type(model.bn1), nnx.Rngs(1))


def copied(model):
    return nnx.clone(model)


def crash(model):
    raise RuntimeError("no")
