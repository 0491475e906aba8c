"""Reference numbers computed with the published implementation (see tests/golden/README.md), to 1e-6 relative."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Analysis, analyze, robust_margin, worst_increase, worst_logits
from lipcert.losses import bcp_loss, gloro_logits
from lipcert.nn import ClippedMaxMin, ClippedReLU
from lipcert.norms import UpperNorms
from tests.oracles import ExactNorms

FOLDER = Path(__file__).parent.parent / "golden"
NAMES = ("tiny_relux", "tiny_maxmin")


class Golden:
    """One file of reference numbers, and the network it belongs to."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as data:
            self.arrays = {key: data[key] for key in data.files}
        self.model = nn.Sequential(*(self._layer(i, kind) for i, kind in enumerate(self.arrays["layers"])))
        self.affine = [i for i, layer in enumerate(self.model) if isinstance(layer, nn.Conv2d | nn.Linear)][:-1]
        self.activations = [i for i, layer in enumerate(self.model) if isinstance(layer, ClippedReLU | ClippedMaxMin)]
        self.images, self.labels, self.epsilon = self["x"], self["y"], float(self["eps"])

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def _layer(self, i: int, kind: str) -> nn.Module:
        if kind == "Flatten":
            return nn.Flatten()
        if kind == "ReLU_x":
            clipped = ClippedReLU(self[f"thr{i}"].shape[1:])
            clipped.threshold.data = self[f"thr{i}"]
            return clipped
        if kind == "ClampGroupSort":
            halves, *rest = self[f"max{i}"].shape[1:]
            pairs = ClippedMaxMin((2 * halves, *rest))
            pairs.max.data, pairs.min.data = self[f"max{i}"], self[f"min{i}"]
            return pairs
        weight = self[f"W{i}"]
        if kind == "Conv2d":
            stride, padding = self.arrays[f"conv{i}"].tolist()
            layer: nn.Module = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding)
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, self[f"b{i}"]  # type: ignore[union-attr]
        return layer

    def analysis(self, bound: str) -> Analysis:
        return analyze(self.model, self.images, self.epsilon, bound, ExactNorms())


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def _close(actual: Tensor, expected: Tensor, scale: Tensor | None = None) -> None:
    """Compare to 1e-6 of `scale` (of the expected array's largest entry when None)."""
    tolerance = 1e-6 * float((expected if scale is None else scale).abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=tolerance)


def test_logits_and_centers(golden: Golden) -> None:
    _close(golden.analysis("local").logits, golden["logits"])
    values = golden.images
    for i, layer in enumerate(golden.model[:-1]):
        values = layer(values)
        _close(values, golden[f"mu_after{i}"])


def test_boxes(golden: Golden) -> None:
    for bounds, affine, activation in zip(
        golden.analysis("local").activations, golden.affine, golden.activations, strict=True
    ):
        _close((bounds.upper + bounds.lower) / 2, golden[f"box_mu_after{affine}"])
        _close((bounds.upper - bounds.lower) / 2, golden[f"box_r_after{affine}"])
        _close((bounds.output_box()[1] + bounds.output_box()[0]) / 2, golden[f"box_mu_after{activation}"])
        _close((bounds.output_box()[1] - bounds.output_box()[0]) / 2, golden[f"box_r_after{activation}"])


def test_box_after_flatten_and_before_the_last_layer(golden: Golden) -> None:
    source = golden.analysis("local").families[0][0].source
    assert source.box is not None
    lower, upper = source.box
    _close(source.center, golden["mu_prev"])
    _close((upper + lower) / 2, golden["ibp_mu_prev"])
    _close((upper - lower) / 2, golden["ibp_r_prev"])
    flatten = next(i for i, layer in enumerate(golden.model) if isinstance(layer, nn.Flatten))
    before = golden.analysis("local").activations[1]
    _close((before.output_box()[1] - before.output_box()[0]).flatten(1) / 2, golden[f"box_r_after{flatten}"])
    _close((before.output_box()[1] + before.output_box()[0]).flatten(1) / 2, golden[f"box_mu_after{flatten}"])
    assert torch.equal(before.varying.flatten(1), golden[f"mask{flatten}"].double())  # type: ignore[union-attr]


def test_masks(golden: Golden) -> None:
    for bounds, i in zip(golden.analysis("local").activations, golden.activations, strict=True):
        assert bounds.varying is not None
        assert torch.equal(bounds.varying, golden[f"mask{i}"].double())
        assert 0 < bounds.varying.mean() < 1


def test_masks_stored_at_affine_layers() -> None:
    golden = Golden("tiny_relux")
    for i, j in zip(golden.affine, golden.activations, strict=True):
        assert torch.equal(golden[f"mask{i}"], golden[f"mask{j}"])


def test_norms_and_radii(golden: Golden) -> None:
    local = golden.analysis("local")
    norms = torch.stack([bounds.masked_norm for bounds in local.activations], dim=1)
    whole = torch.cat([bounds.whole_norm for bounds in local.activations])
    for suffix in ("", "_exact"):
        _close(norms, golden[f"local_norms{suffix}"])
        _close(whole, golden[f"global_norms{suffix}"])
    _close(golden.epsilon * local.lipschitz, golden["r_tight"])
    global_radius = golden.epsilon * golden.analysis("global").lipschitz
    _close(global_radius.expand(4), golden["r_global"])
    for i, norm in zip(golden.activations, golden.epsilon * whole.cumprod(0), strict=True):
        _close(norm.expand(4), golden[f"ball_r_after{i}"])


def test_ball_radii_between_activations(golden: Golden) -> None:
    whole = torch.cat([bounds.whole_norm for bounds in golden.analysis("local").activations])
    radius = golden.epsilon * whole.cumprod(0)
    for index, i in enumerate(golden.affine):
        _close(radius[index].expand(4), golden[f"ball_r_after{i}"])
    flatten = next(i for i, layer in enumerate(golden.model) if isinstance(layer, nn.Flatten))
    _close(radius[1].expand(4), golden[f"ball_r_after{flatten}"])


def test_exact_margins(golden: Golden) -> None:
    analysis = golden.analysis("local")
    inner = torch.stack([worst_increase(analysis, torch.full((4,), j)) for j in range(10)], dim=2)
    _close(inner, golden["inner_exact"])
    _close(inner, golden["inner_opt1000"])
    # The published scheme with few rounds approximates the same number from above.
    assert (golden["inner"] >= inner - 1e-9).all()
    assert (golden["inner_opt10"] >= inner - 1e-9).all()


def test_worst_logits_losses_and_certificates(golden: Golden) -> None:
    analysis = golden.analysis("local")
    worst = worst_logits(analysis, golden.labels)
    _close(worst, golden["worst_bcp_opt1000"])
    gloro = gloro_logits(analysis.logits, worst, golden.labels)
    _close(gloro, golden["worst_gloro_opt1000"])
    _close(F.cross_entropy(analysis.logits, golden.labels), golden["loss_clean"])
    _close(bcp_loss(analysis.logits, worst, golden.labels, 1.0), golden["loss_bcp_opt1000"])
    _close(F.cross_entropy(gloro, golden.labels), golden["loss_gloro_opt1000"])
    assert torch.equal(robust_margin(worst, golden.labels) > 0, golden["certified_opt1000"])
    # One or ten rounds of the scheme stay above the exact value.
    for suffix in ("", "_opt10"):
        assert (golden[f"worst_bcp{suffix}"] >= worst - 1e-9).all()
        assert (golden[f"worst_gloro{suffix}"] >= gloro - 1e-9).all()
        assert golden[f"loss_bcp{suffix}"] >= golden["loss_bcp_opt1000"] - 1e-9
        assert golden[f"loss_gloro{suffix}"] >= golden["loss_gloro_opt1000"] - 1e-9
        assert (~golden[f"certified{suffix}"] | golden["certified_opt1000"]).all()


@pytest.mark.parametrize("method", ["bcp", "gloro"])
def test_gradients_point_the_same_way(golden: Golden, method: str) -> None:
    """The reference gradients belong to one round of an approximate scheme, so only directions are compared."""
    analysis = golden.analysis("local")
    worst = worst_logits(analysis, golden.labels)
    target = worst if method == "bcp" else gloro_logits(analysis.logits, worst, golden.labels)
    F.cross_entropy(target, golden.labels).backward()
    names = {"weight": "W", "bias": "b", "threshold": "thr", "max": "max", "min": "min"}
    compared = 0
    for name, parameter in golden.model.named_parameters():
        index, kind = name.split(".")
        candidates = [f"grad_{method}/{name}", f"grad_{method}/{names[kind]}{index}"]
        key = next((each for each in candidates if each in golden.arrays), None)
        if key is None or parameter.grad is None or not golden[key].any():
            continue
        cosine = F.cosine_similarity(parameter.grad.flatten(), golden[key].flatten(), dim=0)
        assert cosine > 0.9, (key, cosine)
        compared += 1
    assert compared >= 8


def test_lanczos_reproduces_local_norms_from_above(golden: Golden) -> None:
    with torch.no_grad():
        analysis = analyze(golden.model, golden.images, golden.epsilon, "local", UpperNorms(steps=60))
    norms = torch.stack([bounds.masked_norm for bounds in analysis.activations], dim=1)
    assert (norms >= golden["local_norms_exact"]).all()
    torch.testing.assert_close(norms, golden["local_norms_exact"], rtol=1e-3, atol=0)
