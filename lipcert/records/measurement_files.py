"""Measurements to files and back: tables and pictures, then `measurement.json`, so that one with it is complete."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from lipcert.records.measurement import ConvergenceRow, CurveRow, Header, ImageRow, Measurement, curves
from lipcert.records.typed_text import decode, from_csv, read_object, to_csv
from lipcert.system.errors import reason_of
from lipcert.system.files import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Version of the files; readers refuse any other."""

HEADER_NAME = "measurement.json"
CURVES_NAME = "curves.csv"
IMAGES_NAME = "images.csv"
CONVERGENCE_NAME = "convergence.csv"
THUMBNAILS = "thumbnails"

BY_BOUND = {CurveRow: "certified", ImageRow: "radius"}
"""How columns with a value a bound begin; they are the last ones."""


def columns_of(row: type, bounds: Sequence[str] = ()) -> dict[str, type]:
    """Return the columns of a table of `row`s and their kinds."""
    kinds = {name: kind for name, kind in get_type_hints(row).items() if kind in (int, float, str)}
    return {**kinds, **{f"{BY_BOUND[row]}_{bound}": float for bound in bounds}}


def as_png(image: Tensor) -> bytes:
    """Return an image (C, H, W), pixels in [0, 1], as PNG; other than 1 or 3 channels are averaged."""
    from torchvision.io import encode_png

    if image.shape[0] not in (1, 3):
        image = image.mean(dim=0, keepdim=True)
    return encode_png((image * 255).round().byte().cpu()).numpy().tobytes()


def write_measurement(
    folder: Path,
    header: Header,
    images: Sequence[ImageRow],
    convergence: Sequence[ConvergenceRow],
    thumbnails: Mapping[int, Tensor],
) -> tuple[CurveRow, ...]:
    """Write everything into `folder`, in place of an earlier measurement; return the curves.

    `thumbnails`: images (C, H, W) by index.

    Raises:
        OSError: if it cannot be written.
    """
    (folder / HEADER_NAME).unlink(missing_ok=True)  # never one measurement's header beside another's rows
    shutil.rmtree(folder / THUMBNAILS, ignore_errors=True)
    (folder / THUMBNAILS).mkdir()
    for index, image in thumbnails.items():
        write_bytes(folder / THUMBNAILS / f"{index}.png", as_png(image))
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
