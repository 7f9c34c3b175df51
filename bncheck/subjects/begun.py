"""The import of what a thing needs, begun before bncheck's own: no answer comes before it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bncheck.environments.fork import CAN_FORK
from bncheck.playing.nursery import Nursery
from bncheck.subjects.interpreter import likely_python
from bncheck.subjects.thing import Thing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bncheck.playing.begun import Begun

# Who plays an ONNX file, and how many at once.
PLAYERS, AT_ONCE = ("reference", "onnxruntime"), 2


@contextmanager
def begun(thing: Thing, given: str | None) -> Iterator[Begun]:
    """For a thing that was named; ``given``: ``--python``."""
    nursery = begin_nursery(thing, given)
    from bncheck.playing.begun import Begun, begin

    pythons = (f"{PLAYERS[-1]}={given}",) if given else ()
    found = begin(PLAYERS, pythons, AT_ONCE) if thing.kind == "onnx" else Begun(nursery)
    try:
        yield found
    finally:
        found.close()


def begin_nursery(thing: Thing, given: str | None) -> Nursery | None:
    """A nursery of the Python that the thing seems to live in, which is still to be asked whether it is one. None where
    none is of use: an engine of Keras is chosen before it is imported, and JAX's threads do not survive a fork."""
    if thing.kind != "code" or thing.framework != "torch" or not CAN_FORK:
        return None
    python = likely_python(given, "torch", "torch")
    try:
        return None if python is None else Nursery(python, "torch")
    except (OSError, ValueError):  # whoever asks it says what is wrong
        return None
