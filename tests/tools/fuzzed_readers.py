"""Every reader of bncheck that meets something of somebody else's, with sound inputs to begin from (``fuzz.py``)."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # this checkout
sys.path.insert(0, str(HERE.parent))

from at_the_prompt import bncheck  # noqa: E402
from literal_life import LIFE  # noqa: E402

from bncheck.commands.init import configure  # noqa: E402
from bncheck.commands.watch import checked_keep  # noqa: E402
from bncheck.diagnosis.alone import judge_lives  # noqa: E402
from bncheck.environments.backend_file import find_backends, read_backend  # noqa: E402
from bncheck.environments.folder import cache_folder, is_usable, read_marker  # noqa: E402
from bncheck.environments.index_settings import read_index_settings  # noqa: E402
from bncheck.environments.pythons import parse_pythons  # noqa: E402
from bncheck.environments.targets import parse_targets  # noqa: E402
from bncheck.errors import BncheckError  # noqa: E402
from bncheck.gate.bar import parse_verdict, read_verdict  # noqa: E402
from bncheck.gate.baseline import read_baseline  # noqa: E402
from bncheck.gate.changes import changes, held_against  # noqa: E402
from bncheck.gate.config import read_configuration, read_waivers  # noqa: E402
from bncheck.joining.runs import open_sources  # noqa: E402
from bncheck.playing import kept  # noqa: E402
from bncheck.playing.cases_file import read_job, read_lines  # noqa: E402
from bncheck.playing.jobs import as_it_ran  # noqa: E402
from bncheck.playing.pace import Stopwatch, read_paces  # noqa: E402
from bncheck.playing.plan_file import read_plan  # noqa: E402
from bncheck.playing.shard import parse_shard  # noqa: E402
from bncheck.python.plugin import how  # noqa: E402
from bncheck.python.recording import judge  # noqa: E402
from bncheck.report import render  # noqa: E402
from bncheck.run_folder.answer import read_answer  # noqa: E402
from bncheck.run_folder.cell import cell_folder, read_record, read_trace  # noqa: E402
from bncheck.run_folder.folder import find_run  # noqa: E402
from bncheck.run_folder.lives import read_lives, steps_so_far  # noqa: E402
from bncheck.run_folder.origin import Origin, measured_on, write_origin  # noqa: E402
from bncheck.run_folder.results import Results, TargetResult, read_results, write_results  # noqa: E402
from bncheck.run_folder.source_lines import read_lines as read_source_lines  # noqa: E402
from bncheck.run_folder.write_life import write_life  # noqa: E402
from bncheck.scenario_files.files import load_scenario  # noqa: E402
from bncheck.scenario_files.inputs import make_inputs  # noqa: E402
from bncheck.scenario_files.overrides import parse_override  # noqa: E402
from bncheck.scenario_files.shipped import find_scenarios  # noqa: E402
from bncheck.scenario_files.start import begun_from  # noqa: E402
from bncheck.subjects.asked import parse_input, parse_with  # noqa: E402
from bncheck.subjects.checkpoint import look_at  # noqa: E402
from bncheck.subjects.interpreter import asked_for  # noqa: E402
from bncheck.subjects.launch import read_marks, with_python  # noqa: E402
from bncheck.subjects.played_file import arrays_of, grouped, in_memory, state_of  # noqa: E402
from bncheck.subjects.sides import parse_side  # noqa: E402
from bncheck.subjects.thing import parse_thing  # noqa: E402
from bncheck.subjects.watched import answer_of  # noqa: E402
from bncheck.worker.archive import tar_entry  # noqa: E402
from bncheck.worker.onnx_side import file as onnx_file  # noqa: E402

OURS = (BncheckError, onnx_file.FileError, argparse.ArgumentTypeError)  # the last is pytest's way to say a sentence


@dataclass(frozen=True)
class Reader:
    """``seeds`` are sound inputs; ``read`` gets a path with the input in it; ``weight`` says how many of all inputs."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    kind: str = "bytes"  # or json, toml
    weight: float = 1.0
    file: str = "input"  # name of the file that it gets


def played(folder: Path) -> Path:
    """A real run with findings, on the reference under two conventions; it needs no framework."""
    targets = ("-t", "reference", "-t", "reference[batch_weight=0.9]")
    done = bncheck("run", "events", "all-ones", *targets, "--no-probe", "--no-report", "-q", "--out", "run", cwd=folder)
    assert (folder / "run" / "run.json").exists(), done.stderr
    return folder / "run"


def readers(folder: Path) -> dict[str, Reader]:
    run = played(folder)
    results = read_results(run)
    known = find_backends()
    cells = run / "cells" / "reference"
    some = cell_seeds(cells)
    models = sorted((HERE.parents[1] / "scenarios" / "models").glob("*.onnx"))
    found = (
        Reader("scenario", scenario_seeds(), read_scenario, "toml", 2.0, "evil.toml"),
        Reader("override", OVERRIDES, read_override, "bytes", 2.0),
        Reader("config", (CONFIGURATION,), read_configuration, "toml", 2.0),
        Reader("waivers", (WAIVERS,), read_waivers, "toml", 2.0),
        Reader("targets", TARGETS, lambda path: parse_targets(words_of(path), known)),
        Reader("backend", backend_seeds(known), read_backend, file="evil.py"),
        Reader("words", WORDS, read_words),
        Reader("plan", ((run / "plan.json").read_bytes(),), within(run, "plan.json", read_plan), "json"),
        Reader(
            "gate",
            ((run / "gate.json").read_bytes(),),
            within(run, "gate.json", lambda at: judged(at, results)),
            "json",
        ),
        Reader("baseline", (BASELINE,), read_baseline, "json"),
        Reader("results", ((run / "run.json").read_bytes(),), within(run, "run.json", rendered), "json", 0.3),
        Reader("result", (some["result.json"],), in_cell("result.json", folder), "json", 2.0),
        Reader("trace", (some["trace.npz"],), in_cell("trace.npz", folder), "zip", 2.0),
        Reader("tar", ((cells / "cells.tar").read_bytes(),), as_tar(folder), "bytes", 0.5),
        Reader("environment", ((cells / "environment.json").read_bytes(),), in_target("environment.json", run), "json"),
        Reader("cases", ((run / "cases.jsonl").read_bytes(),), within(run, "cases.jsonl", cases), "bytes"),
        Reader("answer", (ANSWER,), within(run, "answer.json", read_answer), "json"),
        Reader("marker", (MARKER,), lambda path: marked(path, folder), "json"),
        Reader("onnx", tuple(path.read_bytes() for path in models), described, "bytes", 2.0),
        Reader("contents", ((run / "contents.json").read_bytes(),), within(run, "contents.json", joined), "json", 0.3),
        Reader("new", tuple(path.read_bytes() for path in find_scenarios()[:8]), begun, "toml", 1.0, "evil.toml"),
        Reader("init", (CONFIGURATION, b"", b"[tool.ruff]\n", b"[project]\nname = 'x'\n"), initialised, "toml"),
        Reader(
            "runs", ((run / "run.json").read_bytes(),), within(run, "run.json", changed_since(results)), "json", 0.2
        ),
        *kept_readers(run, cells, folder),
        *cache_readers(folder),
        *checkpoint_readers(),
        Reader("played", (played_arrays(),), read_played, "zip", 1.0, "played.npz"),
        *recording_readers(folder),
    )
    return {reader.name: reader for reader in found}


OVERRIDES = (b"program.repeat=3", b"input.shape=[2, 3]", b'input.fill="ones"', b"network.layers.bn.eps=1e-3",
             b'matrix."input.shape"=[4,3]', b"x={a = 1, b = [1, 2]}", b"network.custom=layer.py:Layer")  # fmt: skip
TARGETS = (
    b"torch",
    b"torch==2.13.0@cuda",
    b"reference[batch_weight=0.9,eps=1e-3]",
    b"mxnet==1.7.0.post2",
    b"keras[jax]@cpu",
)
KNOWN = find_backends()
WORDS = (b"fail", b"first:50,last:50,every:100", b"my-check", b"torch=~/bin/python", b"~who-is-this/python",
         b"int64:8,10", b"8,3,32,32", b"2/3", b"eps=1e-3", b"names=[1, 2]", b"model.py:build", b"torchvision:resnet18",
         b"ema.pt#model.ema", b"net.onnx")  # fmt: skip
RECORDING = json.dumps(
    {
        "program": "train.jl", "framework": "Flux", "version": "0.14", "steps": 3,
        "layers": {"bn": {
            "training": [1, 1, 0], "n": [64, 64, 32], "step": [0, 1, 2], "index": [0, 1, 2],
            "input_mean": [[0.5, 1], [0.4, 1.1], [0.5, 1]], "input_var": [[1, 2], [1.1, 2], [1, 2]],
            "mean_before": [[0, 0], [0.05, 0.1], [0.085, 0.2]], "mean_after": [[0.05, 0.1], [0.085, 0.2], [0.085, 0.2]],
            "var_before": [[1, 1], [1, 1.1], [1.01, 1.19]], "var_after": [[1, 1.1], [1.01, 1.19], [1.01, 1.19]],
        }},
        "happenings": [{"what": "eval", "index": 2, "step": 2, "layers": ["bn"]}],
    }
).encode()  # fmt: skip
WAIVERS = b"""
[[waivers]]
cause = "update-phase"
scenario = "all-*"
case = "*"
targets = ["mxnet*"]
reason = "we flush"
expires = 2027-01-31
[[waivers]]
code = "BN103"
reason = "as well"
expires = 2027-01-31
"""
CONFIGURATION = b"""
[tool.bncheck]
targets = ["reference", "torch"]
optional = ["torch@cuda"]
scenarios = ["all-ones", "checks/own.toml"]
tolerances = { rtol = 1e-5, atol = 1e-6 }
fail-on = "convention"
timeout = 60.5
baseline = "known.json"
waivers = "waivers.toml"
"""
BASELINE = b"""{"format": 1, "known": [{"scenario": "events", "case": "ffb", "cause": "batch-weight",
"kind": "convention", "targets": [["mxnet"], ["torch", "reference"]], "layer": "bn", "quantity": "running_mean",
"size": 0.5, "explained": 1}]}"""
ANSWER = b"""{"verb": "check", "subject": "model.pt", "headline": "healthy", "columns": ["mean", "var"],
"rows": [{"layer": "bn", "cells": ["0", "1"], "mark": "agrees"}], "notes": ["a note"]}"""
MARKER = b"""{"format": 1, "backend": "torch", "version": "2.13.0", "module": "torch", "distribution": "torch",
"packages": ["torch==2.13.0"], "python": "3.11", "python_path": "/usr/bin/python", "installed": "2.13.0", "notes": [],
"distributions": ["torch-2.13.0.dist-info"], "lacking": ["torch/__init__.py"]}"""


PACES = b'{"torch": [1.2, 0.003], "mxnet==1.9.1": [2.5, 0.1]}'
PIP = b"[global]\nindex-url = https://mirror/simple\nextra-index-url =\n  https://a/x\n  https://b/y\n" \
      b"find-links = wheels file:///wheels\n[install]\nno-index = true\n"  # fmt: skip
UV = b'index-url = "https://mirror/simple"\n[[index]]\nname = "x"\nurl = "https://x/simple"\n[pip]\nno-index = true\n'
FOLDERS = (b"~/conventions", b"~nobody/x", b"~who-is-this/x", b"/tmp/kept", b"kept", b"")


def scenario_seeds() -> tuple[bytes, ...]:
    """The shipped ones, and those of tests with own layers, models, and functions of the user's as events."""
    own = (HERE.parent / f"{name}.toml" for name in ("applied", "keras-layers", "keras-models", "deep-network"))
    return tuple(path.read_bytes() for path in (*find_scenarios(), *own))


def kept_readers(run: Path, cells: Path, folder: Path) -> Iterator[Reader]:
    """Conventions that an earlier run has kept: the file, what it says of itself, and its cells; the last two with
    size and digest as they have to be, or nothing else would be read. And the mark that a run leaves beside them."""
    from left_by_cells import cells_of

    shelf = kept.Shelf(folder / "kept" / "reference.tar", {"python": "3"}, tuple(cells_of(cells)))
    assert kept.keep(run, "reference", shelf, date(2026, 11, 28))
    raw = shelf.path.read_bytes()
    found = kept.read(shelf)
    assert found is not None
    head, entries = found
    target = TargetResult(name="reference", slug="reference", backend="reference")

    def laid_out(content: bytes) -> None:
        shelf.path.write_bytes(content)
        place = folder / "laid-out"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if kept.lay_out(place, "reference", shelf, whole=True):
            as_it_ran(place, target, {})
            for cell in shelf.cells:
                read_record(cell_folder(place, "reference", cell))

    def with_head(path: Path) -> None:
        laid_out(tar_entry(kept.HEAD, path.read_bytes()) + entries)

    def with_cells(path: Path) -> None:
        content = path.read_bytes()
        true = {**head, "size": len(content), "sha256": kept.digest(content)}
        laid_out(tar_entry(kept.HEAD, json.dumps(true).encode()) + content)

    def beside(path: Path) -> None:
        shutil.copyfile(path, cells / "origin.json")
        measured_on(cells)
        (cells / "origin.json").unlink()

    tar = (cells / "cells.tar").read_bytes()
    write_origin(cells, Origin(measured="2026-11-28", size=len(tar), sha256=kept.digest(tar)))
    origin = (cells / "origin.json").read_bytes()
    yield Reader("kept", (raw,), lambda path: laid_out(path.read_bytes()), weight=0.5)
    yield Reader("kepthead", (json.dumps(head).encode(),), with_head, "json", 0.4)
    yield Reader("keptcells", (entries,), with_cells, weight=0.5)
    yield Reader("origin", (origin,), beside, "json")


def cache_readers(folder: Path) -> Iterator[Reader]:
    """What lies in the user's own folders, and which those are."""

    def with_variables(read: Callable[[], object], **variables: str) -> None:
        before = dict(os.environ)
        try:
            os.environ.update(variables)
            read()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def paced(path: Path) -> None:
        (folder / "cache").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "cache" / "paces.json")
        with_variables(lambda: (read_paces(), Stopwatch(print).remember()), BNCHECK_CACHE=str(folder / "cache"))

    def named(path: Path) -> None:
        (text,) = words_of(path)
        for name in ("BNCHECK_CONVENTIONS", "BNCHECK_CACHE", "XDG_CACHE_HOME"):
            with_variables(lambda: (kept.conventions_folder(), cache_folder()), **{name: text.replace("\0", "")})

    def settings(variable: str) -> Callable[[Path], object]:
        return lambda path: read_index_settings({variable: str(path), "HOME": str(folder)}).identity()

    yield Reader("paces", (PACES,), paced, "json")
    yield Reader("pip", (PIP,), settings("PIP_CONFIG_FILE"), "bytes")
    yield Reader("uv", (UV,), settings("UV_CONFIG_FILE"), "toml")
    yield Reader("folders", FOLDERS, named)


def played_arrays() -> bytes:
    """What the process that plays a file of TFLite, OpenVINO or Keras hands over."""
    arrays = io.BytesIO()
    outputs = {"plain/0": np.ones((2, 3)), "tap/bn": np.ones(3), "input/0": np.zeros(3), "bn/gamma": np.ones(3, "f4")}
    np.savez(arrays, **outputs)
    return arrays.getvalue()


def read_played(path: Path) -> None:
    grouped(arrays_of(path))
    {key: in_memory(tensor) for key, tensor in state_of(path).items()}


def begun(path: Path) -> None:
    begun_from(path, "mine", path.parent)


def initialised(path: Path) -> None:
    """What ``bncheck init`` adds leaves a file that can be read."""
    place = path.with_name("pyproject.toml")
    shutil.copyfile(path, place)
    try:
        with redirect_stdout(io.StringIO()):
            configure(place, baseline=True)
        tomllib.loads(place.read_text("utf-8-sig"))
    finally:
        place.unlink()


def changed_since(before: Results) -> Callable[[Path], object]:
    """``bncheck diff RUN RUN``."""
    from bncheck.commands.diff import change_lines

    def told(run: Path) -> None:
        for one, other in ((before, read_results(run)), (read_results(run), before)):
            "\n".join(change_lines(changes(held_against(one, other, "convention")), 3)).encode()

    return told


def checkpoint_readers() -> Iterator[Reader]:
    """Files of each format, written by its own framework; looked at and judged."""
    kept = {path.name: path.read_bytes() for path in (HERE.parent / "data").glob("*.pt")}
    with zipfile.ZipFile(HERE.parent / "data" / "checkpoints.zip") as archive:
        kept |= {name: archive.read(name) for name in archive.namelist()}
    arrays = io.BytesIO()
    np.savez_compressed(
        arrays, **{"bn.running_mean": np.zeros(3), "bn.running_var": np.ones(3), "bn.weight": np.ones(3)}
    )
    kept["state.npz"] = arrays.getvalue()
    for ending in ("pt", "npz", "keras", "h5", "pdparams", "params", "msgpack", "safetensors"):
        seeds = tuple(raw for name, raw in sorted(kept.items()) if name.endswith(f".{ending}"))
        kind = "zip" if ending in ("pt", "npz", "keras") else "bytes"
        yield Reader(ending, seeds, lambda path: look_at(path, path.name), kind, 1.5, f"input.{ending}")


def recording_readers(folder: Path) -> Iterator[Reader]:
    """What a recorder wrote of a life, and what somebody hands in; read, judged and put into words."""
    run = folder / "watched-run"
    place = write_life(LIFE, run)

    def judged_lives(at: Path) -> None:
        steps_so_far(at)
        lives = read_source_lines(at, read_lives(at))
        answer_of(lives, judge_lives(lives), "python train.py")

    (place.parent / "lines.json").write_text('[["train.py", 12, "model.train()"], ["train.py", 13, "loss.backward()"]]')
    (place.parent / "marks").mkdir()
    (place.parent / "marks" / "failed").write_text("RuntimeError: no")
    for name in ("about.json", "state.json", "log.jsonl", "first-0-000000.npz"):
        kind = {"json": "json", "npz": "zip"}.get(name.rpartition(".")[2], "bytes")
        reader = within(run, f"{place.relative_to(run)}/{name}", judged_lives)
        yield Reader(name.split(".")[0].split("-")[0], ((place / name).read_bytes(),), reader, kind, 1.5)
    yield Reader("lines", (b"[]", (place.parent / "lines.json").read_bytes()),
                 within(run, f"{place.parent.relative_to(run)}/lines.json", judged_lives), "json", 0.2)  # fmt: skip
    yield Reader(
        "marks", (b"RuntimeError: no",), within(run, f"{place.parent.relative_to(run)}/marks/failed", read_marks)
    )
    yield Reader("recording", (RECORDING,), judge, "json", 1.5, "input.json")
    yield Reader("arrays", (recorded_arrays(),), judge, "zip", 1.5, "input.npz")


def recorded_arrays() -> bytes:
    """The recording as arrays in an .npz."""
    layers, arrays = json.loads(RECORDING)["layers"], io.BytesIO()
    np.savez(
        arrays, **{f"{name}/{key}": np.array(value) for name, held in layers.items() for key, value in held.items()}
    )
    return arrays.getvalue()


def cell_seeds(cells: Path) -> dict[str, bytes]:
    from left_by_cells import MOST, cells_of

    from bncheck.run_folder.cell_files import read_cell_file

    cell = cells / cells_of(cells)[0]
    found = {name: read_cell_file(cell, name, MOST) or b"" for name in ("result.json", "trace.npz")}
    # A sealed result that was changed is refused for that, and nothing else of it would be read.
    held = {key: value for key, value in json.loads(found["result.json"]).items() if key not in ("trace", "seal")}
    return {**found, "result.json": json.dumps(held).encode()}


def backend_seeds(known: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The constants of shipped files and of a bad one; what stands behind them is never run."""
    texts = (known[name].path.read_bytes() for name in ("torch", "mxnet", "onnxruntime"))
    return tuple(text[: text.index(b"\ndef ")] for text in texts)


def words_of(path: Path) -> list[str]:
    return [path.read_bytes().decode("utf-8", "surrogateescape")]


def read_words(path: Path) -> None:
    """Arguments of commands; one that a reader refuses, the next one may take."""
    (text,) = words_of(path)
    for read in (parse_input, parse_shard, parse_side, parse_thing, find_run, lambda word: parse_with([word]), how,
                 checked_keep, lambda word: begun_from(find_scenarios()[0], word, path.parent),
                 lambda word: with_python([word], None), lambda word: parse_pythons([word], KNOWN),
                 lambda word: asked_for(word, KNOWN["torch"])):  # fmt: skip
        try:
            read(text)
        except OURS as error:
            str(error).encode("utf-8", "backslashreplace")


def joined(run: Path) -> None:
    open_sources([str(run)], lambda text: None)


def read_scenario(path: Path) -> None:
    scenario = load_scenario(path, missing_files=True)
    for case in scenario.cases[:2]:
        make_inputs(case)


def read_override(path: Path) -> None:
    key, value = parse_override(words_of(path)[0])
    load_scenario(find_scenarios()[0], {key: value})


def within(run: Path, name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    """The input as a file of a run folder that is otherwise sound."""

    def put_there(path: Path) -> object:
        kept = run / f"{name}.kept"
        if not kept.exists() and (run / name).exists():
            shutil.copyfile(run / name, kept)
        shutil.copyfile(path, run / name)
        try:
            return read(run)
        finally:
            (run / name).unlink()
            if kept.exists():
                shutil.copyfile(kept, run / name)

    return put_there


def judged(run: Path, results: Results) -> None:
    parse_verdict(run / "gate.json")
    read_verdict(run, results)
    render(run, ("junit", "summary"), results=results)


def rendered(run: Path) -> None:
    results = read_results(run)
    render(run, ("csv", "junit", "markdown", "sarif"), results=results)


def in_cell(name: str, folder: Path) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        cell = folder / "loose" / "target" / "cell"
        cell.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, cell / name)
        read_record(cell)
        trace = read_trace(cell, ("train_forward",))
        dict(trace.arrays if trace is not None else {})

    return read


def as_tar(folder: Path) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        target = folder / "packed" / "target"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / "cells.tar")
        read_record(target / "events--ffb")
        read_trace(target / "events--ffb", ("train_forward",))

    return read


def in_target(name: str, run: Path) -> Callable[[Path], object]:
    target = TargetResult(name="reference", slug="reference", backend="reference")

    def read(at: Path) -> None:
        settled = as_it_ran(at, target, {})
        write_results(Results(version="", command="", created="", targets=(settled,), scenarios=(), cells=()), at / "x")
        read_results(at / "x")

    (run / "x").mkdir(exist_ok=True)
    return within(run, f"cells/reference/{name}", read)


def cases(run: Path) -> None:
    for name, _ in read_lines(run):
        read_job(run, name)


def marked(path: Path, folder: Path) -> None:
    home = folder / "environment"
    packages = home / "lib" / "python3.11" / "site-packages"
    if not packages.exists():
        (packages / "torch").mkdir(parents=True)
        (packages / "torch-2.13.0.dist-info").mkdir()
        (packages / "torch-2.13.0.dist-info" / "RECORD").write_text("torch/__init__.py,,\n")
        (home / "bin").mkdir()
        (home / "bin" / "python").symlink_to(sys.executable)
    shutil.copyfile(path, home / "bncheck-env.json")
    read_marker(home)
    is_usable(home)


def described(path: Path) -> None:
    graph = onnx_file.read(str(path))
    onnx_file.describe(graph)
    onnx_file.batch_norms(graph)
