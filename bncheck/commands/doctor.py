"""bncheck doctor: what is here, what is missing, and what fixes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bncheck.environments.backend_file import BackendFile


@click.command("doctor", short_help="What is here, what is missing, and what fixes it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--backend-file",
    "backend_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A backend file of your own.",
)
def doctor_command(as_json: bool, backend_files: Sequence[Path]) -> None:
    """Look at interpreters, uv, the cache folder, index settings and backends; nothing is installed."""
    from bncheck.environments.backend_file import find_backends

    found = examine(find_backends(backend_files))
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo(describe(found))


def examine(backends: Mapping[str, BackendFile]) -> dict[str, Any]:
    """Everything doctor knows, ready for JSON; no URL in it holds a password."""
    import bncheck
    from bncheck.environments.folder import cache_folder
    from bncheck.environments.installer import find_uv, python_downloads
    from bncheck.environments.interpreters import find_interpreters
    from bncheck.environments.package_source import has_gpu_hint
    from bncheck.errors import EnvironmentFailure

    try:
        uv = {"path": find_uv(), "remedy": ""}
    except EnvironmentFailure as error:
        uv = {"path": "", "remedy": error.remedy}
    return {
        "bncheck": getattr(bncheck, "__version__", ""),
        "python": {"path": sys.executable, "version": ".".join(map(str, sys.version_info[:3]))},
        "interpreters": [{"path": str(item.path), "version": item.version} for item in find_interpreters()],
        "uv": uv,
        "python_downloads": python_downloads(),
        "cache": _cache(cache_folder()),
        "indexes": _indexes(),
        "nvidia_gpu_hint": has_gpu_hint(),
        "backends": [_backend(backend) for backend in backends.values()],
    }


def _backend(backend: BackendFile) -> dict[str, str]:
    from bncheck.environments.pythons import find_ready, fitting_interpreters
    from bncheck.environments.targets import Target

    target = Target(backend.name, device=backend.devices[0], default_device=backend.devices[0])
    row = {"name": backend.name, "title": backend.title}
    ready = find_ready(target, backend)
    if ready is not None:
        return row | {
            "status": "usable",
            "version": ready.version,
            "where": ready.origin,
            "python": str(ready.python),
        }
    requirements = backend.row_for(backend.default_version)
    if requirements is not None and next(fitting_interpreters(requirements.python), None) is None:
        fix = f"install Python {requirements.python}, or --python {backend.name}=PATH"
        return row | {"status": "no interpreter", "version": backend.default_version, "remedy": fix}
    fix = f"bncheck env create {backend.name} (a run does it by itself)"
    return row | {"status": "not installed", "version": backend.default_version, "remedy": fix}


def _cache(folder: Path) -> dict[str, Any]:
    import os
    import shutil

    existing = next(path for path in (folder, *folder.parents) if path.exists())
    environments = folder / "environments"
    count = sum(path.is_dir() for path in environments.iterdir()) if environments.is_dir() else 0
    return {
        "path": str(folder),
        "writable": os.access(existing, os.W_OK),
        "environments": count,
        "free_gigabytes": round(shutil.disk_usage(existing).free / 1e9, 1),
    }


def _indexes() -> dict[str, Any]:
    from bncheck.environments.index_settings import mask, read_index_settings

    settings = read_index_settings()
    return {
        "chosen_by_user": settings.chosen_by_user,
        "index_url": mask(settings.index_url),
        "extra_index_urls": [mask(url) for url in settings.extra_index_urls],
        "find_links": [mask(link) for link in settings.find_links],
        "trusted_hosts": list(settings.trusted_hosts),
        "certificate": settings.cert,
        "no_index": settings.no_index,
        "uv": [mask(text) for text in settings.uv_own],
        "read_from": list(settings.sources),
    }


def describe(found: Mapping[str, Any]) -> str:
    """The findings of :func:`examine` as text."""
    cache, uv = found["cache"], found["uv"]
    lines = [
        f"bncheck {found['bncheck']} on Python {found['python']['version']} ({found['python']['path']})",
        "",
    ]
    lines += ["interpreters"]
    lines += [f"  {item['version']:8} {item['path']}" for item in found["interpreters"]]
    lines += [
        f"  Python downloads by uv: {found['python_downloads']} (BNCHECK_PYTHON_DOWNLOADS changes it)",
        "",
    ]
    lines += [f"uv       {uv['path'] or 'missing'}" + (f"\n  → {uv['remedy']}" if uv["remedy"] else "")]
    lines += [
        f"cache    {cache['path']}: {cache['environments']} environments, {cache['free_gigabytes']} GB free"
        + ("" if cache["writable"] else "\n  → not writable: set BNCHECK_CACHE to a folder you own")
    ]
    hint = "a device is here" if found["nvidia_gpu_hint"] else "no sign of one; @cuda targets will be unavailable"
    lines += [f"GPU      NVIDIA: {hint}", "", "package indexes"]
    lines += [f"  {line}" for line in _index_lines(found["indexes"])] + ["", "backends"]
    for backend in found["backends"]:
        name, version, status = backend["name"], backend["version"], backend["status"]
        lines.append(f"  {name:12} {version:14} {status:15} {backend.get('where', '')}")
        if backend.get("remedy"):
            lines.append(f"    → {backend['remedy']}")
    return "\n".join(line.rstrip() for line in lines)


def _index_lines(indexes: Mapping[str, Any]) -> list[str]:
    lines = [f"{name.replace('_', ' ')}: {_shown(value)}" for name, value in indexes.items() if value]
    return lines if indexes["chosen_by_user"] else ["no settings of yours: the default index", *lines]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else {True: "yes"}.get(value, str(value))
