"""The same network in float64 has less rounding to cover: it must not be refused what is certified in float32."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lipcert.certificates import STAGES, Certifier
from lipcert.soundness.attacked import Certified

BATCH_SIZE = 32


@dataclass(frozen=True)
class PrecisionFound:
    """Outcome: images `certified` as executed, and how many are `refused` in float64, with the same start vectors."""

    certified: int
    refused: int
    seconds: float
    refutations: tuple[str, ...]


def _certified(certifier: Certifier, part: Certified, seed: int, double: bool) -> Tensor:
    """Return which images are certified with start vectors from `seed`, (N,) bool."""
    certifier.norms.generator = np.random.default_rng(seed)
    images = part.images.double() if double else part.images
    batches = zip(images.split(BATCH_SIZE), part.labels.split(BATCH_SIZE), strict=True)
    return torch.cat([certifier(*batch, part.epsilon).certified for batch in batches])


def compare_precisions(model: nn.Module, certified: Certified, stages: Tensor, seed: int) -> PrecisionFound:
    """Certify images again in both precisions, each by the stage of the cascade that certified it.

    Start vectors are the same in both, so that chance decides nothing.

    Args:
        model: in eval mode, on the device of the images.
        certified: at least one image.
        stages: index of each image's stage, (N,).
        seed: of the start vectors.
    """
    started = time.perf_counter()
    executed, exact = Certifier(model), Certifier(copy.deepcopy(model).double())
    both: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, stage in enumerate(STAGES):
        rows = (stages == number).nonzero()[:, 0]
        if not len(rows):
            continue
        for certifier in (executed, exact):
            certifier.bound, certifier.norms.steps = stage.bound, stage.lanczos_steps
        part = certified.rows(rows)
        both.append(
            (part.indices, _certified(executed, part, seed, double=False), _certified(exact, part, seed, double=True))
        )
    indices, single, double = (torch.cat(each) for each in zip(*both, strict=True))
    refused = indices[single & ~double].tolist()
    return PrecisionFound(
        certified=int(single.sum()),
        refused=len(refused),
        seconds=time.perf_counter() - started,
        refutations=tuple(f"image {index}: certified as executed, but refused in float64" for index in refused),
    )
