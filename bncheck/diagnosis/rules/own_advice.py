"""What to do about a layer of the user's own, in the words of the framework that it is written for.

Rules speak of PyTorch's calls, in which most such layers are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bncheck.finding import Finding

USUAL: Mapping[str, str] = {
    "variance-divisor": "put the variance into the running average that the built-in layer puts in: divided by n",
    "batch-weight": "the built-in update is moving = momentum * moving + (1 - momentum) * batch, with momentum from "
    "the constructor",
    "normaliser-source": "normalise with the batch's mean and variance in training, and with the moving ones in "
    "inference",
    "normaliser-divisor": "normalise with the variance that is divided by n, as the paper does",
    "eps": "divide by sqrt(variance + epsilon), with the epsilon that the layer was given",
    "never-updated": "assign the new statistics to the layer's own variables in every training step",
    "update-phase": "move the statistics in training alone",
    "affine": "multiply by gamma and add beta after normalising",
    "gradient": "let the gradient flow through the batch's mean and variance: no stop_gradient around them",
    "value-count": "take mean and variance of each channel over all values of the batch",
}
KERAS: Mapping[str, str] = {
    **USUAL,
    "layer-contract": "return every argument of the constructor from get_config(), and make state with add_weight()",
    "state-mismatch": "make gamma, beta, moving_mean and moving_variance with add_weight(), one value per channel",
    "normaliser-source": "take `training` in call(): normalise with the batch's mean and variance where it is true, "
    "and with moving_mean and moving_variance where it is not",
}
TRAINING = "with the batch's mean and variance {}, and with the running ones {}"
PADDLE: Mapping[str, str] = {
    **USUAL,
    "layer-contract": "make state with register_buffer() and create_parameter(): state_dict() then has it",
    "stale-state": "make the statistics with register_buffer(), and leave persistable at True",
    "state-mismatch": "make weight and bias with create_parameter(), _mean and _variance with register_buffer(), one "
    "value per channel",
    "variance-divisor": "average x.var(axes, unbiased=False), the variance that is divided by n",
    "normaliser-divisor": "normalise with x.var(axes, unbiased=False), the variance that is divided by n",
    "never-updated": "write the new statistics into the buffers with set_value() in every training step",
    "normaliser-source": "normalise "
    + TRAINING.format("where self.training is true", "where it is not: layer.eval() turns it off"),
    "gradient": "let the gradient flow through the batch's mean and variance: no detach() or no_grad() around them",
}
FLAX: Mapping[str, str] = {
    **USUAL,
    "layer-contract": "make state with nnx.BatchStat and nnx.Param: nnx.state() then has it",
    "stale-state": "keep the statistics in nnx.BatchStat: nnx.state() then has them",
    "state-mismatch": "make scale and bias with nnx.Param, mean and var with nnx.BatchStat, one value per channel",
    "variance-divisor": "average x.var(axes), the variance that is divided by n (ddof=0)",
    "normaliser-divisor": "normalise with x.var(axes), the variance that is divided by n (ddof=0)",
    "never-updated": "write the new statistics into the nnx.BatchStat in every training step: self.mean[...] = …",
    "normaliser-source": "normalise "
    + TRAINING.format("in training", "where self.use_running_average is true: model.eval() sets it"),
    "gradient": "let the gradient flow through the batch's mean and variance: no jax.lax.stop_gradient around them",
}
MXNET: Mapping[str, str] = {
    **USUAL,
    "layer-contract": "make state with self.params.get(): save_parameters() then has it",
    "stale-state": "make the statistics with self.params.get(…, grad_req='null'): save_parameters() then has them",
    "state-mismatch": "make gamma, beta, running_mean and running_var with self.params.get(), one value per channel",
    "never-updated": "write the new statistics with set_data() of the parameter in every training step",
    "normaliser-source": "normalise " + TRAINING.format("where autograd.is_training() is true", "where it is not"),
    "gradient": "let the gradient flow through the batch's mean and variance: no stop_gradient or detach() around them",
}
BY_BACKEND: Mapping[str, Mapping[str, str]] = {"keras": KERAS, "paddle": PADDLE, "flax": FLAX, "mxnet": MXNET}


def in_its_words(finding: Finding, backends: Sequence[str]) -> Finding:
    """The finding about own layers with advice of their framework; as it is for PyTorch's, and for several."""
    kinds = set(backends)
    if len(kinds) != 1 or kinds == {"torch"}:
        return finding
    said = BY_BACKEND.get(next(iter(kinds)), USUAL).get(finding.cause)
    return finding if said is None else replace(finding, advice=said)
