"""Pictures of a measurement: curves against epsilon, radii, margins, power iterations (Figure 5), confusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lipcert.reporting.figures.drawing import FONT, HEIGHT, Picture, canvas, counts, label_ends, percentages
from lipcert.reporting.figures.palette import Palette
from lipcert.reporting.measurements import NOT_CONVERGED, ConvergenceRow, Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 24
MOST_CLASSES = 20
"""With more, a matrix of classes cannot be read."""


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
        f"First {header.data['num_images']} test images. Every point of a bound is proved at that radius or a larger "
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


def margins(measured: Measurement) -> Picture:
    """Return the histogram of certified margins at epsilon by the last bound."""
    header = measured.header
    finite = [row.margin for row in measured.images if abs(row.margin) != float("inf")]
    lowest, highest = min(finite, default=0.0), max(finite, default=0.0)
    width = (highest - lowest or 1.0) / BINS
    below = max(0, -int(-max(0.0, -lowest) // width))
    edges = [width * (step - below) for step in range(BINS + 3)]  # 0 is one of them
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


def convergence(measured: Measurement) -> Picture:
    """Return histograms of power iterations until convergence, a layer each: Figure 5."""
    about, rows = measured.header.convergence, measured.convergence
    layers = list(dict.fromkeys(row.layer for row in rows))
    largest = int(about["largest"])
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
        f"As in Figure 5 of the paper: from a random vector until it moves by {about['tolerance']:g} or less, masked "
        f"maps of the local bound, {about['images']} images. A measurement: no certificate rests on power iteration.",
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


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts by label (rows) and class said (columns); `columns` head it."""

    title: str
    caption: str
    counts: tuple[tuple[int, ...], ...]
    columns: tuple[str, ...]


def matrices(measured: Measurement) -> dict[str, Matrix]:
    """Return the confusion matrices of clean, attacked and certified predictions, by key."""
    header, images = measured.header, measured.images
    classes, place = int(header.data["num_classes"]), measured.tightest
    names = tuple(map(str, range(classes)))

    def counted(said: Callable[[int], int], width: int) -> tuple[tuple[int, ...], ...]:
        counts = [[0] * width for _ in range(classes)]
        for number, row in enumerate(images):
            counts[row.label][said(number)] += 1
        return tuple(map(tuple, counts))

    def certified(number: int) -> int:
        row = images[number]
        proved = row.prediction == row.label and row.radii[place] >= header.epsilon
        return row.label if proved else classes

    within = f"within ε = {header.epsilon:.4g}"
    return {
        "confusion_clean": Matrix("Clean", "Predictions.", counted(lambda n: images[n].prediction, classes), names),
        "confusion_attacked": Matrix(
            "Attacked", f"Predictions under PGD {within}.", counted(lambda n: images[n].attacked, classes), names
        ),
        "confusion_certified": Matrix(
            "Certified",
            f"Proved {within} by the {header.bounds[place]} bound; the last column counts images not proved.",
            counted(certified, classes + 1),
            (*names, "open"),
        ),
    }


def confusion(key: str, matrix: Matrix) -> Picture:
    """Return a confusion matrix as picture."""

    def draw(palette: Palette) -> Figure:
        from matplotlib.patches import Rectangle

        figure, (axes,) = canvas(palette, height=3.5)
        largest = max(max(row) for row in matrix.counts) or 1
        for label, row in enumerate(matrix.counts):
            for said, count in enumerate(row):
                if not count:
                    continue
                right = label == said
                colour = palette["tight"] if right else palette["attacked"]
                corner = (said - 0.47, label - 0.47)
                axes.add_patch(
                    Rectangle(corner, 0.94, 0.94, facecolor=colour, alpha=0.14 + 0.38 * count / largest, linewidth=0)
                )
                size = FONT - 1 if len(matrix.columns) <= 12 else FONT - 3
                axes.text(said, label, str(count), ha="center", va="center", color=palette["ink"], fontsize=size)
        axes.set_xlim(-0.5, len(matrix.columns) - 0.5)
        axes.set_ylim(len(matrix.counts) - 0.5, -0.5)
        axes.set_xticks(range(len(matrix.columns)), matrix.columns)
        axes.set_yticks(range(len(matrix.counts)), map(str, range(len(matrix.counts))))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
        return figure

    right = sum(row[label] for label, row in enumerate(matrix.counts))
    total = sum(map(sum, matrix.counts))
    return Picture(
        key,
        f"Confusion: {matrix.title.lower()}",
        matrix.caption,
        f"Matrix of labels and predictions: {right} of {total} images on the diagonal.",
        draw,
    )
