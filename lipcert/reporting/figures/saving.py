"""How a picture becomes inline SVG that the page colours, and PNG."""

from __future__ import annotations

import html
import io
import re

from lipcert.reporting.figures.drawing import STYLE, Picture
from lipcert.reporting.figures.palette import PAGE, VARIABLES, Palette

DOTS_PER_INCH = 220


def as_svg(picture: Picture) -> str:
    """Return a picture as inline SVG whose colours and font are the page's."""
    content = _saved(picture, PAGE, "svg").decode()
    content = content[content.index("<svg") :]
    content = re.sub(r"<metadata>.*?</metadata>\s*", "", content, flags=re.DOTALL)
    content = re.sub(r"<!--.*?-->\s*", "", content, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        content = content.replace(colour, variable)
    content = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", content)
    content = re.sub(r" ?font-family: [^;\"]*;?", "", content)
    content = _own_ids(content, picture.key)
    box = re.search(r'viewBox="[^"]+"', content)
    assert box is not None
    opening = f'<svg {box[0]} role="img" aria-label="{html.escape(picture.alt)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, content, count=1)


def _own_ids(content: str, key: str) -> str:
    """Return SVG with the ids that are referred to made its own, and without all others."""
    prefix = re.sub(r"\W+", "-", key)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', content))
    names = {name for pair in used for name in pair if name}

    def renamed(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in names else ""

    content = re.sub(r' id="([^"]+)"', renamed, content)
    content = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', content)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", content)


def as_png(picture: Picture, palette: Palette) -> bytes:
    """Return a picture as PNG."""
    return _saved(picture, palette, "png")


def _saved(picture: Picture, palette: Palette, kind: str) -> bytes:
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": picture.key}):
        figure = picture.draw(palette)
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(content, format=kind, dpi=DOTS_PER_INCH if kind == "png" else 72, metadata=metadata)
    return content.getvalue()
