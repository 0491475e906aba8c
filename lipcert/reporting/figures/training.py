"""Curves over epochs: accuracies, Lipschitz bounds (Figure 7), varying proportions (Figure 6), from `metrics.csv`."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes

from lipcert.reporting.figures.axes import Line, line_chart, logarithmic, percentages
from lipcert.reporting.figures.picture import Absent, Picture
from lipcert.reporting.runs import Curve, varying_by_layer

FAINTEST = 0.35
"""Strength of the first layer's line; the last has 1."""


def training_pictures(metrics: Mapping[str, Curve]) -> list[Picture | Absent]:
    """Return pictures of accuracies on held-out images, of Lipschitz bounds and of varying proportions."""
    modules = ", ".join(f"{place}: {name}" for place, name in enumerate(varying_by_layer(metrics), start=1))
    return [
        _over_epochs(
            "accuracies",
            "Accuracies over epochs",
            "Held-out training images, at the epsilon of the run, by the bound it trains with.",
            [
                Line("clean", metrics.get("val/clean_accuracy", {}), "clean"),
                Line("certified", metrics.get("val/certified_accuracy", {}), "local"),
            ],
            ("accuracy", "{} accuracy", percentages),
            "accuracies on held-out images; data.validation=N holds N back",
        ),
        _over_epochs(
            "lipschitz",
            "Lipschitz bounds over epochs",
            "As in Figure 7 of the paper: product of layer norms up to the last activation, mean over training "
            "batches. While training they are estimates; certificates use upper bounds.",
            [Line(name, metrics.get(f"lipschitz/{name}", {}), name) for name in ("global", "local")],
            ("Lipschitz bound", "{} bound", logarithmic),
            "Lipschitz bounds",
        ),
        _over_epochs(
            "varying",
            "Varying neurons over epochs",
            "As in Figure 6 of the paper: share of neurons whose output is not constant within epsilon, mean over "
            f"training batches; darker lines are later layers. Modules of the activations: {modules}.",
            varying_lines(metrics),
            ("varying neurons", "share at {}", percentages),
            "proportions of varying neurons",
        ),
    ]


def varying_lines(metrics: Mapping[str, Curve]) -> list[Line]:
    """Return proportions of varying neurons, a line a layer."""
    layers = varying_by_layer(metrics).values()
    step = (1 - FAINTEST) / max(1, len(layers) - 1)
    return [
        Line(f"layer {place}", curve, "layer", 1 - step * (len(layers) - place))
        for place, curve in enumerate(layers, start=1)
    ]


def _over_epochs(
    key: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    axis: tuple[str, str, Callable[[Axes], None]],
    lacking: str,
) -> Picture | Absent:
    """Return a line chart; `axis` is the y axis: its label, how a line is spoken of, its scale."""
    quantity, spoken, scale = axis
    lines = [line for line in lines if line.curve]
    if not lines:
        return Absent(title, f"metrics.csv has no {lacking}.")
    last = [f"Last {spoken.format(line.name)}: {[*line.curve.values()][-1]:.4g}." for line in lines]
    kind = f"Line chart over epochs{', logarithmic' if scale is logarithmic else ''}."
    return Picture(key, title, caption, " ".join([kind, *last]), line_chart(lines, quantity, scale))
