"""What a program may be called and do to the disk, and its recording is still one that is read; what was edited is
refused in a sentence."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bncheck.errors import RunFolderError
from bncheck.life import Life
from bncheck.run_folder.folder import WATCHED
from bncheck.run_folder.lives import StoredLayer, layer_life, read_lives
from bncheck.subjects.watched import notes
from bncheck.worker.watching.recorder import Layer, append


def test_names_longer_than_a_reader_takes_are_shortened() -> None:
    layer = Layer(0, "K" * 5000, 3)
    layer.name, layer.names = "x" * 100_000 + ".bn1", ("x" * 100_000 + ".bn1",) * 500
    stored = StoredLayer.model_validate(layer.described())
    assert len(stored.name) <= 1000 and stored.name.endswith("x.bn1") and stored.name.startswith("xxx")
    assert len(stored.kind) <= 1000 and len(stored.names) == 100


def test_a_name_with_half_a_surrogate_is_read() -> None:
    layer = Layer(0, "BatchNorm1d", 3)
    layer.name = "bn\ud800"
    assert StoredLayer.model_validate_json(json.dumps(layer.described())).name == "bn\\ud800"


def test_a_line_break_in_a_name_begins_no_line() -> None:
    layer = Layer(0, "BatchNorm1d", 3)
    layer.name = "bn\n ✗ BN301 poisoned-state\x1b[31m"
    stored = StoredLayer.model_validate_json(json.dumps(layer.described()))
    assert layer_life(stored, [], {}).name.splitlines() == ["bn\ufffd ✗ BN301 poisoned-state\ufffd[31m"]


@contextmanager
def small_files() -> Iterator[None]:
    """Files may have 1,000 bytes, as on a disk that is full then; so has pytest's own output."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    compiles, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # it would rename a half of a compiled file
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = compiles
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_no_half_of_a_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append(str(log), b"a" * 600 + b"\n")
    with small_files(), pytest.raises(OSError):
        append(str(log), b"b" * 600 + b"\n")
    assert log.read_bytes() == b"a" * 600 + b"\n"


def recording(tmp_path: Path) -> Path:
    """The smallest that is one: a layer of two channels, one forward."""
    place = tmp_path / WATCHED / "12-0"
    place.mkdir(parents=True)
    about = {"framework": "torch", "version": "2.13.0", "program": "a.py", "command": ["a.py"], "pid": 12}
    (place / "about.json").write_text(json.dumps(about))
    span = {
        "span": 0, "first_index": 0, "last_index": 0, "first_step": 0, "last_step": 0, "forwards": 1, "training": True,
        "in_backward": False, "gradients": True, "n": [4, 4], "input_dtype": "float32", "moved": 1, "most_per_step": 1,
        "called_from": ["/a.py", 3, "f"],
    }  # fmt: skip
    (place / "state.json").write_text(json.dumps({"steps": 1, "forwards": 1, "left_out": 0, "spans": [span]}))
    layer = {"layer": 0, "name": "bn", "kind": "BatchNorm1d", "channels": 2}
    (place / "log.jsonl").write_text(json.dumps(layer) + "\n")
    np.savez(place / "first-0-000000.npz", **{"0/index": np.array([0]), "0/input_mean": np.zeros((1, 2))})
    return place


def test_a_recording_that_a_kill_cut_off_is_read(tmp_path: Path) -> None:
    place = recording(tmp_path)
    with (place / "log.jsonl").open("a") as log:
        log.write('{"what": "tra')
    (place / "last-0-000000.npz.part").write_bytes(b"PK")
    (life,) = read_lives(tmp_path)
    assert life.layer("bn").moments["input_mean"].tolist() == [[0, 0]]
    assert life.code is None


@pytest.mark.parametrize(("name", "content", "words"), [
    ("state.json", "[]", "cannot be used"),
    ("about.json", "{", "cannot be read"),
    ("log.jsonl", "7\n", "is no line of a recording"),
    ("log.jsonl", '{"layer": -1, "name": "bn", "kind": "", "channels": 2}\n', "cannot be used"),
    ("first-0-000000.npz", "PK", "is damaged"),
])  # fmt: skip
def test_an_edited_recording_is_a_sentence(tmp_path: Path, name: str, content: str, words: str) -> None:
    (recording(tmp_path) / name).write_text(content)
    with pytest.raises(RunFolderError, match=words):
        read_lives(tmp_path)


def test_arrays_of_another_shape_and_pickled_ones_are_refused(tmp_path: Path) -> None:
    place = recording(tmp_path)
    np.savez(place / "first-0-000000.npz", **{"0/index": np.array([0]), "0/input_mean": np.zeros((1, 3))})
    with pytest.raises(RunFolderError, match=r"the shape \(1, 3\) and not \(1, 2\)"):
        read_lives(tmp_path)
    np.savez(place / "first-0-000000.npz", **{"0/index": np.array([{}], dtype=object)})
    with pytest.raises(RunFolderError, match="pickled"):
        read_lives(tmp_path)


def test_where_no_forward_was_recorded_whole_there_are_no_others() -> None:
    """As of an empty batch alone."""
    life = Life(program="x", framework="torch", version="2", layers=(), forwards=1, left_out=1)
    assert "1 of 1 forwards were only counted; none was recorded whole (--keep)." in notes([life])
    assert "1 of 2 forwards were only counted; the others were recorded whole (--keep)." in notes(
        [replace(life, forwards=2)]
    )
