"""What a script calls the statistics of a user's own layer inside a whole PyTorch model: the worker says it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bncheck.repro.standalone.subject import CannotWriteError
from bncheck.repro.torch_script.own import own_name, reached_inside
from bncheck.worker.torch_side import custom


def subject(state: Any, custom: str | None = None, **recorded: Any) -> Any:
    layer = {"own": True, **({} if state is None else {"state": state})}
    return SimpleNamespace(
        layer="1",
        notes={"cell": {"custom" if custom else "layers": {"1": layer}}},
        trace=SimpleNamespace(get=lambda layer, what: recorded.get(what)),
        target=SimpleNamespace(variant=""),
        custom_source="class Own:\n    momentum = 0.1\n",
        case=SimpleNamespace(network=SimpleNamespace(custom=custom)),
    )


def test_a_script_reads_a_state_by_the_name_that_the_layer_gives_it() -> None:
    """It read running_mean of every layer, and broke off where a layer calls it mu."""
    one = subject({"running_mean": "mu", "running_var": "sd"}, counter=np.ones(2))
    said = {what: own_name(one, what) for what in ("running_mean", "running_var", "gamma", "counter")}
    assert said == {"running_mean": "mu", "running_var": "sd", "gamma": "weight", "counter": "num_batches_tracked"}
    alone = subject({"running_mean": "mu", "gamma": "g"}, "own.py:Own")
    assert (own_name(alone, "running_mean"), own_name(alone, "beta")) == ("mu", "bias")
    assert reached_inside(alone, "bn") == [], "it looked for running_mean in a layer inside"
    assert own_name(subject(None), "running_mean") == "running_mean", "a built-in layer, or a run of before"


@pytest.mark.parametrize("state", [{}, {"running_mean": "stats[0]"}, {"running_mean": "mu; exit()"}])
def test_a_state_without_a_plain_name_gets_no_script(state: dict[str, str]) -> None:
    with pytest.raises(CannotWriteError, match="keeps its statistics in another form, or in another layer inside it"):
        own_name(subject(state, running_mean=np.zeros((2, 3))), "running_mean")


def test_names_are_those_of_tensors_that_are_what_they_stand_for() -> None:
    class Layer:
        mu = sd = weight = SimpleNamespace(detach=None)

    one_over = {"running_mean": "mu", "running_var": "(inverse)", "gamma": "weight"}
    for form, expected in (("", {"running_mean": "mu", "running_var": "sd", "gamma": "weight"}), ("inverse", None)):
        layer = Layer()
        custom.LEARNT[layer] = {"mean": "mu", "var": "sd", "form": form}
        assert custom.names_in(layer) == (expected or one_over)
