"""The same network in float64 has less rounding to cover: it must not be refused what is certified in float32."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lipcert.certificates import STAGES, Certifier, Float64Model, Stage, certify_batches
from lipcert.norms import UpperNorms
from lipcert.soundness.attacked import Certified


@dataclass(frozen=True)
class PrecisionOutcome:
    """Outcome: images `certified` as executed, and how many are `refused` in float64, with the same start vectors."""

    certified: int
    refused: int
    seconds: float
    refutations: tuple[str, ...]


def _certified(model: nn.Module, images: Tensor, part: Certified, stage: Stage, seed: int) -> Tensor:
    """Return which images a stage certifies with start vectors from `seed`, (N,) bool."""
    network = Float64Model(model, UpperNorms(generator=np.random.default_rng(seed)))
    certifier = Certifier(network, stage.bound, stage.lanczos_steps)
    return certify_batches(certifier, images, part.labels, part.epsilon).certified


def compare_precisions(model: nn.Module, certified: Certified, stages: Tensor, seed: int) -> PrecisionOutcome:
    """Certify images again in both precisions, each by the stage of the cascade that certified it.

    Start vectors are the same in both, so that chance decides nothing.

    Args:
        model: in eval mode, on the device of the images.
        certified: at least one image.
        stages: index of each image's stage, (N,).
        seed: of the start vectors.
    """
    started = time.perf_counter()
    double_model = copy.deepcopy(model).double()
    both: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, stage in enumerate(STAGES):
        rows = (stages == number).nonzero()[:, 0]
        if len(rows):
            part = certified.rows(rows)
            executed = _certified(model, part.images, part, stage, seed)
            exact = _certified(double_model, part.images.double(), part, stage, seed)
            both.append((part.indices, executed, exact))
    indices, single, double = (torch.cat(each) for each in zip(*both, strict=True))
    refused = indices[single & ~double].tolist()
    return PrecisionOutcome(
        certified=int(single.sum()),
        refused=len(refused),
        seconds=time.perf_counter() - started,
        refutations=tuple(f"image {index}: certified as executed, but refused in float64" for index in refused),
    )
