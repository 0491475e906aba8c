"""One row of a record, derived anew and attacked: confirmed, or contradicted with a reason."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from lipcert.nn import folded
from lipcert.recheck.attack import attack
from lipcert.recheck.consistency import BACKWARD
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.global_norms import GlobalNorms
from lipcert.recheck.margins import Margins, backward_margins, lipschitz, margins, may_predict
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import Program, compile_program
from lipcert.records import Record, Row
from lipcert.system.execution import refuse_execution

TOLERANCE = 1e-6
"""A recorded value may be off by this: times 1 + its modulus for margins, relative to radii and Lipschitz constants."""

LARGEST_RADIUS = 1e9
"""Infinite radii are derived at this one."""

EFFORTS = ((False, 300, 400), (True, 300, 0), (True, 600, 1000))
"""(decomposed family, Lanczos steps, impulses), tried in turn until a row is confirmed.

The decomposed family can lose by smaller boxes, as slopes change with them: it is tried without and with more of them.
"""

ROUNDING_SHARE = 0.5
"""Of our rounding a recorded one is this much at least: sound bounds need not be equal. Margins may gain the rest."""


def backward_stages(record: Record) -> list[str]:
    """Return the names of the record's stages with backward bounds: ours prove classes, but need not be as tight."""
    return [stage.name for stage in record.contents.stages if stage.name in BACKWARD]


@dataclass(eq=False)
class Rechecker:
    """A network, its parametrized weights `folded`, and all that is computed once for it.

    `backward`: records may rest on backward bounds. These are then derived, too, where others prove no class; margins
    that may rest on them, which need not be as tight here, are left to attacks.

    Raises:
        NotImplementedError, ValueError: of `compile_program`, for a network that cannot be re-checked; as in
            `refuse_execution`, as it is executed on the CPU.
    """

    model: nn.Module
    image_shape: tuple[int, ...]
    clip_input: bool
    backward: bool = False

    def __post_init__(self) -> None:
        refuse_execution(set(map(type, self.model.modules())), torch.device("cpu"))
        self.model = folded(self.model)
        self.program: Program = compile_program(self.model, self.image_shape)
        self.norms = Norms()
        self.global_norms = GlobalNorms(self.program, self.norms)

    def derive(
        self, image: Tensor, epsilon: float, decomposed: bool = False, steps: int = 300, impulses: int = 400
    ) -> Derivation:
        """Return the bounds around `image`, (C, H, W)."""
        self.norms.steps, self.norms.impulses = steps, impulses
        return Derivation(self.program, image, epsilon, self.clip_input, decomposed, self.norms)

    def may_predict(self, image: Tensor, label: int) -> bool:
        """Tell whether the executed network can predict `label` at `image`, (C, H, W): ties within rounding count."""
        return may_predict(self.derive(image, 0.0), label)

    def reason_against(self, row: Row, image: Tensor) -> str | None:
        """Return why the bounds derived anew do not confirm a row, None where they do.

        Args:
            row: of the record; one whose margin is -infinity claims nothing.
            image: (C, H, W), float pixels in [0, 1].
        """
        try:
            return (
                None
                if row.margin == -math.inf
                else self._against_bounds(row, image) or self._against_radius(row, image)
            )
        except ArithmeticError as error:
            return f"not derived: {error}"

    def attacks_judge(self, row: Row) -> bool:
        """Tell whether the margin of a row may rest on backward bounds: attacks alone tell if it is too high."""
        return self.backward and (not row.certified or row.stage in BACKWARD)

    def refutation(self, row: Row, image: Tensor) -> str | None:
        """Return why a row cannot be true, whatever bound it rests on: an attack found it; else None."""
        executable = image.to(self.program.dtype)
        found, margin = attack(self.model, executable, row.label, row.epsilon, self.clip_input)
        distance = float((found.double() - image.double()).norm())
        if row.certified and margin <= 0:
            return f"certified, but an image at distance {distance:.9g} is not classified as {row.label}"
        if row.margin > margin + TOLERANCE * (1 + abs(row.margin)):
            return f"margin {row.margin:.9g} is above {margin:.9g}, that of an image at distance {distance:.9g}"
        return None

    def _derived(
        self, image: Tensor, label: int, epsilon: float, backward: bool = False
    ) -> Iterator[tuple[Margins, float]]:
        """Yield the best margins and Lipschitz constant so far, with more and more effort."""
        best, constant = Margins(-math.inf, -math.inf), math.inf
        for decomposed, steps, impulses in EFFORTS:
            derived = self.derive(image, epsilon, decomposed, steps, impulses)
            constant = min(constant, lipschitz(derived))
            further = backward_margins(derived, label) if backward and not decomposed else ()
            for found in chain([margins(derived, label)], further):
                best = Margins(max(best.real, found.real), max(best.executed, found.executed))
                yield best, constant
                if best.executed > 0:
                    break

    def _against_bounds(self, row: Row, image: Tensor) -> str | None:
        allowed, reasons = TOLERANCE * (1 + abs(row.margin)), [""]
        attacked = self.attacks_judge(row)
        for best, constant in self._derived(image, row.label, row.epsilon, attacked and row.certified):
            rounding = best.real - best.executed
            rules = {
                f"certified, but the margin derived is {best.executed:.9g}": row.certified and best.executed <= 0,
                f"margin {row.margin:.9g} is above the one derived, {best.executed:.9g}": (
                    not attacked and row.margin > best.executed + allowed + (1 - ROUNDING_SHARE) * rounding
                ),
                f"margin + rounding {row.margin + row.rounding:.9g} is above the one derived, {best.real:.9g}": (
                    not attacked and row.margin + row.rounding > best.real + allowed
                ),
                f"rounding {row.rounding:.9g} is far below the one derived, {rounding:.9g}": (
                    row.rounding < ROUNDING_SHARE * rounding
                ),
                f"lipschitz {row.lipschitz:.9g} is below the one derived, {constant:.9g}": (
                    row.lipschitz < constant * (1 - TOLERANCE)
                ),
            }
            reasons = [reason for reason, broken in rules.items() if broken]
            if not reasons:
                return None
        return reasons[0]

    def _against_radius(self, row: Row, image: Tensor) -> str | None:
        radius = min(row.radius, LARGEST_RADIUS) * (1 - TOLERANCE)
        if radius <= 0 or (row.certified and radius <= row.epsilon):
            return None
        if any(best.executed > 0 for best, _ in self._derived(image, row.label, radius, self.backward)):
            return None
        return f"at the radius {row.radius:.9g} nothing could be derived"
