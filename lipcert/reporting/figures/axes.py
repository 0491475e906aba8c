"""What pictures share: lines, their legend, and axes of epochs, fractions, logarithms and counts."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from lipcert.reporting.figures.picture import Draw, Palette
from lipcert.reporting.runs import Curve

NAME_WIDTH = 18
"""Most letters on a line of a name."""


@dataclass(frozen=True)
class Line:
    """A line over epochs: its name in the legend, "" for none, its colour by role, its strength."""

    name: str
    curve: Curve
    role: str
    strength: float = 1.0
    dashed: bool = False


def draw_lines(axes: Axes, lines: Sequence[Line], palette: Palette) -> None:
    """Draw lines over epochs, numbered from 1."""
    for line in lines:
        axes.plot(
            [epoch + 1 for epoch in line.curve],
            list(line.curve.values()),
            color=palette[line.role],
            alpha=line.strength,
            linestyle="--" if line.dashed else "-",
            marker="o" if len(line.curve) == 1 else "",
            label=line.name or None,
        )
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def line_chart(lines: Sequence[Line], quantity: str, scale: Callable[[Axes], None]) -> Draw:
    """Return what draws lines over epochs; `scale` dresses the y axis."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        draw_lines(axes, lines, palette)
        scale(axes)
        axes.set(xlabel="epoch", ylabel=quantity)
        legend(figure, axes)

    return draw


def legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of some axes to the right of the figure."""
    handles, names = axes.get_legend_handles_labels()
    wrapped = [textwrap.fill(name, NAME_WIDTH, break_long_words=False) for name in names]
    figure.legend(handles, wrapped, loc="outside right upper", labelcolor="linecolor")


def percentages(axes: Axes) -> None:
    """Show the y axis, fractions, in per cent."""
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, with few, plain numbers."""
    axes.set_yscale("log")
    lower, upper = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if upper / lower > 1e3 else (1, 2, 5), numticks=8))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def counts(axes: Axes, quantity: str = "images") -> None:
    """Put few ticks of the y axis at whole numbers."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.set_ylabel(quantity)


def rule(axes: Axes, place: float, palette: Palette, **settings: Any) -> None:
    """Draw a thin, dashed, upright line."""
    axes.axvline(place, color=palette["muted"], linewidth=0.9, linestyle=(0, (2, 2)), **settings)
