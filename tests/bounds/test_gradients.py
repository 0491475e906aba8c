"""Gradients of worst logits with respect to every weight, by finite differences in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipcert.bounds import Bound, analyze, worst_logits
from lipcert.nn import ClippedMaxMin, ClippedReLU, Residual
from tests.oracles import ExactNorms


def _tiny(kind: str) -> nn.Sequential:
    clipped = ClippedReLU((4, 3, 3), 0.35) if kind == "clipped_relu" else ClippedMaxMin((4, 3, 3), 0.25, -0.2)
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 2, 2, 1), clipped, Residual(nn.Conv2d(4, 4, 1)), nn.Flatten(), nn.Linear(36, 3)
    ).double()


@pytest.mark.parametrize("bound", [Bound.GLOBAL, Bound.LOCAL, Bound.TIGHT, Bound.GLOBAL_LIPLT])
@pytest.mark.parametrize("kind", ["clipped_relu", "clipped_maxmin"])
def test_gradcheck_of_worst_logits(kind: str, bound: Bound) -> None:
    model = _tiny(kind)
    inputs = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 2])
    names = [name for name, _ in model.named_parameters()]

    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            analysis = analyze(self.model, inputs, 0.2, bound, ExactNorms())
            return worst_logits(analysis, labels)

    module = Bounded()

    def worst(*values: Tensor) -> Tensor:
        return functional_call(module, {f"model.{name}": value for name, value in zip(names, values, strict=True)}, ())

    values = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    assert torch.autograd.gradcheck(worst, values, eps=1e-6, atol=1e-5, fast_mode=True)
    reached = torch.autograd.grad(worst(*values).sum(), values)
    assert all(gradient.abs().sum() > 0 for gradient in reached)


def test_gradients_stay_finite_where_rows_are_masked_away() -> None:
    """A row whose inputs are all constant has norm 0, where the square root has no finite slope."""
    model = _tiny("clipped_relu")
    model[0].bias.data.fill_(-100.0)  # everything behind the first activation is constant
    inputs = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    analysis = analyze(model, inputs, 0.2, Bound.TIGHT, ExactNorms())
    worst_logits(analysis, torch.tensor([0, 1])).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
