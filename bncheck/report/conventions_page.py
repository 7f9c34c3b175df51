"""The table of conventions as one HTML page, with the advice for porting a model from any target to any other.

It reads without network and JavaScript: which porting view is shown follows from the link alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bncheck.convention import Convention
from bncheck.diagnosis.porting import advise_paths, changes, spelled
from bncheck.report import plain_text
from bncheck.report.conventions import cell, kept
from bncheck.report.html import convention_table
from bncheck.report.pages import environment
from bncheck.run_folder.results import Results
from bncheck.run_folder.whole import write_whole

# What somebody who ports a model asks first.
FIRST = {
    "weight of a new batch": "default_batch_weight",
    "eps": "default_eps",
    "statistics move in": "update_on",
    "divisor of the variance": "variance_divisor",
    "average": "averaging",
    "n = 1: y": "single_value",
    "n = 1: statistics": "single_value_state",
    "n = 0": "empty_batch",
    "gamma starts as": "initial_gamma",
    "beta": "initial_beta",
}


@dataclass(frozen=True)
class Port:
    """The advice for one way, and whether the page shows it before anybody has chosen."""

    source: str
    goal: str
    anchor: str
    lines: tuple[str, ...]
    first: bool


def write(path: Path, results: Results, source: str = "", goal: str = "") -> Path:
    """Write the page; ``source`` and ``goal`` are shown first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(path, page(results, source, goal))


def page(results: Results, source: str = "", goal: str = "") -> str:
    measured = results.conventions_at
    targets = list(measured)
    ways = [(one, two) for one in targets for two in targets if one != two]
    first = (source, goal) if (source, goal) in ways else next(iter(ways), ("", ""))
    pairs = [
        Port(
            source=one,
            goal=two,
            anchor=f"port-{number}",
            lines=tuple(advise_paths(measured[one], measured[two])),
            first=(one, two) == first,
        )
        for number, (one, two) in enumerate(ways, 1)
    ]
    table = convention_table(results.conventions)
    columns = [name for name, _ in table["heads"]]
    heads = [(name, paths if columns.count(name) > 1 else "") for name, paths in table["heads"]]
    filters = dict[str, Callable[..., str]](
        scalar=plain_text.scalar, one_line=plain_text.one_line, clean=plain_text.clean
    )
    versions = {target.name: target.version.partition("+")[0] for target in results.targets}
    return (
        environment(filters)
        .get_template("conventions.html.j2")
        .render(
            results=results,
            targets=targets,
            kept=kept(results),
            conventions={**table, "heads": heads},
            pairs=pairs,
            headings=list(FIRST),
            rows={name: first_row(measured[name]) for name in targets},
            anchors={(pair.source, pair.goal): pair.anchor for pair in pairs},
            counts={(one, two): changes(measured[one], measured[two]) for one, two in ways},
            versions={name: "" if versions.get(name, "") in name else versions[name] for name in targets},
            missing=[target for target in results.targets if target.status != "ok"],
        )
    )


def first_row(paths: Mapping[str, Convention]) -> list[tuple[str, str]]:
    """(value, the framework's own word) for each heading of the first table."""
    first = next(iter(paths.values()))
    weight = first.value(FIRST["weight of a new batch"])
    word = spelled(first, weight) if isinstance(weight, int | float) else ""
    return [(cell(paths, facet), word if facet == "default_batch_weight" else "") for facet in FIRST.values()]
