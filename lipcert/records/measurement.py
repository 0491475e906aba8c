"""Measurements: what `lipcert.measure` leaves in RUN/measurements/NAME/, field by field, to files and back.

Tables and pictures are written first, then `measurement.json`, so that a measurement with it is complete.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from lipcert.records.format import Data, FailureProbability, Model
from lipcert.records.typed_text import decode, from_csv, read_object, to_csv
from lipcert.system.errors import reason_of
from lipcert.system.files import write_bytes, write_json, write_text

FORMAT = 1
"""Version of the files; readers refuse any other."""

HEADER_NAME = "measurement.json"
CURVES_NAME = "curves.csv"
IMAGES_NAME = "images.csv"
CONVERGENCE_NAME = "convergence.csv"
THUMBNAILS = "thumbnails"

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


BY_BOUND = {CurveRow: "certified", ImageRow: "radius"}
"""How columns with a value a bound begin; they are the last ones."""


def columns_of(row: type, bounds: Sequence[str] = ()) -> dict[str, type]:
    """Return the columns of a table of `row`s and their kinds."""
    kinds = {name: kind for name, kind in get_type_hints(row).items() if kind in (int, float, str)}
    return {**kinds, **{f"{BY_BOUND[row]}_{bound}": float for bound in bounds}}


def write_measurement(
    folder: Path,
    header: Header,
    images: Sequence[ImageRow],
    convergence: Sequence[ConvergenceRow],
    thumbnails: Mapping[int, bytes],
) -> tuple[CurveRow, ...]:
    """Write everything into `folder`, in place of an earlier measurement; return the curves.

    `thumbnails`: images as PNG, by index.

    Raises:
        OSError: if it cannot be written.
    """
    (folder / HEADER_NAME).unlink(missing_ok=True)  # never one measurement's header beside another's rows
    shutil.rmtree(folder / THUMBNAILS, ignore_errors=True)
    (folder / THUMBNAILS).mkdir()
    for index, image in thumbnails.items():
        write_bytes(folder / THUMBNAILS / f"{index}.png", image)
    points = curves(header, images)
    write_text(folder / CURVES_NAME, to_csv(columns_of(CurveRow, header.bounds), map(_cells, points)))
    write_text(folder / IMAGES_NAME, to_csv(columns_of(ImageRow, header.bounds), map(_cells, images)))
    write_text(folder / CONVERGENCE_NAME, to_csv(columns_of(ConvergenceRow), map(_cells, convergence)))
    write_json(folder / HEADER_NAME, {"format": FORMAT, **asdict(header)})
    return points


def _cells(row: CurveRow | ImageRow | ConvergenceRow) -> list[Any]:
    """Return the values of a row; those by bound, at its end, follow one by one."""
    *values, last = astuple(row)
    return [*values, *(last if isinstance(last, tuple) else (last,))]


def read_measurement(folder: Path) -> Measurement:
    """Return the measurement in a folder.

    Raises:
        ValueError: naming the file that is missing, damaged or of another format.
    """
    header = _header(folder / HEADER_NAME)
    classes = header.data.num_classes
    count = len(header.bounds)
    lines = _lines(folder / IMAGES_NAME, columns_of(ImageRow, header.bounds))
    images = tuple(ImageRow(*[*line[:-count], tuple(line[-count:])]) for line in lines)
    if any(not 0 <= each < classes for row in images for each in (row.label, row.prediction, row.attacked)):
        raise ValueError(f"{folder / IMAGES_NAME} holds a class outside 0 to {classes - 1}; measure again.")
    lines = _lines(folder / CURVES_NAME, columns_of(CurveRow, header.bounds))
    points = tuple(CurveRow(*[*line[:-count], tuple(line[-count:])]) for line in lines)
    if points != curves(header, images):
        raise ValueError(f"{folder / CURVES_NAME} does not follow from {IMAGES_NAME}; measure again.")
    convergence = tuple(ConvergenceRow(*line) for line in _lines(folder / CONVERGENCE_NAME, columns_of(ConvergenceRow)))
    return Measurement(folder, header, points, images, convergence)


def _header(path: Path) -> Header:
    try:
        header = decode(Header, read_object(path, FORMAT), "the measurement")
        if not (header.bounds and all(map(math.isfinite, header.radii)) and 0 < header.epsilon in header.radii):
            raise ValueError("expected bounds, finite radii and epsilon among them")
        return header
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no measurement ({reason_of(error)}); measure again.") from error


def _lines(path: Path, columns: dict[str, type]) -> list[list[Any]]:
    try:
        return from_csv(path.read_text(encoding="utf-8"), columns)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({reason_of(error)}); measure again.") from error
