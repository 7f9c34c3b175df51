"""One thing is checked, in a Python that has PyTorch, as the command does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nurseries import nursery_of

from bncheck.commands.progress import Quiet
from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.gate.bar import read_verdict
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


def checked(thing: str, out: Path, **more: Any) -> tuple[Answer, Results, int]:
    asked = Asked(thing=parse_thing(thing), out=out, formats=(), command="bncheck check", strict=True, **more)
    given = more.get("python")
    run, results = check(asked, Quiet(), nursery_of(Path(given)) if given else None)
    answer = read_answer(run)
    assert answer is not None
    return answer, results, read_verdict(run, results).exit_code
