"""What benchmarks time: training steps of random and of trained networks, against plain ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from lipcert.bounds import Bound, Plan, measure_plan
from lipcert.checkpoints import load_network, read_checkpoint
from lipcert.data import ImageDataModule, Split
from lipcert.data.batches import ShuffledBatches
from lipcert.graph import compile_graph
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.nn import ClippedMaxMin, ClippedReLU, build
from lipcert.norms import PowerNorms

PLAIN = "plain"

SKIP_EVERY = 20
"""Steps between two measurements of what is skipped, as in training."""

START_UP = "start_up"
"""Instead of a bound: from the images in memory to the first batch of an epoch."""

Step = Callable[[], None]


@dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
        named: how rows begin.
        model: the network.
        split: images that it trains on.
        fetches: whether steps fetch batches, or repeat the first one.
    """

    named: dict[str, Any]
    model: nn.Module
    split: Split
    fetches: bool = False


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


def random_work(
    named: dict[str, Any],
    config: DictConfig,
    *,
    image_shape: Sequence[int] | None = None,
    classes: int | None = None,
    width: float = 1.0,
    images: int | None = None,
) -> Work:
    """Return a random network whose thresholds clip half of what reaches them, on random 8-bit images.

    Args:
        named: how rows begin; it names model and activation.
        config: sizes that are not given.
        image_shape, classes, width: of the network and its images.
        images: a training set of so many, of which each step fetches a batch; a single batch when None.
    """
    torch.manual_seed(0)
    shape, count = tuple(image_shape or config.image_shape), classes or config.num_classes
    model = build(named["model"], shape, count, named["activation"], width=width)
    pixels = torch.randint(256, (images or config.batch_size, *shape), dtype=torch.uint8)
    split = Split(pixels, torch.randint(count, (len(pixels),)))
    clip_half(model, split[: config.batch_size][0])
    return Work(named, model, split, fetches=images is not None)


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


def steps_of(work: Work, config: DictConfig, device: torch.device) -> dict[str, Step]:
    """Return one function a kind of step on the first batch: forward, loss, backward."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = work.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    images, labels = work.split[: config.batch_size]
    images, labels = images.to(device=device, memory_format=layout), labels.to(device)

    def plain() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()

    def robust(bound: str) -> Step:
        norms = PowerNorms(config.iterations, config.precision).to(device)
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

    steps = {PLAIN: plain, **{bound: robust(bound) for bound in config.bounds}}
    return _with_data(steps, work.split, config.batch_size) if work.fetches else steps


def _with_data(steps: dict[str, Step], split: Split, batch_size: int) -> dict[str, Step]:
    """Return steps that fetch a batch first, and the start of an epoch as one of them."""

    def served() -> Iterator[tuple[Tensor, Tensor]]:
        order = ShuffledBatches(len(split), batch_size)
        for epoch in itertools.count():
            order.set_epoch(epoch)
            yield from (split[chosen] for chosen in order)

    batches = served()

    def start() -> None:
        next(served())

    def fetching(step: Step) -> Step:
        def fetch_and_step() -> None:
            next(batches)
            step()

        return fetch_and_step

    return {START_UP: start, **{name: fetching(step) for name, step in steps.items()}}
