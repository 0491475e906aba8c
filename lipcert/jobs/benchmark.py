"""The job of `lipcert.benchmark`: training steps, and how they grow, timed in turns; medians are compared."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Column, Table

from lipcert.jobs.preparation import chosen_device
from lipcert.jobs.timed_steps import PLAIN, Steps, Work, random_work, steps_of, trained_work
from lipcert.system.configuration import refuse_unknown
from lipcert.system.files import write_json
from lipcert.system.memory import host_peak_mb

DIGITS = {"seconds": ".4f", "ratio_to_plain": ".2f", "peak_memory_mb": ".0f", "exponent": ".2f"}

SIZES: dict[str, tuple[float, ...]] = {
    "classes": (10, 50, 200),
    "width": (0.5, 1, 2),
    "image_size": (16, 32, 64),
    "data_size": (1_000, 10_000, 100_000),
}
"""What is varied, one at a time: classes, factor on channels and hidden units, side in pixels, training images."""


def run(config: DictConfig) -> None:
    """Measure what the settings ask for; print a table, write `benchmark.json`.

    Raises:
        ValueError: for settings out of range, an unknown kind of growth, or a checkpoint with one.
    """
    refuse_unknown(config)
    if config.rounds < 1 or config.threads < 1:
        raise ValueError(f"Expected `rounds` and `threads` >= 1, got {config.rounds} and {config.threads}.")
    torch.set_num_threads(config.threads)
    device = chosen_device(config.device)
    rows = [row for works in _compared(config) for row in rows_of(works, config, device)]
    content: dict[str, Any] = {"torch": torch.__version__, "threads": config.threads, "rows": rows}
    fits = fits_of(rows) if config.growth else []
    if fits:
        content["exponents"] = [{key: fit[key] for key in ("growth", "bound", "exponent")} for fit in fits]
    write_json(Path(config.output), content)
    _print(fits or rows)


def _compared(config: DictConfig) -> Iterator[list[Work]]:
    """Yield what is measured in the same rounds: each network alone, or all sizes of one kind of growth."""
    unknown = [kind for kind in config.growth if kind not in SIZES]
    if unknown:
        raise ValueError(f"Expected `growth` to name some of {list(SIZES)}, got {unknown}.")
    if config.growth and config.checkpoint is not None:
        raise ValueError("`growth` measures networks of its own; leave out `checkpoint`.")
    if config.growth:
        network = config.models[0], config.activations[0]
        yield from ([random_work(config, *network, kind, size) for size in SIZES[kind]] for kind in config.growth)
    elif config.checkpoint is not None:
        yield [trained_work(config)]
    else:
        for name in config.models:
            for activation in config.activations:
                yield [random_work(config, name, activation)]


def rows_of(works: Sequence[Work], config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure the steps of all works in the same rounds; return one row a work and kind of step."""
    measured = [steps_of(work, config, device) for work in works]
    steps = {(index, kind): each for index, own in enumerate(measured) for kind, each in own.items()}
    seconds = _median_seconds(steps, config.rounds)
    return [
        {
            **works[index].named,
            "bound": kind,
            "iterations": config.iterations if kind in config.bounds else 0,
            "batch_size": config.batch_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "seconds": seconds[index, kind],
            "ratio_to_plain": seconds[index, kind] / seconds[index, PLAIN],
            "peak_memory_mb": _peak_memory_mb(each, device),
        }
        for (index, kind), each in steps.items()
    ]


def _now() -> float:
    """Return the time in seconds, once the accelerator has done its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def _median_seconds(steps: dict[tuple[int, str], Steps], rounds: int) -> dict[tuple[int, str], float]:
    """Return the median seconds of each step over interleaved rounds, after two rounds of warm-up."""
    seconds: dict[tuple[int, str], list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, each in steps.items():
            started = _now()
            next(each)
            seconds[name].append(_now() - started)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def _peak_memory_mb(steps: Steps, device: torch.device) -> float | None:
    """Return the most memory one step holds beyond what was held before; None where the system does not tell."""
    if device.type != "cuda":
        return host_peak_mb(lambda: next(steps))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    next(steps)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return p of the power law cost = c * size^p that fits best: least squares in the logarithms of both."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs]).slope


def fits_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return sizes, seconds and the exponent that fits them, one row a kind of growth and bound."""
    fits = []
    for kind, bound in dict.fromkeys((row["growth"], row["bound"]) for row in rows):
        own = [row for row in rows if (row["growth"], row["bound"]) == (kind, bound)]
        shown = {
            "sizes": " ".join(f"{row['size']:g}" for row in own),
            "seconds": " ".join(f"{row['seconds']:.4f}" for row in own),
        }
        exponent = growth_exponent([row["size"] for row in own], [row["seconds"] for row in own])
        fits.append({"growth": kind, "bound": bound, **shown, "exponent": exponent})
    return fits


def _print(rows: Sequence[dict[str, Any]]) -> None:
    columns = (Column(name, overflow="fold") for name in rows[0])
    table = Table(*columns, title="seconds of a training step: medians of interleaved rounds")
    for row in rows:
        table.add_row(*(_cell(value, DIGITS.get(key, "")) for key, value in row.items()))
    Console().print(table)


def _cell(value: Any, digits: str) -> str:
    return "-" if value is None else format(value, digits if isinstance(value, float) else "")
