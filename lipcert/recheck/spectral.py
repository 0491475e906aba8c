"""Upper bounds of spectral norms: dense where small, otherwise Lanczos from a Gaussian start.

Let q1 = g / |g| with g ~ N(0, I) drawn independently of the operator A, v1 a top eigenvector and λ1 its eigenvalue.
The k-th orthonormal polynomial of the Lanczos recurrence, π_k(λ) = ∏(λ - θ_i) / ∏ β_i with θ the eigenvalues of the
k x k tridiagonal matrix, obeys <q1, v1>² π_k(λ1)² <= 1. As |<g, v1>| > τ = δ √(π/2) but with probability δ, λ1 lies
below the λ > max θ at which log π_k(λ) = log(|g| / τ); one event serves all k. Source: ../shared/design.md, §1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Gram = Callable[[Vector], Vector]

BETA_FLOOR = 1e-14
"""Relative to the largest Ritz value: below it, a β of the recurrence is rounding noise."""

BREAKDOWN = 1e-12
"""Relative to the largest Ritz value: a β below it says that the Krylov space is exhausted."""

SLACK = 1e-9
"""Relative slack on every norm that covers arithmetic in float64."""


class Bracket(NamedTuple):
    """A spectral norm lies between `lower` and `upper`."""

    lower: float
    upper: float


class _Draw(NamedTuple):
    lower: float
    upper: float
    exhausted: bool


def gram_bracket(
    gram: Gram, size: int, delta: float, generator: np.random.Generator, tolerance: float = 1e-9, max_steps: int = 300
) -> Bracket:
    """Bracket |M|₂ from v -> MᵀM v; `upper` holds but with probability 2 `delta`.

    Args:
        gram: v -> MᵀM v on vectors of `size` float64 entries.
        size: the dimension.
        delta: failure probability of a draw.
        generator: source of the Gaussian start, independent of M.
        tolerance: stop when upper / lower <= 1 + tolerance.
        max_steps: stop then in any case; the bracket holds, but is wider.

    Raises:
        ArithmeticError: where a product is not finite.
    """
    first = _draw(gram, size, delta, generator, tolerance, max_steps)
    draws = [first]
    if first.exhausted and first.upper > first.lower * (1 + tolerance) ** 2:
        # Three draws at the cube root: all three fail with probability delta, and less noise is magnified.
        draws = [_draw(gram, size, delta ** (1 / 3), generator, tolerance, max_steps) for _ in range(3)]
    lower = max(draw.lower for draw in draws)
    upper = max(draw.upper for draw in draws)
    return Bracket(math.sqrt(lower) * (1 - SLACK), math.sqrt(upper) * (1 + SLACK))


def _draw(
    gram: Gram, size: int, delta: float, generator: np.random.Generator, tolerance: float, max_steps: int
) -> _Draw:
    start = generator.standard_normal(size)
    length = float(np.linalg.norm(start))
    target = math.log(length / (delta * math.sqrt(math.pi / 2)))
    steps = min(size, max_steps)
    basis = np.empty((steps, size))
    alphas: list[float] = []
    betas: list[float] = []
    vector = start / length
    lower, upper = 0.0, math.inf
    for step in range(steps):
        basis[step] = vector
        product = gram(vector)
        if not np.isfinite(product).all():
            raise ArithmeticError("A spectral norm could not be bounded: a product is not finite.")
        alphas.append(float(vector @ product))
        for _ in range(2):
            product = product - basis[: step + 1].T @ (basis[: step + 1] @ product)
        betas.append(float(np.linalg.norm(product)))
        top = max(lower, alphas[-1])
        exhausted = betas[-1] <= BREAKDOWN * top
        if exhausted or step + 1 == steps or step % max(5, step // 16) == 4:
            ritz: Vector = np.linalg.eigvalsh(_tridiagonal(alphas, betas)).astype(np.float64)
            lower = max(lower, float(ritz[-1]))
            upper = min(upper, _crossing(ritz, np.array(betas), target))
        if exhausted or upper <= lower * (1 + tolerance) ** 2:
            return _Draw(lower, upper, exhausted)
        vector = product / betas[-1]
    return _Draw(lower, upper, steps == size)


def _tridiagonal(alphas: list[float], betas: list[float]) -> Vector:
    matrix = np.diag(alphas)
    off = np.array(betas[: len(alphas) - 1])
    return matrix + np.diag(off, 1) + np.diag(off, -1)


def _crossing(ritz: Vector, betas: Vector, target: float) -> float:
    """Return a λ at or above the one where log π_k(λ) = `target`; 0 for the zero operator."""
    top = float(ritz[-1])
    if top <= 0:
        return 0.0 if not betas.any() else math.inf
    log_betas = float(np.log(np.maximum(betas, BETA_FLOOR * top)).sum())

    def above(log_excess: float) -> bool:
        """Tell whether λ = top (1 + exp(log_excess)) is at or above the crossing."""
        excess = top * math.exp(log_excess)
        return float(np.log(top - ritz + excess).sum()) - log_betas >= target

    low, high = math.log(1e-15), 60.0
    if above(low):
        return top * (1 + 1e-15)
    if not above(high):
        return math.inf
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return top * (1 + math.exp(high))


def dense_bracket(gram: Vector) -> Bracket:
    """Bracket |M|₂ with certainty from MᵀM written out, (n, n)."""
    if not np.isfinite(gram).all():
        raise ArithmeticError("A spectral norm could not be bounded: an entry is not finite.")
    norm = math.sqrt(max(float(np.linalg.eigvalsh((gram + gram.T) / 2)[-1]), 0.0))
    return Bracket(norm * (1 - SLACK), norm * (1 + SLACK))
