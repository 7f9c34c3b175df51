"""What a program may be called and do to the disk, and its recording is still one that is read."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bncheck.run_folder.lives import StoredLayer
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
