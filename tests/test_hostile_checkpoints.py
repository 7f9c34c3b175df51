"""Checkpoints that were made to take a reader's time, memory or temper. Each fell once."""

from __future__ import annotations

import io
import json
import resource
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bncheck.checkpoints.hdf5 import SIGNATURE
from bncheck.checkpoints.recognise import read_checkpoint
from bncheck.checkpoints.tensor import natural, widened
from bncheck.errors import CheckpointError

HEAD = b"\x80\x04"
CPU_SECONDS = 2.0


def sentence_of(path: Path) -> str:
    began = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert time.process_time() - began < CPU_SECONDS
    return str(caught.value)


def torch_zip(path: Path, stream: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream)
    return path


def doubling(empty: bytes, fill: bytes) -> bytes:
    """A node that holds the one before it twice, sixty times over: 2^60 places."""
    stream = HEAD + empty + b"q\x00"
    for level in range(1, 60):
        before = b"h" + bytes([level - 1])
        stream += empty + b"q" + bytes([level]) + fill.replace(b"?", before)
    return stream + b"."


@pytest.mark.parametrize(
    "stream",
    [
        doubling(b"]", b"(??e"),
        doubling(b"}", b"(K\x01?K\x02?u"),
        doubling(b"ccollections\nOrderedDict\n)R", b"(K\x01?K\x02?u"),
    ],
    ids=["lists", "mappings", "ordered mappings"],
)
@pytest.mark.parametrize("name", ["state.pkl", "state.pdparams"])
def test_a_node_in_very_many_places_is_read_once(tmp_path: Path, name: str, stream: bytes) -> None:
    (tmp_path / name).write_bytes(stream)
    assert "holds no tensors" in sentence_of(tmp_path / name)


def test_what_would_be_called_later_is_an_attack_too(tmp_path: Path) -> None:
    path = tmp_path / "later.pkl"
    path.write_bytes(HEAD + b"cfunctools\npartial\ncos\nsystem\n\x8c\x02id\x86R)R.")
    assert "would call os.system" in sentence_of(path)


def nested_parameters(depth: int) -> bytes:
    stream = HEAD + b"}\x8c\x01wctorch._utils\n_rebuild_parameter\nq\x00K\x01\x85R"
    return stream + b"q\x01h\x00h\x01\x85R" * depth + b"s."


def test_parameters_of_parameters(tmp_path: Path) -> None:
    assert "nested too deep" in sentence_of(torch_zip(tmp_path / "deep.pt", nested_parameters(20_000)))


def test_numbers_too_long_to_be_shown(tmp_path: Path) -> None:
    number = b"\x8b" + struct.pack("<i", 20_000) + b"\x7f" * 20_000
    stored = b"(\x8c\x07storagectorch\nFloatStorage\n" + number + b"\x8c\x03cpuK\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"K\x00K\x04\x85K\x01\x85tR"
    assert "20,000 bytes" in sentence_of(torch_zip(tmp_path / "long.pt", HEAD + b"}\x8c\x01w" + tensor + b"s."))


def test_long_names_of_very_many_values(tmp_path: Path) -> None:
    stream = HEAD + b"(K\x00ctorch._utils\n_rebuild_tensor_v2\n((\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c"
    stream += b"\x03cpuK\x01tQK\x00K\x01\x85K\x01\x85tR"
    for level in range(60):
        stream += b"}\x94X" + struct.pack("<I", 500) + b"%03d" % level + b"k" * 497
    stream += b"](" + b"K\x01" * 400_000 + b"e" + b"s" * 60 + b"t."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "names of what it holds" in sentence_of(torch_zip(tmp_path / "names.pt", stream))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


def test_compressed_arrays_are_not_held_in_memory(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (50_000_000,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(4):
            with archive.open(f"weight{number}.npy", "w") as entry:
                entry.write(header.getvalue())
                for _ in range(200):
                    entry.write(bytes(1_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (found,) = read_checkpoint(tmp_path / "bomb.npz")
    assert found.tensors["weight3"].shape == (50_000_000,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert not found.tensors["weight3"].read().any()


def test_a_text_is_not_called_an_archive_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("hello")
    (tmp_path / "short.pt").write_bytes(b"PK\x03\x04" + bytes(40))
    assert "it does not begin as a file of its kind does, or is of another kind" in sentence_of(tmp_path / "notes.pt")
    assert "cut off" in sentence_of(tmp_path / "short.pt")


def test_a_damaged_lzma_entry(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.arange(100.0))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", content.getvalue())
    raw = bytearray((tmp_path / "x.npz").read_bytes())
    raw[45:70] = bytes(each ^ 0xFF for each in raw[45:70])
    (tmp_path / "x.npz").write_bytes(raw)
    assert "is damaged" in sentence_of(tmp_path / "x.npz")


def safetensors(path: Path, header: object) -> Path:
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(16))
    return path


def test_a_type_that_is_no_word(tmp_path: Path) -> None:
    entry = {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}
    assert "has no type" in sentence_of(safetensors(tmp_path / "x.safetensors", {"a": entry}))


def test_more_layers_than_any_model(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    names = [f"{number}.{word}" for number in range(20_001) for word in ("running_mean", "running_var")]
    path = safetensors(tmp_path / "many.safetensors", dict.fromkeys(names, entry))
    with pytest.raises(CheckpointError, match="20,001 normalising layers"):
        read_checkpoint(path)


def text(word: str) -> bytes:
    return bytes([0xD9, len(word.encode())]) + word.encode()


def test_names_of_digits_that_are_no_numbers(tmp_path: Path) -> None:
    assert sorted(["bn3²", "bn²", "bn10", "bn2"], key=natural) == ["bn2", "bn3²", "bn10", "bn²"]
    (tmp_path / "x.msgpack").write_bytes(b"\x81" + text("3²") + b"\x01")
    assert "holds no tensors" in sentence_of(tmp_path / "x.msgpack")


def test_chunks_whose_shape_has_keys_of_two_kinds(tmp_path: Path) -> None:
    shape = b"\x82\x01\x01" + text("a") + b"\x02"
    (tmp_path / "x.msgpack").write_bytes(b"\x82" + text("__msgpack_chunked_array__") + b"\xc3" + text("shape") + shape)
    assert "holds no tensors" in sentence_of(tmp_path / "x.msgpack")


def test_an_array_in_chunks_is_not_taken_for_its_first_one(tmp_path: Path) -> None:
    array = b"\x93\x91\x02" + text("float32") + b"\xc4\x08" + bytes(8)
    whole = b"\xc7" + bytes([len(array)]) + b"\x01" + array
    chunked = b"\x83" + text("__msgpack_chunked_array__") + b"\xc3" + text("shape") + b"\x81" + text("0") + b"\x05"
    chunked += text("chunks") + b"\x81" + text("0") + whole
    bn = b"\x82" + text("mean") + chunked + text("var") + chunked
    scale = b"\x82" + text("scale") + chunked + text("bias") + chunked
    tree = b"\x82" + text("params") + b"\x81" + text("bn") + scale + text("batch_stats") + b"\x81" + text("bn") + bn
    (tmp_path / "x.msgpack").write_bytes(tree)
    assert "array in chunks" in sentence_of(tmp_path / "x.msgpack")


def test_a_million_arrays_that_hold_nothing(tmp_path: Path) -> None:
    count = 150_000
    arrays = struct.pack("<Iii", 0xF993FAC9, 0, 0) * count
    (tmp_path / "x.params").write_bytes(struct.pack("<QQQ", 0x112, 0, count) + arrays + struct.pack("<Q", 0))
    assert "holds no tensors" in sentence_of(tmp_path / "x.params")


def group(links: list[tuple[bytes, int]]) -> bytes:
    """An object header of the newer layout with a hard link per member."""
    body = b""
    for name, address in links:
        link = b"\x01\x00" + bytes([len(name)]) + name + struct.pack("<Q", address)
        body += struct.pack("<BHB", 6, len(link), 0) + link
    return b"OHDR\x02\x00" + bytes([len(body)]) + body + bytes(4)


def superblock(root: int) -> bytes:
    return SIGNATURE + b"\x02\x08\x08\x00" + struct.pack("<QQQQ", 0, 2**64 - 1, 0, root) + bytes(4)


def doubled_groups() -> bytes:
    size, first = len(group([(b"a", 0), (b"b", 0)])), 48
    places = [first + level * size for level in range(31)]
    return superblock(first) + b"".join(
        group([(b"a", places[level + 1]), (b"b", places[level + 1])]) for level in range(30)
    ) + group([]) + bytes(16)  # fmt: skip


def test_groups_that_hold_the_next_one_twice(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(doubled_groups())
    assert "in a circle" in sentence_of(tmp_path / "x.h5")


def with_config(path: Path, layer: dict[str, object]) -> Path:
    with zipfile.ZipFile(Path(__file__).parent / "data" / "checkpoints.zip") as archive:
        weights = archive.read("keras3.weights.h5")
    config = {"config": {"layers": [{"class_name": "BatchNormalization", "config": layer}]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", weights)
        archive.writestr("config.json", json.dumps(config))
    return path


def test_an_epsilon_larger_than_any_float(tmp_path: Path) -> None:
    (found,) = read_checkpoint(with_config(tmp_path / "x.keras", {"name": "bn", "epsilon": 10**400, "scale": []}))
    assert found.holding.layers


def test_numbers_are_read_in_the_order_of_bytes_that_their_file_has() -> None:
    """1.0 is 0x3f800000, and the upper half of it in bfloat16."""
    assert widened(b"\x00\x00\x80\x3f", "float32").tolist() == [1.0]
    assert widened(b"\x3f\x80\x00\x00", "float32", ">").tolist() == [1.0]
    assert widened(b"\x80\x3f", "bfloat16").tolist() == [1.0]
    assert widened(b"\x3f\x80", "bfloat16", ">").tolist() == [1.0]
