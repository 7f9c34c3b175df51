"""A backend whose packages are wheels written here: only tests marked ``network`` need an index."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bncheck.environments.backend_file import BackendFile, read_backend
from bncheck.environments.pythons import Ready, Unavailable, prepare
from bncheck.environments.targets import parse_target

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BACKEND = f"""
TITLE = "Toy"
MODULE = "bnctoy"
DISTRIBUTION = "bnc-toy"
DEFAULT_VERSION = "1.0"
VARIANTS = {{"": "plain", "fast": "with an extra", "numeric": "with NumPy"}}
DEVICES = ("cpu", "cuda")
REQUIREMENTS = [
    {{"versions": ">=9", "python": ">=3.99", "packages": ["bnc-toy=={{version}}"]}},
    {{"python": "=={MINOR}.*", "packages": ["bnc-toy=={{version}}"]}},
]
VARIANT_REQUIREMENTS = {{"fast": ["bnc-extra"], "numeric": ["numpy"]}}
"""


def wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any") -> None:
    """A wheel with one module that knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    module, info = name.replace("-", ""), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-{tag}.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, BackendFile]:
    """A backend whose wheels lie in a folder, an empty cache, and no index settings of this machine."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("BNCHECK_CACHE", str(tmp_path / "cache"))
    for version in ("1.0", "1.1+cpu"):
        wheel(tmp_path / "wheels", "bnc-toy", version)
    wheel(tmp_path / "wheels", "bnc-extra", "3.0")
    wheel(tmp_path / "wheels", "numpy", "1.99")
    path = tmp_path / "toy.py"
    path.write_text(BACKEND)
    return {"toy": read_backend(path)}


def make(toy: dict[str, BackendFile], name: str = "toy", said: list[str] | None = None) -> Ready | Unavailable:
    target = parse_target(name, toy)
    return prepare([target], toy, report=(said if said is not None else []).append)[target]


def answer(python: Path, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
