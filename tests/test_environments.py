"""Environments with the real uv: made once, repaired, shared between processes, and refused with a reason.

The packages are wheels written here, so only the tests marked ``network`` need an index.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from at_the_prompt import bncheck
from packaging.specifiers import SpecifierSet
from patience import patience

from bncheck.environments import installer, package_source
from bncheck.environments.backend_file import BackendFile, read_backend
from bncheck.environments.folder import MARKER, environments_folder, is_usable, locked, python_of, read_marker
from bncheck.environments.index_settings import IndexSettings
from bncheck.environments.installed import satisfies, violates
from bncheck.environments.installer import Failure, reason_in
from bncheck.environments.package_source import Source, choose_source
from bncheck.environments.pythons import Ready, Unavailable, parse_pythons, prepare
from bncheck.environments.targets import Target, parse_target
from bncheck.errors import UsageError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="paths of POSIX environments")
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


def damage_python(folder: Path) -> None:
    python_of(folder).unlink()


def damage_packages(folder: Path) -> None:
    for packages in folder.glob("lib/python*/site-packages"):
        shutil.rmtree(packages)


def damage_module(folder: Path) -> None:
    for module in folder.glob("lib/python*/site-packages/bnctoy.py"):
        module.unlink()


def damage_marker(folder: Path) -> None:
    (folder / MARKER).write_text('{"format": 1, "back')


def damage_marker_to_other_json(folder: Path) -> None:
    (folder / MARKER).write_text('{"format": 1}')


def damage_interpreter_to_a_text(folder: Path) -> None:
    python_of(folder).unlink()
    python_of(folder).write_text("no program")


def damage_another_package(folder: Path) -> None:
    for packages in folder.glob("lib/python*/site-packages"):
        shutil.rmtree(next(packages.glob("bnc_toy-*.dist-info")))


def damage_base(folder: Path) -> None:
    for link in (folder / "bin").glob("python*"):
        link.unlink()
        link.symlink_to(folder / "an-interpreter-that-was-removed")


DAMAGES = [damage_python, damage_packages, damage_module, damage_marker, damage_base, damage_marker_to_other_json,
           damage_interpreter_to_a_text, damage_another_package]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_environment_is_made_again(toy: dict[str, BackendFile], damage: object) -> None:
    first = make(toy)
    assert isinstance(first, Ready) and first.folder is not None
    assert callable(damage)
    damage(first.folder)
    assert not is_usable(first.folder)
    again = make(toy)
    assert again == first
    assert is_usable(first.folder)
    assert answer(first.python, "import bnctoy; print(bnctoy.__version__)") == "1.0"
    assert not list(environments_folder().glob("*.tmp-*"))


def test_one_whose_numpy_is_gone_is_made_again(toy: dict[str, BackendFile]) -> None:
    """Its framework is whole; the worker needs NumPy before that."""
    first = make(toy, "toy[numeric]")
    assert isinstance(first, Ready) and first.folder is not None
    (module,) = first.folder.glob("lib/python*/site-packages/numpy.py")
    module.unlink()
    assert not is_usable(first.folder)
    assert make(toy, "toy[numeric]") == first
    assert answer(first.python, "import numpy; print(numpy.__version__)") == "1.99"


def test_half_a_package_is_made_whole_by_env_create(toy: dict[str, BackendFile], tmp_path: Path) -> None:
    """A file deep in another package, or an interpreter that starts nothing: what a run finds out, it names the
    command that mends it."""
    backend = ("--backend-file", str(tmp_path / "toy.py"))
    assert bncheck("env", "create", "toy[fast]", *backend).returncode == 0
    (folder,) = (path for path in environments_folder().iterdir() if path.is_dir())
    (extra,) = folder.glob("lib/python*/site-packages/bncextra.py")
    extra.unlink()
    assert is_usable(folder)
    assert not is_usable(folder, thorough=True)
    assert "ready" in bncheck("env", "create", "toy[fast]", *backend).stdout
    assert extra.exists()
    python_of(folder).unlink()
    python_of(folder).write_text("no program")
    python_of(folder).chmod(0o755)
    assert "ready" in bncheck("env", "create", "toy[fast]", *backend).stdout
    assert answer(python_of(folder), "import bncextra; print(1)") == "1"


def test_one_that_is_being_made_is_not_damaged(toy: dict[str, BackendFile], tmp_path: Path) -> None:
    making = environments_folder() / "toy-1.0-0123456789.tmp-abcd"
    making.mkdir(parents=True)
    with locked(environments_folder() / "toy-1.0-0123456789"):
        (row,) = json.loads(bncheck("env", "list", "--json").stdout)["environments"]
        assert (row["usable"], row["state"]) == (False, "being made")
        assert bncheck("env", "remove", "--unused").stdout == "nothing to remove\n"
    assert bncheck("env", "remove", "--unused").stdout == f"removed {making.name}\n"


def test_leftovers_of_a_killed_process_are_cleared(toy: dict[str, BackendFile]) -> None:
    first = make(toy)
    assert isinstance(first, Ready) and first.folder is not None
    leftover = first.folder.with_name(f"{first.folder.name}.tmp-dead")
    first.folder.rename(leftover)
    (leftover / MARKER).unlink()
    assert make(toy) == first
    assert not leftover.exists()


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


def test_a_version_that_is_not_there_is_unavailable_with_uvs_reason(toy: dict[str, BackendFile]) -> None:
    outcome = make(toy, "toy==7.7")
    assert isinstance(outcome, Unavailable)
    assert "bnc-toy==7.7" in outcome.reason
    assert "--python toy==7.7=PATH" in outcome.remedy
    assert not [path for path in environments_folder().iterdir() if path.is_dir()]


def test_no_interpreter_for_the_range_says_which_are_here(toy: dict[str, BackendFile]) -> None:
    outcome = make(toy, "toy==9.0")
    assert isinstance(outcome, Unavailable)
    assert "needs Python >=3.99" in outcome.reason
    assert ".".join(map(str, sys.version_info[:3])) in outcome.reason
    assert "--python" in outcome.remedy


def test_the_next_interpreter_is_tried_when_there_is_no_wheel_for_the_first(
    toy: dict[str, BackendFile], tmp_path: Path
) -> None:
    from bncheck.environments.pythons import fitting_interpreters

    found = list(fitting_interpreters(SpecifierSet(">=3.7")))
    if len(found) < 2:
        pytest.skip("needs two interpreters")
    second = "".join(map(str, found[1].minor))
    wheel(tmp_path / "wheels", "bnc-toy", "5.0", f"cp{second}-none-any")
    rows = (replace(toy["toy"].requirements[1], python=SpecifierSet(">=3.7")),)
    outcome = make({"toy": replace(toy["toy"], requirements=rows)}, "toy==5.0")
    assert isinstance(outcome, Ready)
    version = answer(outcome.python, "import sys; print('%d%d' % sys.version_info[:2])")
    assert version == second


def test_an_unreachable_index_answers_within_seconds(
    toy: dict[str, BackendFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    started = time.monotonic()
    outcome = make(toy)
    assert time.monotonic() - started < patience(20)
    assert isinstance(outcome, Unavailable)
    assert "cannot be fetched" in outcome.reason
    assert "secret" not in outcome.reason
    assert "bncheck doctor" in outcome.remedy


def test_without_a_network_uvs_cache_is_used(
    toy: dict[str, BackendFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    handler = functools.partial(QuietFiles, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        simple_index(tmp_path / "index", tmp_path / "wheels", "bnc-toy", copy=True)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
        first = make(toy)
        server.shutdown()
        serving.join()
    assert isinstance(first, Ready) and first.folder is not None
    shutil.rmtree(first.folder)
    said: list[str] = []
    assert make(toy, said=said) == first
    assert "taking what uv has in its cache" in said[-1]


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, says nothing, and wants to be asked every time (uv trusts an answer for 10 minutes)."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


def test_an_unreachable_extra_index_is_not_fatal(toy: dict[str, BackendFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (environments_folder() / "no-such-index").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    said: list[str] = []
    assert isinstance(make(toy, said=said), Ready)
    assert sum("without the extra indexes" in line for line in said) == 1


def simple_index(folder: Path, wheels: Path, *names: str, copy: bool = False) -> str:
    """A file:// index of the given projects; with ``copy`` the wheels lie in it, so that it can be served."""
    for name in names:
        page = folder / name / "index.html"
        page.parent.mkdir(parents=True)
        links = {path.name: path.as_uri() for path in wheels.glob(f"{name.replace('-', '_')}-*.whl")}
        if copy:
            links = {link: shutil.copy(wheels / link, page.parent) and link for link in links}
        page.write_text("".join(f'<a href="{url}">{link}</a>\n' for link, url in links.items()))
    return folder.as_uri()


def test_a_partial_mirror_as_extra_index_hides_no_version(
    toy: dict[str, BackendFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "old", "bnc-toy", "0.9")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", simple_index(tmp_path / "full", tmp_path / "wheels", "bnc-toy", "bnc-extra"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", simple_index(tmp_path / "partial", tmp_path / "old", "bnc-toy"))
    outcome = make(toy, "toy[fast]==1.0")
    assert isinstance(outcome, Ready)
    assert outcome.version == "1.0"


def test_cpu_builds_fall_back_to_the_default_index_at_once(
    toy: dict[str, BackendFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "wheels", "torch", "0.0.1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # the index of CPU builds cannot be reached
    ready = make(toy)
    assert isinstance(ready, Ready)
    default = IndexSettings(index_url=simple_index(tmp_path / "index", tmp_path / "wheels", "torch"))
    started = time.monotonic()
    source = choose_source(ready.python, ("torch==0.0.1",), default, cpu_build=True)
    assert time.monotonic() - started < patience(20)
    assert isinstance(source, Source)
    assert source.options == ()
    assert source.notes == (
        "the index of CPU builds cannot be used; taking the default index's build, which may be larger",
    )
    absent = choose_source(ready.python, ("torch==0.0.2",), default, cpu_build=True)
    assert isinstance(absent, Failure)
    assert "torch==0.0.2" in absent.reason
    assert not absent.network


def test_a_cpu_build_is_wanted_only_without_settings_and_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(package_source, "has_gpu_hint", lambda: False)
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    wanted = package_source.wants_cpu_build
    assert wanted(["torch==2.13.0", "numpy"], IndexSettings(cert="/cert.pem"))
    assert not wanted(["mxnet==1.9.1"], IndexSettings())
    assert not wanted(["torch==2.13.0"], IndexSettings(find_links=("/wheels",)))
    monkeypatch.setattr(package_source, "has_gpu_hint", lambda: True)
    assert not wanted(["torch==2.13.0"], IndexSettings())


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
