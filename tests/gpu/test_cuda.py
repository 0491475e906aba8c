"""What only a GPU can tell: run by `python -m pytest -m gpu` on a machine that has one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipcert.bounds import Bound, Plan
from lipcert.certificates import certify
from lipcert.data import Split
from lipcert.losses import Setting, Sparsity
from lipcert.nn import build
from lipcert.norms import PowerNorms
from lipcert.norms.lanczos import normal_starts
from lipcert.training.evaluation import EvaluationSettings, evaluate
from tests.training.steps import ACTIVATIONS, CASES, CLASSES, METHODS, OTHERS, SEARCHING, SHAPE

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def fixture_seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "bound", "activation"), CASES)
def test_a_step_makes_no_host_wait(name: str, bound: str, activation: str) -> None:
    """By CUDA's own account: `set_sync_debug_mode` raises where the host would wait."""
    model, norms = build("small", SHAPE, CLASSES, activation).cuda(), PowerNorms(2, "float32").cuda()
    images, labels = torch.rand(6, *SHAPE, device="cuda"), torch.arange(6, device="cuda") % CLASSES
    setting = Setting(0.3, 0.5, Bound(bound), norms, Sparsity(), plan=Plan())
    method = (METHODS | OTHERS)[name]()
    method(model, images, labels, setting).loss.backward()
    torch.cuda.set_sync_debug_mode("warn" if bound == SEARCHING else "error")
    try:
        loss = method(model, images, labels, setting).loss
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(loss.isfinite())


def _predicted(activation: str) -> tuple[torch.nn.Module, Tensor, Tensor]:
    model, images = build("small", SHAPE, CLASSES, activation).eval(), torch.rand(40, *SHAPE)
    with torch.no_grad():
        return model, images, model(images).argmax(dim=1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_certificates_are_those_of_the_cpu(activation: str) -> None:
    model, images, labels = _predicted(activation)
    expected = certify(model, images, labels, 0.05, arithmetic="exact")
    found = certify(model.cuda(), images.cuda(), labels.cuda(), 0.05, arithmetic="exact")
    assert torch.equal(found.certified.cpu(), expected.certified)
    torch.testing.assert_close(found.margin.cpu(), expected.margin, rtol=1e-3, atol=1e-6)


def test_reduced_precision_is_refused_where_it_is_executed() -> None:
    model, images, labels = _predicted("relu")
    with pytest.raises(ValueError, match=r"cudnn|fp32_precision"):
        certify(model.cuda(), images.cuda(), labels.cuda(), 0.05)


def test_an_evaluation_covers_what_it_executes() -> None:
    model, images, labels = _predicted("clipped_relu")
    settings = EvaluationSettings(["global", "tight"], 20, 3, 16, False, 7, autoattack_images=4)
    expected = evaluate(model, Split(images, labels), 0.02, Bound.LOCAL, settings)
    found = evaluate(model.cuda(), Split(images.cuda(), labels.cuda()), 0.02, Bound.LOCAL, settings)
    assert found["certified_accuracy_by_bound"] == expected["certified_accuracy_by_bound"]
    assert found["clean_accuracy"] == expected["clean_accuracy"]
    assert torch.backends.cudnn.enabled


def test_starts_of_norm_bounds_are_drawn_there() -> None:
    starts = normal_starts((4, 5000), torch.device("cuda"))
    assert (starts.device.type, starts.dtype) == ("cuda", torch.float64)
    assert len(starts.flatten(0, 1).unique(dim=0)) == 8
    assert float((starts.mean(dim=-1).abs() * 5000**0.5).amax()) < 6
    assert float((starts.std(dim=-1) - 1).abs().amax()) < 0.06
