"""Pictures of a page: each shown once, where it is first spoken of."""

from __future__ import annotations

from markupsafe import Markup, escape

from bncheck.report import overview
from bncheck.report.gallery import Gallery
from bncheck.report.picture import Picture
from bncheck.report.svg import COLOURS, themed
from bncheck.run_folder.results import Results, ScenarioResult


class Figures:
    """Inline pictures, each shown once; ids get a number per picture so that no two are alike on the page."""

    def __init__(self, results: Results, gallery: Gallery) -> None:
        self.gallery = gallery
        self.allowed = {(scenario.name, case.name): (scenario, case) for scenario, case in gallery.chosen()}
        self.results = results
        self.shown_at: dict[tuple[str, str], str] = {}
        self.count = 0

    def take(self, scenario: str, case: str, anchor: str) -> str:
        """The SVG of a case, "" when it has none, was shown before or is beyond the limit."""
        key = (scenario, case)
        if key in self.shown_at or key not in self.allowed:
            return ""
        picture = self.gallery.picture(*self.allowed[key])
        if picture is None:
            return ""
        self.shown_at[key] = anchor
        return self.inline(picture)

    def extras(self, scenario: ScenarioResult) -> list[tuple[str, str]]:
        """(caption, SVG) of a scenario's sweeps and depth profiles."""
        pictures = self.gallery.extras(scenario)
        return [(picture.caption, self.inline(picture)) for picture in pictures]

    def inline(self, picture: Picture) -> str:
        self.count += 1
        svg = themed(picture.svg, COLOURS, str(escape(picture.caption)))
        return Markup(svg.replace('"p-', f'"f{self.count}-').replace("#p-", f"#f{self.count}-"))

    def undrawn(self) -> int:
        return len(overview.rows(self.results)) - len(self.allowed)
