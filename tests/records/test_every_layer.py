"""Every supported layer, every argument of its constructor: networks of one fingerprint compute one function.

The oracle is the execution: two layers with the same tensors and other arguments either yield the same numbers for
the same inputs, bit by bit, or have different fingerprints.
"""

from __future__ import annotations

import inspect
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2

from lipcert.graph import supported_types
from lipcert.nn import (
    Abs,
    ChannelPad,
    ClippedMaxMin,
    ClippedReLU,
    ElementwiseAffine,
    GroupSort2,
    HalvesToPairs,
    Householder,
    LayerGraph,
    MaxMin,
    Normalize,
    PairsToHalves,
    Permute,
    Residual,
    Sum,
)
from lipcert.records.fingerprint import model_sha256, unsaid

Arguments = dict[str, Any]

IMAGES, ROWS = (2, 4, 5, 7), (3, 4)

BATCH_NORM: Arguments = {
    "num_features": [],
    "eps": [1e-3, 1e-5 + 1e-12],
    "momentum": [None, 0.5],
    "affine": [False],
    "track_running_stats": [False],
    "bias": [False],
}

_LAYERS = {"first": nn.ReLU(), "second": MaxMin(), "sum": Sum()}

CASES: dict[type[nn.Module], tuple[tuple[int, ...], Arguments, dict[str, list[Any]]]] = {
    nn.Linear: (ROWS, {"in_features": 4, "out_features": 2}, {"out_features": [3], "in_features": [], "bias": [False]}),
    nn.Conv2d: (
        IMAGES,
        {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1},
        {
            "in_channels": [],
            "out_channels": [8],
            "kernel_size": [1, (1, 3)],
            "stride": [2, (1, 2)],
            "padding": [0, 2, (0, 1), "same", "valid"],
            "dilation": [2, (1, 2)],
            "groups": [2, 4],
            "bias": [False],
            "padding_mode": ["reflect", "circular", "replicate"],
        },
    ),
    nn.Flatten: (IMAGES, {}, {"start_dim": [2], "end_dim": [2, 3]}),
    nn.Identity: (IMAGES, {}, {}),
    nn.Dropout: (IMAGES, {}, {"p": [0.1, 0.9], "inplace": [True]}),
    nn.Dropout1d: (ROWS, {}, {"p": [0.1, 0.9], "inplace": [True]}),
    nn.Dropout2d: (IMAGES, {}, {"p": [0.1, 0.9], "inplace": [True]}),
    nn.BatchNorm1d: (ROWS, {"num_features": 4}, BATCH_NORM),
    nn.BatchNorm2d: (IMAGES, {"num_features": 4}, BATCH_NORM),
    nn.AvgPool2d: (
        IMAGES,
        {"kernel_size": 2, "stride": 3, "padding": 1},
        {
            "kernel_size": [3, (2, 3)],
            "stride": [2, None, (2, 1)],
            "padding": [0, (0, 1)],
            "ceil_mode": [True],
            "count_include_pad": [False],
            "divisor_override": [3, 4, 5],
        },
    ),
    nn.AdaptiveAvgPool2d: (IMAGES, {"output_size": 2}, {"output_size": [1, (2, 3), (None, 2)]}),
    nn.ConvTranspose2d: (
        IMAGES,
        {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1},
        {
            "in_channels": [],
            "out_channels": [8],
            "kernel_size": [2, (3, 2)],
            "stride": [1, (2, 1)],
            "padding": [0, (0, 1)],
            "output_padding": [1, (0, 1)],
            "dilation": [2, (1, 2)],
            "groups": [2, 4],
            "bias": [False],
            "padding_mode": [],
        },
    ),
    nn.ZeroPad2d: (IMAGES, {"padding": 1}, {"padding": [(1, 0, 0, 2), (-1, 0, 0, 0)]}),
    nn.CircularPad2d: (IMAGES, {"padding": 1}, {"padding": [(1, 0, 0, 2)]}),
    nn.ReflectionPad2d: (IMAGES, {"padding": 1}, {"padding": [(1, 0, 0, 2)]}),
    nn.ReplicationPad2d: (IMAGES, {"padding": 1}, {"padding": [(1, 0, 0, 2)]}),
    nn.PixelShuffle: ((2, 36, 2, 2), {"upscale_factor": 2}, {"upscale_factor": [3, 6]}),
    nn.PixelUnshuffle: ((2, 1, 6, 6), {"downscale_factor": 2}, {"downscale_factor": [3, 6]}),
    ChannelPad: (IMAGES, {"before": 1}, {"before": [2, -1], "after": [1, -2]}),
    PairsToHalves: (IMAGES, {}, {}),
    HalvesToPairs: (ROWS, {}, {}),
    GroupSort2: (IMAGES, {}, {}),
    transforms.Normalize: (
        IMAGES,
        {"mean": [0.1] * 4, "std": [0.5] * 4},
        {"mean": [[0.2] * 4], "std": [[0.25] * 4], "inplace": [True]},
    ),
    v2.Normalize: (
        IMAGES,
        {"mean": [0.1] * 4, "std": [0.5] * 4},
        {"mean": [[0.2] * 4], "std": [[0.25] * 4], "inplace": [True]},
    ),
    nn.ReLU: (IMAGES, {}, {"inplace": [True]}),
    nn.ReLU6: (IMAGES, {}, {"inplace": [True]}),
    nn.Hardtanh: (
        IMAGES,
        {"min_val": -0.5, "max_val": 0.5},
        {"min_val": [-1.0], "max_val": [1.0], "inplace": [True], "min_value": [], "max_value": []},
    ),
    nn.LeakyReLU: (IMAGES, {}, {"negative_slope": [0.2, -1.0], "inplace": [True]}),
    nn.PReLU: (IMAGES, {"num_parameters": 4}, {"num_parameters": [1], "init": [0.5]}),
    Abs: (IMAGES, {}, {}),
    nn.Tanh: (IMAGES, {}, {}),
    nn.Sigmoid: (IMAGES, {}, {}),
    nn.SiLU: (IMAGES, {}, {"inplace": [True]}),
    nn.GELU: (IMAGES, {}, {"approximate": ["tanh"]}),
    nn.Softplus: (IMAGES, {}, {"beta": [2.0], "threshold": [1.0]}),
    nn.MaxPool2d: (
        IMAGES,
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {
            "kernel_size": [3, (2, 3)],
            "stride": [1, None, (2, 1)],
            "padding": [0, (0, 1)],
            "dilation": [2, (1, 2)],
            "return_indices": [],
            "ceil_mode": [True],
        },
    ),
    ClippedReLU: (ROWS, {"shape": (4,)}, {"shape": [(1,)], "threshold": [0.0, 0.3]}),
    MaxMin: (IMAGES, {}, {}),
    Householder: (IMAGES, {"channels": 4}, {"channels": []}),
    ClippedMaxMin: (ROWS, {"shape": (4,)}, {"shape": [(2,)], "max": [0.2], "min": [-0.2, 0.0]}),
    Normalize: (IMAGES, {"mean": [0.1] * 4, "std": [0.5] * 4}, {"mean": [[0.2] * 4], "std": [[0.25] * 4]}),
    Residual: (ROWS, {"branch": nn.Linear(4, 4)}, {"branch": [nn.ReLU()], "shortcut": [nn.ReLU(), MaxMin()]}),
    nn.Unflatten: (ROWS, {"dim": 1, "unflattened_size": (2, 2)}, {"dim": [], "unflattened_size": [(4, 1), (1, 4)]}),
    Permute: (IMAGES, {"order": (0, 2, 3, 1)}, {"order": [(0, 1, 3, 2), (0, 1, 2, 3)]}),
    ElementwiseAffine: (
        ROWS,
        {"scale": torch.tensor([1.0, 2.0, -1.0, 0.5])},
        {"scale": [torch.tensor(3.0)], "shift": [torch.tensor([0.5]), torch.zeros(4)]},
    ),
    LayerGraph: (
        ROWS,
        {"layers": _LAYERS, "sources": {"first": [""], "second": ["first"], "sum": ["first", "second"]}},
        {
            "layers": [{**_LAYERS, "second": nn.Identity()}],
            "sources": [
                {"first": [""], "second": [""], "sum": ["first", "second"]},
                {"first": [""], "second": ["first"], "sum": ["", "second"]},
            ],
        },
    ),
    nn.Sequential: (ROWS, {"args": (nn.Linear(4, 4),)}, {"args": [(), (nn.ReLU(),), (nn.Linear(4, 4), nn.ReLU())]}),
}
"""By type: the shape of inputs, arguments, and other values of every argument."""


def _made(kind: type[nn.Module], arguments: Arguments) -> nn.Module:
    torch.manual_seed(0)
    positional = arguments.get("args", ())
    layer = kind(*positional, **{key: value for key, value in arguments.items() if key != "args"}).eval()
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
        layer.running_mean.fill_(0.3)
        layer.running_var.fill_(0.01)  # type: ignore[union-attr]
    return layer


def _outputs(layer: nn.Module, shape: tuple[int, ...]) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(shape, generator=generator)
    with torch.no_grad():
        result: Tensor = layer(inputs.clone())
    return [tuple(result.shape), result.tolist()]


def test_every_supported_layer_is_here() -> None:
    assert {*CASES, Sum} == supported_types()  # which takes two inputs; `LayerGraph` has one


@pytest.mark.parametrize("kind", CASES)
def test_every_argument_is_here(kind: type[nn.Module]) -> None:
    parameters = inspect.signature(kind.__init__).parameters
    taken = {name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    ignored = {"self", "device", "dtype"} | ({"args"} if kind in _SINGLE else set())
    assert taken - ignored <= set(CASES[kind][2])


@pytest.mark.parametrize("kind", CASES)
def test_layers_of_one_fingerprint_compute_one_function(kind: type[nn.Module]) -> None:
    shape, base, others = CASES[kind]
    known = inspect.signature(kind.__init__).parameters
    variants = [{**base, key: value} for key, values in others.items() if key in known for value in values]
    variants += [base] if kind is not nn.AvgPool2d else [*_pairs(base, others), base]
    found: dict[str, list[Any]] = {}
    for arguments in variants:
        layer = _made(kind, arguments)
        outputs = _outputs(layer, shape)
        for model in (layer, nn.Sequential(layer)):
            digest = model_sha256(model)
            assert found.setdefault(digest, outputs) == outputs, (arguments, digest)
    assert len({str(each) for each in found.values()}) > 1 or kind in (*_SINGLE, *_INERT)


_SINGLE = (nn.Identity, MaxMin, Abs, nn.Tanh, nn.Sigmoid, PairsToHalves, HalvesToPairs, GroupSort2, Householder)
"""Layers without arguments, or but one size."""

_INERT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.SiLU)
"""Layers whose arguments change nothing in eval mode."""


def _pairs(base: Arguments, others: dict[str, list[Any]]) -> list[Arguments]:
    """Return arguments with two of the values changed."""
    changes = [(key, value) for key, values in others.items() for value in values]
    return [{**base, **dict(pair)} for pair in itertools.combinations(changes, 2)]


@pytest.mark.parametrize("kind", CASES)
def test_attributes_that_were_changed_after_construction_count(kind: type[nn.Module]) -> None:
    """The same values, assigned to a layer that is there: tensors stay as they are."""
    shape, base, others = CASES[kind]
    before = model_sha256(_made(kind, base))
    for key, values in others.items():
        for value in values:
            layer = _made(kind, base)
            outputs = _outputs(layer, shape)
            if key not in vars(layer):
                continue
            pair = isinstance(value, int) and isinstance(getattr(layer, key), tuple)
            setattr(layer, key, (value, value) if pair else value)
            try:
                changed = _outputs(layer, shape) != outputs
            except (RuntimeError, ValueError, TypeError, LookupError):
                continue  # no function at all
            assert not changed or model_sha256(layer) != before, (key, value)


@pytest.mark.parametrize("kind", CASES)
def test_fingerprints_of_ordinary_layers_are_those_of_older_records(kind: type[nn.Module]) -> None:
    layer = _made(kind, CASES[kind][1])
    assert (unsaid(layer) == []) != (kind in _OF_TORCHVISION)
    assert (model_sha256(layer) == model_sha256(layer, complete=False)) != (kind in _OF_TORCHVISION)


_OF_TORCHVISION = (transforms.Normalize, v2.Normalize)
"""Layers that older records are never about."""


class _Named(nn.Identity):
    pass


_Named.__name__ = "ReLU"


class _Passing(nn.Identity):
    pass


class _Cutting(nn.ReLU):
    pass


_Cutting.__name__ = _Passing.__name__ = "Mine"


class _Scaled(nn.Module):
    def __init__(self, factor: float, function: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.factor = factor
        self.function = function
        self.register_buffer("offset", torch.zeros(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.factor * inputs + self.offset)


class _Pooled(nn.AvgPool2d):
    pass


def _shifted(offset: float) -> nn.Module:
    layer = _Scaled(2.0)
    layer.offset.fill_(offset)  # type: ignore[operator, union-attr]
    return layer


PAIRS: dict[str, tuple[nn.Module, nn.Module]] = {
    "a class by the name of another": (_Named(), nn.ReLU()),
    "two classes of one name": (_Passing(), _Cutting()),
    "an attribute of a class of one's own": (_Scaled(2.0), _Scaled(2.5)),
    "a function": (_Scaled(2.0), _Scaled(2.0, torch.abs)),
    "a buffer that is not persistent": (_shifted(0.0), _shifted(0.5)),
    "an inherited attribute": (_Pooled(2, padding=1), _Pooled(2, padding=1, count_include_pad=False)),
    "a name that looks like a layer": (
        nn.Sequential(OrderedDict({"0): ReLU()\n  (1": nn.Identity()})),
        nn.Sequential(nn.ReLU(), nn.Identity()),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_repr_and_state_dict_hide_counts(pair: str) -> None:
    first, second = PAIRS[pair]
    assert model_sha256(nn.Sequential(first)) != model_sha256(nn.Sequential(second))


@pytest.mark.parametrize("pair", PAIRS)
def test_they_compute_different_functions_that_older_fingerprints_confuse(pair: str) -> None:
    first, second = PAIRS[pair]
    assert model_sha256(first, complete=False) == model_sha256(second, complete=False)
    inputs = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    assert not torch.equal(first(inputs), second(inputs))


def test_an_attribute_that_cannot_be_told_is_refused() -> None:
    layer = _Scaled(2.0)
    layer.function = object()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"got object in '0\.function'"):
        model_sha256(nn.Sequential(layer))
