"""Operators against the dense matrix of the layer they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2

from lipcert.bounds import Bound, analyze, lipschitz_to_logits, worst_increase
from lipcert.graph import UnsupportedLayerError, operator, supported_types
from lipcert.nn import ChannelPad, ElementwiseAffine, HalvesToPairs, MaxMin, Normalize, PairsToHalves, Permute
from tests.networks import images
from tests.oracles import ExactNorms, dense_matrix


def _batch_norm() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    layer.running_var.uniform_(0.2, 3)  # type: ignore[union-attr]
    nn.init.uniform_(layer.weight, -2, 2)
    return layer.eval()


supported_types()  # torchvision's layers are known from here on
IMAGE = (4, 7, 6)
LAYERS = {
    "linear": (lambda: nn.Linear(9, 5), (9,)),
    "linear without bias": (lambda: nn.Linear(4, 7, bias=False), (4,)),
    "convolution": (lambda: nn.Conv2d(4, 3, 3), IMAGE),
    "padding": (lambda: nn.Conv2d(4, 3, 3, padding=2), IMAGE),
    "stride leaves a rest": (lambda: nn.Conv2d(4, 3, 3, stride=3, padding=1), IMAGE),
    "uneven": (lambda: nn.Conv2d(4, 3, (2, 3), stride=(2, 1), padding=(0, 2), dilation=(3, 1)), IMAGE),
    "groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), IMAGE),
    "depthwise": (lambda: nn.Conv2d(4, 4, 4, stride=2, padding=1, groups=4, bias=False), IMAGE),
    "same, odd total": (lambda: nn.Conv2d(4, 2, 4, padding="same"), IMAGE),
    "same, dilated": (lambda: nn.Conv2d(4, 2, 3, padding="same", dilation=2), IMAGE),
    "valid": (lambda: nn.Conv2d(4, 2, 3, padding="valid", stride=2), IMAGE),
    "flatten": (lambda: nn.Flatten(), IMAGE),
    "identity": (lambda: nn.Identity(), IMAGE),
    "pooling": (lambda: nn.AvgPool2d(2), IMAGE),
    "overlapping pooling": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    "pooling, padding not counted": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    "pooling, ceil mode": (lambda: nn.AvgPool2d((3, 2), 2, ceil_mode=True), IMAGE),
    "pooling, own divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), IMAGE),
    "batch norm": (_batch_norm, IMAGE),
    "batch norm without weights": (lambda: nn.BatchNorm1d(6, affine=False).eval(), (6,)),
    "circular": (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), IMAGE),
    "circular, uneven": (lambda: nn.Conv2d(4, 2, (2, 4), (2, 1), "valid", padding_mode="circular"), IMAGE),
    "circular, same": (lambda: nn.Conv2d(4, 2, 4, padding="same", groups=2, padding_mode="circular"), IMAGE),
    "circular, around": (lambda: nn.Conv2d(1, 2, 3, padding=2, dilation=2, padding_mode="circular"), (1, 3, 4)),
    "reflect": (lambda: nn.Conv2d(4, 2, 3, 2, padding=(1, 2), padding_mode="reflect"), IMAGE),
    "replicate": (lambda: nn.Conv2d(4, 2, (5, 3), padding=(3, 1), bias=False, padding_mode="replicate"), IMAGE),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3), IMAGE),
    "transposed, strided": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), 2, (1, 0), 1, groups=2, bias=False), IMAGE),
    "transposed, dilated": (lambda: nn.ConvTranspose2d(4, 2, 3, (1, 2), 2, (1, 2), dilation=3), IMAGE),
    "zero padding": (lambda: nn.ZeroPad2d((1, 0, -2, 3)), IMAGE),
    "circular padding": (lambda: nn.CircularPad2d((3, 1, 0, 2)), IMAGE),
    "reflection padding": (lambda: nn.ReflectionPad2d((1, 2, 3, 0)), IMAGE),
    "replication padding": (lambda: nn.ReplicationPad2d((1, 2, 3, 9)), IMAGE),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "pixel unshuffle": (lambda: nn.PixelUnshuffle(2), (3, 4, 6)),
    "channels added": (lambda: ChannelPad(1, 2), IMAGE),
    "channels cut off": (lambda: ChannelPad(-2, 1), (5,)),
    "pairs to halves": (lambda: PairsToHalves(), IMAGE),
    "halves to pairs": (lambda: HalvesToPairs(), (6,)),
    "adaptive pooling": (lambda: nn.AdaptiveAvgPool2d((7, 2)), IMAGE),
    "adaptive pooling, overlapping": (lambda: nn.AdaptiveAvgPool2d((5, None)), IMAGE),
    "adaptive pooling, larger": (lambda: nn.AdaptiveAvgPool2d(10), IMAGE),
    "global pooling": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "torchvision's normalisation": (lambda: transforms.Normalize([0.1, 0.2, 0.3, 0.4], [1.0, 0.5, 2.0, 0.1]), IMAGE),
    "the same, v2": (lambda: v2.Normalize([0.1, 0.2, 0.3, 0.4], [1.0, 0.5, 2.0, 0.1]), IMAGE),
    "constants by element": (lambda: ElementwiseAffine(torch.randn(4, 1, 1), torch.randn(1, 4, 7, 6)), IMAGE),
    "a factor": (lambda: ElementwiseAffine(torch.tensor(-2.5)), (6,)),
    "a shift": (lambda: ElementwiseAffine(shift=torch.randn(6)), IMAGE),
    "another order": (lambda: Permute((0, 3, 1, 2)), IMAGE),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), (6,)),
    "normalize": (lambda: Normalize([0.1, 0.2, 0.3, 0.4], [1.0, 0.5, 2.0, 0.1]), IMAGE),
}


def repeats_pixels(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether a convolution meets one pixel at several places of a window."""
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode == "zeros":
        return False
    return layer.padding_mode != "circular" or any(
        layer.dilation[i] * (layer.kernel_size[i] - 1) >= shape[1 + i] for i in (0, 1)
    )


@pytest.mark.parametrize("name", LAYERS)
class TestOperator:
    @pytest.fixture
    def case(self, name: str):  # type: ignore[no-untyped-def]
        torch.manual_seed(0)
        build, shape = LAYERS[name]
        layer = build().double()
        return layer, operator(layer, shape), dense_matrix(layer, shape)

    def test_affine_is_the_layer(self, case) -> None:  # type: ignore[no-untyped-def]
        layer, op, _ = case
        inputs = torch.randn(3, *op.input_shape, dtype=torch.float64)
        torch.testing.assert_close(op.affine(inputs), layer(inputs))
        assert layer(inputs).shape[1:] == op.output_shape

    def test_apply_is_the_matrix(self, case) -> None:  # type: ignore[no-untyped-def]
        _, op, matrix = case
        inputs = torch.randn(3, *op.input_shape, dtype=torch.float64)
        torch.testing.assert_close(op.apply(inputs).flatten(1), inputs.flatten(1) @ matrix.T)

    def test_adjoint_is_the_transpose(self, case) -> None:  # type: ignore[no-untyped-def]
        _, op, matrix = case
        outputs = torch.randn(3, *op.output_shape, dtype=torch.float64)
        adjoint = op.adjoint(outputs)
        assert adjoint.shape[1:] == op.input_shape
        torch.testing.assert_close(adjoint.flatten(1), outputs.flatten(1) @ matrix)

    def test_absolute_and_squared_are_entrywise(self, case) -> None:  # type: ignore[no-untyped-def]
        layer, op, matrix = case
        inputs = torch.rand(2, *op.input_shape, dtype=torch.float64)
        if repeats_pixels(layer, op.input_shape):
            assert (op.absolute().apply(inputs).flatten(1) >= inputs.flatten(1) @ matrix.abs().T * (1 - 1e-12)).all()
            assert (op.squared().apply(inputs).flatten(1) >= inputs.flatten(1) @ matrix.square().T * (1 - 1e-12)).all()
            return
        torch.testing.assert_close(op.absolute().apply(inputs).flatten(1), inputs.flatten(1) @ matrix.abs().T)
        torch.testing.assert_close(op.squared().apply(inputs).flatten(1), inputs.flatten(1) @ matrix.square().T)

    def test_row_norms_are_upper_bounds(self, case) -> None:  # type: ignore[no-untyped-def]
        _, op, matrix = case
        exact = matrix.norm(dim=1).view(1, *op.output_shape)
        norms = torch.ones_like(exact) if op.row_norms() is None else op.row_norms()
        assert norms.shape == exact.shape
        assert (norms >= exact * (1 - 1e-12)).all()
        if not isinstance(case[0], nn.Conv2d):
            torch.testing.assert_close(norms.double(), exact)

    def test_rounded_operations_are_as_many_as_entries(self, case) -> None:  # type: ignore[no-untyped-def]
        """Of a row, and of a column, there are no more than are counted: an addition or a product for each."""
        _, op, matrix = case
        forward, backward = op.products()
        entries = matrix != 0
        if forward:
            assert entries.sum(dim=1).max() <= forward
            assert entries.sum(dim=0).max() <= backward
            ones = torch.ones(1, *op.input_shape, dtype=torch.float64)
            assert (op.operations(ones).flatten() >= entries.sum(dim=1)).all() or op.elementwise

    def test_adjoints_have_gradients(self, case) -> None:  # type: ignore[no-untyped-def]
        _, op, matrix = case
        outputs = torch.randn(1, *op.output_shape, dtype=torch.float64, requires_grad=True)
        weights = torch.randn(1, *op.input_shape, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((op.adjoint(outputs) * weights).sum(), outputs)
        torch.testing.assert_close(gradient.flatten(1), weights.flatten(1) @ matrix.T)

    def test_the_norm_of_absolute_entries_is_bounded_closely(self, case) -> None:  # type: ignore[no-untyped-def]
        _, op, matrix = case
        exact = torch.linalg.matrix_norm(matrix.abs(), 2)
        slack = 1.5 if repeats_pixels(case[0], op.input_shape) else 1.1
        assert exact * (1 - 1e-12) <= op.absolute_norm.item() <= slack * exact

    def test_orthogonal_rows_are_orthogonal(self, case) -> None:  # type: ignore[no-untyped-def]
        _, op, matrix = case
        gram = matrix @ matrix.T
        off_diagonal = (gram - torch.diag(gram.diagonal())).abs().max()
        assert (off_diagonal < 1e-12) >= op.orthogonal_rows

    def test_elementwise_rows_have_one_entry(self, case) -> None:  # type: ignore[no-untyped-def]
        _, op, matrix = case
        assert ((matrix != 0).sum(dim=1).max() <= 1) >= op.elementwise


def test_convolution_row_norms_are_exact_inside() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1).double()
    exact = dense_matrix(layer, (3, 6, 6)).norm(dim=1).view(4, 6, 6)
    norms = operator(layer, (3, 6, 6)).row_norms()[0]  # type: ignore[index]
    torch.testing.assert_close(norms[:, 1:-1, 1:-1], exact[:, 1:-1, 1:-1])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.ConvTranspose2d(3, 2, 3), r"\(B, 3, height, width\)"),
        (nn.ReflectionPad2d((-1, 0, 0, 0)), "cuts off"),
        (nn.PixelUnshuffle(2), "does not divide"),
        (nn.PixelShuffle(2), "does not divide"),
        (ChannelPad(-1, -1), "no channel"),
        (transforms.Normalize([0.1], [0.5]), "1 means"),
        (transforms.Normalize([0.1] * 2, [0.5] * 2, inplace=True), "inplace"),
        (transforms.Normalize([0.1] * 2, [0.5, -1.0]), "stds > 0"),
        (nn.Flatten(0), "Flatten"),
        (nn.BatchNorm2d(2), "eval"),
        (nn.BatchNorm2d(2, track_running_stats=False).eval(), "eval"),
        (nn.Softsign(), "Softsign"),
    ],
)
def test_what_is_not_affine_is_refused(layer: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=words):
        operator(layer, (2, 5, 5))


def test_one_product_and_a_bias_are_rounded_twice() -> None:
    """In float32 w x + b is off by nearly two unit roundoffs, and by no more than are counted."""
    generator = torch.Generator().manual_seed(0)
    weight, inputs, bias = torch.rand(3, 200_000, generator=generator)
    weight, inputs, bias = weight + 1, inputs + 1, bias * 1e-3
    exact = weight.double() * inputs.double() + bias.double()
    largest = (((weight * inputs + bias).double() - exact).abs() / exact).max().item() / 2**-24
    forward, _ = operator(nn.Linear(1, 1), (1,)).products()
    assert 1.9 < largest <= forward * (1 + 1e-6)


def test_a_channel_of_variance_zero_is_affine() -> None:
    layer = nn.BatchNorm1d(2, eps=1e-2).double().eval()
    layer.running_var = torch.tensor([0.0, 1.0], dtype=torch.float64)
    matrix = operator(layer, (2,)).apply(torch.eye(2, dtype=torch.float64)).T
    torch.testing.assert_close(matrix, torch.diag(torch.tensor([10.0, 1.01**-0.5], dtype=torch.float64)))
    layer.running_var[0] = -1e-9
    with pytest.raises(UnsupportedLayerError, match="variances"):
        operator(layer, (2,))


def _with_extra(image_layer: nn.Module, flat_layer: nn.Module) -> nn.Sequential:
    """Return a network with `image_layer` before a convolution and its activation, `flat_layer` likewise later on."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 6), MaxMin())
    first, act, second, again, flatten, dense, pairs = layers
    extended = (image_layer, first, image_layer, act, image_layer, second, again, flatten, flat_layer, dense)
    return nn.Sequential(*extended, flat_layer, pairs, nn.Linear(6, 4)).double().eval().requires_grad_(False)


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bound", Bound)
def test_layers_that_do_nothing_in_eval_mode_change_no_bound(bound: Bound) -> None:
    layers = _with_extra(nn.Identity(), nn.Identity())
    plain = nn.Sequential(*(each for each in layers if not isinstance(each, nn.Identity)))
    inputs, norms = images(2), ExactNorms()
    labels = plain(inputs).argmax(dim=1)
    expected = analyze(plain, inputs, 0.1, bound, norms, output_box=True)
    for on_images, flat in ((nn.Identity, nn.Identity), (nn.Dropout2d, nn.Dropout1d), (nn.Dropout, nn.Dropout)):
        found = analyze(_with_extra(on_images(), flat()), inputs, 0.1, bound, norms, output_box=True)
        _close(found.lipschitz, expected.lipschitz)
        _close(lipschitz_to_logits(found, norms), lipschitz_to_logits(expected, norms))
        _close(worst_increase(found, labels), worst_increase(expected, labels))
        assert len(found.activations) == len(expected.activations)
        for one, other in zip(found.activations, expected.activations, strict=True):
            _close(one.lower, other.lower)
            _close(one.upper, other.upper)
        for ours, theirs in zip(found.region.box(), expected.region.box(), strict=True):
            _close(ours, theirs)
