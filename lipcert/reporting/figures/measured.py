"""Pictures of a measurement: curves against epsilon, radii, margins, confusion; power iterations (Figure 5)."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lipcert.records.measurement import NOT_CONVERGED, ConvergenceRow, Measurement
from lipcert.reporting.figures.axes import counts, legend, percentages, rule
from lipcert.reporting.figures.picture import HEIGHT, Absent, Palette, Picture, own_roles

BINS = 24
"""Bars of a histogram, about."""

MOST_CLASSES = 20
"""With more, a matrix of classes cannot be read."""

Counts = npt.NDArray[np.int64]
"""Counts of images by label (rows) and class said (columns); one more column counts those of which none is."""


def curves(measured: Measurement) -> Picture:
    """Return certified accuracy against epsilon by each bound, and accuracy under PGD above them."""
    header, rows = measured.header, measured.curves
    epsilons = [row.epsilon for row in rows]
    by_bound = dict(zip(header.bounds, zip(*(row.certified for row in rows), strict=True), strict=True))

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        lines = {"PGD": [row.pgd for row in rows], **dict(reversed(by_bound.items()))}
        roles = own_roles(("attacked", *header.bounds))
        for above, (name, values) in zip(reversed(range(len(lines))), lines.items(), strict=True):
            colour, width = palette[roles.get(name, "attacked")], 1.3 + 1.2 * above  # where lines agree, both are seen
            axes.plot(epsilons, values, color=colour, linewidth=width, label=name)
        rule(axes, header.epsilon, palette, label="ε of the run")
        percentages(axes)
        axes.set(xlim=(0, epsilons[-1]), xlabel="ε", ylabel="accuracy")
        legend(figure, axes)

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
    right = [row.radii for row in measured.images if row.prediction == row.label]
    largest = max(map(max, right), default=0.0) or header.epsilon
    edges = [largest * step / BINS for step in range(BINS + 1)]

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        roles = own_roles(header.bounds)
        for place, bound in enumerate(header.bounds):
            values, colour = [radii[place] for radii in right], palette[roles[bound]]
            if bound == header.bounds[-1]:
                axes.hist(values, edges, color=colour, alpha=0.25)
            width = 1.2 + 1.2 * (len(header.bounds) - 1 - place)  # where bounds agree, all are seen
            axes.hist(values, edges, histtype="step", color=colour, linewidth=width, label=bound)
        rule(axes, header.epsilon, palette)
        axes.set(xlim=(0, largest), xlabel="certified radius")
        counts(axes)
        axes.legend()

    wrong = len(measured.images) - len(right)
    return Picture(
        "radii",
        "Certified radii",
        f"{len(right)} images classified correctly; {wrong} others are left out. Dashed: ε of the run.",
        f"Histogram of {len(right)} radii up to {largest:.4g} by the bounds {', '.join(header.bounds)}.",
        draw,
    )


def edges_with_zero(lowest: float, highest: float) -> list[float]:
    """Return even edges of bars that hold both numbers, 0 among them."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    width = (highest - lowest or 1.0) / BINS
    below, above = (math.ceil(each / width + 1e-9) for each in (-lowest, highest))
    return [width * step for step in range(-below, above + 1)]


def margins(measured: Measurement) -> Picture:
    """Return the histogram of certified margins at epsilon by the last bound."""
    header = measured.header
    finite = [row.margin for row in measured.images if math.isfinite(row.margin)]
    positive = [value for value in finite if value > 0]
    others = [value for value in finite if value <= 0]
    lowest, highest = min(finite, default=0.0), max(finite, default=0.0)

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        colours = [palette["attacked"], palette["tight"]]
        edges = edges_with_zero(lowest, highest)
        axes.hist([others, positive], edges, stacked=True, color=colours, alpha=0.8, label=["≤ 0", "certified"])
        rule(axes, 0, palette)
        axes.set_xlabel("certified margin")
        counts(axes)
        axes.legend()

    return Picture(
        "margins",
        "Certified margins",
        f"Lower bounds of the label's logit less every other within ε = {header.epsilon:.4g}, by the "
        f"{header.bounds[-1]} bound.",
        f"Histogram of {len(finite)} margins from {lowest:.4g} to {highest:.4g}; {len(positive)} are positive.",
        draw,
    )


def matrices(measured: Measurement) -> dict[str, Counts]:
    """Return the confusion matrices of clean, attacked and certified predictions, by name."""
    images, classes = measured.images, measured.header.data.num_classes

    def counted(said: Sequence[int], columns: int) -> Counts:
        counts = np.zeros((classes, columns), np.int64)
        np.add.at(counts, ([row.label for row in images], said), 1)
        return counts

    proved = [row.prediction == row.label and row.radii[-1] >= measured.header.epsilon for row in images]
    return {
        "clean": counted([row.prediction for row in images], classes),
        "attacked": counted([row.attacked for row in images], classes),
        "certified": counted(
            [row.label if done else classes for row, done in zip(images, proved, strict=True)], classes + 1
        ),
    }


def confusions(measured: Measurement) -> list[Picture | Absent]:
    """Return the confusion matrices as pictures."""
    header = measured.header
    classes = header.data.num_classes
    if classes > MOST_CLASSES:
        sentence = f"{classes} classes are too many for a matrix; images.csv of the measurement has all rows."
        return [Absent("Confusion", sentence)]
    within = f"within ε = {header.epsilon:.4g}"
    captions = {
        "clean": "Predictions.",
        "attacked": f"Predictions under PGD {within}.",
        "certified": f"Proved {within} by the {header.bounds[-1]} bound; the last column counts images not proved.",
    }
    return [_matrix(name, captions[name], counts) for name, counts in matrices(measured).items()]


def _matrix(name: str, caption: str, counts: Counts) -> Picture:
    classes, columns = counts.shape
    names = [*map(str, range(classes)), "open"][:columns]

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        for label, said in np.argwhere(counts):
            count = counts[label, said]
            colour = palette["tight" if label == said else "attacked"]
            axes.bar(said, 0.94, 0.94, label - 0.47, color=colour, alpha=0.14 + 0.38 * count / counts.max())
            axes.text(said, label, str(count), ha="center", va="center", fontsize=8 if columns <= 12 else 6)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set(xlim=(-0.5, columns - 0.5), xlabel="prediction", ylim=(classes - 0.5, -0.5), ylabel="label")
        axes.set_xticks(range(columns), names)
        axes.set_yticks(range(classes), names[:classes])

    alt = f"Matrix of labels and predictions: {np.trace(counts)} of {counts.sum()} images on the diagonal."
    return Picture(f"confusion_{name}", f"Confusion: {name}", caption, alt, draw, height=3.5)


def convergence(measured: Measurement) -> Picture | Absent:
    """Return histograms of power iterations until convergence, a layer each: Figure 5."""
    title = "Power iterations to convergence"
    if not measured.convergence:
        return Absent(title, "None were counted.")
    about, rows = measured.header.convergence, measured.convergence
    layers = {row.layer: [each for each in rows if each.layer == row.layer] for row in rows}
    some_late = any(row.iterations == NOT_CONVERGED for row in rows)
    end = float(about.largest if some_late else max(2, *(row.iterations for row in rows)))
    edges = [end ** (step / BINS) for step in range(BINS + 1 + 2 * some_late)]
    beyond = end ** (1 + 1.5 / BINS)

    def draw(figure: Figure, palette: Palette) -> None:
        panels = figure.subplots(len(layers), sharex=True, squeeze=False)[:, 0]
        for place, (axes, found) in enumerate(zip(panels, layers.values(), strict=True), start=1):
            iterations = [beyond if row.iterations == NOT_CONVERGED else max(1, row.iterations) for row in found]
            weights = [row.images for row in found]
            *_, bars = axes.hist(iterations, edges, weights=weights, color=palette["layer"], alpha=0.85)
            if some_late:
                bars[-1].set_color(palette["attacked"])
            axes.set_title(f"layer {place}")
            counts(axes, "images" if place == len(layers) // 2 + 1 else "")
        ticks = {10.0**power: f"{10**power}" for power in range(6) if 10**power <= end}
        if some_late:
            ticks = {place: name for place, name in ticks.items() if place < end / 2} | {beyond: f"> {about.largest}"}
        axes.set(xscale="log", xlim=(1, edges[-1]), xlabel="iterations")
        axes.set_xticks([*ticks], [*ticks.values()])
        axes.minorticks_off()

    return Picture(
        "convergence",
        title,
        f"As in Figure 5 of the paper: from a random vector until it moves by {about.tolerance:g} or less, masked "
        f"maps of the local bound, {about.images} images. A measurement: no certificate rests on power iteration.",
        "Histograms by layer. " + " ".join(_spoken(layer, found, about.largest) for layer, found in layers.items()),
        draw,
        height=max(HEIGHT, 0.85 * len(layers) + 0.5),
    )


def _spoken(layer: str, found: list[ConvergenceRow], largest: int) -> str:
    done = [row.iterations for row in found if row.iterations != NOT_CONVERGED]
    late = sum(row.images for row in found if row.iterations == NOT_CONVERGED)
    said = f"{min(done)} to {max(done)} iterations" if done else "none converged"
    return f"Layer {layer}: {said}{f', {late} images took more than {largest}' if late else ''}."
