"""What is not finite, BN3xx: an input that fires each rule, and a near neighbour that must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rule_views import make_case, make_cell, make_trace, rule

from bncheck.diagnosis.rules import load_rules

F = "train_forward"
E = "eval_forward"


def poisoned(n: int, bad: int, var: Any = np.nan, mean: Any = 0.0, batch: float = 1.0) -> Any:
    """A training forward that leaves running_var as ``var``, then an eval of clean data."""
    arrays = {
        "input_mean": [0.0, 0.0],
        "input_var": [batch, 1.0],
        "n": [n, 4],
        "input_bad": [bad, 0],
        "output_bad": [0, 4],
    }
    return make_trace((F, E), running_mean=[0, mean, mean], running_var=[1, var, var], **arrays)


@pytest.mark.parametrize(
    ("cause", "trace"),
    [
        ("single-value", poisoned(1, 0)),
        ("empty-batch", poisoned(0, 0)),
        ("poisoned-state", poisoned(4, 1)),
        ("overflow", poisoned(4, 0, var=np.inf, batch=1e39)),
    ],
)
def test_a_state_that_stays_non_finite_has_one_cause(cause: str, trace: Any):
    cell = make_cell(make_case((F, E)), "torch", trace)
    findings = [f for item in load_rules() if item.check_cell for f in item.check_cell(cell)]
    assert [f.cause for f in findings] == [cause]
    assert "the one later forward on clean data is not finite" in findings[0].title


def test_nan_that_heals_is_not_remembered_and_a_missing_state_is_no_nan():
    case = make_case((F, E))
    heals = make_trace((F, E), running_mean=[0, np.nan, 1], running_var=[1, 1, 1], input_bad=[1, 0], n=[4, 4])
    absent = make_trace((F, E), running_mean=[np.nan] * 3, running_var=[np.nan] * 3, n=[4, 4])
    for trace in (heals, absent):
        assert not list(rule("poisoned-state").check_cell(make_cell(case, "torch", trace)))


def test_overflow_is_a_defect_only_where_the_variance_fits_the_buffer():
    case = make_case((F, E))
    (fits,) = rule("overflow").check_cell(make_cell(case, "torch", poisoned(4, 0, var=np.inf, batch=1.5e38)))
    (over,) = rule("overflow").check_cell(make_cell(case, "torch", poisoned(4, 0, var=np.inf, batch=1e39)))
    assert (fits.kind, fits.departs_from, over.kind) == ("defect", "arithmetic", "hazard")
