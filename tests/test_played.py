"""Findings that only playing a model shows, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bncheck.life import LayerLife
from bncheck.subjects.played import batch_dependence, misfit, nonfinite, unlike_data


def played(**more: Any) -> Mapping[str, Any]:
    return {"layers": [{"name": "bn", "kind": "BatchNorm2d"}, {"name": "bn2", "kind": "BatchNorm2d"}], **more}


def loaded(missing: list[str], unexpected: list[str], misshaped: dict[str, Any]) -> Mapping[str, Any]:
    counts = [len(missing), len(unexpected), len(misshaped)]
    return {"missing": missing, "unexpected": unexpected, "misshaped": misshaped, "counts": counts}


def test_counters_alone_that_a_file_lacks_are_nothing() -> None:
    old = loaded(["bn.num_batches_tracked"], [], {})
    assert not list(misfit(played(weights=old), "net"))
    (found,) = misfit(played(weights=loaded([], ["head.weight"], {})), "net")
    assert (found.code, found.cause, found.kind) == ("BN115", "state-mismatch", "hazard")
    (found,) = misfit(played(weights=loaded(["bn2.running_var"], [], {})), "net")
    assert (found.kind, found.layer, found.quantity) == ("defect", "bn2", "running_var")


def batches(**gaps: list[float]) -> Mapping[str, Any]:
    return {"sizes": [1, 3], "samples": 8, "layers": gaps}


def test_the_first_layer_that_looks_at_the_batch_is_named_and_rounding_is_not() -> None:
    assert not list(batch_dependence(played(batches=batches(bn=[1e-7, 2e-7], bn2=[3e-7, 5e-5])), "net", []))
    (found,) = batch_dependence(played(batches=batches(bn=[1e-7, 0.4], bn2=[0.4, 0.5])), "net", [])
    assert (found.code, found.cause, found.layer) == ("BN111", "normaliser-source", "bn")
    for cause in ("mode-leak", "normaliser-source", "unregistered"):
        said = replace(found, cause=cause, layer="" if cause == "unregistered" else "bn")
        assert not list(batch_dependence(played(batches=batches(bn=[1e-7, 0.4])), "net", [said])), f"{cause} says why"
    (found,) = batch_dependence(
        played(batches={**batches(bn=[0, 0]), "layers": {"bn": [0, 0], "": [0.3, 0.3]}}), "net", []
    )
    assert found.layer == "" and "In eval something other than its normalising layers" in found.title


def lived(mean: float, var: float, given: float, spread: float) -> LayerLife:
    """One forward in eval of a layer of two channels that are alike."""
    arrays = {"mean_before": mean, "var_before": var, "input_mean": given, "input_var": spread}
    moments = {name: np.full((1, 2), value) for name, value in arrays.items()}
    moments |= {"training": np.array([0]), "eps": np.array([0.0])}
    return LayerLife(name="bn", kind="BatchNorm2d", channels=2, moments=moments)


def test_data_of_another_scale_are_named_and_like_data_are_not() -> None:
    (found,) = unlike_data([lived(0.5, 0.25, 127.5, 16256.0)], "net")
    assert (found.code, found.cause, found.layer) == ("BN412", "data-shift", "bn")
    assert "means lie 254 standard deviations" in found.title and "are 6.5e+04 times the running ones" in found.title
    assert not list(unlike_data([lived(0.5, 0.25, 0.9, 0.5)], "net"))
    assert not list(unlike_data([lived(0.0, 1.0, 127.5, 16256.0)], "net")), "at its start"
    later = [lived(0.5, 0.25, 0.5, 0.25), lived(0.5, 0.25, 127.5, 16256.0)]
    assert not list(unlike_data(later, "net")), "the first layer tells"


def test_nan_in_the_output_is_said_unless_a_layer_explains_it() -> None:
    said = played(output=[{"name": "logits", "shape": [8, 10], "bad": 80}])
    (found,) = nonfinite(said, "net", ())
    assert (found.code, found.cause) == ("BN301", "poisoned-state") and "80 of 80 values of logits" in found.title
    assert not list(nonfinite(said, "net", (found,)))
    assert not list(nonfinite(played(output=[{"name": "y", "shape": [2], "bad": 0}]), "net", ()))
