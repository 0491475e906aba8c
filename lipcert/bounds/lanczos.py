"""Upper bounds on spectral norms that hold with a stated probability: Lanczos from a Gaussian start.

Let A = MᵀM (or MMᵀ), λ1 its largest eigenvalue with unit eigenvector v1, g ~ N(0, I) drawn independently of M.
Lanczos from g gives a tridiagonal T with orthonormal polynomials π_0 = 1, π_1, ... and Lanczos vectors
q_j = π_j(A) g/‖g‖. As ⟨q_j, v1⟩ = π_j(λ1) ⟨g, v1⟩/‖g‖ and the q_j are orthonormal,

    ⟨g, v1⟩² Σ_j π_j(λ1)² ≤ ‖g‖².

⟨g, v1⟩ is a standard normal, so |⟨g, v1⟩| > τ with probability at least 1 - τ √(2/π) = 1 - δ, and then
λ1 lies below the λ at which Σ_j π_j(λ)² reaches ‖g‖²/τ² (the sum grows with λ above T's spectrum).
"""

from __future__ import annotations

import math
import secrets
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipcert.bounds.errors import NonFiniteBoundError
from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.operators import Shape
from lipcert.bounds.region import per_image

BREAKDOWN = 1e-14
"""An off-diagonal entry of T below this, relative to A's norm, is rounding: the Krylov space is exhausted."""

ROUNDING = 1e-9
"""Relative allowance on a norm for the float64 arithmetic of the recurrence and of the operator."""


SMALLEST_NORM = 1e-60
"""No norm is bounded below this: squares of smaller ones would underflow in the recurrence."""


class Tridiagonal(NamedTuple):
    """T of a batch of Lanczos runs: `diagonal`, `off_diagonal` (B, k), and ‖g‖² as `start_square` (B,)."""

    diagonal: Tensor
    off_diagonal: Tensor
    start_square: Tensor


def fresh_generator() -> np.random.Generator:
    """Return a generator keyed by 128 random bits of the operating system.

    Nobody who chose the weights could know the start vectors, nor make weights that suit a share of all keys.
    """
    return np.random.Generator(np.random.Philox(key=secrets.randbits(128)))


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(1).sum(dim=1)


@torch.no_grad()
def lanczos(linear_map: LinearMap, start: Tensor, steps: int) -> Tridiagonal:
    """Run `steps` steps of Lanczos on MᵀM from `start` (B, *input_shape), in the dtype of `start`."""
    square = _dot(start, start)
    previous = torch.zeros_like(start)
    current = start / per_image(torch.where(square > 0, square, 1).sqrt(), start.dim())
    coupling = torch.zeros_like(square)
    diagonal, off_diagonal = [], []
    for _ in range(steps):
        image = linear_map.adjoint(linear_map.apply(current))
        alpha = _dot(current, image)
        remainder = image - per_image(alpha, start.dim()) * current - per_image(coupling, start.dim()) * previous
        beta = _dot(remainder, remainder).sqrt()
        diagonal.append(alpha)
        off_diagonal.append(beta)
        previous, current = current, remainder / per_image(torch.where(beta > 0, beta, 1), start.dim())
        coupling = beta
    return Tridiagonal(torch.stack(diagonal, 1), torch.stack(off_diagonal, 1), square)


def _exceeds(tridiagonal: Tridiagonal, points: Tensor, log_target: Tensor) -> Tensor:
    """Whether λ is above T's spectrum with Σ π_j(λ)² at least the target; `points`: (B, P).

    Above the spectrum every π_j is positive (Sturm). Magnitudes are kept in logarithms.
    """
    value, previous = torch.ones_like(points), torch.zeros_like(points)
    log_scale, log_sum = torch.zeros_like(points), torch.zeros_like(points)
    above = torch.ones_like(points, dtype=torch.bool)
    running = torch.ones_like(points[:, :1], dtype=torch.bool)
    coupling = torch.zeros_like(points[:, :1])
    for alpha, beta in zip(tridiagonal.diagonal.T, tridiagonal.off_diagonal.T, strict=True):
        exhausted = beta[:, None] <= BREAKDOWN
        beta_safe = beta[:, None].clamp_min(BREAKDOWN)
        following = ((points - alpha[:, None]) * value - coupling * previous) / beta_safe
        above &= (following > 0) | ~running
        magnitude = following.abs().clamp_min(1e-300)
        term = 2 * (magnitude.log() + log_scale)
        log_sum = torch.where(running, torch.logaddexp(log_sum, term), log_sum)
        previous, value = value / magnitude, following / magnitude
        log_scale = log_scale + magnitude.log()
        coupling = beta_safe
        running = running & ~exhausted
    return above & (log_sum >= log_target[:, None])


def _largest_eigenvalue_bound(tridiagonal: Tridiagonal, failure_probability: float) -> Tensor:
    """Return an upper bound on λ1, (B,): the root of Σ π_j(λ)² = ‖g‖²/τ², found from above."""
    scale = tridiagonal.diagonal.amax(dim=1)
    zero = scale <= 0
    unit = torch.where(zero, 1, scale)
    relative = Tridiagonal(
        tridiagonal.diagonal / unit[:, None], tridiagonal.off_diagonal / unit[:, None], tridiagonal.start_square
    )
    tau = failure_probability * math.sqrt(math.pi / 2)
    log_target = tridiagonal.start_square.clamp_min(1e-300).log() - 2 * math.log(tau)
    # Bracket by powers of two, then shrink the bracket 32-fold a round; `high` stays on the safe side.
    powers = torch.exp2(torch.arange(60, dtype=scale.dtype, device=scale.device)).expand(scale.shape[0], -1)
    reached = _exceeds(relative, powers, log_target)
    first = reached.to(torch.int8).argmax(dim=1, keepdim=True)
    high = torch.where(reached.any(dim=1, keepdim=True), powers.gather(1, first), torch.inf)
    low = torch.where(first > 0, high / 2, torch.ones_like(high))
    fractions = torch.linspace(0, 1, 33, dtype=scale.dtype, device=scale.device)[1:]
    finite = high.isfinite()
    for _ in range(7):
        points = torch.where(finite, low + (high - low) * fractions, 1.0)
        reached = _exceeds(relative, points, log_target)
        reached[:, -1] = True
        first = reached.to(torch.int8).argmax(dim=1, keepdim=True)
        previous = torch.where(first > 0, points.gather(1, (first - 1).clamp_min(0)), low)
        low, high = torch.where(finite, previous, low), torch.where(finite, points.gather(1, first), high)
    return torch.where(zero, 0, high[:, 0] * unit)


@torch.no_grad()
def norm_upper_bound(
    linear_map: LinearMap,
    like: Tensor,
    steps: int,
    failure_probability: float,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Return an *upper bound* on the norm of diag(rows) M diag(columns), shape (B,), float64.

    Each entry holds with probability at least 1 - `failure_probability` over the start vector, which is drawn
    fresh (from the operating system's randomness unless `generator` is given).

    Args:
        linear_map: M, in float64.
        like: float64 tensor (B, ...) that gives B and the device.
        steps: Lanczos steps, >= 1.
        failure_probability: δ in (0, 1).
        rows, columns: 0/1 masks (B, *shape), None for ones.
        generator: source of randomness.

    Raises:
        ValueError: for parameters out of range or a dtype other than float64.
        NonFiniteBoundError: if the operator yields NaN or infinity.

    Source: design notes, section 1; the inequality is the one above.
    """
    if steps < 1:
        raise ValueError(f"Expected `steps` >= 1, got {steps}.")
    if not 0 < failure_probability < 1:
        raise ValueError(f"Expected `failure_probability` in (0, 1), got {failure_probability}.")
    if like.dtype != torch.float64:
        raise ValueError(f"An upper bound needs float64, got {like.dtype}; convert model and images with .double().")
    masked = linear_map.restricted(rows, columns)
    on_input = math.prod(linear_map.input_shape) <= math.prod(linear_map.output_shape)
    shape, mask = (linear_map.input_shape, columns) if on_input else (linear_map.output_shape, rows)
    generator = fresh_generator() if generator is None else generator
    start = torch.from_numpy(generator.standard_normal((like.shape[0], *shape))).to(like.device)
    start = start if mask is None else start * mask
    side = masked if on_input else masked.transpose()
    tridiagonal = lanczos(side, start, steps)
    if not (tridiagonal.diagonal.isfinite().all() and tridiagonal.off_diagonal.isfinite().all()):
        raise NonFiniteBoundError("a layer's operator yields NaN or infinity; check its weights.")
    bound = _largest_eigenvalue_bound(tridiagonal, failure_probability).sqrt() * (1 + ROUNDING)
    return bound.clamp_min(SMALLEST_NORM)


class LanczosNorms:
    """Norm *upper bounds* for certificates of one model; counts the norms it bounded, for the union bound.

    Global norms are kept under the layer's name: a second model, or changed weights, need an object of their own.

    Args:
        steps: Lanczos steps of a norm an image.
        whole_steps: Lanczos steps of a global norm, bounded once and kept.
        failure_probability: δ of each norm.
        generator: source of randomness; the operating system's when None.
    """

    def __init__(
        self,
        steps: int = 40,
        whole_steps: int = 120,
        failure_probability: float = 1e-9,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.steps = steps
        self.whole_steps = whole_steps
        self.failure_probability = failure_probability
        self.generator = fresh_generator() if generator is None else generator
        self.bounded = 0
        self._whole: dict[tuple[str, Shape, Shape], Tensor] = {}

    @property
    def union_failure_probability(self) -> float:
        """Probability that any norm bounded so far is wrong, by the union bound."""
        return min(1.0, self.bounded * self.failure_probability)

    def _bound(
        self, linear_map: LinearMap, like: Tensor, steps: int, rows: Tensor | None = None, columns: Tensor | None = None
    ) -> Tensor:
        self.bounded += like.shape[0]
        return norm_upper_bound(linear_map, like, steps, self.failure_probability, rows, columns, self.generator)

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        key = (name, linear_map.input_shape, linear_map.output_shape)
        if key not in self._whole:
            self._whole[key] = self._bound(linear_map, like[:1], self.whole_steps)
        return self._whole[key]

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
    ) -> Tensor:
        return self._bound(linear_map, like, self.steps, rows, columns)
