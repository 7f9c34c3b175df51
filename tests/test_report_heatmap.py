"""The run in one picture."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import literal_run
import pytest

from bncheck.report.heatmap import LARGEST, SHADES, render
from bncheck.report.standing import MARKS
from bncheck.run_folder.results import Results


def text_of(path: Path) -> str:
    return " ".join(ElementTree.parse(path).getroot().itertext())


def test_every_cell_says_its_word(tmp_path: Path) -> None:
    svg, png = render(literal_run.results(), tmp_path)
    assert (svg.name, png.name) == ("matrix.svg", "matrix.png")
    text = text_of(svg)
    counts = {
        word: len(re.findall(rf"\b{word}\b", text)) for word in ("ran", "agrees", "refused", "unavailable", "NaN")
    }
    assert counts == {"ran": 3, "agrees": 3, "refused": 1, "unavailable": 3, "NaN": 1}
    assert "≠ convention" in text and "running_mean 0.90099" in text
    assert "style=" not in svg.read_text()


def test_nothing_run_nothing_drawn(tmp_path: Path) -> None:
    assert render(Results("0", "", "", (), (), ()), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    base = literal_run.results()
    scenario = base.scenarios[0]
    cases = tuple(replace(scenario.cases[0], name=f"c{n}") for n in range(LARGEST + 5))
    svg, _ = render(replace(base, scenarios=(replace(scenario, cases=cases),), cells=(), findings=()), tmp_path)
    assert "5 more cases are in index.html" in text_of(svg)


@pytest.mark.parametrize("word", SHADES)
def test_ink_is_legible_on_every_shade(word: str) -> None:
    assert word in MARKS
    red, green, blue = (int(SHADES[word][k : k + 2], 16) / 255 for k in (1, 3, 5))
    # Well above 4.5:1 against the near-black ink.
    assert 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.3
