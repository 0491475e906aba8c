"""Colours by role; told apart by people with any colour vision, on light and on dark ground."""

from __future__ import annotations

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
"""On light and on dark ground; `other` is any bound but those named, `layer` all layers, told apart by strength."""

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
