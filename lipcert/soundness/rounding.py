"""Executed logits against those of float64 at attacked points: they differ by no more than certificates allow for."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, logit_rounding
from lipcert.certificates import Float64Model
from lipcert.certificates.float64 import executed_dtype
from lipcert.soundness.attacked import Certified

BATCH_SIZE = 32


@dataclass(frozen=True)
class RoundingOutcome:
    """Outcome: `points` of certified images at which every logit less the label's was computed in both precisions.

    Attributes:
        points: how many.
        above: those where the difference exceeds the rounding of the certificate, or of the pair of classes.
        largest_error: of z_j - z_y.
        largest_share: of the certificate's rounding that was reached; largest_pair_share: of the pair's own.
        seconds: for all points.
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
def allowed_rounding(model: nn.Module, certified: Certified) -> Tensor:
    """Return how far executed z_j - z_y may be from exact ones all over each ball, (N, K) float64."""
    network = Float64Model(model)
    arithmetic = Arithmetic.of(network.dtype, certified.images.dtype)
    parts = []
    for first in range(0, len(certified), BATCH_SIZE):
        part = certified.part(first, BATCH_SIZE)
        analysis = network.analyze(part.images, part.epsilon, Bound.GLOBAL, arithmetic=arithmetic)
        parts.append(logit_rounding(analysis, part.labels))
    return torch.cat(parts)


@torch.no_grad()
def _errors(model: nn.Module, double: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return |(z_j - z_y) as executed less that of float64|, (N, K)."""
    parts = []
    for some, its_labels in zip(points.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        difference = model(some.to(executed_dtype(model))).double() - double(some.double())
        parts.append((difference - difference.gather(1, its_labels.unsqueeze(1))).abs())
    return torch.cat(parts)


def compare_rounding(model: nn.Module, certified: Certified, attacked: list[Tensor]) -> RoundingOutcome:
    """Compare both precisions at the points of each attack, and at the images themselves.

    The certificate states the rounding of the class that decides its margin, which is that of the others within a
    factor near 1; each pair's own is computed here anew.

    Args:
        model: in eval mode, on the device of the images.
        certified: at least one image.
        attacked: points, (N, C, H, W) each.
    """
    started = time.perf_counter()
    allowed = allowed_rounding(model, certified)
    of_certificates = certified.rounding.to(allowed.device)
    double = copy.deepcopy(model).double()
    shares, pair_shares, sentences, largest = [0.0], [0.0], [], 0.0
    for points in (certified.images, *attacked):
        errors = _errors(model, double, points, certified.labels)
        worst = errors.amax(dim=1)
        above = ~(worst <= of_certificates) | ~(errors <= allowed).all(dim=1)
        largest = max(largest, worst.max().item())
        shares.append((worst / of_certificates).nan_to_num().max().item())
        pair_shares.append((errors / allowed).nan_to_num().max().item())  # 0 / 0 for the label itself
        sentences += [
            f"image {int(certified.indices[row])}: executed logits differ from those of float64 by "
            f"{worst[row].item():.6g}, the certificate allows for {of_certificates[row].item():.6g}"
            for row in above.nonzero()[:, 0].tolist()
        ]
    return RoundingOutcome(
        points=len(certified) * (1 + len(attacked)),
        above=len(sentences),
        largest_error=largest,
        largest_share=max(shares),
        largest_pair_share=max(pair_shares),
        seconds=time.perf_counter() - started,
        refutations=tuple(sentences),
    )
