"""Pictures of what a measurement proved: curves against epsilon, radii, margins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lipcert.records.measurement import Measurement
from lipcert.reporting.figures.drawing import FONT, Picture, canvas, counts, label_ends, percentages
from lipcert.reporting.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 24
"""Bars of a histogram, about."""


def curves(measured: Measurement) -> Picture:
    """Return certified accuracy against epsilon by each bound, and accuracy under PGD above them."""
    header, rows = measured.header, measured.curves
    epsilons = [row.epsilon for row in rows]

    def draw(palette: Palette) -> Figure:
        figure, (axes,) = canvas(palette)
        lines = [("PGD", [row.pgd for row in rows], palette["attacked"])]
        for place, bound in enumerate(header.bounds):
            lines.append((bound, [row.certified[place] for row in rows], palette.bound(bound)))
        axes.axvline(header.epsilon, color=palette["muted"], linewidth=0.9, linestyle=(0, (2, 2)))
        for name, values, colour in reversed(lines):  # where bounds agree, dashes show the one below
            dashes = (0, (3, 1.6)) if name == "local" else "-"
            axes.plot(epsilons, values, color=colour, linestyle=dashes, marker="o", markersize=2.6)
        percentages(axes)
        axes.set_xlim(0, epsilons[-1])
        axes.set_xlabel("ε")
        axes.set_ylabel("accuracy")
        axes.annotate(
            "ε of the run",
            (header.epsilon, 1.0),
            xytext=(4, -1),
            textcoords="offset points",
            va="top",
            color=palette["muted"],
            fontsize=FONT - 1,
        )
        label_ends(axes, [(values[-1], name, colour) for name, values, colour in lines])
        return figure

    at = next(row for row in rows if row.epsilon == header.epsilon)
    said = ", ".join(f"{bound} {100 * value:.1f} %" for bound, value in zip(header.bounds, at.certified, strict=True))
    return Picture(
        "certified_curve",
        "Certified accuracy against ε",
        f"First {header.data.num_images} test images. Every point of a bound is proved at that radius or a larger "
        "one; PGD is an attack, so the truth lies between.",
        f"Line chart. At epsilon {header.epsilon:.4g}: under PGD {100 * at.pgd:.1f} %, certified {said}.",
        draw,
    )


def radii(measured: Measurement) -> Picture:
    """Return the histogram of certified radii, by bound."""
    header = measured.header
    right = [row for row in measured.images if row.prediction == row.label]
    largest = max((max(row.radii) for row in right), default=0.0) or header.epsilon
    edges = [largest * step / BINS for step in range(BINS + 1)]

    def draw(palette: Palette) -> Figure:
        figure, (axes,) = canvas(palette)
        last = len(header.bounds) - 1
        for place, bound in enumerate(header.bounds):
            values = [row.radii[place] for row in right]
            colour = palette.bound(bound)
            if place == last:
                axes.hist(values, edges, color=colour, alpha=0.25)
            axes.hist(values, edges, histtype="step", color=colour, linewidth=1.6, label=bound)
        axes.axvline(header.epsilon, color=palette["muted"], linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set_xlim(0, largest)
        axes.set_xlabel("certified radius")
        counts(axes)
        _legend(axes, palette)
        return figure

    wrong = len(measured.images) - len(right)
    return Picture(
        "radii",
        "Certified radii",
        f"{len(right)} images classified correctly; {wrong} others are left out. Dashed: ε of the run.",
        f"Histogram of {len(right)} radii up to {largest:.4g} by the bounds {', '.join(header.bounds)}.",
        draw,
    )


def _legend(axes: Axes, palette: Palette) -> None:
    axes.legend(frameon=False, labelcolor=palette["ink"], fontsize=FONT - 0.5, handlelength=1.1, borderaxespad=0.2)


def edges_with_zero(lowest: float, highest: float) -> list[float]:
    """Return even edges of bars that hold both numbers, 0 among them."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    width = (highest - lowest or 1.0) / BINS
    below, above = (math.ceil(each / width + 1e-9) for each in (-lowest, highest))
    return [width * step for step in range(-below, above + 1)]


def margins(measured: Measurement) -> Picture:
    """Return the histogram of certified margins at epsilon by the last bound."""
    header = measured.header
    finite = [row.margin for row in measured.images if abs(row.margin) != float("inf")]
    lowest, highest = min(finite, default=0.0), max(finite, default=0.0)
    edges = edges_with_zero(lowest, highest)
    positive = sum(value > 0 for value in finite)

    def draw(palette: Palette) -> Figure:
        figure, (axes,) = canvas(palette)
        axes.hist([value for value in finite if value <= 0], edges, color=palette["attacked"], alpha=0.75, label="≤ 0")
        axes.hist(
            [value for value in finite if value > 0], edges, color=palette["tight"], alpha=0.85, label="certified"
        )
        axes.axvline(0, color=palette["muted"], linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set_xlabel("certified margin")
        counts(axes)
        _legend(axes, palette)
        return figure

    return Picture(
        "margins",
        "Certified margins",
        f"Lower bounds of the label's logit less every other within ε = {header.epsilon:.4g}, by the "
        f"{header.bounds[-1]} bound.",
        f"Histogram of {len(finite)} margins from {lowest:.4g} to {highest:.4g}; {positive} are positive.",
        draw,
    )
