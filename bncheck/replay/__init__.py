"""Replay a case under a convention, and say which differing rules explain a drift."""

from bncheck.replay.conduct import replay

__all__ = ["replay"]
