"""Certificates: sound against sampled adversaries, failing closed, refusing what cannot be certified."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.bounds import UnsupportedLayerError, margins
from lipcert.certificates import Certifier, Float64Model
from lipcert.nn import Residual, build
from lipcert.norms import upper
from tests.networks import images, network
from tests.oracles import points_in_ball
from tests.pairwise import pairwise

IMAGES = images(12)
FEW = 6


def _case(name: str = "plain", kind: str = "clipped_relu", count: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, images and the labels it predicts."""
    model = network(name, kind, scale=1.2)
    return model, IMAGES[:count], model(IMAGES[:count]).argmax(dim=1)


@cache
def _dividing_epsilon(name: str, kind: str, bound: str | None = None, count: int = 12) -> float:
    """Return an epsilon at which some images are certified by `bound` and others are not."""
    model, inputs, labels = _case(name, kind, count)
    largest = 1.0 if name == "pooled" else 0.3
    median = float(lipcert.certified_radius(model, inputs, labels, bound or "tight", largest, rounds=5).median())
    return median + 0.002 if bound else {"pooled": 8.7}.get(name, 2.2) * median  # the cascade proves more than `tight`


@pairwise(
    name=["plain", "pooled", "residual"],
    kind=["relu", "clipped_relu", "maxmin", "clipped_maxmin"],
    bound=["global", "local", "tight", "liplt", "global_liplt", None],
)
def test_certified_predictions_survive_sampled_and_ascending_adversaries(
    name: str, kind: str, bound: str | None
) -> None:
    model, inputs, labels = _case(name, kind, FEW)
    epsilon = _dividing_epsilon(name, kind, bound, FEW)
    certificate = lipcert.certify(model, inputs, labels, epsilon, bound)
    assert 0 < certificate.certified_accuracy < 1
    worst = torch.full((len(inputs),), torch.inf, dtype=torch.float64)
    moved = inputs.clone()
    for step in range(30):
        candidates = points_in_ball(inputs, epsilon, 1, step)[0] if step % 2 else moved
        candidates = candidates.detach().requires_grad_()
        logits = model(candidates)
        others = logits.masked_fill(torch.nn.functional.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
        margins = logits.gather(1, labels[:, None])[:, 0] - others.amax(dim=1)
        worst = torch.minimum(worst, margins.detach())
        (gradient,) = torch.autograd.grad(margins.sum(), candidates)
        offset = (
            candidates.detach() - epsilon * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None] - inputs
        )
        length = offset.flatten(1).norm(dim=1)[:, None, None, None]
        moved = inputs + offset * (epsilon / length).clamp_max(1)
    assert (worst >= certificate.margin - 1e-9).all()
    assert (worst[certificate.certified] > 0).all()


def test_tighter_bounds_certify_what_looser_ones_do() -> None:
    model, inputs, labels = _case()
    epsilon = _dividing_epsilon("plain", "clipped_relu", "tight")
    certified = {
        bound: lipcert.certify(model, inputs, labels, epsilon, bound).certified
        for bound in ("global", "local", "tight")
    }
    assert (certified["local"] | ~certified["global"]).all()
    assert (certified["tight"] | ~certified["local"]).all()
    assert certified["tight"].sum() > certified["global"].sum()


def test_wrong_predictions_are_never_certified() -> None:
    model, inputs, labels = _case()
    certificate = lipcert.certify(model, inputs, (labels + 1) % 5, 1e-6)
    assert not certificate.certified.any()
    assert (certificate.margin < 0).all()
    assert not certificate.correct((labels + 1) % 5).any()


def test_batches_do_not_matter_and_failure_probabilities_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upper, "EXACT_SIDE", 0)
    model, inputs, labels = _case()
    whole = lipcert.certify(model, inputs, labels, 0.05, "tight", batch_size=12)
    parts = lipcert.certify(model, inputs, labels, 0.05, "tight", batch_size=5)
    torch.testing.assert_close(whole.margin, parts.margin, rtol=1e-2, atol=1e-3)
    # Three norms an image, three global ones, and those that carry the rounding through two dense layers, at 1e-9 each.
    assert whole.failure_probability == pytest.approx((12 * 3 + 3 + 2) * 1e-9)
    assert parts.failure_probability == pytest.approx(whole.failure_probability)


def test_certified_radius_is_certified_and_nearly_the_largest() -> None:
    model, inputs, labels = _case()
    labels = labels.clone()
    labels[0] = (labels[0] + 1) % 5
    radii = lipcert.certified_radius(model, inputs, labels, "tight", largest=1.0, rounds=10)
    assert radii[0] == 0
    for row in range(1, 5):
        single, label = inputs[row : row + 1], labels[row : row + 1]
        assert lipcert.certify(model, single, label, float(radii[row]) * 0.99, "tight").certified.all()
        assert not lipcert.certify(model, single, label, float(radii[row]) * 1.05, "tight").certified.any()
    further = lipcert.certified_radius(model, inputs[:2], labels[:2], largest=1.2 * float(radii[1]), rounds=5)
    assert further[0] == 0
    assert further[1] > 1.02 * radii[1]


def test_a_residual_network_of_plain_torch_is_certified_untrained() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 16), Residual(nn.Sequential(nn.Linear(16, 16), nn.ReLU())), nn.Linear(16, 3)
    )
    inputs = IMAGES.float()
    labels = model(inputs).argmax(dim=1)
    assert lipcert.certify(model, inputs, labels, 1e-3).certified.any()
    assert next(model.parameters()).dtype == torch.float32  # the user's model is left as it was


class TestFailClosed:
    def test_ties(self) -> None:
        model, inputs, _ = _case()
        nn.init.zeros_(model[-1].weight)  # type: ignore[index, union-attr, arg-type]
        nn.init.zeros_(model[-1].bias)  # type: ignore[index, union-attr, arg-type]
        certificate = lipcert.certify(model, inputs, torch.zeros(12, dtype=torch.int64), 0.1)
        assert not certificate.certified.any()

    @pytest.mark.parametrize("epsilon", [1e20, 1e300])
    def test_huge_epsilon(self, epsilon: float) -> None:
        model, inputs, labels = _case("plain", "relu")
        assert not lipcert.certify(model, inputs, labels, epsilon).certified.any()

    @pytest.mark.parametrize("epsilon", [0.0, -0.1, math.nan, math.inf])
    def test_epsilon_out_of_range(self, epsilon: float) -> None:
        model, inputs, labels = _case()
        with pytest.raises(ValueError, match="epsilon"):
            lipcert.certify(model, inputs, labels, epsilon)

    @pytest.mark.parametrize("value", [-1e-6, 1.1, math.nan, 255.0])
    def test_pixels_out_of_range(self, value: float) -> None:
        model, inputs, labels = _case()
        inputs = inputs.clone()
        inputs[3, 0, 0, 0] = value
        with pytest.raises(ValueError, match="image 3"):
            lipcert.certify(model, inputs, labels, 0.1)

    @pytest.mark.parametrize(
        "labels", [torch.full((12,), 5), torch.full((12,), -1), torch.zeros(11).long(), torch.zeros(12)]
    )
    def test_labels_out_of_range(self, labels: Tensor) -> None:
        model, inputs, _ = _case()
        with pytest.raises(ValueError, match="labels"):
            Certifier(Float64Model(model))(inputs, labels, 0.1)

    def test_empty_set(self) -> None:
        model, inputs, labels = _case()
        with pytest.raises(ValueError, match="non-empty"):
            lipcert.certify(model, inputs[:0], labels[:0], 0.1)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_weights_that_are_not_finite(self, value: float) -> None:
        model, inputs, labels = _case()
        model[2].weight.data[0, 0, 0, 0] = value  # type: ignore[index, union-attr]
        with pytest.raises(ValueError, match=r"2\.weight"):
            lipcert.certify(model, inputs, labels, 0.1)

    def test_half_precision(self) -> None:
        model, inputs, labels = _case()
        with pytest.raises(ValueError, match="half precision"):
            lipcert.certify(model.half(), inputs, labels, 0.1)

    @pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout2d(), nn.BatchNorm2d(2)])
    def test_layers_in_train_mode(self, layer: nn.Module) -> None:
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(72, 5)).double()
        with pytest.raises(UnsupportedLayerError, match=r"'0'.*eval"):
            lipcert.certify(model.train(), IMAGES, torch.zeros(12).long(), 0.1)
        labels = model.eval()(IMAGES).argmax(dim=1)
        assert lipcert.certify(model, IMAGES, labels, 1e-9).certified.all()

    def test_outputs_that_are_no_logits(self) -> None:
        with pytest.raises(ValueError, match="flat vector of logits"):
            lipcert.certify(nn.Sequential(nn.Conv2d(2, 3, 3)).double(), IMAGES, torch.zeros(12).long(), 0.1)

    def test_unsupported_layers_are_named(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.Softsign(), nn.Linear(5, 2)).double()
        with pytest.raises(UnsupportedLayerError, match=r"'2' is a Softsign"):
            lipcert.certify(model, IMAGES, torch.zeros(12).long(), 0.1)

    def test_smooth_activations_are_certified_exactly_alone(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.GELU(), nn.Linear(5, 2)).double()
        labels = model(IMAGES).argmax(dim=1)
        with pytest.raises(UnsupportedLayerError, match=r"'2' \(GELU\).*arithmetic=\"exact\""):
            lipcert.certify(model, IMAGES, labels, 0.1)
        assert lipcert.certify(model, IMAGES, labels, 1e-6, arithmetic="exact").certified.all()

    def _scaled(self, factor: float) -> tuple[nn.Module, Tensor, Tensor]:
        model, inputs, labels = _case("plain", "relu")
        for layer in (0, 2, 5):
            model[layer].weight.data.mul_(factor)  # type: ignore[index, union-attr]
        return model, inputs, labels

    def test_weights_whose_margins_overflow(self) -> None:
        assert not lipcert.certify(*self._scaled(1e60), 0.1).certified.any()

    def test_weights_whose_norms_overflow(self) -> None:
        with pytest.raises(ArithmeticError, match="NaN or infinity"):
            lipcert.certify(*self._scaled(1e160), 0.1)


def test_memory_of_margins_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, labels = _case("pooled")
    whole = lipcert.certify(model, inputs, labels, 0.05, "liplt")
    monkeypatch.setattr(margins, "LARGEST_CHUNK", {"cpu": 1})
    torch.testing.assert_close(lipcert.certify(model, inputs, labels, 0.05, "liplt").margin, whole.margin)


def test_radii_of_uncertified_images_are_certified() -> None:
    model, inputs, labels = _case()
    certificate = lipcert.certify(model, inputs, labels, 0.5)
    rows = ((certificate.radius > 0) & ~certificate.certified).nonzero()[:, 0]
    assert len(rows) > 5
    again = Certifier(Float64Model(model), "liplt")(inputs[rows], labels[rows], certificate.radius[rows])
    assert again.certified.all()
    assert (certificate.radius[rows] < 0.5).all()


@pytest.mark.parametrize("kind", ["clipped_relu", "maxmin"])
def test_a_scale_that_the_next_layer_undoes_changes_nothing(kind: str) -> None:
    model, inputs, labels = _case("plain", "relu" if kind == "clipped_relu" else kind)
    before = lipcert.certify(model, inputs, labels, 0.05, "tight").margin
    with torch.no_grad():
        for layer, factor in ((2, 1e-17), (5, 1e17)):
            model[layer].weight.mul_(factor)  # type: ignore[index, union-attr, operator]
        model[2].bias.mul_(1e-17)  # type: ignore[index, union-attr, operator]
    torch.testing.assert_close(
        lipcert.certify(model, inputs, labels, 0.05, "tight").margin, before, rtol=0.02, atol=2e-3
    )


def test_lanczos_steps_need_a_bound() -> None:
    model, inputs, labels = _case()
    with pytest.raises(ValueError, match="`lanczos_steps` with a `bound`, got 30 without one"):
        lipcert.certify(model, inputs, labels, 0.1, lanczos_steps=30)


def test_one_image_several_epsilons_names_of_stages() -> None:
    torch.manual_seed(0)
    model = build("small", (1, 8, 8), 10).eval()
    pixels = torch.rand(4, 1, 8, 8)
    labels = model(pixels).argmax(1)
    several = lipcert.certify(model, pixels, labels, [0.05, 0.4], progress=True)
    assert list(several) == [0.05, 0.4]
    for epsilon, found in several.items():
        assert found.epsilon == epsilon
        assert found.failure_probability == several[0.4].failure_probability  # of all statements together
        assert [bool(name) for name in found.stage_names] == found.certified.tolist()
        rows = found.rows()
        assert [row["radius"] for row in rows] == found.radius.tolist()
        assert rows[0].keys() == {
            *("prediction", "certified", "radius", "margin", "lipschitz", "rounding", "epsilon", "stage")
        }
    assert several[0.05].certified.sum() > several[0.4].certified.sum()
    for label in (int(labels[0]), labels[0]):
        alone = lipcert.certify(model, pixels[0], label, 0.05, bound="global")
        assert alone.prediction.tolist() == labels[:1].tolist()
        assert set(alone.stage_names) <= {"global", ""}
    for wrong in ([], [0.1, 0.1]):
        with pytest.raises(ValueError, match="each once"):
            lipcert.certify(model, pixels, labels, wrong)
