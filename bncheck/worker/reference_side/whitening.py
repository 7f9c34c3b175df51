"""Whitening in float64: k parts of each channel are multiplied with the inverse root of their k×k covariance.

Loaded by backends/reference.py by path, in the place of its BatchNorm. Python 3.7 syntax. The channels hold the parts
one after the other (k = 2: all real parts, then all imaginary ones). The inverse root is the symmetric one,
V^(-1/2) = U λ^(-1/2) Uᵀ; its derivative, in the same basis, is dV_ij = -dW_ij / (s_i s_j (s_i + s_j)) with s = √λ
(Daleckii and Krein), which is what the gradient by the input needs.
"""

import numpy as np


class Whitening:
    """One layer: running_mean (k·C,), the covariances as the upper triangle's rows (k(k+1)/2, C)."""

    def __init__(self, layer, parts, params, rules):
        if layer.get("affine", True):
            raise NotImplementedError("the whitening oracle has no scale and shift: say affine = false")
        if layer["averaging"] == "cumulative" or rules["averaging"] not in (None, "exponential"):
            raise NotImplementedError("the whitening oracle averages exponentially")
        if layer["channels"] % parts:
            raise ValueError("%d channels are no %d parts" % (layer["channels"], parts))
        self.parts, self.rules, self.channels = parts, rules, layer["channels"] // parts
        weight, eps = layer["batch_weight"], layer["eps"]
        self.weight = rules["default_batch_weight"] if weight is None else weight
        self.eps = rules["default_eps"] if eps is None else eps
        name, size = layer["name"], layer["channels"]
        self.mean = np.array(params.get(name + "/running_mean", np.zeros(size)), dtype=np.float64)
        spread = np.array(params.get(name + "/running_var", np.ones(size)), dtype=np.float64)
        self.covar = np.zeros((self.channels, parts, parts))
        for part in range(parts):
            self.covar[:, part, part] = spread.reshape(parts, -1)[part]
        self.axis, self.training, self.forwards = 1, True, 0

    def forward(self, x, mode):
        if mode != "as_is":
            self.training = mode != "eval"
        x = np.asarray(x, dtype=np.float64)
        flat = np.moveaxis(x, 1, 0).reshape(self.parts, self.channels, -1)
        rows = np.moveaxis(flat, 1, 0)  # (C, k, n)
        if self.training:
            mean, covar = self.train(rows)
        else:
            mean, covar = self.mean.reshape(self.parts, -1).T, self.covar
        values, vectors = np.linalg.eigh(covar + self.eps * np.eye(self.parts))
        root = (vectors / np.sqrt(values)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        centred = rows - mean[:, :, None]
        return self.back(root @ centred, x.shape), (x.shape, self.training, centred, values, vectors, root)

    def train(self, rows):
        n = rows.shape[2]
        if n < 2:
            raise ValueError("%d values per channel: no covariance exists" % n)
        mean = rows.mean(axis=2)
        centred = rows - mean[:, :, None]
        covar = centred @ np.swapaxes(centred, 1, 2) / n
        taken = covar * n / (n - 1) if self.rules["variance_divisor"] == "n-1" else covar
        self.forwards += 1
        self.mean = self.mean + self.weight * (mean.T.reshape(-1) - self.mean)
        self.covar = self.covar + self.weight * (taken - self.covar)
        return mean, covar

    def back(self, rows, shape):
        """(C, k, n) as an array of the layer's own shape."""
        flat = np.moveaxis(rows, 0, 1).reshape((shape[1], shape[0]) + tuple(shape[2:]))
        return np.moveaxis(flat, 0, 1)

    def backward(self, context, dy):
        shape, training, centred, values, vectors, root = context
        rows = np.moveaxis(
            np.moveaxis(np.asarray(dy, dtype=np.float64), 1, 0).reshape(self.parts, self.channels, -1), 1, 0
        )
        grad = root @ rows
        if training:
            outer = rows @ np.swapaxes(centred, 1, 2)
            turned = np.swapaxes(vectors, 1, 2) @ (outer + np.swapaxes(outer, 1, 2)) @ vectors / 2
            s = np.sqrt(values)
            factor = -1 / (s[:, :, None] * s[:, None, :] * (s[:, :, None] + s[:, None, :]))
            by_covar = vectors @ (turned * factor) @ np.swapaxes(vectors, 1, 2)
            grad = grad + 2 * by_covar @ centred / centred.shape[2]
            grad = grad - grad.mean(axis=2, keepdims=True)
        return self.back(grad, shape), {}

    def flush(self):
        """Nothing waits."""

    def state(self):
        places = [(i, j) for i in range(self.parts) for j in range(i, self.parts)]
        return {
            "training": int(self.training),
            "momentum": self.weight,
            "eps": self.eps,
            "counter": self.forwards,
            "running_mean": self.mean,
            "running_var": np.concatenate([self.covar[:, part, part] for part in range(self.parts)]),
            "running_covar": np.concatenate([self.covar[:, i, j] for i, j in places]),
        }
