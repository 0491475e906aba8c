"""The linear maps between sources and values of a program, matrix-free, with adjoints by automatic differentiation."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.recheck.program import ActivationStep, AddStep, AffineStep, Program, Step


@dataclass(frozen=True, eq=False)
class LinearMap:
    """J from value `start` to value `end`: affine layers without bias, activations as multiplications by slopes.

    `slopes`: for the target of every activation that is not cut, its slope, (1, ...).
    """

    steps: tuple[Step, ...]
    start: int
    end: int
    start_shape: tuple[int, ...]
    end_shape: tuple[int, ...]
    slopes: Mapping[int, Tensor]

    def apply(self, values: Tensor) -> Tensor:
        """Return J v for each of a batch, (B, *start shape) -> (B, *end shape)."""
        known = {self.start: values}
        for step in self.steps:
            if isinstance(step, AffineStep):
                known[step.target] = step.affine.linear(known[step.source])
            elif isinstance(step, ActivationStep):
                known[step.target] = self.slopes[step.target] * known[step.source]
            else:
                terms = [known[value] for value in (step.first, step.second) if value in known]
                known[step.target] = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return known[self.end]

    def adjoint(self, values: Tensor) -> Tensor:
        """Return Jᵀ w for each of a batch, (B, *end shape) -> (B, *start shape)."""
        return Adjoint(self, values.shape[0])(values)


class Adjoint:
    """Jᵀ for a fixed batch size; the graph is built once."""

    def __init__(self, linear_map: LinearMap, batch: int) -> None:
        with torch.enable_grad():
            self.inputs = torch.zeros(batch, *linear_map.start_shape, dtype=torch.float64, requires_grad=True)
            self.outputs = linear_map.apply(self.inputs)

    def __call__(self, values: Tensor) -> Tensor:
        """Return Jᵀ w, (B, *end shape) -> (B, *start shape), differentiable by w where w asks for it."""
        differentiable = values.requires_grad
        (result,) = torch.autograd.grad(self.outputs, self.inputs, values, True, differentiable)
        return result


def linear_map(program: Program, start: int, end: int, slopes: Mapping[int, Tensor]) -> LinearMap | None:
    """Return J from value `start` to value `end` with activations cut unless in `slopes`; None where no path leads."""
    forward, reached = [], {start}
    for step in program.steps:
        if step.target != start and _sources(step, slopes) & reached:
            reached.add(step.target)
            forward.append(step)
    if end not in reached:
        return None
    kept, wanted = [], {end}
    for step in reversed(forward):
        if step.target in wanted:
            wanted |= _sources(step, slopes) & reached
            kept.append(step)
    return LinearMap(tuple(reversed(kept)), start, end, program.shapes[start], program.shapes[end], slopes)


def single_map(step: AffineStep, program: Program) -> LinearMap:
    """Return the matrix of one layer."""
    shapes = program.shapes
    return LinearMap((step,), step.source, step.target, shapes[step.source], shapes[step.target], {})


def _sources(step: Step, slopes: Mapping[int, Tensor]) -> set[int]:
    if isinstance(step, AddStep):
        return {step.first, step.second}
    if isinstance(step, ActivationStep) and step.target not in slopes:
        return set()
    return {step.source}
