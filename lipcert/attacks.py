"""l2 attacks: adapters over kept libraries (foolbox, AutoAttack), and a search that uses no gradients.

Every attack asks the model about points inside the ball and the box, and returns its last or best ones.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from lipcert.bounds import check_epsilon

Box = tuple[float, float]
"""Smallest and largest pixel that an attack may use."""

PIXELS: Box = (0.0, 1.0)

AUTO_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The four attacks of AutoAttack's standard version in l2."""

SMALLEST_DLR = 4
"""Classes that the targeted difference-of-logits-ratio loss needs."""

SMALLEST_SQUARE = 5
"""Pixels a side that the square attack needs."""

TARGETS = 9
"""Classes aimed at, at most, as in AutoAttack's standard version."""


def unbounded(epsilon: float) -> Box:
    """Return the box around [0, 1] that no pixel leaves which moves by at most `epsilon`."""
    return (-epsilon, 1 + epsilon)


def _check(model: nn.Module, epsilon: float) -> None:
    check_epsilon(epsilon)
    if model.training:
        raise ValueError("Expected a model in eval mode; call model.eval() first.")


def _column(values: Tensor, images: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts against images."""
    return values.view(-1, *(1 for _ in images.shape[1:]))


@torch.no_grad()
def margins(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return z_y - max of the other logits as executed, their difference in float64, (B,)."""
    logits = model(points).double()
    is_label = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits[is_label] - logits.masked_fill(is_label, -torch.inf).amax(dim=1)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    restarts: int = 1,
    box: Box = PIXELS,
) -> Tensor:
    """Return for each image the point of smallest margin at which a projected gradient descent ended, (N, ...).

    Steps of epsilon/4 on the cross-entropy from random starts; the library is foolbox.

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, ...), pixels in `box`; labels: (N,).
        epsilon: l2 radius.
        steps: gradient steps.
        restarts: descents, each from a start of its own.
        box: pixels allowed.

    Raises:
        ValueError: for epsilon out of range or a model in train mode.
    """
    from foolbox.attacks import L2ProjectedGradientDescentAttack  # type: ignore[attr-defined]
    from foolbox.models import PyTorchModel  # type: ignore[attr-defined]

    _check(model, epsilon)
    target = PyTorchModel(model, bounds=box, device=images.device)
    attack = L2ProjectedGradientDescentAttack(abs_stepsize=epsilon / 4, steps=steps, random_start=True)
    best, smallest = images, torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
    for _ in range(restarts):
        _, found, _ = attack(target, images, labels, epsilons=epsilon)
        reached = margins(model, found, labels)
        best = torch.where(_column(reached < smallest, images), found, best)
        smallest = torch.minimum(reached, smallest)
    return best


def pgd_robust(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    batch_size: int = 500,
    restarts: int = 1,
) -> Tensor:
    """Return which images are classified correctly after an l2 PGD attack, (N,) bool.

    Steps of epsilon/4 on the cross-entropy from a random start, inside the ball and [0, 1].

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, ...), pixels in [0, 1]; labels: (N,).
        epsilon: l2 radius.
        steps: gradient steps.
        batch_size: images attacked at a time.
        restarts: descents, each from a start of its own.
    """
    robust = []
    for batch, batch_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        adversarial = pgd(model, batch, batch_labels, epsilon, steps, restarts)
        with torch.no_grad():
            clean = model(batch).argmax(dim=1) == batch_labels
            robust.append(clean & (model(adversarial).argmax(dim=1) == batch_labels))
    return torch.cat(robust)


class _Stretched(nn.Module):
    """Takes float32 images in [0, 1] to those in a box, then through a network: AutoAttack clips to [0, 1].

    `dtype`: what the network is given.
    """

    def __init__(self, model: nn.Module, box: Box, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.box, self.dtype = model, box, dtype

    def forward(self, units: Tensor) -> Tensor:
        lower, upper = self.box
        points = units if self.box == PIXELS else lower + (upper - lower) * units
        return self.model(points.to(self.dtype)).float()


def usable_auto_attacks(image_shape: tuple[int, ...], num_classes: int) -> tuple[str, ...]:
    """Return those of `AUTO_ATTACKS` that work on images (C, H, W) or (D,) of so many classes."""
    square = len(image_shape) == 3 and min(image_shape[1:]) >= SMALLEST_SQUARE
    unusable = {"apgd-t": num_classes < SMALLEST_DLR, "square": not square}
    return tuple(name for name in AUTO_ATTACKS if not unusable.get(name, False))


def auto_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    name: str,
    steps: int = 100,
    queries: int = 5000,
    seed: int = 0,
    box: Box = PIXELS,
) -> Tensor:
    """Return what one attack of AutoAttack finds in l2: adversarial points, and images where there is none, (N, ...).

    Targeted attacks aim at each other class, nine at most. Points of `fab-t` may lie outside the ball. The global
    random state is left as it was.

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, C, H, W) or (N, D), pixels in `box`; labels: (N,).
        epsilon: l2 radius.
        name: one of `usable_auto_attacks`.
        steps: gradient steps of each descent.
        queries: of the square attack.
        seed: of its random numbers.
        box: pixels allowed.

    Raises:
        ValueError: for epsilon out of range, a model in train mode or an attack that does not work on it.

    Source: Croce and Hein 2020.
    """
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    _check(model, epsilon)
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    usable = usable_auto_attacks(tuple(images.shape[1:]), classes)
    if name not in usable:
        raise ValueError(f"Expected `name` to be one of {', '.join(usable)} for {classes} classes, got {name!r}.")
    lower, upper = box
    stretched, targets = _Stretched(model, box, images.dtype).eval(), min(TARGETS, classes - 1)
    quiet = logging.getLogger("lipcert.attacks.quiet")  # the libraries' advice on evaluations, which this is none of
    quiet.disabled = True
    common = {"norm": "L2", "eps": epsilon / (upper - lower), "seed": seed, "device": images.device, "verbose": False}
    descent = {**common, "n_iter": steps, "logger": quiet}
    attack = {
        "apgd-ce": lambda: APGDAttack(stretched, loss="ce", **descent),
        "apgd-t": lambda: APGDAttack_targeted(stretched, n_target_classes=targets, **descent),
        "fab-t": lambda: FABAttack_PT(stretched, n_iter=steps, targeted=True, n_target_classes=targets, **common),
        "square": lambda: SquareAttack(stretched, n_queries=queries, resc_schedule=False, **common),
    }[name]()
    with torch.random.fork_rng():
        units = attack.perturb(((images - lower) / (upper - lower)).float(), labels)
    found: Tensor = lower + (upper - lower) * units.detach()
    return found.to(images.dtype)


def _proposals(delta: Tensor, query: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return directions to try next, (B, *shape): anywhere, one square patch, or near the best so far, in turn."""
    noise = torch.randn(delta.shape, generator=generator, dtype=torch.float64).to(delta)
    if query % 3 == 1 and delta.dim() == 4:
        height, width = delta.shape[2:]
        side = int(torch.randint(1, max(2, min(height, width) // 2 + 1), (), generator=generator))
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        patch = torch.zeros_like(delta)
        patch[:, :, top : top + side, left : left + side] = noise[:, :, :1, :1].sign()
        return patch if query % 2 else delta + epsilon * patch / side
    if query % 3 == 2:
        share = 10.0 ** -float(2 * torch.rand((), generator=generator))
        return delta + share * epsilon * noise / math.sqrt(noise[0].numel())
    return noise


@torch.no_grad()
def random_search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    queries: int = 1000,
    seed: int = 0,
    box: Box = PIXELS,
) -> Tensor:
    """Return for each image the point of smallest margin that a random search found on its sphere, (N, ...).

    It uses no gradients, so no flat or shattered ones can mislead it.

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, ...), pixels in `box`; labels: (N,).
        epsilon: l2 radius.
        queries: points tried an image.
        seed: of its random numbers.
        box: pixels allowed.

    Raises:
        ValueError: for epsilon out of range or a model in train mode.
    """
    _check(model, epsilon)
    generator = torch.Generator().manual_seed(seed)
    best, smallest = images, margins(model, images, labels)
    for query in range(queries):
        direction = _proposals(best - images, query, epsilon, generator)
        lengths = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
        points = (images + direction * _column(epsilon / lengths, images)).clamp(*box)
        reached = margins(model, points, labels)
        best = torch.where(_column(reached < smallest, images), points, best)
        smallest = torch.minimum(reached, smallest)
    return best
