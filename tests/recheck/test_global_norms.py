"""Maps between activations, the norms they have and the constants that follow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipcert.certificates import Cascade
from lipcert.jobs.certify import certify_batch
from lipcert.recheck import Rechecker
from lipcert.recheck.global_norms import GlobalNorms
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import compile_program
from tests.networks import IMAGE, images, network


def _global_norms(name: str) -> GlobalNorms:
    return GlobalNorms(compile_program(network(name, "relu"), IMAGE), Norms())


def test_maps_are_found_by_the_activation_that_closes_them() -> None:
    assert set(_global_norms("plain").closed) == {"1", "3", "6"}


def test_maps_that_several_sources_feed_are_left_out() -> None:
    assert set(_global_norms("residual").closed) == {"1", "2.branch.1"}


def test_lengths_of_pairs_are_those_of_differences_of_rows() -> None:
    weight = network("plain", "relu")[7].weight.detach().double()
    expected = torch.linalg.vector_norm(weight[:, None] - weight[None], dim=2)
    torch.testing.assert_close(_global_norms("plain").pair_lengths, expected)


@pytest.mark.parametrize("name", ["plain", "pooled", "residual", "activations in a row"])
def test_certifiers_name_the_same_maps_and_stay_below_the_constant(name: str) -> None:
    """Names, brackets and constants of a record come from other code."""
    if name == "activations in a row":
        torch.manual_seed(0)
        relu = nn.ReLU()
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 20), relu, relu, nn.Linear(20, 5), nn.ReLU()).eval()
    else:
        model = network(name, "relu").float()
    batch = certify_batch(Cascade(model), images()[:3].float(), torch.arange(3), 0, [0.01])
    norms = Rechecker(model, IMAGE, False).global_norms
    assert set(batch.norms) == set(norms.closed)
    for each, there in norms.closed.items():
        lower, upper = norms.bracket(there)
        assert lower <= batch.norms[each].upper * (1 + 1e-9)
        assert batch.norms[each].lower <= upper * (1 + 1e-9)
    lower, upper = norms.constant
    assert lower <= upper
    assert all(row.lipschitz <= upper * 1.01 for row in batch.rows)
