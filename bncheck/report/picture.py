"""A picture as every report takes it: compact SVG, a sentence, PNG where it was asked for; and the files it becomes.

Whoever only passes pictures on does not import matplotlib by importing this.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.report.svg import INK, PAPER, compact, standalone
from bncheck.run_folder.whole import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Matplotlib's settings while any picture is drawn.
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bncheck",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.usetex": False,
    "text.parse_math": False,
    "path.simplify": True,
    "axes.ymargin": 0.08,
}
PIXELS_PER_INCH = 120


@dataclass(frozen=True)
class Picture:
    """What was drawn: its name (a file stem), compact SVG, what it shows in a sentence, and PNG bytes if asked for."""

    name: str
    svg: str
    caption: str
    png: bytes = b""


def develop(figure: Figure, name: str, said: str, version: str, png: bool) -> Picture:
    """A composed figure as a picture. A PNG takes three times as long as an SVG, so it is drawn only when asked for."""
    text, image = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    if png:
        figure.savefig(
            image,
            format="png",
            dpi=PIXELS_PER_INCH,
            pil_kwargs={"compress_level": 3},
            metadata={"Software": f"bncheck {version}"},
        )
    return Picture(name=name, svg=compact(text.getvalue(), "p"), caption=said, png=image.getvalue())


def write_picture(picture: Picture, run_folder: Path, kinds: Sequence[str] = ("svg", "png")) -> list[Path]:
    """plots/NAME.svg and plots/NAME.png."""
    folder = run_folder / "plots"
    folder.mkdir(exist_ok=True)
    content = {"svg": standalone(picture.svg).encode, "png": lambda: picture.png}
    return [write_whole(folder / f"{picture.name}.{kind}", content[kind]()) for kind in kinds]
