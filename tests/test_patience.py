"""Limits grow with the slowness that is measured, and only with that."""

from __future__ import annotations

import os

import pytest
from conftest import group_of
from patience import measured, patience, slowness


@pytest.mark.parametrize(
    ("seconds", "times_slower"),
    [(0.15, 1.0), (0.3, 1.0), (0.9, 3.0), (60.0, 12.0)],  # for ten times what takes 0.03 s on a quick machine
)
def test_a_slow_machine_has_longer_limits_and_a_quick_one_no_shorter(seconds: float, times_slower: float) -> None:
    clock = iter([100.0, 100.0 + seconds])
    assert slowness(lambda: next(clock), lambda: None, times=10) == pytest.approx(times_slower)


def test_one_measurement_is_for_all(request: pytest.FixtureRequest) -> None:
    assert measured() == measured() >= 1.0
    limit = request.node.get_closest_marker("timeout")
    assert limit is not None
    assert limit.args == (patience(900),)


@pytest.mark.timeout(70)
def test_a_limit_of_its_own_grows_too(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("timeout").args == (patience(70),)


def test_tests_of_one_module_stay_together(request: pytest.FixtureRequest) -> None:
    assert group_of(request.node) == "test_patience"


def test_tests_that_share_something_are_given_out_together(request: pytest.FixtureRequest) -> None:
    """Where groups do not reach pytest-xdist, what a module shares is played once per process, and nothing says so."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process plays everything")
    assert request.node.nodeid.endswith("@test_patience")
