"""A measured convention beside what the framework documents: which facets are written down, and do they agree?

A backend file lists what its framework's documentation says, as rows {"versions", "variants", "link", "facets"} with
an optional "paths"; an empty or missing range, list of variants or of paths means any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from bncheck.convention import Convention, Facet

Row = Mapping[str, Any]


def compare_documented(convention: Convention, rows: Sequence[Row], version: str, variant: str = "") -> Convention:
    """The convention with documented, link and agrees filled in where the documentation says something.

    Rows are read in order and the first that says a facet wins. ``agrees`` stays None where nothing is documented or
    nothing was identified: what could not be measured contradicts nobody.
    """
    said = documented_facets(rows, version, variant, convention.path)
    facets = {
        name: describe(facet, *said[name]) if name in said else facet for name, facet in convention.facets.items()
    }
    return replace(convention, facets=facets)


def documented_facets(
    rows: Sequence[Row], version: str, variant: str = "", path: str = ""
) -> dict[str, tuple[Any, str]]:
    """Facet → (documented value, link) for one version, variant and layer path."""
    found: dict[str, tuple[Any, str]] = {}
    for row in rows:
        if applies(row, version, variant, path):
            for name, value in row.get("facets", {}).items():
                found.setdefault(name, (value, str(row.get("link", ""))))
    return found


def applies(row: Row, version: str, variant: str, path: str) -> bool:
    """Whether a row speaks of this version, variant and path; an unreadable version matches rows of any."""
    variants, paths = row.get("variants"), row.get("paths")
    if (variants and variant not in variants) or (paths and path not in paths):
        return False
    try:
        allowed = SpecifierSet(str(row.get("versions", "")))
        # A local part ("2.13.0+cpu") names a build, not another version.
        return not str(allowed) or allowed.contains(Version(version).public, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


def describe(facet: Facet, value: Any, link: str) -> Facet:
    return replace(facet, documented=value, link=link, agrees=agrees(facet, value))


def agrees(facet: Facet, documented: Any) -> bool | None:
    """Whether a measured facet has the documented value; numbers within their uncertainty or a tenth of a per cent."""
    if not facet.identifiable or facet.value is None:
        return None
    try:
        measured, written = float(facet.value), float(documented)
    except (TypeError, ValueError):
        return str(facet.value) == str(documented)
    return math.isclose(measured, written, rel_tol=1e-3, abs_tol=max(facet.uncertainty, 1e-12))
