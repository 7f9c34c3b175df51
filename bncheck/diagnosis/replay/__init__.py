"""Replay a case under a convention, size its rounding, and say which differing rules explain a drift."""

from bncheck.diagnosis.replay.attribution import attribute
from bncheck.diagnosis.replay.conduct import replay
from bncheck.diagnosis.replay.rounding import rounding_bound

__all__ = ["attribute", "replay", "rounding_bound"]
