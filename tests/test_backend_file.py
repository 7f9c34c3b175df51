"""Backend files are read as literals, never run, and a wrong constant is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bncheck.environments.backend_file import BACKENDS_FOLDER, find_backends, read_backend
from bncheck.errors import TargetError

GOOD = """
import a_framework_that_is_not_here
raise SystemExit("the host must not run this file")
TITLE = "Toy"
MODULE = "toy"
DISTRIBUTION = "toy-dist"
DEFAULT_VERSION = "2.1"
VARIANTS = {"": "plain", "fast": "another"}
DEVICES = ("cpu", "cuda")
REQUIREMENTS = [
    {"versions": ">=2", "python": ">=3.10", "packages": ["toy-dist=={version}", "numpy"]},
    {"packages": ["toy-dist=={version}", "numpy<2"]},
]
VARIANT_REQUIREMENTS = {"fast": ["speed>=1"]}
"""


@pytest.mark.parametrize("name", list(find_backends()))
def test_all_that_a_shipped_file_says_stands_before_its_first_function(name: str, tmp_path: Path) -> None:
    """Only that much of it is parsed; of a file of the user's, all."""
    shipped = find_backends()[name]
    whole = read_backend(written(tmp_path, shipped.path.read_text(encoding="utf-8"), f"{name}.py"))
    assert replace(whole, path=shipped.path) == shipped


def test_a_file_of_the_users_may_say_it_anywhere(tmp_path: Path) -> None:
    text = "def describe(variant, device):\n    return {}\n" + GOOD
    assert read_backend(written(tmp_path, text)).title == "Toy"


def written(folder: Path, text: str, name: str = "toy.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_is_read_without_running_it(tmp_path: Path) -> None:
    backend = read_backend(written(tmp_path, GOOD))
    assert (backend.name, backend.title, backend.module) == ("toy", "Toy", "toy")
    assert backend.devices == ("cpu", "cuda")
    assert backend.variant_requirements == {"fast": ("speed>=1",)}
    assert not backend.free_variants


@pytest.mark.parametrize(
    ("version", "packages"),
    [
        ("2.1", ("toy-dist==2.1", "numpy")),
        ("1.9", ("toy-dist==1.9", "numpy<2")),
        ("2.0rc1", ("toy-dist==2.0rc1", "numpy<2")),
    ],
)
def test_the_first_row_that_holds_the_version_wins(tmp_path: Path, version: str, packages: tuple[str, ...]) -> None:
    row = read_backend(written(tmp_path, GOOD)).row_for(version)
    assert row is not None
    assert row.fill(version) == packages


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('TITLE = "Toy"', "", "TITLE is missing"),
        ('TITLE = "Toy"', "TITLE = 3", "toy.py:4: TITLE is int, not str"),
        ('"toy"\n', "name()\n", "toy.py:5: MODULE is not a plain literal"),
        ('("cpu", "cuda")', "()", "toy.py:9: DEVICES must list names"),
        ('("cpu", "cuda")', '("../cpu",)', "DEVICES must list names"),
        ('{"": "plain", "fast": "another"}', "{}", "VARIANTS must map"),
        ('">=2"', '"about 2"', "REQUIREMENTS row 1"),
        ('"numpy<2"]', '"numpy 2 or so"]', "which is no requirement"),
        ('"python": ', '"pyhton": ', "row 1 has unknown keys pyhton"),
        ("TITLE =", "TITLE = =", "toy.py:4: not Python"),
    ],
)
def test_a_wrong_constant_is_named_with_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(TargetError) as caught:
        read_backend(written(tmp_path, GOOD.replace(old, new, 1)))
    assert message in caught.value.message
    assert str(tmp_path / "toy.py") in caught.value.message
    assert caught.value.remedy


def test_a_file_that_is_not_there_or_has_an_odd_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        read_backend(tmp_path / "absent.py")
    with pytest.raises(TargetError, match="lower-case"):
        read_backend(written(tmp_path, GOOD, "My-Toy.py"))


def test_all_backends_of_the_package_are_readable_and_extra_files_join_them(tmp_path: Path) -> None:
    backends = find_backends([written(tmp_path, GOOD)])
    files = {path.stem for path in BACKENDS_FOLDER.glob("*.py")} - {"__init__"}
    assert set(backends) == files | {"toy"}
    for backend in backends.values():
        if backend.distribution:
            assert backend.row_for(backend.default_version) is not None, backend.name
