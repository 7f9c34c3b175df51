"""Scripts of kits for layers in Paddle, Flax, Keras and MXNet: the user's layer as the run made it, in its framework
alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import here
from played_scripts import check_scripts, python_of

from bncheck.finding import Finding
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
