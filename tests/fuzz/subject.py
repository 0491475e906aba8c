"""A drawn case at work: the network as executed, its float64 reference, points that are met, what was tried."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from lipcert.certificates.float64 import Float64Model
from lipcert.norms import UpperNorms
from tests.fuzz.attack import Region, stretching_points, worst_points
from tests.fuzz.execution import ONE_THREAD, TWO_THREADS, Executed, smallest_margins
from tests.fuzz.networks import Case

Value = TypeVar("Value")

FLOAT64_SHARE = {torch.float32: 1e-8, torch.float64: 1.0}
"""Of the bound on a network's rounding: what float64 loses in the reference, with room."""


class RefutedError(AssertionError):
    """Something that was met lies beyond a bound."""


def refute(name: str, wrong: Tensor, stated: Tensor, met: Tensor) -> None:
    """Raise RefutedError where anything is `wrong`."""
    if bool(wrong.any()):
        raise RefutedError(f"{name}: stated {stated.tolist()}, met {met.tolist()}")


@dataclass
class Tally:
    """What was tried.

    Attributes:
        nets, images, points: networks, images of them, points at which they were executed.
        certificates, certified: rows of certificates that were compared, and how many of them certify.
        refused: networks for which bounds are refused by name.
        rounding: largest share of a bound on rounding that was met.
    """

    nets: int = 0
    images: int = 0
    points: int = 0
    certificates: int = 0
    certified: int = 0
    refused: int = 0
    rounding: float = 0.0

    def add(self, other: Tally) -> None:
        """Add the other's counts."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(mine, theirs) if field.name == "rounding" else mine + theirs)

    def __str__(self) -> str:
        return (
            f"{self.nets} nets ({self.refused} refused), {self.images} images, {self.points} attack points, "
            f"{self.certificates} certificates ({self.certified} certified), "
            f"at most {self.rounding:.2f} of a bound on rounding met"
        )


class Subject:
    """A case at work.

    Attributes:
        case: as drawn.
        tally: what was tried of it.
        network: what bounds are computed of, with norms by so many `steps` of Lanczos.
        executed: the network as executed.
        reference: the network in float64, as `images` are.
        share: of a bound on the network's rounding, what float64 loses.
    """

    def __init__(self, case: Case, tally: Tally) -> None:
        self.case, self.tally = case, tally
        self.generator = torch.Generator().manual_seed(case.seed)
        self.steps = 10 if case.lanczos else 40
        self.network = Float64Model(case.model, UpperNorms(self.steps))
        self.executed = Executed(case.model)
        self.reference = copy.deepcopy(case.model).double().requires_grad_(False)
        self.images = case.images.double()
        self.share = FLOAT64_SHARE[self.executed.dtype]

    def some(self, values: Sequence[Value], count: int) -> list[Value]:
        """Return so many of the values, at random."""
        return [values[place] for place in torch.randperm(len(values), generator=self.generator)[:count].tolist()]

    def labels(self, points: Tensor) -> Tensor:
        """Return the label of every point (P, N, ...), (P, N)."""
        return self.case.labels.expand(points.shape[:2])

    def region(self, radii: Tensor) -> Region:
        """Return the points within `radii`, (N,), of the images."""
        return Region(self.images, radii, self.case.clip_input)

    @torch.no_grad()
    def logits(self, points: Tensor) -> Tensor:
        """Return the reference's logits, (P, N, K), at points (P, N, ...)."""
        found: Tensor = self.reference(points.flatten(0, 1))
        return found.unflatten(0, points.shape[:2])

    def distances(self) -> Tensor:
        """Return about how far another class is from each image, (N,); three times the case's scale where none is."""
        far = torch.full((len(self.images),), 3 * self.case.scale, dtype=torch.float64)
        changes = worst_points(self.reference, self.region(far), self.case.labels, self.generator) - self.images
        nearest = torch.full_like(far, torch.inf)
        for share in torch.linspace(0, 1, 33, dtype=torch.float64)[1:].tolist():
            margins = smallest_margins(self.logits(self.images + share * changes), self.labels(changes))
            lengths = share * changes.flatten(2).norm(dim=2)
            nearest = torch.minimum(nearest, torch.where(margins <= 0, lengths, torch.inf).amin(dim=0))
        return torch.where(nearest.isfinite() & (nearest > 0), nearest, far)

    def attacked(self, region: Region) -> Tensor:
        """Return points of the region, (P, N, ...), the images first: where margins are least, where logits and
        neurons move farthest, and others."""
        found = [
            self.images[None],
            worst_points(self.reference, region, self.case.labels, self.generator),
            stretching_points(self.reference, region, self.generator),
            self._moving_neurons(region),
            region.sphere(self.generator)[None],
        ]
        points = torch.cat(found)
        self.tally.points += points.shape[0] * points.shape[1]
        return points

    def _moving_neurons(self, region: Region, count: int = 3) -> Tensor:
        """Return points at which a few neurons before every activation are largest and smallest, (P, N, ...)."""
        found = [self.images]
        points = region.images.clone().requires_grad_(True)
        with self.inputs() as met:
            self.reference(points)
        for values in met.values():
            flat = values.flatten(1)
            for neuron in torch.randint(flat.shape[1], (count,), generator=self.generator).tolist():
                (gradient,) = torch.autograd.grad(flat[:, neuron].sum(), points, retain_graph=True)
                found += [region.farthest(gradient), region.farthest(-gradient)]
        return torch.stack(found)

    @contextmanager
    def inputs(self) -> Iterator[dict[str, Tensor]]:
        """Collect what reaches every activation of the reference, by its name."""
        met: dict[str, Tensor] = {}

        def collect(name: str, layer: nn.Module, inputs: tuple[Tensor]) -> None:
            met[name] = inputs[0]

        layers = dict(self.reference.named_modules())
        names = [node.name for node in self.network.graph(self.images.shape[1:]).activations]
        handles = [layers[name].register_forward_pre_hook(partial(collect, name)) for name in names]
        try:
            yield met
        finally:
            for handle in handles:
                handle.remove()

    def least_exact(self, points: Tensor) -> Tensor:
        """Return the least margin of each image among points (P, N, ...) in float64, (N,)."""
        return smallest_margins(self.logits(points), self.labels(points)).amin(dim=0)

    def least_executed(self, points: Tensor, kept: int = 2, noisy: int = 8, ways: int = 3) -> Tensor:
        """Return the least margin of each image as executed, (N,): at points (P, N, ...), all in one batch; at the
        worst of them, and at others a little nearer to the image, in several ways."""
        logits = self.executed.logits(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        margins = smallest_margins(logits, self.labels(points))
        least = margins.amin(dim=0)
        worst = points[margins.argsort(dim=0)[:kept], torch.arange(points.shape[1])]
        noise = torch.rand(noisy, *worst.shape, generator=self.generator, dtype=torch.float64)
        nearer = self.images + (worst - self.images) * (1 - 1e-6 * noise)
        chosen = torch.cat([worst, *nearer]).flatten(0, 1)  # image after image, over and over
        images = torch.arange(len(chosen)) % points.shape[1]
        for way in (*self.some(ONE_THREAD, ways), *self.some((*TWO_THREADS, *[None] * len(TWO_THREADS)), 1)):
            if way is None:
                continue
            tried = chosen if way.threads == 1 else chosen[: way.batch_size]  # threads that wait for others are dear
            found = smallest_margins(self.executed.run(tried, way), self.case.labels[images[: len(tried)]])
            least = least.scatter_reduce(0, images[: len(tried)], found, "amin")
            self.tally.points += len(tried)
        return least
