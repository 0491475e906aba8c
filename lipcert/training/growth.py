"""How the cost of a training step grows with classes, width, image size and the number of training images."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lipcert.data.arrays import Split, Stored, to_pixels
from lipcert.data.batches import ShuffledBatches
from lipcert.nn import build
from lipcert.system.files import write_json
from lipcert.training.benchmark import PLAIN, clip_half, device_name, measure, peak_memory_of, prepare, training_steps

SIZES: dict[str, tuple[float, ...]] = {
    "classes": (10, 50, 200),
    "width": (0.5, 1, 2),
    "image_size": (16, 32, 64),
    "data_size": (1_000, 10_000, 100_000),
}
"""What is varied, one at a time: classes, factor on channels and hidden units, side in pixels, training images."""

START_UP = "start_up"
"""Instead of a bound: from the images in memory to the first batch of an epoch."""


def growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return p of the power law cost = c * size^p that fits best: least squares in the logarithms of both.

    Raises:
        ValueError: for fewer than two different sizes, or anything that is not positive.
    """
    if len(sizes) != len(costs) or len(set(sizes)) < 2 or not all(each > 0 for each in (*sizes, *costs)):
        raise ValueError(f"Expected positive costs of two different sizes or more, got {sizes} and {costs}.")
    across, up = ([math.log(each) for each in values] for values in (sizes, costs))
    middle, height = (sum(values) / len(values) for values in (across, up))
    slope = sum((x - middle) * (y - height) for x, y in zip(across, up, strict=True))
    return slope / sum((x - middle) ** 2 for x in across)


@dataclass(frozen=True)
class Workload:
    """A network and the images it trains on: what one size of one kind of growth means."""

    size: float
    model: nn.Module
    split: Split
    batch_size: int

    def loader(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield training batches without end, in the order of epoch after epoch."""
        stored, batches = Stored(self.split), ShuffledBatches(len(self.split), self.batch_size)
        while True:
            for chosen in batches:
                if len(chosen) == self.batch_size:
                    images, labels = stored[chosen]
                    yield to_pixels(images), labels
            batches.set_epoch(batches.epoch + 1)


def workload(kind: str, size: float, config: DictConfig) -> Workload:
    """Return a random network whose thresholds clip half of what reaches them, on random 8-bit images."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    channels, height, width = config.image_shape
    if kind == "image_size":
        height = width = int(size)
    classes = int(size) if kind == "classes" else config.num_classes
    count = int(size) if kind == "data_size" else 4 * config.batch_size
    images = torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.randint(classes, (count,), generator=generator))
    factor = size if kind == "width" else 1.0
    model = build(config.models[0], (channels, height, width), classes, config.activations[0], width=factor)
    clip_half(model, split[: config.batch_size][0])
    return Workload(size, model, split, config.batch_size)


def _steps(work: Workload, config: DictConfig, device: torch.device) -> dict[str, Callable[[], None]]:
    """Return one function a bound: a step on the first batch."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = work.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    images, labels = work.split[: work.batch_size]
    images, labels = images.to(device=device, memory_format=layout), labels.to(device)
    return training_steps(model, images, labels, config, list(config.bounds))


def _with_data(work: Workload, steps: dict[str, Callable[[], None]]) -> dict[str, Callable[[], None]]:
    """Return steps that fetch a batch first, and the start of an epoch as one of them."""
    batches = work.loader()

    def fetching(step: Callable[[], None]) -> Callable[[], None]:
        def fetch_and_step() -> None:
            next(batches)
            step()

        return fetch_and_step

    def start() -> None:
        next(work.loader())

    return {START_UP: start, **{name: fetching(step) for name, step in steps.items()}}


def rows_of(kind: str, config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure every size of one kind of growth in the same rounds; return one row a size and bound."""
    steps: dict[tuple[float, str], Callable[[], None]] = {}
    for size in SIZES[kind]:
        work = workload(kind, size, config)
        own = _steps(work, config, device)
        steps |= {(size, name): step for name, step in (_with_data(work, own) if kind == "data_size" else own).items()}
    seconds = measure(steps, config.rounds, device)
    rows = []
    for (size, bound), step in steps.items():
        robust = bound not in (PLAIN, START_UP)
        rows.append(
            {
                "growth": kind,
                "size": size,
                "model": config.models[0],
                "activation": config.activations[0],
                "bound": bound,
                "iterations": config.iterations if robust else 0,
                "batch_size": config.batch_size,
                "device": device_name(device),
                "seconds": seconds[size, bound],
                "ratio_to_plain": seconds[size, bound] / seconds[size, PLAIN],
                "peak_memory_mb": peak_memory_of(step, device),
            }
        )
    return rows


def fits_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the exponents of seconds, one row a kind of growth and bound."""
    fits = []
    for kind, bound in dict.fromkeys((row["growth"], row["bound"]) for row in rows):
        own = [row for row in rows if (row["growth"], row["bound"]) == (kind, bound)]
        exponent = growth_exponent([row["size"] for row in own], [row["seconds"] for row in own])
        fits.append({"growth": kind, "bound": bound, "exponent": exponent})
    return fits


def run(config: DictConfig) -> None:
    """Measure every kind of growth that is asked for; print a table, write `benchmark.json`.

    Raises:
        ValueError: for an unknown kind, a checkpoint, or settings out of range.
    """
    device = prepare(config)
    unknown = [kind for kind in config.growth if kind not in SIZES]
    if unknown:
        raise ValueError(f"Expected `growth` to name some of {list(SIZES)}, got {unknown}.")
    if config.checkpoint is not None:
        raise ValueError("`growth` measures networks of its own; leave out `checkpoint`.")
    rows: list[dict[str, Any]] = []
    for kind in config.growth:
        rows += rows_of(kind, config, device)
        gc.collect()
    fits = fits_of(rows)
    content = {"torch": torch.__version__, "threads": config.threads, "rows": rows, "exponents": fits}
    write_json(Path(config.output), content)
    _print(rows, fits)


def _print(rows: Sequence[dict[str, Any]], fits: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="seconds of a training step: medians of interleaved rounds; seconds ~ size^exponent")
    for column in ("growth", "bound", "sizes", "seconds", "exponent"):
        table.add_column(column, overflow="fold")
    for fit in fits:
        own = [row for row in rows if (row["growth"], row["bound"]) == (fit["growth"], fit["bound"])]
        sizes, seconds = " ".join(f"{row['size']:g}" for row in own), " ".join(f"{row['seconds']:.4f}" for row in own)
        table.add_row(fit["growth"], fit["bound"], sizes, seconds, f"{fit['exponent']:.2f}")
    Console().print(table)
