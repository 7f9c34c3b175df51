"""The page of conventions: what a run folder holds is text and nothing else, and every way to port is there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import literal_run
import pytest
from at_the_prompt import here
from test_porting import KERAS, TORCH

from bncheck.convention import Facet
from bncheck.diagnosis.porting import advise_paths, changes
from bncheck.report.conventions_page import page, write
from bncheck.run_folder.results import Results, TargetResult

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture
def results() -> Results:
    torch = replace(TORCH, facets={**TORCH.facets, "variance_divisor": Facet("n-1", documented="n", agrees=False)})
    targets = tuple(
        TargetResult(name, name, name, "", "1.2", "cpu", status, reason, "buy one")
        for name, status, reason in (("keras", "ok", ""), ("torch", "ok", ""), ("gpu", "unavailable", EVIL))
    )
    return replace(literal_run.results(), conventions=(KERAS, torch), targets=targets)


def test_the_way_that_was_asked_for_is_open(results: Results) -> None:
    html = page(results, "torch", "keras")
    assert re.findall(r'class="port first" id="(port-\d)">\s*<h3>(.*?)</h3>', html) == [
        ("port-2", "From torch to keras")
    ]
    assert html.count('class="port"') == 1
    assert 'href="#port-1" aria-label="from keras to torch"' in html


def test_what_contradicts_its_documentation_is_marked(results: Results) -> None:
    assert '<span class="bad">documented: n</span>' in page(results)


def test_nothing_of_a_run_folder_is_markup_and_nothing_is_loaded(results: Results) -> None:
    odd = replace(KERAS, target=EVIL, facets={"update_on": Facet(EVIL)}, framework_word={"update_on": EVIL})
    html = page(replace(results, conventions=(*results.conventions, odd), command=EVIL))
    assert "<script" not in html
    assert "<img" not in html
    assert "src=" not in html.replace("src=x", "")
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_a_run_without_conventions_has_a_page_too(results: Results, tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "page.html", replace(results, conventions=()))
    text = path.read_text(encoding="utf-8")
    assert "BatchNorm conventions of 0 targets" in text
    assert 'id="porting"' not in text
    assert "buy one" in text


def test_what_holds_on_some_paths_only_names_them() -> None:
    """tf_keras divides by n - 1 in 4-D, where it is torch's rule already."""
    four = replace(KERAS, path="4-D", facets={**KERAS.facets, "variance_divisor": Facet("n-1")})
    lines = advise_paths({"2-D": KERAS, "4-D": four}, {"2-D": TORCH, "4-D": replace(TORCH, path="4-D")})
    assert lines[0].startswith("momentum: momentum=0.99 in keras")
    assert [line.split(":")[0] for line in lines if line.startswith("on ")] == ["on 2-D", "on 4-D"]
    assert "multiply it by n/(n − 1)" in next(line for line in lines if line.startswith("on 2-D"))


def test_how_many_rules_ask_for_attention() -> None:
    """Weight, eps, divisor, one value per channel."""
    assert changes({"2-D": KERAS}, {"2-D": TORCH}) == 4
    assert changes({"2-D": TORCH}, {"2-D": TORCH}) == 0


def test_initial_gamma_is_part_of_a_convention() -> None:
    old = replace(TORCH, target="torch==1.1.0", facets={**TORCH.facets, "initial_gamma": Facet("uniform")})
    new = replace(TORCH, facets={**TORCH.facets, "initial_gamma": Facet("ones")})
    assert any(line.startswith("initial_gamma: torch==1.1.0 uniform") for line in advise_paths({"": old}, {"": new}))


def test_the_command_writes_it(tmp_path: Path) -> None:
    """Simulated targets: flax to torch, as their documentation has it."""
    words = ("conventions", "--from", "reference[flax]", "--to", "reference[torch]")
    done = here(*words, "--html", str(tmp_path / "page.html"), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "is momentum=0.01 in reference[torch]" in said or "weight of the new batch 0.01" in said
    assert "where training continues multiply it by n/(n − 1)" in said
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h3>From reference[flax] to reference[torch]</h3>" in html
