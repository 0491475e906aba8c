"""What an evaluation counts, as sums that add up over parts of the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

Number = TypeVar("Number", int, float)


def _added(first: dict[str, Number], second: dict[str, Number]) -> dict[str, Number]:
    """Return sums by name; a name may be missing on one side."""
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


@dataclass(frozen=True)
class Counts:
    """Numbers of images, and sums over images of Lipschitz bounds and of proportions of varying neurons.

    Attributes:
        images: evaluated.
        clean, robust: classified correctly, and still so under PGD.
        attacked, withstood: meant for AutoAttack, and standing after it and PGD.
        certified, executed: by bound; of the exact network, and of the network in the precision of its weights.
        failure_probability: that any of the certificates or bounds is wrong, at most.
        lipschitz_images: over which the next ones are summed.
        global_lipschitz: the smallest upper bound found.
        local_lipschitz: sum over images.
        varying: sum over images of the proportion of varying neurons, by layer.
    """

    images: int = 0
    clean: int = 0
    robust: int = 0
    attacked: int = 0
    withstood: int = 0
    certified: dict[str, int] = field(default_factory=dict)
    executed: dict[str, int] = field(default_factory=dict)
    failure_probability: float = 0.0
    lipschitz_images: int = 0
    global_lipschitz: float = math.inf
    local_lipschitz: float = 0.0
    varying: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of both parts."""
        return Counts(
            images=self.images + other.images,
            clean=self.clean + other.clean,
            robust=self.robust + other.robust,
            attacked=self.attacked + other.attacked,
            withstood=self.withstood + other.withstood,
            certified=_added(self.certified, other.certified),
            executed=_added(self.executed, other.executed),
            failure_probability=self.failure_probability + other.failure_probability,
            lipschitz_images=self.lipschitz_images + other.lipschitz_images,
            global_lipschitz=min(self.global_lipschitz, other.global_lipschitz),
            local_lipschitz=self.local_lipschitz + other.local_lipschitz,
            varying=_added(self.varying, other.varying),
        )
