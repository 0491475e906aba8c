"""Lipschitz bounds: the toy example of appendix A.1, Theorem 1 on random networks, appendix A.2."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lipcert
from lipcert.bounds import Bound, analyze, lipschitz_to_logits
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin
from tests.oracles import ExactNorms, points_in_ball


def _toy() -> nn.Sequential:
    layers = [nn.Linear(3, 3), ClippedReLU((3,)), nn.Linear(3, 3), ClippedReLU((3,)), nn.Linear(3, 1)]
    model = nn.Sequential(*layers).double()
    for index in (0, 2):
        model[index].weight.data = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    model[4].weight.data = torch.ones(1, 3, dtype=torch.float64)
    for index in (0, 2, 4):
        nn.init.zeros_(model[index].bias)
    return model


X = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)


def test_toy_example_masks_norms_and_boxes() -> None:
    with np.load(Path(__file__).parent.parent / "golden" / "toy_a1.npz") as data:
        toy = {key: torch.from_numpy(data[key]) for key in data.files}
    model = _toy()
    for index in (0, 2, 4):
        assert torch.equal(model[index].weight.data, toy[f"W{index}"])
    with torch.no_grad():
        local = analyze(model, X, 0.1, "local", ExactNorms())
        whole = analyze(model, X, 0.1, "global", ExactNorms())
    for bounds, key in zip(local.activations, ("mask0", "mask2"), strict=True):
        torch.testing.assert_close(bounds.varying[0], toy[key])  # type: ignore[index]
        assert bounds.masked_norm.item() == pytest.approx(1.0)
        assert bounds.whole_norm.item() == pytest.approx(3.0)
    # Appendix A.1 prints the box of the first layer.
    torch.testing.assert_close(local.activations[0].lower, torch.tensor([[2.7, -2.2, -0.1]], dtype=torch.float64))
    torch.testing.assert_close(local.activations[0].upper, torch.tensor([[3.3, -1.8, 0.1]], dtype=torch.float64))
    source = local.families[0][0].source
    torch.testing.assert_close(source.center, toy["mu_prev"])
    assert source.box is not None
    lower, upper = source.box
    torch.testing.assert_close((upper + lower) / 2, toy["ibp_mu_prev"])
    torch.testing.assert_close((upper - lower) / 2, toy["ibp_r_prev"])
    torch.testing.assert_close(local.logits, toy["logits"])
    assert 0.1 * local.lipschitz.item() == pytest.approx(toy["r_tight"].item())
    assert 0.1 * whole.lipschitz.item() == pytest.approx(toy["r_global"].item())


def test_toy_example_is_nine_root_three_and_one() -> None:
    model = _toy()
    norms = ExactNorms()
    with torch.no_grad():
        whole = lipschitz_to_logits(analyze(model, X, 0.1, "global", norms), norms)
        local = lipschitz_to_logits(analyze(model, X, 0.1, "local", norms), norms)
    assert whole.item() == pytest.approx(9 * 3**0.5, rel=1e-12)
    assert local.item() == pytest.approx(1.0, rel=1e-12)
    # The public functions bound the same constants from above, at a failure probability of 1e-9 a norm.
    assert lipcert.global_lipschitz(model, (3,)) == pytest.approx(9 * 3**0.5, rel=1e-4)
    assert lipcert.local_lipschitz(model, X, 0.1, "local").item() == pytest.approx(1.0, rel=1e-4)
    assert lipcert.local_lipschitz(model, X, 0.1).item() == pytest.approx(1.0, rel=1e-4)


def _random_model(seed: int, kind: int, widths: list[int]) -> tuple[nn.Sequential, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        activation = (
            nn.ReLU(),
            ClippedReLU((after,), 0.5),
            MaxMin(),
            ClippedMaxMin((after,), 0.3, -0.3),
        )[kind]
        layers += [nn.Linear(before, after), activation]
    layers.append(nn.Linear(widths[-2], widths[-1]))
    model = nn.Sequential(*layers).double()
    for layer in model:
        if isinstance(layer, nn.Linear):
            for parameter in layer.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.7
    return model, torch.randn(4, widths[0], generator=generator, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.integers(0, 3),
    halves=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    epsilon=st.floats(0.001, 2.0),
)
def test_theorem_1(seed: int, kind: int, halves: list[int], epsilon: float) -> None:
    """tight <= local <= global, and every bound holds for sampled pairs."""
    model, inputs = _random_model(seed, kind, [3, *(2 * half for half in halves), 3])
    norms = ExactNorms()
    constants = {}
    with torch.no_grad():
        for bound in Bound:
            analysis = analyze(model, inputs, epsilon, bound, norms)
            constants[bound] = lipschitz_to_logits(analysis, norms).expand(4)
        slack = 1 + 1e-9
        assert (constants[Bound.LOCAL] <= constants[Bound.GLOBAL] * slack).all()
        assert (constants[Bound.TIGHT] <= constants[Bound.LOCAL] * slack).all()
        logits = model(inputs)
        for points in points_in_ball(inputs, epsilon, 20, seed % 1000):
            ratio = (model(points) - logits).norm(dim=1) / (points - inputs).norm(dim=1)
            for bound in Bound:
                assert (ratio <= constants[bound] * slack + 1e-12).all()


def test_keeping_linear_neurons_apart_can_exceed_the_global_bound() -> None:
    """Appendix A.2: the split bound is sometimes above the global one, which `local` never is."""
    norms = ExactNorms()
    above = below = 0
    for seed in range(30):
        model, inputs = _random_model(seed, 0, [3, 8, 8, 8, 3])
        with torch.no_grad():
            constants = {
                bound: lipschitz_to_logits(analyze(model, inputs, 0.3, bound, norms), norms)
                for bound in (Bound.GLOBAL, Bound.LOCAL, Bound.LINEAR_SPLIT)
            }
        above += int((constants[Bound.LINEAR_SPLIT] > constants[Bound.GLOBAL] * 1.001).sum())
        below += int((constants[Bound.LINEAR_SPLIT] < constants[Bound.LOCAL] * 0.999).sum())
        assert (constants[Bound.LOCAL] <= constants[Bound.GLOBAL] * (1 + 1e-9)).all()
    assert above > 0
    assert below > 0  # and sometimes it is the best of all


def test_linear_neurons_everywhere_give_the_norm_of_the_product() -> None:
    """Where all neurons stay linear, the split bound is the norm of the merged matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    model[0].bias.data.fill_(100.0)
    norms = ExactNorms()
    with torch.no_grad():
        analysis = analyze(model, torch.rand(2, 3, dtype=torch.float64), 0.1, "linear_split", norms)
        bound = lipschitz_to_logits(analysis, norms)
    exact = torch.linalg.matrix_norm(model[2].weight @ model[0].weight, 2)
    torch.testing.assert_close(bound, exact.expand(2))


def test_a_layer_used_twice_counts_twice() -> None:
    """One module object at two places of a Sequential is applied twice, and so is its rule."""
    linear, relu = nn.Linear(3, 3).double(), nn.ReLU()
    linear.weight.data = 2 * torch.eye(3, dtype=torch.float64)
    model = nn.Sequential(linear, relu, linear, relu, linear)
    assert lipcert.global_lipschitz(model, (3,)) == pytest.approx(8.0, rel=1e-4)
