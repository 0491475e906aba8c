"""Folded networks: the numbers of a parametrized network, stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import lipcert
from lipcert.nn import AlmostOrthogonal, UnsupportedLayerError, build, folded
from lipcert.nn.almost_orthogonal import parametrize_almost_orthogonal
from lipcert.recheck import Rechecker
from lipcert.recheck.margins import margins
from lipcert.records.fingerprint import model_sha256


def _layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5), nn.ReLU(), nn.Linear(5, 3))


def _each(parametrized: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    model = _layers()
    for index in (0, 3, 5):
        parametrized(model[index])
    return model.eval()


def _one_after_the_other(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


def _threshold() -> nn.Sequential:
    model = _layers()
    model[4] = lipcert.nn.ClippedReLU((5,), 0.3)
    parametrizations.weight_norm(model[4], "threshold")
    return model.eval()


KNOWN: dict[str, Callable[[], nn.Sequential]] = {
    "almost orthogonal": lambda: _each(lambda layer: parametrize_almost_orthogonal(layer) or layer),  # type: ignore[func-returns-value]
    "orthogonal": lambda: _each(parametrizations.orthogonal),
    "spectral norm": lambda: _each(parametrizations.spectral_norm),
    "weight norm": lambda: _each(parametrizations.weight_norm),
    "two": lambda: _each(_one_after_the_other),
    "a threshold": _threshold,
}


@pytest.mark.parametrize("kind", KNOWN)
def test_the_numbers_are_those_of_the_parametrized_network(kind: str) -> None:
    model, images = KNOWN[kind](), torch.rand(3, 1, 6, 6)
    logits, tensors = model(images), {name: each.clone() for name, each in model.state_dict().items()}
    stored = folded(model)
    torch.testing.assert_close(stored(images), logits)
    assert set(stored.state_dict()) == set(_layers().state_dict()) | (
        {"4.threshold"} if kind == "a threshold" else set()
    )
    assert [type(each) for each in stored] != [type(each) for each in model]
    assert all(each.dtype == torch.float32 for each in stored.state_dict().values())
    torch.testing.assert_close(model(images), logits, rtol=0, atol=0)
    assert all(torch.equal(each, tensors[name]) for name, each in model.state_dict().items())
    torch.testing.assert_close(folded(model)(images), stored(images), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KNOWN)
def test_certificates_are_of_the_folded_network(kind: str) -> None:
    model, images = KNOWN[kind](), torch.rand(3, 1, 6, 6)
    labels = model(images).argmax(dim=1)
    with pytest.raises(
        UnsupportedLayerError, match=r"computes its `\w+` at each use.*lipcert\.nn\.folded\(model\)|'4'"
    ):
        lipcert.certify(model, images, labels, 1e-4)
    stored = folded(model)
    certificate = lipcert.certify(stored, images, labels, 1e-4)
    assert certificate.certified.any()
    rechecker, number = Rechecker(model, (1, 6, 6), False), int(certificate.certified.nonzero()[0])
    derived = margins(rechecker.derive(images[number], 1e-4), int(labels[number]))
    assert derived.executed > 0
    assert derived.real == pytest.approx(float(certificate.margin[number]), rel=0.1)


def test_a_network_without_parametrizations_is_returned_itself() -> None:
    model = _layers()
    assert folded(model) is model


def test_a_layer_that_is_used_twice_stays_one_layer() -> None:
    shared = parametrizations.spectral_norm(nn.Linear(4, 4))
    stored = folded(nn.Sequential(shared, nn.ReLU(), shared).eval())
    assert stored[0] is stored[2]  # type: ignore[index]


def test_layers_that_share_a_parameter_are_folded_each() -> None:
    first, second, plain = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = plain.weight = first.weight
    for layer in (first, second):
        parametrize_almost_orthogonal(layer)
    model, images = nn.Sequential(first, second, plain).eval(), torch.rand(2, 4)
    assert len({id(each) for name, each in model.named_parameters(remove_duplicate=False) if "bias" not in name}) == 1
    stored = folded(model)
    assert {each.dtype for each in stored.parameters()} == {torch.float32}
    torch.testing.assert_close(stored(images), model(images))


def test_a_parametrized_buffer_stays_a_buffer() -> None:
    layer = lipcert.nn.Normalize([0.5], [2.0])
    parametrize.register_parametrization(layer, "std", parametrizations._WeightNorm(0))
    stored = folded(nn.Sequential(layer).eval())
    assert [name for name, _ in stored.named_buffers()] == ["0.std", "0.mean"]


def test_threads_agree_on_the_folded_network() -> None:
    """Two columns that are orthogonal but for rounding, at unlike scales: sums in float32 differ by a percent."""
    generator, count = torch.Generator().manual_seed(0), 512
    first, second = (torch.randn(count // 2, generator=generator) for _ in range(2))
    order = torch.randperm(count, generator=generator)
    layer = nn.Conv2d(2, count, 1, bias=False)
    with torch.no_grad():
        layer.weight[:, 0, 0, 0] = torch.cat((first, first))[order] / 32
        layer.weight[:, 1, 0, 0] = torch.cat((second, -second))[order] * 1e5
    parametrize_almost_orthogonal(nn.Sequential(layer))
    model, threads, found = nn.Sequential(layer).eval(), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(model_sha256(folded(model)))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


class _Random(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.dropout(weight, 0.5, training=True)


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("uses", torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        self.uses += 1
        return weight / self.uses


class _Louder(AlmostOrthogonal):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * super().forward(weight)


@pytest.mark.parametrize("step", [_Random, _Counting, _Louder])
@pytest.mark.parametrize("behind", [False, True])
def test_other_parametrizations_are_refused_by_name(step: type[nn.Module], behind: bool) -> None:
    model, image = _layers(), torch.rand(1, 1, 6, 6)
    if behind:
        parametrizations.spectral_norm(model[3])
    parametrize.register_parametrization(model[3], "weight", step())
    model.eval()
    if step is not _Louder:
        assert not torch.equal(model(image), model(image))
    words = rf"'3'.*`weight` by a {step.__name__}"
    for asked in (folded, lambda each: lipcert.certify(each, image, torch.tensor([0]), 0.1)):
        with pytest.raises(UnsupportedLayerError, match=words):
            asked(model)
    with pytest.raises(NotImplementedError, match=words):
        Rechecker(model, (1, 6, 6), False)


def _hooked(layer: nn.Module) -> None:
    layer.parametrizations["weight"][0].register_forward_hook(lambda *each: 2 * each[-1])  # type: ignore[index, operator, union-attr]


def _patched(layer: nn.Module) -> None:
    layer.parametrizations["weight"][0].forward = torch.zeros_like  # type: ignore[index, union-attr]


def _patched_list(layer: nn.Module) -> None:
    weight = layer.weight.detach()
    layer.parametrizations["weight"].forward = lambda: torch.rand_like(weight)  # type: ignore[index, union-attr, operator]


def _property(layer: nn.Module) -> None:
    weight = layer.weight.detach()
    type(layer).weight = property(lambda layer: torch.rand_like(weight))  # type: ignore[assignment, operator]


@pytest.mark.parametrize("alter", [_hooked, _patched, _patched_list, _property])
@pytest.mark.parametrize("kind", ["almost orthogonal", "spectral norm"])
def test_altered_parametrizations_are_refused(kind: str, alter: Callable[[nn.Module], None]) -> None:
    model, image = KNOWN[kind](), torch.rand(1, 1, 6, 6)
    before = model(image)
    alter(model[3])
    assert not torch.allclose(model(image), before)
    for made in (folded, lambda each: each):
        with pytest.raises(UnsupportedLayerError, match="'3"):
            lipcert.certify(made(model), image, torch.tensor([0]), 0.1)


def test_the_published_architectures_fold_to_plain_ones() -> None:
    torch.manual_seed(6)
    model, images = build("small", (1, 8, 8), 10, "maxmin", parametrization="aol"), torch.rand(2, 1, 8, 8)
    plain = build("small", (1, 8, 8), 10, "maxmin")
    plain.load_state_dict(folded(model).state_dict())
    torch.testing.assert_close(plain(images), model(images))
    assert repr(folded(model)) == repr(plain)
    assert model_sha256(folded(model)) == model_sha256(plain)
