"""The rest of a network, beside BatchNorm: layers of the reference, in the dtype of its rules, with their gradients.

Loaded by backends/reference.py by path, Python 3.7 syntax. ``forward(x, mode)`` gives (y, context), ``backward(context,
dy)`` gives (dx, gradients by parameter).
"""

import numpy as np


class Flatten:
    def __init__(self, layer, params, rules):
        pass

    def forward(self, x, mode):
        return x.reshape(x.shape[0], -1), x.shape

    def backward(self, shape, dy):
        return dy.reshape(shape), {}


class Relu(Flatten):
    def forward(self, x, mode):
        return np.maximum(x, 0), x > 0

    def backward(self, kept, dy):
        return dy * kept, {}


class GlobalAvgPool(Flatten):
    def forward(self, x, mode):
        return x.mean(axis=tuple(range(2, x.ndim))), x.shape

    def backward(self, shape, dy):
        size = int(np.prod(shape[2:]))
        return np.broadcast_to(dy.reshape(shape[:2] + (1,) * (len(shape) - 2)) / size, shape), {}


class Dense:
    def __init__(self, layer, params, rules):
        dtype = "float32" if rules["dtype"] == "bfloat16" else rules["dtype"]
        self.weight = np.asarray(params[layer["name"] + "/weight"], dtype=dtype)
        self.bias = np.asarray(params[layer["name"] + "/bias"], dtype=dtype)

    def forward(self, x, mode):
        return x @ self.weight.T + self.bias, x

    def backward(self, x, dy):
        return dy @ self.weight, {"weight": dy.T @ x, "bias": dy.sum(axis=0)}


class Conv2d(Dense):
    """Cross-correlation, weight (out, in, kh, kw), as a matrix product over unfolded patches."""

    def __init__(self, layer, params, rules):
        Dense.__init__(self, layer, params, rules)
        options = layer.get("options") or {}
        self.stride, self.padding = options.get("stride", 1), options.get("padding", 0)

    def patches(self, x):
        pad, step = self.padding, self.stride
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        high, wide = self.weight.shape[2:]
        shape = x.shape[:2] + ((x.shape[2] - high) // step + 1, (x.shape[3] - wide) // step + 1, high, wide)
        s = x.strides
        return x.shape, np.lib.stride_tricks.as_strided(x, shape, s[:2] + (s[2] * step, s[3] * step) + s[2:])

    def forward(self, x, mode):
        padded, patches = self.patches(x)
        out = np.tensordot(patches, self.weight, axes=((1, 4, 5), (1, 2, 3)))
        return np.moveaxis(out + self.bias, 3, 1), (padded, patches)

    def backward(self, context, dy):
        padded, patches = context
        step, pad = self.stride, self.padding
        dx = np.zeros(padded, dtype=dy.dtype)
        for i in range(self.weight.shape[2]):
            for j in range(self.weight.shape[3]):
                part = np.tensordot(dy, self.weight[:, :, i, j], axes=((1,), (0,)))
                dx[:, :, i : i + step * dy.shape[2] : step, j : j + step * dy.shape[3] : step] += np.moveaxis(
                    part, 3, 1
                )
        weight = np.tensordot(dy, patches, axes=((0, 2, 3), (0, 2, 3)))
        inner = dx[:, :, pad : dx.shape[2] - pad, pad : dx.shape[3] - pad]
        return inner, {"weight": weight, "bias": dy.sum(axis=(0, 2, 3))}


KINDS = {"flatten": Flatten, "relu": Relu, "global_avg_pool": GlobalAvgPool, "dense": Dense, "conv2d": Conv2d}
