"""Where the packages of one environment can be had, tried by resolving before anything is downloaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bncheck.environments import installer
from bncheck.environments.devices import nvidia
from bncheck.environments.index_settings import IndexSettings
from bncheck.environments.installed import distribution_of


@dataclass(frozen=True)
class Source:
    """Where the packages of one environment come from: settings and options that were seen to resolve."""

    settings: IndexSettings
    options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_source(
    python: Path, packages: tuple[str, ...], settings: IndexSettings, cpu_build: bool
) -> Source | installer.Failure:
    """The first that resolves: a CPU build, the user's settings, those without the extra indexes."""
    options: list[tuple[IndexSettings, tuple[str, ...], str]] = [(settings, (), "")]
    if cpu_build:
        note = "the index of CPU builds cannot be used; taking the default index's build, which may be larger"
        options = [(settings, ("--torch-backend", "cpu"), ""), (settings, (), note)]
    if settings.extra_index_urls:
        # pip warns and goes on when an extra index cannot be reached; uv stops.
        note = "an extra index cannot be reached; going on without the extra indexes"
        options.append((settings.without_extra_indexes(), (), note))
    first: installer.Failure | None = None
    for changed, arguments, note in options:
        failure = installer.check_resolvable(python, packages, changed, arguments)
        if failure is None:
            return Source(changed, arguments, (note,) if note else ())
        if changed != settings and not failure.network:
            continue  # it was on the extra index: the first failure says more
        # The user's own settings decide what is reported, not our attempt at a smaller build.
        first = failure if first is None or not arguments else first
        if not failure.network and not arguments:
            break
    assert first is not None
    if first.network and installer.check_resolvable(python, packages, settings, ("--offline",)) is None:
        return Source(settings, ("--offline",), ("no index can be reached; taking what uv has in its cache",))
    return first


def wants_cpu_build(packages: Sequence[str], settings: IndexSettings) -> bool:
    """On Linux the default torch is a CUDA build (2 to 5 GB; CPU: 200 MB); the user's word comes first."""
    return (
        sys.platform == "linux"
        and any(distribution_of(package) == "torch" for package in packages)
        and not settings.chosen_by_user
        and not os.environ.get("UV_TORCH_BACKEND")
        and not has_gpu_hint()
    )


def has_gpu_hint() -> bool:
    """A cheap hint that an NVIDIA GPU is here; whether it works is for the framework to say."""
    return nvidia()
