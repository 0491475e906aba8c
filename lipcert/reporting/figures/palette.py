"""Colours by role; told apart by people with any colour vision, on light and on dark ground."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("ink", "muted", "grid", "surface", "clean", "attacked", "global", "local", "tight", "other", "layer")
"""`global`, `local` and `tight` are bounds, `other` any other one; `layer` is that of all layers, told by strength."""


@dataclass(frozen=True)
class Palette:
    """A colour, #rrggbb, for each role."""

    name: str
    colours: dict[str, str]

    def __getitem__(self, role: str) -> str:
        return self.colours[role]

    def bound(self, name: str) -> str:
        """Return the colour of a bound."""
        return self.colours.get(name, self.colours["other"])

    @property
    def series(self) -> tuple[str, ...]:
        """Colours of runs, in turn; no more than these."""
        return tuple(self.colours[role] for role in ("local", "attacked", "tight", "global", "other", "muted"))


def _palette(name: str, *colours: str) -> Palette:
    return Palette(name, dict(zip(ROLES, colours, strict=True)))


LIGHT = _palette(
    "light",
    *("#16202b", "#5b6875", "#dfe4e9", "#ffffff", "#3d4a57", "#b54708"),
    *("#8b5fb0", "#1168b3", "#00875a", "#8f5c00", "#1168b3"),
)
DARK = _palette(
    "dark",
    *("#e8edf2", "#9aa7b4", "#2d3742", "#151b22", "#c3ccd5", "#ff9257"),
    *("#c3a1e6", "#62b0f5", "#3fcf9b", "#e5b45c", "#62b0f5"),
)
PAGE = Palette("page", {role: f"#01{index:02x}fe" for index, role in enumerate(ROLES)})
"""Colours that stand for variables of the page's style sheet."""

VARIABLES = {colour: f"var(--{role})" for role, colour in PAGE.colours.items()}
