"""Environments with the real uv: made once, repaired, shared between processes, and refused with a reason.

The packages are wheels written here, so only the tests marked ``network`` need an index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy_environments
from at_the_prompt import bncheck
from toy_environments import BACKEND, answer, make

from bncheck.environments import installer
from bncheck.environments.backend_file import BackendFile, read_backend
from bncheck.environments.folder import environments_folder, read_marker
from bncheck.environments.installed import satisfies, violates
from bncheck.environments.installer import reason_in
from bncheck.environments.pythons import Ready, Unavailable, parse_pythons, prepare
from bncheck.environments.targets import Target, parse_target
from bncheck.errors import UsageError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="paths of POSIX environments")
toy = toy_environments.toy  # a fixture


def test_an_environment_is_made_once_and_found_again(toy: dict[str, BackendFile]) -> None:
    said: list[str] = []
    first = make(toy, said=said)
    assert isinstance(first, Ready)
    assert (first.version, first.origin) == ("1.0", "environment")
    assert answer(first.python, "import bnctoy; print(bnctoy.__version__)") == "1.0"
    assert len(said) == 1
    assert "bnc-toy==1.0" in said[0]
    assert make(toy, "toy@cpu", said) == first == make(toy, "toy==1.0", said)
    assert len(said) == 1
    assert first.folder is not None
    marker = read_marker(first.folder)
    assert marker is not None
    assert marker["packages"] == ["bnc-toy==1.0"]
    assert list(first.folder.rglob("bnctoy.*.pyc")), "not compiled"


def test_versions_and_variants_have_their_own_folders(toy: dict[str, BackendFile]) -> None:
    names = ("toy", "toy==1.1", "toy[fast]")
    targets = [parse_target(name, toy) for name in names]
    found = prepare(targets, toy)
    plain, newer, fast = (found[target] for target in targets)
    assert isinstance(plain, Ready) and isinstance(newer, Ready) and isinstance(fast, Ready)
    assert newer.version == "1.1+cpu"
    assert len({plain.folder, newer.folder, fast.folder}) == 3
    assert answer(fast.python, "import bncextra; print(bncextra.__version__)") == "3.0"


def test_two_processes_at_once_make_one_environment(toy: dict[str, BackendFile], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from bncheck.environments.backend_file import read_backend; from bncheck.environments.pythons import prepare\n"
        "from bncheck.environments.targets import parse_target\n"
        f"toy = {{'toy': read_backend(Path({str(tmp_path / 'toy.py')!r}))}}; target = parse_target('toy', toy)\n"
        "print(prepare([target], toy, report=lambda text: print(text, file=sys.stderr))[target].python)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
        for _ in range(3)
    ]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({output for output, _ in ended}) == 1
    assert sum("making an environment" in errors for _, errors in ended) == 1
    assert answer(Path(ended[0][0].strip()), "import bnctoy; print(bnctoy.__version__)") == "1.0"
    assert [path.name for path in environments_folder().iterdir() if path.is_dir()] == [
        Path(ended[0][0]).parents[1].name
    ]


def test_a_given_python_is_used_as_it_is_or_refused_with_the_reason(toy: dict[str, BackendFile]) -> None:
    made = make(toy, "toy==1.1")
    assert isinstance(made, Ready)
    target, other = Target("toy"), Target("toy", version="1.0")
    pythons = {"toy": made.python}
    without_numpy = prepare([target], toy, pythons)[target]
    assert isinstance(without_numpy, Unavailable)
    assert without_numpy.reason.endswith("has no numpy")
    # A NumPy that can be found is all that is asked before the worker starts.
    packages = next(made.python.parents[1].glob("lib/python*/site-packages"))
    (packages / "numpy.py").write_text("__version__ = '0'\n")
    from bncheck.environments.installed import installed_in

    installed_in.cache_clear()
    assert prepare([target], toy, pythons)[target] == Ready(made.python, "1.1+cpu", "--python")
    refused = prepare([other], toy, pythons)[other]
    assert isinstance(refused, Unavailable)
    assert "has Toy 1.1+cpu, not 1.0" in refused.reason
    nowhere = prepare([target], toy, {"toy": Path("/no/such/python")})[target]
    assert isinstance(nowhere, Unavailable)
    assert "/no/such/python" in nowhere.reason


def from_another_python(python: Path, path: list[str], tmp_path: Path) -> list[str]:
    """Origin and version that bncheck finds when it runs on ``python`` with ``path`` as PYTHONPATH."""
    code = (
        "from pathlib import Path; from bncheck.environments.backend_file import read_backend\n"
        "from bncheck.environments.pythons import prepare; from bncheck.environments.targets import parse_target\n"
        f"toy = {{'toy': read_backend(Path({str(tmp_path / 'toy.py')!r}))}}\n"
        "for name in ('toy', 'toy==1.1', 'toy==1.0', 'toy[fast]'):\n"
        "    target = parse_target(name, toy); ready = prepare([target], toy)[target]\n"
        "    print(ready.origin, ready.version, sep='|')\n"
    )
    import packaging
    import uv

    host = [Path(__file__).parents[1], Path(packaging.__path__[0]).parent, Path(uv.__file__).parents[1]]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, *map(str, host)])}
    ended = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environ, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_current_interpreter_is_used_if_it_has_the_asked_version(
    toy: dict[str, BackendFile], tmp_path: Path
) -> None:
    made = make(toy, "toy==1.1")
    assert isinstance(made, Ready)
    packages = next(made.python.parents[1].glob("lib/python*/site-packages"))
    (packages / "numpy.py").write_text("")
    assert from_another_python(made.python, [], tmp_path) == [
        "current interpreter|1.1+cpu",
        "current interpreter|1.1+cpu",
        "environment|1.0",
        "environment|1.0",  # bnc-extra is not there
    ]


def test_what_only_pythonpath_offers_does_not_count_because_workers_are_isolated(
    toy: dict[str, BackendFile], tmp_path: Path
) -> None:
    made = make(toy, "toy==1.1")
    assert isinstance(made, Ready)
    packages = next(made.python.parents[1].glob("lib/python*/site-packages"))
    (packages / "numpy.py").write_text("")
    assert from_another_python(Path(sys.executable), [str(packages)], tmp_path)[0] == "environment|1.0"


def test_python_options_are_understood(toy: dict[str, BackendFile]) -> None:
    here = Path(sys.executable)
    assert parse_pythons([f"toy={here}", f"toy==1.0={here}"], toy) == {"toy": here, "toy==1.0": here}
    for wrong in ("toy", f"={here}", "toy=", "toy=/no/such/python", "toy=/bin/ls"):
        with pytest.raises(UsageError, match="--python"):
            parse_pythons([wrong], toy)


def test_a_cache_that_cannot_be_written_is_said(
    toy: dict[str, BackendFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("BNCHECK_CACHE", str(tmp_path / "a-file" / "cache"))
    outcome = make(toy)
    assert isinstance(outcome, Unavailable)
    assert "cannot write" in outcome.reason
    assert "BNCHECK_CACHE" in outcome.remedy


@pytest.mark.parametrize(
    ("installed", "asked", "yes"),
    [
        ("2.13.0+cpu", "2.13.0", True),
        ("2.13.0", "2.13", True),
        ("2.13.0+cpu", "2.13.0+cpu", True),
        ("2.13.0+cpu", "2.13.0+cu130", False),
        ("2.13.0", "2.13.0+cpu", False),
        ("1.7.0.post2", "1.7.0", False),
        ("", "1.0", False),
    ],
)
def test_an_installed_version_is_what_was_asked_for(installed: str, asked: str, yes: bool) -> None:
    assert satisfies(installed, asked) is yes


@pytest.mark.parametrize(
    ("package", "broken"),
    [
        ("numpy<2", True),
        ("numpy!=2.1.0", True),
        ("numpy>=2.5", False),
        ("numpy>=1.2,<3", False),
        ("absent<1", False),
        ("numpy<2; python_version < '3'", False),
    ],
)
def test_only_upper_bounds_keep_the_users_own_interpreter_from_being_used(package: str, broken: bool) -> None:
    assert violates({"numpy": "2.1.0"}, package) is broken


def test_uvs_message_becomes_one_reason() -> None:
    message = (
        "warning: something else\nUsing Python 3.11.2 environment at: x\n"
        "error: No solution found when resolving dependencies\n"
        "  cause: Because six was not found at https://me:pw@mirror/simple and you require six, we are stuck.\n"
        "\nhint: `six` was found; use `--index-strategy unsafe-best-match`\n"
    )
    assert reason_in(message) == (
        "No solution found when resolving dependencies "
        "Because six was not found at https://****@mirror/simple and you require six, we are stuck."
    )
    assert reason_in("") == "uv gave no reason"
    assert len(reason_in("error: " + "x" * 5000)) < 750
    many = "error: No solution found\n" + "   numpy==1.0\n" * 40 + "  And because you require numpy<1, no.\n"
    many += "hint: Wheels are required (i.e., with `--no-build`)\n\nhint: You require CPython 3.11"
    assert reason_in(many) == "No solution found And because you require numpy<1, no. hint: You require CPython 3.11"


def test_a_full_disk_is_the_reason_and_no_other_interpreter_is_tried(
    toy: dict[str, BackendFile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What uv says there is written down from a disk of 20 MB; uv itself is a script that says it."""
    uv, tried = tmp_path / "uv-full", tmp_path / "tried"
    uv.write_text(
        f"#!/bin/sh\necho x >> {tried}\n"
        "echo 'warning: Failed to hardlink files; falling back to full copy.' >&2\n"
        "echo '         If the cache and target are on different filesystems, hardlinking may not work.' >&2\n"
        "echo 'error: Failed to install: toy.whl' >&2\necho '  Caused by: No space left on device (os error 28)' >&2\n"
        "exit 2\n"
    )
    uv.chmod(0o755)
    monkeypatch.setattr(installer, "find_uv", lambda: str(uv))
    made = make(toy)
    assert isinstance(made, Unavailable)
    assert "do not fit on the disk" in made.reason and made.reason.endswith("No space left on device")
    assert "BNCHECK_CACHE" in made.remedy
    assert tried.read_text() == "x\n"


def test_python_downloads_are_off_unless_the_user_says_so() -> None:
    assert installer.python_downloads({}) == "never"
    assert installer.python_downloads({"UV_PYTHON_DOWNLOADS": "automatic"}) == "automatic"
    both = {"UV_PYTHON_DOWNLOADS": "never", "BNCHECK_PYTHON_DOWNLOADS": "manual"}
    assert installer.python_downloads(both) == "manual"


def test_the_env_command_creates_lists_and_removes(toy: dict[str, BackendFile], tmp_path: Path) -> None:
    backend = ("--backend-file", str(tmp_path / "toy.py"))
    created = bncheck("env", "create", "toy", *backend)
    assert created.returncode == 0, created.stderr
    assert "toy: ready, 1.0 in environment" in created.stdout
    (row,) = json.loads(bncheck("env", "list", "--json").stdout)["environments"]
    assert (row["installed"], row["usable"], row["packages"]) == ("1.0", True, ["bnc-toy==1.0"])
    assert bncheck("env", "remove", "--unused").stdout == "nothing to remove\n"
    climbing = bncheck("env", "remove", "../../wheels")
    assert (climbing.returncode, (tmp_path / "wheels").exists()) == (2, True)
    assert bncheck("env", "remove").returncode == 2
    failed = bncheck("env", "create", "toy==7.7", *backend)
    assert failed.returncode == 3
    assert "toy==7.7: unavailable:" in failed.stdout
    removed = bncheck("env", "remove", row["name"])
    assert removed.stdout == f"removed {row['name']}\n"
    assert not [path for path in environments_folder().iterdir() if path.is_dir()]


def test_doctor_says_what_is_here_and_hides_passwords(
    toy: dict[str, BackendFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://me:secret@mirror/simple")
    backend = ("--backend-file", str(tmp_path / "toy.py"))
    text = bncheck("doctor", *backend)
    assert text.returncode == 0, text.stderr
    assert "https://****@mirror/simple" in text.stdout
    data = bncheck("doctor", "--json", *backend)
    assert "secret" not in text.stdout + data.stdout
    found = json.loads(data.stdout)
    assert found["cache"]["path"] == str(tmp_path / "cache")
    assert found["interpreters"][0]["version"] == ".".join(map(str, sys.version_info[:3]))
    row = next(row for row in found["backends"] if row["name"] == "toy")
    assert row["status"] == "not installed"
    assert row["remedy"].startswith("bncheck env create toy")
    assert bncheck("env", "create", "toy", *backend).returncode == 0
    found = json.loads(bncheck("doctor", "--json", *backend).stdout)
    assert next(row for row in found["backends"] if row["name"] == "toy")["status"] == "usable"


@pytest.mark.network
def test_a_package_of_the_machines_index_can_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNCHECK_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.py"
    path.write_text(BACKEND.replace("bnctoy", "six").replace("bnc-toy", "six").replace('"1.0"', '"1.16.0"'))
    backends = {"small": read_backend(path)}
    outcome = make(backends, "small==1.16.0")
    assert isinstance(outcome, Ready), outcome
    assert answer(outcome.python, "import six; print(six.__version__)") == "1.16.0"
