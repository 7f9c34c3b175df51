"""Tables of the README and of docs/, made from the code: ``python tests/tools/readme_tables.py`` writes them, a test
compares them.

Each stands, on one page, between ``<!-- table: NAME -->`` and ``<!-- end -->``. The table of conventions is measured,
not made: ``python tests/tools/readme_tables.py RUN`` takes it from the run folder of a ``bncheck conventions``; given
a file instead, it takes what the first example printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncheck.finding import Finding

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
MEASURED = ROOT / "tests" / "data" / "gpu"  # a run folder for each machine that was lent
PAGES = (README, *sorted(DOCS.glob("*.md")))


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def commands() -> str:
    from bncheck.cli import COMMANDS

    return table(("command", "what it does"), [(f"`bncheck {name}`", text) for name, text in COMMANDS.items()])


def targets() -> str:
    from bncheck.environments.backend_file import find_backends

    rows = []
    for name, backend in sorted(find_backends(()).items()):
        variants = ", ".join(f"`[{variant}]`" for variant in backend.variants if variant) or "–"
        version = backend.default_version or "–"
        rows.append((f"`{name}`", backend.title, version, variants, ", ".join(backend.devices)))
    return table(("target", "framework", "default version", "variants", "devices"), rows)


def rules() -> str:
    from bncheck.diagnosis.rules import load_rules

    return table(("code", "cause", "what it says"), [(f"`{r.code}`", f"`{r.cause}`", r.title) for r in load_rules()])


def scenarios() -> str:
    from bncheck.scenario_files.files import load_scenario
    from bncheck.scenario_files.shipped import find_scenarios

    rows = []
    for scenario in (load_scenario(path) for path in find_scenarios()):
        use = "probe" if scenario.probe else "default" if scenario.default else ""
        rows.append((f"`{scenario.name}`", str(len(scenario.cases)), use, scenario.title))
    return table(("scenario", "cases", "", "what it tries"), rows)


def events() -> str:
    from bncheck.scenario import OPS

    rows = [(f"`{op.name}`", ", ".join(f"`{key}`" for key in op.arguments), op.says) for op in OPS]
    return table(("event", "arguments", "what it does"), rows)


def symptoms() -> str:
    """What docs/checking.md has, without what each command tells."""
    rows = re.findall(r"^\| (?!---)(.+?) \| (`bncheck [^`]+`) \| .+ \|$", (DOCS / "checking.md").read_text(), re.M)
    return table(("I see", "run"), rows)


def keys() -> str:
    from bncheck.scenario_files.keys import key_rows

    rows = [
        (f"`{key}`", default if default in ("", "required") else f"`{default}`", says)
        for key, default, says in key_rows()
    ]
    return table(("key", "default", "what it says"), rows)


def python() -> str:
    import bncheck

    rows = []
    for name in bncheck._PYTHON:
        said = (getattr(bncheck, name).__doc__ or "").split("\n\n")[0]
        rows.append((f"`bncheck.{name}`", " ".join(said.replace("``", "`").split())))
    return table(("name", "what it does"), rows)


def gpus() -> str:
    """Each framework on a GPU, by the run folders of MEASURED; what none of them has is said to be unmeasured."""
    from bncheck.environments.backend_file import find_backends
    from bncheck.environments.targets import parse_target

    found = [row for run in sorted(MEASURED.glob("*/run.json")) for row in elsewhere(run.parent)]
    named = [f"{name}@cuda" for name, backend in sorted(find_backends(()).items()) if "cuda" in backend.devices]
    measured = {parse_target(row[0].strip("`"), find_backends(())).backend for row in found if "@cuda" in row[0]}
    rows = [(f"`{name}`", "not measured yet", "", "", "") for name in named if name.partition("@")[0] not in measured]
    return table(("target", "device", "version", "cases like on the CPU", "what differs"), [*found, *rows])


def elsewhere(run: Path) -> Iterator[tuple[str, ...]]:
    """The row of each target that ran on another device than its framework's first, held against that one."""
    from bncheck.run_folder.results import read_results

    results = read_results(run)
    usual = {(each.backend, each.variant): each.name for each in results.targets if "@" not in each.name}
    for target in results.targets:
        home = usual.get((target.backend, target.variant))
        if target.status != "ok" or "@" not in target.name or home is None:
            continue
        cases = [(one.name, case.name) for one in results.scenarios if not one.probe for case in one.cases]
        held = [results.drifts_between(*case, home, target.name) for case in cases]
        compared = [drifts for drifts in held if drifts]
        alike = sum(all(drift.relation == "agrees" for drift in drifts) for drifts in compared)
        causes = {finding.cause for finding in results.findings if parts(finding, home, target.name)}
        device = str(target.environment.get("gpu") or target.environment.get("unit") or target.device)
        version = target.version.partition("+")[0]
        differs = ", ".join(f"`{each}`" for each in sorted(causes))
        yield f"`{target.name}`", device, version, f"{alike} of {len(compared)} ({run.name})", differs


def parts(finding: Finding, one: str, two: str) -> bool:
    """Whether it is about a difference between the two."""
    if finding.sides:
        return any(one in side for side in finding.sides) and any(
            two in side and one not in side for side in finding.sides
        )
    return {one, two} <= set(finding.targets)


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "targets": targets,
    "gpus": gpus,
    "rules": rules,
    "scenarios": scenarios,
    "events": events,
    "keys": keys,
    "symptoms": symptoms,
    "python": python,
}


def fill(text: str) -> str:
    """A page with every table that it has made anew."""
    for name in places(text):
        pattern, made = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", TABLES[name]()
        text = re.sub(pattern, lambda match, made=made: match[1] + made + "\n" + match[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def places(text: str) -> list[str]:
    """The tables that a page has room for."""
    return re.findall(r"<!-- table: (\w+) -->\n", text)


HEADINGS = (
    "target",
    "default weight (its word)",
    "eps",
    "moves in",
    "divisor",
    "average",
    "n = 1: y; statistics",
    "n = 0",
)


def conventions(run: Path) -> dict[str, str]:
    """Target → its row of the table of conventions, from the run folder that measured it."""
    from bncheck.diagnosis.porting import spelled
    from bncheck.report.conventions import cell
    from bncheck.run_folder.results import read_results

    results = read_results(run)
    versions = {target.name: target.version.partition("+")[0] for target in results.targets}
    rows = {}
    for name, paths in results.conventions_at.items():
        first = next(iter(paths.values()))
        weight = first.value("default_batch_weight")
        told = f"{weight:g} (`{spelled(first, weight)}`)" if isinstance(weight, int | float) else "none"
        small = f"{cell(paths, 'single_value')}; {cell(paths, 'single_value_state')}"
        rows[name] = "| " + " | ".join([
            f"`{name}` {versions[name]}".strip(), told, cell(paths, "default_eps"), cell(paths, "update_on"),
            cell(paths, "variance_divisor"), cell(paths, "averaging"), small, cell(paths, "empty_batch"),
        ]) + " |"  # fmt: skip
    return rows


def fill_example(text: str, printed: str) -> str:
    """The README's first example with what the command in it printed."""
    pattern = r"(<!-- example: first -->\n```console\n\$ [^\n]*\n).*?(```\n<!-- end -->)"
    kept = "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")
    return re.sub(pattern, lambda match: match[1] + kept + "\n" + match[2], text, flags=re.DOTALL)


def fill_conventions(text: str, run: Path) -> str:
    heading = "\n".join("| " + " | ".join(line) + " |" for line in (HEADINGS, ["---"] * len(HEADINGS)))
    made = heading + "\n" + "\n".join(conventions(run).values())
    pattern = r"(<!-- measured: conventions -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: match[1] + made + "\n" + match[2], text, flags=re.DOTALL)


def main(arguments: list[str]) -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        filled = fill(text)
        for argument in map(Path, arguments):
            if argument.is_dir():
                filled = fill_conventions(filled, argument)
            else:
                filled = fill_example(filled, argument.read_text(encoding="utf-8"))
        if filled != text:
            page.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
