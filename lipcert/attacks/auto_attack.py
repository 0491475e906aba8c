"""AutoAttack in l2, by pyautoattack: its four attacks one by one, and what withstands all of them."""

import logging
from functools import partial

import torch
from torch import Tensor, nn

from lipcert.attacks.ball import PIXELS, Box, contained
from lipcert.attacks.target import check_attackable, without_gradients, withstanding

AUTO_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The four attacks of AutoAttack's standard version in l2."""

SMALLEST_DLR = 4
"""Classes that the targeted difference-of-logits-ratio loss needs."""

SMALLEST_SQUARE = 5
"""Pixels a side that the square attack needs."""

TARGETS = 9
"""Classes aimed at, at most, as in AutoAttack's standard version."""


def usable_auto_attacks(image_shape: tuple[int, ...], num_classes: int) -> tuple[str, ...]:
    """Return those of `AUTO_ATTACKS` that work on images (C, H, W) or (D,) of so many classes: none for one class."""
    if num_classes < 2:
        return ()
    square = len(image_shape) == 3 and min(image_shape[1:]) >= SMALLEST_SQUARE
    unusable = {"apgd-t": num_classes < SMALLEST_DLR, "square": not square}
    return tuple(name for name in AUTO_ATTACKS if not unusable.get(name, False))


def _usable_on(model: nn.Module, images: Tensor) -> tuple[tuple[str, ...], int]:
    """Return the attacks that work on a network, and its number of classes."""
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    return usable_auto_attacks(tuple(images.shape[1:]), classes), classes


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

    Targeted attacks aim at each other class, nine at most. The global random state is left as it was.

    Args:
        model, labels, epsilon, box: as in `pgd`.
        images: (N, C, H, W) or (N, D), pixels in `box`.
        name: one of `usable_auto_attacks`.
        steps: gradient steps of each descent.
        queries: of the square attack.
        seed: of its random numbers.

    Raises:
        ValueError: where `pgd` does, and for an attack that does not work on the network.

    Source: Croce and Hein 2020.
    """
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    check_attackable(model, images, epsilon, box)
    usable, classes = _usable_on(model, images)
    if name not in usable:
        raise ValueError(f"Expected `name` to be one of {', '.join(usable)} for {classes} classes, got {name!r}.")
    lower, upper = box
    targets = min(TARGETS, classes - 1)

    def stretched(units: Tensor) -> Tensor:
        """Take float32 images in [0, 1], to which the library clips, to those in the box, then through the network."""
        points = units if box == PIXELS else lower + (upper - lower) * units
        return model(points.to(images.dtype)).float()

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
    with torch.random.fork_rng(), without_gradients(model):
        contiguous = ((images - lower) / (upper - lower)).float().contiguous()  # the library takes views of it
        units = attack.perturb(contiguous, labels)
    return contained(lower + (upper - lower) * units, images, epsilon, box)


def auto_attack_robust(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    queries: int = 5000,
    seed: int = 0,
) -> Tensor:
    """Return which images are classified correctly, and still after AutoAttack's standard version in l2, (N,) bool.

    Attacks that do not work on so few classes or on such images are left out (`usable_auto_attacks`). Arguments as in
    `auto_attack`, pixels in [0, 1].
    """
    usable, _ = _usable_on(model, images)
    attacks = [partial(auto_attack, name=name, steps=steps, queries=queries, seed=seed) for name in usable]
    return withstanding(model, images, labels, epsilon, attacks)
