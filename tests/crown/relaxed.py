"""Tiny dense networks, and the linear program of their relaxation: an oracle that shares no code with the bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import linprog
from torch import nn

from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin

CAPACITY = 400
"""Variables of a program at most; a quantity is its coefficients and, last, a constant."""

Box = tuple[np.ndarray, np.ndarray]


def tiny(kind: str, seed: int, sizes: tuple[int, ...] = (3, 4, 6, 3)) -> nn.Sequential:
    """Return a dense float64 network with an activation between its layers."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), _activation(kind, outputs)]
    network = nn.Sequential(*layers, nn.Linear(*sizes[-2:])).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2 and parameter.shape[0] > 1:
                parameter.mul_(1.7)
    return network.requires_grad_(False)


def _activation(kind: str, size: int) -> nn.Module:
    if kind == "relu":
        return nn.ReLU()
    if kind == "clipped_relu":
        return ClippedReLU((size,), 0.5)
    return MaxMin() if kind == "maxmin" else ClippedMaxMin((size,), 0.3, -0.2)


@dataclass
class Program:
    """Variables with bounds, equations, and cuts, all over `CAPACITY` columns.

    `boxes`: of the clamps, in turn, in place of those by interval arithmetic.
    """

    used: int = 0
    bounds: list[tuple[float, float | None]] = field(default_factory=list)
    equations: list[np.ndarray] = field(default_factory=list)
    cuts: list[np.ndarray] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)

    def variables(self, count: int, lower: float, upper: float | None) -> np.ndarray:
        """Return new variables as quantities, (count, CAPACITY + 1)."""
        quantities = np.zeros((count, CAPACITY + 1))
        quantities[np.arange(count), self.used + np.arange(count)] = 1
        self.used += count
        self.bounds += [(lower, upper)] * count
        return quantities

    def clamped(self, quantities: np.ndarray, box: Box, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return quantities in the convex hulls of clamps over a box: averages of the ends and kinks inside."""
        outputs = []
        for z, lower, upper, least, greatest in zip(quantities, *box, low, high, strict=True):
            points = [lower, upper, *(kink for kink in (least, greatest) if lower < kink < upper)]
            weights = self.variables(len(points), 0, None)
            total = weights.sum(axis=0)
            total[-1] -= 1
            self.equations += [total, z - np.array(points) @ weights]
            outputs.append(np.clip(points, least, greatest) @ weights)
        return np.array(outputs)

    def least(self, objective: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the minimum and where it is."""
        equations, cuts = np.array(self.equations), np.array(self.cuts).reshape(-1, CAPACITY + 1)
        solved = linprog(
            objective[: self.used],
            A_ub=cuts[:, : self.used] if len(cuts) else None,
            b_ub=-cuts[:, -1] if len(cuts) else None,
            A_eq=equations[:, : self.used],
            b_eq=-equations[:, -1],
            bounds=self.bounds,
            method="highs",
        )
        assert solved.status == 0, solved.message
        return solved.fun + objective[-1], solved.x


def relax(network: nn.Sequential, program: Program, inputs: np.ndarray, box: Box) -> tuple[np.ndarray, list[Box]]:
    """Return the logits as quantities, and the boxes of all clamps by interval arithmetic."""
    boxes: list[Box] = []
    for layer in network:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.numpy(), layer.bias.numpy()
            inputs = weight @ inputs
            inputs[:, -1] += bias
            middle, half = weight @ (box[0] + box[1]) / 2 + bias, np.abs(weight) @ (box[1] - box[0]) / 2
            box = (middle - half, middle + half)
            continue
        size = len(inputs)
        if isinstance(layer, nn.ReLU | ClippedReLU):
            top = layer.threshold[0].detach().numpy() if isinstance(layer, ClippedReLU) else np.full(size, np.inf)
            box = program.boxes[len(boxes)] if program.boxes else box
            boxes.append(box)
            inputs = program.clamped(inputs, box, np.zeros(size), top)
            box = (np.clip(box[0], 0, top), np.clip(box[1], 0, top))
            continue
        half_size = size // 2
        first, second = (box[0][:half_size], box[1][:half_size]), (box[0][half_size:], box[1][half_size:])
        difference = (first[0] - second[1], first[1] - second[0])
        boxes.append(difference)
        zero, infinite = np.zeros(half_size), np.full(half_size, np.inf)
        excess = program.clamped(inputs[:half_size] - inputs[half_size:], difference, zero, infinite)
        inputs = np.concatenate((inputs[half_size:] + excess, inputs[:half_size] - excess))
        box = tuple(  # type: ignore[assignment]
            np.concatenate((np.maximum(a, b), np.minimum(a, b))) for a, b in zip(first, second, strict=True)
        )
        if isinstance(layer, ClippedMaxMin):
            low = np.concatenate((-infinite, layer.min[0].numpy()))
            high = np.concatenate((layer.max[0].numpy(), infinite))
            boxes.append(box)
            inputs = program.clamped(inputs, box, low, high)
            box = (np.clip(box[0], low, high), np.clip(box[1], low, high))
    return inputs, boxes


def least_in_ball(program: Program, objective: np.ndarray, center: np.ndarray, epsilon: float) -> float:
    """Return the minimum over an l2 ball of the first variables, by cutting planes from outside."""
    value = -np.inf
    for _ in range(200):
        value, found = program.least(objective)
        offset = found[: len(center)] - center
        length = np.linalg.norm(offset)
        if length <= epsilon * (1 + 1e-5):
            return value
        cut = np.zeros(CAPACITY + 1)
        cut[: len(center)] = offset / length
        cut[-1] = -offset @ center / length - epsilon
        program.cuts.append(cut)
    raise AssertionError("The cutting planes did not converge.")
