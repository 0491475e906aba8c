"""Pictures over runs: clean against certified accuracy, Lipschitz bounds and varying neurons side by side."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lipcert.reporting.figures.drawing import (
    FONT,
    HEIGHT,
    Picture,
    canvas,
    gap_of,
    label_ends,
    percentages,
    plain_logarithm,
    room_beside,
    spread,
)
from lipcert.reporting.figures.palette import Palette
from lipcert.reporting.figures.training import draw_varying, line, over_epochs
from lipcert.reporting.groups import DataSet, Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 6
"""Groups in one picture of lines; each has a colour of its own."""

MOST_PANELS = 8

STRENGTHS = (1.0, 0.55)
"""Of lines whose groups share a bound, and so a colour."""

MOST_NAMED = 8
"""Points of a plot that are all named."""


@dataclass(frozen=True)
class Point:
    """A group's certified and clean accuracy, mean and sample deviation of each."""

    name: str
    bound: str
    certified: float
    clean: float
    deviation: tuple[float, float]


def points(data: DataSet) -> list[Point]:
    """Return a point for each group with results."""
    found = []
    for name, group in zip(data.names, data.groups, strict=True):
        certified, clean = group.values("certified_accuracy"), group.values("clean_accuracy")
        if certified and clean:
            deviations = (statistics.stdev(each) if len(each) > 1 else 0.0 for each in (certified, clean))
            means = statistics.mean(certified), statistics.mean(clean)
            found.append(Point(name, group.first.word("bound"), *means, tuple(deviations)))  # type: ignore[arg-type]
    return found


def frontier(found: Sequence[Point]) -> list[Point]:
    """Return the points that no other equals or beats in both accuracies and beats in one, by certified accuracy."""

    def beaten(point: Point) -> bool:
        return any(
            other.certified >= point.certified
            and other.clean >= point.clean
            and (other.certified, other.clean) != (point.certified, point.clean)
            for other in found
        )

    return sorted((point for point in found if not beaten(point)), key=lambda point: point.certified)


def pareto(data: DataSet, key: str) -> Picture | None:
    """Return clean against certified accuracy of all groups, None for fewer than two."""
    found = points(data)
    if len(found) < 2:
        return None
    best = frontier(found)

    def draw(palette: Palette) -> Figure:
        figure, (axes,) = canvas(palette, height=3.3)
        axes.grid(axis="x", color=palette["grid"], linewidth=0.7)
        axes.plot(
            [100 * point.certified for point in best],
            [100 * point.clean for point in best],
            color=palette["muted"],
            linewidth=1.0,
            linestyle=(0, (3, 2)),
        )
        for bound in dict.fromkeys(point.bound for point in found):
            chosen = [point for point in found if point.bound == bound]
            axes.errorbar(
                [100 * point.certified for point in chosen],
                [100 * point.clean for point in chosen],
                xerr=[100 * point.deviation[0] for point in chosen],
                yerr=[100 * point.deviation[1] for point in chosen],
                fmt="o",
                markersize=6,
                color=palette.bound(bound),
                elinewidth=1.0,
            )
        axes.margins(0.12)
        axes.set_xlabel("certified accuracy, %")
        axes.set_ylabel("clean accuracy, %")
        _label_points(axes, found if len(found) <= MOST_NAMED else best, palette)
        return figure

    return Picture(
        key,
        f"Clean against certified accuracy on {data.name}",
        "Means of groups of runs, coloured by bound; bars are sample deviations over seeds. The dashed line joins "
        f"those that no other beats in both.{'' if len(found) <= MOST_NAMED else ' They are named.'}",
        "Scatter plot. "
        + " ".join(f"{p.name}: clean {100 * p.clean:.1f} %, certified {100 * p.certified:.1f} %." for p in found),
        draw,
    )


def _label_points(axes: Axes, shown: Sequence[Point], palette: Palette) -> None:
    """Write the names of points beside the axes, with a thin line from each to its point."""
    axes.set_ylim(axes.get_ylim())  # heights are shares of it from here on
    wanted = [float(axes.transLimits.transform((0, 100 * point.clean))[1]) for point in shown]
    names = room_beside(axes, [point.name for point in shown])
    for height, name, point in zip(spread(wanted, gap_of(names)), names, shown, strict=True):
        axes.annotate(
            name,
            (100 * point.certified, 100 * point.clean),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            color=palette.bound(point.bound),
            fontsize=FONT - 0.5,
            fontweight="bold",
            annotation_clip=False,
            in_layout=False,
            arrowprops={"arrowstyle": "-", "color": palette["muted"], "linewidth": 0.5, "alpha": 0.7, "shrinkB": 4},
        )


def _shown(data: DataSet, most: int) -> list[tuple[str, Group]]:
    """Return at most so many groups with curves, those that certify most."""
    pairs = [(name, group) for name, group in zip(data.names, data.groups, strict=True) if group.first.metrics.series]

    def certified(pair: tuple[str, Group]) -> float:
        return -max(pair[1].values("certified_accuracy"), default=-1.0)

    chosen = sorted(pairs, key=certified)[:most]
    return [pair for pair in pairs if pair in chosen]


def _chosen(data: DataSet, shown: int) -> str:
    return (
        ""
        if shown == len(data.groups)
        else f" Shown are {shown} of {len(data.groups)} groups, those that certify most."
    )


def _colours(chosen: Sequence[tuple[str, Group]], palette: Palette) -> list[tuple[str, float]]:
    """Return a colour and its strength a group: its bound's, weaker for the second of a bound, else one for each."""
    bounds = [group.first.word("bound") for _, group in chosen]
    places = [bounds[:index].count(bound) for index, bound in enumerate(bounds)]
    if max(places) < len(STRENGTHS):
        return [(palette.bound(bound), STRENGTHS[place]) for bound, place in zip(bounds, places, strict=True)]
    return [(colour, 1.0) for colour in palette.series[: len(chosen)]]


def lipschitz(data: DataSet, key: str) -> Picture | None:
    """Return local Lipschitz bounds over epochs of several groups, global ones dashed: Figure 7."""
    chosen = [
        (name, group)
        for name, group in _shown(data, MOST_LINES)
        if group.first.metrics.get("lipschitz/local") and group.first.metrics.get("lipschitz/global")
    ]
    if len(chosen) < 2:
        return None

    def draw(palette: Palette) -> Figure:
        figure, (axes,) = canvas(palette, height=3.3)
        ends = []
        for (name, group), (colour, strength) in zip(chosen, _colours(chosen, palette), strict=True):
            local = group.first.metrics.get("lipschitz/local")
            line(axes, group.first.metrics.get("lipschitz/global"), colour, 0.6 * strength, dashed=True)
            line(axes, local, colour, strength)
            ends.append((local.values[-1], name, colour))
        plain_logarithm(axes)
        over_epochs(axes, "Lipschitz bound")
        label_ends(axes, ends)
        return figure

    return Picture(
        key,
        f"Lipschitz bounds over epochs on {data.name}",
        "As in Figure 7 of the paper: local bounds, dashed global ones, of one run of each group; estimates while "
        f"training.{_chosen(data, len(chosen))}",
        "Line chart over epochs, logarithmic. Last local bounds: "
        + ", ".join(f"{name} {group.first.metrics.get('lipschitz/local').values[-1]:.4g}" for name, group in chosen),
        draw,
    )


def varying(data: DataSet, key: str) -> Picture | None:
    """Return proportions of varying neurons a layer, a panel a group: Figure 6."""
    chosen = [pair for pair in _shown(data, MOST_PANELS) if pair[1].first.metrics.by_layer("varying")]
    if len(chosen) < 2:
        return None
    rows = math.ceil(len(chosen) / 2)

    def draw(palette: Palette) -> Figure:
        figure, panels = canvas(palette, rows, 2, height=max(HEIGHT, 1.2 * rows + 0.5))
        for axes in panels[len(chosen) :]:
            axes.set_visible(False)
        for axes, (name, group) in zip(panels, chosen, strict=False):
            layers = group.first.metrics.by_layer("varying")
            ends = draw_varying(axes, layers, palette)
            percentages(axes, 1.02)
            axes.set_title(textwrap.fill(name, 22), fontsize=FONT - 0.5, pad=3, color=palette["ink"])
            label_ends(axes, [(value, text.removeprefix("layer "), colour) for value, text, colour in ends], room=False)
        for axes in panels[max(0, len(chosen) - 2) : len(chosen)]:
            over_epochs(axes)
            axes.tick_params(labelbottom=True)
        return figure

    return Picture(
        key,
        f"Varying neurons over epochs on {data.name}",
        "As in Figure 6 of the paper: share of neurons whose output is not constant within epsilon, by layer, of one "
        f"run of each group; darker lines are later layers.{_chosen(data, len(chosen))}",
        f"Line charts over epochs, one a group: {', '.join(name for name, _ in chosen)}.",
        draw,
    )
