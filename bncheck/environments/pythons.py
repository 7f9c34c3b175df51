"""A Python for every target: the user's own if it fits, else an environment that uv makes once and keeps.

The order is: ``--python``, the current interpreter if it has the framework at the asked version, an
environment in the cache folder. What cannot be had is :class:`Unavailable`, with the reason and the remedy.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from bncheck.bounded import expanded
from bncheck.environments import installer, interpreters
from bncheck.environments.backend_file import BackendFile, RequirementRow
from bncheck.environments.devices import why_not
from bncheck.environments.folder import (
    Contents,
    environments_folder,
    installed_version,
    is_usable,
    locked,
    mark_used,
    normalised,
    place,
    python_of,
    write_marker,
)
from bncheck.environments.index_settings import read_index_settings
from bncheck.environments.installed import distribution_of, installed_in, satisfies, violates
from bncheck.environments.interpreters import Interpreter
from bncheck.environments.package_source import choose_source, wants_cpu_build
from bncheck.environments.targets import Target
from bncheck.errors import EnvironmentFailure, UsageError

Report = Callable[[str], None]
AT_ONCE = 2  # installs share one network and one disk: more than two at once were not faster
TRIES = 3  # interpreters tried when there is no wheel for the first


@dataclass(frozen=True)
class Ready:
    """A Python that can run the target. ``version`` is empty for a backend without a distribution."""

    python: Path
    version: str
    origin: str  # "current interpreter", "environment" or "--python"
    folder: Path | None = None


@dataclass(frozen=True)
class Unavailable:
    """Why a target cannot run here, and the command that changes it."""

    reason: str
    remedy: str


def prepare(
    targets: Sequence[Target],
    backends: Mapping[str, BackendFile],
    pythons: Mapping[str, Path] | None = None,
    report: Report = lambda text: None,
    devices: bool = True,
    thorough: bool = False,
) -> dict[Target, Ready | Unavailable]:
    """A Python for each target, in the given order, at most two environments made at a time.

    ``pythons`` is what :func:`parse_pythons` returns; ``report`` gets one line for everything that takes
    time, and may be called from several threads. With ``devices``, what this machine has no device for is unavailable
    before anything is installed for it. ``thorough`` looks at every file of an environment that is there, and makes it
    anew where one is missing.
    """
    with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="environment") as pool:
        futures = {
            target: pool.submit(make_ready, target, backends[target.backend], pythons or {}, report, devices, thorough)
            for target in dict.fromkeys(targets)
        }
        try:
            return {target: future.result() for target, future in futures.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            installer.stop()
            raise


def make_ready(
    target: Target,
    backend: BackendFile,
    pythons: Mapping[str, Path],
    report: Report,
    devices: bool = True,
    thorough: bool = False,
) -> Ready | Unavailable:
    """A Python for one target; failures become :class:`Unavailable`."""
    lacking = why_not(target.device) if devices else None
    if lacking is not None:
        return Unavailable(*lacking)
    names = (target.name, f"{target.name}@{target.device}", target.backend)
    given = next((pythons[name] for name in names if name in pythons), None)
    try:
        if given is not None:
            return _given(target, backend, expanded(given).absolute())
        return find_ready(target, backend, thorough) or _create(target, backend, report, thorough)
    except EnvironmentFailure as error:
        return Unavailable(error.message, error.remedy or f"bncheck env create {target}")


def find_ready(target: Target, backend: BackendFile, thorough: bool = False) -> Ready | None:
    """What needs no installation: the current interpreter, or an environment made before."""
    current = _current_interpreter(target, backend)
    if current is not None or not backend.distribution:
        return current or Ready(Path(sys.executable), "", "current interpreter")
    row = backend.row_for(_version(target, backend), target.device)
    if row is None:
        return None
    for interpreter in fitting_interpreters(row.python):
        contents = _contents(target, backend, row, interpreter)
        ready = _existing(contents, thorough)
        if ready is not None:
            return ready
    return None


def parse_pythons(texts: Sequence[str], known: Mapping[str, BackendFile]) -> dict[str, Path]:
    """``--python NAME=PATH`` as {target or backend name: path}; a path that does not run is said at once."""
    from bncheck.environments.targets import parse_target

    pythons: dict[str, Path] = {}
    for text in texts:
        # The name may hold == and, in brackets, =; the path holds none.
        name, _, path = text.rpartition("=")
        if not name or not path or name.endswith("="):
            raise UsageError(f"--python {text}: not NAME=PATH", "for example --python torch=/opt/conda/bin/python")
        target = parse_target(name, known)
        if interpreters.ask(Path(path)) is None:
            raise UsageError(f"--python {text}: {path} does not answer as a CPython 3", "give the path of a python")
        pythons[target.name] = expanded(path).absolute()
    return pythons


# --- interpreters that are used as they are


def _given(target: Target, backend: BackendFile, python: Path) -> Ready | Unavailable:
    answer = installed_in(python, backend.module)
    if answer is None:
        return Unavailable(f"{python} does not answer as a CPython 3", f"--python {target.backend}=PATH of a python")
    versions, modules = answer
    missing = [name for name in (backend.module, "numpy") if name and name not in modules]
    if missing:
        return Unavailable(
            f"{python} has no {' and no '.join(missing)}", f"{python} -m pip install {' '.join(missing)}"
        )
    names = dict.fromkeys((*(row.distribution for row in backend.requirements), backend.distribution))
    found = (versions.get(normalised(name), "") for name in names if name)
    version = next(filter(None, found), "")
    if target.version and not satisfies(version, target.version):
        return Unavailable(
            f"{python} has {backend.title} {version or 'of unknown version'}, not {target.version}",
            f"leave out --python (bncheck makes an environment), or ask for {target.backend}=={version}",
        )
    return Ready(python, version, "--python")


def _current_interpreter(target: Target, backend: BackendFile) -> Ready | None:
    if not backend.distribution:
        return Ready(Path(sys.executable), "", "current interpreter")
    distribution = _distribution(target, backend)
    if not _may_have(distribution):
        return None
    # The worker runs with -I, so what only the user site or PYTHONPATH offers does not count.
    answer = installed_in(Path(sys.executable), backend.module)
    if answer is None or not {backend.module, "numpy"} <= set(answer[1]):
        return None
    installed = answer[0]
    version = installed.get(normalised(distribution), "")
    if not version or (target.version and not satisfies(version, target.version)):
        return None
    row = backend.row_for(version, target.device)
    if row is None or any(violates(installed, package) for package in row.fill(version)):
        return None
    extras = _extra_packages(target, backend, version)
    if any(violates(installed, package) or distribution_of(package) not in installed for package in extras):
        return None
    return Ready(Path(sys.executable), version, "current interpreter")


def _may_have(distribution: str) -> bool:
    """Whether anything here is called like the distribution; ``importlib.metadata``, which knows it for certain, takes
    40 ms to import, and ``installed_in`` is asked anyway."""
    start = f"{normalised(distribution)}-"
    for folder in map(Path, sys.path):
        try:
            if any(normalised(name).startswith(start) for name in os.listdir(folder)):  # noqa: PTH208 - names
                return True
        except OSError:
            continue  # sys.path often names what does not exist
    return False


# --- environments


def _create(target: Target, backend: BackendFile, report: Report, thorough: bool = False) -> Ready | Unavailable:
    version = _version(target, backend)
    row = backend.row_for(version, target.device)
    if row is None:
        where = "" if target.device == target.default_device else f" on {target.device}"
        return Unavailable(
            f"{backend.title} {version}{where} is not supported by its backend file", f"see {backend.path}"
        )
    candidates = list(fitting_interpreters(row.python))
    if not candidates:
        downloaded = _download(row.python)
        if downloaded is None:
            return _no_interpreter(target, backend, version, row.python)
        candidates = [downloaded]
    name = shlex.quote(target.name)
    failures: list[str] = []
    tried = [interpreter.version for interpreter in candidates[:TRIES]]
    for interpreter in candidates[:TRIES]:
        contents = _contents(target, backend, row, interpreter)
        outcome = _install(target, contents, report, thorough)
        if isinstance(outcome, Ready):
            return outcome
        failures.append(outcome.reason)
        if outcome.full:
            return Unavailable(
                f"the packages of {target} do not fit on the disk of {environments_folder()}: {outcome.reason}",
                "free space there, or set BNCHECK_CACHE to a folder on another disk",
            )
        if outcome.network:
            return Unavailable(
                f"the packages of {target} cannot be fetched: {outcome.reason}",
                f"check network and index settings (bncheck doctor), then: bncheck env create {name}; or "
                f"give a Python that has it: --python {name}=PATH",
            )
    return Unavailable(
        f"{target} cannot be installed on Python {' or '.join(tried)}: {failures[0]}",
        f"give a Python that has it: --python {name}=PATH",
    )


def _install(target: Target, contents: Contents, report: Report, thorough: bool) -> Ready | installer.Failure:
    folder = environments_folder() / contents.folder_name
    with locked(folder, lambda: report(f"{target}: waiting for another bncheck that is making {folder.name}")):
        ready = _existing(contents, thorough)  # made by whoever held the lock before
        if ready is not None:
            return ready
        report(f"{target}: making an environment with Python {contents.python}: {' '.join(contents.packages)}")
        failed: list[installer.Failure] = []

        def build(partial: Path) -> None:
            failure = _fill(partial, target, contents, report)
            if failure is not None:
                failed.append(failure)
                raise EnvironmentFailure(failure.reason)

        try:
            place(folder, build)
        except EnvironmentFailure:
            return failed[0]
        except OSError as error:
            raise EnvironmentFailure(f"cannot write {folder}: {error.strerror}", "set BNCHECK_CACHE") from error
    ready = _existing(contents)
    return ready or installer.Failure(f"{folder} has no {contents.distribution} after installing it", network=False)


def _fill(partial: Path, target: Target, contents: Contents, report: Report) -> installer.Failure | None:
    failure = installer.create_venv(partial, Path(contents.python_path))
    if failure is not None:
        return failure
    python = python_of(partial)
    source = choose_source(python, contents.packages, read_index_settings(), contents.cpu_build)
    if isinstance(source, installer.Failure):
        return source
    for note in source.notes:
        report(f"{target}: {note}")
    failure = installer.install(python, contents.packages, source.settings, source.options)
    if failure is None:
        version = installed_version(partial, contents.distribution, contents.module)
        write_marker(partial, contents, version or "", source.notes)
    return failure


def _existing(contents: Contents, thorough: bool = False) -> Ready | None:
    folder = environments_folder() / contents.folder_name
    if not is_usable(folder, thorough) or (thorough and interpreters.ask(python_of(folder)) is None):
        return None
    mark_used(folder)
    version = installed_version(folder, contents.distribution, contents.module) or ""
    return Ready(python=python_of(folder), version=version, origin="environment", folder=folder)


def _contents(target: Target, backend: BackendFile, row: RequirementRow, interpreter: Interpreter) -> Contents:
    version = _version(target, backend)
    packages = (*row.fill(version), *_extra_packages(target, backend, version))
    settings = read_index_settings()
    return Contents(
        backend=backend.name,
        version=version,
        module=backend.module,
        distribution=row.distribution or backend.distribution,
        packages=packages,
        python=interpreter.version,
        python_path=os.path.realpath(interpreter.path),
        indexes=tuple(settings.identity()),
        cpu_build=wants_cpu_build(packages, settings),
    )


def _version(target: Target, backend: BackendFile) -> str:
    return target.version or backend.default_version


def _distribution(target: Target, backend: BackendFile) -> str:
    row = backend.row_for(_version(target, backend), target.device)
    return (row.distribution if row is not None else "") or backend.distribution


def _extra_packages(target: Target, backend: BackendFile, version: str) -> tuple[str, ...]:
    """What the variant (or one of its comma-separated words) and the device need on top."""
    words, kind = dict.fromkeys([target.variant, *target.variant.split(",")]), target.device.partition(":")[0]
    packages: list[str] = []
    for word in words:  # a variant may need other packages on another device
        packages += backend.variant_requirements.get(f"{word}@{kind}", backend.variant_requirements.get(word, ()))
    packages += backend.device_requirements.get(kind, ())
    return tuple(dict.fromkeys(package.replace("{version}", version) for package in packages))


# --- interpreters to build on

_finding = threading.Lock()


def fitting_interpreters(python: SpecifierSet) -> Iterator[Interpreter]:
    """One interpreter per minor version in the range: the current one's minor first, then from new to old."""
    current = interpreters.current()
    if python.contains(current.version, prereleases=True):
        yield current
    with _finding:  # several threads ask at once, and looking takes 0.3 s
        found = interpreters.find_interpreters()
    seen = {current.minor}
    for interpreter in found:
        if interpreter.minor not in seen and python.contains(interpreter.version, prereleases=True):
            seen.add(interpreter.minor)
            yield interpreter


def _newest_minor(python: SpecifierSet) -> str | None:
    minors = (f"3.{minor}" for minor in range(sys.version_info.minor + 2, 5, -1))
    return next((minor for minor in minors if python.contains(f"{minor}.99")), None)


def _download(python: SpecifierSet) -> Interpreter | None:
    minor = _newest_minor(python)
    if installer.python_downloads() == "never" or minor is None:
        return None
    path = installer.install_python(minor)
    return interpreters.ask(path) if path else None


def _no_interpreter(target: Target, backend: BackendFile, version: str, python: SpecifierSet) -> Unavailable:
    found = ", ".join(item.version for item in interpreters.find_interpreters())
    minor, name = _newest_minor(python) or "3", shlex.quote(target.name)
    return Unavailable(
        f"{backend.title} {version} needs Python {python}, and here are only {found}",
        f"uv python install {minor} (or BNCHECK_PYTHON_DOWNLOADS=automatic), "
        f"then: bncheck env create {name}; or give a Python that has it: --python {name}=PATH",
    )
