"""The table of conventions: facets down, targets across; terminal and CSV. Shows what run.json says, nothing more."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.convention import FACETS, Convention, Facet
from bncheck.report.plain_text import clean, one_line, scalar
from bncheck.run_folder.results import Results
from bncheck.run_folder.whole import write_whole

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = (
    "target",
    "path",
    "facet",
    "value",
    "identifiable",
    "residual",
    "runner_up",
    "runner_up_residual",
    "reason",
    "documented",
    "agrees",
    "link",
    "framework_word",
)


UNKNOWN = "not identifiable"
FACET_WIDTH, TARGET_WIDTH = 22, 20
MOST_NAMES = 4  # of targets in a sentence


def kept(results: Results) -> list[str]:
    """Which targets' conventions an earlier run has measured, and on which day: a sentence a day."""
    days: dict[str, list[str]] = {}
    measured = results.conventions_at
    for target in results.targets:
        if target.measured_on and target.name in measured:
            days.setdefault(target.measured_on, []).append(target.name)
    return [
        f"The conventions of {some(names, len(measured))} were measured on {one_line(day, 20)}; "
        "--fresh measures them again."
        for day, names in sorted(days.items())
    ]


def some(names: Sequence[str], of: int) -> str:
    if len(names) > MOST_NAMES:
        return f"{len(names)} of {of} targets"
    return " and ".join(filter(None, (", ".join(map(clean, names[:-1])), *map(clean, names[-1:]))))


def cell(paths: Mapping[str, Convention], facet: str) -> str:
    """One target's value of a facet; its paths apart where they differ, "not identifiable" where none tells."""
    values = {path: shown(convention.facets.get(facet)) for path, convention in paths.items()}
    known = {path: text for path, text in values.items() if text}
    if not known:
        return UNKNOWN
    if len(set(known.values())) == 1:
        return next(iter(known.values()))
    return "; ".join(f"{path}: {text}" for path, text in known.items())


def shown(facet: Facet | None) -> str:
    """A facet's value with its documented one where they disagree; empty when it is not identifiable."""
    if facet is None or not facet.identifiable:
        return ""
    text = scalar(facet.value)
    return f"{text} ≠ documented {scalar(facet.documented)}" if facet.agrees is False else text


def words(paths: Mapping[str, Convention], facet: str) -> str:
    """The framework's own word beside the neutral one, e.g. ``momentum=0.9``."""
    found = dict.fromkeys(c.framework_word[facet] for c in paths.values() if facet in c.framework_word)
    return " / ".join(found)


def evidence(paths: Mapping[str, Convention], facet: str) -> str:
    """How well the value fits and how well the next best would, on the path that tells least; "" where nothing was
    fitted (a refusal, a value that is read off)."""
    fitted = [c.facets[facet] for c in paths.values() if facet in c.facets and c.facets[facet].identifiable]
    fitted = [item for item in fitted if math.isfinite(item.residual)]
    if not fitted:
        return ""
    worst = max(fitted, key=lambda item: item.residual)
    next_best = worst.runner_up and math.isfinite(worst.runner_up_residual)
    beside = f"; {worst.runner_up}: {worst.runner_up_residual:.1e}" if next_best else ""
    return f"residual {worst.residual:.1e}{beside}"


def links(results: Results) -> list[str]:
    """Where each target's documented convention stands."""
    found: dict[str, dict[str, None]] = {}
    for convention in results.conventions:
        for facet in convention.facets.values():
            if facet.link:
                found.setdefault(convention.target, {})[facet.link] = None
    return [f"{target}: {' '.join(known)}" for target, known in found.items()]


def table(results: Results, width: int = 100, residuals: bool = False) -> RenderableType:
    """For a terminal: facets down, targets across, in as many blocks as the width asks for. ``residuals`` puts each
    value's evidence below it."""
    from rich.console import Group
    from rich.text import Text

    targets = results.conventions_at
    names = list(targets)
    known = [facet for facet in FACETS if any(cell(paths, facet) != UNKNOWN for paths in targets.values())]
    fit = max(1, (width - FACET_WIDTH) // TARGET_WIDTH)
    parts: list[RenderableType] = []
    for start in range(0, len(names), fit):
        here = {name: targets[name] for name in names[start : start + fit]}
        parts += [block(results, here, known, residuals), Text()]
    hidden = [facet for facet in FACETS if facet not in known]
    if hidden and targets:
        parts.append(Text(f"not identifiable on any of these targets: {', '.join(hidden)}", style="dim"))
    return Group(*parts)


def block(
    results: Results, targets: Mapping[str, Mapping[str, Convention]], facets: Sequence[str], residuals: bool = False
) -> RenderableType:
    """Some targets side by side; what is not identifiable is dim, what contradicts its documentation is bold."""
    from rich.table import Table
    from rich.text import Text

    versions = {target.name: target.version.partition("+")[0] for target in results.targets}
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("facet", no_wrap=True, min_width=FACET_WIDTH - 2)
    for name in targets:
        version = versions.get(name, "")
        heading = name if not version or version in name else f"{name} {version}"
        grid.add_column(Text(clean(heading)), overflow="fold", min_width=12, max_width=TARGET_WIDTH - 2)
    for facet in facets:
        row = [cell(paths, facet) for paths in targets.values()]
        own = [words(paths, facet) for paths in targets.values()]
        styles = ["dim" if text == UNKNOWN else "bold red" if "≠" in text else "" for text in row]
        texts = [clean(f"{text} ({word})" if word else text) for text, word in zip(row, own, strict=True)]
        grid.add_row(facet, *(Text(text, style=style) for text, style in zip(texts, styles, strict=True)))
        below = [evidence(paths, facet) for paths in targets.values()] if residuals else []
        if any(below):
            grid.add_row("", *(Text(clean(text), style="dim") for text in below))
    return grid


def rows(results: Results) -> list[list[str]]:
    found = []
    for convention in results.conventions:
        for name, facet in convention.facets.items():
            found.append(
                [
                    convention.target,
                    convention.path,
                    name,
                    "" if facet.value is None else str(facet.value),
                    str(facet.identifiable).lower(),
                    repr(facet.residual),
                    facet.runner_up,
                    repr(facet.runner_up_residual),
                    facet.reason,
                    "" if facet.documented is None else str(facet.documented),
                    "" if facet.agrees is None else str(facet.agrees).lower(),
                    facet.link,
                    convention.framework_word.get(name, ""),
                ]
            )
    return found


def as_csv(results: Results) -> str:
    """All facets of all targets and paths, one line each, with residuals and runners-up."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows(results))
    return stream.getvalue()


def write_csv(results: Results, run_folder: Path) -> Path:
    return write_whole(run_folder / "conventions.csv", as_csv(results))


def disagreements(results: Results) -> Sequence[str]:
    """A sentence for every facet that is not as its framework documents it."""
    found = []
    for convention in results.conventions:
        for name, facet in convention.facets.items():
            if facet.agrees is False:
                where = f" on {convention.path}" if convention.path else ""
                found.append(
                    f"{convention.target}{where}: {name} is {scalar(facet.value)}, "
                    f"documented as {scalar(facet.documented)} ({facet.link})"
                )
    return found
