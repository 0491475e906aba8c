"""What all pictures share: sizes, axes, labels beside lines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.reporting.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.3, 2.9
"""Inches; small, so that words stay readable on a phone."""

FONT = 9.0

LEAST_GAP = 0.075
"""Between labels beside lines, as share of the axes' height."""

OVERHANG = 0.4
"""Of a label's height, which must stay below the top of the axes."""

CHARACTER, LONGEST = 0.0182, 18
"""Width of a letter of such labels, as share of the figure's; most letters of a line."""

STYLE: Any = {
    "font.size": FONT,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": FONT,
    "axes.titlelocation": "left",
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT - 0.5,
    "ytick.labelsize": FONT - 0.5,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.07,
    "figure.constrained_layout.h_pad": 0.07,
}


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn in any palette.

    Attributes:
        key: name of its file, without folder and ending.
        title: heading; caption: what is seen and where it comes from; alt: for who cannot see it.
        draw: draws it.
    """

    key: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Palette], Figure]


@dataclass(frozen=True)
class Absent:
    """A picture for which there are no numbers: a sentence says why, and `command` what makes them."""

    title: str
    sentence: str
    command: str | None = None


def canvas(palette: Palette, rows: int = 1, columns: int = 1, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor=palette["surface"])
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=columns > 1)
    axes = list(grid.flat)
    for each in axes:
        dress(each, palette)
    return figure, axes


def dress(axes: Axes, palette: Palette) -> None:
    """Give axes the look of all: thin horizontal rules, no frame, quiet ticks."""
    axes.set_facecolor(palette["surface"])
    axes.grid(axis="y", color=palette["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set_color(palette["muted"])
    axes.tick_params(colors=palette["muted"], which="both", length=0, pad=4)
    axes.xaxis.label.set_color(palette["muted"])
    axes.yaxis.label.set_color(palette["muted"])


def whole_numbers(axes: Axes) -> None:
    """Put ticks of the x axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def percentages(axes: Axes, top: float = 1.0) -> None:
    """Show the y axis, fractions from 0 to `top`, in per cent."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def plain_logarithm(axes: Axes) -> None:
    """Make the y axis logarithmic, with few, plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    lower, upper = axes.get_ylim()
    subs = (1.0,) if upper / lower > 1e3 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e5 else f"{value:.0e}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def counts(axes: Axes) -> None:
    """Put few ticks of the y axis, counts of images, at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.set_ylabel("images")


def spread(wanted: Sequence[float], gap: float = LEAST_GAP) -> list[float]:
    """Return heights near the wanted ones, `gap` apart at least, in their order, inside [0, 1] where they fit."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [wanted[index] for index in order]
    for _ in range(200):
        moved = False
        for lower in range(len(placed) - 1):
            lacking = gap - (placed[lower + 1] - placed[lower])
            if lacking > 1e-6:
                placed[lower] -= lacking / 2
                placed[lower + 1] += lacking / 2
                moved = True
        if not moved:
            break
    if placed:
        inside = OVERHANG * (gap - LEAST_GAP), 1 - OVERHANG * gap
        shift = max(0.0, inside[0] - placed[0]) - max(0.0, placed[-1] - inside[1])
        placed = [height + shift for height in placed]
    heights = [0.0] * len(wanted)
    for index, height in zip(order, placed, strict=True):
        heights[index] = height
    return heights


def room_beside(axes: Axes, names: Sequence[str]) -> list[str]:
    """Leave room for names on the right of axes; return the names, broken into lines where they are long."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    broken = ["\n".join(textwrap.wrap(name, LONGEST, break_long_words=False)) for name in names]
    longest = max((len(line) for name in broken for line in name.splitlines()), default=0)
    figure = axes.get_figure(root=True)
    engine = None if figure is None else figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1 - min(0.45, 0.03 + CHARACTER * longest), 1))
    return broken


def gap_of(names: Sequence[str]) -> float:
    """Return the least distance of names beside axes, as share of their height."""
    return LEAST_GAP * max((name.count("\n") + 1 for name in names), default=1)


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], room: bool = True) -> None:
    """Write labels beside the right end of lines: (value on the y axis, text, colour) each; limits must be set.

    `room`: leave room for them on the right of the figure; without, they are short and stand among several axes.
    """
    transform = axes.transLimits if axes.get_yscale() == "linear" else axes.transScale + axes.transLimits
    right = axes.get_xlim()[1]
    wanted = [float(transform.transform((right, value))[1]) for value, _, _ in ends]
    names = [text for _, text, _ in ends]
    names = room_beside(axes, names) if room else names
    gap = gap_of(names) if room else 2.2 * LEAST_GAP
    for height, name, (_, _, colour) in zip(spread(wanted, gap), names, ends, strict=True):
        axes.annotate(
            name,
            (1.02, height),
            xycoords="axes fraction",
            va="center",
            ha="left",
            color=colour,
            fontsize=FONT - 0.5,
            fontweight="bold",
            annotation_clip=False,
            in_layout=not room,
        )
