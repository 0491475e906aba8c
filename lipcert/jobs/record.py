"""What a record says of its network, its data, its arithmetic and the work it took."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from lipcert.certificates.cascade import Stage
from lipcert.certificates.float64 import executed_dtype
from lipcert.checkpoints import LoadedNetwork
from lipcert.data import Split
from lipcert.records import (
    Arithmetic,
    Batch,
    Data,
    FailureProbability,
    Model,
    NormBracket,
    StageTally,
    data_sha256,
    model_sha256,
)


def describe_model(network: LoadedNetwork) -> Model:
    """Return the network's fingerprint, the dtype it runs in and its description."""
    return Model(model_sha256(network.model), _dtype_name(network.model), network.description)


def describe_data(name: str, split: Split, num_classes: int) -> Data:
    """Return the test images' fingerprint, as the float32 pixels that are certified."""
    return Data(name, "test", len(split), tuple(split.images.shape[1:]), num_classes, data_sha256(*split[:]))


def describe_arithmetic(model: nn.Module) -> Arithmetic:
    """Return which arithmetic the margins cover, in numbers and in a sentence."""
    return Arithmetic.of(_dtype_name(model), torch.finfo(executed_dtype(model)).eps / 2)


def _dtype_name(model: nn.Module) -> str:
    return str(executed_dtype(model)).removeprefix("torch.")


def failure_probability(batches: Sequence[Batch], per_norm: float) -> FailureProbability:
    """Return the probability that any statement of the batches is wrong, by the union bound over their norms."""
    norms = sum(batch.norms_bounded for batch in batches)
    return FailureProbability(per_norm, norms, min(1.0, norms * per_norm))


def stage_tallies(batches: Sequence[Batch], stages: Sequence[Stage]) -> tuple[StageTally, ...]:
    """Return what each stage did over all batches."""
    return tuple(
        StageTally(
            name=stage.name,
            bound=stage.method,
            lanczos_steps=stage.lanczos_steps,
            entered=sum(batch.stages[index].entered for batch in batches),
            certified=sum(batch.stages[index].certified for batch in batches),
            seconds=sum(batch.stages[index].seconds for batch in batches),
        )
        for index, stage in enumerate(stages)
    )


def global_norms(batches: Sequence[Batch]) -> dict[str, NormBracket]:
    """Return the brackets that the latest batch relied on.

    Raises:
        ArithmeticError: naming a layer whose norm has no finite bound.
    """
    norms = batches[-1].norms
    for name, bracket in norms.items():
        if not (math.isfinite(bracket.lower) and math.isfinite(bracket.upper)):
            raise ArithmeticError(f"The norm of layer {name!r} has no finite bound; check its weights.")
    return norms
