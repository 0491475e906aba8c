"""The metric of certified accuracy against a direct count."""

from __future__ import annotations

import pickle
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from lipcert.certificates import certified_radius, certify
from lipcert.nn import ClippedReLU
from lipcert.training.module import CertifiedAccuracy


def _net() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1),
        ClippedReLU((3, 3, 3), 0.4),
        nn.Flatten(),
        nn.Linear(27, 8),
        ClippedReLU((8,), 0.4),
        nn.Linear(8, 4),
    ).eval()


def _images(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Return images and their predictions, some replaced by wrong labels."""
    images = torch.rand(23, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    labels[::6] = (labels[::6] + 1) % 4
    return images, labels


def _updated(metric: CertifiedAccuracy, images: Tensor, labels: Tensor, size: int) -> CertifiedAccuracy:
    for batch, batch_labels in zip(images.split(size), labels.split(size), strict=True):
        metric.update(batch, batch_labels)
    return metric


@cache
def _epsilon() -> float:
    """Return an epsilon with half of the certified radii on either side, none near."""
    model = _net()
    radii = certified_radius(model, *_images(model), "local", largest=1.0, rounds=15).sort().values
    radii = radii[radii > 0]
    middle = len(radii) // 2
    assert radii[middle] > radii[middle - 1] * 1.001
    return ((radii[middle - 1] + radii[middle]) / 2).item()


@pytest.fixture(name="problem")
def fixture_problem() -> tuple[nn.Sequential, Tensor, Tensor, float]:
    """A net of its own for each test, images, labels and epsilon."""
    model = _net()
    return model, *_images(model), _epsilon()


@pytest.mark.parametrize("bound", ["global", "local", "tight"])
@pytest.mark.parametrize("size", [23, 7, 1])
def test_sums_over_uneven_batches(problem, bound: str, size: int) -> None:
    model, images, labels, epsilon = problem
    certified = certify(model, images, labels, epsilon, bound).certified
    metric = _updated(CertifiedAccuracy(model, epsilon, bound), images, labels, size)
    assert metric.compute().item() == pytest.approx(int(certified.sum()) / 23)
    if bound == "local":
        assert 0 < int(certified.sum()) < 19


def test_pickles_with_its_sums(problem) -> None:
    model, images, labels, epsilon = problem
    metric = _updated(CertifiedAccuracy(model, epsilon), images[:10], labels[:10], 5)
    copied = pickle.loads(pickle.dumps(metric))
    assert copied.compute() == metric.compute()
    _updated(metric, images[10:], labels[10:], 5)
    _updated(copied, images[10:], labels[10:], 13)
    assert copied.compute() == metric.compute()
    assert int(copied.weight) == 23


def test_reset_forgets_sums_and_weights(problem) -> None:
    model, images, labels, epsilon = problem
    metric = _updated(CertifiedAccuracy(model, epsilon), images, labels, 23)
    assert metric.compute() > 0
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    metric.reset()
    assert int(metric.weight) == 0
    assert _updated(metric, images, labels, 23).compute() == 0


def test_registers_no_weights_of_the_network(problem) -> None:
    model, images, labels, epsilon = problem
    metric = _updated(CertifiedAccuracy(model, epsilon), images, labels, 23)
    assert list(metric.parameters()) == []
    assert metric.state_dict() == {}


def test_leaves_network_in_its_mode(problem) -> None:
    model, images, labels, epsilon = problem
    before = [parameter.clone() for parameter in model.parameters()]
    model.train()
    _updated(CertifiedAccuracy(model, epsilon), images, labels, 23)
    assert all(map(torch.equal, before, model.parameters()))
    assert model.training
