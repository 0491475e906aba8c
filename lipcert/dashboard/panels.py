"""What the dashboard shows: sections of panels over the keys that runs log."""

from __future__ import annotations

from dataclasses import dataclass

X_AXIS = "epoch"
"""Key of the x axis of every curve."""


@dataclass(frozen=True)
class Curves:
    """Curves over epochs, a line for each run and key.

    Attributes:
        title: of the panel.
        keys: what is plotted.
        pattern: a regular expression; every key that it matches is plotted, instead of `keys`.
        logarithmic: whether the y axis is.
        fraction: whether the y axis ends at 0 and 1.
    """

    title: str
    keys: tuple[str, ...] = ()
    pattern: str | None = None
    logarithmic: bool = False
    fraction: bool = False


@dataclass(frozen=True)
class Bars:
    """A bar for each run and key of its summary, which holds `results.json`."""

    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """The tables that runs leave under a key, joined."""

    key: str


@dataclass(frozen=True)
class Section:
    """Panels under a heading."""

    name: str
    panels: tuple[Curves | Bars | Rows, ...]


SECTIONS = (
    Section(
        "Accuracies",
        (
            Curves("Certified accuracy on held-out images", ("val/certified_accuracy",), fraction=True),
            Curves("Clean accuracy on held-out images", ("val/clean_accuracy",), fraction=True),
            Curves("Training loss", ("train/loss",)),
        ),
    ),
    Section(
        "Lipschitz bounds",
        (
            Curves("Global and local", ("lipschitz/global", "lipschitz/local"), logarithmic=True),
            Curves("Local, by layer", pattern=r"^lipschitz/[0-9].*", logarithmic=True),
        ),
    ),
    Section(
        "Varying proportion",
        (Curves("Varying neurons, by layer", pattern=r"^varying/.+", fraction=True),),
    ),
    Section(
        "Schedules",
        (
            Curves("Epsilon", ("schedule/epsilon",)),
            Curves("Lambda", ("schedule/lambda",), fraction=True),
            Curves("Learning rate", ("schedule/learning_rate",), logarithmic=True),
        ),
    ),
    Section(
        "Results",
        (
            Bars("Test images: certified, under PGD, clean", ("certified_accuracy", "pgd_accuracy", "clean_accuracy")),
            Rows("results"),
        ),
    ),
)
