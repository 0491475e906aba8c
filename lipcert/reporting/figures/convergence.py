"""Histograms of power iterations until convergence, by layer (Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lipcert.records.measurement import NOT_CONVERGED, ConvergenceRow, Measurement
from lipcert.reporting.figures.drawing import HEIGHT, Picture, canvas, counts
from lipcert.reporting.figures.measured import BINS
from lipcert.reporting.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def convergence(measured: Measurement) -> Picture:
    """Return histograms of power iterations until convergence, a layer each: Figure 5."""
    about, rows = measured.header.convergence, measured.convergence
    layers = list(dict.fromkeys(row.layer for row in rows))
    largest = about.largest
    most = max((row.iterations for row in rows), default=1)
    some_late = any(row.iterations == NOT_CONVERGED for row in rows)
    end = float(largest if some_late else max(most, 2))
    edges = [end ** (step / BINS) for step in range(BINS + 1)]
    beyond = edges[-1] * (edges[-1] / edges[-2]) ** 1.6

    def draw(palette: Palette) -> Figure:
        figure, panels = canvas(palette, rows=len(layers), height=max(HEIGHT, 0.85 * len(layers) + 0.5))
        for place, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
            found = [row for row in rows if row.layer == layer]
            inside = [row for row in found if row.iterations != NOT_CONVERGED]
            weights = [row.images for row in inside]
            axes.hist(
                [max(row.iterations, 1) for row in inside], edges, weights=weights, color=palette["layer"], alpha=0.85
            )
            late = sum(row.images for row in found if row.iterations == NOT_CONVERGED)
            if late:
                axes.bar(beyond, late, width=beyond - edges[-1], color=palette["attacked"], alpha=0.85)
            axes.set_xscale("log")
            axes.set_xlim(1, beyond * 1.3 if some_late else end)
            axes.set_title(f"layer {place + 1}", pad=2, color=palette["ink"])
            counts(axes)
            axes.set_ylabel("images" if place == len(layers) // 2 else "")
        _iterations(panels[-1], end, beyond if some_late else None, largest)
        return figure

    return Picture(
        "convergence",
        "Power iterations to convergence",
        f"As in Figure 5 of the paper: from a random vector until it moves by {about.tolerance:g} or less, masked "
        f"maps of the local bound, {about.images} images. A measurement: no certificate rests on power iteration.",
        "Histograms by layer. " + " ".join(_spoken(rows, layer, largest) for layer in layers),
        draw,
    )


def _iterations(axes: Axes, end: float, beyond: float | None, largest: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    ticks = [10.0**power for power in range(6) if 10.0**power <= end]
    labels = [f"{tick:g}" for tick in ticks]
    if beyond is not None:
        kept = [tick for tick in ticks if tick < end / 2]
        ticks, labels = [*kept, beyond], [*(f"{tick:g}" for tick in kept), f"> {largest}"]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(labels)
    axes.set_xlabel("iterations")


def _spoken(rows: Sequence[ConvergenceRow], layer: str, largest: int) -> str:
    found = [row for row in rows if row.layer == layer]
    done = [row.iterations for row in found if row.iterations != NOT_CONVERGED]
    late = sum(row.images for row in found if row.iterations == NOT_CONVERGED)
    said = f"{min(done)} to {max(done)} iterations" if done else "none converged"
    return f"Layer {layer}: {said}{f', {late} images took more than {largest}' if late else ''}."
