"""Layers that compute something else than their type says, as the execution shows, have no certificate and no check."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lipcert
from lipcert.graph import UnsupportedLayerError
from lipcert.nn import ClippedReLU, MaxMin, Normalize, Residual, integrity
from lipcert.recheck import Rechecker

IMAGE = (1, 4, 4)


def _layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
    return {
        "normalize": Normalize([0.4], [0.5]),
        "conv": nn.Conv2d(1, 4, 3, padding=1),
        "norm": norm,
        "relu": nn.ReLU(),
        "block": Residual(nn.Sequential(nn.Conv2d(4, 4, 1), MaxMin())),
        "pool": nn.AvgPool2d(2, padding=1),
        "flat": nn.Flatten(),
        "linear": nn.Linear(36, 8),
        "clipped": ClippedReLU((8,), 0.5),
        "drop": nn.Dropout(0.5),
        "head": nn.Linear(8, 3),
    }


def _model(**changed: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    for name, layer in {**_layers(), **changed}.items():
        model.add_module(name, layer)
    return model.eval()


IMAGES = torch.rand(2, *IMAGE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _honest(model: nn.Module) -> bool:
    """Return whether the model computes what its layers say."""
    return torch.allclose(model(IMAGES), REFERENCE)


REFERENCE = _model()(IMAGES).detach()


def _certify(model: nn.Module) -> object:
    return lipcert.certify(model, IMAGES, torch.tensor([0, 0]), 1e-3, "global")


def _refused(model: nn.Module, words: str) -> None:
    assert not _honest(model)
    with pytest.raises(UnsupportedLayerError, match=words):
        _certify(model)
    with pytest.raises(NotImplementedError):
        Rechecker(model, IMAGE, False)


@pytest.fixture(autouse=True)
def fixture_undone() -> Iterator[None]:
    """Make sure that an honest network is certified again."""
    yield
    assert _honest(_model())
    _certify(_model())
    Rechecker(_model(), IMAGE, False)


class _Louder(nn.Module):
    def __call__(self, *inputs: Any) -> Any:
        return 10 * super().__call__(*inputs)


class _LouderInside(nn.Module):
    def _call_impl(self, *inputs: Any, **keywords: Any) -> Any:
        return 10 * super()._call_impl(*inputs, **keywords)


class _OtherWeights:
    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return 0 * found if name == "weight" else found


class _BehindModule(nn.Linear, _OtherWeights):
    """`object.__getattribute__` is looked up behind `nn.Module`."""


class _Behind(nn.ReLU, _Louder):
    pass


class _Before(_Louder, nn.ReLU):
    pass


class _Inside(nn.ReLU, _LouderInside):
    pass


class _Deep(_Behind):
    pass


class _Container(nn.Sequential, _Louder):
    pass


class _Block(Residual, _Louder):
    pass


def _class_exchanged() -> nn.Module:
    layer = nn.ReLU()
    layer.__class__ = _Behind
    return layer


CLASSES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "behind the type": ("relu", _Behind),
    "before the type": ("relu", _Before),
    "inherited": ("relu", _Deep),
    "one level inside": ("relu", _Inside),
    "behind nn.Module": ("linear", lambda: _BehindModule(36, 8)),
    "a container": ("relu", lambda: _Container(nn.ReLU())),
    "a block": ("relu", lambda: _Block(nn.ReLU())),
    "the class exchanged": ("relu", _class_exchanged),
}


@pytest.mark.parametrize("case", CLASSES)
def test_methods_from_anywhere_are_refused(case: str) -> None:
    name, build = CLASSES[case]
    words = rf"'{name}'.*`(__call__|_call_impl|__getattribute__)` of its own"
    _refused(_model(**{name: build()}), words)


T = TypeVar("T")


class _Documented(nn.ReLU, Generic[T], ABC):
    """Has nothing but a docstring, a constructor and bases without effect."""

    def __init__(self) -> None:
        super().__init__(inplace=False)


def test_subclasses_that_add_nothing_are_accepted() -> None:
    model = _model(relu=_Documented())
    assert _honest(model)
    _certify(model)


def _louder(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs, **keywords: 10 * function(*inputs, **keywords)


def _shadowed(self: nn.Module, name: str) -> Any:
    return 10 * self._parameters[name] if name == "weight" else _getattr(self, name)  # type: ignore[operator]


_getattr = nn.Module.__getattr__

PATCHES: dict[str, tuple[object, str, Callable[[], object], str]] = {
    "forward": (nn.ReLU, "forward", lambda: _louder(nn.ReLU.forward), r"'relu'.*`ReLU\.forward` was replaced"),
    "of a relative": (nn.ReLU, "forward", lambda: nn.Sigmoid.forward, r"'relu'.*`ReLU\.forward`"),
    "of a base": (
        nn.modules.batchnorm._BatchNorm,
        "forward",
        lambda: _louder(nn.BatchNorm2d.forward),
        r"'norm'.*`_BatchNorm\.forward`",
    ),
    "of lipcert": (ClippedReLU, "forward", lambda: _louder(ClippedReLU.forward), r"'clipped'.*`ClippedReLU\.forward`"),
    "of a block": (Residual, "forward", lambda: _louder(Residual.forward), r"'block'.*`Residual\.forward`"),
    "of a convolution": (
        nn.Conv2d,
        "_conv_forward",
        lambda: _louder(nn.Conv2d._conv_forward),
        r"'conv'.*`Conv2d\._conv_forward`",
    ),
    "the call": (nn.Linear, "__call__", lambda: _louder(nn.Module.__call__), r"'linear'.*`Linear\.__call__`"),
    "all calls": (nn.Module, "__call__", lambda: _louder(nn.Module.__call__), r"'model'.*`Module\.__call__`"),
    "attributes": (nn.Module, "__getattr__", lambda: _shadowed, r"'model'.*`Module\.__getattr__`"),
    "a function": (F, "relu", lambda: _louder(F.relu), r"'relu'.*`torch\.nn\.functional\.relu`"),
    "a kernel's name": (F, "conv2d", lambda: _louder(F.conv2d), r"'conv'.*`torch\.nn\.functional\.conv2d`"),
    "a weight": (
        nn.Linear,
        "weight",
        lambda: property(lambda layer: 2 * layer._parameters["weight"]),
        r"'linear'.*its class has a `weight`",
    ),
}


@pytest.mark.parametrize("case", PATCHES)
@pytest.mark.parametrize("first", [False, True])
def test_patched_classes_and_functions_are_refused(case: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`first`: before anyone has looked, where the owner is torch's."""
    owner, name, made, words = PATCHES[case]
    if first:
        monkeypatch.setattr(integrity, "_methods", _uncached(integrity._methods))
        monkeypatch.setattr(integrity, "_functions", _uncached(integrity._functions))
    with monkeypatch.context() as patched:
        model = _model()
        patched.setattr(owner, name, made(), raising=False)
        _refused(model, words)


def _uncached(function: Any) -> Callable[[type], dict[str, object]]:
    """Return a function of a class that forgets what it saw of torch's classes."""

    def anew(cls: type) -> dict[str, object]:
        return (function.__wrapped__ if cls.__module__.startswith("torch.") else function)(cls)

    return anew


def test_code_that_was_exchanged_is_refused() -> None:
    def forward(self: nn.Module, inputs: Tensor) -> Tensor:
        return 10 * inputs

    before, model = nn.ReLU.forward.__code__, _model()
    nn.ReLU.forward.__code__ = forward.__code__
    try:
        _refused(model, r"'relu'.*`ReLU\.forward` was replaced")
    finally:
        nn.ReLU.forward.__code__ = before


class _Doubled(Tensor):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        return 2 * result.as_subclass(Tensor) if function in (F.linear, Tensor.view) else result


class _Parameter(_Doubled, nn.Parameter):  # type: ignore[misc]
    pass


def _weights(model: nn.Sequential) -> None:
    layer = model.get_submodule("linear")
    layer._parameters["weight"] = layer.weight.detach().as_subclass(_Doubled)  # type: ignore[assignment, operator]


def _parameters(model: nn.Sequential) -> None:
    layer = model.get_submodule("linear")
    layer._parameters["weight"] = layer.weight.detach().as_subclass(_Parameter)  # type: ignore[assignment, operator]


def _buffers(model: nn.Sequential) -> None:
    layer = model.get_submodule("normalize")
    layer._buffers["mean"] = layer.mean.as_subclass(_Doubled)  # type: ignore[operator]


def _hidden(model: nn.Sequential) -> None:
    layer = model.get_submodule("linear")
    vars(layer)["weight"] = 2 * layer.weight.detach()  # type: ignore[operator]


class _Negated(dict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        return -found if name == "weight" else found


def _dictionary(model: nn.Sequential) -> None:
    layer = model.get_submodule("linear")
    layer._parameters = _Negated(layer._parameters)


def _own_call(model: nn.Sequential) -> None:
    layer = model.get_submodule("linear")
    layer._call_impl = _louder(layer._call_impl)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (_weights, r"'linear'.*`weight` of type _Doubled"),
        (_parameters, r"'linear'.*`weight` of type _Parameter"),
        (_buffers, r"'normalize'.*`mean` of type _Doubled"),
        (_hidden, r"'linear'.*`weight` of its own"),
        (_dictionary, r"'linear'.*`_parameters` in no plain dict"),
        (_own_call, r"'linear'.*`_call_impl` of its own"),
    ],
)
def test_tensors_and_attributes_of_another_kind_are_refused(alter: Callable[[nn.Sequential], None], words: str) -> None:
    model = _model()
    alter(model)
    _refused(model, words)


def test_subclassed_tensors_can_be_made_plain() -> None:
    model = _model()
    _parameters(model)
    layer = model.get_submodule("linear")
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Tensor))  # type: ignore[operator]
    assert _honest(model)
    _certify(model)
