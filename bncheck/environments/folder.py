"""One folder per environment, named by a hash of what it contains, so there is nothing to invalidate.

A folder is built beside its place under a temporary name and moved in when complete: there, or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from bncheck.bounded import expanded, read_bounded
from bncheck.errors import EnvironmentFailure

MARKER = "bncheck-env.json"
FORMAT = 1
LOCK_SECONDS = 3600.0
LARGEST_MARKER = 1024 * 1024
LARGEST_RECORD = 64 * 1024 * 1024
MODULE = re.compile(r"[\w.]{0,200}")  # a name that can be imported; part of a path
DEEPEST = 1000  # folders: all of them
MAKING = ".tmp-"  # in the name of one that is being made, behind the name it will have
UNUSED_DAYS = 30


@dataclass(frozen=True)
class Contents:
    """All that decides what is in an environment; its hash is the folder's name."""

    backend: str
    version: str
    module: str
    distribution: str
    packages: tuple[str, ...]
    python: str
    python_path: str
    indexes: tuple[str, ...] = ()
    cpu_build: bool = False

    @property
    def folder_name(self) -> str:
        """For example torch-2.13.0-0123456789."""
        digest = hashlib.sha256(json.dumps([FORMAT, asdict(self)], sort_keys=True).encode()).hexdigest()
        return "-".join(filter(None, [self.backend, self.version.replace("+", "-"), digest[:10]]))


def cache_folder() -> Path:
    """Where environments live: $BNCHECK_CACHE, else the user's cache folder by the platform's custom."""
    environ = os.environ
    if environ.get("BNCHECK_CACHE"):
        return expanded(environ["BNCHECK_CACHE"]).absolute()
    if environ.get("XDG_CACHE_HOME"):
        return expanded(environ["XDG_CACHE_HOME"]).absolute() / "bncheck"
    if sys.platform == "darwin":
        return home() / "Library" / "Caches" / "bncheck"
    if sys.platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "bncheck" / "Cache"
    return home() / ".cache" / "bncheck"


def home() -> Path:
    """The user's home folder. EnvironmentFailure where the system knows none, as in a container with any number for a
    user."""
    try:
        return Path.home()
    except RuntimeError:
        raise EnvironmentFailure(
            "This user has no home folder, where bncheck would keep what it installs.",
            "Name a folder of yours: BNCHECK_CACHE=/path/to/it",
        ) from None


def environments_folder() -> Path:
    """The folder of all environments."""
    return cache_folder() / "environments"


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What was written when the environment was complete; None if it never was, or says nothing sound."""
    try:
        marker = json.loads(read_bounded(folder / MARKER, LARGEST_MARKER))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        return None
    if not all(isinstance(marker.get(name), str) for name in ("distribution", "module", "python")):
        return None
    return marker if MODULE.fullmatch(marker["module"]) else None


def write_marker(folder: Path, contents: Contents, installed: str, notes: tuple[str, ...]) -> None:
    """The last file written: its presence means that the environment is complete."""
    held = [info.name for packages in site_packages(folder) for info in packages.glob("*.dist-info")]
    marker = {"format": FORMAT, **asdict(contents), "installed": installed, "notes": list(notes)}
    # Wheels exist that list files which they do not have: those are no damage.
    marker |= {"distributions": sorted(held), "lacking": lacking(folder, held, DEEPEST)}
    partial = folder / f"{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=1), encoding="utf-8")
    partial.replace(folder / MARKER)


def is_usable(folder: Path, thorough: bool = False) -> bool:
    """Complete, its interpreter still there, everything that was installed still there, and the upper files of the
    framework and NumPy (no import; a few ms). ``thorough``: all files of everything."""
    marker = read_marker(folder)
    # Following the link to the base interpreter.
    if marker is None or not os.access(python_of(folder), os.X_OK):
        return False
    if installed_version(folder, marker["distribution"], marker["module"]) is None:
        return False
    held, known = marker.get("distributions"), marker.get("lacking")
    if not isinstance(held, list) or not isinstance(known, list):  # of an earlier bncheck, which did not say
        return True
    names = [str(name) for name in held]
    there = {path.name for packages in site_packages(folder) for path in packages.glob("*.dist-info")}
    if not there.issuperset(names):
        return False
    main = (normalised(marker["distribution"]), "numpy")
    looked_at = [name for name in names if thorough or normalised(name.partition("-")[0]) in main]
    return set(lacking(folder, looked_at, DEEPEST if thorough else 1)) <= set(map(str, known))


def lacking(folder: Path, distributions: Iterable[str], deep: int) -> list[str]:
    """Files at most so many folders deep that these distributions list and that are not there."""
    listed = re.compile(rf'^"?((?:[^/,"\n]+/){{0,{deep}}}[^/,"\n]+)"?,', re.MULTILINE)  # a tenth of csv's time
    found = []
    for packages in site_packages(folder):
        for name in {path.name for path in packages.glob("*.dist-info")}.intersection(distributions):
            try:
                record = read_bounded(packages / name / "RECORD", LARGEST_RECORD).decode("utf-8", "replace")
            except OSError:
                found.append(f"{name}/RECORD")
                continue
            paths = (path for path in listed.findall(record) if ".." not in path and not path.endswith(".pyc"))
            found += [path for path in paths if not os.path.lexists(packages / path)]
    return sorted(found)


def installed_version(folder: Path, distribution: str, module: str) -> str | None:
    """The version of ``distribution`` by its dist-info folder, if the module's files are there too."""
    if not distribution:
        distribution = module = "numpy"
    for packages in site_packages(folder):
        for info in packages.glob("*.dist-info"):
            name, _, version = info.name[: -len(".dist-info")].partition("-")
            if normalised(name) == normalised(distribution) and _has_module(packages, module):
                return version
    return None


def site_packages(folder: Path) -> list[Path]:
    """The package folders of an environment."""
    return [
        path for path in [*folder.glob("lib/python3*/site-packages"), folder / "Lib/site-packages"] if path.is_dir()
    ]


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def last_used(folder: Path) -> float:
    """Seconds since the epoch when a run last asked for this environment."""
    return (folder / MARKER).stat().st_mtime


def mark_used(folder: Path) -> None:
    """Remember that it was used now; a read-only cache is no reason to fail."""
    try:
        os.utime(folder / MARKER)
    except OSError:
        pass


def place(folder: Path, build: Callable[[Path], None]) -> None:
    """Build under a temporary name and move it to ``folder``. The caller holds the lock."""
    for leftover in folder.parent.glob(f"{folder.name}{MAKING}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}{MAKING}{uuid.uuid4().hex[:8]}")
    try:
        build(partial)
        if folder.exists():  # damaged, or nobody would build: a folder can only be moved to an empty place
            old = folder.with_name(f"{folder.name}{MAKING}{uuid.uuid4().hex[:8]}")
            folder.replace(old)
            shutil.rmtree(old, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove an environment: its marker first, so that an interrupted removal leaves nothing usable."""
    with locked(folder):
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)
    # The lock's empty file stays: removing it could give two waiting processes two different locks.


def is_being_made(folder: Path) -> bool:
    """True while another process works on this environment, or on the one that this folder will become."""
    path = folder.with_name(f"{folder.name.partition(MAKING)[0]}.lock")
    try:
        with path.open("rb") as handle:
            return not _try_lock(handle)
    except OSError:
        return False


@contextmanager
def locked(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Only one process or thread at a time works on ``folder``.

    The operating system releases the lock when its holder dies, so there are no stale locks to detect.
    """
    path = folder.with_name(f"{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+b")
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot write to the cache folder {path.parent}: {error.strerror}",
            "set BNCHECK_CACHE to a folder you own",
        ) from error
    with handle:
        _wait_for(handle, waiting)
        yield


def _wait_for(handle: IO[bytes], waiting: Callable[[], None]) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    told = False
    while not _try_lock(handle):
        if time.monotonic() > deadline:
            raise EnvironmentFailure(
                f"another process has held {handle.name} for {LOCK_SECONDS:.0f} s", "end it, then try again"
            )
        if not told:
            waiting()
            told = True
        time.sleep(0.1)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: IO[bytes]) -> bool:
        handle.seek(0)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: IO[bytes]) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _has_module(packages: Path, module: str) -> bool:
    top = module.partition(".")[0]
    return not top or (packages / top).is_dir() or any(packages.glob(f"{top}.*"))
