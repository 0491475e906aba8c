"""Attacks on certified images: no executed margin may lie below the certified one, let alone below 0."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lipcert.attacks import AUTO_ATTACKS, PIXELS, Box, auto_attack, pgd, random_search, unbounded, usable_auto_attacks
from lipcert.soundness.recorder import Recorder

ATTACKS = ("pgd", *AUTO_ATTACKS, "random")

INSIDE = 1 - 1e-6
"""Share of epsilon at which is attacked."""

PIXEL_ROUNDING = 2.0**-23
"""How far rounding moves a pixel of an attack at most."""

Attack = Callable[..., Tensor]


@dataclass(frozen=True)
class Certified:
    """Images that were certified, (N, C, H, W), with labels, indices, and margin and rounding of certificates, (N,)."""

    images: Tensor
    labels: Tensor
    margins: Tensor
    rounding: Tensor
    indices: Tensor
    epsilon: float

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Tensor) -> Certified:
        """Return the images at places `rows`."""
        there = rows.to(self.images.device)
        return Certified(
            self.images[there],
            self.labels[there],
            self.margins[rows],
            self.rounding[rows],
            self.indices[rows],
            self.epsilon,
        )

    def part(self, first: int, count: int) -> Certified:
        """Return `count` images from `first` on, fewer where there are no more."""
        return self.rows(torch.arange(first, min(first + count, len(self))))


@dataclass(frozen=True)
class Strength:
    """How hard to attack: gradient steps, restarts of PGD, queries of attacks without gradients, images at a time."""

    steps: int
    restarts: int
    queries: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class AttackOutcome:
    """Outcome of one attack.

    Attributes:
        attack: its name; box: whether pixels stayed in [0, 1].
        attacked: images; found: those with a point in the ball whose executed margin is not positive.
        below: those with one whose executed margin is less than the certified one.
        points: at which the network was executed; inside: share of them in the ball, the only ones that count.
        smallest_executed, smallest_certified: margins over all images.
        smallest_room: least executed minus certified margin of an image.
        seconds: for all images.
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


def _attack(name: str, strength: Strength) -> Attack:
    if name == "pgd":
        return partial(pgd, steps=strength.steps, restarts=strength.restarts)
    if name == "random":
        return partial(random_search, queries=strength.queries, seed=strength.seed)
    return partial(auto_attack, name=name, steps=strength.steps, queries=strength.queries, seed=strength.seed)


@torch.no_grad()
def _at_the_end(recorder: Recorder, images: Tensor, points: Tensor, radius: float) -> None:
    """Ask about what an attack returned, too, moved into the ball."""
    change = (points - images).flatten(1).double()
    shares = (radius / change.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp_max(1)
    recorder((images.double() + (change * shares).view(images.shape)).to(images.dtype))


def _watched(model: nn.Module, certified: Certified, attack: Attack, box: Box) -> Recorder:
    """Return the points that an attack asks about on a batch."""
    recorder = Recorder(model, certified.images, certified.labels, certified.epsilon)
    radius = reach(certified.epsilon, certified.images[0].numel())
    points = attack(recorder, certified.images, certified.labels, radius, box=box)
    _at_the_end(recorder, certified.images, points, radius)
    return recorder


def _sentences(name: str, certified: Certified, smallest: Tensor) -> tuple[str, ...]:
    """Return a sentence for each image with an executed margin that its certificate excludes."""
    rows = zip(certified.indices.tolist(), smallest.tolist(), certified.margins.tolist(), strict=True)
    return tuple(
        f"image {index}: {name} found an executed margin of {executed:.6g} within {certified.epsilon:g}, "
        f"certified is {margin:.6g}"
        for index, executed, margin in rows
        if executed < margin or executed <= 0
    )


def attack_certified(
    model: nn.Module, certified: Certified, name: str, box: bool, strength: Strength
) -> tuple[AttackOutcome, Tensor]:
    """Return the outcome of one attack on at least one image, and the points of smallest margin, (N, C, H, W).

    Args:
        model: in eval mode, on the device of the images.
        certified: what is attacked.
        name: one of `ATTACKS` that is usable, see `usable_attacks`.
        box: keep pixels in [0, 1]; certificates hold without that.
        strength: of the attack.
    """
    started = time.perf_counter()
    attack, pixels = _attack(name, strength), PIXELS if box else unbounded(certified.epsilon)
    parts = [
        _watched(model, certified.part(first, strength.batch_size), attack, pixels)
        for first in range(0, len(certified), strength.batch_size)
    ]
    smallest = torch.cat([part.smallest for part in parts]).cpu()
    margins, asked = certified.margins, sum(part.asked for part in parts)
    outcome = AttackOutcome(
        attack=name,
        box=box,
        attacked=len(certified),
        found=int((smallest <= 0).sum()),
        below=int((smallest < margins).sum()),
        points=asked,
        inside=sum(part.inside for part in parts) / asked,
        smallest_executed=smallest.min().item(),
        smallest_certified=margins.min().item(),
        smallest_room=(smallest - margins).min().item(),
        seconds=time.perf_counter() - started,
        refutations=_sentences(name, certified, smallest),
    )
    return outcome, torch.cat([part.points for part in parts])


def usable_attacks(names: Sequence[str], image_shape: tuple[int, ...], num_classes: int) -> tuple[str, ...]:
    """Return those of the attacks named that work on such images of so many classes."""
    usable = ("pgd", "random", *usable_auto_attacks(image_shape, num_classes))
    return tuple(name for name in names if name in usable)
