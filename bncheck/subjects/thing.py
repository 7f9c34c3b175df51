"""What somebody names on the command line: code that makes a layer or a model, an ONNX file, a checkpoint."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bncheck.bounded import is_folder, is_link, is_regular, is_there, read_bounded
from bncheck.errors import UsageError, nearest
from bncheck.subjects.proposed import names_in, proposal

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
FORMS = "file.py:Name, package.module:Name, model.onnx, or a checkpoint"
# Endings of checkpoints; those that modules have as names too (``tensorflow.keras:Layer``) are not among them.
STATES = {".pt", ".pth", ".ckpt", ".safetensors", ".npz", ".npy", ".pdparams", ".pkl", ".h5", ".hdf5", ".msgpack"}
EXPORTED = (".tflite", ".xml")  # TFLite and OpenVINO: read by their own runtime alone
MOST_BYTES = 8_000_000  # of a source file
# The framework that a package's things are made of; packages not listed here are asked of torch.
OTHER_FRAMEWORKS = {"keras": "Keras", "tensorflow": "TensorFlow", "tf_keras": "tf.keras", "mxnet": "MXNet"}
# Of those, the ones whose layers are taken as well: name → backend.
TAKEN = {"Keras": "keras", "TensorFlow": "keras", "Paddle": "paddle", "Flax": "flax", "MXNet": "mxnet"}
OTHER_FRAMEWORKS |= {"flax": "Flax", "haiku": "Haiku", "paddle": "Paddle", "mlx": "MLX", "tinygrad": "tinygrad"}

Kind = Literal["code", "onnx", "checkpoint"]


@dataclass(frozen=True)
class Thing:
    """``text`` as the user wrote it. Code has a ``module`` (a package's, or the absolute path of a file) and a
    ``name`` in it, of a class or function; a file has its ``path``."""

    kind: Kind
    text: str
    module: str = ""
    name: str = ""
    path: Path | None = None
    framework: str = "torch"
    engine: str = ""  # of Keras, where the file calls one itself

    @property
    def code(self) -> str:
        """As ``network.custom`` and ``network.model`` take it."""
        return f"{self.module}:{self.name}"


def parse_thing(text: str) -> Thing:
    """UsageError where nothing of that name can be meant, with what can."""
    module, colon, name = text.rpartition(":")
    if colon and Path(module).suffix.lower() in STATES and not is_there(Path(*module.split(".")).with_suffix(".py")):
        existing(Path(module))
        raise UsageError(f"check looks at every state of {module}, not at {name!r} alone", f"bncheck check {module}")
    if colon and NAME.fullmatch(name) and (module.endswith(".py") or NAME.fullmatch(module)):
        return in_file(text, module, name) if module.endswith(".py") else in_package(text, module, name)
    path = Path(text)
    if path.suffix == ".py":
        source = source_of(existing(path))
        names = names_in(source)
        listed = f"it defines {', '.join(names)}" if names else "it defines no class or function"
        raise UsageError(f"{text} is a file of code: which class or function of it? ({listed})", proposal(text, source))
    if path.suffix.lower() in EXPORTED:
        raise UsageError(
            f"{existing(path)} holds no BatchNorm of its own to judge: exporters fold it.",
            f"hold it against what it was made of: bncheck diff model.py:build {text}",
        )
    if colon and not is_there(path) and (":" in path.name):
        raise UsageError(f"cannot read {text!r}: {name!r} is no name of a class or function", FORMS)
    return Thing("onnx" if path.suffix == ".onnx" else "checkpoint", text, path=existing(path).absolute())


def existing(path: Path) -> Path:
    if is_regular(path):
        return path
    if is_folder(path):
        return path  # SavedModel, orbax: whoever reads it says what it is
    if is_there(path):
        raise UsageError(f"{path} is no regular file", "copy what it gives into one, and name that")
    if is_link(path):
        raise UsageError(f"{path} is a link that leads nowhere", "name the file that it should lead to")
    folder = path.parent
    names = [each.name for each in folder.iterdir()] if is_folder(folder) else []
    alike = [name for name in names if Path(name).suffix == path.suffix]  # train.py is no slip for nothing.pt
    near = nearest(path.name, alike or names)
    hint = f"Did you mean {folder / near}? " if near else ""
    raise UsageError(f"there is no file {path}", f"{hint}What can be checked: {FORMS}")


def in_file(text: str, module: str, name: str) -> Thing:
    path = existing(Path(module)).absolute()
    source = source_of(path)
    framework = framework_of(source)
    if framework not in TAKEN:
        refuse_other(text, framework)
    taken = TAKEN.get(framework, "torch")
    engine = engine_of(source) if taken == "keras" else ""
    return Thing("code", text, module=str(path), name=name, path=path, framework=taken, engine=engine)


def in_package(text: str, module: str, name: str) -> Thing:
    """A package of the current folder is a file; one that is installed is known to the user's interpreter alone."""
    parts = module.split(".")
    for path in (Path(*parts).with_suffix(".py"), Path(*parts) / "__init__.py"):
        if is_regular(path):
            return in_file(text, str(path), name)
    framework = OTHER_FRAMEWORKS.get(parts[0], "")
    if framework not in TAKEN:
        refuse_other(text, framework)
    return Thing("code", text, module=module, name=name, framework=TAKEN.get(framework, "torch"))


def refuse_other(text: str, framework: str) -> None:
    if framework:
        raise UsageError(
            f"{text} is made of {framework}; check takes layers and models of PyTorch, Keras, Paddle, Flax nnx and "
            "MXNet Gluon",
            "its checkpoint file, or an ONNX file exported from it, can be checked alone",
        )


def source_of(path: Path) -> ast.Module | None:
    """None where it cannot be read as Python: whoever imports it says why, and on which line."""
    try:
        return ast.parse(read_bounded(path, MOST_BYTES))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def framework_of(source: ast.Module | None) -> str:
    """The other framework that a file imports, if it imports no torch, or Keras with it: "" for torch's, or where it
    does not show."""
    packages = imported(source)
    if "keras" in packages:
        return "Keras"  # on PyTorch, where that is imported too
    if "torch" in packages:
        return ""
    return next((OTHER_FRAMEWORKS[name] for name in packages if name in OTHER_FRAMEWORKS), "")


def engine_of(source: ast.Module | None) -> str:
    """What a file of Keras computes with by itself, beside keras.ops; "" where it shows nothing of the kind."""
    packages = imported(source)
    return next((name for name in ("tensorflow", "jax", "torch") if name in packages), "")


def imported(source: ast.Module | None) -> list[str]:
    """The packages that a file imports, in order."""
    packages: list[str] = []
    for node in ast.walk(source) if source else ():
        if isinstance(node, ast.Import):
            packages += [name.name.partition(".")[0] for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.append(node.module.partition(".")[0])
    return packages
