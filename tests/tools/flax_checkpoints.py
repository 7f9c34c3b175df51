"""Checkpoints as Flax writes them: ``python flax_checkpoints.py FOLDER``, in a Python that has flax."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import serialization

FOLDER = Path(sys.argv[1])


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="bn")(nn.Conv(4, (3, 3))(x))
        return nn.BatchNorm(use_running_average=not train, use_scale=False, name="last")(nn.LayerNorm()(x))


variables = jax.tree_util.tree_map(jnp.asarray, Net().init(jax.random.PRNGKey(0), jnp.ones((1, 8, 8, 3))))
variables["params"]["bn"] = {"scale": jnp.array([1.0, 0.5, 0.25, 2.0]), "bias": jnp.array([0.125] * 4)}
variables["batch_stats"]["bn"] = {"mean": jnp.array([1.0, 2.0, 3.0, 4.0]), "var": jnp.array([0.5, 1.5, 2.5, 3.5])}
(FOLDER / "state.msgpack").write_bytes(serialization.to_bytes(variables))
half = jax.tree_util.tree_map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
(FOLDER / "bfloat16.msgpack").write_bytes(serialization.to_bytes(half))
trained = {"step": 3, "opt_state": {"0": variables["params"]}, **variables}
(FOLDER / "train_state.msgpack").write_bytes(serialization.to_bytes(trained))
