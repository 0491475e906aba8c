"""Almost-orthogonal layers against dense singular values."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from lipcert.bounds import UnsupportedLayerError, analyze
from lipcert.nn import build
from lipcert.nn.almost_orthogonal import almost_orthogonal, parametrize_almost_orthogonal
from lipcert.norms import PowerNorms


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_dense_norm_is_at_most_one(shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    for _ in range(5):
        weight = almost_orthogonal(scale * torch.randn(shape, dtype=torch.float64))
        assert float(torch.linalg.svdvals(weight)[0]) <= 1 + 1e-12


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (4, 2, 0), (3, 1, 2), (1, 1, 0)])
def test_convolution_norm_is_at_most_one(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(1)
    basis = torch.eye(3 * 36, dtype=torch.float64).reshape(-1, 3, 6, 6)
    for _ in range(4):
        weight = almost_orthogonal(torch.randn(4, 3, kernel, kernel, dtype=torch.float64))
        dense = conv2d(basis, weight, stride=stride, padding=padding).flatten(1)
        assert float(torch.linalg.svdvals(dense)[0]) <= 1 + 1e-12


def test_orthogonal_weights_stay() -> None:
    torch.manual_seed(2)
    weight = torch.linalg.qr(torch.randn(7, 4, dtype=torch.float64))[0]
    torch.testing.assert_close(almost_orthogonal(weight), weight)


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 3, 3)])
def test_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(almost_orthogonal, (weight,))


def test_an_input_without_weights_keeps_them_and_has_gradients() -> None:
    weight = torch.tensor([[0.0, 2.0], [0.0, 1.0]], requires_grad=True)
    rescaled = almost_orthogonal(weight)
    assert bool((rescaled[:, 0] == 0).all())
    rescaled.sum().backward()
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())


def test_state_comes_back() -> None:
    images = torch.rand(2, 1, 8, 8)
    torch.manual_seed(4)
    first = build("small", (1, 8, 8), 10, "maxmin", parametrization="aol")
    second = build("small", (1, 8, 8), 10, "maxmin", parametrization="aol")
    assert not torch.equal(first(images), second(images))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))


def test_bounds_in_train_mode_are_those_of_eval_mode_and_others_are_refused() -> None:
    torch.manual_seed(5)
    model = build("small", (1, 8, 8), 10, "maxmin", parametrization="aol")
    images = torch.rand(2, 1, 8, 8)
    trained = analyze(model.train(), images, 0.5, "global", PowerNorms(20)).lipschitz
    evaluated = analyze(model.eval(), images, 0.5, "global", PowerNorms(20)).lipschitz
    torch.testing.assert_close(trained, evaluated, rtol=0.05, atol=0)
    nn.utils.parametrizations.spectral_norm(model[-1])
    with pytest.raises(UnsupportedLayerError, match="train mode"):
        analyze(model.train(), images, 0.5, "global", PowerNorms(2))


def test_groups_and_dilation_are_refused() -> None:
    for layer in (nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2)):
        with pytest.raises(ValueError, match="without groups or dilation"):
            parametrize_almost_orthogonal(layer)
