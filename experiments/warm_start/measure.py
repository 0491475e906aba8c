"""How close norm estimates come that start in different ways, and what a training step then takes.

One network is trained. At every step each kind of warm start and number of iterations estimates the norms of the same
masked maps, from vectors that it carried along itself; only `shared` with two iterations trains. At some steps the
estimates are compared with norms in float64 after many Lanczos steps.

OMP_NUM_THREADS=1 python experiments/warm_start/measure.py --small CKPT --4c3f CKPT --output measure.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, PowerNorms, WarmStart, analyze
from lipcert.bounds.lanczos import norm_bracket
from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.warm_start import KINDS, MapsMet
from lipcert.checkpoints import load_network
from lipcert.commands import write_json
from lipcert.data.arrays import Split
from lipcert.data.sources import load_images
from lipcert.losses import BCP, GloRo, Setting, Sparsity
from lipcert.losses.objective import Method
from lipcert.nn import build
from lipcert.nn.architectures import project_thresholds
from lipcert.training.schedules import Schedule

Estimator = tuple[str, int]

ITERATIONS = (1, 2, 5)
ESTIMATORS: list[Estimator] = [(kind, iterations) for kind in KINDS for iterations in ITERATIONS]
REFERENCE: Estimator = ("shared", 2)
BATCH = 64
SHAPE = (1, 28, 28)
LANCZOS_STEPS = 80
COMPARED = 16
"""Images of a batch that are compared with exact norms."""


@dataclass
class Compared:
    """Norms that ask every estimator about the same masked maps, and answer with the reference."""

    estimators: dict[Estimator, PowerNorms]
    numbers: Tensor
    masks: dict[str, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)
    norms: dict[str, dict[Estimator, Tensor]] = field(default_factory=dict)

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        return {key: each.whole(name, linear_map, like) for key, each in self.estimators.items()}[REFERENCE]

    def masked(
        self, name: str, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, like: Tensor
    ) -> Tensor:
        found = {
            key: each.masked(name, linear_map, rows, columns, like, self.numbers)
            for key, each in self.estimators.items()
        }
        self.masks[name] = rows, columns
        self.norms[name] = {key: norm.detach().double() for key, norm in found.items()}
        return found[REFERENCE]


@dataclass
class Ratios:
    """Ratios of estimate to norm, (layers, images), and the widest bracket around a norm, relative."""

    layers: dict[Estimator, list[Tensor]] = field(default_factory=dict)
    gap: float = 0.0

    def add(self, model: nn.Module, images: Tensor, epsilon: float, compared: Compared) -> None:
        """Compare the first images of a batch."""
        double, images = copy.deepcopy(model).double(), images[:COMPARED].double()
        met = MapsMet(PowerNorms(1, "float32"))
        with torch.no_grad():
            analyze(double, images[:1], epsilon, Bound.LOCAL, met)
        found: dict[Estimator, list[Tensor]] = {key: [] for key in ESTIMATORS}
        for name, norms in compared.norms.items():
            rows, columns = (None if mask is None else mask[:COMPARED].double() for mask in compared.masks[name])
            bracket = norm_bracket(met.maps[name], images, LANCZOS_STEPS, 1e-9, rows, columns)
            alive = bracket.lower > 0
            self.gap = max(self.gap, (bracket.upper / bracket.lower)[alive].max().item() - 1)
            for key, norm in norms.items():
                found[key].append(torch.where(alive, norm[:COMPARED] / bracket.lower, 1))
        for key, each in found.items():
            self.layers.setdefault(key, []).append(torch.stack(each))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an estimator."""
        rows = []
        for kind, iterations in ESTIMATORS:
            ratios = torch.cat(self.layers[kind, iterations], dim=1)
            products = ratios.prod(dim=0)
            rows.append(
                {
                    "kind": kind,
                    "iterations": iterations,
                    "images": ratios.shape[1],
                    "mean": ratios.mean().item(),
                    "worst": ratios.min().item(),
                    "layers": ratios.mean(dim=1).tolist(),
                    "product_mean": products.mean().item(),
                    "product_worst": products.min().item(),
                }
            )
        return rows


@dataclass(frozen=True)
class Problem:
    """A network, how it is trained, and when it is compared."""

    name: str
    model: nn.Module
    method: Method
    schedule: Schedule
    images: int
    compare_every: int
    compare_from: int


def norms_of(kind: str, iterations: int, model: nn.Module, images: int) -> PowerNorms:
    """Return an estimator that has seen nothing yet."""
    norms = PowerNorms(iterations, warm_start=WarmStart(kind, images))
    met = MapsMet(norms)
    with torch.no_grad():
        analyze(model, torch.zeros(1, *SHAPE), 1.0, Bound.LOCAL, met)
    norms.warm_start.reserve(met.maps)
    return norms


def batches(split: Split, epochs: int) -> Iterator[tuple[float, Tensor, Tensor, Tensor]]:
    """Yield progress in epochs, images, labels and numbers of the images."""
    for epoch in range(epochs):
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(epoch))
        parts = order.split(BATCH)
        for index, numbers in enumerate(parts):
            yield epoch + index / len(parts), *split[numbers], numbers


def accuracy(problem: Problem, split: Split) -> dict[str, Any]:
    """Train, and return how good the estimates were on the way."""
    model, schedule = problem.model, problem.schedule
    estimators = {key: norms_of(*key, model, problem.images) for key in ESTIMATORS}
    optimizer = torch.optim.Adam(model.parameters())
    ratios = Ratios()
    for step, (progress, images, labels, numbers) in enumerate(batches(split, schedule.epochs)):
        compared = Compared(estimators, numbers)
        epsilon = schedule.epsilon(progress)
        setting = Setting(epsilon, schedule.mixing(progress), Bound.LOCAL, compared, Sparsity())
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(progress)
        optimizer.zero_grad()
        problem.method(model, images, labels, setting).loss.backward()
        if step >= problem.compare_from and (step - problem.compare_from) % problem.compare_every == 0:
            ratios.add(model, images, epsilon, compared)
            say(f"{problem.name} step {step}: {ratios.layers[REFERENCE][-1].prod(dim=0).mean().item():.4f}")
        optimizer.step()
        project_thresholds(model)
    return {
        "compared_steps": len(ratios.layers[REFERENCE]),
        "steps": step + 1,
        "bracket_gap": ratios.gap,
        "rows": ratios.rows(),
        "bytes": {kind: estimators[kind, 1].warm_start.bytes_per_image for kind in KINDS},
        "kept": {kind: estimators[kind, 1].warm_start.kept for kind in KINDS},
    }


def timings(problem: Problem, split: Split, rounds: int) -> list[dict[str, Any]]:
    """Return what a step takes, forward and backward, relative to the reference: medians over interleaved rounds."""
    model, schedule = problem.model, problem.schedule

    def stepper(key: Estimator) -> Callable[[Tensor, Tensor, Tensor], None]:
        norms = norms_of(*key, model, problem.images)

        def step(images: Tensor, labels: Tensor, numbers: Tensor) -> None:
            model.zero_grad(set_to_none=True)
            setting = Setting(schedule.epsilon_train, 0.5, Bound.LOCAL, norms.of(numbers), Sparsity())
            problem.method(model, images, labels, setting).loss.backward()

        return step

    steps = {key: stepper(key) for key in ESTIMATORS}
    seconds: dict[Estimator, list[float]] = {key: [] for key in ESTIMATORS}
    for index, (_, *batch) in zip(range(rounds + 2), batches(split, 1000), strict=False):
        for key, step in steps.items():
            started = time.perf_counter()
            step(*batch)
            if index >= 2:
                seconds[key].append(time.perf_counter() - started)
    return [
        {
            "kind": key[0],
            "iterations": key[1],
            "seconds": statistics.median(each),
            "ratio": statistics.median(a / b for a, b in zip(each, seconds[REFERENCE], strict=True)),
        }
        for key, each in seconds.items()
    ]


def problems(arguments: argparse.Namespace) -> Iterator[Problem]:
    """Yield trained networks whose training goes on, and one that is trained from the start."""
    if arguments.small is not None:
        model = load_network(arguments.small, SHAPE, 10).model.train()
        yield Problem("small, trained", model, GloRo(), _going_on(3), 960, 5, 30)
    if arguments.large is not None:
        model = load_network(arguments.large, SHAPE, 10).model.train()
        yield Problem("4c3f, trained", model, BCP(), _going_on(3), 320, 3, 10)
    torch.manual_seed(0)
    schedule = Schedule(10, 0, 5, 5, 1e-3, 5e-6, 0.55)
    yield Problem("small, training", build("small", SHAPE, 10), GloRo(), schedule, 2000, 16, 40)


def _going_on(epochs: int) -> Schedule:
    """Return the end of a schedule: full epsilon, last learning rate of `same_work`."""
    return Schedule(epochs, 0, 0, 0, 5e-6, 5e-6, 0.55)


def say(message: str) -> None:
    """Write a line of the log."""
    sys.stdout.write(message + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, print and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=Path, help="checkpoint of the small net on Fashion-MNIST")
    parser.add_argument("--4c3f", dest="large", type=Path, help="checkpoint of 4C3F on Fashion-MNIST")
    parser.add_argument("--rounds", type=int, default=8, help="timed rounds; 0 for none")
    parser.add_argument("--output", type=Path, default=Path("measure.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"torch": torch.__version__, "threads": 1, "load": os.getloadavg()[0], "networks": {}}
    report["lanczos_steps"], report["batch"] = LANCZOS_STEPS, BATCH
    split = load_images("fashionmnist").train
    for problem in problems(arguments):
        some = split.first(problem.images)
        measured = accuracy(problem, some)
        measured["timings"] = timings(problem, some, arguments.rounds) if arguments.rounds else []
        report["networks"][problem.name] = measured
        for row in measured["rows"] + measured["timings"]:
            say(json.dumps(row))
        write_json(arguments.output, report)


if __name__ == "__main__":
    main()
