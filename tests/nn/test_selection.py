"""Minimum and maximum with arithmetic gradients, against torch's minimum and maximum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipcert.nn.activations import maximum, minimum, sum_to_shape

PAIRS = [pytest.param(minimum, torch.minimum, id="minimum"), pytest.param(maximum, torch.maximum, id="maximum")]
SHAPES = [
    ((3, 4, 2, 5), (3, 4, 2, 5)),
    ((3, 4, 2, 5), (1, 4, 2, 5)),
    ((1, 4, 2, 5), (3, 4, 2, 5)),
    ((3, 4, 2, 5), (4, 1, 5)),
    ((3, 4, 2, 5), (1, 4, 1, 1)),
    ((3, 6), (1, 6)),
    ((3, 6), ()),
]


def _apart(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return tensors none of whose entries are within 0.2 of one another: one of integers, one half a step off."""
    generator = torch.Generator().manual_seed(3)
    left = torch.randint(-9, 9, first, generator=generator).double()
    right = torch.randint(-9, 9, second, generator=generator).double() + 0.5
    return left.requires_grad_(), right.requires_grad_()


def _gradients(function, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    outputs = function(first, second)
    weights = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return outputs, *torch.autograd.grad((outputs * weights).sum(), (first, second))


@pytest.mark.parametrize(("ours", "torch_one"), PAIRS)
@pytest.mark.parametrize(("first_shape", "second_shape"), SHAPES)
def test_values_and_gradients(ours, torch_one, first_shape: tuple[int, ...], second_shape: tuple[int, ...]) -> None:
    first, second = _apart(first_shape, second_shape)
    for result, expected in zip(_gradients(ours, first, second), _gradients(torch_one, first, second), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ours", "torch_one"), PAIRS)
@pytest.mark.parametrize("contiguous_gradient", [True, False])
def test_channels_last(ours, torch_one, contiguous_gradient: bool) -> None:
    first, second = _apart((3, 4, 2, 5), (1, 4, 2, 5))
    last = first.detach().to(memory_format=torch.channels_last).requires_grad_()
    layout = torch.contiguous_format if contiguous_gradient else torch.channels_last
    outputs = ours(last, second)
    weights = torch.randn(outputs.shape, dtype=torch.float64).to(memory_format=layout)
    results = torch.autograd.grad(outputs, (last, second), weights)
    expected = torch.autograd.grad(torch_one(first, second), (first, second), weights.contiguous())
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result.contiguous(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [minimum, maximum])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradcheck(function, memory_format: torch.memory_format) -> None:
    first, second = _apart((2, 3, 2, 2), (1, 3, 2, 2))
    first = first.detach().to(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(function, (first, second))


@pytest.mark.parametrize("wanted", ["first", "second"])
def test_gradient_of_one_argument_alone(wanted: str) -> None:
    first, second = _apart((3, 4), (1, 4))
    (first if wanted == "second" else second).requires_grad_(False)
    argument = first if wanted == "first" else second
    (ours,) = torch.autograd.grad(minimum(first, second).sum(), argument)
    (expected,) = torch.autograd.grad(torch.minimum(first, second).sum(), argument)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("function", [minimum, maximum])
def test_a_tie_gives_the_second_argument_everything(function) -> None:
    first, second = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    function(first, second).sum().backward()
    assert first.grad.tolist() == [0.0] * 4
    assert second.grad.tolist() == [1.0] * 4


@pytest.mark.parametrize("function", [minimum, maximum])
def test_nan_in_either_argument(function) -> None:
    nan, one = torch.tensor([float("nan")]), torch.ones(1)
    assert function(nan, one).isnan().all()
    assert function(one, nan).isnan().all()


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (1, 4, 2, 5), (4, 1, 1), (1, 1, 1, 5), ()])
def test_sum_to_shape(shape: tuple[int, ...]) -> None:
    values = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        summed = sum_to_shape(values.to(memory_format=layout), torch.Size(shape))
        torch.testing.assert_close(summed, values.sum_to_size(shape), rtol=1e-12, atol=1e-12)
