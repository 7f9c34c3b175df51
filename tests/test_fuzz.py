"""Hostile input for every reader (``tests/tools/fuzz.py``): what fell once, and a few hundred new ones each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import CORPUS, attack, corpus, fall_of
from fuzzed_readers import Reader, readers

NAMES = ("scenario", "override", "config", "waivers", "targets", "backend", "words", "plan", "gate", "baseline",
         "results", "result", "trace", "tar", "environment", "cases", "answer", "marker", "onnx", "contents", "new",
         "init", "runs", "kept", "kepthead", "keptcells", "origin", "paces", "pip", "uv", "folders", "pt", "npz",
         "keras", "h5", "pdparams", "params", "msgpack", "safetensors", "played", "about", "state", "log", "first",
         "lines", "marks", "recording", "arrays")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, Reader]:
    return readers(folder)


def test_every_reader_is_attacked(known: dict[str, Reader]) -> None:
    assert tuple(known) == NAMES
    assert {path.name.partition("-")[0] for path in CORPUS.iterdir()} <= set(NAMES)


@pytest.mark.parametrize("path", [path for name in NAMES for path in corpus(name)], ids=lambda path: str(path.name))
def test_what_fell_once_holds(path: Path, known: dict[str, Reader], folder: Path) -> None:
    fall = fall_of(known[path.name.partition("-")[0]], path.read_bytes(), folder)
    assert fall is None, fall.why


@pytest.mark.parametrize("name", NAMES)
def test_new_input_holds(name: str, known: dict[str, Reader], folder: Path) -> None:
    reader = known[name]
    for data in reader.seeds[:3]:  # a sound one is read
        fall = fall_of(reader, data, folder)
        assert fall is None, fall.why
    _, falls = attack(reader, round(40 * reader.weight), 0, folder)
    assert falls == [], falls[0].why
