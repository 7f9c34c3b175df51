"""Where packages come from: pip's index settings, handed on to uv.

uv reads neither pip.conf nor PIP_*, so a person behind a mirror could not use bncheck without this.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from bncheck.bounded import expanded, read_bounded

MOST_BYTES = 1024 * 1024  # of a configuration file

# pip's option -> True if it may name several things, separated by white space.
OPTIONS = {
    "index-url": False,
    "extra-index-url": True,
    "find-links": True,
    "trusted-host": True,
    "cert": False,
    "no-index": False,
}
# The user's own uv settings always win over what we would derive from pip's.
UV_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
# Keys of uv.toml that say where packages come from.
INDEX_KEYS = ("index", "index-url", "extra-index-url", "find-links", "no-index", "default-index")
CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")


@dataclass(frozen=True)
class IndexSettings:
    """What pip would use. ``sources`` names the files and variables it was read from."""

    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: str = ""
    no_index: bool = False
    uv_own: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def chosen_by_user(self) -> bool:
        """True if the user said where packages come from; a certificate alone says nothing about that."""
        where = (self.index_url, self.extra_index_urls, self.find_links, self.no_index, self.uv_own)
        return any(where)

    def without_extra_indexes(self) -> IndexSettings:
        """The same without the extra indexes, for when one of them cannot be reached."""
        return replace(self, extra_index_urls=())

    def identity(self) -> list[str]:
        """What distinguishes one set of builds from another; a rotating token in a URL does not."""
        urls = [self.index_url, *self.extra_index_urls, *self.find_links, *self.uv_own]
        return [mask(url, "") for url in urls] + [str(self.no_index)]


def mask(text: str, instead: str = "****@") -> str:
    """``text`` without the user names, passwords and tokens of the URLs in it."""
    return CREDENTIALS.sub(instead, text)


def read_index_settings(environ: Mapping[str, str] | None = None) -> IndexSettings:
    """pip's files, then PIP_* variables (which win, as in pip), and the names of uv's own settings."""
    environ = os.environ if environ is None else environ
    values: dict[str, str] = {}
    sources: list[str] = []
    for path in pip_config_files(environ):
        found = _read_ini(path)
        if found:
            values |= found
            sources.append(str(path))
    for option in OPTIONS:
        variable = "PIP_" + option.upper().replace("-", "_")
        if environ.get(variable):
            values[option] = environ[variable]
            sources.append(variable)
    uv_own = tuple(f"{name}={environ[name]}" for name in UV_INDEX_VARIABLES if environ.get(name))
    return IndexSettings(
        index_url=values.get("index-url", ""),
        extra_index_urls=tuple(values.get("extra-index-url", "").split()),
        find_links=tuple(_absolute(link) for link in values.get("find-links", "").split()),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        cert=values.get("cert", ""),
        no_index=values.get("no-index", "").lower() in ("1", "true", "yes", "on"),
        uv_own=uv_own + _uv_config(environ),
        sources=tuple(sources) + tuple(name.split("=")[0] for name in uv_own),
    )


def pip_config_files(environ: Mapping[str, str]) -> list[Path]:
    """The files pip documents, weakest first: global, user, site, PIP_CONFIG_FILE."""
    own = environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return []
    home = Path(environ.get("HOME") or expanded("~"))
    if sys.platform == "darwin":
        shared = [Path("/Library/Application Support/pip/pip.conf")]
        user = [home / ".pip/pip.conf", home / "Library/Application Support/pip/pip.conf"]
        user.append(home / ".config/pip/pip.conf")
    elif sys.platform == "win32":
        shared = [Path(environ.get("PROGRAMDATA", "C:/ProgramData")) / "pip/pip.ini"]
        user = [home / "pip/pip.ini", Path(environ.get("APPDATA") or home) / "pip/pip.ini"]
    else:
        folders = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
        shared = [Path(folder) / "pip/pip.conf" for folder in folders] + [Path("/etc/pip.conf")]
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        user = [home / ".pip/pip.conf", config / "pip/pip.conf"]
    site = Path(sys.prefix) / ("pip.ini" if sys.platform == "win32" else "pip.conf")
    # pip leaves the user's file out when PIP_CONFIG_FILE names another.
    return [*shared, *([] if own and Path(own).exists() else user), site, *([Path(own)] if own else [])]


def uv_environment(settings: IndexSettings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for uv: variables, not options, so that no token shows up in the process list."""
    environ = dict(os.environ if environ is None else environ)
    extra: dict[str, str] = {}
    own_index = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    if settings.index_url and not own_index:
        extra["UV_DEFAULT_INDEX"] = settings.index_url
    if settings.extra_index_urls and not (environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL")):
        extra["UV_INDEX"] = " ".join(settings.extra_index_urls)
    # A missing folder is a warning for pip and the end for uv.
    links = [link for link in settings.find_links if "://" in link or Path(link).exists()]
    if links:
        extra["UV_FIND_LINKS"] = ",".join(links)
    if settings.trusted_hosts:
        extra["UV_INSECURE_HOST"] = " ".join(settings.trusted_hosts)
    if settings.cert:
        extra["SSL_CERT_FILE"] = settings.cert
    # pip looks at all indexes together; uv's default stops at the first that has the package at all. With a
    # partial mirror as extra index, torch==1.1.0 and numpy<1.24 were "not available"; with this both resolve.
    # An index that lacks a package (404, or no such file:// folder) is passed over with either strategy.
    extra["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return environ | {name: value for name, value in extra.items() if not environ.get(name)}


def _read_ini(path: Path) -> dict[str, str]:
    """Our options in [global], then [install]; a file that pip would refuse as well is left out."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(read_bounded(path, MOST_BYTES).decode())
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    return {key: value.strip() for key, value in found.items() if key in OPTIONS and value.strip()}


def _uv_config(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The index settings in the user's uv.toml, which uv reads by itself."""
    if environ.get("UV_NO_CONFIG"):
        return ()
    config = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or expanded("~")) / ".config")
    path = Path(environ.get("UV_CONFIG_FILE") or config / "uv" / "uv.toml")
    try:
        content = tomllib.loads(read_bounded(path, MOST_BYTES).decode())
        tables = [table for table in (content, content.get("pip")) if isinstance(table, dict)]
        # A number of more digits than Python writes is no setting, and a ValueError here.
        return tuple(f"{path}: {key} = {table[key]}" for table in tables for key in INDEX_KEYS if key in table)
    except (OSError, ValueError, RecursionError):
        return ()


def _absolute(link: str) -> str:
    """A folder becomes absolute, because uv runs elsewhere; a file:// URL of a folder becomes that folder."""
    try:
        parts = urlsplit(link)
    except ValueError:  # no address that uv could use either; it says so
        return link
    if parts.scheme in ("http", "https"):
        return urlunsplit(parts)
    return str(expanded(parts.path if parts.scheme == "file" else link).absolute())
