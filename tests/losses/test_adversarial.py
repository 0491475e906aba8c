"""Adversarial losses against hand computation, and what their inner attacks may touch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Bound
from lipcert.losses import TRADES, Adversarial, ReLUStability, Setting, Sparsity, trades_loss
from lipcert.losses.adversarial import divergence
from lipcert.losses.objective import Method
from lipcert.norms import PowerNorms
from tests.attacks.test_model_state import same, state
from tests.networks import images, network

METHODS: dict[str, Method] = {
    "adversarial": Adversarial(steps=3),
    "trades": TRADES(steps=3, step_size=0.5),
    "relu_stability": ReLUStability(steps=3),
}
LABELS = torch.tensor([0, 3, 4, 1, 2, 0])


def _setting(epsilon: float) -> Setting:
    return Setting(epsilon, 1.0, Bound.LOCAL, PowerNorms(2), Sparsity())


def _softmax(rows: np.ndarray) -> np.ndarray:
    exponents = np.exp(rows - rows.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


class _Recording(nn.Sequential):
    """Remembers every point it is asked about."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.asked: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked.append(inputs.detach().clone())
        return super().forward(inputs)


class TestEveryMethod:
    @pytest.mark.parametrize("name", METHODS)
    def test_warm_up_is_the_clean_loss(self, name: str) -> None:
        model, inputs = network("plain", "clipped_relu"), images(6)
        objective = METHODS[name](model, inputs, LABELS, _setting(0.0))
        torch.testing.assert_close(objective.loss, F.cross_entropy(model(inputs), LABELS))

    @pytest.mark.parametrize("name", METHODS)
    def test_the_loss_grows_with_epsilon(self, name: str) -> None:
        model, inputs = network("plain", "clipped_relu", scale=1.5), images(6)
        losses = []
        for epsilon in (1e-6, 0.2, 0.8):
            torch.manual_seed(0)
            objective = METHODS[name](model, inputs, LABELS, _setting(epsilon))
            losses.append(objective.loss.item())
        assert losses == sorted(losses)
        assert losses[-1] > losses[0] + 0.001

    @pytest.mark.parametrize("name", METHODS)
    @pytest.mark.parametrize("training", [False, True])
    def test_only_the_loss_reaches_the_network(self, name: str, training: bool) -> None:
        """Neither modes nor flags, weights or gradients change before `backward` of the loss."""
        model, inputs = network("plain", "clipped_relu").train(training), images(6)
        model(inputs).sum().backward()
        before = state(model)
        objective = METHODS[name](model, inputs, LABELS, _setting(0.3))
        assert same(before, state(model))
        assert not inputs.requires_grad
        model.zero_grad()
        objective.loss.backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key

    @pytest.mark.parametrize("name", ["adversarial", "trades"])
    def test_every_point_asked_about_lies_inside(self, name: str) -> None:
        """ReLU stability has the attack of adversarial training; bounds refuse networks with a forward of their own."""
        epsilon, inputs = 0.3, images(6).float()
        model = _Recording(*network("plain", "relu", scale=1.5).float()).train()
        METHODS[name](model, inputs, LABELS, _setting(epsilon))
        asked = torch.stack(model.asked)
        assert len(asked) >= 4
        distances = (asked.double() - inputs.double()).flatten(2).norm(dim=2)
        assert distances.max() <= epsilon * (1 + 1e-6)
        assert distances.max() > 0.9 * epsilon
        assert asked.min() >= 0
        assert asked.max() <= 1

    @pytest.mark.parametrize("name", METHODS)
    def test_the_global_random_state_alone_decides(self, name: str) -> None:
        model, inputs = network("plain", "clipped_relu", scale=1.5), images(6)
        losses = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            losses.append(METHODS[name](model, inputs, LABELS, _setting(0.3)).loss.item())
        assert losses[0] == losses[1] != losses[2]


class TestAdversarial:
    def test_a_linear_network_by_hand(self) -> None:
        """Two classes: the worst point is epsilon along w_1 - w_0, and the loss softplus of the moved gap."""
        weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]], dtype=torch.float64)
        model = nn.Sequential(nn.Linear(3, 2)).double()
        model[0].load_state_dict({"weight": weight, "bias": torch.tensor([0.3, 0.1])})
        inputs = torch.tensor([[0.4, 0.5, 0.6], [0.5, 0.5, 0.4]], dtype=torch.float64)
        labels = torch.tensor([0, 1])
        difference = (weight[1] - weight[0]).numpy()
        gaps = inputs.numpy() @ difference - 0.2  # z_1 - z_0
        for random_start in (False, True):
            torch.manual_seed(0)
            method = Adversarial(40, 0.25, random_start)
            loss = method(model, inputs, labels, _setting(0.2)).loss.item()
            moved = np.array([gaps[0], -gaps[1]]) + 0.2 * np.linalg.norm(difference)
            assert loss == pytest.approx(np.log1p(np.exp(moved)).mean(), rel=1e-4)

    def test_the_attack_follows_epsilon_and_its_settings(self) -> None:
        model, inputs = network("plain", "relu", scale=1.5), images(6)
        one = Adversarial(1, 0.25, False).mislead(model, inputs, LABELS, 0.4) - inputs
        assert (one.flatten(1).norm(dim=1) <= 0.1 + 1e-9).all()  # one step of a quarter of epsilon
        assert one.flatten(1).norm(dim=1).max() > 0.099

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"steps": 0}, "steps"),
            ({"steps": 2.5}, "steps"),
            ({"steps": True}, "steps"),
            ({"step_size": -1.0}, "step_size"),
            ({"step_size": float("nan")}, "step_size"),
            ({"step_size": "big"}, "step_size"),
            ({"random_start": 1}, "random_start"),
        ],
    )
    def test_bad_settings_are_refused(self, arguments: dict[str, object], name: str) -> None:
        with pytest.raises(ValueError, match=f"method.{name}"):
            Adversarial(**arguments)  # type: ignore[arg-type]


class TestTrades:
    def test_the_loss_by_numpy(self) -> None:
        generator = np.random.default_rng(0)
        logits, moved = generator.normal(size=(2, 6, 5)) * 3
        first, second = _softmax(logits), _softmax(moved)
        clean = -np.log(first[np.arange(6), LABELS.numpy()]).mean()
        kl = (first * (np.log(first) - np.log(second))).sum(axis=1)
        tensors = torch.from_numpy(logits), torch.from_numpy(moved)
        assert divergence(*tensors).item() == pytest.approx(kl.sum())
        assert trades_loss(*tensors, LABELS, 2.5).item() == pytest.approx(clean + 2.5 * kl.mean())

    def test_saturated_predictions_stay_finite(self) -> None:
        logits = torch.tensor([[500.0, -500.0]])
        assert divergence(logits, -logits).item() == pytest.approx(1000)

    def test_gradients_reach_both_predictions(self) -> None:
        logits, moved = (torch.randn(6, 5, requires_grad=True) for _ in range(2))
        divergence(logits, moved).backward()
        assert logits.grad is not None
        assert moved.grad is not None
        assert logits.grad.abs().sum() > 0 < moved.grad.abs().sum()

    def test_the_inner_maximisation_leaves_the_image(self) -> None:
        """At the image the divergence has no gradient; the noise of the start makes one."""
        model, inputs = network("plain", "relu", scale=1.5), images(6)
        moved = TRADES().moved_images(model, inputs, 0.3)
        assert (moved - inputs).flatten(1).norm(dim=1).min() > 0.25
        torch.manual_seed(0)
        noise = inputs + 0.3 * F.normalize(torch.randn(6, 72).double()).view_as(inputs)
        assert divergence(model(inputs), model(moved)) > 2 * divergence(model(inputs), model(noise))

    def test_beta_weighs_the_divergence(self) -> None:
        model, inputs = network("plain", "relu", scale=1.5), images(6)
        losses = []
        for beta in (0.0, 1.0, 3.0):
            torch.manual_seed(0)
            losses.append(TRADES(beta)(model, inputs, LABELS, _setting(0.3)).loss.item())
        assert losses[0] == pytest.approx(F.cross_entropy(model(inputs), LABELS).item())
        assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]))

    @pytest.mark.parametrize("beta", [-1.0, float("inf"), "six"])
    def test_bad_weights_are_refused(self, beta: object) -> None:
        with pytest.raises(ValueError, match=r"method\.beta"):
            TRADES(beta)  # type: ignore[arg-type]


def test_running_statistics_see_no_attack() -> None:
    """A network in train mode is attacked in eval mode: batch norm counts the outer forward pass alone."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(72), nn.Linear(72, 5)).double().train()
    expected = copy.deepcopy(model)
    torch.manual_seed(0)
    Adversarial(steps=4)(model, images(6), LABELS, _setting(0.3))
    torch.manual_seed(0)
    with torch.no_grad():
        expected.eval()
        points = Adversarial(4, 0.25).mislead(expected, images(6), LABELS, 0.3)
        expected.train()(points)
    assert model[1].num_batches_tracked == 1
    torch.testing.assert_close(model[1].running_mean, expected[1].running_mean)
