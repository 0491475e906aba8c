"""Attacks on certified images: no executed margin may lie below the certified one, let alone below 0."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from lipcert.attacks import AUTO_ATTACKS, PIXELS, auto_attack, pgd, random_search, unbounded, usable_auto_attacks
from lipcert.bounds import robust_margin
from lipcert.certificates.float64 import executed_dtype

ATTACKS = ("pgd", *AUTO_ATTACKS, "random")

INSIDE = 1 - 1e-6
"""Share of epsilon at which is attacked."""

PIXEL_ROUNDING = 2.0**-23
"""How far rounding moves a pixel of an attack at most."""


@dataclass(frozen=True)
class Certified:
    """Images that were certified, (N, C, H, W), with labels, margin and rounding of certificates, and indices, (N,).

    All on one device.
    """

    epsilon: float
    images: Tensor
    labels: Tensor
    margins: Tensor
    rounding: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Tensor | slice) -> Self:
        """Return the images at places `rows`."""
        columns = (self.images, self.labels, self.margins, self.rounding, self.indices)
        return type(self)(self.epsilon, *(each[rows] for each in columns))

    def batches(self, size: int) -> Iterator[Self]:
        """Yield `size` images at a time."""
        return (self.rows(slice(first, first + size)) for first in range(0, len(self), size))


@dataclass(frozen=True)
class Strength:
    """How hard to attack: gradient steps, restarts of PGD, queries of attacks without gradients, images at a time."""

    steps: int
    restarts: int
    queries: int
    batch_size: int
    seed: int

    def attack(self, name: str) -> Callable[..., Tensor]:
        """Return one of `ATTACKS`: takes a network, images, labels, epsilon and `box`, returns points."""
        if name == "pgd":
            return partial(pgd, steps=self.steps, restarts=self.restarts)
        if name == "random":
            return partial(random_search, queries=self.queries, seed=self.seed)
        return partial(auto_attack, name=name, steps=self.steps, queries=self.queries, seed=self.seed)


class Recorder(nn.Module):
    """A network that remembers, for each of some images, the point of its ball with the smallest executed margin.

    It watches all points that an attack asks about, not only those that it returns. A point belongs to the image
    nearest to it; points outside that image's ball are answered, but not remembered. Images are (N, ...), labels (N,),
    all on the device of the model, which is in eval mode.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> None:
        super().__init__()
        self.model, self.dtype = model, executed_dtype(model)
        self.labels, self.epsilon = labels, epsilon
        self.origins = images.flatten(1).double()
        self.points = images.clone()
        self.smallest = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        self.asked, self.inside = 0, 0
        self.eval()

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.model(points.to(self.dtype))
        self._remember(points.detach(), logits.detach())
        return logits

    def _remember(self, points: Tensor, logits: Tensor) -> None:
        flat = points.flatten(1).double()
        nearest = torch.cdist(flat, self.origins).argmin(dim=1)
        inside = (flat - self.origins[nearest]).norm(dim=1) <= self.epsilon
        self.asked += len(points)
        self.inside += int(inside.sum())
        points, logits, nearest = points[inside], logits[inside], nearest[inside]
        margins = robust_margin(logits.double(), self.labels[nearest])
        margins = torch.where(margins.isnan(), -torch.inf, margins)  # no prediction at all
        before = self.smallest
        self.smallest = before.scatter_reduce(0, nearest, margins, "amin")
        better = (margins == self.smallest[nearest]) & (margins < before[nearest])
        self.points[nearest[better]] = points[better].to(self.points.dtype)


@dataclass(frozen=True)
class AttackOutcome:
    """Outcome of one attack.

    Attributes:
        box: whether pixels stayed in [0, 1].
        found: images with a point in the ball whose executed margin is not positive.
        below: those with one whose executed margin is less than the certified one.
        points: at which the network was executed; inside: share of them in the ball, the only ones that count.
        smallest_executed, smallest_certified: margins over all images.
        smallest_room: least executed minus certified margin of an image.
        refutations: a sentence for each image that is refuted.
    """

    attack: str
    box: bool
    attacked: int
    found: int
    below: int
    points: int
    inside: float
    smallest_executed: float
    smallest_certified: float
    smallest_room: float
    seconds: float
    refutations: tuple[str, ...]


def reach(epsilon: float, pixels: int) -> float:
    """Return the radius to attack at, so that rounding of the pixels leads outside of `epsilon` hardly ever."""
    square = (epsilon * INSIDE) ** 2 - pixels * PIXEL_ROUNDING**2
    return max(math.sqrt(max(square, 0)) - 2 * PIXEL_ROUNDING, epsilon / 2)


def attack_certified(
    model: nn.Module, certified: Certified, name: str, box: bool, strength: Strength
) -> tuple[AttackOutcome, Tensor]:
    """Return the outcome of one attack on at least one image, and the points of smallest margin, (N, C, H, W).

    `name`: one of `usable_attacks`; `box`: keep pixels in [0, 1], certificates hold without that. The model is in eval
    mode, on the images' device.
    """
    started, epsilon = time.perf_counter(), certified.epsilon
    radius, pixels = reach(epsilon, certified.images[0].numel()), PIXELS if box else unbounded(epsilon)
    recorders = []
    for part in certified.batches(strength.batch_size):
        recorder = Recorder(model, part.images, part.labels, epsilon)
        points = strength.attack(name)(recorder, part.images, part.labels, radius, box=pixels)
        with torch.no_grad():
            recorder(points)
        recorders.append(recorder)
    smallest, margins = torch.cat([each.smallest for each in recorders]), certified.margins
    asked = sum(each.asked for each in recorders)
    rows = zip(certified.indices.tolist(), smallest.tolist(), margins.tolist(), strict=True)
    outcome = AttackOutcome(
        attack=name,
        box=box,
        attacked=len(certified),
        found=int((smallest <= 0).sum()),
        below=int((smallest < margins).sum()),
        points=asked,
        inside=sum(each.inside for each in recorders) / asked,
        smallest_executed=smallest.min().item(),
        smallest_certified=margins.min().item(),
        smallest_room=(smallest - margins).min().item(),
        seconds=time.perf_counter() - started,
        refutations=tuple(
            f"image {index}: {name} found an executed margin of {executed:.6g} within {epsilon:g}, "
            f"certified is {margin:.6g}"
            for index, executed, margin in rows
            if executed < margin or executed <= 0
        ),
    )
    return outcome, torch.cat([each.points for each in recorders])


def usable_attacks(names: Sequence[str], image_shape: tuple[int, ...], num_classes: int) -> tuple[str, ...]:
    """Return those of the attacks named that work on such images of so many classes."""
    usable = ("pgd", "random", *usable_auto_attacks(image_shape, num_classes))
    return tuple(name for name in names if name in usable)
