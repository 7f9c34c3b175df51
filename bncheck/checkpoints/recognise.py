"""What kind of file it is: told by its first bytes, then by what lies in it, and only then by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bncheck.checkpoints import (
    arrays,
    hdf5,
    keras_file,
    msgpack_file,
    mxnet_file,
    normalisers,
    onnx_graph,
    pickle_file,
    safetensors_file,
    torch_file,
)
from bncheck.checkpoints.tensor import Stretch, Tensor, damaged, whole_file
from bncheck.checkpoints.tree import State, states
from bncheck.checkpoints.zipped import entries
from bncheck.errors import CheckpointError
from bncheck.life import Holding

READS = (
    "PyTorch (.pt, .pth), safetensors, NumPy (.npz, .npy), Keras (.keras, .h5), Paddle (.pdparams), MXNet (.params), "
    "Flax (.msgpack) and ONNX"
)


@dataclass(frozen=True)
class Checkpoint:
    """One state of a file: what its normalising layers hold, and every tensor of it by name, to be read on demand."""

    holding: Holding
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    path: str = ""  # of the state in the file; "" where it is the whole
    beside: Mapping[str, str] = field(default_factory=dict)  # weight → its bias, where the file says which it is
    axes: Mapping[str, int] = field(default_factory=dict)  # weight → its axis of output channels, where that is known


@dataclass(frozen=True)
class Contents:
    """What a reader gives: a tree, the kind of file, and whose words it is in ("" where it does not say)."""

    tree: Any
    format: str
    framework: str = ""
    separator: str = "."
    remarks: tuple[str, ...] = ()
    nested: bool = False  # one state, however deep its mappings go
    beside: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> tuple[Checkpoint, ...]:
    """Every state of a file that has normalising layers, in the file's order; where none has, the largest.

    CheckpointError, a sentence, for what is missing, damaged, hostile or of no format that bncheck reads."""
    try:
        contents = contents_of(path)
        parts = states(contents.tree, contents.separator, contents.nested)
        found = [checkpoint(path, contents, state) for state in parts]
    except RecursionError:
        raise damaged(path, "it is nested too deep") from None
    except MemoryError:
        raise CheckpointError(f"{path} takes more memory than there is.", "check it on a larger machine") from None
    if not found:
        raise CheckpointError(f"{path} holds no tensors: {contents.format} of something else than weights.")
    with_layers = tuple(each for each in found if each.holding.layers)
    return with_layers or (max(found, key=lambda each: sum(tensor.size for tensor in each.tensors.values())),)


def checkpoint(path: Path, contents: Contents, state: State) -> Checkpoint:
    remarks = list(contents.remarks)
    layers = normalisers.layers_of(state, remarks)
    used = {key for layer in layers for key in layer.keys.values()}
    name = f"{path.name}:{state.path}" if state.path else path.name
    return Checkpoint(
        holding=Holding(
            name=name,
            framework=contents.framework or framework_of(used),
            format=contents.format,
            layers=layers,
            others={key: tensor.shape for key, tensor in state.tensors.items() if key not in used},
            remarks=tuple(remarks),
        ),
        tensors=state.tensors,
        path=state.path,
        beside=contents.beside,
    )


def framework_of(keys: set[str]) -> str:
    """Whose words the names of statistics are; "" where more than one framework uses them."""
    words = {key.removesuffix(":0").replace("/", ".").rpartition(".")[2] for key in keys}
    if words & {"moving_variance", "moving_mean"}:
        return "keras"
    if words & {"_variance"}:
        return "paddle"
    if any(key.startswith("batch_stats") for key in keys) or {"mean", "var", "scale"} <= words:
        return "flax"
    if "num_batches_tracked" in words or {"running_mean", "running_var", "weight"} <= words:
        return "torch"
    return "mxnet" if {"running_mean", "running_var", "gamma"} <= words else ""


def contents_of(path: Path) -> Contents:
    file = whole_file(path)
    if not file.size:
        raise CheckpointError(f"{path} is empty.", "save it again")
    head = file.read(0, min(file.size, 16))
    for begins, read in BY_CONTENT:
        if head.startswith(begins):
            return read(path)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and (2 <= length <= file.size or path.suffix == ".safetensors"):
        return of_safetensors(path)
    refuse_wrapped(path, head, file)
    reader = BY_SUFFIX.get(path.suffix.lower())
    if reader is not None:
        return reader(path)
    raise CheckpointError(f"{path} is no checkpoint that bncheck knows.", f"bncheck reads {READS}")


def refuse_wrapped(path: Path, head: bytes, file: Stretch) -> None:
    """Archives around a checkpoint are their owner's to open: nothing is unpacked to the disk here."""
    kinds = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
    kind = next((word for begins, word in kinds.items() if head.startswith(begins)), "")
    if kind:
        raise CheckpointError(f"{path} is compressed with {kind}.", "unpack it, and name the file inside")
    if file.size >= 512 and file.read(257, 5) == b"ustar":
        raise CheckpointError(f"{path} is a tar archive.", "unpack it, and name the file inside")


def of_zip(path: Path) -> Contents:
    names = entries(path)
    if "model.weights.h5" in names:
        tree, remarks = keras_file.read_archive(path, names)
        return Contents(tree, "Keras", "keras", "/", tuple(remarks), nested=True)
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return Contents(tree=torch_file.read_zip(path), format="PyTorch", framework="torch")
    return Contents(tree=arrays.read_npz(path), format="NumPy")


def of_npy(path: Path) -> Contents:
    tree = arrays.read_npy(path)
    return Contents(tree={path.stem: tree} if isinstance(tree, Tensor) else tree, format="NumPy")


def of_pickle(path: Path) -> Contents:
    first = pickle_file.first_of(path)
    if pickle_file.is_torch(first):
        return Contents(tree=torch_file.read_stream(path), format="PyTorch before 1.6", framework="torch")
    tree, by_paddle = pickle_file.read(path, first)
    return Contents(tree=tree, format="Paddle" if by_paddle else "pickle", framework="paddle" if by_paddle else "")


def of_hdf5(path: Path) -> Contents:
    tree, remarks = keras_file.read_file(path)
    return Contents(tree, "Keras", "keras", "/", tuple(remarks), nested=True)


def of_mxnet(path: Path) -> Contents:
    return Contents(tree=mxnet_file.read(path), format="MXNet", framework="mxnet")


def of_msgpack(path: Path) -> Contents:
    return Contents(msgpack_file.read(path), "Flax msgpack", "flax", "/", nested=True)


def of_onnx(path: Path) -> Contents:
    tree, beside = onnx_graph.read(path)
    return Contents(tree=tree, format="ONNX", framework="onnx", beside=beside)


def of_safetensors(path: Path) -> Contents:
    tensors, metadata = safetensors_file.read(path)
    words = {"pt": "torch", "tf": "keras", "flax": "flax", "paddle": "paddle", "mlx": "mlx"}
    return Contents(tree=tensors, format="safetensors", framework=words.get(metadata.get("format", ""), ""))


Read = Callable[[Path], Contents]
BY_CONTENT: tuple[tuple[bytes, Read], ...] = (
    (b"PK\x03\x04", of_zip),
    (b"PK\x05\x06", of_zip),
    (b"\x93NUMPY", of_npy),
    (hdf5.SIGNATURE, of_hdf5),
    (mxnet_file.MAGIC, of_mxnet),
    (b"\x80\x02", of_pickle),
    (b"\x80\x03", of_pickle),
    (b"\x80\x04", of_pickle),
    (b"\x80\x05", of_pickle),
)
BY_SUFFIX: dict[str, Read] = {
    ".safetensors": of_safetensors,
    ".npz": of_zip,
    ".npy": of_npy,
    ".pt": of_zip,
    ".pth": of_zip,
    ".pdparams": of_pickle,
    ".pkl": of_pickle,
    ".pickle": of_pickle,
    ".params": of_mxnet,
    ".h5": of_hdf5,
    ".hdf5": of_hdf5,
    ".keras": of_zip,
    ".msgpack": of_msgpack,
    ".flax": of_msgpack,
    ".onnx": of_onnx,
}
