"""Every finding on torch, mxnet and onnxruntime has a script that prints the report's figures."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CUSTOM, PROGRAMS, finish, once, play
from played_scripts import check_scripts, played_once, python_of, run_scripts, scenes

from bncheck.repro.kit import write_scripts
from bncheck.repro.own_files import with_neighbours
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.shipped import SHIPPED, find_scenarios

# Every branch of the writers, of programs and of networks that are more than layers in a row.
COPIES = ("model-copies", "shared-buffers", "layer-used-twice", "strided")
FORMS = ("export-legacy", "onnx-opsets", "onnx-fresh-network")


@pytest.mark.parametrize(
    ("target", "run", "scenarios", "least"),
    [
        pytest.param("torch", "family_run", (*PROGRAMS, *COPIES), 30, id="torch"),
        pytest.param("torch", "custom_run", CUSTOM, 10, id="torch-custom"),
        pytest.param("torch[onnx]", "export_run", (*PROGRAMS, *FORMS), 20, id="torch[onnx]"),
        pytest.param("onnxruntime", "export_run", (*PROGRAMS, *FORMS), 13, id="onnxruntime"),
        pytest.param("mxnet", "family_run", PROGRAMS, 10, id="mxnet"),
    ],
)
def test_every_script_of_odd_programs_and_networks_prints_the_reports_figures(
    target: str, run: str, scenarios: tuple[str, ...], least: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Copies, layers in parts or used twice, views, ONNX files, and events beside forward and backward."""
    played: Path = request.getfixturevalue(run)
    assert check_target(played, target, tmp_path, scenarios).total() >= least


@pytest.mark.slow  # a process group per script
@pytest.mark.parametrize("target", ["torch[ddp]", "torch[ddp_local]"])
def test_every_script_of_replicas_prints_the_reports_figures(
    target: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Real processes."""
    run = played_once(tmp_path_factory, "replicas-run", ("replicas",), ("torch[ddp]", "torch[ddp_local]"))
    assert check_target(run, target, tmp_path).total() >= 3


def test_a_script_plays_twice_what_depends_on_what_ran_before(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """The first network of a process is right: only the second one shows what a default argument keeps."""
    run = played_once(tmp_path_factory, "order-run", ("case-order",), ("torch", "torch[builtin]"))
    leaks, others = [], []
    for scene in scenes(run):
        (leaks if scene.finding.cause == "order-dependence" else others).append(scene)
    assert len(leaks) == 3
    _, scripts, reasons = write_scripts(leaks[0])
    assert not reasons
    text = scripts["repro_torch.py"].text.replace("running_mean = start", "running_mean = start.clone()")
    mended = replace(scripts["repro_torch.py"], text=text)
    played = run_scripts("torch", {"as-it-is": scripts["repro_torch.py"], "mended": mended}, tmp_path)
    assert played["as-it-is"][0] == 1
    assert "The problem is there: running_mean" in played["as-it-is"][1]
    assert played["mended"][0] == 0
    assert "The problem is gone" in played["mended"][1]
    # What one playing shows against another target follows from the order, and is listed there.
    assert not [scene for scene in others if scene.finding.cause == "initial-state"]


WAYS = (
    "torch[checkpoint]",
    "torch[export]",
    "torch[jit]",
    "torch[trace]",
    "torch[channels_last]",
    "torch[no_onednn]",
    "torch[plain_input]",
    "mxnet[raw]",
    "mxnet[plain_input]",
)


@pytest.mark.slow  # one run of six targets, and six processes that play its scripts
@pytest.mark.parametrize("target", WAYS)
def test_every_script_of_other_ways_to_run_prints_the_reports_figures(
    target: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    names = ("r0-tail", "freezing", "shared-buffers", "custom-graph", "one-value-per-channel", "without-parts")
    run = played_once(tmp_path_factory, "ways-run", names, WAYS)
    assert check_target(run, target, tmp_path).total() >= 3


EVERYTHING = (
    "torch", "torch[onnx]", "torch[functional]", "torch[builtin]", "torch[compile]", "torch[ddp]", "torch[ddp_local]",
    *WAYS, "mxnet", "mxnet[hybrid]", "onnxruntime", "onnxruntime[opset14]", "onnxruntime[opset9]",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("target", EVERYTHING)
def test_every_script_of_every_scenario_prints_the_reports_figures(
    target: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    # Whole networks of a hundred layers take minutes each; small ones are played below.
    known = {path.stem: load_scenario(path) for path in find_scenarios()}
    # What depends on what ran before has a test of its own.
    names = [name for name, found in known.items() if not (found.cases[0].network.model or found.check_order)]
    run = played_once(tmp_path_factory, "whole-run", names, EVERYTHING)
    assert check_target(run, target, tmp_path).total() >= (10 if target == "onnxruntime[opset9]" else 50)


def check_target(
    run: Path, target: str, folder: Path, scenarios: Collection[str] = (), most: int | None = None
) -> Counter[str]:
    backend, _, variant = target.rstrip("]").partition("[")
    python_of(backend, variant)
    return check_scripts(run, backend, variant, folder, scenarios, most)


# ------------------------------------------------------------------------------- what no shipped scenario does

TITLE = 'title = "a network of one\'s own"\nwhy = "what a script has to say and no shipped scenario does"\n'
OWN = {
    # A function builds it; its weights are its own, also after a reload.
    "whole": (
        ("torch", "torch[checkpoint]"),
        """
        [network]
        model = "resnet.py:build"
        arguments = { blocks = [1], width = 16, embedding = 32 }
        [input]
        shape = [4, 3, 16, 16]
        [program]
        first = ["train_forward", "backward", "reload", "train_forward", "backward", "eval_forward"]
        events = [{ event = "eval_in_batches", sizes = [1, 2, 4] }]
        [matrix]
        "network.arguments.track_running_stats" = [true, false]
        """,
    ),
    # A file without the mean, and one without the variance: what is missing has the value of a fresh network.
    "dropped": (
        ("torch",),
        """
        [network]
        layers = [{ name = "bn", type = "batch_norm", channels = 3, initial = { running_mean = [1.0, 2.0, 3.0] } }]
        [input]
        shape = [8, 3]
        [program]
        first = ["train_forward", "train_forward", { event = "reload", drop = ["running_mean"] }]
        events = ["train_forward", "backward"]
        repeat = 3
        [matrix]
        drop = [
          { "program.first.2" = { event = "reload", drop = ["running_mean"] } },
          { "program.first.2" = { event = "reload", drop = ["running_var", "gamma", "counter"] } },
        ]
        [matrix.labels]
        drop = ["mean", "more"]
        """,
    ),
    # Three replicas of a network of two layers, that go backward and evaluate.
    "divided": (
        ("torch[ddp]",),
        """
        [network]
        replicas = [2, 2, 2]
        layers = [
          { name = "bn", type = "batch_norm", channels = 3 },
          { name = "dense", type = "dense", units = 2 },
        ]
        [input]
        shape = [6, 3]
        [program]
        events = ["train_forward", "backward", "eval_forward"]
        repeat = 2
        """,
    ),
    # The layer that is copied lies behind another one.
    "copied": (
        ("torch",),
        """
        [network]
        copied = "ema_parameters"
        layers = [
          { name = "conv", type = "conv2d", out_channels = 4, kernel = 3 },
          { name = "bn", type = "batch_norm" },
          { name = "pool", type = "global_avg_pool" },
        ]
        [input]
        shape = [4, 3, 6, 6]
        [program]
        events = ["train_forward", "backward", "update_copy"]
        repeat = 4
        then = ["eval_forward", "eval_copy", "train_copy"]
        [matrix]
        "network.copied" = ["ema_parameters", "averaged", "averaged_buffers", "export", "assign"]
        """,
    ),
    # Input that is finite in its own dtype and not in the network's.
    "cast": (
        ("torch",),
        """
        dtype = "float16"
        [network]
        layers = [{ name = "dense", type = "dense", units = 4 }, { name = "bn", type = "batch_norm" }]
        [input]
        shape = [4, 6]
        fill = "uniform"
        mean = 60000.0
        std = 20000.0
        dtype = "float32"
        [program]
        events = ["train_forward", "eval_forward"]
        """,
    ),
    # The defaults of every framework: no keyword at all.
    "bare": (
        ("torch", "mxnet", "onnxruntime"),
        """
        [network]
        layers = [{ name = "bn", type = "batch_norm", batch_weight = "default", eps = "default" }]
        [input]
        shape = [4, 3]
        [program]
        events = ["train_forward", "eval_forward"]
        repeat = 3
        """,
    ),
    "pooled": (
        ("torch", "mxnet", "mxnet[raw]", "onnxruntime"),
        """
        [network]
        layers = [
          { name = "bn", type = "batch_norm", channels = 3 },
          { name = "pool", type = "global_avg_pool" },
          { name = "dense", type = "dense", units = 2 },
          { name = "bn2", type = "batch_norm", channels = 2 },
        ]
        [input]
        shape = [4, 3, 5, 5]
        [program]
        events = ["train_forward"]
        repeat = 3
        then = ["eval_forward"]
        """,
    ),
}


@pytest.mark.parametrize("target", sorted({each for targets, _ in OWN.values() for each in targets}))
def test_every_script_of_own_networks_prints_the_reports_figures(
    target: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """One run of all that need no process group, and one of what does."""
    together = [name for name in OWN if name != "divided"]
    names = ["divided"] if target == "torch[ddp]" else together
    folder, empty, lock = once(tmp_path_factory, f"own-{'divided' if names == ['divided'] else 'together'}")
    try:
        if empty:
            folder.mkdir()
            for name in names:
                (folder / f"{name}.toml").write_text(TITLE + OWN[name][1])
            shutil.copy(SHIPPED[1] / "layers" / "resnet.py", folder)
            targets = dict.fromkeys(each for name in names for each in OWN[name][0])
            words = [word for each in ("reference", *targets) for word in ("-t", each)]
            play(folder / "run", "run", *(str(folder / f"{name}.toml") for name in names), *words, "--no-report")
    finally:
        finish(folder, lock)
    wanted = [name for name in names if target in OWN[name][0]]
    most = 1 if target == "torch[ddp]" else None  # each of its scripts starts three processes; all: the slow matrix
    assert set(check_target(folder / "run", target, tmp_path, wanted, most)) == set(wanted)


def test_a_target_without_figures_has_a_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    """torch.jit.script refuses a complex layer of one's own before the first event."""
    python_of("torch")
    run = played_once(
        tmp_path_factory,
        "refused-run",
        ("complex-batchnorm",),
        ("torch", "torch[jit]"),
        "--no-probe",
        "--set",
        "program.repeat=2",
    )
    reasons = [
        reason
        for scene in scenes(run)
        for name, reason in write_scripts(scene)[2].items()
        if name.startswith("torch[jit]")
    ]
    assert reasons
    assert all(reason.startswith("refuses to build the network: ") for reason in reasons)


# ------------------------------------------------------------------------------------------- files of one's own


def test_a_file_becomes_part_of_a_script(tmp_path: Path) -> None:
    """A neighbour comes along once; what the file does as a program stays away; a module of its own cannot come."""
    (tmp_path / "near.py").write_text("one = 1\n")
    text = [
        "from __future__ import annotations",
        "import re",
        "from near import (",
        "    one,",
        "    one as first,",
        ")",
        "from near import one",
        "two = one + first",
        "if __name__ == '__main__':",
        "    print(two)",
    ]
    wanted = ["import re", "one = 1", "first = one", "two = one + first"]
    assert with_neighbours("\n".join(text), tmp_path, set()).splitlines() == wanted
    assert with_neighbours("import near\n", tmp_path, set()) == ""
    assert with_neighbours("def broken(:\n", tmp_path, set()) == ""
