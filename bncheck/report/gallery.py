"""Pictures drawn once and used by every format of a report: files in plots/, the page, an issue text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path

from bncheck.environments.fork import do_together
from bncheck.report.case_sheet import CaseSheet, lay_out
from bncheck.report.kept_pictures import kept_or_drawn, mark
from bncheck.report.overview import make_matrix
from bncheck.report.picture import Picture
from bncheck.run_folder.answer import NAME as ANSWER
from bncheck.run_folder.results import CaseResult, Results, ScenarioResult

# A page with more pictures than this is scrolled, not read; a picture takes a tenth of a second.
SHOWN = 8
# Pictures of one kind that a scenario may have beside those of its cases.
EXTRAS = 2
# Pictures of a thousand cases would fill the memory; what comes after these is drawn again where it is needed again.
REMEMBERED = 64
# So many are drawn even where everything agrees: a curve that lies on the reference is worth seeing, too.
AT_LEAST = 3


@dataclass
class Gallery:
    """Draws on demand and remembers. ``limit`` None: a picture for every case. ``png``: as PNG, too. ``page``: what is
    to be seen beside the cases will be asked for."""

    results: Results
    run_folder: Path
    limit: int | None = SHOWN
    png: bool = False
    page: bool = False
    beside: dict[str, list[Picture]] = field(default_factory=dict)  # scenario → what is to be seen of it
    drawn: dict[tuple[str, str, str], Picture | None] = field(default_factory=dict)

    def picture(self, scenario: ScenarioResult, case: CaseResult, layer: str = "") -> Picture | None:
        """The picture of one case and layer; None when nothing was recorded that can be drawn."""
        key = (scenario.name, case.name, layer)
        if key in self.drawn:
            return self.drawn[key]
        if self.draws_nothing:
            return None
        sheet = lay_out(self.results, self.run_folder, scenario, case, layer)
        picture = None if sheet is None else self.picture_of(sheet)
        if len(self.drawn) < REMEMBERED:
            self.drawn[key] = picture
        return picture

    @property
    def targets(self) -> list[str]:
        return [target.name for target in self.results.targets]

    def picture_of(self, sheet: CaseSheet) -> Picture:
        if self.png:  # those are not kept
            return draw_now(sheet, png=True)
        return kept_or_drawn(sheet, self.targets, draw_now)

    def draw_chosen(self) -> Iterator[Picture]:
        """The pictures of the chosen cases, in their order; what a page shows beside those is drawn with them."""
        if self.draws_nothing:
            return
        rows = self.chosen()
        for start in range(0, len(rows), REMEMBERED):
            now = rows[start : start + REMEMBERED]
            scenarios = [] if start or not self.page else [each for each in self.results.scenarios if not each.probe]
            work = [*(partial(self.alone, *row) for row in now), *(partial(self.extras, each) for each in scenarios)]
            found = do_together(work)
            self.beside.update(zip((each.name for each in scenarios), found[len(now) :], strict=True))
            for (scenario, case), pictures in zip(now, found, strict=False):
                if len(self.drawn) < REMEMBERED:
                    self.drawn.setdefault((scenario.name, case.name, ""), next(iter(pictures), None))
                yield from pictures
        if not self.png:
            mark((each.name for each in self.results.scenarios if not each.probe), self.targets)

    def alone(self, scenario: ScenarioResult, case: CaseResult) -> list[Picture]:
        picture = self.picture(scenario, case)
        return [] if picture is None else [picture]

    @property
    def draws_nothing(self) -> bool:
        """One thing alone: nothing was compared, and matplotlib takes longer than judging it."""
        return not self.results.drifts and (self.run_folder / ANSWER).is_file()

    def extras(self, scenario: ScenarioResult) -> list[Picture]:
        """What is to be seen of a scenario beside its cases: a few pictures of every kind that has any."""
        if self.limit == 0:
            return []
        if scenario.name in self.beside:
            return self.beside[scenario.name]
        return [
            picture
            for module in illustrators()
            for picture in import_module(f"bncheck.report.{module}").pictures(self.results, self.run_folder, scenario)
        ]

    def chosen(self) -> list[tuple[ScenarioResult, CaseResult]]:
        """The cases that get a picture, in the order a reader wants them."""
        ranked = by_interest(self.results)
        if self.limit is None:
            return [row for _, row in ranked]
        telling = [row for rank, row in ranked if rank < 2]
        rest = [row for rank, row in ranked if rank == 2]
        asked = [row for row in rest if not row[0].probe]
        rest = asked if telling or asked else rest  # probes stand behind all that was asked for
        return (telling + rest[: max(0, AT_LEAST - len(telling))])[: self.limit]


def draw_now(sheet: CaseSheet, png: bool = False) -> Picture:
    """Where all pictures are kept, matplotlib is not imported."""
    from bncheck.report.case_plot import draw

    return draw(sheet, png)


@cache
def illustrators() -> tuple[str, ...]:
    """Modules of this folder with ``pictures(results, run_folder, scenario)``, found by reading, not by importing."""
    found = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(path.stem for path in found if "\ndef pictures(" in path.read_text(encoding="utf-8"))


def by_interest(results: Results) -> list[tuple[int, tuple[ScenarioResult, CaseResult]]]:
    """(rank, row): 0 has findings, 1 a difference, 2 neither; one case per cause before the second of any."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    ranked = []
    ran = [target.name for target in results.targets if target.status == "ok"]
    for position, row in enumerate(make_matrix(results).rows):
        scenario, case = row.scenario, row.case
        here = results.findings_at.get((scenario.name, case.name), ())
        keys = {(finding.code, finding.targets) for finding in here if finding.kind != "rounding"}
        good = all(row.stands[target].good for target in ran)
        new = bool(keys - seen)
        rank = 0 if keys else (2 if good else 1)
        # Probes repeat each other on purpose; one picture of a cause is enough there.
        rank = 2 if scenario.probe and not new else rank
        ranked.append((rank, not new, scenario.probe, position, (scenario, case)))
        seen |= keys
    return [(item[0], item[4]) for item in sorted(ranked, key=lambda item: item[:4])]
