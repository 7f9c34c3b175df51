"""One thing is checked, in a Python that has PyTorch, which is imported once for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bncheck.commands.progress import Quiet
from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.gate.bar import read_verdict
from bncheck.playing.nursery import CAN_FORK, Nursery
from bncheck.run_folder.answer import Answer, read_answer
from bncheck.run_folder.results import Results
from bncheck.subjects.asked import Asked
from bncheck.subjects.check import check
from bncheck.subjects.thing import parse_thing

TESTS = Path(__file__).parent
MODELS, LAYERS = TESTS / "checked_models.py", TESTS / "third_party_layers.py"
TORCH = find_backends(())["torch"]


@pytest.fixture(scope="module")
def python() -> Path:
    place = prepare([Target("torch")], {"torch": TORCH})[Target("torch")]
    if not isinstance(place, Ready):
        pytest.skip(f"torch: {place.reason}. Remedy: {place.remedy}")
    return place.python


@pytest.fixture(scope="session", autouse=True)
def nursery() -> Iterator[None]:
    """PyTorch is imported once for all that is checked."""
    yield
    while NURSERIES:
        NURSERIES.popitem()[1].close()


NURSERIES: dict[str, Nursery] = {}


def checked(thing: str, out: Path, **more: Any) -> tuple[Answer, Results, int]:
    asked = Asked(thing=parse_thing(thing), out=out, formats=(), command="bncheck check", strict=True, **more)
    shared = more.get("python")
    if shared and CAN_FORK and shared not in NURSERIES:
        NURSERIES[shared] = Nursery(Path(shared), TORCH.module)
    run, results = check(asked, Quiet(), NURSERIES.get(shared or ""))
    answer = read_answer(run)
    assert answer is not None
    return answer, results, read_verdict(run, results).exit_code
