"""What sound certification costs and loses: against 2,000 power iterations, and against exact norms.

python experiments/certification/measure.py CHECKPOINT --epsilon 0.5 --images 1000 --power-images 100
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, UpperNorms, analyze
from lipcert.bounds.bracket import Bracket
from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.power import power_iteration
from lipcert.certificates import Cascade, Certifier
from lipcert.certificates.certify import Certificate, join
from lipcert.checkpoints import load_network
from lipcert.commands import write_json
from lipcert.data.sources import load_images

POWER_STEPS = 2000
BATCH = 32


class LowerNorms(UpperNorms):
    """Lower ends of the brackets in place of the upper ones: what they certify includes all that exact norms would."""

    def _bound(self, *arguments: object, **keywords: object) -> Bracket:
        lower = super()._bound(*arguments, **keywords).lower  # type: ignore[arg-type]
        return Bracket(lower, lower)


class PowerIteration(UpperNorms):
    """2,000 power iterations from a random start in float32, as the literature certifies; the seconds are counted."""

    seconds = 0.0

    def masked(
        self, name: str, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, like: Tensor
    ) -> Tensor:
        masked = linear_map.restricted(rows, columns)
        start = torch.randn(like.shape[0], *linear_map.output_shape)
        started = time.perf_counter()
        right = power_iteration(masked, start if rows is None else start * rows, POWER_STEPS)
        norm = masked.apply(right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
        self.seconds += time.perf_counter() - started
        return norm

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        return torch.full((1,), torch.inf)


def power_seconds(model: nn.Module, images: Tensor, epsilon: float) -> float:
    """Return the seconds that power iteration takes on the masked operators of the bound `tight`."""
    norms = PowerIteration()
    with torch.no_grad():
        for batch in images.split(BATCH):
            analyze(model, batch, epsilon, Bound.TIGHT, norms)
    return norms.seconds


def _as_numbers(certificate: Certificate, labels: Tensor) -> Tensor:
    """Return which images are certified for the network with its weights taken as real numbers, (N,)."""
    return (certificate.margin + certificate.rounding > 0) & certificate.correct(labels)


def main() -> None:
    """Measure, print and write `measure.json` beside the checkpoint's record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--power-images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("measure.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_images("fashionmnist")
    images, labels = data.test[: arguments.images]
    network = load_network(arguments.checkpoint, tuple(images.shape[1:]), data.num_classes)
    model, epsilon = network.model, arguments.epsilon

    some = images[: arguments.power_images]
    power = power_seconds(model, some, epsilon)
    one_bound = Certifier(model, Bound.TIGHT, arithmetic="exact")
    started = time.perf_counter()
    join(
        [one_bound(*batch, epsilon) for batch in zip(some.split(BATCH), labels[: len(some)].split(BATCH), strict=True)]
    )
    tight = time.perf_counter() - started

    cascade = Cascade(model)
    started = time.perf_counter()
    certificate = join(
        [cascade(*batch, epsilon) for batch in zip(images.split(BATCH), labels.split(BATCH), strict=True)]
    )
    seconds = time.perf_counter() - started

    undecided = (certificate.correct(labels) & ~certificate.certified).nonzero()[:, 0]
    optimist = Certifier(model, Bound.LIPLT if cascade.tallies[-1].improved else Bound.TIGHT)
    optimist.norms = LowerNorms(steps=200, whole_steps=300)
    best = join([optimist(images[rows], labels[rows], epsilon) for rows in undecided.split(BATCH)])
    count = len(labels)
    report = {
        "checkpoint": str(arguments.checkpoint),
        "epsilon": epsilon,
        "threads": arguments.threads,
        "images": len(labels),
        "clean_accuracy": certificate.correct(labels).double().mean().item(),
        "failure_probability": certificate.failure_probability,
        "certified_executed": certificate.certified_accuracy,
        "certified_executed_by_exact_norms_at_most": (int(certificate.certified.sum()) + int(best.certified.sum()))
        / count,
        "certified_exact": int(_as_numbers(certificate, labels).sum()) / count,
        "certified_exact_by_exact_norms_at_most": (
            int(certificate.certified.sum()) + int(_as_numbers(best, labels[undecided]).sum())
        )
        / count,
        "cascade_seconds": seconds,
        "cascade_seconds_per_image": seconds / len(labels),
        "stages": {stage.name: vars(tally) for stage, tally in zip(cascade.stages, cascade.tallies, strict=True)},
        "power_images": len(some),
        "power_iteration_seconds_per_image": power / len(some),
        "tight_seconds_per_image": tight / len(some),
        "power_to_cascade": (power / len(some)) / (seconds / len(labels)),
        "power_to_tight": power / tight,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    write_json(arguments.output, report)


if __name__ == "__main__":
    main()
