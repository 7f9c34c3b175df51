"""Measure conventions from traces. ``measure`` for a target's probes, ``settle`` for one case."""

from bncheck.diagnosis.fit.measure import Observation, measure, settle

__all__ = ["Observation", "measure", "settle"]
