"""Spectral norms of masked linear maps, and how often they may fail."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lipcert.recheck.affine import Affine
from lipcert.recheck.program import Adjoint, AffineStep, LinearMap, Program, linear_map, single_map
from lipcert.recheck.spectral import Bracket, Vector, dense_bracket, gram_bracket

DENSE_LIMIT = 400
"""Maps with no more rows or columns than this are written out; twice as many where the map is one layer."""

CHUNK = 64
"""Rows or columns of a map that are computed at once."""

WHOLE_STEPS = 1000
"""Most Lanczos steps for norms that are computed once."""


@dataclass(eq=False)
class Norms:
    """Computes norms and counts those that hold with high probability only.

    `delta`: failure probability of a draw; `steps`: most Lanczos steps for a norm of one image; `impulses`: most
    vectors that are sent through a map to write out the norms of its rows; `generator`: of the
    draws, seeded by the operating system when left out; `drawn`: norms so far whose bound rests on a draw.
    """

    delta: float = 1e-9
    steps: int = 300
    impulses: int = 400
    generator: np.random.Generator = field(default_factory=np.random.default_rng)
    drawn: int = 0
    _absolute: dict[Affine, float] = field(default_factory=dict)
    _whole: dict[tuple[Program, int, int], Bracket] = field(default_factory=dict)

    @property
    def failure_probability(self) -> float:
        """Probability that any norm so far is wrong: two times `delta` each, see `gram_bracket`."""
        return 2 * self.delta * self.drawn

    def bracket(
        self, there: LinearMap, rows: Tensor | None, columns: Tensor | None, steps: int | None = None
    ) -> Bracket:
        """Bracket the norm of diag(rows) J diag(columns), masks of 0 and 1, (1, ...); None stands for all."""
        row_index = _kept(rows, there.end_shape)
        column_index = _kept(columns, there.start_shape)
        if not len(row_index) or not len(column_index):
            return Bracket(0.0, 0.0)
        if min(len(row_index), len(column_index)) <= DENSE_LIMIT * (2 if len(there.steps) == 1 else 1):
            return dense_bracket(dense_gram(there, row_index, column_index).numpy())
        self.drawn += 1
        masked = _Masked(there, row_index, column_index)
        return gram_bracket(masked.on_vector, masked.size, self.delta, self.generator, max_steps=steps or self.steps)

    def whole(self, program: Program, start: int, end: int) -> Bracket:
        """Bracket the norm from value `start` to `end` with activations in between cut; computed once a program."""
        key = (program, start, end)
        if key not in self._whole:
            there = linear_map(program, start, end, {})
            self._whole[key] = Bracket(0.0, 0.0) if there is None else self.bracket(there, None, None, WHOLE_STEPS)
        return self._whole[key]

    def row_norms(self, there: LinearMap, columns: Tensor) -> Tensor | None:
        """Return the norms of the rows of J diag(columns), (1, ...); None where that takes too many impulses."""
        index = _kept(columns, there.start_shape)
        size = int(np.prod(there.end_shape))
        if min(len(index), size) > self.impulses:
            return None
        by_columns = len(index) <= size
        squares = torch.zeros(size, dtype=torch.float64)
        for chunk in torch.eye(min(len(index), size), dtype=torch.float64).split(CHUNK):
            if by_columns:
                squares += there.apply(_scatter(chunk, index, there.start_shape)).flatten(1).square().sum(dim=0)
            else:
                rows = there.adjoint(chunk.view(-1, *there.end_shape)).flatten(1)[:, index]
                squares[chunk.nonzero()[:, 1]] = rows.square().sum(dim=1)
        return squares.sqrt().view(1, *there.end_shape)

    def affine(self, step: AffineStep, program: Program) -> float:
        """Return an upper bound of the norm of one layer's matrix."""
        if step.affine.monomial:
            ones = torch.ones(1, *program.shapes[step.source], dtype=torch.float64)
            return float(step.affine.absolute(ones).max())
        return self.whole(program, step.source, step.target).upper

    def absolute(self, step: AffineStep, program: Program) -> float:
        """Return an upper bound of the norm of one layer's matrix of moduli; computed once a layer."""
        if step.affine.monomial:
            return self.affine(step, program)
        if step.affine not in self._absolute:
            moduli = single_map(replace(step, affine=replace(step.affine, linear=step.affine.absolute)), program)
            self._absolute[step.affine] = self.bracket(moduli, None, None, WHOLE_STEPS).upper
        return self._absolute[step.affine]


def _kept(mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    flat = torch.ones(shape).flatten() if mask is None else mask.flatten()
    return flat.nonzero().flatten()


def _scatter(values: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Place (B, len(index)) values into zeros of (B, *shape)."""
    whole = torch.zeros(values.shape[0], int(np.prod(shape)), dtype=torch.float64)
    whole[:, index] = values
    return whole.view(-1, *shape)


def dense_gram(there: LinearMap, rows: Tensor, columns: Tensor) -> Tensor:
    """Return MᵀM or MMᵀ, the smaller, of J at the given flat rows and columns, from impulses, (n, n)."""
    masked = _Masked(there, rows, columns)
    chunks = torch.eye(masked.size, dtype=torch.float64).split(CHUNK)
    return torch.cat([masked(chunk) for chunk in chunks])


class _Masked:
    """The Gram operator of a masked map on the side with fewer entries, (B, size) -> (B, size)."""

    def __init__(self, there: LinearMap, rows: Tensor, columns: Tensor) -> None:
        self.map = there
        self.rows, self.columns = rows, columns
        self.size = min(len(rows), len(columns))
        self.adjoints: dict[int, Adjoint] = {}

    def __call__(self, values: Tensor) -> Tensor:
        if len(self.columns) <= len(self.rows):
            return self._back(self._forth(values))
        return self._forth(self._back(values))

    def on_vector(self, vector: Vector) -> Vector:
        """Return the product with one numpy vector."""
        return self(torch.from_numpy(vector)[None])[0].numpy()

    def _forth(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = self.map.apply(_scatter(values, self.columns, self.map.start_shape))
        return outputs.flatten(1)[:, self.rows]

    def _back(self, values: Tensor) -> Tensor:
        batch = values.shape[0]
        if batch not in self.adjoints:
            self.adjoints[batch] = Adjoint(self.map, batch)
        outputs = _scatter(values, self.rows, self.map.end_shape)
        return self.adjoints[batch](outputs).flatten(1)[:, self.columns]
