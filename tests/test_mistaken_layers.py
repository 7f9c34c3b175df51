"""Own layers whose statistics are kept in ways of their own, averaged amiss, or taken amiss in eval alone: named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from at_the_prompt import here
from checked import checked, python  # noqa: F401 - a fixture
from test_unusual_layers import SCENARIO, about

from bncheck.diagnosis.audit import audit
from bncheck.run_folder.results import Results, read_results

LAYERS = Path(__file__).parent / "mistaken_layers.py"
# Layer → the causes that are named between it and the built-in layer, all of them, and words of a sentence about it.
WANTED = {
    "Held": (set(), ""),
    "Exchanged": (
        {"normaliser-source", "poisoned-state"},
        "normalises with running_mean and running_var exchanged in eval; ",
    ),
    "MinusMean": ({"normaliser-source"}, "normalises with the sign of running_mean reversed in eval; "),
    "Reversed": ({"normaliser-source"}, "with its sign reversed, as (running_mean - x), in eval; "),
    "Times": (
        {"normaliser-source"},
        "by multiplying with the root of running_var, instead of dividing by it, in eval; ",
    ),
    "NotCentred": ({"normaliser-source"}, "normalises without subtracting running_mean in eval; "),
    "NotScaled": ({"normaliser-source"}, "normalises without dividing by the root of running_var in eval; "),
    "EvalEps": ({"eps"}, "adds an eps of 0.02 to the variance in eval, instead of 1e-05; "),
    "TrainEps": ({"eps"}, "adds an eps of 0.02 to the variance in training, instead of 1e-05; "),
    "Began": ({"normaliser-source"}, "with the statistics that it began with, which no training moves, in eval; "),
    "Added": ({"averaging"}, "adds each batch to its running statistics and takes nothing off what they held"),
    "OneLate": ({"averaging"}, "of 1/(k - 1), as if batch k were the one before it (1, 1, 0.5, 0.333), instead of 0.1"),
    "NoLess": ({"averaging"}, "gives each batch another weight (1, 0.5, 0.333, 0.3), instead of 0.1"),
    "Alternating": ({"averaging"}, "gives each batch another weight (0.2, 0.05, 0.2, 0.05), instead of 0.1; "),
    "Around": (
        {"wrong-statistic", "variance-divisor"},
        "averages the squares around running_mean, not around the batch's own mean; ",
    ),
    "Squares": (
        {"wrong-statistic", "normaliser-source"},
        "with running_var minus the square of running_mean as the variance in eval; ",
    ),
    "Together": (set(), ""),
    "TogetherParameter": (set(), ""),
    "TogetherBiased": ({"variance-divisor"}, "averages the variance that is divided by n"),
    "LogDeviation": (set(), ""),
    "LogAveraged": ({"wrong-statistic"}, "averages the logarithm of the variance, which makes a geometric mean of it"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("mistaken")
    for file in (LAYERS, LAYERS.with_name("unusual_layers.py")):
        shutil.copy(file, folder)  # a scenario may name files of its own folder only
    layers = ", ".join(f'"{LAYERS.name}:{name}"' for name in WANTED)
    (folder / "layers.toml").write_text(SCENARIO.format(layers=layers), encoding="utf-8")
    done = here("run", str(folder / "layers.toml"), "--no-probe", "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode == 1, done.stderr
    return read_results(folder / "run")


def test_nothing_differs_silently(results: Results) -> None:
    assert audit(results) == ()


@pytest.mark.parametrize("layer", WANTED)
def test_its_rule_is_named_and_no_other(results: Results, layer: str) -> None:
    causes, words = WANTED[layer]
    found = about(results, layer)
    assert {item.cause for item in found} == causes
    assert not found or any(words in item.title for item in found)


def test_what_an_eval_keeps_for_later_ones_shows_behind_more_training(tmp_path: Path, python: Path) -> None:  # noqa: F811
    answer, _, code = checked(f"{LAYERS}:FirstEval", tmp_path / "run", python=str(python))
    assert code == 1
    assert "with the running statistics as its first eval found them, which training no longer moves" in answer.headline


def test_statistics_kept_as_parameters_or_in_one_tensor_are_found_in_a_model(tmp_path: Path, python: Path) -> None:  # noqa: F811
    answer, results, _ = checked(f"{LAYERS}:build", tmp_path / "run", python=str(python), inputs=("8,3,12,12",))
    found = {(item.layer, item.cause) for item in results.findings if item.kind == "hazard"}
    assert found == {("TogetherBiased.0", "variance-divisor"), ("Exchanged.0", "normaliser-source"),
                     ("Exchanged.0", "poisoned-state"), ("EvalEps.0", "eps")}  # fmt: skip
    marks = {row.layer: row.mark for row in answer.rows}
    assert [marks[f"{name}.0"] for name in ("AsParameters", "Together", "TogetherLast", "TogetherParameter")] == [
        "agrees"
    ] * 4
    said = "By what they do in training, {} of {} were taken for its running mean and variance{}."
    for parts, name, form in (
        ("stats[0] and stats[1]", "Together", ""), ("stats[:, 0] and stats[:, 1]", "TogetherLast", ""),
        ("mu and log_std", "LogDeviation", ", which it holds as the logarithm of a standard deviation"),
    ):  # fmt: skip
        assert said.format(parts, name, form) in answer.notes
