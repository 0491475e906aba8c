"""What is proved of each image of a batch."""

import importlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor

EXECUTED, EXACT = "executed", "exact"
"""Arithmetics that a certificate may be about, see `Certificate`."""


@dataclass(frozen=True)
class Certificate:
    """What is proved of each image; all tensors are (N,) on the CPU.

    Attributes:
        certified: the prediction is the label, and stays it within `epsilon`.
        margin: lower bound of z_y - z_j over the region and all j ≠ y, in `arithmetic`.
        lipschitz: L(x), bound of the Lipschitz constant up to the last activation.
        prediction: the class of the clean image.
        rounding: how much larger the margin of the exact network may be than that of the executed one.
        radius: radius that is proved, at least; `epsilon` where certified, less elsewhere, 0 where the prediction is
            wrong.
        stage: index of the cascade's stage that certified the image, -1 for none; 0 for a single bound.
        epsilon: l2 radius, in pixels of [0, 1], one number or (N,).
        bound: which bound was used, `cascade` for several.
        arithmetic: `executed`, the network in the precision of its weights, which images are converted to, with any
            order of summation; or `exact`, its weights taken as real numbers.
        failure_probability: probability that anything here is wrong, by the union bound over all norms.
        stages: names of the stages that `stage` counts.
    """

    certified: Tensor
    margin: Tensor
    lipschitz: Tensor
    prediction: Tensor
    rounding: Tensor
    radius: Tensor
    stage: Tensor
    epsilon: float | Tensor
    bound: str
    arithmetic: str
    failure_probability: float
    stages: tuple[str, ...] = ()

    @property
    def stage_names(self) -> list[str]:
        """The stage that certified each image, by name, "" for none."""
        return [self.stages[index] if 0 <= index < len(self.stages) else "" for index in self.stage.tolist()]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an image, of plain numbers, for a table."""
        named = ("prediction", "certified", "radius", "margin", "lipschitz", "rounding")
        columns: dict[str, Any] = {name: getattr(self, name).tolist() for name in named}
        count = len(self.prediction)
        columns["epsilon"] = self.epsilon.tolist() if isinstance(self.epsilon, Tensor) else [self.epsilon] * count
        columns["stage"] = self.stage_names
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_pandas(self) -> Any:
        """Return `rows` as a DataFrame; pandas is none of lipcert's dependencies."""
        return importlib.import_module("pandas").DataFrame(self.rows())

    @property
    def certified_accuracy(self) -> float:
        """Fraction of images certified."""
        return self.certified.double().mean().item()

    def correct(self, labels: Tensor) -> Tensor:
        """Return which clean predictions equal `labels`, (N,)."""
        return self.prediction == labels.cpu()
