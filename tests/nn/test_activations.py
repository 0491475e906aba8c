"""Clipped activations against numpy, and their gradients against torch's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, build
from lipcert.nn.activations import clipped_relu
from lipcert.nn.architectures import project_thresholds

SHAPE = (4, 3, 2)


def _random_thresholds(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give every neuron a threshold of its own."""
    layer = layer.double()
    for name, parameter in layer.named_parameters():
        drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(-drawn if name == "min" else drawn)
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "clipped_relu": lambda: ClippedReLU(SHAPE),
    "maxmin": MaxMin,
    "clipped_maxmin": lambda: ClippedMaxMin(SHAPE),
}


def test_clipped_relu_by_hand() -> None:
    layer = ClippedReLU((5,), threshold=1.5)
    outputs = layer(torch.tensor([[-2.0, 0.0, 1.0, 1.5, 7.0]]))
    assert outputs.tolist() == [[0.0, 0.0, 1.0, 1.5, 1.5]]
    assert layer.threshold.shape == (1, 5)


def test_max_min_by_hand() -> None:
    outputs = MaxMin()(torch.tensor([[1.0, 5.0, 3.0, -4.0]]))  # pairs (1, 3) and (5, -4)
    assert outputs.tolist() == [[3.0, 5.0, 1.0, -4.0]]


def test_clipped_max_min_by_hand() -> None:
    layer = ClippedMaxMin((4,), max=2.0, min=-0.5)
    outputs = layer(torch.tensor([[1.0, 5.0, 0.5, -4.0]]))  # pairs (1, 0.5) and (5, -4)
    assert outputs.tolist() == [[1.0, 2.0, 0.5, -0.5]]
    assert layer.max.shape == layer.min.shape == (1, 2)


def test_one_threshold_a_neuron() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, *SHAPE, generator=generator, dtype=torch.float64)
    values = inputs.numpy()
    relu = _random_thresholds(ClippedReLU(SHAPE), generator)
    np.testing.assert_array_equal(relu(inputs).detach().numpy(), np.clip(values, 0, relu.threshold.detach().numpy()[0]))
    max_min = _random_thresholds(ClippedMaxMin(SHAPE), generator)
    ordered = np.sort(np.stack((values[:, :2], values[:, 2:])), axis=0)
    larger = np.where(ordered[1] > max_min.max.detach().numpy(), max_min.max.detach().numpy(), ordered[1])
    smaller = np.where(ordered[0] < max_min.min.detach().numpy(), max_min.min.detach().numpy(), ordered[0])
    np.testing.assert_array_equal(max_min(inputs).detach().numpy(), np.concatenate((larger, smaller), axis=1))


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), distance=st.sampled_from([1e-6, 1e-2, 1.0, 30.0]))
def test_one_lipschitz(name: str, seed: int, distance: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = _random_thresholds(LAYERS[name](), generator)
    first = torch.randn(8, *SHAPE, generator=generator, dtype=torch.float64)
    second = first + distance * torch.randn(8, *SHAPE, generator=generator, dtype=torch.float64)
    moved = (layer(first) - layer(second)).flatten(1).norm(dim=1)
    allowed = (first - second).flatten(1).norm(dim=1)
    assert (moved <= allowed * (1 + 1e-9)).all()
    assert moved.max() > 0


def test_constant_beyond_the_thresholds() -> None:
    relu = ClippedReLU((2,), threshold=0.7)
    high, low = torch.tensor([[0.7, 1.0], [5.0, 1e9]]), torch.tensor([[-1e9, -1.0], [0.0, -1e-9]])
    assert relu(high).tolist() == [[relu.threshold[0, 0].item()] * 2] * 2
    assert relu(low).tolist() == [[0.0, 0.0]] * 2
    max_min = ClippedMaxMin((2,), max=1.0, min=-1.0)
    assert max_min(torch.tensor([[3.0, -2.0], [-50.0, 1.0]])).tolist() == [[1.0, -1.0]] * 2


def test_project_raises_only_negative_thresholds() -> None:
    model = nn.Sequential(ClippedReLU((3,)), ClippedMaxMin((2,), min=-1.0))
    model[0].threshold.data = torch.tensor([[-0.5, 0.0, 2.0]])
    project_thresholds(model)
    assert model[0].threshold.tolist() == [[0.0, 0.0, 2.0]]
    assert model[1].min.tolist() == [[-1.0]]
    assert model[0].threshold.requires_grad


@pytest.mark.parametrize("threshold", [-1e-6, -1.0, float("nan")])
def test_clipped_relu_refuses_thresholds(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold.*>= 0"):
        ClippedReLU((3,), threshold)


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ClippedMaxMin.*even.*\(3, 8, 8\)"):
        ClippedMaxMin((3, 8, 8))
    with pytest.raises(ValueError, match=r"MaxMin.*even.*\(5, 2\)"):
        MaxMin()(torch.zeros(1, 5, 2))


def test_nan_propagates() -> None:
    nan = torch.tensor([[float("nan"), 1.0]])
    assert clipped_relu(nan, torch.ones(1, 2)).isnan().tolist() == [[True, False]]
    assert clipped_relu(torch.ones(1, 2), nan).isnan().tolist() == [[True, False]]
    outputs: Tensor = ClippedMaxMin((2,))(nan)
    assert outputs.isnan().all()


@pytest.mark.parametrize("threshold", [[1.0, 0.5, torch.nan, 0.0], [2.0]])
def test_clipped_relu_is_the_same_without_gradients(threshold: list[float]) -> None:
    inputs = torch.tensor([[-1.0, 0.7, 0.3, 5.0], [torch.nan, -torch.inf, torch.inf, 0.0]])
    recorded = clipped_relu(inputs, torch.tensor([threshold]))
    with torch.no_grad():
        assert torch.equal(clipped_relu(inputs, torch.tensor([threshold])).nan_to_num(9.0), recorded.nan_to_num(9.0))
    assert recorded.isnan().any()


@pytest.mark.parametrize("activation", ["clipped_relu", "clipped_maxmin"])
def test_function_transforms(activation: str) -> None:
    """Jacobians and gradients of each image by torch.func are those of autograd, image by image."""
    torch.manual_seed(0)
    model, images = build("small", (1, 8, 8), 3, activation), torch.rand(2, 1, 8, 8)

    def logits(image: Tensor) -> Tensor:
        return model(image[None])[0]

    expected = torch.stack([torch.autograd.functional.jacobian(logits, image) for image in images])
    assert torch.allclose(vmap(jacrev(logits))(images), expected, atol=1e-6)
    parameters = dict(model.named_parameters())

    def square(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, parameters, (image[None],)).square().sum()

    found = vmap(grad(square), in_dims=(None, 0))(parameters, images)
    for index, image in enumerate(images):
        model.zero_grad()
        square(parameters, image).backward()
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            assert torch.allclose(found[name][index], parameter.grad, atol=1e-6)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(images), model(images))
