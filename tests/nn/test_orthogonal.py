"""Orthogonal layers, linear residual ones and the networks of both, against dense singular values and plain sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

import lipcert
from lipcert.nn import ORTHOGONAL, folded, lipconvnet, liresnet, mlp, parametrize_orthogonal, parametrize_residual
from lipcert.nn.orthogonal import Orthogonal
from tests.oracles import points_in_ball
from tests.pairwise import pairwise

NETWORKS: dict[str, Callable[..., nn.Module]] = {"liresnet": liresnet, "lipconvnet": lipconvnet, "mlp": mlp}
SMALL = {
    "liresnet": {"depth": 2, "width": 8, "features": 12},
    "lipconvnet": {"depth": 2, "width": 4, "features": 12},
    "mlp": {"depth": 2, "width": 12},
}
SQUARE = ("bro", "cayley", "cholesky")


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _matrix(kind: str, shape: tuple[int, int], free: Tensor) -> Tensor:
    made = Orthogonal(kind, shape)
    return made(made.right_inverse(free)).detach()


@pairwise(kind=SQUARE, shape=[(6, 6), (9, 5), (5, 9), (1, 4), (2, 1)], scale=[1e-3, 1.0, 50.0])
def test_all_singular_values_are_one(kind: str, shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(_matrix(kind, shape, scale * torch.randn(shape)))
    assert float(values[0]) <= 1 + 1e-12
    whole = kind != "bro" or shape[0] == shape[1]  # a part of a reflector has values below 1, too
    torch.testing.assert_close(
        values if whole else values[:1], torch.ones(len(values) if whole else 1), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_singular_and_empty_weights_stay_below_one(kind: str) -> None:
    for free in (torch.zeros(6, 4), torch.ones(6, 4), torch.full((6, 4), 1e-200), 1e3 * torch.ones(6, 4)):
        weight = _matrix(kind, (6, 4), free)
        assert bool(weight.isfinite().all())
        assert float(torch.linalg.svdvals(weight)[0]) <= (1 if kind in SQUARE else 6**0.5) + 1e-9
        assert (torch.linalg.vector_norm(weight, dim=1) <= 1 + 1e-9).all()


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_gradients(kind: str) -> None:
    torch.manual_seed(1)
    made = Orthogonal(kind, (5, 3))
    free = made.right_inverse(torch.randn(5, 3)).clone().requires_grad_()
    assert torch.autograd.gradcheck(made, (free,))


@pytest.mark.parametrize("kind", SQUARE)
def test_convolutions_of_patches_have_norm_one(kind: str) -> None:
    torch.manual_seed(2)
    layer = parametrize_orthogonal(nn.Conv2d(3, 8, 2, 2, bias=False), kind)
    values = torch.linalg.svdvals(layer(torch.eye(48).view(48, 3, 4, 4)).flatten(1).detach())
    assert float(values[0]) == pytest.approx(1, abs=1e-4)
    assert float(values[0]) <= 1 + 1e-12


def test_a_linear_residual_layer_is_the_sum() -> None:
    torch.manual_seed(3)
    layer = parametrize_residual(nn.Conv2d(4, 4, (3, 5), padding=(1, 2)), 0.3)
    kernel, images = layer.parametrizations.weight.original, torch.rand(2, 4, 6, 7)  # type: ignore[union-attr]
    branch = conv2d(images, kernel, padding=(1, 2))
    torch.testing.assert_close(layer(images), images + 0.3 * branch + layer.bias.view(-1, 1, 1))  # type: ignore[union-attr]
    dense = parametrize_residual(nn.Linear(3, 3, bias=False), 2.0)
    torch.testing.assert_close(dense.weight, torch.eye(3) + 2 * dense.parametrizations.weight.original)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 8, 3, padding=1)]
)
def test_layers_that_do_not_fit_a_sum_are_refused(layer: nn.Conv2d) -> None:
    with pytest.raises(ValueError, match="shape of its input"):
        parametrize_residual(layer, 1.0)


def test_overlapping_patches_and_unknown_kinds_are_refused() -> None:
    for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 2, 2, groups=2), nn.Conv2d(4, 4, 2, 2, padding=1)):
        with pytest.raises(ValueError, match="each pixel once"):
            parametrize_orthogonal(layer, "bro")
    with pytest.raises(ValueError, match="bro, cayley"):
        parametrize_orthogonal(nn.Linear(2, 2), "none")


@pairwise(name=list(NETWORKS), orthogonal=SQUARE, activation=["maxmin", "relu", "clipped_maxmin"])
def test_products_of_norms_start_near_one_and_certificates_hold(name: str, orthogonal: str, activation: str) -> None:
    torch.manual_seed(4)
    model = NETWORKS[name]((1, 8, 8), 5, orthogonal=orthogonal, activation=activation, **SMALL[name]).eval()
    twin, images = folded(model), torch.rand(4, 1, 8, 8)
    assert torch.equal(twin(images), model(images))
    constant = lipcert.global_lipschitz(twin, (1, 8, 8))
    assert 0.5 < float(constant) < 2.5  # of the logits together: rows of the head have norm 1 each
    labels = model(images).argmax(dim=1)
    certificate = lipcert.certify(twin, images, labels, 0.05, "local")
    jacobian = torch.func.vmap(torch.func.jacrev(lambda image: twin(image[None])[0]))(images).flatten(2)
    assert (torch.linalg.matrix_norm(jacobian, 2) <= float(constant) + 1e-9).all()
    for points in points_in_ball(images, 0.05, 64):
        logits = model(points)
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        assert (logits.gather(1, labels[:, None])[:, 0] - others >= certificate.margin).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_that_do_not_fit_are_refused(name: str) -> None:
    for said, match in (
        ({"depth": 0}, "depth of at least 1"),
        ({"width": 5}, "`width` to be even"),
        ({"activation": "tanh"}, "tanh"),
    ):
        with pytest.raises(ValueError, match=match):
            NETWORKS[name]((1, 8, 8), 5, **{**SMALL[name], **said})  # type: ignore[dict-item]
    if name == "liresnet":
        with pytest.raises(ValueError, match="`patch` to be at least 1"):
            liresnet((1, 8, 8), 5, patch=0, depth=2, width=8, features=12)
    if name != "mlp":
        with pytest.raises(ValueError, match="divides"):
            NETWORKS[name]((1, 7, 8), 5, **SMALL[name])


def test_weights_come_back(tmp_path: Path) -> None:
    images = torch.rand(2, 1, 8, 8)
    first, second = (liresnet((1, 8, 8), 5, **SMALL["liresnet"]) for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(first(images), second(images))
