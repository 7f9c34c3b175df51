"""pip's settings as pip documents them, and what uv is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bncheck.environments.index_settings import (
    IndexSettings,
    mask,
    pip_config_files,
    read_index_settings,
    uv_environment,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders of pip on POSIX")


def machine(folder: Path, **variables: str) -> dict[str, str]:
    """An environment whose only pip files are those in ``folder``."""
    return {"HOME": str(folder / "home"), "XDG_CONFIG_DIRS": str(folder / "xdg"), **variables}


def ini(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_variables_win_over_install_over_global_and_user_over_shared(tmp_path: Path) -> None:
    ini(tmp_path / "xdg/pip/pip.conf", "[global]\nindex-url = https://shared/simple\ntimeout = 3\n")
    user = ini(
        tmp_path / "home/.config/pip/pip.conf",
        "[global]\nindex-url = https://user/simple\nextra-index-url =\n  https://one/simple\n  https://two/simple\n"
        "trusted_host = one two\n[install]\nextra-index-url = https://three/simple\n",
    )
    settings = read_index_settings(machine(tmp_path, PIP_CERT="/cert.pem"))
    assert settings.index_url == "https://user/simple"
    assert settings.extra_index_urls == ("https://three/simple",)
    assert settings.trusted_hosts == ("one", "two")
    assert settings.cert == "/cert.pem"
    assert str(user) in settings.sources
    assert "PIP_CERT" in settings.sources
    changed = read_index_settings(machine(tmp_path, PIP_EXTRA_INDEX_URL="https://four/simple https://five/simple"))
    assert changed.extra_index_urls == ("https://four/simple", "https://five/simple")


def test_pip_config_file_replaces_the_users_file_and_devnull_switches_all_off(tmp_path: Path) -> None:
    user = ini(tmp_path / "home/.config/pip/pip.conf", "[global]\nindex-url = https://user/simple\n")
    other = ini(tmp_path / "other.conf", "[global]\nindex-url = https://other/simple\n")
    files = pip_config_files(machine(tmp_path, PIP_CONFIG_FILE=str(other)))
    assert files[-1] == other
    assert user not in files
    assert pip_config_files(machine(tmp_path, PIP_CONFIG_FILE=os.devnull)) == []
    assert user in pip_config_files(machine(tmp_path))


def test_a_file_that_is_no_ini_file_is_left_out(tmp_path: Path) -> None:
    broken = ini(tmp_path / "broken.conf", "index-url = https://no-section/simple\n\x00[[[")
    assert str(broken) not in read_index_settings(machine(tmp_path, PIP_CONFIG_FILE=str(broken))).sources


def test_uv_gets_pips_settings_as_variables(tmp_path: Path) -> None:
    settings = IndexSettings(
        index_url="https://me:secret@mirror/simple",
        extra_index_urls=("https://one/simple", "file:///two/simple"),
        find_links=(str(tmp_path), str(tmp_path / "missing"), "https://links/"),
        trusted_hosts=("one", "two"),
        cert="/cert.pem",
    )
    assert uv_environment(settings, {}) == {
        "UV_DEFAULT_INDEX": "https://me:secret@mirror/simple",
        "UV_INDEX": "https://one/simple file:///two/simple",
        "UV_FIND_LINKS": f"{tmp_path},https://links/",
        "UV_INSECURE_HOST": "one two",
        "SSL_CERT_FILE": "/cert.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_the_users_own_uv_settings_are_kept() -> None:
    settings = IndexSettings(index_url="https://pip/simple", extra_index_urls=("https://extra/simple",))
    mine = {"UV_INDEX_URL": "https://uv/simple", "UV_EXTRA_INDEX_URL": "https://x/", "UV_INDEX_STRATEGY": "first-index"}
    assert uv_environment(settings, mine) == mine


def test_uv_settings_count_as_the_users_choice_but_a_certificate_does_not(tmp_path: Path) -> None:
    quiet = machine(tmp_path, PIP_CONFIG_FILE=os.devnull)
    assert not read_index_settings({**quiet, "PIP_CERT": "/cert.pem"}).chosen_by_user
    assert read_index_settings({**quiet, "UV_DEFAULT_INDEX": "https://uv/simple"}).chosen_by_user
    assert read_index_settings({**quiet, "PIP_FIND_LINKS": "/wheels"}).chosen_by_user
    ini(tmp_path / "home/.config/uv/uv.toml", '[[index]]\nurl = "https://company/simple"\n')
    assert read_index_settings(quiet).chosen_by_user
    assert not read_index_settings({**quiet, "UV_NO_CONFIG": "1"}).chosen_by_user


def test_relative_links_become_absolute_because_uv_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_index_settings(
        {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "wheels file:///opt/more https://links/x"}
    )
    assert settings.find_links == (str(tmp_path / "wheels"), "/opt/more", "https://links/x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@mirror/simple", "https://****@mirror/simple"),
        ("https://token@mirror/a and http://u:p@b/", "https://****@mirror/a and http://****@b/"),
        ("https://me:s@cret@mirror/simple", "https://****@mirror/simple"),
        ("https://mirror/simple/@scope", "https://mirror/simple/@scope"),
        ("torch@cuda", "torch@cuda"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert mask(text) == shown


def test_a_rotating_token_is_the_same_place() -> None:
    first = IndexSettings(index_url="https://aws:token1@mirror/simple")
    second = IndexSettings(index_url="https://aws:token2@mirror/simple")
    assert first.identity() == second.identity() != IndexSettings(index_url="https://other/simple").identity()
