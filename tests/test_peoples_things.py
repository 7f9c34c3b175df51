"""What newcomers brought, each as they had it: what was said of it that was not true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here

from bncheck.checkpoints.recognise import Checkpoint, read_checkpoint
from bncheck.commands.progress import Log
from bncheck.diagnosis.alone import judge_holding
from bncheck.diagnosis.anatomy.groups import Group, subsets
from bncheck.diagnosis.anatomy.normaliser import weights
from bncheck.diagnosis.held.folding import Fold
from bncheck.diagnosis.kept import kept_in_eval
from bncheck.diagnosis.shared import at_several_places
from bncheck.finding import Finding
from bncheck.gate.bar import Judged, Verdict
from bncheck.gate.charge import Charge
from bncheck.life import Happening, Held, Holding, LayerLife, Life, Span, Where
from bncheck.playing.progress import Progress
from bncheck.report.layers import arrange
from bncheck.report.summary import ruling
from bncheck.repro.torch_script.own import body_of
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.results import CellResult, Results
from bncheck.subjects.exported import as_computed, followed, how_played
from bncheck.subjects.folded import FoldedLayer, Weights
from bncheck.subjects.layer import LARGE_CASE, USUAL_CASE, Looked, in_words, of_many, one_for_all, scenario_text
from bncheck.subjects.onnx import biased
from bncheck.subjects.played import set_by_forward
from bncheck.subjects.played_file import Played
from bncheck.subjects.refolded import right_weights
from bncheck.subjects.two_files import side_by_side
from bncheck.worker.onnx_side.file import Graph, Node


def finding(cause: str = "stale-state", kind: Any = "hazard", **more: Any) -> Finding:
    given: dict[str, Any] = {
        "code": "BN402", "title": "b holds other statistics.", "targets": ("a", "b"), "scenario": "diff", "case": "c",
    }  # fmt: skip
    return Finding(cause=cause, kind=kind, **{**given, **more})


def held(layer: str = "bn", **more: Any) -> Held:
    given: dict[str, Any] = {
        "running_mean": np.full(8, 0.01), "running_var": np.full(8, 0.99), "counter": 20.0,
        "gamma": np.linspace(0.9, 1.1, 8), "beta": np.linspace(-0.1, 0.1, 8), "momentum": 0.001, "eps": 1e-5,
    }  # fmt: skip
    return Held(layer=layer, **{**given, **more})


def model(*layers: Held, **more: Any) -> Holding:
    return Holding(name="net", framework="torch", format="model", layers=layers, **more)


# ------------------------------------------------------------------------------------------------ a layer apart


def test_values_that_are_not_finite_are_no_mixture_and_no_traceback() -> None:
    rows = np.ones((9, 3))
    assert weights(rows, np.full(9, np.nan)) is None
    assert weights(np.full((9, 3), np.inf), np.ones(9)) is None


def test_every_kind_of_choice_is_tried_before_the_hundredth_of_one() -> None:
    """The first three of six positions were the 409th choice in a batch of 200, and 218 are tried."""
    found = list(subsets(np.ones((200, 4, 6))))
    assert found.index(Group(taken="first positions", keep=3)) < 8
    assert found.index(Group(taken="first", keep=100)) < 8
    assert len(set(found)) == len(found)


def test_the_rule_of_an_own_layer_is_said_in_the_words_of_its_buffers() -> None:
    layer = Looked("Mine", (8, 4), 4, (), {}, {}, True)
    title = ("Mine in torch 2.13.0 divides the variance that is averaged by n, torch[builtin] 2.13.0 by n-1.").replace(
        "torch[builtin] 2.13.0 by", "PyTorch's by"
    )
    said = "Mine averages the variance over n into running_var, PyTorch's the one over n-1."
    assert in_words(title, layer) == said


@pytest.mark.parametrize(
    ("cause", "elsewhere", "said"),
    [
        ("value-count", None, True),
        ("value-count", USUAL_CASE, False),
        ("graph-retention", "two-forwards-per-backward", False),  # of the few samples, too
        ("unexplained", None, False),  # in the few it has a name
    ],
)
def test_what_a_large_batch_alone_shows_is_said_to_be_so(cause: str, elsewhere: str | None, said: bool) -> None:
    large = finding(cause, "defect", case=LARGE_CASE, scenario="mine")
    there = (finding(cause, "defect", case=elsewhere, scenario="mine"),) if elsewhere else ()
    cells = tuple(CellResult("mine", case, "torch", "t", "ok") for case in (USUAL_CASE, LARGE_CASE))
    results = Results(
        version="", command="", created="", targets=(), scenarios=(), cells=cells, findings=(large, *there)
    )
    title = of_many(large, Looked("Mine", (8, 4), 4, (), {}, {}, True), results).title
    assert title.endswith("That is so in a batch of 200 samples, not in one of 8.") is said


def test_one_gamma_for_all_channels_is_given_one_and_said_to_be_one() -> None:
    layer = Looked("Mine", (8, 4), 4, (), {}, {}, True, ("gamma", "beta"))
    text = scenario_text(layer, {}, "", False)
    assert '"gamma" = [1.5, 1.5, 1.5, 1.5]' in text or "gamma = [1.5, 1.5, 1.5, 1.5]" in text
    lost = finding("gradient", "defect", layer="bn", quantity="grad_gamma", accounts=(("bn", "grad_beta"),))
    assert (
        one_for_all(lost, layer).title == "Mine holds one gamma and one beta for all channels, PyTorch's one for each."
    )
    assert one_for_all(lost, Looked("Mine", (8, 4), 4, (), {}, {}, True)) is lost


def test_a_kit_takes_names_from_the_class_under_test_and_its_bases() -> None:
    source = (
        "class A:\n    def f(self):\n        self.gamma = 1\n\nclass B:\n    def f(self):\n        self.weight = 1\n"
    )
    assert "weight" not in body_of(source, "A") and "gamma" in body_of(source, "A")
    assert "gamma" in body_of(source + "\nclass C(A):\n    pass\n", "C")


# ---------------------------------------------------------------------------------------------------- a model


def test_statistics_that_lag_are_told_by_count_and_momentum() -> None:
    (found,) = judge_holding(model(held()))
    assert (found.cause, found.kind) == ("few-updates", "hazard")
    assert "after 20 updates of momentum 0.001 the running statistics of bn still hold 98.0 %" in found.title
    assert not judge_holding(model(held(counter=5000.0))), "0.7 % of the start are left"
    loaded = held(running_var=np.linspace(0.2, 3.0, 8))
    assert not judge_holding(model(loaded)), "a variance below what is left of 1 did not start from 1"
    assert not judge_holding(model(held(beta=np.zeros(8), gamma=np.ones(8)))), "nothing was trained yet"


def test_a_second_name_of_a_layer_is_no_layer_that_cannot_be_one() -> None:
    alias = {"n2.running_mean": (8,), "n2.running_var": (8,), "n2.weight": (8,), "n2.bias": (8,)}
    assert not judge_holding(model(held("n1", momentum=0.1, counter=900.0), others=alias))
    odd = {"n2.running_mean": (8,), "n2.running_var": (4,), "n2.weight": (8,)}
    (found,) = judge_holding(model(held("n1", momentum=0.1, counter=900.0), others=odd))
    assert found.cause == "state-mismatch" and "running_mean of 8 and running_var of 4" in found.title


def lived(*names: str, training: bool = True, calls: tuple[int, ...] = (0,), happenings: Any = ()) -> Life:
    span = Span(0, 0, 0, 0, len(calls), training, gradients=False, moved=len(calls) if training else 0)
    layer = LayerLife(names[0], "BatchNorm2d", 8, {"call": np.array(calls)}, (span,), names=names)
    return Life("net.py", "torch", "2.13.0", (layer,), tuple(happenings))


def test_a_forward_that_calls_train_is_named_with_its_line() -> None:
    line = Where("/x/net.py", 39, "forward")
    told = [
        Happening("phase", 0, 0, detail={"name": "eval"}),
        Happening("eval", 0, 0, ("n1",)),
        Happening("train", 0, 0, ("n1",), line),
    ]
    (found,) = set_by_forward(lived("n1", happenings=told), "net")
    assert found.cause == "mode-leak" and found.title.startswith("net.py:39 puts n1 into training mode while")
    assert not list(set_by_forward(lived("n1", training=False, happenings=told), "net"))
    training = [Happening("phase", 0, 0, detail={"name": "training"}), told[2]]
    assert not list(set_by_forward(lived("n1", happenings=training), "net")), "train() belongs in training"


def test_one_layer_at_two_places_of_a_network_is_named_and_siamese_branches_are_not() -> None:
    (found,) = at_two_places(lived("n1", "n2", calls=(0, 0, 1, 1)), [])
    assert (found.code, found.cause) == ("BN408", "shared-state") and found.title.startswith("n1 and n2 are one layer")
    assert not at_two_places(lived("left.bn", "right.bn", calls=(0, 0)), [])
    assert not at_two_places(lived("n1", "n2", calls=(0, 1)), []), "an alias that runs once"
    assert not at_two_places(lived("n1", "n2", calls=(0, 0)), [found]), "said already"


def at_two_places(life: Life, others: list[Finding]) -> list[Finding]:
    return at_several_places(life, None, "net", others)


def kept(training: bool, gradients: bool = True, moved: int = 0, **more: Any) -> list[str]:
    span = Span(0, 0, 0, 0, 3, training, gradients=gradients, moved=moved)
    return kept_in_eval(
        Life("net.py", "torch", "2.13.0", (LayerLife("stem.1", "BatchNorm2d", 8, {}, (span,), **more),))
    )


def test_a_frozen_backbone_is_said_to_be_one_and_is_no_finding() -> None:
    assert kept(training=False) == [
        "stem.1 runs in eval while the model trains, because the model itself keeps it there (frozen): it normalises "
        "with its running statistics, which stay as they are."
    ]
    assert not kept(training=True, moved=3)
    assert not kept(training=False, gradients=False), "it was only evaluated"
    assert not kept(training=False, moved=3), "it does not look at its mode"
    assert not kept(training=False, own=True), "what a layer of the user's does in eval is not known"
    assert not kept(training=False, tracks=False)


# ------------------------------------------------------------------------------------------------- exported files


def test_outputs_follow_from_the_only_thing_that_two_files_hold_otherwise() -> None:
    start = finding(layer="bn", quantity="running_mean")
    outputs = finding("unexplained", "unexplained", quantity="output", evidence={"gap, plain": 0.9})
    rest, (told,) = followed([outputs], [start])
    assert rest == []
    assert told.title.endswith("So their outputs differ by 90 % of the largest; no other tensor of the files does.")
    assert ("", "output") in told.places, "nothing differs silently"
    unknown = finding("unexplained", "unexplained", layer="bn", quantity="gamma")
    assert followed([outputs], [start, unknown]) == ([outputs], [start, unknown])


def test_where_outputs_are_equal_no_row_says_that_a_layer_was_left_out() -> None:
    row = Row(layer="bn1", cells=("16", "", "other bias: W"), mark="defect")
    assert as_computed(row, []) == Row(layer="bn1", cells=("16", "", "folded, by its outputs"), mark="agrees")
    assert as_computed(row, [finding(layer="bn1", quantity="running_var")]) == row
    as_operators = Row(layer="own", cells=("16", "", "only in model.py:build"), mark="unexplained")
    assert as_computed(as_operators, []).cells[-1] == "only in model.py:build, outputs equal"


def test_convolutions_with_a_bias_may_hold_a_folded_batchnorm() -> None:
    graph = Graph("model.onnx")
    graph.nodes += [
        Node("Conv", "folded", ["x", "w1", "bias"], ["a"], {}),
        Node("Conv", "bare", ["a", "w2"], ["b"], {}),
        Node("Conv", "before", ["b", "w3", "bias"], ["c"], {}),
        Node("BatchNormalization", "bn", ["c", "gamma", "beta", "mean", "var"], ["y"], {}),
    ]
    assert biased(graph) == 1


def test_a_layer_that_became_a_product_and_a_sum_is_no_weight_to_fold() -> None:
    layer = held(running_mean=np.zeros(8), running_var=np.ones(8))
    each = FoldedLayer(layer, Fold("weights"), ("batchnorm/mul", "batchnorm/sub"), in_b=True)
    nothing = Weights(Checkpoint(model(layer)))
    assert right_weights(each, nothing, nothing) == {}


def test_one_runtime_for_both_sides_is_said_once() -> None:
    def played(title: str, version: str) -> Played:
        return Played(Checkpoint(model()), {}, {}, Path("inputs.npz"), "", title, version, "")

    onnx = played("ONNX Runtime", "1.31.1")
    names = ("model.onnx", "optimised.onnx")
    assert how_played(onnx, onnx, names) == ["Both were played by ONNX Runtime 1.31.1."]
    assert how_played(played("PyTorch", "2.13.0"), onnx, names) == [
        "model.onnx was played by PyTorch 2.13.0, optimised.onnx was played by ONNX Runtime 1.31.1."
    ]


# ---------------------------------------------------------------------------------------------- what is said of it


def charge(case: str, code: str = "BN102", sentence: str = "a differs from b.") -> Judged:
    return Judged(Charge("defect", code, "x", "own", case, (("a",), ("b",)), ("a", "b"), sentence, "bn"), "fails")


def test_a_finding_in_three_cases_is_counted_once() -> None:
    three = Verdict(fail_on="convention", judged=tuple(charge(case) for case in "abc"))
    assert ruling(three) == "1 finding in 3 cases at or above --fail-on convention"
    two = Verdict(fail_on="defect", judged=(charge("a"), charge("a", "BN112")))
    assert ruling(two) == "2 findings at or above --fail-on defect"


def test_what_has_a_cause_in_one_case_is_not_called_rounding_in_another() -> None:
    cause = finding("variance-divisor", "defect", code="BN102", layer="bn", quantity="running_var")
    small = finding("rounding", "rounding", code="BN901", case="large", layer="bn", quantity="running_var")
    other = finding("rounding", "rounding", code="BN901", case="large", layer="bn", quantity="running_mean")
    answer = Answer(verb="check", subject="x", headline="")
    results = Results(version="", command="", created="", targets=(), scenarios=(), cells=(), findings=(cause, small))
    assert not arrange(results, answer).rounding
    results = Results(version="", command="", created="", targets=(), scenarios=(), cells=(), findings=(cause, other))
    assert arrange(results, answer).rounding


def test_a_log_does_not_list_the_reports_that_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    Log().say("writing csv")
    Log().say("play it again with: bncheck run x.toml")
    assert capsys.readouterr().err == "bncheck: play it again with: bncheck run x.toml\n"


def test_cells_of_a_second_round_are_counted_anew(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    for total in (2, 1):
        log.expect(total)
        for _ in range(total):
            log.cell(Progress(target="torch", kind="finished", cell="try", outcome="crashed"))
    said = capsys.readouterr().err.splitlines()
    assert said == [f"bncheck: {count} torch try: crashed" for count in ("1/2", "2/2", "1/1")]


def checkpoint(path: Path, **layers: Any) -> Path:
    np.savez(path, **layers)
    return path


def test_a_checkpoint_that_will_bite_fails_a_job(tmp_path: Path) -> None:
    fresh = checkpoint(
        tmp_path / "lost.npz",
        **{
            "bn.weight": np.linspace(0.5, 1.5, 8), "bn.bias": np.linspace(-1, 1, 8), "bn.running_mean": np.zeros(8),
            "bn.running_var": np.ones(8), "bn.num_batches_tracked": np.array(0),
        },
    )  # fmt: skip
    done = here("check", str(fresh), "--no-report", "--out", str(tmp_path / "run"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "eval does not normalise" in done.stdout and "--fail-on hazard" in done.stdout
    done = here("check", str(fresh), "--no-report", "--fail-on", "defect", "--out", str(tmp_path / "again"))
    assert done.returncode == 0
    assert "Default: hazard; for a layer" in " ".join(here("check", "--help").stdout.split())
    assert "Default: convention: any difference" in " ".join(here("diff", "--help").stdout.split())


def trained_layer(shift: float, counter: int) -> dict[str, Any]:
    dice = np.random.default_rng(0)
    return {
        "conv.weight": dice.normal(size=(8, 3, 3, 3)).astype("f4") + np.float32(shift),
        "bn.weight": np.linspace(0.5, 1.5, 8, dtype="f4"), "bn.bias": np.linspace(-1, 1, 8, dtype="f4"),
        "bn.running_mean": dice.normal(size=8).astype("f4") + np.float32(shift),
        "bn.running_var": np.linspace(0.2, 3, 8, dtype="f4") * np.float32(1 + shift),
        "bn.num_batches_tracked": np.array(counter),
    }  # fmt: skip


def test_parameters_without_buffers_are_not_a_layer_left_out(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "whole.npz", **trained_layer(0.0, 60))
    kept = {key: value for key, value in trained_layer(0.0, 60).items() if "running" not in key and "num" not in key}
    lost = checkpoint(tmp_path / "lost.npz", **kept)
    done = here("diff", str(whole), str(lost), "--no-report", "--out", str(tmp_path / "run"))
    said = " ".join(done.stdout.split())
    assert done.returncode == 1, done.stdout + done.stderr
    assert "lost.npz holds gamma and beta of bn, and no running statistics, which whole.npz holds" in said
    assert "leaves BatchNorm out" not in said


@pytest.mark.parametrize("damage", ["bn.running_mean", "half"])
def test_a_layer_with_some_of_its_statistics_is_not_one_without(tmp_path: Path, damage: str) -> None:
    arrays = trained_layer(0.0, 60)
    (one,) = read_checkpoint(checkpoint(tmp_path / "whole.npz", **arrays))
    if damage == "half":
        arrays["bn.running_mean"] = arrays["bn.running_mean"][:4]
    else:
        del arrays[damage]
    (two,) = read_checkpoint(checkpoint(tmp_path / "lost.npz", **arrays))
    _, (finding,), _ = side_by_side(one, two, ("whole.npz", "lost.npz"))
    assert (finding.cause, finding.kind) == ("state-mismatch", "defect")
    assert finding.title.startswith("lost.npz holds no whole BatchNorm layer in bn, as whole.npz does")


def test_a_backbone_frozen_by_requires_grad_alone_is_told_from_an_average(tmp_path: Path) -> None:
    before = checkpoint(tmp_path / "before.npz", **trained_layer(0.0, 60))
    after = checkpoint(tmp_path / "after.npz", **trained_layer(0.3, 100))
    done = here("diff", str(before), str(after), "--no-report", "--out", str(tmp_path / "run"))
    said = " ".join(done.stdout.split())
    assert "the running statistics moved (counter 60 to 100) while gamma and beta stood still, in bn" in said
    assert "AveragedModel" not in said
