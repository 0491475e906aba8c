"""Confusion matrices of clean, attacked and certified predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lipcert.records.measurement import Measurement
from lipcert.reporting.figures.drawing import FONT, Picture, canvas
from lipcert.reporting.figures.palette import Palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 20
"""With more, a matrix of classes cannot be read."""


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
    classes, place = header.data.num_classes, measured.tightest
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
