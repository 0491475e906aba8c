"""How many images to bound at a time: what memory is free, and what one image needs of it."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from lipcert.bounds.margins import LARGEST_CHUNK
from lipcert.graph import Add, Affine, compile_graph
from lipcert.norms.upper import EXACT_SIDE
from lipcert.system.memory import free_memory

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

LARGEST_BATCH = {"cpu": 32, "cuda": 256}
"""Larger batches save no time: float64 convolutions leave the caches of a CPU, and fill a GPU."""

USABLE = 0.8
"""Share of the free memory that is used, unless `memory_gb` says how much."""

DOUBLE = 8
"""Bytes of a number; bounds are computed in float64."""

RETAINED = 8
"""Tensors of a layer's size that an analysis keeps for each layer: boxes before and after, center, masks."""

TRANSIENT = 8
"""Tensors of the largest layer's size that Lanczos holds at a time."""

COLUMNS = 2
"""Unfolded inputs of a convolution that exist at a time, for the map and for its adjoint."""

MARGINS = 14
"""Tensors of a layer's size that exist at a time where a margin is bounded; there it is one class after another."""

DENSE = 3
"""Matrices (smallest, largest layer) that exist at a time where a norm is exact."""


def bytes_per_image(model: nn.Module, image_shape: Sequence[int], separate: bool = True) -> int:
    """Return about how many bytes bounding one image needs, from the shapes of the model's graph.

    `separate`: margins are summed over all layers (`liplt`, `linear_split`) rather than taken at the last one alone.

    Raises:
        UnsupportedLayerError: naming a layer without a sound rule.
    """
    nodes = compile_graph(model, image_shape).nodes
    sizes = [math.prod(node.shape) for node in nodes if not isinstance(node, Add)]
    columns = [
        node.input_shape[0] * math.prod(node.layer.kernel_size) * math.prod(node.shape[1:])
        for node in nodes
        if isinstance(node, Affine) and isinstance(node.layer, nn.Conv2d)
    ]
    features = math.prod(nodes[nodes[-1].sources[0]].shape)
    largest = max(sizes)
    iterated = TRANSIENT * largest + COLUMNS * max(columns, default=0)
    compared = MARGINS * (largest if separate else min(sizes[-1] * features, max(LARGEST_CHUNK.values())))
    exact = DENSE * max((size for size in sizes if size <= EXACT_SIDE), default=0) * largest
    return DOUBLE * (RETAINED * sum(sizes) + max(iterated, compared, exact))


def _usable(device: torch.device, memory_gb: float | None) -> float:
    """Return the bytes that bounds may take; infinity where nobody knows."""
    if memory_gb is not None:
        if not 0 < memory_gb < math.inf:
            raise ValueError(f"Expected `memory_gb` > 0 and finite, got {memory_gb}.")
        return memory_gb * 2**30
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return math.inf if free is None else free * USABLE


def choose_batch_size(
    model: nn.Module,
    image_shape: Sequence[int],
    device: torch.device,
    batch_size: int | None = None,
    memory_gb: float | None = None,
    separate: bool = True,
) -> int:
    """Return how many images to bound at a time: `batch_size` if given, else what fits and is fast.

    Args:
        model: in eval mode, on any device.
        image_shape: (channels, height, width).
        device: where the bounds are computed.
        batch_size: >= 1, None to choose.
        memory_gb: GiB that bounds may take, None for most of what is free.
        separate: see `bytes_per_image`.

    Raises:
        ValueError: for settings out of range, or if not even one image fits.
        UnsupportedLayerError: as in `bytes_per_image`.
    """
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` >= 1, got {batch_size}.")
        return batch_size
    usable = _usable(device, memory_gb)
    weights = 2 * DOUBLE * sum(tensor.numel() for tensor in model.parameters())  # a float64 copy, and squares of it
    needed = bytes_per_image(model, image_shape, separate)
    largest = LARGEST_BATCH[device.type]
    fitting = largest if usable == math.inf else int((usable - weights) // needed)
    if fitting < 1:
        raise ValueError(
            f"The bounds of one image need about {(weights + needed) / 2**30:.2g} GiB and {usable / 2**30:.2g} GiB are "
            "free; end other programs, or type memory_gb=NUMBER or batch_size=1 if you know of more."
        )
    return min(fitting, largest)


def within_memory(work: Callable[[int], Value], batch_size: int) -> Value:
    """Return `work(batch_size)`, done anew with half as many images at a time wherever a device's memory is too small.

    Raises:
        torch.OutOfMemoryError: where it is too small for one image.
    """
    while True:
        try:
            return work(batch_size)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        batch_size //= 2
        logger.warning("The device's memory is too small: going on with %d images at a time.", batch_size)
        torch.cuda.empty_cache()
