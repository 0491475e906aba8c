"""What `lipcert.measure` leaves in RUN/measurements/NAME/, field by field."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lipcert.records.format import Data, FailureProbability, Model

NOT_CONVERGED = -1
"""Under `iterations`: power iteration took more than were allowed."""


@dataclass(frozen=True)
class ImageRow:
    """One image: a line of `images.csv`.

    Attributes:
        index: of the image in its split; label: its class.
        prediction: class of the clean image.
        attacked: class at the point of PGD within epsilon that broke it, the clean one where none did.
        broken_at: smallest radius of the grid at which PGD changed the class, 0 where it was wrong before, infinity
            where the image withstood.
        margin: lower bound of z_label - z_other within epsilon by the last bound, rounding taken off.
        lipschitz: L(x) at epsilon by the last bound.
        radii: certified radius by bound, in the order of the header; 0 where the prediction is wrong.
    """

    index: int
    label: int
    prediction: int
    attacked: int
    broken_at: float
    margin: float
    lipschitz: float
    radii: tuple[float, ...]


@dataclass(frozen=True)
class CurveRow:
    """Fractions of images at one radius: withstanding PGD, and certified by each bound."""

    epsilon: float
    pgd: float
    certified: tuple[float, ...]


@dataclass(frozen=True)
class ConvergenceRow:
    """How many images took so many power iterations at a layer, `NOT_CONVERGED` for more than allowed."""

    layer: str
    iterations: int
    images: int


@dataclass(frozen=True)
class Attack:
    """How PGD attacked."""

    steps: int
    restarts: int
    seed: int


@dataclass(frozen=True)
class Convergence:
    """How power iterations were counted: on how many images, until a vector moves by `tolerance`, `largest` at most."""

    images: int
    tolerance: float
    largest: int
    seed: int


@dataclass(frozen=True)
class Header:
    """What a measurement is about: `measurement.json`, which is written last.

    Attributes:
        lipcert_version, checkpoint: what measured, and which file.
        model, data: the network and the images.
        epsilon: l2 radius of margins, attacked classes and convergence.
        bounds: by which radii are certified, never looser from one to the next.
        arithmetic: a sentence on what certificates cover.
        failure_probability: of everything together.
        attack: of PGD; radii: at which it attacked.
        convergence: how power iterations were counted.
        thumbnails: indices of the images kept as pictures.
        seconds: spent in all.
    """

    lipcert_version: str
    checkpoint: str
    model: Model
    data: Data
    epsilon: float
    bounds: tuple[str, ...]
    arithmetic: str
    failure_probability: FailureProbability
    attack: Attack
    radii: tuple[float, ...]
    convergence: Convergence
    thumbnails: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """A measurement and the folder it lies in."""

    folder: Path
    header: Header
    curves: tuple[CurveRow, ...]
    images: tuple[ImageRow, ...]
    convergence: tuple[ConvergenceRow, ...]


def curves(header: Header, rows: Sequence[ImageRow]) -> tuple[CurveRow, ...]:
    """Return what the images amount to at each radius; at 0 both are the clean accuracy."""
    count = max(1, len(rows))
    return tuple(
        CurveRow(
            epsilon,
            sum(row.broken_at > epsilon for row in rows) / count,
            tuple(
                sum(row.prediction == row.label and row.radii[place] >= epsilon for row in rows) / count
                for place in range(len(header.bounds))
            ),
        )
        for epsilon in (0.0, *header.radii)
    )
