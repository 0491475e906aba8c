"""What a derivation says of an image: margins over the ball, Lipschitz constant, predictions that can be."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.recheck.backward import Backward
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.program import ActivationStep, AffineStep, linear_map, single_map
from lipcert.recheck.reach import SLACK, maximum_over
from lipcert.recheck.rounding import of_differences
from lipcert.recheck.splits import least_of_parts

BACKWARD_EFFORTS = ((None, 0), (None, 20), (None, 400), ((0, 2**25), 0), ((5, 2**20), 40), None)
"""(what intervals are refined with, see `Backward.refine`, and ascents of slopes for margins), tried in turn.

None stands for branch and bound.
"""


@dataclass(frozen=True)
class Margins:
    """The least margins over all other classes: in real arithmetic, and as executed."""

    real: float
    executed: float


@torch.no_grad()
def margins(derived: Derivation, label: int) -> Margins:
    """Return the least margin of `label` against all other classes."""
    real = -worst(derived, label)
    executed = real - _rounding(derived, label)
    others = torch.arange(len(real)) != label
    return Margins(float(real[others].min()), float(executed[others].min()))


def backward_margins(derived: Derivation, label: int) -> Iterator[Margins]:
    """Yield the least margins of `label` with those of open classes bounded backward, with more and more effort."""
    if any(isinstance(step, ActivationStep) and not step.activation.followed for step in derived.program.steps):
        return
    real, rounding = -worst(derived, label), _rounding(derived, label)
    rows, others, backward = -_directions(derived, label), torch.arange(len(real)) != label, Backward(derived)
    for effort in BACKWARD_EFFORTS:
        if effort is not None and effort[0] is not None:
            backward.refine(*effort[0])
        left = (others & ~(real > rounding)).nonzero()[:, 0]
        if effort is None:
            found = least_of_parts(backward.known, rows[left], rounding[left])
        else:
            found = backward.bound(derived.program.output, rows[left], effort[1], rounding[left])
        real[left] = torch.maximum(real[left], found)
        yield Margins(float(real[others].min()), float((real - rounding)[others].min()))


@torch.no_grad()
def worst(derived: Derivation, label: int) -> Tensor:
    """Return upper bounds of z_j - z_label over the ball for every class j, (classes,); 0 at the label."""
    center, own = derived.logits.center[0], derived.logits.own.entries[0]
    change = _change(derived, label, decomposed=False)
    if derived.decomposed:
        change = torch.minimum(change, _change(derived, label, decomposed=True))
    highest = center - center[label] + own + own[label] + change * (1 + SLACK)
    highest[label] = 0.0
    return highest


def lipschitz(derived: Derivation) -> float:
    """Return the largest Lipschitz constant, over the ball, of a source that feeds the logits."""
    return max((derived.sources[number].tight for number in derived.logits.rows), default=0.0)


def may_predict(derived: Derivation, label: int) -> bool:
    """Tell whether the executed network can predict `label` at the image: ties within rounding count."""
    center = derived.logits.center[0]
    error = derived.logits.executed.entries[0] + derived.logits.own.entries[0]
    return bool(center[label] + error[label] >= (center - error).max())


def _change(derived: Derivation, label: int, decomposed: bool) -> Tensor:
    """Return by how much z_j - z_label can grow for every j by one of the families, (classes,)."""
    program, directions = derived.program, _directions(derived, label)
    total = torch.zeros(len(directions), dtype=torch.float64)
    for number, source in derived.sources.items():
        there = linear_map(program, number, program.output, derived.slopes if decomposed else {})
        radius = derived.epsilon * (source.decomposed if decomposed else source.tight) * (1 + SLACK)
        if there is not None and radius > 0:
            mask = source.unstable if decomposed else source.varying
            lower, upper = source.remainder if decomposed else source.change
            gradients = (there.adjoint(directions) * mask).flatten(1)
            total += maximum_over(gradients, radius, lower.flatten(), upper.flatten())
    return total


def _rounding(derived: Derivation, label: int) -> Tensor:
    """Return what rounding can change of z_j - z_label for every j, (classes,)."""
    program, error = derived.program, derived.logits.executed
    last = program.steps[-1] if program.steps else None
    if not isinstance(last, AffineStep) or last.target != program.output:
        return error.entries[0] + error.entries[0, label]
    gradients = single_map(last, program).adjoint(_directions(derived, label))
    before = derived.reaches[last.source]
    varying = torch.ones_like(before.center)
    if before.executed.at_source and len(before.rows) == 1:
        varying = derived.sources[next(iter(before.rows))].varying.reshape(varying.shape)
    return of_differences(error, before.executed, varying, gradients, label)


def _directions(derived: Derivation, label: int) -> Tensor:
    """Return e_j - e_label for every class j, (classes, classes)."""
    unit = torch.eye(derived.logits.center.shape[1], dtype=torch.float64)
    return unit - unit[label]
