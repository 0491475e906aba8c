"""Upper bounds on spectral norms that hold with a stated probability, rounding included: Lanczos from Gaussian starts.

Let A = MᵀM (or MMᵀ), λ its largest eigenvalue with unit eigenvector v, g ~ N(0, I) drawn independently of M. Lanczos
from q_0 = g/‖g‖ yields numbers α_j, β_j and vectors q_j of length 1 that satisfy, as computed in floats,

    A q_j = β_(j-1) q_(j-1) + α_j q_j + β_j q_(j+1) + f_j,     ‖f_j‖ ≤ η.

Only this enters: neither that the q_j are orthogonal, which rounding destroys, nor that α and β are accurate. With
c_j = ⟨q_j, v⟩, and π_j the solution of the recurrence β_j π_(j+1) = (λ - α_j) π_j - β_(j-1) π_(j-1) from π_0 = 1,
D_j = β_j π_j π_(j+1) (c_(j+1)/π_(j+1) - c_j/π_j) obeys D_j = D_(j-1) - ⟨f_j, v⟩ π_j, so that while every π is positive

    1 ≥ |c_j| ≥ π_j(λ) (|c_0| - N_j(λ)),     N_(j+1) = N_j + η (π_0 + ... + π_j) / (β_j π_j π_(j+1)).

|⟨g, v⟩| exceeds τ with probability 1 - τ √(2/π), so |c_0| > τ/‖g‖; hence λ lies below any λ' above T's spectrum at
which some π_j(λ') (τ/‖g‖ - N_j(λ')) exceeds 1. Two independent starts and the larger of their bounds fail together
with probability δ = τ² · 2/π: a τ that is large against η.
"""

import math
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipcert.graph.operators import LinearMap, NonFiniteBoundError, largest_absolute
from lipcert.norms.krylov import per_image

BREAKDOWN = 1e-14
"""An off-diagonal entry of T below this, relative to A's norm, is rounding: the Krylov space is exhausted.

A β_j raised to it stands for a shorter q_(j+1), with the same f_j; that its length is 1 at most is all that enters.
"""

STARTS = 2
"""Independent starts of each norm: the square root of δ is large against rounding, δ itself need not be."""

LARGEST_TOGETHER = 2**20
"""Entries of a layer's larger side up to which both starts run side by side: few vectors use a processor badly."""

SMALLEST_EXCESS, LARGEST_EXCESS = 1e-13, 1e18
"""Between which an eigenvalue bound's relative distance from T's top eigenvalue is sought."""

SMALLEST_PROBABILITY = 1e-25
"""No failure probability below this can be stated: starts are drawn with 53 bits an entry."""

LONGEST_VECTOR = 1e-9
"""Logarithm that no computed Lanczos vector's length exceeds."""

ROUNDING = 1e-9
"""Relative allowance for the float64 arithmetic that is not iterated: roots, products of norms, lengths."""

SMALLEST_NORM = 1e-60
"""No norm is bounded below this: squares of smaller ones would underflow in the recurrence."""


class Bracket(NamedTuple):
    """A lower and an upper bound, (B,) each."""

    lower: Tensor
    upper: Tensor


def enclose(
    linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, lower: Tensor, upper: Tensor
) -> Bracket:
    """Return the bracket with no upper bound below `SMALLEST_NORM`, which stands for that of a zero map.

    A map is zero where no path of nonzero weights joins a masked input to a masked output.
    """
    images = linear_map.masked_images(rows, columns)
    inputs = linear_map.origin.new_ones(images, *linear_map.input_shape) if columns is None else columns
    reached = linear_map.absolute().apply(inputs)
    reached = reached if rows is None else reached * rows
    upper = torch.where(reached.flatten(1).amax(dim=1) == 0, 0, upper).clamp_min(SMALLEST_NORM)
    return Bracket(torch.minimum(lower, upper), upper)


class Tridiagonal(NamedTuple):
    """T of a batch of Lanczos runs: `diagonal`, `off_diagonal` (B, k), and ‖g‖² as `start_square` (B,)."""

    diagonal: Tensor
    off_diagonal: Tensor
    start_square: Tensor


def normal_starts(shape: Sequence[int], device: torch.device, generator: np.random.Generator | None = None) -> Tensor:
    """Return `STARTS` vectors of normal numbers, (STARTS, *shape), float64, drawn on the device by fresh generators.

    Keys come from the operating system at the call: whoever chose the weights before it knew none of them, and could
    not make weights that suit many. On a GPU each start has a key of 64 bits of its own: a direction of n entries can
    be made orthogonal to n - 1 of 2^64 starts, a share below the √δ that a start may fail with. On a CPU, where
    seeds of torch have 32 bits only, NumPy draws with a key of 128.

    `generator`: draws in place of fresh ones, on the host.
    """
    if generator is None and device.type == "cuda":
        seeded = (torch.Generator(device).manual_seed(secrets.randbits(64)) for _ in range(STARTS))
        return torch.stack([torch.randn(shape, generator=each, dtype=torch.float64, device=device) for each in seeded])
    if generator is None:
        generator = np.random.Generator(np.random.Philox(key=secrets.randbits(128)))
    return torch.from_numpy(generator.standard_normal((STARTS, *shape))).to(device)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(1).sum(dim=1)


@torch.no_grad()
def lanczos(linear_map: LinearMap, start: Tensor, steps: int, on_input: bool) -> Tridiagonal:
    """Run `steps` steps of Lanczos on MᵀM from `start` (B, *input_shape), or on MMᵀ, in the dtype of `start`."""
    there, back = (linear_map.apply, linear_map.adjoint) if on_input else (linear_map.adjoint, linear_map.apply)
    square = _dot(start, start)
    previous = torch.zeros_like(start)
    current = start / per_image(torch.where(square > 0, square, 1).sqrt(), start.dim())
    coupling = torch.zeros_like(square)
    diagonal, off_diagonal = [], []
    for _ in range(steps):
        image = back(there(current))
        alpha = _dot(current, image)
        remainder = image - per_image(alpha, start.dim()) * current - per_image(coupling, start.dim()) * previous
        beta = _dot(remainder, remainder).sqrt()
        diagonal.append(alpha)
        off_diagonal.append(beta)
        previous, current = current, remainder / per_image(torch.where(beta > 0, beta, 1), start.dim())
        coupling = beta
    return Tridiagonal(torch.stack(diagonal, 1), torch.stack(off_diagonal, 1), square)


def _exceeds(tridiagonal: Tridiagonal, points: Tensor, component: Tensor, residual: Tensor) -> Tensor:
    """Whether each λ lies above T's spectrum and refutes an eigenvalue there; `points`: (B, P).

    `component`: |c_0| at least, `residual`: η; both (B, 1). Magnitudes of π are kept in logarithms.
    """
    value, previous = torch.ones_like(points), torch.zeros_like(points)  # π_j and π_(j-1), both over exp(log_scale)
    log_scale, noise = torch.zeros_like(points), torch.zeros_like(points)
    summed = torch.ones_like(points)  # (π_0 + ... + π_j) / π_j
    above = torch.ones_like(points, dtype=torch.bool)
    refuted = torch.zeros_like(above)
    running = torch.ones_like(points[:, :1], dtype=torch.bool)
    coupling = torch.zeros_like(points[:, :1])
    for alpha, beta in zip(tridiagonal.diagonal.T, tridiagonal.off_diagonal.T, strict=True):
        exhausted = beta[:, None] <= BREAKDOWN
        beta_safe = beta[:, None].clamp_min(BREAKDOWN)
        product = (points - alpha[:, None]) * value - coupling * previous  # β_j π_(j+1)
        above &= (product > 0) | ~running
        magnitude = (product / beta_safe).clamp_min(1e-300)
        noise = noise + residual * summed * (-log_scale).exp() / product.clamp_min(1e-300)
        summed = summed * value / magnitude + 1
        log_following = magnitude.log() + log_scale
        remaining = component - noise
        reaches = (remaining > 0) & (log_following + remaining.clamp_min(1e-300).log() > LONGEST_VECTOR)
        refuted |= reaches & above & running
        previous, value, log_scale = value / magnitude, torch.ones_like(value), log_following
        coupling = beta_safe
        running = running & ~exhausted
    return above & refuted


def _top_ritz_value(tridiagonal: Tridiagonal) -> Tensor:
    """Return T's largest eigenvalue up to rounding, (B,)."""
    couplings = tridiagonal.off_diagonal[:, :-1]
    matrix = tridiagonal.diagonal.diag_embed() + couplings.diag_embed(1) + couplings.diag_embed(-1)
    return torch.linalg.eigvalsh(matrix)[:, -1]


def _largest_eigenvalue(tridiagonal: Tridiagonal, tau: float, residual: Tensor) -> Bracket:
    """Return bounds on λ, the upper one infinite where rounding hides it; `residual`: η, (B,) or (1,)."""
    scale = tridiagonal.diagonal.amax(dim=1)
    zero = scale <= 0
    unit = torch.where(zero, 1, scale)
    relative = Tridiagonal(
        tridiagonal.diagonal / unit[:, None], tridiagonal.off_diagonal / unit[:, None], tridiagonal.start_square
    )
    component = (tau / tridiagonal.start_square.clamp_min(1e-300).sqrt()).clamp_max(1)[:, None]
    relative_residual = (residual / unit)[:, None]

    def exceeds(points: Tensor) -> Tensor:
        return _exceeds(relative, points, component, relative_residual)

    # λ = top (1 + excess), the excess bracketed on a logarithmic grid, then twice again inside the bracket found.
    top = _top_ritz_value(relative)[:, None]
    low, high = torch.full_like(top, SMALLEST_EXCESS), torch.full_like(top, LARGEST_EXCESS)
    fractions = torch.linspace(0, 1, 49, dtype=scale.dtype, device=scale.device)
    found = exceeds(top * (1 + high))
    for _ in range(3):
        excesses = low * (high / low) ** fractions
        reached = exceeds(top * (1 + excesses))
        reached[:, -1] = True
        first = reached.to(torch.int8).argmax(dim=1, keepdim=True)
        low, high = excesses.gather(1, (first - 1).clamp_min(0)), excesses.gather(1, first)
    bound = torch.where(found, top * (1 + high), torch.inf)
    return Bracket(torch.where(zero, 0, top[:, 0] * unit), torch.where(zero, torch.inf, bound[:, 0] * unit))


@torch.no_grad()
def norm_bracket(
    linear_map: LinearMap,
    steps: int,
    failure_probability: float,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    generator: np.random.Generator | None = None,
) -> Bracket:
    """Return a lower and an *upper bound* on the norm of diag(rows) M diag(columns), float64.

    Each upper bound holds with probability at least 1 - `failure_probability` over two start vectors, which are drawn
    fresh (by `normal_starts`), float64 arithmetic included. It never exceeds `largest_absolute`.

    Args:
        linear_map: M, in float64.
        steps: Lanczos steps from each start, >= 1.
        failure_probability: δ in (0, 1).
        rows, columns: 0/1 masks (B, *shape), None for ones.
        generator: source of randomness.

    Raises:
        ValueError: for parameters out of range or a dtype other than float64.
        NonFiniteBoundError: if the operator yields NaN or infinity.

    Source: the inequality is the one above; without rounding, section 1 of the design.
    """
    if steps < 1:
        raise ValueError(f"Expected `steps` >= 1, got {steps}.")
    if not SMALLEST_PROBABILITY <= failure_probability < 1:
        raise ValueError(
            f"Expected `failure_probability` in [{SMALLEST_PROBABILITY}, 1), got {failure_probability}; "
            "normal numbers drawn as floats mean nothing below."
        )
    dtype, device = linear_map.origin.dtype, linear_map.origin.device
    if dtype != torch.float64:
        raise ValueError(f"An upper bound needs float64, got {dtype}; convert model and images with .double().")
    images = linear_map.masked_images(rows, columns)
    on_input = math.prod(linear_map.input_shape) <= math.prod(linear_map.output_shape)
    shape, mask = (linear_map.input_shape, columns) if on_input else (linear_map.output_shape, rows)
    unit = torch.finfo(torch.float64).eps
    largest = largest_absolute(linear_map) * (1 + ROUNDING)
    operations = sum(linear_map.roundings) + 16  # of A's application and of the recurrence
    residual = operations * unit * largest.square()
    tau = math.sqrt(failure_probability * math.pi / 2) * (1 - ROUNDING)
    starts = normal_starts((images, *shape), device, generator)
    starts = starts if mask is None else starts * mask
    larger_side = max(math.prod(linear_map.input_shape), math.prod(linear_map.output_shape))
    if not linear_map.per_image and STARTS * images * larger_side <= LARGEST_TOGETHER:
        repeated = (each if each is None else torch.cat([each] * STARTS) for each in (rows, columns))
        runs = [lanczos(linear_map.restricted(*repeated), starts.flatten(0, 1), steps, on_input)]
    else:
        masked = linear_map.restricted(rows, columns)
        runs = [lanczos(masked, start, steps, on_input) for start in starts]
    tridiagonal = Tridiagonal(*(torch.cat(each) for each in zip(*runs, strict=True)))
    if not (tridiagonal.diagonal.isfinite().all() and tridiagonal.off_diagonal.isfinite().all()):
        raise NonFiniteBoundError("a layer's operator yields NaN or infinity; check its weights.")
    found = _largest_eigenvalue(tridiagonal, tau, residual.expand(images).repeat(STARTS))
    lower = found.lower.view(STARTS, -1).amax(dim=0).clamp_min(0).sqrt() * (1 - ROUNDING)
    upper = found.upper.view(STARTS, -1).amax(dim=0).sqrt() * (1 + ROUNDING)
    return enclose(linear_map, rows, columns, lower, torch.minimum(upper, largest))
