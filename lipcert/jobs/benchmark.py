"""The job of `lipcert.benchmark`: training steps, and how they grow, timed in turns; medians are compared."""

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn

from lipcert.bounds import Bound, Plan, measure_plan
from lipcert.checkpoints import load_network, read_checkpoint
from lipcert.data import ImageDataModule, Split
from lipcert.data.batches import GlobalBatches
from lipcert.graph import compile_graph
from lipcert.jobs.preparation import chosen_device
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.nn import ClippedMaxMin, ClippedReLU, build
from lipcert.norms import PowerNorms
from lipcert.system.configuration import refuse_unknown
from lipcert.system.errors import refuse_below
from lipcert.system.files import write_json
from lipcert.system.memory import host_peak_mb
from lipcert.system.schema import BoundConfig

PLAIN = "plain"

START_UP = "start_up"
"""Instead of a bound: from the images in memory to the first batch of an epoch."""

Steps = Iterator[Any]
"""Steps without end: `next` takes one."""

DIGITS = {"seconds": ".4f", "ratio_to_plain": ".2f", "peak_memory_mb": ".0f", "exponent": ".2f"}

SIZES: dict[str, tuple[float, ...]] = {
    "classes": (10, 50, 200),
    "width": (0.5, 1, 2),
    "image_size": (16, 32, 64),
    "data_size": (1_000, 10_000, 100_000),
}
"""What is varied, one at a time: classes, factor on channels and hidden units, side in pixels, training images."""


@dataclass(frozen=True)
class Work:
    """What is measured: a network, and images that it trains on.

    `named`: how rows begin; `fetches`: whether steps fetch batches, or repeat the first one.
    """

    named: dict[str, Any]
    model: nn.Module
    split: Split
    fetches: bool = False


def run(config: DictConfig) -> None:
    """Measure what the settings ask for; print a table, write `benchmark.json`.

    Raises:
        ValueError: for settings out of range, an unknown kind of growth, or a checkpoint with one.
    """
    refuse_unknown(config)
    refuse_below(1, {"rounds": config.rounds, "threads": config.threads})
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
        yield from ([random_work(config, *each)] for each in itertools.product(config.models, config.activations))


@torch.no_grad()
def clip_half(model: nn.Module, images: Tensor) -> None:
    """Lower each threshold to the median of what reaches it, so that masks are as busy as in a trained network."""
    values = images
    for layer in model:  # type: ignore[attr-defined]
        if isinstance(layer, ClippedReLU):
            layer.threshold.fill_(values.relu().median().clamp_min(1e-3))
        if isinstance(layer, ClippedMaxMin):
            layer.max.fill_(values.max().item() / 2)
            layer.min.fill_(values.min().item() / 2)
        values = layer(values)


def random_work(config: DictConfig, name: str, activation: str, kind: str = "", size: float = 1) -> Work:
    """Return a random network whose thresholds clip half of what reaches them, on random 8-bit images.

    All is as large as the settings say, but for one `kind` of `SIZES`, which is of this `size`.
    """
    torch.manual_seed(0)
    channels, *sides = config.image_shape
    shape = (channels, *([int(size)] * 2 if kind == "image_size" else sides))
    classes = int(size) if kind == "classes" else config.num_classes
    count = int(size) if kind == "data_size" else config.batch_size
    model = build(name, shape, classes, activation, width=size if kind == "width" else 1.0)
    split = Split(torch.randint(256, (count, *shape), dtype=torch.uint8), torch.randint(classes, (count,)))
    clip_half(model, split[: config.batch_size][0])
    varied = {"growth": kind, "size": size} if kind else {}
    return Work({**varied, "model": name, "activation": activation}, model, split, fetches=kind == "data_size")


def trained_work(config: DictConfig) -> Work:
    """Return the network of a checkpoint, and test images of the data it was trained on.

    Raises:
        ValueError: for a checkpoint that lipcert did not write, or more images than there are.
    """
    data_name = read_checkpoint(config.checkpoint).description.get("data")
    if data_name is None:
        raise ValueError(
            f"checkpoint={config.checkpoint} does not say which data it was trained on; expected lipcert's."
        )
    data = ImageDataModule(data_name, config.batch_size, root=config.data_root)
    if config.batch_size > len(data.test):
        raise ValueError(f"Expected `batch_size` <= {len(data.test)}, the test images of {data_name}.")
    network = load_network(config.checkpoint, data.image_shape, data.num_classes)
    named = {key: network.description[key] for key in ("model", "activation")}
    return Work(named, network.model.requires_grad_(True), data.test)


def steps_of(work: Work, config: DictConfig, device: torch.device) -> dict[str, Steps]:
    """Return the steps of each kind, on the first batch: forward, loss, backward.

    Where steps fetch batches, the start of an epoch is one kind of them.
    """
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = work.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    images, labels = work.split[: config.batch_size]
    images, labels = images.to(device=device, memory_format=layout), labels.to(device)

    def plain() -> Steps:
        while True:
            model.zero_grad(set_to_none=True)
            yield F.cross_entropy(model(images), labels).backward()

    def robust(bound: str) -> Steps:
        norms = PowerNorms(config.iterations, config.precision).to(device)
        graph, method, plan = compile_graph(model, images.shape[1:]), BCP(), Plan()
        for number in itertools.count():
            model.zero_grad(set_to_none=True)
            if config.skip and number % BoundConfig.skip_every == 0:
                plan = measure_plan(graph, images, config.epsilon, bound, norms)
            setting = Setting(config.epsilon, 0.5, Bound(bound), norms, Sparsity(), False, plan, not config.skip, graph)
            yield method(model, images, labels, setting).loss.backward()

    def served() -> Iterator[tuple[Tensor, Tensor]]:
        order = GlobalBatches(len(work.split), config.batch_size, seed=0)
        for epoch in itertools.count():
            order.set_epoch(epoch)
            yield from (work.split[chosen] for chosen in order)

    steps = {PLAIN: plain(), **{bound: robust(bound) for bound in config.bounds}}
    if not work.fetches:
        return steps
    starts = (next(served()) for _ in itertools.count())
    return {START_UP: starts, **{name: zip(served(), each, strict=True) for name, each in steps.items()}}


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
        digits = {key: DIGITS.get(key, "") if isinstance(value, float) else "" for key, value in row.items()}
        table.add_row(*("-" if value is None else format(value, digits[key]) for key, value in row.items()))
    Console().print(table)
