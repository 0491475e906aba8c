"""Matrices by impulse responses, and random parts of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipcert.bounds import Bound, analyze
from lipcert.norms import UpperNorms
from lipcert.soundness.dense import of_map, segments, submasks
from lipcert.soundness.norms import NotedNorms, masked_layers
from tests.networks import IMAGE, images, network
from tests.oracles import map_matrix


@pytest.mark.parametrize("name", ["plain", "pooled"])
def test_layers_and_bounds_mean_the_same_matrix(name: str) -> None:
    model = network(name, "clipped_maxmin")
    known = segments(model, IMAGE)
    norms = NotedNorms(UpperNorms())
    analyze(model, images(1), 0.1, Bound.TIGHT, norms)
    assert set(known) == set(norms.noted)
    for layer, noted in norms.noted.items():
        matrix = known[layer].matrix()
        np.testing.assert_allclose(matrix, map_matrix(noted[0].linear_map, 1)[0].detach().numpy(), atol=1e-12)
        rows, columns = torch.tensor([0, 3]), torch.tensor([1, 2, 4])
        np.testing.assert_array_equal(known[layer].matrix(rows, columns), matrix[np.ix_(rows, columns)])


def test_residual_networks_use_the_map_itself() -> None:
    model = network("residual", "relu")
    assert segments(model, IMAGE) == {}
    _, noted = masked_layers(model, images(2), 0.1, 20)
    assert set(noted) > {"1", "4..0"}
    masked = noted["1"][0]
    expected = map_matrix(masked.linear_map, 1)[0].detach().numpy()
    np.testing.assert_allclose(of_map(masked.linear_map, torch.device("cpu")).matrix(), expected, atol=1e-12)


def test_masks_are_those_of_single_images() -> None:
    model = network("plain", "clipped_relu")
    _, noted = masked_layers(model, images(2), 0.3, 30)
    masked = [each for each in noted["3"] if not each.rows.all()]
    assert len(masked) >= 10
    assert all(each.rows.shape == (1, 6, 3, 3) for each in masked)
    assert all(each.columns.shape == (1, 4, 6, 6) for each in masked)
    assert any(not each.columns.all() for each in masked)


@pytest.mark.parametrize(("outputs", "inputs"), [((4, 6, 6), (2, 6, 6)), ((12,), (6, 3, 3)), ((12,), (54,))])
def test_random_parts_are_small_and_not_empty(outputs: tuple[int, ...], inputs: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        rows, columns = submasks(outputs, inputs, 40, generator)
        assert (rows.shape, columns.shape) == ((1, *outputs), (1, *inputs))
        for mask in (rows, columns):
            assert 0 < mask.sum() <= 40
            assert set(mask.unique().tolist()) <= {0.0, 1.0}
