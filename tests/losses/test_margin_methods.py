"""EMMA, LA, CRM and CLL on every bound and activation: warm-up, gradients, extremes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lipcert.bounds import Bound, analyze, worst_logits
from lipcert.losses import CLL, CRM, EMMA, LA, Objective, Setting, Sparsity, sparsity_loss
from lipcert.losses.margins import margins, pair_radii, pair_slopes
from lipcert.losses.objective import Method
from lipcert.nn import ClippedMaxMin, ClippedReLU
from lipcert.norms import PowerNorms
from tests.losses.dense import dense, pixels, setting
from tests.networks import images, network
from tests.oracles import ExactNorms
from tests.pairwise import pairwise

BOUNDS = (Bound.GLOBAL, Bound.LOCAL, Bound.TIGHT)
METHODS: dict[str, Method] = {
    "emma": EMMA(),
    "emma without the box": EMMA(box=False),
    "la": LA(),
    "crm": CRM(15, 5, 0.7),
    "crm with the box": CRM(15, 5, 0.7, box=True),
    "cll": CLL(0.5, 0.3, 1e-4),
    "cll not held": CLL(0.5, 0.3, 1e-4, offset=1, detach=False, box=True),
}
LABELS = torch.tensor([0, 3, 4])


@pytest.fixture(params=METHODS, name="method")
def fixture_method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


def test_warm_up_is_the_clean_loss(method: Method) -> None:
    model = network("plain", "clipped_relu")
    objective = method(model, images(), LABELS, setting(0.0))
    torch.testing.assert_close(objective.loss, F.cross_entropy(model(images()), LABELS))
    assert objective.analysis is None


@pairwise(method_name=METHODS, kind=["relu", "clipped_relu", "maxmin", "clipped_maxmin"], bound=Bound)
def test_every_bound_and_activation_gives_gradients(method_name: str, kind: str, bound: Bound) -> None:
    method, model = METHODS[method_name], network("plain", kind).float()
    state = Setting(0.1, 1.0, bound, PowerNorms(2), Sparsity())
    inputs = images().float()
    labels = model(inputs).argmax(dim=1)
    objective = method(model, inputs, labels, state)
    objective.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(layer.weight.grad.abs().sum() > 0 for layer in model if isinstance(layer, nn.Conv2d | nn.Linear))


def test_sparsity_is_added(method: Method) -> None:
    model = network("plain", "clipped_relu")
    plain = method(model, images(), LABELS, setting(0.3, Bound.LOCAL))
    sparse = method(model, images(), LABELS, setting(0.3, Bound.LOCAL, sparsity=0.5))
    assert sparse.analysis is not None
    torch.testing.assert_close(sparse.loss, plain.loss + 0.5 * sparsity_loss(sparse.analysis, 0.1))


@pairwise(
    name=METHODS,
    factor=[0.0, 1e-6, 1e4],
    dtype=[torch.float32, torch.float64],
    classes=[2, 5],
    right=[True, False],
)
def test_flat_and_huge_logits_stay_finite(
    name: str, factor: float, dtype: torch.dtype, classes: int, right: bool
) -> None:
    model = dense(classes).to(dtype)
    model[3].weight.data.mul_(factor)
    model[3].bias.data.mul_(factor)
    inputs = pixels().to(dtype)
    labels = model(inputs).argmax(dim=1)
    labels = labels if right else (labels + 1) % classes
    objective = METHODS[name](model, inputs, labels, Setting(0.5, 1.0, Bound.LOCAL, PowerNorms(2), Sparsity()))
    objective.loss.backward()
    assert objective.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_network_that_is_constant_in_the_region_stays_finite(method: Method) -> None:
    model = dense(3).float()
    model[1].bias.data.fill_(-100.0)
    for label in range(3):
        labels = torch.full((8,), label)
        objective = method(model, pixels().float(), labels, Setting(0.5, 1.0, Bound.TIGHT, PowerNorms(2), Sparsity()))
        objective.loss.backward()
        assert objective.loss.isfinite()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


def _tiny(kind: str) -> nn.Sequential:
    clipped = ClippedReLU((4, 2, 2), 0.35) if kind == "clipped_relu" else ClippedMaxMin((4, 2, 2), 0.25, -0.2)
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 2, 2), clipped, nn.Flatten(), nn.Linear(16, 3)).double()


@pairwise(name=["emma", "crm", "cll"], box=[True, False], kind=["clipped_relu", "clipped_maxmin"], bound=BOUNDS)
def test_gradients_by_finite_differences(name: str, box: bool, kind: str, bound: Bound) -> None:
    """Where nothing is held constant: EMMA that always uses all of epsilon, CLL with `detach=False`."""
    method: Any = {
        "emma": EMMA(1.0, box),
        "crm": CRM(3, 5, 10.0, box),
        "cll": CLL(0.2, 0.3, 1e-2, detach=False, box=box),
    }[name]
    model = _tiny(kind)
    inputs = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = model(inputs).argmax(dim=1)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            objective: Objective = method(self.model, inputs, labels, setting(0.2, bound))
            return objective.loss

    module = Loss()
    names = [each for each, _ in model.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        return functional_call(module, {f"model.{each}": value for each, value in zip(names, values, strict=True)}, ())

    values = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("box", [True, False])
def test_a_radius_reaches_epsilon_just_where_the_pair_is_certified(bound: Bound, box: bool) -> None:
    epsilon = 0.02
    model, inputs = network("plain", "clipped_maxmin"), images(20)
    labels = model(inputs).argmax(dim=1)
    analysis = analyze(model, inputs, epsilon, bound, ExactNorms())
    radii = pair_radii(margins(analysis.logits, labels), pair_slopes(analysis, labels, box))
    worst = worst_logits(analysis, labels, box)
    survives = worst <= analysis.logits.gather(1, labels.unsqueeze(1))
    others = ~F.one_hot(labels, 5).bool()
    assert 0 < survives[others].double().mean() < 1
    assert torch.equal((radii >= epsilon)[others], survives[others])
