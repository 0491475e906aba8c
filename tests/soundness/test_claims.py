"""Audits: faults known from public reports are refuted or named, sound networks are never accused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Bound
from lipcert.nn import LayerGraph, MaxMin, Normalize, Residual, Sum
from lipcert.soundness.claims import Audit, Verdict, audit
from lipcert.soundness.secants import Search

IMAGES = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(3))
QUICK = Search(starts=4, steps=25, seed=0)
PIXELS = IMAGES[0].numel()


def _norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """Return the spectral norm of an affine layer, by the SVD of its impulse responses."""
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).view(-1, *shape)
    double = layer.double()
    with torch.no_grad():
        matrix = (double(units) - double(0 * units)).flatten(1).numpy()
    layer.float()
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def _orthogonal(rows: int, columns: int = PIXELS) -> nn.Linear:
    return _linear(nn.init.orthogonal_(torch.empty(rows, columns, dtype=torch.float64)))


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _around(layer: nn.Module, features: int = PIXELS) -> nn.Module:
    """Return a network with one layer that is not as claimed, isometries otherwise."""
    return nn.Sequential(nn.Flatten(), layer, MaxMin(), _orthogonal(10, features))


def _sqrt2_block() -> nn.Module:
    """h + Jh with JJ = -1: both parts have constant 1, and always stand at right angles."""
    half = PIXELS // 2
    turn = torch.zeros(PIXELS, PIXELS)
    turn[:half, half:], turn[half:, :half] = -torch.eye(half), torch.eye(half)
    return _around(Residual(_linear(turn)))


def _kernel_matrix() -> nn.Module:
    """A strided convolution divided by the norm of its kernel as a matrix, (out, in * height * width)."""
    layer = nn.Conv2d(1, 4, 3, stride=2, padding=1)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.abs() / torch.linalg.matrix_norm(layer.weight.abs().flatten(1), 2))
    return nn.Sequential(layer, MaxMin(), nn.Flatten(), _orthogonal(10))


def _truncated_power_iteration() -> nn.Module:
    """Weights divided by what one step of power iteration takes for their norm."""
    weight = torch.randn(PIXELS, PIXELS)
    left = nn.functional.normalize(weight @ torch.ones(PIXELS), dim=0)
    return _around(_linear(weight / (weight.T @ left).norm()))


def _truncated_bjorck() -> nn.Module:
    """One step of Björck's orthogonalisation, from singular values too far above 1 to come below it."""
    left, right = _orthogonal(PIXELS).weight.detach(), _orthogonal(PIXELS).weight.detach()
    weight = left @ torch.diag(torch.linspace(0.5, 2.02, PIXELS)) @ right
    return _around(_linear(1.5 * weight - 0.5 * weight @ weight.T @ weight))


def _last_layer() -> nn.Module:
    """Every row of the last layer has length 1, as if one logit at a time were all that counted."""
    last = _linear(nn.functional.normalize(torch.rand(10, PIXELS), dim=1))
    return nn.Sequential(nn.Flatten(), _orthogonal(PIXELS), last)


def _normalised() -> nn.Module:
    """An epsilon of normalised pixels: the constant behind a normalisation is taken for that of the whole."""
    padded = nn.Sequential(nn.ZeroPad2d(1), nn.Flatten())
    return nn.Sequential(Normalize([0.5], [0.25]), padded, _orthogonal(PIXELS, 64), MaxMin(), _orthogonal(10))


FAULTS: dict[str, tuple[Callable[[], nn.Module], str, float]] = {
    "block of constant √2": (_sqrt2_block, "1", 2**0.5),
    "block of constant 2": (lambda: _around(Residual(nn.Sequential(nn.Identity(), nn.ReLU()))), "1", 2.0),
    "kernel matrix for convolution": (_kernel_matrix, "0", 1.1),
    "truncated power iteration": (_truncated_power_iteration, "1", 1.1),
    "truncated orthogonalisation": (_truncated_bjorck, "1", 1.05),
    "last layer": (_last_layer, "2", 1.5),
    "normalisation": (_normalised, "0", 4.0),
}
"""What is built, the layer whose constant is not 1, and what it is at least."""


def _audited(model: nn.Module, claimed: float = 1.0, claims: dict[str, float] | None = None) -> Audit:
    found = audit(model.eval(), IMAGES, claimed, claims, [Bound.GLOBAL], QUICK)
    for each in (found.network, *found.layers):
        assert each.lower <= each.attacked * (1 + 1e-9)
        assert each.lower <= each.upper
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(fault: str) -> None:
    torch.manual_seed(0)
    build, name, constant = FAULTS[fault]
    found = _audited(build())
    assert [each.name for each in found.layers if each.verdict is Verdict.REFUTED] == [name]
    (refuted,) = (each for each in found.layers if each.name == name)
    assert 0.97 * constant <= refuted.lower
    assert found.network.verdict is (Verdict.UNDECIDED if fault == "truncated orthogonalisation" else Verdict.REFUTED)
    assert any(f"layer '{name}'" in sentence for sentence in found.refutations)
    assert found.normalization == pytest.approx(4 if fault == "normalisation" else 1)


def test_a_block_is_bounded_from_above_too() -> None:
    found = _audited(_sqrt2_block())
    (block,) = (each for each in found.layers if each.kind == "block")
    assert block.upper == pytest.approx(2**0.5, rel=1e-6)
    assert block.attacked == pytest.approx(2**0.5, rel=1e-6)


def test_layers_that_stand_there_twice_and_activations_that_are_named() -> None:
    _, block, act, head = _sqrt2_block().children()
    layers = {"flat": nn.Flatten(), "act": act, "turn": block.branch, "add": Sum(), "back": block.branch, "head": head}
    sources = {
        "flat": [""],
        "act": ["flat"],
        "turn": ["act"],
        "add": ["act", "turn"],
        "back": ["add"],
        "head": ["back"],
    }
    found = _audited(LayerGraph(layers, sources), 1.0, {"turn": 1.001, "back": 1.001, "act": 1.001, "add": 1.4})
    verdicts = [(each.name, each.kind, each.verdict) for each in found.layers]
    assert verdicts == [
        ("act", "MaxMin", Verdict.HOLDS),
        ("turn", "Linear", Verdict.HOLDS),
        ("add", "block", Verdict.REFUTED),
        ("back", "Linear", Verdict.HOLDS),
        ("head", "Linear", None),
    ]
    assert found.network.upper == pytest.approx(2**0.5, rel=1e-6)


def test_ties_are_counted() -> None:
    last = _orthogonal(10)
    with torch.no_grad():
        last.weight.zero_(), last.bias.copy_(torch.tensor([0.0, 1, 1, *[0] * 7]))
    found = audit(nn.Sequential(nn.Flatten(), last), IMAGES, 1.0, {}, [Bound.GLOBAL], QUICK)
    assert (found.images, found.ties) == (8, 8)
    assert _audited(nn.Sequential(nn.Flatten(), _orthogonal(10))).ties == 0


def _random_network(seed: int) -> tuple[nn.Sequential, dict[str, float], float]:
    """Return a network, the norms of its layers by dense SVD, and an upper bound of its constant made of these."""
    torch.manual_seed(seed)
    channels, stride = ((2, 1), (4, 2))[seed % 2]
    act = MaxMin() if seed % 4 < 2 else nn.ReLU()
    convolution = nn.Conv2d(1, channels, 3, stride, padding=1)
    features = channels * (6 // stride) ** 2
    branch, last = nn.Linear(features, features), nn.Linear(features, 10)
    convolution_norm = _norm(convolution, (1, 6, 6))
    branch_norm, last_norm = _norm(branch, (features,)), _norm(last, (features,))
    model = nn.Sequential(convolution, act, nn.Flatten(), Residual(nn.Sequential(branch, nn.ReLU())), last)
    norms = {"0": convolution_norm, "3": 1 + branch_norm, "3.branch.0": branch_norm, "4": last_norm}
    return model, norms, convolution_norm * (1 + branch_norm) * last_norm


def test_sound_networks_are_not_accused() -> None:
    for seed in range(20):
        model, norms, constant = _random_network(seed)
        found = _audited(model, 1.001 * constant, {name: 1.001 * norm for name, norm in norms.items()})
        assert found.refutations == []
        assert {each.verdict for each in (found.network, *found.layers)} == {Verdict.HOLDS}


def test_unsound_networks_are_caught() -> None:
    for seed in range(20):
        model, norms, constant = _random_network(seed)
        victim = ("0", "3.branch.0", "4")[seed % 3]
        layer = model.get_submodule(victim)
        with torch.no_grad():
            layer.weight.mul_(1.05)
        found = _audited(model, constant, norms)
        assert [each.name for each in found.layers if each.verdict is Verdict.REFUTED] == [victim]
        assert found.network.verdict is Verdict.UNDECIDED
        assert len(found.refutations) == 1


def test_layers_without_claims_of_their_own_do_not_count_where_the_network_holds() -> None:
    model = nn.Sequential(
        nn.Flatten(), _linear(2 * torch.eye(PIXELS)), nn.ReLU(), _linear(0.3 * torch.eye(PIXELS)[:10])
    )
    implied, typed = _audited(model), _audited(model, 1.0, {"1": 1.5})
    assert [each.verdict for each in implied.layers] == [Verdict.REFUTED, Verdict.HOLDS]
    assert implied.network.verdict is typed.network.verdict is Verdict.HOLDS
    assert implied.refutations == []
    assert [sentence.split(" moves")[0] for sentence in typed.refutations] == ["layer '1' (Linear)"]
    assert typed.layers[1].verdict is None


def test_audits_are_written_with_what_they_refute(tmp_path: Path) -> None:
    found = _audited(_normalised())
    found.write(tmp_path, {"checkpoint": "mine.pt"})
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["checkpoint"] == "mine.pt"
    assert written["refuted"] == found.refutations
    assert [each["name"] for each in written["layers"]] == ["0", "2", "4"]
    assert written["network"]["verdict"] == "refuted"


@pytest.mark.parametrize("claimed", [0.0, -1.0, float("nan"), float("inf")])
def test_claims_that_cannot_be_are_refused(claimed: float) -> None:
    model = nn.Sequential(nn.Flatten(), _orthogonal(10))
    with pytest.raises(ValueError, match="Expected `claimed` to be a Lipschitz constant"):
        audit(model, IMAGES, claimed)
    with pytest.raises(ValueError, match=r"Expected `claims\.1` to be a Lipschitz constant"):
        audit(model, IMAGES, 1.0, {"1": claimed})
    with pytest.raises(
        ValueError, match="`claims` names 'head', which is no layer of the network; its layers are 0, 1"
    ):
        audit(model, IMAGES, 1.0, {"head": 1.0})
