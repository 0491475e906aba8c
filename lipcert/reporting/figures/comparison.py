"""Pictures over runs: clean against certified accuracy, Lipschitz bounds and varying neurons side by side."""

import itertools
import math
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from lipcert.reporting.figures.axes import NAME_WIDTH, Line, draw_lines, legend, line_chart, logarithmic, percentages
from lipcert.reporting.figures.picture import HEIGHT, SERIES, Palette, Picture, own_roles
from lipcert.reporting.figures.training import varying_lines
from lipcert.reporting.groups import DataSet, Group

MOST_LINES = len(SERIES)
MOST_PANELS = 8
"""Groups in one picture."""

MARKERS = "os^Dv*PX"
"""Of points that are named: all of them, where these are enough."""


def comparison_pictures(data: DataSet, suffix: str = "") -> list[Picture]:
    """Return the pictures over groups of runs that there are numbers for; `suffix` ends their keys."""
    found = (pareto(data, f"pareto{suffix}"), lipschitz(data, f"lipschitz{suffix}"), varying(data, f"varying{suffix}"))
    return [picture for picture in found if picture is not None]


@dataclass(frozen=True)
class Point:
    """A group's certified and clean accuracy in per cent, mean and sample deviation of each."""

    name: str
    bound: str
    certified: float
    clean: float
    deviations: tuple[float, float]


def points(data: DataSet) -> Iterator[Point]:
    """Yield a point for each group with results."""
    for name, group in data.named_groups:
        both = [[100 * value for value in group.values(f"{kind}_accuracy")] for kind in ("certified", "clean")]
        if all(both):
            certified, clean = map(statistics.mean, both)
            across, up = (statistics.stdev(values) if len(values) > 1 else 0.0 for values in both)
            yield Point(name, group.first.word("bound"), certified, clean, (across, up))


def frontier(found: Sequence[Point]) -> list[Point]:
    """Return the points that no other equals or beats in both accuracies, from the most certified on."""
    ranked = sorted(found, key=lambda point: (point.certified, point.clean), reverse=True)
    return [point for place, point in enumerate(ranked) if all(point.clean > each.clean for each in ranked[:place])]


def pareto(data: DataSet, key: str) -> Picture | None:
    """Return clean against certified accuracy of all groups, None for fewer than two."""
    found = list(points(data))
    if len(found) < 2:
        return None
    best, roles = frontier(found), own_roles(point.bound for point in found)
    named = found if len(found) <= len(MARKERS) else best
    markers = dict(zip((point.name for point in named), itertools.cycle(MARKERS)))

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        axes.grid(axis="x")
        joined = [point.certified for point in best], [point.clean for point in best]
        axes.plot(*joined, color=palette["muted"], linewidth=1.0, linestyle=(0, (3, 2)))
        for point in found:
            axes.errorbar(
                point.certified,
                point.clean,
                xerr=point.deviations[0],
                yerr=point.deviations[1],
                fmt=markers.get(point.name, "."),
                markersize=6,
                color=palette[roles[point.bound]],
                elinewidth=1.0,
                label=point.name if point in named else None,
            )
        axes.margins(0.12)
        axes.set(xlabel="certified accuracy, %", ylabel="clean accuracy, %")
        legend(figure, axes)

    return Picture(
        key,
        f"Clean against certified accuracy on {data.name}",
        "Means of groups of runs, coloured by bound; bars are sample deviations over seeds. The dashed line joins "
        f"those that no other beats in both.{'' if named is found else ' They are named.'}",
        "Scatter plot. " + " ".join(f"{p.name}: clean {p.clean:.1f} %, certified {p.certified:.1f} %." for p in found),
        draw,
        height=3.3,
    )


def lipschitz(data: DataSet, key: str) -> Picture | None:
    """Return local Lipschitz bounds over epochs of several groups, global ones dashed: Figure 7."""
    chosen = {
        name: group.first
        for name, group in _shown(data, MOST_LINES)
        if group.first.metrics.get("lipschitz/local") and group.first.metrics.get("lipschitz/global")
    }
    if len(chosen) < 2:
        return None
    bounds = [run.word("bound") for run in chosen.values()]
    roles = list(own_roles(bounds if len(set(bounds)) == len(bounds) else chosen).values())
    lines = []
    for (name, run), role in zip(chosen.items(), roles, strict=False):
        lines.append(Line("", run.metrics["lipschitz/global"], role, 0.6, dashed=True))
        lines.append(Line(name, run.metrics["lipschitz/local"], role))
    last = ", ".join(f"{line.name} {[*line.curve.values()][-1]:.4g}" for line in lines if line.name)
    return Picture(
        key,
        f"Lipschitz bounds over epochs on {data.name}",
        "As in Figure 7 of the paper: local bounds, dashed global ones, of one run of each group; estimates while "
        f"training.{_chosen(data, len(chosen))}",
        f"Line chart over epochs, logarithmic. Last local bounds: {last}",
        line_chart(lines, "Lipschitz bound", logarithmic),
        height=3.3,
    )


def varying(data: DataSet, key: str) -> Picture | None:
    """Return proportions of varying neurons a layer, a panel a group: Figure 6."""
    found = {name: varying_lines(group.first.metrics) for name, group in _shown(data, MOST_PANELS)}
    chosen = {name: lines for name, lines in found.items() if lines}
    if len(chosen) < 2:
        return None
    rows = math.ceil(len(chosen) / 2)

    def draw(figure: Figure, palette: Palette) -> None:
        panels = figure.subplots(rows, 2, sharex=True, sharey=True).flat
        for axes, (name, lines) in zip(panels, chosen.items(), strict=False):
            draw_lines(axes, lines, palette)
            percentages(axes)
            axes.set_title(textwrap.fill(name, NAME_WIDTH))
        for axes in panels[len(chosen) :]:
            axes.set_visible(False)
        panels[len(chosen) - 2].tick_params(labelbottom=True)
        figure.supxlabel("epoch", color=palette["muted"])
        legend(figure, max(panels, key=lambda axes: len(axes.get_lines())))

    return Picture(
        key,
        f"Varying neurons over epochs on {data.name}",
        "As in Figure 6 of the paper: share of neurons whose output is not constant within epsilon, by layer, of one "
        f"run of each group; darker lines are later layers.{_chosen(data, len(chosen))}",
        f"Line charts over epochs, one a group: {', '.join(chosen)}.",
        draw,
        height=max(HEIGHT, 1.2 * rows + 0.5),
    )


def _shown(data: DataSet, most: int) -> list[tuple[str, Group]]:
    """Return at most so many groups with curves, those that certify most, in their order."""
    pairs = [pair for pair in data.named_groups if pair[1].first.metrics]
    by_accuracy = sorted(pairs, key=lambda pair: -max(pair[1].values("certified_accuracy"), default=-1.0))
    return [pair for pair in pairs if pair in by_accuracy[:most]]


def _chosen(data: DataSet, shown: int) -> str:
    count = len(data.groups)
    return "" if shown == count else f" Shown are {shown} of {count} groups, those that certify most."
