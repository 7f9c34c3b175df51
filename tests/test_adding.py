"""The page "How to add a framework": its template is a backend file that bncheck reads and runs as it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from contract_cells import Played, expected, play

from bncheck.convention import FACETS
from bncheck.environments.backend_file import find_backends, read_backend
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target

PAGE = Path(__file__).parents[1] / "bncheck" / "worker" / "ADDING.md"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "mine.py"
    path.write_text(blocks[0], encoding="utf-8")
    return path


def test_the_template_is_a_backend_file_of_python_3_7(template: Path) -> None:
    ast.parse(template.read_text(encoding="utf-8"), feature_version=(3, 7))
    backend = read_backend(template)
    assert (backend.name, backend.title, backend.module) == ("mine", "My framework", "torch")
    assert backend.row_for(backend.default_version) is not None
    assert set(backend.documented[0]["facets"]) <= set(FACETS)


def test_the_page_names_only_facets_that_there_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", text[text.index("Facets you can give") : text.index("A difference between")])
    assert set(named) <= {*FACETS, "DOCUMENTED"}


def test_the_template_runs(template: Path, tmp_path: Path) -> None:
    target = Target("mine")
    answer = prepare([target], find_backends([template]))[target]
    if not isinstance(answer, Ready):
        pytest.skip(f"the template's framework is not here: {answer.reason}")
    play(answer.python, template, "", tmp_path)
    played = Played(tmp_path)
    for cell in ("2-D", "4-D", "several"):
        for event, output in expected(cell)[0].items():
            np.testing.assert_allclose(played.trace(cell)[f"output/{event}"], output, rtol=1e-4, atol=1e-4)
