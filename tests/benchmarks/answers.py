"""How long an answer takes beside the import that nobody can do without: --help, run, check."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from spent import ROOT, THREADS, Row, Spent, alone, bncheck, paired, python_of, spend

TIMES = int(os.environ.get("BNCHECK_PAIRS", "5"))
LAYER = ROOT / "tests" / "third_party_layers.py"
MODEL = """
import torch

def build():
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )
"""
EXPORT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from model import build
# Training mode keeps the BatchNormalization nodes: folded into the convolutions there is nothing to check.
kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
torch.onnx.export(build().eval(), torch.randn(2, 3, 16, 16), sys.argv[2], dynamo=False, **kept)
"""


def measure_help(folder: Path) -> Iterator[Row]:
    yield paired(
        "`bncheck --help`", "`import click`", "1.15",
        lambda number: spend(bncheck("--help")), lambda: spend([sys.executable, "-c", "import click"]), 2 * TIMES,
    )  # fmt: skip


def importing(python: str, module: str) -> Spent:
    return spend([python, "-I", "-c", f"import {module}"], **THREADS)


def measure_one(folder: Path) -> Iterator[Row]:
    """A question about one framework; its conventions are kept from the first run on, as they are for everybody."""
    python = python_of("torch")
    for what, more in (("`run all-ones -t torch`, no report", ("--no-report",)), ("the same with its report", ())):
        words = ["run", "all-ones", "-t", "torch", "-q", *more, "--out"]
        yield paired(
            what, "`import torch`", "1.25",
            lambda number, words=words, more=more: spend(bncheck(*words, str(folder / f"one-{len(more)}-{number}"))),
            lambda: importing(python, "torch"), TIMES,
        )  # fmt: skip


def measure_fresh(folder: Path) -> Iterator[Row]:
    """What measuring the conventions again costs beside a run that takes those that are kept."""
    run = ["run", "-q", "--no-report"]
    count = iter(range(1000))
    yield paired(
        "default run, `--fresh`", "the same with kept conventions", "",
        lambda number: spend(bncheck(*run, "--fresh", "--out", str(folder / f"fresh-{number}"))),
        lambda: spend(bncheck(*run, "--out", str(folder / f"kept-{next(count)}"))), TIMES,
    )  # fmt: skip


def measure_default(folder: Path) -> Iterator[Row]:
    """Against the larger of the slowest target alone and the CPU time of all targets ÷ cores: what no run can beat. The
    CPU ratio is that of all processes to the bare workers."""
    for name in ("first", "warm"):  # the first may have to measure the conventions
        spend(bncheck("run", "-q", "--no-report", "--out", str(folder / name)))
    bare = [alone(target, folder / "warm") for target in ("reference", "torch", "mxnet")]
    cores = os.cpu_count() or 1
    cpu = sum(each.cpu for each in bare)
    bound = Spent(max(*(each.wall for each in bare), cpu / cores), cpu)
    for what, goal, more in (
        ("default run, no report", "1.15", ("--no-report",)),
        ("default run, all reports", "1.4", ()),
    ):
        yield paired(
            what, "its bare workers", goal,
            lambda number, more=more: spend(
                bncheck("run", "-q", *more, "--out", str(folder / f"{len(more)}-{number}"))
            ),
            lambda: bound, TIMES,
        )  # fmt: skip


def measure_check(folder: Path) -> Iterator[Row]:
    python = python_of("torch")
    (folder / "model.py").write_text(MODEL)
    more = ("--python", python, "--no-report", "--out")
    for what, words in (
        ("`check` of a layer", (f"{LAYER}:DividesByN",)),
        ("`check` of a small model", (f"{folder / 'model.py'}:build", "--input", "8,3,16,16")),
    ):
        yield paired(
            what, "`import torch`", "1.3",
            lambda number, words=words: spend(
                bncheck("check", *words, *more, str(folder / f"{len(words)}-{number}"))
            ),
            lambda: importing(python, "torch"), TIMES,
        )  # fmt: skip


def measure_onnx(folder: Path) -> Iterator[Row]:
    """Against ``polygraphy run FILE --onnxrt --onnxrt --validate`` on the same file, both with ONNX Runtime in the
    environment that bncheck makes; and against one that only runs it."""
    (folder / "model.py").write_text(MODEL)
    path, python = folder / "model.onnx", python_of("onnxruntime")
    exporter = os.environ.get("BNCHECK_EXPORTER") or python_of("torch[onnx]")
    subprocess.run([exporter, "-c", EXPORT, str(folder), str(path)], check=True, capture_output=True)
    peer = install_peer(folder / "peer", "polygraphy", python)
    code = "import sys; from polygraphy.tools import main; sys.exit(main())"
    for words, goal in ((("--onnxrt", "--onnxrt", "--validate"), "1.5"), (("--onnxrt",), "")):
        floor = f"`polygraphy run FILE {' '.join(words)}`"
        if peer is None:
            yield Row("`check` of an ONNX file", floor, goal, None, None, "polygraphy does not install here")
            continue
        yield paired(
            "`check` of an ONNX file", floor, goal,
            lambda number, words=words: spend(
                bncheck("check", str(path), "--no-report", "--out", str(folder / f"onnx-{len(words)}-{number}"))
            ),
            lambda words=words: spend([python, "-c", code, "run", str(path), *words], PYTHONPATH=str(peer)), TIMES,
        )  # fmt: skip


def install_peer(folder: Path, name: str, python: str) -> Path | None:
    """A peer in a folder of its own, without what it depends on; None where it does not install."""
    from bncheck.environments.installer import find_uv

    words = [find_uv(), "pip", "install", "-q", "--no-deps", "--python", python, "--target", str(folder), name]
    return folder if subprocess.run(words, capture_output=True, check=False).returncode == 0 else None
