"""What `lipcert.measure` leaves in RUN/measurements/NAME/, and how it is read back."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lipcert.reporting.errors import UnreadableError, reason

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
class Header:
    """What a measurement is about: `measurement.json`, which is written last.

    Attributes:
        lipcert_version, checkpoint: what measured, and which file.
        model: SHA-256 of the network, dtype, description; data: name, split, number and SHA-256 of the images.
        epsilon: l2 radius of margins, attacked classes and convergence.
        bounds: by which radii are certified, never looser from one to the next.
        arithmetic: a sentence on what certificates cover.
        failure_probability: `per_norm`, `norms` and, of everything together, `total`.
        attack: steps, restarts and seed of PGD; radii: at which it attacked.
        convergence: images, tolerance, most iterations and seed.
        thumbnails: indices of the images kept as pictures.
        seconds: spent in all.
    """

    lipcert_version: str
    checkpoint: str
    model: dict[str, Any]
    data: dict[str, Any]
    epsilon: float
    bounds: tuple[str, ...]
    arithmetic: str
    failure_probability: dict[str, Any]
    attack: dict[str, Any]
    radii: tuple[float, ...]
    convergence: dict[str, Any]
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

    @property
    def tightest(self) -> int:
        """Place of the last bound among `header.bounds`."""
        return len(self.header.bounds) - 1


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


def to_csv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Return CSV text; floats by `repr`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[repr(value) if isinstance(value, float) else value for value in line] for line in lines])
    return text.getvalue()


def curve_columns(bounds: Sequence[str]) -> list[str]:
    """Return the header of `curves.csv`."""
    return ["epsilon", "pgd", *(f"certified_{bound}" for bound in bounds)]


def image_columns(bounds: Sequence[str]) -> list[str]:
    """Return the header of `images.csv`."""
    names = [field.name for field in fields(ImageRow) if field.name != "radii"]
    return [*names, *(f"radius_{bound}" for bound in bounds)]


NEEDED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "model": {"sha256": str},
    "data": {"name": str, "split": str, "num_images": int, "num_classes": int},
    "failure_probability": {"norms": int, "total": (int, float)},
    "attack": {"steps": int, "restarts": int},
    "convergence": {"images": int, "tolerance": (int, float), "largest": int},
}
"""What readers need of a header's groups."""

INTEGERS = ("index", "label", "prediction", "attacked", "iterations", "images")

CONVERGENCE_COLUMNS = [field.name for field in fields(ConvergenceRow)]


def read_measurement(folder: Path) -> Measurement:
    """Return the measurement in a folder.

    Raises:
        UnreadableError: naming the file that is missing, damaged or of another format.
    """
    header = _header(folder / HEADER_NAME)
    classes = int(header.data["num_classes"])
    images = [_image(line) for line in _lines(folder / IMAGES_NAME, image_columns(header.bounds))]
    if any(not 0 <= each < classes for row in images for each in (row.label, row.prediction, row.attacked)):
        raise UnreadableError(f"{folder / IMAGES_NAME} holds a class outside 0 to {classes - 1}; measure again.")
    found = tuple(
        CurveRow(epsilon, pgd, tuple(certified))
        for epsilon, pgd, *certified in (
            map(float, line) for line in _lines(folder / CURVES_NAME, curve_columns(header.bounds))
        )
    )
    if found != curves(header, images):
        raise UnreadableError(f"{folder / CURVES_NAME} does not follow from {IMAGES_NAME}; measure again.")
    convergence = tuple(
        ConvergenceRow(line[0], int(line[1]), int(line[2]))
        for line in _lines(folder / CONVERGENCE_NAME, CONVERGENCE_COLUMNS)
    )
    return Measurement(folder, header, found, tuple(images), convergence)


def _image(cells: list[str]) -> ImageRow:
    index, label, prediction, attacked = map(int, cells[:4])
    broken_at, margin, lipschitz, *radii = map(float, cells[4:])
    return ImageRow(index, label, prediction, attacked, broken_at, margin, lipschitz, tuple(radii))


def _header(path: Path) -> Header:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        for name in ("bounds", "radii", "thumbnails"):
            content[name] = tuple(content[name])
        header = Header(**content)
        for group, names in NEEDED.items():
            for name, kind in names.items():
                if not isinstance(getattr(header, group)[name], kind):
                    raise ValueError(f"expected another kind of value for {group}.{name}")
        if not (header.bounds and all(map(math.isfinite, header.radii)) and 0 < header.epsilon in header.radii):
            raise ValueError("expected bounds, finite radii and epsilon among them")
        return header
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnreadableError(f"{path} is no measurement ({reason(error)}); measure again.") from error


def _lines(path: Path, columns: list[str]) -> list[list[str]]:
    """Return the lines below the header, each of its length, cells whole numbers where they must be and never NaN."""
    try:
        header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        if header != columns:
            raise ValueError(f"expected the columns {','.join(columns)}")
        for number, line in enumerate(lines, start=2):
            if len(line) != len(columns):
                raise ValueError(f"line {number} has {len(line)} cells of {len(columns)}")
            for name, cell in zip(columns, line, strict=True):
                if name != "layer" and math.isnan(int(cell) if name in INTEGERS else float(cell)):
                    raise ValueError(f"line {number} holds NaN under {name}")
        return lines
    except (OSError, ValueError, csv.Error) as error:
        raise UnreadableError(f"{path} cannot be read ({reason(error)}); measure again.") from error
