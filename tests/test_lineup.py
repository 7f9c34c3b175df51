"""Who plays, and who must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bncheck.environments.backend_file import find_backends
from bncheck.environments.lineup import line_up, require
from bncheck.environments.targets import parse_targets
from bncheck.errors import TargetsUnavailable, UsageError
from bncheck.scenario import Case, Network, Scenario

BACKENDS = find_backends()
USUAL = ("reference", "torch", "mxnet")
PLAIN = Scenario("s", "", "", (Case("s", "base", "", {}, Network(()), {}, ()),))
WHOLE = replace(PLAIN, cases=(replace(PLAIN.cases[0], network=Network((), model="densenet.py:build")),))


def names(
    *named: str, optional: tuple[str, ...] = (), scenario: Scenario = PLAIN, alone: bool = False
) -> tuple[str, str]:
    """(the targets, those that are required), each as one text."""
    found = line_up(named, optional, (scenario,), USUAL, BACKENDS, alone)
    return " ".join(target.name for target in found.targets), " ".join(found.required)


def test_nobody_named_any_and_none_must_run() -> None:
    assert names() == ("reference torch mxnet", "")
    assert names(optional=("torch@cuda",)) == ("reference torch mxnet torch@cuda", "")


def test_what_is_named_must_run_but_for_what_may_be_missing() -> None:
    assert names("torch", "mxnet") == ("torch mxnet", "torch mxnet")
    assert names("torch@cpu", "mxnet", optional=("torch@cuda",)) == ("torch mxnet torch@cuda", "torch mxnet")
    assert names("torch", "mxnet", optional=("mxnet",)) == ("reference torch mxnet", "torch")


def test_one_target_is_compared_with_the_reference() -> None:
    assert names("torch") == ("reference torch", "torch")
    assert names("reference") == ("reference", "reference")
    assert names("reference[cudnn]") == ("reference[cudnn]", "reference[cudnn]")
    assert names("torch", alone=True) == ("torch", "torch")
    assert names("torch", scenario=WHOLE) == ("torch", "torch")  # the reference cannot play a whole model


def test_what_a_scenario_names_is_asked_for_too() -> None:
    assert names(scenario=replace(PLAIN, targets=("torch", "torch[builtin]"))) == (
        "torch torch[builtin]", "torch torch[builtin]",
    )  # fmt: skip
    own = replace(PLAIN, targets=("torch",))
    assert names(scenario=own) == ("reference torch", "torch")
    assert names("mxnet", scenario=own) == ("reference mxnet", "mxnet")


def test_require_means_a_target_or_all_of_a_backend() -> None:
    targets = parse_targets(("reference", "torch", "torch[functional]"), BACKENDS)
    assert require(("torch",), targets, (), BACKENDS) == ("torch", "torch[functional]")
    assert require(("torch[functional]@cpu",), targets, (), BACKENDS) == ("torch[functional]",)
    with pytest.raises(TargetsUnavailable, match="torch@cuda is required, and not among the targets of this run") as no:
        require(("torch@cuda",), targets, (), BACKENDS)
    assert no.value.exit_code == 3
    with pytest.raises(UsageError, match="torch is named by --require and by --optional"):
        require(("torch",), targets, ("torch",), BACKENDS)
