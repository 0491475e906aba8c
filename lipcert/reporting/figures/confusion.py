"""Confusion matrices of clean, attacked and certified predictions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lipcert.records.measurement import Measurement
from lipcert.reporting.figures.picture import Absent, Palette, Picture

MOST_CLASSES = 20
"""With more, a matrix of classes cannot be read."""

Counts = npt.NDArray[np.int64]
"""Counts of images by label (rows) and class said (columns); one more column counts those of which none is."""


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
    return [_picture(name, captions[name], counts) for name, counts in matrices(measured).items()]


def _picture(name: str, caption: str, counts: Counts) -> Picture:
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
