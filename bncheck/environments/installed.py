"""What is installed in a Python, seen as a worker will see it."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from bncheck.environments.folder import normalised

# Prints {distribution: version} and which of the modules can be found, under -I as the worker will see it.
PROBE = """
import importlib.util, json, os, re, sys
found = {}
for folder in reversed(sys.path):
    for name in (os.listdir(folder) if os.path.isdir(folder) else []):
        match = re.match(r"(.+?)-([^-]+?)(-py[0-9.]+)?([.]dist-info|[.]egg-info|-.*[.]egg)$", name)
        if match:
            found[re.sub(r"[-_.]+", "-", match.group(1)).lower()] = match.group(2)
modules = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None]
print(json.dumps([found, modules]))
"""


@functools.cache
def installed_in(python: Path, module: str) -> tuple[dict[str, str], list[str]] | None:
    """Distributions by name, and which of ``module`` and numpy can be found; None if it does not run."""
    command = [str(python), "-I", "-c", PROBE, *filter(None, (module, "numpy"))]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
        versions, modules = json.loads(answer.stdout)
    except (OSError, ValueError, TypeError, RecursionError, subprocess.TimeoutExpired):
        return None
    return (versions, modules) if isinstance(versions, dict) and isinstance(modules, list) else None


def satisfies(installed: str, asked: str) -> bool:
    """True if the installed version is what was asked for: ``2.13.0+cpu`` is 2.13.0, but not 2.13.0+cu130."""
    try:
        have, want = Version(installed), Version(asked)
    except InvalidVersion:
        return installed == asked
    return have == want if want.local else Version(have.public) == want


def violates(installed: Mapping[str, str], package: str) -> bool:
    """True if what is installed breaks an upper bound (torch 2.0 with NumPy 2 cannot read an array).

    Lower bounds are for new environments: torch 2.13 also works with the NumPy 1.23 that mxnet needs.
    """
    from packaging.requirements import Requirement

    requirement = Requirement(package)
    have = installed.get(normalised(requirement.name))
    if have is None or (requirement.marker is not None and not requirement.marker.evaluate()):
        return False
    bounds = SpecifierSet(
        ",".join(str(item) for item in requirement.specifier if item.operator not in (">=", ">", "~="))
    )
    return not bounds.contains(have, prereleases=True)


def distribution_of(package: str) -> str:
    """The normalised name of the distribution that a requirement is about."""
    from packaging.requirements import Requirement

    return normalised(Requirement(package).name)
