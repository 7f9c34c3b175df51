"""Layers inside a whole model of one's own, each judged by its own record: ``bncheck run`` with ``network.model``."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from rule_views import make_case, make_cell, make_trace
from test_checkpoints import python_of
from test_inside import FAULTS, SHAPES

from bncheck.diagnosis.inside import read_alone
from bncheck.diagnosis.lived.innocence import innocence
from bncheck.diagnosis.lived.played import life_in
from bncheck.diagnosis.rules.conventions import bn104_update_count
from bncheck.diagnosis.rules.nonfinite.birthplace import in_words
from bncheck.diagnosis.whole import apart, first_apart, inside, together
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.run_folder.cell import folder_of, read_record
from bncheck.run_folder.results import read_results
from bncheck.scenario import Network
from bncheck.trace import Trace

TESTS = Path(__file__).parent
OPS = ("train_forward", "eval_forward")
BN = {"kind": "BatchNorm2d", "own": False, "calls": 1, "dtype": "float32"}


# ------------------------------------------------------------------------------------------------- literal traces


def played(var_after: float, **more: Any) -> CellView:
    """A batch of mean 2 and variance 3 of 4 values through a layer of momentum 0.5, then one of mean 0 and variance 1
    in eval. The variance over n - 1 is 4."""
    trace = make_trace(
        OPS,
        running_mean=[0.0, 1.0, 1.0], running_var=[1.0, var_after, var_after],
        input_mean=[2.0, 0.0], input_var=[3.0, 1.0],
        used_mean=[2.0, 1.0], used_invstd=[3.0**-0.5, var_after**-0.5], used_residual=[0.0, 0.0],
        momentum=[0.5] * 3, eps=[0.0] * 3, training=[1, 1, 0],
    )  # fmt: skip
    return of_model(trace, **more)


def of_model(trace: Trace, target: str = "torch", **notes: Any) -> CellView:
    case = replace(make_case(OPS), network=Network((), model="net.py:build"))
    return make_cell(case, target, trace, notes={"cell": {"layers": {"bn": BN}, **notes}})


def test_a_layer_of_the_framework_is_held_against_what_it_documents_forward_by_forward() -> None:
    found = inside(played(2.5), ())
    assert found.judged == 1
    assert found.findings == ()
    assert found.remarks == (
        "BatchNorm itself is innocent: its one layer did what PyTorch documents in each of 2 forwards that were "
        "recorded whole.",
    )
    (finding,) = inside(played(2.0), ()).findings
    assert (finding.cause, finding.targets) == ("variance-divisor", ("torch",)), "the variance over n was averaged"
    assert inside(played(7.0), ()).remarks == ("bn: not what PyTorch documents, and no known rule makes it.",)
    of_samples = {"bn": {**BN, "kind": "InstanceNorm2d"}}
    assert inside(played(7.0, layers=of_samples), ()).remarks == (), "which documents another rule"


def test_a_layer_of_which_no_call_was_seen_is_told_beside_the_one_that_was() -> None:
    """Inside nnx.remat() a layer runs as a copy that is put together anew."""
    unseen = {"kind": "BatchNorm", "own": False}
    found = inside(played(2.5, layers={"bn": BN, "block.bn": unseen}), ())
    assert found.remarks == ("block.bn (BatchNorm): no call of it was seen.",), "not: its one layer did"
    rows = [["conv", "Conv", "in", "weights", out] for out in ("one", "other")]
    a, b = (played(2.5, layers={"bn": BN, "block.bn": unseen}, modules={"eval": [row]}) for row in rows)
    assert apart(a, b, same=False) == ""


def test_a_network_of_the_scenarios_own_layers_is_judged_elsewhere() -> None:
    view = played(2.5)
    assert inside(replace(view, case=make_case(OPS)), ()).judged == 0
    assert inside(replace(view, notes={}), ()).judged == 0


def test_a_layer_that_one_forward_calls_twice_is_judged_call_by_call() -> None:
    view = played(2.5)
    assert view.trace is not None
    calls = {
        "event": [0, 0, 1], "n": [4, 4, 4], "input_bad": [0, 0, 0], "output_bad": [0, 0, 0], "training": [1, 1, 0],
        "input_mean": [2, 4, 0], "input_var": [3, 3, 1], "used_mean": [2, 4, 2.5],
        "used_invstd": [3**-0.5, 3**-0.5, 3.25**-0.5], "used_residual": [0, 0, 0],
        "running_mean_before": [0, 1, 2.5], "running_mean_after": [1, 2.5, 2.5],
        "running_var_before": [1, 2.5, 3.25], "running_var_after": [2.5, 3.25, 3.25],
    }  # fmt: skip
    scalars = ("event", "n", "input_bad", "output_bad", "training")
    rows = {
        f"calls:bn:{name}": np.array(values, dtype=np.int64 if name in scalars else np.float64)
        for name, values in calls.items()
    }
    rows = {name: array if array.dtype.kind == "i" else array[:, None] for name, array in rows.items()}
    both = replace(view, trace=replace(view.trace, arrays={**view.trace.arrays, **rows}))
    life = life_in(both)
    assert life is not None
    assert "in each of 3 forwards" in innocence(life)
    damaged = {**rows, "calls:bn:event": np.array([0, 0, 7])}
    fallen_back = life_in(replace(view, trace=replace(view.trace, arrays={**view.trace.arrays, **damaged})))
    assert fallen_back is not None
    assert fallen_back.forwards == 2


def called_twice(*means: float, names: list[str] | None = None) -> CellView:
    """A layer that runs twice in each forward of training, on batches of these means and of variance 1 (over n - 1):
    the statistics move by half of the way to each."""
    events, m, rows = ("train_forward",) * 3, 0.0, []
    for event in range(len(events)):
        for mean in means:
            rows.append((event, mean, m, (m + mean) / 2))
            m = (m + mean) / 2
    trace = make_trace(
        events, running_mean=[0.0, *[rows[len(means) * (k + 1) - 1][3] for k in range(3)]], running_var=[1.0] * 4,
        input_mean=[means[-1]] * 3, input_var=[0.75] * 3, used_mean=[means[-1]] * 3, used_invstd=[0.75**-0.5] * 3,
        used_residual=[0.0] * 3, momentum=[0.5] * 4, eps=[0.0] * 4, training=[1] * 4,
    )  # fmt: skip
    count = len(rows)
    flat = {"event": [row[0] for row in rows], "n": [4] * count, "training": [1] * count}
    flat |= {"input_bad": [0] * count, "output_bad": [0] * count}
    columns = {
        "input_mean": [row[1] for row in rows], "input_var": [0.75] * count,
        "used_mean": [row[1] for row in rows], "used_invstd": [0.75**-0.5] * count, "used_residual": [0.0] * count,
        "running_mean_before": [row[2] for row in rows], "running_mean_after": [row[3] for row in rows],
        "running_var_before": [1.0] * count, "running_var_after": [1.0] * count,
    }  # fmt: skip
    arrays = {f"calls:bn:{name}": np.array(values, dtype=np.int64) for name, values in flat.items()}
    arrays |= {f"calls:bn:{name}": np.array(values)[:, None] for name, values in columns.items()}
    case = replace(make_case(events), network=Network((), model="net.py:build"))
    layers = {"bn": {**BN, **({"names": names} if names else {})}}
    return make_cell(
        case, "torch", replace(trace, arrays={**trace.arrays, **arrays}), notes={"cell": {"layers": layers}}
    )


@pytest.mark.parametrize(
    ("names", "who"),
    [
        (None, "bn runs more than once in a call of the model, on data that are unlike."),
        (["bn", "again"], "bn and again are one layer: within one call of the model it is passed more than once"),
    ],
)
def test_a_layer_at_two_places_is_named_as_check_names_it(names: list[str] | None, who: str) -> None:
    (found,) = inside(called_twice(0.0, 3.0, names=names), ()).findings
    assert (found.cause, found.kind, found.layer, found.targets) == ("shared-state", "hazard", "bn", ("torch",))
    assert found.title.startswith(who)
    assert inside(called_twice(1.0, 1.0), ()).findings == (), "alike, and nothing is known of where it runs"


def test_the_neighbours_of_a_layer_that_runs_twice_tell_where_its_data_do_not() -> None:
    view = called_twice(1.0, 1.0)
    cell = {**view.notes["cell"], "places": {"bn": [["one", "two"], ["two", "head"]]}}
    (found,) = inside(replace(view, notes={"cell": cell}), ()).findings
    assert (found.cause, found.targets, found.scenario) == ("shared-state", ("torch",), view.case.scenario)
    assert found.title.startswith("bn runs twice in a call of the model, behind one and behind two: its running")


def test_a_layer_of_whose_calls_the_last_alone_was_seen_is_not_judged_by_the_steps_of_all() -> None:
    """In Keras the statistics before a forward are those before its first call, and input and output the last one's:
    what that normalised with shows, and how the statistics move does not."""
    view = played(7.0)
    assert view.trace is not None
    ran = {"ran:bn:calls": np.array([2, 1]), "ran:bn:trains": np.array([1, 0])}
    view = replace(view, trace=replace(view.trace, arrays={**view.trace.arrays, **ran}))
    found = inside(view, ())
    assert (found.judged, found.findings) == (1, ())
    assert found.remarks == (
        "BatchNorm itself is innocent: its one layer did what PyTorch documents in each of 2 forwards that were "
        "recorded whole.",
    )
    cell = {**view.notes["cell"], "places": {"bn": [["one", "two"], ["two", "head"]]}}
    (shared,) = inside(replace(view, notes={"cell": cell}), ()).findings
    assert shared.cause == "shared-state", "it is not known to stand still"


def test_a_layer_that_a_training_forward_ran_in_eval_is_said_to_be_kept_there() -> None:
    """Statistics of mean 1 and variance 2.5 stand still while a batch of mean 2 and variance 3 trains the rest."""
    trace = make_trace(
        OPS, running_mean=[1.0] * 3, running_var=[2.5] * 3, input_mean=[2.0, 0.0], input_var=[3.0, 1.0],
        used_mean=[1.0, 1.0], used_invstd=[2.5**-0.5] * 2, used_residual=[0.0, 0.0], momentum=[0.5] * 3,
        eps=[0.0] * 3, training=[1, 1, 0],
    )  # fmt: skip
    ran = {"ran:bn:calls": np.array([1, 1]), "ran:bn:trains": np.array([0, 0])}
    found = inside(of_model(replace(trace, arrays={**trace.arrays, **ran})), ())
    assert found.findings == ()
    assert found.remarks[1:] == (
        "bn runs in eval while the model trains, because the model itself keeps it there (frozen): it normalises with "
        "its running statistics, which stay as they are.",
    )


def test_what_is_said_of_several_targets_alike_is_said_once() -> None:
    one = Finding("BN112", "eps", "hazard", "bn: another eps", ("torch",), "s", "base", layer="bn")
    (found,) = together([one, replace(one, targets=("torch==1.13.1",))])
    assert found.targets == ("torch", "torch==1.13.1")


@pytest.mark.parametrize(
    "row",
    [
        None, [], {"names": "bn"}, {"names": ["bn"], "bases": [], "has": [], "events": ["no such event"]},
        {"names": ["bn"], "bases": [], "has": [], "events": ["train_forward"], "channels": "many", "axis": 1},
        {"names": ["bn"], "bases": [], "has": [], "events": ["eval_forward"], "channels": 1, "axis": 1, "shape": 3},
    ],
)  # fmt: skip
def test_rows_of_an_edited_run_folder_are_left_out(row: object) -> None:
    assert read_alone([row], {}, "net.py") == ()


CONV = ["conv", "Conv2d", "in", "weights", "out"]
NORM = ["bn", "BatchNorm2d", "out", "state", "y"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            [["conv", "Conv2d", "in", "weights", "off"], ["bn", "BatchNorm2d", "off", "state", "z"]],
            "The first module that differs by itself is conv (Conv2d): of the same input and the same weights, to the "
            "bit, it makes other numbers.",
        ),
        ([["conv", "Conv2d", "in", "others", "off"], NORM], "conv (Conv2d): its weights are not the same on both."),
        ([["conv", "Conv2d", "elsewhere", "weights", "off"], NORM], ""),
        ([CONV, ["bn", "BatchNorm2d", "out", "state", "z"]], ""),  # BatchNorm itself
        ([CONV, NORM], ""),
        ("no list", ""),
    ],
)
def test_which_module_is_the_first_to_part_where_batch_norm_is_innocent(other: Any, says: str) -> None:
    one = played(2.5, modules={"train": [CONV, NORM]})
    two = replace(played(2.5, modules={"train": other}), target="torch[autocast]")
    said = apart(one, two, same=False)
    assert said.endswith(says) if says else said == ""
    if says:
        assert said.startswith("BatchNorm is innocent of what torch and torch[autocast] differ in: its one layer does")
    assert apart(one, two, same=True) == ""
    guilty = replace(played(2.0, modules={"train": other}), target="torch[autocast]")
    assert apart(one, guilty, same=False) == ""


def ran(name: str, kind: str, digests: str, takes: list[float], gives: list[float]) -> list[Any]:
    """What own_side/leaves.py says of a module; the last number is the largest of all."""
    return [name, kind, *digests.split(), takes, gives]


STEM = ran("stem", "Conv2D", "in weights out", [0.5, 1.0], [2.0, 4.0])
ODD = ran("odd", "Odd", "out none odd", [2.0, 4.0], [2.0, 4.0])
OTHER_KERNEL = ran("stem", "Conv2D", "in weights out2", [0.5, 1.0], [2.000001, 4.0])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ([STEM, ran("odd", "Odd", "out none odd2", [2.0, 4.0], [2.2, 4.4])],
         ("odd", "Odd", "of the same input and the same weights, to the bit, it makes other numbers")),
        # Another kernel's last digits are not the module that differs.
        ([OTHER_KERNEL, ran("odd", "Odd", "out2 none odd2", [2.000001, 4.0], [2.2, 4.4])],
         ("odd", "Odd", "of an input alike but for rounding it makes other numbers")),
        ([OTHER_KERNEL, ran("odd", "Odd", "out2 none odd2", [2.000001, 4.0], [2.000001, 4.0])], None),
        ([ran("stem", "Conv2D", "in others out2", [0.5, 1.0], [2.2, 4.4])],
         ("stem", "Conv2D", "its weights are not the same on both")),
        ([ran("stem", "Conv2D", "in2 weights out2", [0.7, 1.0], [2.2, 4.4])], None),
        # What makes a small difference a little larger is not where it comes from.
        ([ran("stem", "Conv2D", "in2 weights out2", [0.50009, 1.0], [2.0008, 4.0])], None),
        ([ran("stem", "Conv2D", "in weights nan", [0.5, 1.0], [])], None),
        ([ran("stem", "Conv2D", "in weights out2", [0.5, 1.0], ["1", 2])], None),  # type: ignore[list-item]
    ],
)  # fmt: skip
def test_rounding_of_other_kernels_is_told_from_the_module_that_differs(
    other: list[Any], says: tuple[str, str, str] | None
) -> None:
    one = played(2.5, modules={"eval": [STEM, ODD]})
    assert first_apart(one, replace(played(2.5, modules={"eval": other}), target="keras[torch]")) == says


@pytest.mark.parametrize(
    ("born", "says"),
    [
        (
            {"op": "_to_copy", "dtype": "float16", "largest": 230873.8, "where": "net.py:7", "code": "x = x.half()"},
            "It is born in a cast to float16 (net.py:7: x = x.half()): numbers up to 2.309e+05 go in, and float16 ends "
            "at 65,504.",
        ),
        (
            {"op": "addmm", "dtype": "float16", "largest": 9.0, "module": "fc", "kind": "Linear"},
            "It is born in fc (Linear), which computes in float16: numbers up to 9 go in, and float16 ends at 65,504.",
        ),
        ({"op": "log", "dtype": "float32", "largest": 3.5}, "It is born in the operation log."),
        ({"held": "conv.weight", "largest": None}, "It comes from conv.weight, which holds NaN or Inf itself."),
        ({"from": "input"}, "The batch that goes in holds it already."),
        (
            {"from": "outside", "where": "net.py:7", "code": "x = torch.from_numpy(x)"},
            "No operation of PyTorch makes it (net.py:7: x = torch.from_numpy(x)): it comes out of other code, such as "
            "NumPy's, or was there before.",
        ),
        ({}, ""),
        (None, ""),
    ],
)
def test_where_the_first_nan_was_born(born: object, says: str) -> None:
    assert in_words(born) == says


# ------------------------------------------------------------------------------------------------------- real models

MODELS = """
title = "Models of one's own"
why = "Their layers go by names, forms and ways of their own."
targets = ["torch"]
[network]
model = "inside_models.py:build"
[input]
shape = [8, 3, 6, 6]
[program]
events = ["train_forward", "backward"]
repeat = 2
then = ["eval_forward"]
[matrix]
"network.arguments.kind" = ["zoo", "cast", "autocast", "weight", "log", "numpy", "mask", "half"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inside")
    shutil.copy(TESTS / "inside_models.py", folder)
    (folder / "models.toml").write_text(MODELS, encoding="utf-8")
    done = here("run", str(folder / "models.toml"), "--no-probe", "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text())
    return found


def cell_of(run: dict[str, Any], case: str) -> dict[str, Any]:
    (found,) = [cell for cell in run["cells"] if cell["case"] == case]
    assert found["outcome"] == "ok", found["error"]
    return found  # type: ignore[no-any-return]


@pytest.mark.process
def test_layers_are_found_by_what_they_do_and_judged_one_by_one(run: dict[str, Any]) -> None:
    cell = cell_of(run, "zoo")
    found = {
        (item["layer"], item["cause"]) for item in run["findings"] if item["case"] == "zoo" and item["kind"] == "hazard"
    }
    assert found == {
        ("rest.DeviationAveraged.1", "wrong-statistic"), ("rest.DeviationAveraged.1", "normaliser-source"),
        ("rest.Biased.1", "variance-divisor"), ("rest.Last.1", "variance-divisor"), ("rest.OnePlus.1", "affine"),
        ("rest.Standing.1", "never-updated"), ("rest.MeanAlone.1", "never-updated"),
        ("rest.TwoWeights.1", "batch-weight"), ("rest.InverseBiased.1", "variance-divisor"),
        ("rest.Exchanged.1", "wrong-statistic"), ("twice", "shared-state"),
    }  # fmt: skip
    assert cell["judged"] == 18, "two built-in layers, one called twice, and sixteen of nineteen others"
    said = cell["remarks"]
    assert "both built-in layers did what PyTorch documents" in said[0]
    taken = "By what they do in training, mu and sigma2 of {} were taken for its running mean and variance"
    for name, form in (
        ("Mu", ""), ("OnePlus", ", which it holds as a logarithm"),
        ("Deviation", ", which it holds as a standard deviation"),
        ("Inverse", ", which it holds as one over a standard deviation"),
        ("Logarithm", ", which it holds as a logarithm"), ("Biased", ""), ("Precise", ""),
    ):  # fmt: skip
        assert f"{taken.format(name)}{form}." in said
    assert any("first and pos_mean of Averages were taken" in each for each in said)
    probed = "By what they do to its output in eval, mu and sigma2 of {} were taken for its running mean and variance"
    assert f"{probed.format('Standing')}." in said
    assert f"{probed.format('MeanAlone')}, which it holds as a standard deviation." in said
    assert any(
        "FusedWithConv) keeps mu and sigma2, which moved in training, but towards no mean and variance of its input"
        in each
        for each in said
    )
    assert any(
        "it has a gamma of the shape (4, 6, 6), and not a number for each of its 4 channels" in each for each in said
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("cast", "It is born in a cast to float16 (inside_models.py:"),
        ("autocast", "It is born in conv (Conv2d), which computes in float16 (inside_models.py:"),
        ("weight", "It comes from conv.weight, which holds NaN or Inf itself."),
        ("log", "It is born in the operation log (inside_models.py:"),
        ("numpy", "torch.from_numpy(np.log(x.detach().numpy()))): it comes out of other code, such as NumPy's,"),
        ("mask", "scores.softmax(3)"),  # of rows that are masked throughout, and not the mask
    ],
)
def test_a_nan_in_front_of_batch_norm_has_its_birthplace(run: dict[str, Any], way: str, says: str) -> None:
    cell_of(run, way)
    (found,) = [item for item in run["findings"] if item["case"] == way and item["cause"] == "poisoned-state"]
    assert "it arises in front of that layer, not in BatchNorm" in found["title"]
    assert says in found["title"]


@pytest.mark.process
def test_a_model_in_half_precision_is_played_as_it_is_made(run: dict[str, Any]) -> None:
    cell = cell_of(run, "half")
    (found,) = [item for item in run["findings"] if item["case"] == "half"]
    assert found["title"].endswith(" keeps running_mean of 1 in float16.")
    assert cell["judged"] == 1
    (said,) = cell["remarks"]
    assert "its one layer did what PyTorch documents" in said, (
        "what an in-place ReLU makes of its output is not its own"
    )


@pytest.mark.process
def test_a_model_of_which_nothing_is_judged_ends_with_3_and_says_why_layer_by_layer(tmp_path: Path) -> None:
    shutil.copy(TESTS / "inside_models.py", tmp_path)
    text = MODELS.partition("[matrix]")[0].replace("inside_models.py:build", "inside_models.py:unjudged")
    kinds = '[matrix]\n"network.arguments.kind" = ["frozen", "learning", "none"]\n'
    (tmp_path / "models.toml").write_text(text + kinds, encoding="utf-8")
    done = here("run", str(tmp_path / "models.toml"), "--no-probe", "--no-report", "-q", "--out", str(tmp_path / "run"))
    assert done.returncode == 3, done.stderr
    assert " ".join(done.stderr.split()).endswith(
        "Nothing was compared: torch is the only target that ran, and the reference cannot play a whole model; nothing "
        "in it was judged by itself: layers 1 and 2 (FrozenBN): its name says that it is something else than PyTorch's "
        "BatchNorm; layer 1 (Learning): it learns mixing, which is not known to be its gamma or beta; no layer in it "
        "is known to normalise by running statistics"
    )


@pytest.mark.process
def test_check_says_where_the_first_nan_is_born(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from inside_models import build\n\ndef cast():\n    return build('cast')\n", encoding="utf-8"
    )
    shutil.copy(TESTS / "inside_models.py", tmp_path)
    done = here(
        "check", f"{tmp_path / 'net.py'}:cast", "--input", "8,3,6,6", "--python", str(python_of("torch")),
        "--no-report", "-q", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    notes = json.loads((tmp_path / "run" / "answer.json").read_text())["notes"]
    assert any(note.startswith("Of the first NaN or Inf: it is born in a cast to float16") for note in notes)


def zoo_of(framework: str, folder: Path) -> str:
    """A scenario of the zoo of that framework's layers, with its file beside it."""
    python_of(framework)
    shutil.copy(TESTS / f"{framework}_layers.py", folder)
    axis = "channel_axis = -1" if framework in ("flax", "keras") else ""
    text = MODELS.partition("[matrix]")[0].replace("inside_models.py:build", f"{framework}_layers.py:zoo")
    text = text.replace("[8, 3, 6, 6]", f"[{SHAPES[framework]}]\n{axis}").replace('"torch"', f'"{framework}"')
    (folder / "zoo.toml").write_text(text, encoding="utf-8")
    return str(folder / "zoo.toml")


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "paddle", "flax", "mxnet", "keras"])
def test_each_fault_of_a_layer_inside_a_model_is_named_in_run_as_in_check(tmp_path: Path, framework: str) -> None:
    zoo = zoo_of(framework, tmp_path)
    done = here("run", zoo, "--no-report", "-q", "--out", str(tmp_path / "run"))
    assert done.returncode == 1, done.stderr
    found: dict[str, set[str]] = {}
    for item in json.loads((tmp_path / "run" / "run.json").read_text())["findings"]:
        found.setdefault(item["layer"], set()).add(item["cause"])
    found.pop("Standardised", None)
    assert found == FAULTS


ODD_MODELS = {
    "keras": (
        ("keras", "keras[torch]"), "8, 6, 6, 3", -1,
        """
import keras

class Odd(keras.layers.Layer):
    def call(self, x):
        return x * (1.05 if keras.backend.backend() == "torch" else 1.0)

def net():
    x = given = keras.Input((6, 6, 3))
    for layer in (keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), Odd(name="odd"),
                  keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)):
        x = layer(x)
    return keras.Model(given, x)
""",
    ),
    "mxnet": (
        ("mxnet==1.9.1", "mxnet==1.7.0.post2"), "8, 3, 6, 6", 1,
        """
import mxnet as mx
from mxnet.gluon import nn

class Odd(mx.gluon.Block):
    def forward(self, x):
        return x * (1.05 if mx.__version__ < "1.8" else 1.0)

def net():
    found = nn.Sequential()
    found.add(nn.Conv2D(4, 3), nn.BatchNorm(), Odd(), nn.Dense(3))
    return found
""",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("framework", ODD_MODELS)
def test_the_first_module_to_part_is_named_outside_pytorch(tmp_path: Path, framework: str) -> None:
    targets, shape, axis, code = ODD_MODELS[framework]
    (tmp_path / "odd.py").write_text(code, encoding="utf-8")
    text = (
        MODELS.partition("[matrix]")[0]
        .replace("inside_models.py:build", "odd.py:net")
        .replace('targets = ["torch"]', f"targets = {json.dumps(targets)}")
    )
    text = text.replace("[8, 3, 6, 6]", f"[{shape}]\nchannel_axis = {axis}")
    (tmp_path / "odd.toml").write_text(text, encoding="utf-8")
    here("run", str(tmp_path / "odd.toml"), "--no-probe", "--no-report", "-q", "--out", str(tmp_path / "run"))
    cells = json.loads((tmp_path / "run" / "run.json").read_text())["cells"]
    (said,) = [each for cell in cells for each in cell["remarks"] if "The first module" in each]
    name = "odd" if framework == "keras" else "2"
    assert f"The first module that differs by itself is {name} (Odd): of " in said


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["paddle", "flax", "mxnet", "keras"])
def test_each_module_of_a_model_says_what_it_got_held_and_gave(tmp_path: Path, framework: str) -> None:
    zoo = zoo_of(framework, tmp_path)
    here("run", zoo, "--no-probe", "--no-report", "-q", "--out", str(tmp_path / "run"))
    results = read_results(tmp_path / "run")
    (cell,) = results.cells
    record = read_record(folder_of(tmp_path / "run", cell))
    assert record is not None
    rows = record.notes["cell"]["modules"]["eval"]
    assert rows[0][1] in ("Conv2D", "Conv")
    assert rows[-1][1] in ("Dense", "Linear")
    assert "MyBN" in {row[1] for row in rows}
    assert all(len(row) == 7 and row[5] and row[6] for row in rows)


BACKWARDS = ("train_forward", "backward") * 2


def recomputed(rows: list[float], own: bool = False, documents: str = "forward") -> list[Finding]:
    """Batches of mean 8 and 4, weight 1/2."""
    trace = make_trace(BACKWARDS, running_mean=rows, running_var=[1.0] * 5)
    case = replace(make_case(BACKWARDS), network=Network((), model="net.py:build"))
    told = {"cell": {"layers": {"bn": {**BN, "own": own}}}}
    cell = make_cell(case, "torch", trace, notes=told, documented={"update_on": documents})
    return [item for item in bn104_update_count.check_cell(cell) if "backwards" in item.title]


def test_statistics_that_move_in_backwards_too_are_those_of_a_forward_inside_them() -> None:
    (found,) = recomputed([0, 4, 6, 5, 4.5])
    assert (found.cause, found.kind, found.layer, found.event) == ("update-count", "hazard", "bn", 1)
    assert found.title == (
        "torch: the running statistics of bn move in 2 of 2 backwards, too: a forward runs inside them once more, as "
        "under gradient checkpointing. It takes the same batch in again: a weight of 0.5 acts as 0.75."
    )
    (other,) = recomputed([0, 4, 5, 4.5, 3])
    assert other.title.endswith("as under gradient checkpointing."), "another batch goes in"
    assert recomputed([0, 4, 4, 4, 4]) == []
    assert recomputed([0, 4, 6, 6, 6]) == [], "once may be anything"
    assert recomputed([0, 4, 6, 5, 4.5], own=True) == [], "a layer of the user's may be made so"
    assert recomputed([0, 4, 6, 5, 4.5], documents="backward") == [], "as MXNet's do"
