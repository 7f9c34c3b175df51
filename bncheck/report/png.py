"""``plots/*.png``: the pictures of ``plots`` once more as PNG, for trackers and chats that show no SVG."""

from __future__ import annotations

from pathlib import Path

from bncheck.report.gallery import Gallery
from bncheck.report.picture import write_picture
from bncheck.run_folder.results import Results

NAME = "png"


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write plots/<scenario>--<case>.png of the cases that the gallery chooses."""
    gallery = gallery if gallery is not None and gallery.png else Gallery(results, run_folder, None, png=True)
    drawn = (gallery.picture(scenario, case) for scenario, case in gallery.chosen())
    return [path for picture in drawn if picture is not None for path in write_picture(picture, run_folder, ("png",))]
