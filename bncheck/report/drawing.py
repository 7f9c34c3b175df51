"""SVG written by hand: rectangles, lines and texts in the two inks and the colours that a page knows how to theme.

Drawn without matplotlib: its import alone takes longer than a whole report of this kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bncheck.report.plain_text import clean
from bncheck.report.svg import FONTS, GRID, INK, PAPER
from bncheck.report.xml_text import escape

XML_HAS_NOT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def sheet(width: float, height: float, marks: Iterable[str]) -> str:
    """The whole picture, on paper of its own."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {figure(width)} {figure(height)}"'
    paper = f'<rect width="{figure(width)}" height="{figure(height)}" fill="{PAPER}"/>'
    return f'{head} font-family="{FONTS}">{paper}{"".join(marks)}</svg>'


def figure(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def words(text: str, x: float, y: float, size: float = 12, anchor: str = "start", weight: str = "") -> str:
    """One line of foreign or own text."""
    said = escape(XML_HAS_NOT.sub("\N{REPLACEMENT CHARACTER}", clean(text)))
    more = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (f' font-weight="{weight}"' if weight else "")
    return f'<text x="{figure(x)}" y="{figure(y)}" font-size="{figure(size)}" fill="{INK}"{more}>{said}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0) -> str:
    shade = f' fill-opacity="{figure(opacity)}"' if opacity < 1 else ""
    size = f'width="{figure(width)}" height="{figure(height)}"'
    return f'<rect x="{figure(x)}" y="{figure(y)}" {size} fill="{fill}"{shade}/>'


def boxes(places: Iterable[tuple[float, float, float, float]], fill: str, opacity: float = 1.0) -> str:
    """Many boxes of one fill as one path: x, y, width, height of each."""
    path = "".join(
        f"M{figure(x)} {figure(y)}h{figure(width)}v{figure(height)}h{figure(-width)}z" for x, y, width, height in places
    )
    shade = f' fill-opacity="{figure(opacity)}"' if opacity < 1 else ""
    return f'<path d="{path}" fill="{fill}"{shade}/>' if path else ""


def stroke(points: Iterable[tuple[float, float]], colour: str = INK, width: float = 1.6, dashes: str = "") -> str:
    """A line through points."""
    path = " ".join(f"{figure(x)},{figure(y)}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{figure(width)}"'
        f' stroke-linejoin="round"{dashed}/>'
    )


def rule(x: float, y: float, to_x: float, to_y: float) -> str:
    """A line of the grid."""
    ends = f'x1="{figure(x)}" y1="{figure(y)}" x2="{figure(to_x)}" y2="{figure(to_y)}"'
    return f'<line {ends} stroke="{GRID}" stroke-width="1"/>'


def ticks(first: int, last: int, most: int = 8) -> list[int]:
    """Round numbers from first to last, few enough to be read side by side."""
    span = max(last - first, 1)
    gap = next(unit * 10**power for power in range(12) for unit in (1, 2, 5) if span / (unit * 10**power) <= most)
    start = -(-first // gap) * gap
    return list(range(start, last + 1, gap)) or [first]
