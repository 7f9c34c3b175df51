"""Scripts of kits for layers in Paddle, Flax, Keras and MXNet: the user's layer as the run made it, in its framework
alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import here
from played_scripts import check_scripts, python_of
from test_inside import SHAPES

from bncheck.finding import Finding
from bncheck.repro.scripts.keras import engine
from bncheck.repro.standalone import own_model
from bncheck.repro.standalone.own_layer import Made, made_of, plain_call, with_more
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Case, Layer, Network
from bncheck.trace import Trace

TESTS = Path(__file__).parent
MADE: dict[str, Any] = {
    "call": "MyBN(momentum=0.7, num_features=4)", "quiet": ["rngs"], "turned": [], "flags": {"training": True},
    "names": {"running_mean": "mean", "running_var": "var"},
}  # fmt: skip


def subject(**otherwise: Any) -> Subject:
    finding = Finding(code="BN1", cause="eps", kind="defect", title="", targets=("flax",), scenario="s", case="c")
    network = Network(layers=(Layer("bn", "batch_norm", channels=4),), custom="bn.py:MyBN")
    return Subject(
        finding=finding, case=Case("s", "c", "c", {}, network, {}, ()), inputs={},
        target=TargetResult("flax", "flax", "flax"), trace=Trace(events=(), arrays={}), layer="bn", other="",
        quantities=(), compared=0, refused_there=(), problem="differs",
        notes={"cell": {"custom": {"bn": {"made": {**MADE, **otherwise}}}}},
    )  # fmt: skip


def test_a_layer_is_made_as_the_run_made_it() -> None:
    found = made_of(subject())
    assert found.call == "MyBN(momentum=0.7, num_features=4)"
    assert with_more(found.call, ["rngs=nnx.Rngs(0)"]) == "MyBN(momentum=0.7, num_features=4, rngs=nnx.Rngs(0))"
    assert with_more("MyBN()", ["rngs=nnx.Rngs(0)"]) == "MyBN(rngs=nnx.Rngs(0))"


@pytest.mark.parametrize(
    "call",
    [
        "MyBN(a=__import__('os'))",
        "exec(a=1)",
        "MyBN(1)",
        "MyBN(**{})",
        "MyBN(a=1); exec('x')",
        "MyBN(a=1)\nexec('x')",
        "",
    ],
)
def test_no_code_comes_from_what_a_run_folder_says(call: str) -> None:
    assert not plain_call(call, "MyBN")
    with pytest.raises(CannotWriteError, match="not of plain values"):
        made_of(subject(call=call))


def test_why_a_variant_of_keras_has_no_script() -> None:
    with pytest.raises(CannotWriteError, match="none on TensorFlow yet"):
        engine("tensorflow_function")
    with pytest.raises(CannotWriteError, match="no script for the variant 'plain_input' of keras yet"):
        engine("plain_input")


@pytest.mark.parametrize(
    "otherwise",
    [
        {"names": {"running_mean": "a; b", "running_var": "var"}}, {"quiet": ["a b"]}, {"flags": {"1": True}},
        {"turned": [3, 4]}, {"names": []}, {"turned": "no"}, {"names": {"gamma": "scale"}},
    ],
)  # fmt: skip
def test_what_has_a_wrong_shape_makes_no_script(otherwise: dict[str, Any]) -> None:
    with pytest.raises(CannotWriteError):
        made_of(subject(**otherwise))


def test_a_layer_with_its_channels_elsewhere_is_called_in_its_own_layout() -> None:
    found = Made("MyBN()", {}, turned=(1, -1))
    assert found.around("np", "net({})", "x") == "np.moveaxis(net(np.moveaxis(x, 1, -1)), -1, 1)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets",
    [
        ("paddle", "paddle[builtin]"), ("flax", "flax[builtin]"), ("mxnet", "mxnet[builtin]"),
        ("keras", "keras[builtin]"), ("keras[torch]", "keras[builtin_torch]"),
    ],
    ids=lambda targets: targets[0],
)  # fmt: skip
def test_every_script_prints_the_reports_figures(tmp_path: Path, targets: tuple[str, str]) -> None:
    framework = targets[0].partition("[")[0]
    python_of(framework, targets[0].partition("[")[2].rstrip("]"))
    words = [word for target in targets for word in ("-t", target)]
    scenario = f"{framework}-layers"
    here("run", str(TESTS / f"{scenario}.toml"), *words, "--no-report", "-q", "--out", str(tmp_path / "run"))
    for number, target in enumerate(targets):
        variant = target.partition("[")[2].rstrip("]")
        done = check_scripts(tmp_path / "run", framework, variant, tmp_path / str(number), (scenario,))
        assert done.total() >= 7, target


# ------------------------------------------------------------------------------------------------------ whole models

WHOLE: dict[str, Any] = {
    "names": {"running_mean": "stats.mu", "running_var": "stats.sigma2"}, "flags": {"training": True},
    "place": "body.0.bn",
}  # fmt: skip


def in_a_model(dtype: str = "float32", output: str | None = None, **otherwise: Any) -> Subject:
    network = Network(layers=(), model="net.py:build", arguments={"width": 4}, output=output)
    made = {**WHOLE, **otherwise}
    case = replace(subject().case, network=network, dtype=dtype)
    return replace(subject(), case=case, notes={"cell": {"layers": {"bn": {"made": made}}}})


def test_a_layer_in_a_model_is_read_where_the_run_found_it() -> None:
    found = own_model.made_of(in_a_model())
    assert found.call == "build(width=4)"
    assert found.names == {"running_mean": "stats.mu", "running_var": "stats.sigma2"}
    assert found.holder == "layer"
    assert own_model.place(in_a_model()) == "body.0.bn"
    assert own_model.place(in_a_model(place="")) == ""
    assert own_model.number(in_a_model(place=3)) == 3


@pytest.mark.parametrize(
    ("asked", "otherwise"),
    [
        (own_model.made_of, {"names": {"running_mean": "a; b", "running_var": "var"}}),
        (own_model.made_of, {"names": {"running_mean": "mean"}}),
        (own_model.made_of, {"names": []}),
        (own_model.made_of, {"flags": {"1": True}}),
        (own_model.made_of, {"dtype": "float64"}),
        (own_model.made_of, {"output": "logits"}),
        (own_model.place, {"place": "a'] or x['b"}),
        (own_model.place, {"place": 3}),
        (own_model.number, {"place": "3"}),
        (own_model.number, {"place": -1}),
        (own_model.number, {"place": True}),
    ],
)
def test_what_a_run_folder_says_of_a_model_makes_no_code(asked: Any, otherwise: dict[str, Any]) -> None:
    with pytest.raises(CannotWriteError):
        asked(in_a_model(**otherwise))


ZOO = """
title = "Layers of one's own in a model"
why = "Each finding has a script."
targets = ["{target}"]
[network]
model = "{framework}_layers.py:zoo"
[input]
shape = [{shape}]
channel_axis = {axis}
[program]
events = ["train_forward", "backward"]
repeat = 2
then = ["eval_forward"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["paddle", "flax", "mxnet", "keras", "keras[torch]"])
def test_every_script_of_a_model_gives_what_the_run_recorded(tmp_path: Path, target: str) -> None:
    framework, _, variant = target.rstrip("]").partition("[")
    python_of(framework, variant)
    shutil.copy(TESTS / f"{framework}_layers.py", tmp_path)
    shape, axis = SHAPES[framework].replace(",", ", "), 1 if "8,3" in SHAPES[framework] else -1
    text = ZOO.format(target=target, framework=framework, shape=shape, axis=axis)
    (tmp_path / "zoo.toml").write_text(text, encoding="utf-8")
    here("run", str(tmp_path / "zoo.toml"), "--no-probe", "--no-report", "-q", "--out", str(tmp_path / "run"))
    assert check_scripts(tmp_path / "run", framework, variant, tmp_path / "scripts").total() >= 12
