"""Losses against hand computation; what they do at the ends of their schedules."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Bound, analyze
from lipcert.losses import BCP, GloRo, Setting, Sparsity, Standard, bcp_loss, gloro_logits, gloro_loss, sparsity_loss
from lipcert.losses.objective import clipped_max_min_hinge, clipped_relu_hinge
from lipcert.norms import PowerNorms
from tests.networks import images, network
from tests.oracles import ExactNorms

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.5, 0.0, -1.0]])
WORST = torch.tensor([[2.0, 1.5, 2.5], [0.5, 3.0, 1.0]])
LABELS = torch.tensor([0, 0])


def _cross_entropy(rows: list[list[float]], labels: list[int]) -> float:
    terms = [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(rows, labels, strict=True)]
    return sum(terms) / len(terms)


def test_bcp_mixes_clean_and_worst() -> None:
    clean = _cross_entropy(LOGITS.tolist(), [0, 0])
    worst = _cross_entropy(WORST.tolist(), [0, 0])
    for mixing in (0.0, 0.3, 1.0):
        value = bcp_loss(LOGITS, WORST, LABELS, mixing).item()
        assert value == pytest.approx((1 - mixing) * clean + mixing * worst, rel=1e-6)


def test_gloro_loss_is_a_cross_entropy_and_a_divergence() -> None:
    """KL of the softmax over K + 1 classes from that over K, with nothing on the last, term by term."""
    extended = gloro_logits(LOGITS, WORST, LABELS)
    clean = torch.softmax(LOGITS, dim=1)
    reached = torch.softmax(extended, dim=1)[:, :-1]
    divergence = (clean * (clean / reached).log()).sum(dim=1).mean()
    for weight in (0.0, 0.5, 1.5):
        expected = F.cross_entropy(LOGITS, LABELS) + weight * divergence
        torch.testing.assert_close(gloro_loss(extended, LABELS, weight), expected)
    torch.testing.assert_close(gloro_loss(extended, LABELS, 1.0), F.cross_entropy(extended, LABELS))


def test_gloro_appends_the_best_other_worst_logit() -> None:
    assert gloro_logits(LOGITS, WORST, LABELS)[:, 3].tolist() == [2.5, 3.0]
    assert gloro_logits(LOGITS, WORST, torch.tensor([2, 1]))[:, 3].tolist() == [2.0, 1.0]
    assert torch.equal(gloro_logits(LOGITS, WORST, LABELS)[:, :3], LOGITS)


def test_clipped_relu_hinge_by_hand() -> None:
    lower, upper = torch.tensor([[-1.0, 0.5]]), torch.tensor([[-0.5, 2.0]])
    # max(0, UB): 0 and 2; max(0, 1 - LB): 2 and 0.5, weighted by 0.1.
    value = clipped_relu_hinge(lower, upper, torch.ones(1, 2), 0.1)
    assert value.item() == pytest.approx((0 + 2 + 0.1 * (2 + 0.5)) / 2)


def test_clipped_max_min_hinge_by_hand() -> None:
    lower, upper = torch.tensor([[0.2, -0.9]]), torch.tensor([[0.7, -0.4]])
    # Larger half: max - LB = 1 - 0.2; smaller half: UB - min = -0.4 + 1.
    value = clipped_max_min_hinge(lower, upper, torch.ones(1, 1), -torch.ones(1, 1), 0.5)
    assert value.item() == pytest.approx(0.6 + 0.5 * 0.8)


@pytest.mark.parametrize("kind", ["clipped_relu", "clipped_maxmin"])
def test_sparsity_is_summed_over_layers_and_falls_when_neurons_become_constant(kind: str) -> None:
    model, inputs = network("plain", kind), images()
    analysis = analyze(model, inputs, 0.3, "local", ExactNorms())
    value = sparsity_loss(analysis, 0.1)
    parts = []
    for bounds in analysis.activations:
        layer = bounds.layer
        if kind == "clipped_relu":
            hinge = bounds.upper.clamp_min(0) + 0.1 * (layer.threshold - bounds.lower).clamp_min(0)
        else:
            half = bounds.lower.shape[1] // 2
            smaller = (bounds.output_box()[1][:, half:] - layer.min).clamp_min(0)
            hinge = smaller + 0.1 * (layer.max - bounds.output_box()[0][:, :half]).clamp_min(0)
        parts.append(hinge.mean().item())
    assert value.item() == pytest.approx(sum(parts))
    narrower = analyze(model, inputs, 0.01, "local", ExactNorms())
    assert sparsity_loss(narrower, 0.1) < value


def test_sparsity_without_clipped_activations_is_refused() -> None:
    analysis = analyze(network("plain", "relu"), images(), 0.3, "local", ExactNorms())
    with pytest.raises(ValueError, match=r"model\.activation"):
        sparsity_loss(analysis, 0.1)
    assert Sparsity(0.0)(analysis) == 0


@pytest.mark.parametrize("field", ["weight", "threshold_weight"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_bad_sparsity_weights_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Sparsity(**{field: value})


class TestMethods:
    model = network("plain", "clipped_relu")
    images = images()
    labels = torch.tensor([0, 3, 4])

    def setting(self, epsilon: float, mixing: float = 1.0, sparsity: float = 0.0) -> Setting:
        return Setting(epsilon, mixing, Bound.LOCAL, ExactNorms(), Sparsity(sparsity))

    def clean_loss(self) -> Tensor:
        return F.cross_entropy(self.model(self.images), self.labels)

    @pytest.mark.parametrize("method", [Standard(), BCP(), GloRo(), GloRo("prediction"), GloRo(box=False)])
    def test_warm_up_is_the_clean_loss(self, method) -> None:  # type: ignore[no-untyped-def]
        objective = method(self.model, self.images, self.labels, self.setting(0.0))
        torch.testing.assert_close(objective.loss, self.clean_loss())

    @pytest.mark.parametrize("method", [BCP(), GloRo(), GloRo(box=False)])
    def test_loss_grows_with_epsilon(self, method) -> None:  # type: ignore[no-untyped-def]
        losses = [
            method(self.model, self.images, self.labels, self.setting(each)).loss.item() for each in (0.05, 0.2, 0.8)
        ]
        assert losses == sorted(losses)
        assert losses[0] < losses[-1]

    def test_dropping_the_box_never_lowers_the_loss(self) -> None:
        with_box = GloRo()(self.model, self.images, self.labels, self.setting(0.3)).loss
        without = GloRo(box=False)(self.model, self.images, self.labels, self.setting(0.3)).loss
        assert without >= with_box

    def test_sparsity_is_added(self) -> None:
        plain = BCP()(self.model, self.images, self.labels, self.setting(0.3))
        sparse = BCP()(self.model, self.images, self.labels, self.setting(0.3, sparsity=0.5))
        assert sparse.analysis is not None
        expected = plain.loss + 0.5 * sparsity_loss(sparse.analysis, 0.1)
        torch.testing.assert_close(sparse.loss, expected)

    def test_gloro_prediction_leaves_the_predicted_class_out(self) -> None:
        objective = GloRo("prediction")(self.model, self.images, self.labels, self.setting(0.3))
        predictions = self.model(self.images).argmax(dim=1)
        same = GloRo("label")(self.model, self.images, predictions, self.setting(0.3))
        assert objective.loss != same.loss or torch.equal(predictions, self.labels)

    def test_gloro_as_published_has_a_name_of_its_own(self) -> None:
        assert [GloRo().name, GloRo("prediction").name, GloRo(box=False).name] == ["gloro"] * 3
        assert GloRo("prediction", False).name == "gloro_published"

    @pytest.mark.parametrize(("exclude", "box", "weight"), [("all", True, 1), ("label", "yes", 1), ("label", True, -1)])
    def test_bad_options_are_refused(self, exclude: str, box: object, weight: float) -> None:
        with pytest.raises(ValueError, match=r"method\."):
            GloRo(exclude, box, weight)  # type: ignore[arg-type]

    def test_gloro_with_another_weight(self) -> None:
        each = [GloRo(weight=w)(self.model, self.images, self.labels, self.setting(0.3)).loss for w in (0, 1, 2)]
        torch.testing.assert_close(each[0], self.clean_loss())
        torch.testing.assert_close(each[2] - each[1], each[1] - each[0])
        assert each[1] > each[0]


def test_a_training_step_with_estimates_reaches_every_parameter() -> None:
    model: nn.Module = network("plain", "clipped_maxmin").float()
    setting = Setting(0.3, 0.5, Bound.TIGHT, PowerNorms(2), Sparsity(0.01))
    BCP()(model, images().float(), torch.tensor([0, 3, 4]), setting).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
