"""Interleaved timings of training steps: each round runs every kind of step once, medians are compared."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from lipcert.bounds import Bound, Plan, measure_plan
from lipcert.checkpoints import load_network, read_checkpoint
from lipcert.data import ImageDataModule
from lipcert.graph import compile_graph
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.nn import ClippedMaxMin, ClippedReLU, build
from lipcert.norms import PowerNorms
from lipcert.system.files import write_json
from lipcert.system.memory import host_peak_mb

PLAIN = "plain"

SKIP_EVERY = 20
"""Steps between two measurements of what is skipped, as in training."""

K = TypeVar("K", bound=Hashable)


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


def training_steps(
    model: nn.Module, images: Tensor, labels: Tensor, config: DictConfig, bounds: list[str]
) -> dict[str, Callable[[], None]]:
    """Return one function a kind of step: forward, loss, backward."""

    def plain() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()

    def robust(bound: str) -> Callable[[], None]:
        norms = PowerNorms(config.iterations, config.precision).to(images.device)
        graph, method, plan = compile_graph(model, images.shape[1:]), BCP(), Plan()
        steps = itertools.count()

        def step() -> None:
            nonlocal plan
            model.zero_grad(set_to_none=True)
            if config.skip and next(steps) % SKIP_EVERY == 0:
                plan = measure_plan(graph, images, config.epsilon, bound, norms)
            setting = Setting(config.epsilon, 0.5, Bound(bound), norms, Sparsity(), False, plan, not config.skip, graph)
            method(model, images, labels, setting).loss.backward()

        return step

    return {PLAIN: plain, **{bound: robust(bound) for bound in bounds}}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(steps: Mapping[K, Callable[[], None]], rounds: int, device: torch.device) -> dict[K, float]:
    """Return the median seconds of each step over interleaved rounds, after two rounds of warm-up."""
    seconds: dict[K, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 2):
        for name, step in steps.items():
            _synchronize(device)
            started = time.perf_counter()
            step()
            _synchronize(device)
            if index >= 2:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory_of(step: Callable[[], None], device: torch.device) -> float | None:
    """Return the most memory one step holds beyond what was held before; None where the system does not tell."""
    if device.type != "cuda":
        return host_peak_mb(step)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    _synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


@dataclass(frozen=True)
class Work:
    """What is measured: a network, and a batch of images and labels."""

    name: str
    activation: str
    model: nn.Module
    images: Tensor
    labels: Tensor


def _built(name: str, activation: str, config: DictConfig) -> Work:
    """Return a random network whose thresholds clip half of what reaches them, and random images."""
    torch.manual_seed(0)
    model = build(name, tuple(config.image_shape), config.num_classes, activation)
    images = torch.rand(config.batch_size, *config.image_shape)
    clip_half(model, images)
    return Work(name, activation, model, images, torch.randint(config.num_classes, (config.batch_size,)))


def _trained(config: DictConfig) -> Work:
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
    model = network.model.requires_grad_(True)
    images, labels = data.test[: config.batch_size]
    return Work(network.description["model"], network.description["activation"], model, images, labels)


def prepare(config: DictConfig) -> torch.device:
    """Check the settings, fix the threads and return the device.

    Raises:
        ValueError: for fewer than one round or thread.
    """
    if config.rounds < 1 or config.threads < 1:
        raise ValueError(f"Expected `rounds` and `threads` >= 1, got {config.rounds} and {config.threads}.")
    torch.set_num_threads(config.threads)
    kind = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
    return torch.device("cpu" if kind == "auto" else kind)


def device_name(device: torch.device) -> str:
    """Return what rows call a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def run(config: DictConfig) -> None:
    """Measure every model and activation; print a table, write `benchmark.json`."""
    device = prepare(config)
    works = (
        (_built(name, activation, config) for name in config.models for activation in config.activations)
        if config.checkpoint is None
        else iter([_trained(config)])
    )
    rows = [row for work in works for row in _rows(work, config, device)]
    write_json(Path(config.output), {"torch": torch.__version__, "threads": config.threads, "rows": rows})
    _print(rows)


def _rows(work: Work, config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = work.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    images, labels = work.images.to(device=device, memory_format=layout), work.labels.to(device)
    steps = training_steps(model, images, labels, config, list(config.bounds))
    seconds = measure(steps, config.rounds, device)
    return [
        {
            "model": work.name,
            "activation": work.activation,
            "bound": bound,
            "iterations": 0 if bound == PLAIN else config.iterations,
            "batch_size": config.batch_size,
            "device": device_name(device),
            "seconds": seconds[bound],
            "ratio_to_plain": seconds[bound] / seconds[PLAIN],
            "peak_memory_mb": peak_memory_of(step, device),
        }
        for bound, step in steps.items()
    ]


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("model", "activation", "bound", "iterations", "batch_size", "device")
    table = Table(title="seconds of a training step: medians of interleaved rounds")
    for column in (*columns, "seconds", "ratio_to_plain", "peak_memory_mb"):
        table.add_column(column, overflow="fold")
    for row in rows:
        memory = "-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}"
        table.add_row(
            *(str(row[column]) for column in columns), f"{row['seconds']:.4f}", f"{row['ratio_to_plain']:.2f}", memory
        )
    Console().print(table)
