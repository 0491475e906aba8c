"""Writes a measurement: tables and pictures first, `measurement.json` last, so that one with it is complete."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lipcert.reporting.measurements import (
    CONVERGENCE_COLUMNS,
    CONVERGENCE_NAME,
    CURVES_NAME,
    FORMAT,
    HEADER_NAME,
    IMAGES_NAME,
    THUMBNAILS,
    ConvergenceRow,
    CurveRow,
    Header,
    ImageRow,
    curve_columns,
    curves,
    image_columns,
    to_csv,
)
from lipcert.system.files import write_bytes, write_json, write_text


def as_png(image: Tensor) -> bytes:
    """Return an image (C, H, W), pixels in [0, 1], as PNG; other than 1 or 3 channels are averaged."""
    if image.shape[0] not in (1, 3):
        image = image.mean(dim=0, keepdim=True)
    pixels = (image * 255).round().byte().cpu().permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()


def write_measurement(
    folder: Path,
    header: Header,
    images: Sequence[ImageRow],
    convergence: Sequence[ConvergenceRow],
    thumbnails: Mapping[int, Tensor],
) -> tuple[CurveRow, ...]:
    """Write everything into `folder`, in place of an earlier measurement; return the curves.

    Args:
        folder: is there.
        thumbnails: images (C, H, W) by index.

    Raises:
        OSError: if it cannot be written.
    """
    (folder / HEADER_NAME).unlink(missing_ok=True)  # never one measurement's header beside another's rows
    shutil.rmtree(folder / THUMBNAILS, ignore_errors=True)
    (folder / THUMBNAILS).mkdir()
    for index, image in thumbnails.items():
        write_bytes(folder / THUMBNAILS / f"{index}.png", as_png(image))
    points = curves(header, images)
    lines: dict[str, tuple[list[str], list[tuple[Any, ...]]]] = {
        CURVES_NAME: (curve_columns(header.bounds), [(row.epsilon, row.pgd, *row.certified) for row in points]),
        IMAGES_NAME: (image_columns(header.bounds), [(*_plain(row), *row.radii) for row in images]),
        CONVERGENCE_NAME: (CONVERGENCE_COLUMNS, [astuple(row) for row in convergence]),
    }
    for name, (columns, rows) in lines.items():
        write_text(folder / name, to_csv(columns, rows))
    write_json(folder / HEADER_NAME, {"format": FORMAT, **asdict(header)})
    return points


def _plain(row: ImageRow) -> tuple[Any, ...]:
    return astuple(row)[:-1]
