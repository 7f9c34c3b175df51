# /// script
# requires-python = "==3.11.*"
# dependencies = [
#   "mxnet==1.9.1",
#   "numpy==1.23.5",
# ]
# ///
# BN103 update-phase: mxnet 1.9.1 moves its running statistics in backward, reference and torch 2.13.0 in
# forward.
#
# Case all-ones--forward on mxnet 1.9.1@cpu; written by bncheck 0.1.0. The expected values are those of
# reference@cpu on the same bytes: it exits 1 while any value is outside the tolerance, or one side refuses
# what the other carries out, else 0.
# Reported: running_mean off by 0.05000 ± 0.05000 over 2 points.
# Reported: running_var off by 0.05000 ± 0.05000 over 2 points.

import sys

import numpy as np
import mxnet as mx


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

# Expected: what reference@cpu gave on the same bytes, point by point.
SOURCE = 'reference@cpu'
EXPECTED = {
    "running_mean": [[0], [0.1]],
    "running_var": [[1], [0.9]],
}
TOLERANCE = {"running_mean": dict(rtol=1.3e-06, atol=1e-05), "running_var": dict(rtol=1.3e-06, atol=1e-05)}

found = {name: [] for name in EXPECTED}


def see(name, when, value):
    """Keep one point of a quantity."""
    found[name].append((when, np.array(value, dtype="float64").reshape(-1)))


bn = mx.gluon.nn.BatchNorm(momentum=0.9, epsilon=1e-05, in_channels=1)
bn.initialize()
net = bn


def look(when):
    mx.nd.waitall()
    see("running_mean", when, bn.running_mean.data().asnumpy())
    see("running_var", when, bn.running_var.data().asnumpy())


look("start")

x = mx.nd.array(X[0])
x.attach_grad()
with mx.autograd.record():
    y = net(x)
look("step 1")

problems = []
for name, expected in EXPECTED.items():
    if compare(name, found[name], np.array(expected), SOURCE, **TOLERANCE[name]):
        problems.append(name)
print("\nThe problem is there: " + ", ".join(problems) if problems else "\nThe problem is gone.")
sys.exit(1 if problems else 0)
