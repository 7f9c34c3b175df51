"""Matplotlib's SVG made fit for a page: no style attributes, ids that are unique, a third of the size.

Under ``style-src 'none'`` or ``'self'`` a browser drops every ``style=`` attribute and the picture turns black;
presentation attributes are never dropped. The two inks of a picture become ``currentColor`` and each target's
colour gets a class, so that a page can choose light or dark; the attributes stay as the fallback.
"""

from __future__ import annotations

import re

# Matplotlib draws text and frames in INK and grid lines in GRID; no palette colour is either of them.
INK, GRID, PAPER = "#1b1f24", "#d3d7dc", "#fffffe"
# Okabe and Ito's colours, darkened until each has a contrast of 3:1 on white; the page has lighter ones for dark.
COLOURS = ["#c44e00", "#0072b2", "#00805d", "#a8467f", "#8f6a00", "#1f7fa8"]
FONTS = "DejaVu Sans, Verdana, Arial, sans-serif"
FONT_SIZE = re.compile(r"([\d.]+)px")


def compact(svg: str, prefix: str) -> str:
    """The ``<svg>`` element alone, with ids that begin with ``prefix``, presentation attributes and short numbers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)
    svg = svg.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = re.sub(r'style="([^"]*)"', lambda match: attributes(match[1]), svg)
    svg = re.sub(r'\bd="([^"]*)"', lambda match: f'd="{short_path(match[1])}"', svg)
    svg = re.sub(r'\b(x|y|width|height)="(-?[\d.]+)"', lambda match: f'{match[1]}="{short(match[2])}"', svg)
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = unique_ids(svg, prefix)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', '<svg stroke-linejoin="round"', short_root(svg), count=1)
    return re.sub(r">\s+<", "><", svg).strip()


def attributes(style: str) -> str:
    """``style`` declarations as presentation attributes; the ``font`` shorthand has none and is taken apart."""
    found: dict[str, str] = {}
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = FONT_SIZE.search(value)
            found["font-size"] = size[1] if size else "10"
            if re.search(r"\b(bold|[6-9]00)\b", value.split("px")[0]):
                found["font-weight"] = "bold"
        elif name == "font-size":
            found[name] = value.removesuffix("px")
        elif name and name != "font-family":  # the family is set once, on the root
            found[name] = value
    return " ".join(f'{name}="{value}"' for name, value in found.items())


def short_path(path: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda match: short(match[0]), " ".join(path.split()))


def short(text: str) -> str:
    """Two decimals: 1/100 of a point is below what a screen or a printer shows."""
    return f"{float(text):.2f}".rstrip("0").rstrip(".") if "." in text else text


def short_root(svg: str) -> str:
    return svg.replace("<svg ", "<svg ", 1).replace(' version="1.1"', f' font-family="{FONTS}"', 1)


def unique_ids(svg: str, prefix: str) -> str:
    """Keep only ids that something refers to, renamed to ``prefix-1``, ``prefix-2`` …: pages hold many pictures."""
    used = dict.fromkeys(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    names = {old: f"{prefix}-{number}" for number, old in enumerate(used, 1)}

    def keep(match: re.Match[str]) -> str:
        return f' id="{names[match[1]]}"' if match[1] in names else ""

    svg = re.sub(r' id="([^"]*)"', keep, svg)
    return re.sub(r'(url\(#|href="#)([^")]+)', lambda match: match[1] + names[match[2]], svg)


def themed(svg: str, colours: list[str], title: str) -> str:
    """For a page: inks follow the text colour, the paper is the page's own, targets' colours carry a class.

    ``title`` must be escaped already; it is what a screen reader says.
    """
    for attribute in ("fill", "stroke"):
        svg = svg.replace(f'{attribute}="{PAPER}"', f'{attribute}="none"')
        svg = svg.replace(f'{attribute}="{INK}"', f'{attribute}="currentColor"')
        svg = svg.replace(f'{attribute}="{GRID}"', f'{attribute}="currentColor" {attribute}-opacity="0.16"')
    for number, colour in enumerate(colours):
        svg = re.sub(rf'(fill|stroke)="{colour}"', rf'\1="{colour}" data-\1="s{number}"', svg, flags=re.I)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def standalone(svg: str) -> str:
    """For a file: paper of its own, so that it is legible wherever it is opened."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + svg + "\n"
