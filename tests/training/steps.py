"""Which training steps are tried on a device: every bound with every activation, and every method."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, product

from lipcert.bounds import Bound
from lipcert.losses import BCP, CAP, CLL, CRM, EMMA, TRADES, Adversarial, GloRo, ReLUStability, Standard
from lipcert.losses.objective import Method

SHAPE, CLASSES, IMAGES = (1, 8, 8), 4, 6
METHODS: dict[str, Callable[[], Method]] = {
    "bcp": BCP,
    "gloro": GloRo,
    "gloro_published": lambda: GloRo(exclude="prediction", box=False),
    "crm": lambda: CRM(1.0, 5.0, 1.0),
    "cll": lambda: CLL(0.3, 0.1, 0.01),
    "emma": EMMA,
}
OTHERS: dict[str, Callable[[], Method]] = {
    "relu_stability": ReLUStability,
    "standard": Standard,
    "adversarial": Adversarial,
    "trades": TRADES,
    "cap": lambda: CAP(projections=3),
}
SEARCHING = "liplt"
"""Bound that asks once a step which classes are still open: each of them costs a norm an image."""

ACTIVATIONS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")

CASES = [
    *((name, *pair) for name, pair in zip(cycle(METHODS), product(map(str, Bound), ACTIVATIONS), strict=False)),
    *((name, "local", "relu") for name in OTHERS),
]
"""A method, a bound, an activation."""
