"""Checkpoints that would run something, reach out of themselves or are no checkpoints: each is a sentence."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_checkpoints import bn, only

from bncheck.checkpoints.pickled import Machine, PickleError, Thing
from bncheck.checkpoints.recognise import Checkpoint, read_checkpoint
from bncheck.errors import CheckpointError


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


class Nested:
    """A pickle of lists nested without end."""


def torch_zip(path: Path, pickled: bytes, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in more.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def sentence_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        for each in read_checkpoint(path):
            assert isinstance(each, Checkpoint)
    return str(caught.value)


def test_a_pickle_that_would_run_something_is_named_and_nothing_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = sentence_of(torch_zip(tmp_path / "harm.pt", pickle.dumps({"a": Harm()})))
    assert "would call posix.system" in text and "ran nothing" in text
    assert not (tmp_path / "harmed").exists()
    for first in (
        b"cos\nsystem\n(S'touch harmed'\ntR.",
        b"(S'touch harmed'\nios\nsystem\n.",
        b"(cos\nsystem\nS'x'\no.",
    ):
        assert "would call os.system" in sentence_of(torch_zip(tmp_path / "old.pt", first))
    assert "builtins.eval" in sentence_of(
        torch_zip(tmp_path / "eval.pt", b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.")
    )


def test_a_class_that_is_nowhere_is_only_a_name() -> None:
    thing = Machine(io.BytesIO(b"cmy.models\nNet\n)R}S'a'\nI3\nsb.")).load()
    assert isinstance(thing, Thing) and (thing.name, thing.state) == ("my.models.Net", {"a": 3})


HOSTILE: dict[str, bytes] = {
    "nested lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "nested marks": b"(" * 300_000 + b".",
    "nested tuples as keys": b"}" + b"N" + b"\x85" * 300_000 + b"Ns.",
    "memo of four billion": b"Nr\xff\xff\xff\xff.",
    "a string of 4 GB": b"X\xff\xff\xff\xffabc",
    "bytes of 16 EB": b"\x8e" + b"\xff" * 8 + b".",
    "a negative string": b"T\xff\xff\xff\xff.",
    "no end": b"N0" * 3_000_000,
    "an empty stack": b"R.",
    "unknown instruction": b"\xff.",
    "append to a number": b"I1\nNa.",
    "a memo that is not there": b"h\x07.",
    "a digit too many": b"I" + b"9" * 50_000 + b"\n.",
    "a name that is a list": b"]]\x93.",
    "a cycle": b"]q\x00h\x00a.",
    "a cycle of mappings": b"}q\x00S'a'\nh\x00s.",
    "itself as state": b"cmy\nNet\n)Rq\x00h\x00b.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_gives_a_sentence_in_time(tmp_path: Path, name: str) -> None:
    began = time.perf_counter()
    assert str(tmp_path) in sentence_of(torch_zip(tmp_path / "x.pt", HOSTILE[name]))
    assert time.perf_counter() - began < 20


def pickled_tensor(size: str, stride: str, offset: str = "I0\n") -> bytes:
    storage = b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
    middle = f"{offset}({size}t({stride}tI00\nN".encode()
    call = b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + middle + b"tR"
    names = [b"bn.running_mean", b"bn.running_var"]
    return b"}" + b"".join(b"S'" + name + b"'\n" + call + b"s" for name in names) + b"."


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ("I-1\n", "I1\n", "I0\n"),
        ("I4\n", "I-1\n", "I0\n"),
        ("I4\n", "I1\n", "I-8\n"),
        ("I4\n", "I1\n", "I100\n"),
        ("I5\n", "I1\n", "I0\n"),
        ("I1000000000000\n", "I0\n", "I0\n"),
        ("I999999999999999999999\n", "I0\n", "I0\n"),
        ("F4.0\n", "I1\n", "I0\n"),
        ("S'nan'\n", "I1\n", "I0\n"),
    ],
)
def test_shapes_that_reach_out_of_their_storage(tmp_path: Path, size: str, stride: str, offset: str) -> None:
    good = torch_zip(tmp_path / "good.pt", pickled_tensor("I4\n", "I1\n"), **{"0": np.arange(4, dtype="<f4").tobytes()})
    assert bn(only(good)).running_mean.tolist() == [0, 1, 2, 3]  # type: ignore[union-attr]
    bad = torch_zip(
        tmp_path / "x.pt", pickled_tensor(size, stride, offset), **{"0": np.arange(4, dtype="<f4").tobytes()}
    )
    sentence_of(bad)


def packed_zeros(path: Path, count: int, declared: int) -> Path:
    """An archive of arrays whose directory says another size than its entries have."""
    content = io.BytesIO()
    np.save(content, np.zeros(count, np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("bn.running_mean", "bn.running_var"):
            archive.writestr(f"{name}.npy", content.getvalue())
    true, said = (struct.pack("<I", size) for size in (len(content.getvalue()), declared))
    path.write_bytes(path.read_bytes().replace(true, said))
    return path


def test_archives_that_unpack_to_another_size_than_they_say(tmp_path: Path) -> None:
    assert "declares 4,000,000,000 bytes" in sentence_of(packed_zeros(tmp_path / "large.npz", 9_000_000, 4_000_000_000))
    assert "damaged" in sentence_of(packed_zeros(tmp_path / "bomb.npz", 9_000_000, 200))


def test_links_in_an_archive_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "link.pt"
    info = zipfile.ZipInfo("archive/data.pkl")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "damaged" in sentence_of(path)


def test_what_is_no_file_or_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("weights\n")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "There is no file" in sentence_of(tmp_path / "gone.pt")
    assert "is empty" in sentence_of(tmp_path / "empty.pt")
    assert "no regular file" in sentence_of(tmp_path / "pipe.pt")
    assert "is damaged" in sentence_of(tmp_path / "text.pt")
    assert "no checkpoint that bncheck knows" in sentence_of(tmp_path / "photo.png")
    (tmp_path / "state.pt.gz").write_bytes(gzip.compress(b"weights"))
    assert "is compressed with gzip" in sentence_of(tmp_path / "state.pt.gz")
    with tarfile.open(tmp_path / "state.tar", "w") as archive:
        archive.add(tmp_path / "text.pt")
    assert "is a tar archive" in sentence_of(tmp_path / "state.tar")
    assert "is a folder" in sentence_of(tmp_path)


HEADERS: dict[str, Callable[[], bytes]] = {
    "huge header": lambda: struct.pack("<Q", 2**60) + b"{}",
    "nested header": lambda: (text := b"{" + b'"a":{' * 100_000, struct.pack("<Q", len(text)) + text)[1],
    "negative shape": lambda: one_safetensor([-2], [0, 8]),
    "shape of text": lambda: one_safetensor(["2"], [0, 8]),
    "shape that is NaN": lambda: one_safetensor([float("nan")], [0, 8]),
    "behind the end": lambda: one_safetensor([2], [0, 8_000_000]),
    "backwards": lambda: one_safetensor([2], [8, 0]),
    "other size": lambda: one_safetensor([3], [0, 8]),
}


def one_safetensor(shape: list[Any], offsets: list[int]) -> bytes:
    text = json.dumps({"bn.running_mean": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_safetensors(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HEADERS[name]())
    assert "damaged" in sentence_of(path)


def test_a_pickle_that_ends_in_the_middle() -> None:
    whole = pickle.dumps({"a": [1, 2.5, "text", b"bytes", (None, True)]})
    for end in range(len(whole)):
        with pytest.raises(PickleError):
            Machine(io.BytesIO(whole[:end])).load()
