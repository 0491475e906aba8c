"""Orthogonal layers: weights computed from free ones so that a layer is 1-Lipschitz, up to rounding.

No certificate relies on these formulas: networks are certified with their weights as numbers, whose norms are bounded.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

DELTA = 1e-6
"""Share of the mean square that is added to Gram matrices: singular ones have inverses then, norms stay below 1."""


def block_reflector(free: Tensor, rows: int, columns: int) -> Tensor:
    """Return the first rows and columns of I - 2 V (V^T V + delta I)^-1 V^T, (rows, columns); V: `free`, (d, rank).

    Its singular values are at most 1: those of the whole matrix are |1 - 2 s^2 / (s^2 + delta)| for each s of V, and 1.

    Source: Lai et al. 2025, Enhancing Certified Robustness via Block Reflector Orthogonal Layers.
    """
    solved = torch.cholesky_solve(free[:columns].mT, _cholesky(free))
    return torch.eye(rows, columns, dtype=free.dtype, device=free.device) - 2 * free[:rows] @ solved


def cayley(free: Tensor, rows: int, columns: int) -> Tensor:
    """Return a matrix with orthonormal columns, or rows where there are fewer, (rows, columns); as many are free.

    With U the square upper part of the taller orientation, Z the rest and A = U - U^T + Z^T Z: (I + A)^-1 (I - A) above
    -2 Z (I + A)^-1. I + A has an inverse whatever is free.

    Source: Trockman and Kolter 2021, Orthogonalizing Convolutional Layers with the Cayley Transform.
    """
    tall = free if rows >= columns else free.mT
    upper, rest = tall.split((tall.shape[1], len(tall) - tall.shape[1]))
    skew = upper - upper.mT + rest.mT @ rest
    identity = torch.eye(len(skew), dtype=free.dtype, device=free.device)
    inverse = torch.linalg.inv_ex(identity + skew).inverse
    orthogonal = torch.cat((inverse @ (identity - skew), -2 * rest @ inverse))
    return orthogonal if rows >= columns else orthogonal.mT


def cholesky(free: Tensor, rows: int, columns: int) -> Tensor:
    """Return W L^-T with L L^T = W^T W + delta I, (rows, columns); W: `free`, transposed where it has more columns.

    Source: Hu et al. 2024, A Recipe for Improved Certifiable Robustness.
    """
    tall = free if rows >= columns else free.mT
    orthogonal = torch.linalg.solve_triangular(_cholesky(tall), tall.mT, upper=False).mT
    return orthogonal if rows >= columns else orthogonal.mT


def _cholesky(tall: Tensor) -> Tensor:
    """Return the Cholesky factor of V^T V + delta I; no host waits for it."""
    gram = tall.mT @ tall
    mean = gram.diagonal().mean()
    added = DELTA * mean + torch.finfo(gram.dtype).tiny ** 0.5  # of V = 0, too
    return torch.linalg.cholesky_ex(gram + torch.diag_embed(added.expand(len(gram)))).L


def unit_rows(free: Tensor, rows: int, columns: int) -> Tensor:
    """Return rows of norm 1, (rows, columns): each logit is 1-Lipschitz; a row of zeros keeps them.

    Source: Singla et al. 2022, Improved Deterministic l2 Robustness on CIFAR-10 and CIFAR-100.
    """
    tiny = torch.finfo(free.dtype).tiny
    scaled = free / free.abs().amax(dim=1, keepdim=True).clamp_min(tiny)  # squares of small numbers underflow
    return scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(tiny)


ORTHOGONAL: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "bro": block_reflector,
    "cayley": cayley,
    "cholesky": cholesky,
    "unit_rows": unit_rows,
}
"""By name: what makes a matrix (rows, columns) of free numbers."""


class Orthogonal(nn.Module):
    """One of `ORTHOGONAL` as a parametrization of a weight; the same at each use, in either mode.

    Args:
        kind: a key of `ORTHOGONAL`.
        shape: of the weight, (outputs, inputs, ...); all but the first entry are columns of the matrix.
    """

    def __init__(self, kind: str, shape: Sequence[int]) -> None:
        super().__init__()
        self.kind = kind
        self.shape = tuple(shape)

    def forward(self, free: Tensor) -> Tensor:
        """Return the weight that free numbers lead to."""
        return ORTHOGONAL[self.kind](free, self.shape[0], prod(self.shape[1:])).view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return free numbers to start from, taken from a weight of independent entries."""
        matrix = weight.reshape(len(weight), -1)
        if self.kind != "bro":
            return matrix
        tall = matrix if len(matrix) >= matrix.shape[1] else matrix.mT
        return tall[:, : max(1, min(tall.shape[1], len(tall) // 2))].contiguous()

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{self.kind!r}, {self.shape}"


def parametrize_orthogonal(layer: nn.Linear | nn.Conv2d, kind: str) -> nn.Linear | nn.Conv2d:
    """Return `layer` itself, its weight parametrized by `Orthogonal`.

    A convolution is as orthogonal as the matrix of its kernel where it reads each pixel once.

    Args:
        layer: a dense one, or a convolution whose stride is its kernel's size, without padding.
        kind: a key of `ORTHOGONAL`.

    Raises:
        ValueError: for an unknown kind, or a convolution of overlapping or padded patches.
    """
    if kind not in ORTHOGONAL:
        raise ValueError(f"Expected one of {', '.join(ORTHOGONAL)}, got {kind!r}.")
    once = isinstance(layer, nn.Linear) or (
        layer.kernel_size == layer.stride and (layer.padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)
    )
    if not once:
        raise ValueError(
            f"Expected a layer that reads each pixel once (kernel size = stride, no padding), got {layer}; "
            "parametrization=aol takes others."
        )
    register_parametrization(layer, "weight", Orthogonal(kind, layer.weight.shape))
    return layer
