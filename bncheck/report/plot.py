"""``plots/*.svg``: the pictures of the cases that the gallery chooses."""

from __future__ import annotations

from pathlib import Path

from bncheck.report.gallery import Gallery
from bncheck.report.picture import write_picture
from bncheck.run_folder.results import Results

NAME = "plots"


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write plots/<scenario>--<case>.svg of the cases that the gallery chooses."""
    gallery = gallery or Gallery(results, run_folder, None)
    return [path for picture in gallery.draw_chosen() for path in write_picture(picture, run_folder, ("svg",))]
