"""One row of a record, derived anew and attacked: confirmed, or contradicted with a reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from lipcert.nn import folded
from lipcert.recheck.attack import find_counterexample
from lipcert.recheck.derivation import Derivation, Margins
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import Program, compile_program
from lipcert.records import Record, Row

MARGIN_TOLERANCE = 1e-6
"""A recorded margin may exceed ours by this times 1 + its modulus: Lanczos brackets are not exact."""

RADIUS_TOLERANCE = 1e-6
"""A recorded radius is derived anew at this fraction less."""

LARGEST_RADIUS = 1e9
"""Infinite radii are derived at this one."""

EFFORTS = ((False, 300, 400), (True, 300, 0), (True, 600, 1000))
"""(decomposed family, Lanczos steps, impulses), tried in turn until a row is confirmed.

The decomposed family can lose by smaller boxes, as slopes change with them: it is tried without and with more of them.
"""

NOT_DERIVED = ("crown", "crown-alpha")
"""What records call the bounds that are not derived here: backward linear bounds."""

ROUNDING_TOLERANCE = 0.1
"""A recorded margin may exceed ours by this fraction of our rounding: two sound rounding bounds need not be equal."""


def stages_not_derived(record: Record) -> list[str]:
    """Return the names of the record's stages whose bounds are not derived here."""
    return [stage.name for stage in record.contents.stages if stage.bound in NOT_DERIVED]


@dataclass(eq=False)
class Rechecker:
    """A network, its parametrized weights `folded`, and all that is computed once for it.

    Raises:
        NotImplementedError, ValueError: of `compile_program`, for a network that cannot be re-checked.
    """

    model: nn.Module
    image_shape: tuple[int, ...]
    clip_input: bool

    def __post_init__(self) -> None:
        self.model = folded(self.model)
        self.program: Program = compile_program(self.model, self.image_shape)
        self.norms = Norms()

    def derive(
        self, image: Tensor, epsilon: float, decomposed: bool = False, steps: int = 300, impulses: int = 400
    ) -> Derivation:
        """Return the bounds around `image`, (C, H, W)."""
        self.norms.steps, self.norms.impulses = steps, impulses
        return Derivation(self.program, image, epsilon, self.clip_input, decomposed, self.norms)

    def reason_against(self, row: Row, image: Tensor, label: int) -> str | None:
        """Return why a row is contradicted, None where it is confirmed.

        Args:
            row: of the record.
            image: (C, H, W), float pixels in [0, 1].
            label: its class.
        """
        try:
            return (
                self._against_center(row, image, label)
                or self._against_margin(row, image)
                or self._against_radius(row, image)
                or self._attack(row, image)
            )
        except ArithmeticError as error:
            return f"not derived: {error}"

    def refutation(self, row: Row, image: Tensor, label: int) -> str | None:
        """Return why a row cannot be true, whatever bound it rests on: by the image itself and by attack, else None.

        Arguments as of `reason_against`.
        """
        return self._against_center(row, image, label) or self._attack(row, image)

    def _against_center(self, row: Row, image: Tensor, label: int) -> str | None:
        if row.label != label:
            return f"the label of image {row.index} is {label}"
        at_center = self.derive(image, 0.0)
        if not at_center.may_predict(row.prediction):
            return f"the network predicts {int(at_center.logits.center.argmax())}, not {row.prediction}"
        if row.margin > at_center.margins(label).real + MARGIN_TOLERANCE * (1 + abs(row.margin)):
            return f"the margin {row.margin:.9g} is above the one at the image itself"
        return None

    def _margins(self, image: Tensor, label: int, epsilon: float) -> Iterator[Margins]:
        """Yield the best margins so far, with more and more effort."""
        best = Margins(-math.inf, -math.inf)
        for decomposed, steps, impulses in EFFORTS:
            found = self.derive(image, epsilon, decomposed, steps, impulses).margins(label)
            best = Margins(max(best.real, found.real), max(best.executed, found.executed))
            yield best

    def _against_margin(self, row: Row, image: Tensor) -> str | None:
        if not row.certified:
            return None
        allowed = MARGIN_TOLERANCE * (1 + abs(row.margin))
        best = -math.inf
        for margins in self._margins(image, row.label, row.epsilon):
            best = margins.executed
            rounding = ROUNDING_TOLERANCE * (margins.real - best)
            if best > 0 and row.margin <= best + allowed + rounding:
                return None
        if best <= 0:
            return f"certified, but the margin derived is {best:.9g}"
        return f"the margin {row.margin:.9g} is above the one derived, {best:.9g}"

    def _against_radius(self, row: Row, image: Tensor) -> str | None:
        radius = min(row.radius, LARGEST_RADIUS) * (1 - RADIUS_TOLERANCE)
        if radius <= 0 or (row.certified and radius <= row.epsilon):
            return None
        if any(margins.executed > 0 for margins in self._margins(image, row.label, radius)):
            return None
        return f"at the radius {row.radius:.9g} nothing could be derived"

    def _attack(self, row: Row, image: Tensor) -> str | None:
        if not row.certified:
            return None
        found = find_counterexample(self.model, image.to(self.program.dtype), row.label, row.epsilon, self.clip_input)
        if found is None:
            return None
        distance = float((found.double() - image.double()).norm())
        return f"an image at distance {distance:.9g} is not classified as {row.label}"
