"""A picture, its colours by role, and how it becomes inline SVG that the page colours, or PNG."""

import html
import io
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib import style
from matplotlib.figure import Figure

COLOURS = {
    "ink": ("#16202b", "#e8edf2"),
    "muted": ("#5b6875", "#9aa7b4"),
    "grid": ("#dfe4e9", "#2d3742"),
    "surface": ("#ffffff", "#151b22"),
    "clean": ("#3d4a57", "#c3ccd5"),
    "attacked": ("#b54708", "#ff9257"),
    "global": ("#8b5fb0", "#c3a1e6"),
    "local": ("#1168b3", "#62b0f5"),
    "tight": ("#00875a", "#3fcf9b"),
    "other": ("#8f5c00", "#e5b45c"),
    "layer": ("#1168b3", "#62b0f5"),
}
"""On light and on dark ground, told apart by people with any colour vision.

`other` is any bound but those named, `layer` all layers, told apart by strength.
"""

SERIES = ("local", "attacked", "tight", "global", "other", "muted")
"""Roles of lines that have none of their own, in turn."""


class Palette(dict[str, str]):
    """A colour, #rrggbb, for each role; that of `other` for any other word."""

    def __missing__(self, role: str) -> str:
        return self["other"]


LIGHT = Palette({role: light for role, (light, _) in COLOURS.items()})
DARK = Palette({role: dark for role, (_, dark) in COLOURS.items()})
PAGE = Palette({role: f"#01{index:02x}fe" for index, role in enumerate(COLOURS)})
"""Colours that stand for variables of the page's style sheet."""


def own_roles(names: Iterable[str]) -> dict[str, str]:
    """Return a role for each name, in order: its own colour where it has one, else one that no other has, in turn."""
    distinct = list(dict.fromkeys(names))
    free = itertools.cycle([role for role in SERIES if role not in distinct])
    return {name: name if name in COLOURS and name != "other" else next(free) for name in distinct}


WIDTH, HEIGHT = 4.3, 2.9
"""Inches; small, so that words stay readable on a phone."""

Draw = Callable[[Figure, Palette], None]
"""Draws on an empty figure."""


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn in any palette.

    `key`: name of its file, without folder and ending; `caption`: what is seen and where it comes from; `alt`: for who
    cannot see it; `height`: in inches.
    """

    key: str
    title: str
    caption: str
    alt: str
    draw: Draw
    height: float = HEIGHT


@dataclass(frozen=True)
class Absent:
    """A picture for which there are no numbers: a sentence says why, and `command` what makes them."""

    title: str
    sentence: str
    command: str | None = None


def _colours(palette: Palette) -> dict[str, str]:
    """Return matplotlib's settings of colours; all others are in `pictures.mplstyle`."""
    muted, surface = palette["muted"], palette["surface"]
    return {
        "text.color": palette["ink"],
        "figure.facecolor": surface,
        "axes.facecolor": surface,
        "axes.edgecolor": muted,
        "axes.labelcolor": muted,
        "grid.color": palette["grid"],
        "xtick.color": muted,
        "ytick.color": muted,
    }


def as_png(picture: Picture, palette: Palette) -> bytes:
    """Return a picture as PNG."""
    return _saved(picture, palette, "png", "")


def as_svg(picture: Picture, anchor: str = "") -> str:
    """Return a picture as inline SVG whose colours and font are the page's; `anchor` makes its ids its own."""
    content = _saved(picture, PAGE, "svg", f"{anchor}-{picture.key}").decode()
    content = re.sub(
        r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", content[content.index("<svg") :], flags=re.DOTALL
    )
    content = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", content)
    content = re.sub(r" ?font-family: [^;\"]*;?", "", content)
    for role, colour in PAGE.items():
        content = content.replace(colour, f"var(--{role})")
    used = set(re.findall(r"#([\w-]+)", content))
    content = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", content)
    box = content[content.index("viewBox=") :].split('"')[1]
    opening = f'<svg viewBox="{box}" role="img" aria-label="{html.escape(picture.alt)}">'
    return opening + content[content.index(">") + 1 :]


def _saved(picture: Picture, palette: Palette, kind: str, salt: str) -> bytes:
    """Return the bytes of a file; `salt` goes into the ids of an SVG."""
    content = io.BytesIO()
    with style.context(["lipcert.reporting.figures.pictures", {**_colours(palette), "svg.hashsalt": salt}]):
        figure = Figure(figsize=(WIDTH, picture.height))
        picture.draw(figure, palette)
        figure.savefig(content, format=kind)
    return content.getvalue()
