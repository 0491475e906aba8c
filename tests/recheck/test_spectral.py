"""Norm brackets against dense SVD, and how often they fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipcert.recheck import norms as norms_module
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import compile_program, linear_map
from lipcert.recheck.spectral import dense_bracket, gram_bracket
from tests.networks import IMAGE, network


def _matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def test_a_bracket_is_exact_when_converged() -> None:
    matrix = _matrix(120, 80)
    exact = np.linalg.norm(matrix, 2)
    found = gram_bracket(lambda v: matrix.T @ (matrix @ v), 80, 1e-9, np.random.default_rng(1))
    assert exact * (1 - 1e-8) <= found.lower <= exact <= found.upper <= exact * (1 + 1e-8)


def test_dense_and_zero_maps() -> None:
    matrix = _matrix(30, 20)
    exact = np.linalg.norm(matrix, 2)
    found = dense_bracket(matrix.T @ matrix)
    assert found.lower <= exact <= found.upper <= exact * (1 + 1e-8)
    assert gram_bracket(np.zeros_like, 50, 1e-9, np.random.default_rng(0)) == (0.0, 0.0)


@pytest.mark.parametrize("spectrum", [np.ones(300), np.r_[np.ones(150), np.full(150, 2.0)], np.r_[3.0, np.zeros(299)]])
def test_an_exhausted_krylov_space_is_treated_soundly(spectrum: np.ndarray) -> None:
    exact = np.sqrt(spectrum.max())
    for seed in range(20):
        found = gram_bracket(lambda v: spectrum * v, 300, 1e-9, np.random.default_rng(seed))
        assert found.lower <= exact <= found.upper <= exact * (1 + 1e-6)


def test_failures_are_no_more_frequent_than_stated_and_the_statement_is_not_idle() -> None:
    """After one step with an eigenvalue far from the rest, the bound fails just when the start hardly sees it."""
    spectrum = np.r_[1e4, np.linspace(0, 1, 199)]
    failed = sum(
        gram_bracket(lambda v: spectrum * v, 200, 0.3, np.random.default_rng(seed), max_steps=1).upper < 100
        for seed in range(2000)
    )
    assert 0.2 < failed / 2000 < 0.335


def test_few_steps_still_bound_from_above() -> None:
    matrix = _matrix(200, 150, 3)
    exact = np.linalg.norm(matrix, 2)
    for steps in (2, 5, 10, 20):
        found = gram_bracket(lambda v: matrix.T @ (matrix @ v), 150, 1e-9, np.random.default_rng(steps), 1e-9, steps)
        assert found.lower <= exact <= found.upper


def test_products_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        gram_bracket(lambda v: v * np.nan, 10, 1e-9, np.random.default_rng(0))
    with pytest.raises(ArithmeticError, match="not finite"):
        dense_bracket(np.full((2, 2), np.inf))


@pytest.mark.parametrize("name", ["plain", "pooled", "residual"])
@pytest.mark.parametrize("limit", [0, 400])
def test_masked_norms_are_those_of_the_written_out_map(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms_module, "DENSE_LIMIT", limit)
    program = compile_program(network(name, "relu"), IMAGE)
    generator = torch.Generator().manual_seed(0)
    slopes = {
        step.target: torch.rand(1, *program.shapes[step.target], generator=generator, dtype=torch.float64)
        for step in program.steps
        if hasattr(step, "activation")
    }
    there = linear_map(program, 0, program.output, slopes)
    assert there is not None
    size = int(np.prod(IMAGE))
    matrix = there.apply(torch.eye(size, dtype=torch.float64).view(size, *IMAGE)).flatten(1).T
    back = there.adjoint(torch.eye(matrix.shape[0], dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(back, matrix, rtol=1e-10, atol=1e-12)
    rows = (torch.rand(1, matrix.shape[0], generator=generator) < 0.7).double()
    rows[0, 0] = 1
    columns = (torch.rand(1, *IMAGE, generator=generator) < 0.5).double()
    for mask in (columns, torch.ones_like(columns)):
        found_rows = Norms().row_norms(there, mask)
        assert found_rows is not None
        torch.testing.assert_close(found_rows[0], (matrix * mask.view(1, -1)).norm(dim=1))
    assert Norms(impulses=2).row_norms(there, columns) is None
    exact = float(torch.linalg.matrix_norm(rows.view(-1, 1) * matrix * columns.view(1, -1), 2))
    norms = Norms(generator=np.random.default_rng(0))
    found = norms.bracket(there, rows, columns)
    assert found.lower <= exact * (1 + 1e-12) <= found.upper <= exact * (1 + 1e-7)
    assert norms.drawn == (1 if limit == 0 else 0)
    assert norms.failure_probability == 2e-9 * norms.drawn
