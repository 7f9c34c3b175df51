"""Conventions as an earlier run has fitted them: the same to the last digit, for the same cells and code alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bncheck.convention import Convention, Facet
from bncheck.playing import fitted
from bncheck.playing.fitted import keep_fitted, read_fitted
from bncheck.playing.kept import Shelf

FOUND = {
    "4-D": Convention(
        target="torch",
        path="4-D",
        facets={
            "batch_weight": Facet(value=0.1, residual=1e-300, uncertainty=5e-8, asked=0.1),
            "averaging": Facet(value=None, identifiable=False, standing=("exponential", 0.1), reason="one update"),
            "updates_per_event": Facet(value=1, residual=math.nan),
        },
        framework_word={"batch_weight": "momentum=0.1"},
    ),
    "2-D": Convention(target="torch", path="2-D"),
}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "torch-0123456789abcdef.tar", {}, ())
    keep_fitted(shelf, "cells", "torch", FOUND)
    return shelf


def test_what_was_fitted_comes_back_as_it_was(shelf: Shelf) -> None:
    assert repr(read_fitted(shelf, "cells", "torch")) == repr(FOUND)


def test_other_cells_another_target_and_other_code_are_fitted_anew(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_fitted(shelf, "other cells", "torch") is None
    assert read_fitted(shelf, "cells", "torch==1.1.0") is None
    monkeypatch.setattr(fitted, "code", lambda: "other code")
    assert read_fitted(shelf, "cells", "torch") is None


def test_code_is_told_by_what_decides_what_a_convention_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "diagnosis" / "fit").mkdir(parents=True)
    file = tmp_path / "diagnosis" / "fit" / "rows.py"
    file.write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(fitted, "PACKAGE", tmp_path)
    monkeypatch.setattr(fitted, "SOURCES", ("diagnosis",))
    before = fitted.code.__wrapped__()
    assert before == fitted.code.__wrapped__()
    file.write_text("a = 12\n", encoding="utf-8")
    assert before != fitted.code.__wrapped__()


@pytest.mark.parametrize("damage", [("0.1", "0.2"), ('"4-D"', '"5-D"'), ("}}", "}"), ("1e-300", "[[")])
def test_a_damaged_file_is_not_used(damage: tuple[str, str], shelf: Shelf) -> None:
    path = shelf.path.with_suffix(".json")
    text = path.read_text(encoding="utf-8")
    assert damage[0] in text
    path.write_text(text.replace(*damage), encoding="utf-8")
    assert read_fitted(shelf, "cells", "torch") is None


@pytest.mark.parametrize("text", ["", "\n", "[]", "[" * 100_000])
def test_what_is_no_such_file_is_not_used(text: str, shelf: Shelf) -> None:
    said = fitted.sealed("cells", "torch", text.encode())
    shelf.path.with_suffix(".json").write_text(f"{said}\n{text}", encoding="utf-8")
    assert read_fitted(shelf, "cells", "torch") is None
    shelf.path.with_suffix(".json").unlink()
    assert read_fitted(shelf, "cells", "torch") is None
