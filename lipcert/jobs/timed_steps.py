"""What benchmarks time: training steps of random and of trained networks, against plain ones."""

import itertools
from collections.abc import Iterator
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

Steps = Iterator[Any]
"""Steps without end: `next` takes one."""


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
            if config.skip and number % SKIP_EVERY == 0:
                plan = measure_plan(graph, images, config.epsilon, bound, norms)
            setting = Setting(config.epsilon, 0.5, Bound(bound), norms, Sparsity(), False, plan, not config.skip, graph)
            yield method(model, images, labels, setting).loss.backward()

    def served() -> Iterator[tuple[Tensor, Tensor]]:
        order = ShuffledBatches(len(work.split), config.batch_size)
        for epoch in itertools.count():
            order.set_epoch(epoch)
            yield from (work.split[chosen] for chosen in order)

    steps = {PLAIN: plain(), **{bound: robust(bound) for bound in config.bounds}}
    if not work.fetches:
        return steps
    starts = (next(served()) for _ in itertools.count())
    return {START_UP: starts, **{name: zip(served(), each, strict=True) for name, each in steps.items()}}
