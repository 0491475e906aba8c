"""Counts of power iterations, against a power iteration on dense matrices."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipcert.bounds import Bound, analyze
from lipcert.graph import LinearMap, map_of, operator
from lipcert.jobs import power_iterations
from lipcert.jobs.power_iterations import convergence_counts, iterations_to_converge
from lipcert.norms import MapKey
from lipcert.records.measurement import NOT_CONVERGED
from tests.networks import images, network
from tests.oracles import ExactNorms, map_matrix

TOLERANCE = 1e-3


def _dense_count(matrix: NDArray[np.float64], start: NDArray[np.float64], largest: int) -> int:
    """Return the number of the first iteration u <- MᵀMu / |MᵀMu| that moves u by no more than the tolerance."""
    vector = start / np.linalg.norm(start)
    for number in range(1, largest + 1):
        image = matrix.T @ (matrix @ vector)
        if not np.linalg.norm(image):
            return 0
        following = image / np.linalg.norm(image)
        if np.linalg.norm(following - vector) <= TOLERANCE:
            return number
        vector = following
    return -1


def _dense(linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, batch: int) -> NDArray[np.float64]:
    matrix = map_matrix(linear_map, batch)
    matrix = matrix if rows is None else matrix * rows.flatten(1)[:, :, None]
    return (matrix if columns is None else matrix * columns.flatten(1)[:, None, :]).detach().numpy()


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("masked", [True, False])
def test_counts_are_those_of_dense_matrices(masked: bool, stopped: bool) -> None:
    torch.manual_seed(0)
    linear_map = map_of(operator(nn.Conv2d(2, 3, 3, 2, 1).double(), (2, 6, 6)), torch.zeros(0, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(7, *linear_map.input_shape, generator=generator, dtype=torch.float64)
    rows = columns = None
    if masked:
        rows = (torch.rand(7, *linear_map.output_shape, generator=generator) < 0.6).double()
        columns = (torch.rand(7, *linear_map.input_shape, generator=generator) < 0.6).double()
        rows[3] = 0
    with torch.no_grad():
        matrices = _dense(linear_map, rows, columns, 7)
    inside = start if columns is None else start * columns
    vectors = inside.flatten(1).numpy()
    unlimited = [_dense_count(*pair, 2000) for pair in zip(matrices, vectors, strict=True)]
    assert len(set(unlimited)) > 2
    largest = sorted(unlimited)[4] if stopped else 2000
    expected = [NOT_CONVERGED if count > largest else count for count in unlimited]
    found = iterations_to_converge(linear_map, start, rows, columns, TOLERANCE, largest).tolist()
    assert found == expected
    assert (0 in expected) == masked
    assert (NOT_CONVERGED in expected) == stopped


def test_counts_of_a_network_use_the_masks_of_the_local_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, epsilon = network("plain", "clipped_relu"), images(4), 0.1
    starts: dict[str, Tensor] = {}
    correct = iterations_to_converge

    def remembered(linear_map: LinearMap, start: Tensor, *settings: object) -> Tensor:
        starts[str(len(starts))] = start
        return correct(linear_map, start, *settings)  # type: ignore[arg-type]

    monkeypatch.setattr(power_iterations, "iterations_to_converge", remembered)
    counts = convergence_counts(model, batch, epsilon, TOLERANCE, 300, batch_size=4, seed=0)
    met: dict[str, Counter[int]] = {}

    class Dense(ExactNorms):
        def local_norms(
            self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None
        ) -> Tensor:
            start = starts[str(len(met))]
            inside = start if columns is None else start * columns
            matrices = _dense(linear_map, rows, columns, len(batch))
            vectors = inside.flatten(1).numpy()
            met[key.name] = Counter(_dense_count(*pair, 300) for pair in zip(matrices, vectors, strict=True))
            return super().local_norms(key, linear_map, rows, columns)

    with torch.no_grad():
        analyze(model, batch, epsilon, Bound.LOCAL, Dense())
    assert list(counts) == list(met) == ["1", "3", "6"]
    assert counts == met
    assert all(sum(found.values()) == 4 for found in counts.values())
