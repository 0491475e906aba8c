"""The network as executed against the same in float64: its logits differ by no more than certificates allow for, and
less rounding to cover refuses nothing that was certified.
"""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, logit_rounding
from lipcert.certificates import STAGES, Certifier, Float64Model, Stage, certify_batches
from lipcert.norms import UpperNorms
from lipcert.soundness.attacked import Certified

BATCH_SIZE = 32


@dataclass(frozen=True)
class RoundingOutcome:
    """Outcome: `points` of certified images at which every logit less the label's was computed in both precisions.

    Attributes:
        above: those where the difference exceeds the rounding of the certificate, or of the pair of classes.
        largest_error: of z_j - z_y.
        largest_share: of the certificate's rounding that was reached; largest_pair_share: of the pair's own.
        refutations: a sentence for each point above.
    """

    points: int
    above: int
    largest_error: float
    largest_share: float
    largest_pair_share: float
    seconds: float
    refutations: tuple[str, ...]


@torch.no_grad()
def compare_rounding(model: nn.Module, certified: Certified, attacked: list[Tensor]) -> RoundingOutcome:
    """Compare executed logits with those of float64 at the points of each attack, (N, C, H, W), and at the images.

    The certificate states the rounding of the class that decides its margin, which is that of the others within a
    factor near 1; each pair's own is computed here anew. The model is in eval mode, on the images' device.
    """
    started = time.perf_counter()
    network = Float64Model(model)
    arithmetic = Arithmetic.of(network.dtype, certified.images.dtype)
    of_batches = zip(*(each.split(BATCH_SIZE) for each in (certified.images, *attacked)), strict=True)
    of_pairs, errors = [], []
    for part, reached in zip(certified.batches(BATCH_SIZE), of_batches, strict=True):
        analysis = network.analyze(part.images, part.epsilon, Bound.GLOBAL, arithmetic=arithmetic)
        of_pairs.append(logit_rounding(analysis, part.labels).unsqueeze(1))
        errors.append(torch.stack([_errors(network, model, points, part.labels) for points in reached], dim=1))
    allowed, error, of_certificates = torch.cat(of_pairs), torch.cat(errors), certified.rounding.unsqueeze(1)
    worst = error.amax(dim=2)  # (N, points)
    above = (~(worst <= of_certificates) | ~(error <= allowed).all(dim=2)).nonzero().tolist()
    return RoundingOutcome(
        points=worst.numel(),
        above=len(above),
        largest_error=worst.max().item(),
        largest_share=(worst / of_certificates).nan_to_num().max().item(),
        largest_pair_share=(error / allowed).nan_to_num().max().item(),  # 0 / 0 for the label itself
        seconds=time.perf_counter() - started,
        refutations=tuple(
            f"image {int(certified.indices[row])}: executed logits differ from those of float64 by "
            f"{worst[row, place].item():.6g}, the certificate allows for {of_certificates[row].item():.6g}"
            for row, place in above
        ),
    )


def _errors(network: Float64Model, model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return |(z_j - z_y) as executed less that of float64|, (B, K)."""
    difference = model(points.to(network.dtype)).double() - network.model(points.double())
    return (difference - difference.gather(1, labels.unsqueeze(1))).abs()


@dataclass(frozen=True)
class PrecisionOutcome:
    """Outcome: images `certified` as executed, and how many are `refused` in float64, with the same start vectors."""

    certified: int
    refused: int
    seconds: float
    refutations: tuple[str, ...]


def compare_precisions(model: nn.Module, certified: Certified, stages: Tensor, seed: int) -> PrecisionOutcome:
    """Certify images again in both precisions, each by the stage of the cascade that certified it, `stages`, (N,).

    Start vectors are the same in both, of `seed`, so that chance decides nothing.
    """
    started, double = time.perf_counter(), copy.deepcopy(model).double()
    again, refused = 0, list[int]()
    for number, stage in enumerate(STAGES):
        part = certified.rows(stages == number)
        if len(part):
            executed = _certified(model, part.images, part, stage, seed)
            exact = _certified(double, part.images.double(), part, stage, seed)
            again += int(executed.sum())
            refused += part.indices[executed & ~exact].tolist()
    return PrecisionOutcome(
        certified=again,
        refused=len(refused),
        seconds=time.perf_counter() - started,
        refutations=tuple(f"image {index}: certified as executed, but refused in float64" for index in refused),
    )


def _certified(model: nn.Module, images: Tensor, part: Certified, stage: Stage, seed: int) -> Tensor:
    """Return which images a stage certifies with start vectors from `seed`, (N,) bool."""
    network = Float64Model(model, UpperNorms(generator=np.random.default_rng(seed)))
    certifier = Certifier(network, stage.bound, stage.lanczos_steps, effort=stage.effort)
    return certify_batches(certifier, images, part.labels, part.epsilon).certified
