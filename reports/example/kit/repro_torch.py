# /// script
# requires-python = "==3.11.*"
# dependencies = [
#   "torch==2.13.0",
#   "numpy==2.4.6",
# ]
# ///
# BN103 update-phase: mxnet 1.9.1 moves its running statistics in backward, reference and torch 2.13.0 in
# forward.
#
# Case all-ones--forward on torch 2.13.0+cpu@cpu; written by bncheck 0.1.0. The expected values are those of
# mxnet 1.9.1@cpu on the same bytes: it exits 1 while any value is outside the tolerance, or one side refuses
# what the other carries out, else 0.
# Reported: running_mean off by 0.05000 ± 0.05000 over 2 points.
# Reported: running_var off by 0.05000 ± 0.05000 over 2 points.

import sys

import numpy as np
# A CPU build is enough: take PyTorch's CPU wheel index where the default one offers CUDA builds only.
import torch

torch.set_num_threads(1)  # as in the run: more of them add in another order


def number(value):
    """Five decimals where they carry something, else three digits: as the report writes it."""
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else ("NaN" if np.isnan(value) else "Inf" if value > 0 else "-Inf")
    return f"{value:.5f}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def some(values):
    return " ".join(number(v) for v in values[:4]) + (f" … ({len(values)} values)" if len(values) > 4 else "")


def gaps(here, there, rtol, atol):
    """(|here - there| where both are finite, where they differ by more than the tolerance allows)."""
    with np.errstate(all="ignore"):
        both = np.isfinite(here) & np.isfinite(there)
        gap = np.where(both, np.abs(here - there), 0.0)
        size = np.where(both, np.maximum(np.abs(here), np.abs(there)), 0.0)
        same = ~both & ((here == there) | (np.isnan(here) & np.isnan(there)))
    return gap, both, (gap > atol + rtol * size) | (~both & ~same)


def compare(name, rows, there, source, *, rtol, atol):
    """Print one quantity, point by point, and how far it is off; True where it is outside the tolerance."""
    here = np.array([values for _, values in rows], dtype="float64")
    gap, both, outside = gaps(here, there, rtol, atol)
    print(f"\n{name}: here | {source}")
    for (when, values), expected in zip(rows, there):  # noqa: B905 - Python 3.8 has no strict
        print(f"  {when}: {some(values)} | {some(expected)}")
    held = both.any(axis=1)
    points = gap.sum(axis=1)[held] / both.sum(axis=1)[held]
    mean, std = (points.mean(), points.std()) if len(points) else (np.nan, np.nan)
    spread = f"{std:.5f}" if 1e-3 <= abs(mean) < 1e5 else number(std)
    most = number(gap.max() if gap.size else 0.0)
    print(f"{name} off by {number(mean)} ± {spread} over {len(there)} points, at most {most}")
    if not both.all():
        print(f"{name}: {np.sum(~np.isfinite(here))} values here are NaN or Inf, {np.sum(~np.isfinite(there))} there")
    return bool(outside.any())


# The batches of input 'main', one per row.
X = np.ones((1, 2, 1, 1, 1), dtype='float32')

# Expected: what mxnet 1.9.1@cpu gave on the same bytes, point by point.
SOURCE = 'mxnet 1.9.1@cpu'
EXPECTED = {
    "running_mean": [[0], [0]],
    "running_var": [[1], [1]],
}
TOLERANCE = {"running_mean": dict(rtol=1.3e-06, atol=1e-05), "running_var": dict(rtol=1.3e-06, atol=1e-05)}

found = {name: [] for name in EXPECTED}


def see(name, when, value):
    """Keep one point of a quantity."""
    found[name].append((when, np.array(value, dtype="float64").reshape(-1)))


bn = torch.nn.BatchNorm2d(1, momentum=0.1, eps=1e-05)
net = bn
net.train()


def look(when):
    see("running_mean", when, bn.running_mean.detach().numpy())
    see("running_var", when, bn.running_var.detach().numpy())


look("start")

x = torch.tensor(X[0]).requires_grad_()
y = net(x)
look("step 1")

problems = []
for name, expected in EXPECTED.items():
    if compare(name, found[name], np.array(expected), SOURCE, **TOLERANCE[name]):
        problems.append(name)
print("\nThe problem is there: " + ", ".join(problems) if problems else "\nThe problem is gone.")
sys.exit(1 if problems else 0)
