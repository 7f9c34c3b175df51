"""The framework's import, begun before bncheck's own: nothing of any answer can be had before it has ended."""

from __future__ import annotations

from bncheck.playing.nursery import CAN_FORK, Nursery
from bncheck.subjects.interpreter import likely_python
from bncheck.subjects.thing import Thing


def begin(thing: Thing, given: str | None) -> Nursery | None:
    """A nursery of the Python that the thing seems to live in (``given``: ``--python``), which is still to be asked
    whether it is one. None where none is of use: an engine of Keras is chosen before it is imported, and JAX's threads
    do not survive a fork."""
    if thing.kind != "code" or thing.framework != "torch" or not CAN_FORK:
        return None
    python = likely_python(given, "torch", "torch")
    try:
        return None if python is None else Nursery(python, "torch")
    except (OSError, ValueError):  # whoever asks it says what is wrong
        return None
