"""Where the packages of an environment come from, and what is said where they cannot come."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import toy_environments
from packaging.specifiers import SpecifierSet
from patience import patience
from toy_environments import answer, make, wheel

from bncheck.environments import package_source
from bncheck.environments.backend_file import BackendFile
from bncheck.environments.folder import environments_folder
from bncheck.environments.index_settings import IndexSettings
from bncheck.environments.installer import Failure
from bncheck.environments.package_source import Source, choose_source
from bncheck.environments.pythons import Ready, Unavailable

pytestmark = pytest.mark.skipif(os.name == "nt", reason="paths of POSIX environments")
toy = toy_environments.toy  # a fixture


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
