"""Hostile input for every reader: whatever a file or an option holds, the answer is a value or a sentence of ours.

    python tests/tools/fuzz.py                          100,000 inputs over all readers, about half an hour
    python tests/tools/fuzz.py --inputs 5000 plan gate  only these readers
    python tests/tools/fuzz.py --seed 7 --keep FOLDER   other inputs; those that fell are written there, made small

An input falls when its reader raises anything else than an error of ours, or takes more than five seconds of CPU. JSON
and TOML are changed as structures, everything as bytes too. What fell once lies in ``tests/corpus``, as
``<reader>-<name>``, and is read by each run of the tests.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import tomllib
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # this checkout
sys.path.insert(0, str(HERE.parent))

from at_the_prompt import bncheck  # noqa: E402
from literal_life import LIFE  # noqa: E402

from bncheck.diagnosis.alone import judge_lives  # noqa: E402
from bncheck.environments.backend_file import find_backends, read_backend  # noqa: E402
from bncheck.environments.folder import is_usable, read_marker  # noqa: E402
from bncheck.environments.targets import parse_targets  # noqa: E402
from bncheck.errors import BncheckError  # noqa: E402
from bncheck.gate.bar import parse_verdict, read_verdict  # noqa: E402
from bncheck.gate.baseline import read_baseline  # noqa: E402
from bncheck.gate.config import read_configuration, read_waivers  # noqa: E402
from bncheck.joining.runs import open_sources  # noqa: E402
from bncheck.playing.cases_file import read_job, read_lines  # noqa: E402
from bncheck.playing.jobs import settle  # noqa: E402
from bncheck.playing.plan_file import read_plan  # noqa: E402
from bncheck.playing.shard import parse_shard  # noqa: E402
from bncheck.python.recording import judge  # noqa: E402
from bncheck.report import render  # noqa: E402
from bncheck.run_folder.answer import read_answer  # noqa: E402
from bncheck.run_folder.cell import read_record, read_trace  # noqa: E402
from bncheck.run_folder.folder import find_run  # noqa: E402
from bncheck.run_folder.lives import read_lives  # noqa: E402
from bncheck.run_folder.results import Results, TargetResult, read_results, write_results  # noqa: E402
from bncheck.run_folder.write_life import write_life  # noqa: E402
from bncheck.scenario_files.files import find_scenarios, load_scenario, parse_override  # noqa: E402
from bncheck.scenario_files.inputs import make_inputs  # noqa: E402
from bncheck.subjects.asked import parse_input, parse_with  # noqa: E402
from bncheck.subjects.checkpoint import look_at  # noqa: E402
from bncheck.subjects.sides import parse_side  # noqa: E402
from bncheck.subjects.thing import parse_thing  # noqa: E402
from bncheck.subjects.watched import answer_of  # noqa: E402
from bncheck.worker.onnx_side import file as onnx_file  # noqa: E402

CORPUS = HERE.parent / "corpus"
CPU_SECONDS = 5.0
MOST_BYTES = 3 * 2**30  # of address space, in the long form
OURS = (BncheckError, onnx_file.FileError)
PIECES = (
    b"[" * 2000, b"]" * 200, b"{" * 2000, b"9" * 5000, b"0x" + b"f" * 5000, b".a" * 5000, b"a" * 5000,
    b"\0", b"\xed\xa0\x80", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"nan", b"inf", b"-1", b"1e999",
    b'"""', b"'''", b"=", b"\n", b"\r\n", b"../../x", b"{}", b"[]", b'"a"."b"', b"1979-05-27", b"#", b",", b"true",
    b"18446744073709551616", b"2147483648",
)  # fmt: skip
NAMES = ("../../x", "/x", "a" * 5000, "\n", "\x1b[31m", "archive/data.pkl", "data.pkl", "x.npy", "metadata.json")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "../../x", "a" * 5000, "9" * 5000, "default", "framework",
    [], {}, [[]], [None] * 3, [1] * 1000, {"": ""}, {"a": {"b": {"c": 1}}},
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """``seeds`` are sound inputs; ``read`` gets a path with the input in it; ``weight`` says how many of all inputs."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    kind: str = "bytes"  # or json, toml
    weight: float = 1.0
    file: str = "input"  # name of the file that it gets


@dataclass(frozen=True)
class Fall:
    reader: str
    data: bytes
    why: str


class TooLong(BaseException):
    """More CPU than any input may take."""


# -------------------------------------------------------------------------------------------------------- changing


def mutated(seed: bytes, others: tuple[bytes, ...], kind: str, rng: random.Random) -> bytes:
    """One to four changes of a sound input."""
    data = seed
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        structured = kind != "bytes" and rng.random() < 0.7
        change = repacked if kind == "zip" else restructured
        data = change(data, kind, rng) if structured else changed(data, others, rng)
    return data


def repacked(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A zip one of whose entries was changed, or called otherwise; its checksums are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return data  # an earlier change has damaged it
    place = rng.randrange(len(entries)) if entries else 0
    found, method = io.BytesIO(), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(found, "w", method) as archive:
        warnings.simplefilter("ignore")  # two of one name are meant
        for number, (name, content) in enumerate((name or "x", content) for name, content in entries):
            given = changed(content, tuple(each for _, each in entries), rng) if number == place else content
            called = rng.choice(NAMES) if number == place and rng.random() < 0.1 else name
            for _ in range(rng.choice((0, 2)) if number == place and rng.random() < 0.1 else 1):
                archive.writestr(called, given)
    return found.getvalue()


def changed(data: bytes, others: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Bytes cut, flipped, repeated, put in, or taken from another input."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 4, 30, 300)))
    match rng.randrange(6):
        case 0:
            return data[:start] + data[end:]
        case 1 if data:
            place = min(start, len(data) - 1)
            return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        case 2:
            return data[:end] + data[start:end] * rng.choice((1, 2, 1000)) + data[end:]
        case 3:
            other = rng.choice(others)
            return data[:start] + other[rng.randrange(len(other) + 1) :]
        case 4:
            return data[:start]
        case _:
            return data[:start] + rng.choice(PIECES) + data[end if rng.random() < 0.5 else start :]


def restructured(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A value of a JSON or TOML document replaced, removed, doubled or put into a list; else the bytes as they are."""
    try:
        value = json.loads(data) if kind == "json" else tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return data
    ways = list(ways_into(value))
    way = rng.choice(ways) if ways else ()
    new = rng.choice(VALUES) if rng.random() < 0.8 or not ways else value_at(value, rng.choice(ways))
    match rng.randrange(5):
        case 0 if way:
            value = without(value, way)
        case 1:
            value = put(value, way, [value_at(value, way)] * rng.choice((1, 3, 300)))
        case _:
            value = put(value, way, new)
    return json.dumps(value).encode() if kind == "json" else as_toml(value).encode("utf-8", "surrogatepass")


def ways_into(value: Any, at: tuple[Any, ...] = (), deep: int = 0) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*at, key)
        if deep < 30:
            yield from ways_into(item, (*at, key), deep + 1)


def value_at(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        value = value[key]
    return value


def put(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = put(value[way[0]], way[1:], new)
    return copy


def without(value: Any, way: tuple[Any, ...]) -> Any:
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(way) == 1:
        del copy[way[0]]
    else:
        copy[way[0]] = without(value[way[0]], way[1:])
    return copy


def as_toml(value: Any) -> str:
    """A document with a line per key and everything below it inline."""
    if not isinstance(value, dict):
        return f"x = {inline(value)}\n"
    return "".join(f"{json.dumps(str(key))} = {inline(item)}\n" for key, item in value.items())


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value) if value > 2**70 else str(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    return "0" if value is None else json.dumps(value)


# --------------------------------------------------------------------------------------------------------- readers


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
        Reader(
            "scenario", tuple(path.read_bytes() for path in find_scenarios()), read_scenario, "toml", 2.0, "evil.toml"
        ),
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
        *checkpoint_readers(),
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
WORDS = (b"int64:8,10", b"8,3,32,32", b"2/3", b"eps=1e-3", b"names=[1, 2]", b"model.py:build", b"torchvision:resnet18",
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
        lives = read_lives(at)
        answer_of(lives, judge_lives(lives), "python train.py")

    for name in ("about.json", "state.json", "log.jsonl", "first-0-000000.npz"):
        kind = {"json": "json", "npz": "zip"}.get(name.rpartition(".")[2], "bytes")
        reader = within(run, f"{place.relative_to(run)}/{name}", judged_lives)
        yield Reader(name.split(".")[0].split("-")[0], ((place / name).read_bytes(),), reader, kind, 1.5)
    yield Reader("recording", (RECORDING,), judge, "json", 1.5, "input.json")


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
    for read in (parse_input, parse_shard, parse_side, parse_thing, find_run, lambda word: parse_with([word])):
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
    render(run, ("csv", "junit", "markdown"), results=results)


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
        settled = settle(at, target, {})
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


# --------------------------------------------------------------------------------------------------------- trying


def stop(number: int, frame: FrameType | None) -> None:
    raise TooLong(f"more than {CPU_SECONDS:g} s of CPU")


def fall_of(reader: Reader, data: bytes, folder: Path) -> Fall | None:
    """Read one input; None when the answer is a value or a sentence."""
    path = folder / reader.file
    path.write_bytes(data)
    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        reader.read(path)
    except OURS as error:
        str(error).encode("utf-8", "backslashreplace")
    except (Exception, TooLong) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {str(error)[:100]} ({Path(where.filename).name}:{where.lineno} {where.name})"
        return Fall(reader.name, data, why)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def smaller(reader: Reader, fall: Fall, folder: Path, tries: int = 200) -> Fall:
    """The fall with as much cut out as still falls at the same place."""
    size = len(fall.data) // 2
    while size and tries:
        start = 0
        while start < len(fall.data) and tries:
            tries -= 1
            found = fall_of(reader, fall.data[:start] + fall.data[start + size :], folder)
            if found is not None and found.why.rpartition("(")[2] == fall.why.rpartition("(")[2]:
                fall = found
            else:
                start += size
        size //= 2
    return fall


def attack(reader: Reader, count: int, seed: int, folder: Path) -> tuple[Counter[str], list[Fall]]:
    """So many inputs for one reader: how many held, and one fall for each place."""
    rng = random.Random(f"{seed} {reader.name}")
    counts: Counter[str] = Counter()
    falls: dict[str, Fall] = {}
    for _ in range(count):
        found = fall_of(reader, mutated(rng.choice(reader.seeds), reader.seeds, reader.kind, rng), folder)
        counts["held" if found is None else "fell"] += 1
        if found is not None:
            falls.setdefault(found.why.rpartition("(")[2], found)
    return counts, list(falls.values())


def corpus(name: str) -> list[Path]:
    return sorted(CORPUS.glob(f"{name}-*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="readers; all when none is named")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        chosen = [reader for name, reader in readers(Path(made)).items() if not options.names or name in options.names]
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        weight, fell = sum(reader.weight for reader in chosen), 0
        for reader in chosen:
            before = resource.getrusage(resource.RUSAGE_SELF)
            counts, falls = attack(reader, round(options.inputs * reader.weight / weight), options.seed, Path(made))
            after = resource.getrusage(resource.RUSAGE_SELF)
            fell += counts["fell"]
            grown, took = (after.ru_maxrss - before.ru_maxrss) >> 10, after.ru_utime - before.ru_utime
            print(
                f"{reader.name:12} {counts.total():7,} inputs, {counts['fell']:5,} fell, {took:6.1f} s, +{grown} MiB",
                flush=True,
            )
            for fall in falls:
                small = smaller(reader, fall, Path(made))
                print(f"    {small.why}\n    {small.data[:100]!r}", flush=True)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{reader.name}-{abs(hash(small.data)) % 16**8:08x}").write_bytes(small.data)
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
