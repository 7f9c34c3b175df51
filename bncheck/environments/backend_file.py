"""What a backend file says about itself, read as literals and never by importing it.

A backend file imports its framework only in its own interpreter; the host only needs the constants at the top
(which distribution to install, which variants exist), so it reads them with ``ast.literal_eval``.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from bncheck.bounded import read_bounded
from bncheck.errors import TargetError

BACKENDS_FOLDER = Path(__file__).parent.parent / "worker" / "backends"
NAME = re.compile(r"[a-z][a-z0-9_]*")
DEVICE = re.compile(r"[a-z][a-z0-9_]*(:[1-9][0-9]{0,2})?")
CODE = re.compile(r"^(?:def |class |@)", re.MULTILINE)
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class RequirementRow:
    """One row of ``REQUIREMENTS``: for these versions, on these Pythons, install these packages.

    ``packages`` may hold ``{version}``; empty ``versions``, ``python`` or ``devices`` means any. ``distribution`` names
    what holds the framework where it is not the backend's own (a GPU build under a name of its own).
    """

    versions: SpecifierSet
    python: SpecifierSet
    packages: tuple[str, ...]
    devices: tuple[str, ...] = ()
    distribution: str = ""

    def fill(self, version: str) -> tuple[str, ...]:
        """The packages with the version put in."""
        return tuple(package.replace("{version}", version) for package in self.packages)


@dataclass(frozen=True)
class BackendFile:
    """The constants of one backend file; see the worker's docstring for what each means."""

    name: str
    path: Path
    title: str
    module: str
    distribution: str
    default_version: str
    variants: Mapping[str, str]
    devices: tuple[str, ...]
    requirements: tuple[RequirementRow, ...]
    variant_requirements: Mapping[str, tuple[str, ...]]
    device_requirements: Mapping[str, tuple[str, ...]]
    documented: tuple[Mapping[str, Any], ...]
    forks: tuple[str, ...] = ()  # variants that may be played in a fork of a process that has imported the framework
    word: str = ""  # how the framework speaks of the weight of the new batch: "momentum" or "1 - momentum"

    @property
    def free_variants(self) -> bool:
        """True if any text may stand in the brackets."""
        return "*" in self.variants

    def may_fork(self, variant: str, device: str) -> bool:
        return variant in self.forks and device == "cpu"

    def row_for(self, version: str, device: str = "") -> RequirementRow | None:
        """The first row for the device whose range holds ``version``; an empty version matches rows without a range."""
        kind = (device or self.devices[0]).partition(":")[0]
        for row in self.requirements:
            if row.devices and kind not in row.devices:
                continue
            if not str(row.versions) or (version and row.versions.contains(version, prereleases=True)):
                return row
        return None


class Backends(Mapping[str, BackendFile]):
    """Backends by name; a file is read when somebody asks for it: all of them take longer than what is asked of one."""

    def __init__(self, paths: Iterable[Path], known: Mapping[str, BackendFile]) -> None:
        self.known = dict(known)
        self.paths = {path.stem: path for path in paths} | {name: backend.path for name, backend in known.items()}

    def __getitem__(self, name: str) -> BackendFile:
        if name not in self.known:
            self.known[name] = read_backend(self.paths[name])
        return self.known[name]

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def find_backends(extra: Sequence[Path] = ()) -> Mapping[str, BackendFile]:
    """All backends by name: those of the package, then the files given on purpose (which win, and are read at once:
    what is wrong with one is said before anything else is done)."""
    paths = sorted(path for path in BACKENDS_FOLDER.glob("*.py") if NAME.fullmatch(path.stem))
    return Backends(paths, {backend.name: backend for backend in map(read_backend, extra)})


def read_backend(path: Path) -> BackendFile:
    """Read the constants of one file; a TargetError names the file and the constant that is wrong."""
    if not NAME.fullmatch(path.stem):
        raise TargetError(
            f"{path}: a backend file's name must be lower-case letters, digits and underscores",
            "rename the file: its name is what --target uses",
        )
    constants = _Constants(path, literals(path))
    rows = constants.take("REQUIREMENTS", list, [])
    return BackendFile(
        name=path.stem,
        path=path.resolve(),
        title=constants.take("TITLE", str),
        module=constants.take("MODULE", str),
        distribution=constants.take("DISTRIBUTION", str, ""),
        default_version=constants.take("DEFAULT_VERSION", str, ""),
        variants=constants.texts("VARIANTS", {"": ""}),
        devices=constants.names("DEVICES"),
        requirements=tuple(_row(constants, index, row) for index, row in enumerate(rows)),
        variant_requirements=constants.package_lists("VARIANT_REQUIREMENTS"),
        device_requirements=constants.package_lists("DEVICE_REQUIREMENTS"),
        documented=tuple(constants.take("DOCUMENTED", list, [])),
        forks=constants.variants("FORKS"),
        word=constants.take("WORD", str, ""),
    )


def literals(path: Path) -> dict[str, tuple[int, Any]]:
    """Upper-case top-level assignments as name -> (line, value); values that are no literal are left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own about the text; the worker, which runs it, keeps them
            text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
            # Of the shipped files all constants stand before the first function (a test checks): parsing the rest of
            # two of them takes 50 ms, before any worker can start.
            head = CODE.split(text, 1)[0] if path.parent == BACKENDS_FOLDER else text
            tree = ast.parse(head, filename=str(path))
    except OSError as error:
        raise TargetError(f"{path}: cannot be read: {error.strerror}", "check the path given") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise TargetError(f"{path}:{line}: not Python: {error or 'too deep'}", "correct the backend file") from error
    found: dict[str, tuple[int, Any]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            name, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            name, value = node.target, node.value
        else:
            continue
        if isinstance(name, ast.Name) and name.id.isupper():
            try:
                found[name.id] = (node.lineno, ast.literal_eval(value))
            except (ValueError, TypeError, RecursionError, MemoryError):
                # Only an error if the host needs this one: a backend may keep computed constants too.
                found[name.id] = (node.lineno, _NOT_LITERAL)
    return found


_NOT_LITERAL = object()
_REQUIRED = object()


class _Constants:
    """The literals of one file, with errors that say where."""

    def __init__(self, path: Path, literals: Mapping[str, tuple[int, Any]]) -> None:
        self.path = path
        self.literals = literals

    def error(self, name: str, problem: str, remedy: str) -> TargetError:
        line = self.literals[name][0] if name in self.literals else 1
        return TargetError(f"{self.path}:{line}: {name} {problem}", remedy)

    def take(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        if name not in self.literals:
            if default is _REQUIRED:
                raise self.error(name, "is missing", f"add {name} = ... at the top of the backend file")
            return default
        value = self.literals[name][1]
        if value is _NOT_LITERAL:
            raise self.error(name, "is not a plain literal", "write it out: the host reads it without running the file")
        if kind is list and isinstance(value, tuple):
            value = list(value)
        if not isinstance(value, kind):
            raise self.error(name, f"is {type(value).__name__}, not {kind.__name__}", "correct the backend file")
        return value

    def texts(self, name: str, default: dict[str, str]) -> dict[str, str]:
        value = self.take(name, dict, default)
        if not value or not all(isinstance(key, str) and isinstance(text, str) for key, text in value.items()):
            raise self.error(name, "must map variant names to texts", 'for example {"": "the default"}')
        return dict(value)

    def variants(self, name: str) -> tuple[str, ...]:
        value, known = self.take(name, list, []), self.texts("VARIANTS", {"": ""})
        if not all(isinstance(item, str) and item in known for item in value):
            raise self.error(name, "must list variants", 'for example ("",)')
        return tuple(value)

    def names(self, name: str) -> tuple[str, ...]:
        value = self.take(name, list)
        if not value or not all(isinstance(item, str) and DEVICE.fullmatch(item) for item in value):
            raise self.error(name, "must list names", 'for example ("cpu", "cuda")')
        return tuple(value)

    def package_lists(self, name: str) -> dict[str, tuple[str, ...]]:
        value = self.take(name, dict, {})
        return {str(key): self.packages(name, item) for key, item in value.items()}

    def packages(self, name: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise self.error(name, "needs a list of packages", 'for example ["numpy<2"]')
        packages = tuple(str(package) for package in value)
        if self.path.parent != BACKENDS_FOLDER:  # those a test has read
            self.check(name, packages)
        return packages

    def check(self, name: str, packages: Sequence[str]) -> None:
        # Importing it takes as long as all that reads backend files, before any framework's import can begin.
        from packaging.requirements import InvalidRequirement, Requirement

        for package in packages:
            try:
                Requirement(package.replace("{version}", "1"))
            except InvalidRequirement as error:
                raise self.error(name, f"has {package!r}, which is no requirement", 'write "name<2"') from error


def _row(constants: _Constants, index: int, row: Any) -> RequirementRow:
    where = f"row {index + 1}"
    if not isinstance(row, dict) or "packages" not in row:
        raise constants.error("REQUIREMENTS", f"{where} must be a dict with packages", "correct the backend file")
    known = ("versions", "python", "packages", "devices", "distribution")
    unknown = sorted(set(row) - set(known))
    if unknown:
        raise constants.error(
            "REQUIREMENTS", f"{where} has unknown keys {', '.join(unknown)}", f"use {', '.join(known)}"
        )
    devices, distribution = row.get("devices", ()), row.get("distribution", "")
    if not isinstance(devices, list | tuple) or not isinstance(distribution, str):
        raise constants.error(
            "REQUIREMENTS", f"{where}: devices is a list, distribution a name", 'write "devices": ["cuda"]'
        )
    try:
        versions, python = SpecifierSet(row.get("versions", "")), SpecifierSet(row.get("python", ""))
    except InvalidSpecifier as error:
        raise constants.error("REQUIREMENTS", f"{where}: {error}", 'write ">=1.2,<2"') from error
    packages = constants.packages("REQUIREMENTS", row["packages"])
    return RequirementRow(
        versions=versions, python=python, packages=packages, devices=tuple(map(str, devices)), distribution=distribution
    )
