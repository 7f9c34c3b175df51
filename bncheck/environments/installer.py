"""Run uv: create a virtual environment and install exact packages into it, or say in one sentence why not."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bncheck.environments.index_settings import IndexSettings, mask, uv_environment
from bncheck.errors import EnvironmentFailure

# 2 GB of CUDA libraries at 2 MB/s take 17 minutes.
INSTALL_SECONDS = 3600.0
NETWORK = re.compile(
    r"error sending request|failed to fetch|dns error|connection refused|timed? ?out|tcp connect|"
    r"request failed|network connectivity is disabled|could not connect|bad gateway|status server error",
    re.IGNORECASE,
)
FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
ENDED = tuple(code for each in (signal.SIGINT, signal.SIGTERM) for code in (-each, 128 + each))
_running: set[subprocess.Popen[str]] = set()
_looking_for_uv = threading.Lock()
NOISE = re.compile(
    r"^(warning:|using python|resolved \d|prepared \d|audited|downloading|downloaded|\s*\+ |would )", re.I
)


@dataclass(frozen=True)
class Failure:
    """Why uv could not do it. ``network``, ``full`` (the disk): another interpreter would not help."""

    reason: str
    network: bool
    full: bool = False


def find_uv() -> str:
    """uv's path: the one that came with bncheck, else the one on PATH."""
    # Two threads asking at once met sysconfig half initialised (TypeError inside uv.find_uv_bin, Python 3.11.7).
    with _looking_for_uv:
        return _find_uv()


@functools.cache
def _find_uv() -> str:
    try:
        import uv

        return os.fsdecode(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise EnvironmentFailure(
            "uv is not here, so no environment can be made",
            f"{sys.executable} -m pip install uv, or use --python",
        )
    return found


def python_downloads(environ: Mapping[str, str] | None = None) -> str:
    """never, unless the user says otherwise: without network uv takes 10 s to find out."""
    environ = os.environ if environ is None else environ
    return environ.get("BNCHECK_PYTHON_DOWNLOADS") or environ.get("UV_PYTHON_DOWNLOADS") or "never"


def create_venv(folder: Path, python: Path) -> Failure | None:
    """An empty environment that may be moved afterwards (console scripts hold no absolute path)."""
    return _uv(["venv", "--no-project", "--relocatable", "--python", str(python), str(folder)], folder.parent, {})


def check_resolvable(
    python: Path, packages: tuple[str, ...], settings: IndexSettings, options: tuple[str, ...] = ()
) -> Failure | None:
    """Resolve only, with at most one retry: an unreachable index answers in 1 s instead of 8 to 10."""
    command = _install_command(python, packages, settings, ("--dry-run", *options))
    environ = uv_environment(settings)
    quick = {"UV_HTTP_RETRIES": "1", "UV_HTTP_CONNECT_TIMEOUT": "5"}
    return _uv(command, python.parent, environ | {key: environ.get(key, value) for key, value in quick.items()})


def install(
    python: Path, packages: tuple[str, ...], settings: IndexSettings, options: tuple[str, ...] = ()
) -> Failure | None:
    """Install into the environment of ``python``, compiled: importing torch went from 2.2 s to 1.0 s."""
    compiled = _minor(python) >= (3, 7)  # uv's own compile script needs 3.7
    command = _install_command(python, packages, settings, (*(["--compile-bytecode"] if compiled else []), *options))
    failure = _uv(command, python.parent, uv_environment(settings))
    if failure is None and not compiled:
        # Exit status 1 only says that some file (of Python 2 code, say) does not compile: not our concern.
        subprocess.run(
            [
                str(python),
                "-I",
                "-m",
                "compileall",
                "-q",
                "-j",
                "0",
                *map(str, python.parents[1].glob("lib/*/site-packages")),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    return failure


def install_python(minor: str) -> Path | None:
    """Let uv download an interpreter; only called when the user allowed it."""
    if _uv(["python", "install", minor], Path("/"), {}) is not None:
        return None
    answer = subprocess.run(
        [find_uv(), "python", "find", "--managed-python", minor],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=_environ({}),
        timeout=60,
    )
    return Path(answer.stdout.strip()) if answer.returncode == 0 and answer.stdout.strip() else None


def _install_command(
    python: Path, packages: tuple[str, ...], settings: IndexSettings, options: tuple[str, ...]
) -> list[str]:
    # --no-build: old frameworks pin old packages; compiling numpy 1.19 for Python 3.11 fails after minutes.
    command = ["pip", "install", "--no-build", "--python", str(python), *options]
    return [*command, *(["--no-index"] if settings.no_index else []), *packages]


def _environ(extra: Mapping[str, str]) -> dict[str, str]:
    environ = {
        **(extra or os.environ),
        "UV_PYTHON_DOWNLOADS": python_downloads(),
        "NO_COLOR": "1",
        "UV_NO_PROGRESS": "1",
    }
    # An activated environment or a project setting of the user must not become the place to install to.
    for name in (
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "UV_PYTHON",
        "UV_SYSTEM_PYTHON",
        "UV_PROJECT",
        "UV_WORKING_DIR",
    ):
        environ.pop(name, None)
    return environ


def _uv(arguments: list[str], folder: Path, environ: Mapping[str, str]) -> Failure | None:
    """Run uv in ``folder`` (not where the user is, or uv would read the [tool.uv] of the user's project)."""
    try:
        code, said = _watched([find_uv(), *arguments], folder, _environ(environ))
    except subprocess.TimeoutExpired:
        return Failure(f"uv did not finish in {INSTALL_SECONDS:.0f} s", network=True)
    except OSError as error:
        return Failure(f"uv could not be run: {error}", network=False)
    if code == 0:
        return None
    if code in ENDED:
        raise EnvironmentFailure("interrupted")  # Ctrl-C reaches uv as well: do not go on to the next interpreter
    full = FULL.search(said)
    if full:  # uv says what it was doing, and hints at its own options
        return Failure(full.group(), network=False, full=True)
    return Failure(reason_in(said), network=bool(NETWORK.search(said)))


def _watched(command: list[str], folder: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and what it said on stderr. TimeoutExpired when it does not end, OSError when it does not start."""
    quiet, heard = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=heard, text=True, errors="replace", cwd=folder, env=environ
    ) as process:
        _running.add(process)
        try:
            _, said = process.communicate(timeout=INSTALL_SECONDS)
        finally:
            _running.discard(process)
            process.kill()  # where it was not waited for
    return process.returncode, said


def stop() -> None:
    """End what is being installed: SIGTERM reaches bncheck alone, and its threads wait for uv."""
    for process in tuple(_running):
        process.terminate()


def reason_in(message: str) -> str:
    """What matters of uv's message, on one line and without passwords."""
    kept: list[str] = []
    hints: list[str] = []
    for line in message.splitlines():
        text = re.sub(r"^[\s│├╰─▶×]+", "", line).strip()
        if text.startswith("hint:"):
            # Hints about the options that bncheck sets itself would send people the wrong way.
            hints += [] if re.search(r"--index-strategy|--no-build", text) else [text]
        elif text and not NOISE.match(line):
            kept.append(re.sub(r"^(error|cause): ", "", text))
    # The first line says what, the last why; between them uv lists every version it tried.
    where = [line for line in kept[1:-1] if line.lower().startswith("failed to fetch")]
    shown = kept if len(kept) <= 5 else [kept[0], *where, kept[-1]]
    text = " ".join([*shown, *hints]) or "uv gave no reason"
    return mask(text if len(text) <= 700 else f"{text[:450]} … {text[-200:]}")


def _minor(python: Path) -> tuple[int, int]:
    """(3, 7) by the environment's pyvenv.cfg."""
    config = python.parents[1] / "pyvenv.cfg"
    found = re.search(r"^version(?:_info)?\s*=\s*(\d+)\.(\d+)", config.read_text(encoding="utf-8"), re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (3, 0)
