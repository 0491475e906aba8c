"""Curves over epochs: accuracies, Lipschitz bounds (Figure 7), varying proportions (Figure 6), from `metrics.csv`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lipcert.reporting.figures.drawing import (
    Absent,
    Picture,
    canvas,
    label_ends,
    percentages,
    plain_logarithm,
    whole_numbers,
)
from lipcert.reporting.figures.palette import Palette
from lipcert.reporting.metrics import Series
from lipcert.reporting.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINTEST = 0.35
"""Strength of the first layer's line; the last has 1."""


def line(axes: Axes, series: Series, colour: str, alpha: float = 1.0, dashed: bool = False) -> None:
    """Draw one quantity over epochs, numbered from 1."""
    alone = len(series.values) == 1
    axes.plot(
        [epoch + 1 for epoch in series.epochs],
        series.values,
        color=colour,
        alpha=alpha,
        linestyle="--" if dashed else "-",
        marker="o" if alone else None,
        markersize=4,
    )


def _ends(lines: Sequence[tuple[str, Series, str]]) -> list[tuple[float, str, str]]:
    return [(series.values[-1], text, colour) for text, series, colour in lines if series]


def over_epochs(axes: Axes, quantity: str = "") -> None:
    """Dress axes whose x axis is epochs."""
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity)
    axes.margins(x=0.02)
    whole_numbers(axes)


def accuracies(run: Run) -> Picture | Absent:
    """Return clean and certified accuracy on held-out images over epochs."""
    title = "Accuracies over epochs"
    clean, certified = run.metrics.get("val/clean_accuracy"), run.metrics.get("val/certified_accuracy")
    if not clean and not certified:
        return Absent(title, "metrics.csv has no accuracies on held-out images; data.validation=N holds N back.")
    return Picture(
        "accuracies",
        title,
        "Held-out training images, at the epsilon of the run, by the bound it trains with.",
        f"Line chart over epochs. {_last('clean accuracy', clean)} {_last('certified accuracy', certified)}",
        lambda palette: _chart(
            palette,
            (("clean", clean, palette["clean"]), ("certified", certified, palette["local"])),
            "accuracy",
            percentages,
        ),
    )


def _last(what: str, series: Series) -> str:
    return f"Last {what}: {series.values[-1]:.4g}." if series else ""


def lipschitz(run: Run) -> Picture | Absent:
    """Return global and local Lipschitz bounds while training: Figure 7."""
    title = "Lipschitz bounds over epochs"
    whole, local = run.metrics.get("lipschitz/global"), run.metrics.get("lipschitz/local")
    if not whole and not local:
        return Absent(title, "metrics.csv has no Lipschitz bounds.")
    return Picture(
        "lipschitz",
        title,
        "As in Figure 7 of the paper: product of layer norms up to the last activation, mean over training batches. "
        "While training they are estimates; certificates use upper bounds.",
        f"Line chart over epochs, logarithmic. {_last('global bound', whole)} {_last('local bound', local)}",
        lambda palette: _chart(
            palette,
            (("global", whole, palette["global"]), ("local", local, palette["local"])),
            "Lipschitz bound",
            plain_logarithm,
        ),
    )


def _chart(
    palette: Palette, lines: Sequence[tuple[str, Series, str]], quantity: str, scale: Callable[[Axes], None]
) -> Figure:
    """Draw (name, values, colour) each over epochs; `scale` dresses the y axis."""
    figure, (axes,) = canvas(palette)
    for _, series, colour in lines:
        line(axes, series, colour)
    scale(axes)
    over_epochs(axes, quantity)
    label_ends(axes, _ends(lines))
    return figure


def _strength(place: int, count: int) -> float:
    return 1.0 if count == 1 else FAINTEST + (1 - FAINTEST) * place / (count - 1)


def draw_varying(axes: Axes, layers: Mapping[str, Series], palette: Palette) -> list[tuple[float, str, str]]:
    """Draw a line a layer; return what to write beside the lines."""
    for place, series in enumerate(layers.values()):
        line(axes, series, palette["layer"], _strength(place, len(layers)))
    return _ends([(f"layer {place + 1}", series, palette["ink"]) for place, series in enumerate(layers.values())])


def varying(run: Run) -> Picture | Absent:
    """Return the proportion of varying neurons a layer: Figure 6."""
    title = "Varying neurons over epochs"
    layers = run.metrics.by_layer("varying")
    if not layers:
        return Absent(title, "metrics.csv has no proportions of varying neurons.")

    def draw(palette: Palette) -> Figure:
        figure, (axes,) = canvas(palette)
        ends = draw_varying(axes, layers, palette)
        percentages(axes, 1.02)
        over_epochs(axes, "varying neurons")
        label_ends(axes, ends)
        return figure

    named = ", ".join(f"{place + 1}: {name}" for place, name in enumerate(layers))
    return Picture(
        "varying",
        title,
        "As in Figure 6 of the paper: share of neurons whose output is not constant within epsilon, mean over training "
        f"batches; darker lines are later layers. Modules of the activations: {named}.",
        "Line chart over epochs. " + " ".join(_last(f"share at layer {name}", each) for name, each in layers.items()),
        draw,
    )
