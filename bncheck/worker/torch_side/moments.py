"""What one forward of a normalising layer shows: its state, its input's moments, and what its output reveals.

Loaded by torch_side/watching.py by path. Python 3.7 syntax; runs in the user's process: no random numbers, nothing
recorded for a gradient, nothing written to a tensor of theirs.
"""

import math

import numpy as np

SMALL = 1 << 16  # values up to which an input is summed in float64 as it is
CANCELS = 8.0  # mean² over variance beyond which squares are taken behind the mean, in a second pass
COARSE = 1e6  # and beyond which float32 is too coarse for that, too
POINTS, SAMPLES = 128, 16  # values per channel that the fit of the output takes, of so many samples
FLAT = 1e-6  # spread of the input, relative to its size, below which nothing can be fitted


def held(tensor):
    """A copy of a small tensor as a flat NumPy array in its own dtype; types that NumPy lacks are widened."""
    data = tensor.detach()
    if data.device.type != "cpu":
        data = data.cpu()
    try:
        return data.numpy().reshape(-1).copy()
    except (TypeError, RuntimeError):
        return data.float().numpy().reshape(-1).copy()


def number(value):
    """A float of a hyperparameter; NaN where it is none (momentum=None, a property that raises)."""
    if isinstance(value, (int, float)):
        return float(value)
    if hasattr(value, "numel") and value.numel() == 1:
        return float(value)
    return math.nan


def input_moments(torch, x, axis):
    """(mean, biased variance, count of NaN and Inf) per channel, float64.

    Sums over whole rows in float32 cost a fiftieth of the convolution in front of the layer; rows are added up in
    float64. Where the mean is large beside the deviation, squares would cancel: they are taken behind the mean.
    """
    mean = var = None
    if x.numel() > SMALL and x.dtype in (torch.float32, torch.float16, torch.bfloat16):
        mean, var = rows(torch, x.float(), axis)
    if mean is None or not bool(torch.isfinite(var).all()) or bool((mean * mean > COARSE * var).any()):
        dims = [dim for dim in range(x.dim()) if dim != axis]
        wide = x.double()
        mean = wide.mean(dims, keepdim=True)
        off = wide - mean
        var, mean = (off * off).mean(dims), mean.reshape(-1)
    mean, var = mean.cpu().numpy(), var.cpu().numpy()
    bad = 0
    if not (np.isfinite(mean).all() and np.isfinite(var).all()):
        bad = int((~torch.isfinite(x)).sum())
    return mean, var, bad


def rows(torch, x, axis):
    """(mean, variance) by sums of rows; (None, None) for a memory layout that has none."""
    shape, across = x.shape, 1
    if axis != 1 or x.dim() < 2:
        return None, None
    if x.dim() == 2:
        lines, across = x.unsqueeze(0), 1
    elif x.is_contiguous():
        lines, across = x.reshape(shape[0], shape[1], -1), 2
    elif x.dim() == 4 and x.permute(0, 2, 3, 1).is_contiguous():
        lines = x.permute(0, 2, 3, 1).reshape(shape[0], -1, shape[1])
    else:
        return None, None
    count = x.numel() // shape[1]
    mean = lines.sum(across).double().sum(0) / count
    square = squares(torch, lines, across) / count - mean * mean
    if bool((mean * mean > CANCELS * square).any()):
        off = lines - mean.float().view((1, -1, 1) if across == 2 else (1, 1, -1))
        rest = off.sum(across).double().sum(0) / count
        square = squares(torch, off, across) / count - rest * rest
    return mean, square


def squares(torch, lines, across):
    if across == 2:
        norm = (torch.linalg.vector_norm if hasattr(torch, "linalg") else torch.norm)(lines, dim=2).double()
        return (norm * norm).sum(0)
    return (lines * lines).sum(1).double().sum(0)


def points(x, axis):
    """(C, K) float64 of some values per channel, the same places for every tensor of that shape and layout."""
    channels = x.shape[axis]
    if axis == 1 and x.dim() > 2:
        samples = x[:: -(-x.shape[0] // SAMPLES)]
        places = x.numel() // max(1, x.shape[0] * channels)
        step = max(1, places * samples.shape[0] // POINTS)
        flat = samples.reshape(samples.shape[0], channels, -1)[:, :, :: step | 1].permute(1, 0, 2)
    else:
        flat = x.transpose(0, axis) if axis else x
        if axis == 1:
            flat = flat[:, :: -(-x.shape[0] // POINTS)]
    return flat.double().cpu().numpy().reshape(channels, -1)


def revealed(x, y, gamma, beta):
    """(m, r, residual) of y = gamma·(x − m)·r + beta per channel, by least squares of y on x (both (C, K) float64).

    NaN where x does not vary enough, where gamma is zero, or where something is not finite.
    """
    with np.errstate(all="ignore"):
        center, level = x.mean(1, keepdims=True), y.mean(1, keepdims=True)
        dx, dy = x - center, y - level
        spread = (dx * dx).mean(1)
        flat = ~(spread > (FLAT * np.abs(x).max(1)) ** 2)
        slope = np.where(flat, np.nan, (dx * dy).sum(1) / (dx * dx).sum(1))
        start = level[:, 0] - slope * center[:, 0]
        shift = 0.0 if beta is None else beta.astype(np.float64)
        scale = 1.0 if gamma is None else gamma.astype(np.float64)
        invstd = np.where(scale == 0, np.nan, slope / np.where(scale == 0, 1.0, scale))
        mean = np.where(slope == 0, np.nan, (shift - start) / np.where(slope == 0, 1.0, slope))
        off = np.abs(y - (slope[:, None] * x + start[:, None])).max(1)
        most = np.abs(y - np.reshape(shift, (-1, 1))).max(1)
        known = np.isfinite(off) & np.isfinite(invstd)
        residual = float(off[known].max() / max(most[known].max(), 1e-300)) if known.any() else math.nan
    return mean, invstd, residual, slope, start


def output_scale(mean, var, slope, start, y):
    """Standard deviation of all outputs together: out of the input's moments where each channel is a straight line of
    it, else out of the points."""
    with np.errstate(all="ignore"):
        if np.isfinite(slope).all():
            levels = slope * mean + start
            return float(np.sqrt((slope * slope * var).mean() + levels.var()))
        return float(y.std())


def forward(torch, x, y, axis, state):
    """The arrays of one moment that the input and output show. ``state`` has gamma and beta where the layer has."""
    with torch.no_grad():
        x, y = x.detach(), y.detach()
        mean, var, bad = input_moments(torch, x, axis)
        found = {"input_mean": mean, "input_var": var, "input_bad": bad, "samples": int(x.shape[0])}
        shared = x.data_ptr() == y.data_ptr()  # an in-place layer has overwritten its input
        if shared or y.shape != x.shape:
            wide = y.double()
            found["output_bad"] = int((~torch.isfinite(y)).sum())
            found["output_scale"] = float(wide.std(unbiased=False)) if y.numel() else math.nan
            found["used_mean"] = found["used_invstd"] = np.full(len(mean), np.nan)
            found["used_residual"] = math.nan
            return found
        xs, ys = points(x, axis), points(y, axis)
        m, r, residual, slope, start = revealed(xs, ys, state.get("gamma"), state.get("beta"))
        found.update(used_mean=m, used_invstd=r, used_residual=residual)
        found["output_scale"] = output_scale(mean, var, slope, start, ys)
        certain = not bad and np.isfinite(slope).all() and residual < 1e-2
        found["output_bad"] = 0 if certain else int((~torch.isfinite(y)).sum())
        return found
