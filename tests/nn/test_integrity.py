"""Layers that compute something else than their type says, as the execution shows, have no certificate and no check."""

from __future__ import annotations

import copyreg
import importlib
from abc import ABC
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lipcert
from lipcert.certificates import Float64Model
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


class _Moody:
    """True from its `after`-th question on."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


class _Circular(str):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class _Step(int):
    def __index__(self) -> int:
        return 2


def _values(model: nn.Sequential) -> dict[str, tuple[str, str, object]]:
    """Return layer, attribute and a value that says one thing and computes another, by case."""
    return {
        "a mode that changes": ("norm", "training", _Moody(6)),
        "a text that is equal to any": ("conv", "padding_mode", _Circular("circular")),
        "a number of a class of its own": ("norm", "eps", type("Eps", (float,), {})(0.5)),
        "a pair of such numbers": ("conv", "padding", (_Step(1), 1)),
        "a tuple of a class of its own": ("pool", "kernel_size", type("Pair", (tuple,), {})((2, 2))),
        "a switch of dropout": ("drop", "training", _Moody(6)),
    }


@pytest.mark.parametrize("case", _values(nn.Sequential()))
def test_attributes_that_may_change_their_mind_are_refused(case: str) -> None:
    model = _model()
    name, key, value = _values(model)[case]
    setattr(model.get_submodule(name), key, value)
    with pytest.raises(UnsupportedLayerError, match=rf"'{name}'.*`{key}` that is no plain value"):
        _certify(model)
    with pytest.raises(NotImplementedError):
        Rechecker(model, IMAGE, False)


def test_plain_attributes_from_elsewhere_are_accepted() -> None:
    model = _model()
    model.get_submodule("norm").eps = np.float64(1e-5)  # type: ignore[assignment]
    model.get_submodule("conv").kernel_size = torch.Size([3, 3])  # type: ignore[assignment]
    model.get_submodule("linear").weight.note = "of mine"  # type: ignore[union-attr]
    assert _honest(model)
    _certify(model)


def _ordered(model: nn.Sequential) -> None:
    """`items`, which names are read from, and `values`, which runs, are not of the same layers."""
    layers = OrderedDict(model._modules)
    layers.values = lambda: [*OrderedDict(model._modules).values(), nn.Softplus()]  # type: ignore[method-assign]
    vars(model)["_modules"] = layers


class _Silent(OrderedDict[Any, Any]):
    def __bool__(self) -> bool:
        return False


def _silent_hooks(model: nn.Sequential) -> None:
    layer = model.get_submodule("linear")
    layer.register_forward_hook(lambda *arguments: 10 * arguments[-1])
    layer.register_full_backward_hook(lambda *arguments: None)  # with which torch looks for all hooks
    layer._forward_hooks = _Silent(layer._forward_hooks)


@pytest.mark.parametrize(
    ("alter", "words"),
    [(_ordered, "'model'.*`_modules` in no plain dict"), (_silent_hooks, "'linear'.*_forward_hooks")],
)
def test_dicts_with_methods_of_their_own_are_refused(alter: Callable[[nn.Sequential], None], words: str) -> None:
    model = _model()
    alter(model)
    with pytest.raises(UnsupportedLayerError, match=words):
        _certify(model)
    with pytest.raises(NotImplementedError):
        Rechecker(model, IMAGE, False)


@pytest.mark.parametrize("method", ["__deepcopy__", "double", "abs", "isfinite", "numel", "__reduce_ex__"])
def test_tensors_with_methods_of_their_own_are_refused(method: str) -> None:
    """By which they are copied, or looked at."""
    model = _model()
    weight = model.get_submodule("linear").weight
    setattr(weight, method, lambda *arguments: nn.Parameter(torch.zeros(8, 36)))
    assert _honest(model)
    with pytest.raises(UnsupportedLayerError, match=rf"'linear'.*`weight` with a `{method}` of its own"):
        _certify(model)
    with pytest.raises(NotImplementedError):
        Rechecker(model, IMAGE, False)


def _other_double(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.data.zero_()
    return model._apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def test_copies_that_are_other_networks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying has hooks of its own in Python, and `double` is no method that runs."""
    with monkeypatch.context() as patched:
        patched.setitem(copyreg.dispatch_table, nn.Linear, lambda layer: (nn.Linear, (36, 8)))
        with pytest.raises(UnsupportedLayerError, match="'linear': its copy is another layer"):
            _certify(_model())
    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "double", _other_double)
        with pytest.raises(UnsupportedLayerError, match="'conv': its copy is another layer"):
            _certify(_model())
    with monkeypatch.context() as patched:
        patched.setitem(copyreg.dispatch_table, nn.AvgPool2d, lambda layer: (nn.AvgPool2d, (2, 2, 1, False, False)))
        with pytest.raises(UnsupportedLayerError, match="'pool': its copy is another layer"):
            _certify(_model())


def _batched(weight: Tensor) -> Tensor:
    return torch._C._functorch._add_batch_dim(weight.expand(2, *weight.shape), 0, 1)  # type: ignore[no-any-return]


UNREADABLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "meta": (lambda weight: weight.to("meta"), "on the meta device"),
    "complex": (lambda weight: weight.to(torch.complex64), "complex"),
    "sparse": (lambda weight: weight.to_sparse(), "sparse"),
    "rows": (lambda weight: weight.to_sparse_csr(), "sparse"),
    "of oneDNN": (lambda weight: weight.to_mkldnn(), "in another layout"),
    "quantized": (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "quantized"),
    "nested": (lambda weight: torch.nested.nested_tensor(list(weight)), "nested"),
    "batched": (_batched, r"a transform of torch\.func"),
    "functional": (torch._to_functional_tensor, r"a transform of torch\.func"),
    "zero": (lambda weight: torch._efficientzerotensor(weight.shape), "a zero without memory"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", UNREADABLE)
def test_tensors_that_are_no_numbers_in_memory_are_refused(case: str) -> None:
    made, words = UNREADABLE[case]
    model = _model()
    layer = model.get_submodule("linear")
    layer._parameters["weight"] = made(layer.weight.detach())  # type: ignore[assignment, operator]
    with pytest.raises(UnsupportedLayerError, match=rf"`linear\.weight` is .*{words}"):
        _certify(model)
    with pytest.raises(NotImplementedError, match=rf"`linear\.weight` is .*{words}"):
        Rechecker(model, IMAGE, False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_below_single_precision_are_refused(dtype: torch.dtype) -> None:
    model = _model()
    model.get_submodule("linear").weight = nn.Parameter(torch.zeros(8, 36).to(dtype), requires_grad=False)
    with pytest.raises(ValueError, match=r"`linear\.weight` is in half precision or less"):
        _certify(model)
    with pytest.raises(ValueError, match="all in float32 or all in float64"):
        Rechecker(model, IMAGE, False)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "one row for all": lambda weight: weight[:1].expand(8, 36),
    "one number for all": lambda weight: weight[:1, :1].expand(8, 36),
    "windows of one row": lambda weight: weight.flatten().as_strided((8, 36), (1, 1)),
    "columns": lambda weight: weight.t().contiguous().t(),
    "negated": torch._neg_view,
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_are_certified_as_what_they_show(case: str) -> None:
    model = _model()
    layer = model.get_submodule("linear")
    shown = VIEWS[case](layer.weight.detach())  # type: ignore[operator]
    layer._parameters["weight"] = nn.Parameter(shown) if case != "negated" else shown  # type: ignore[assignment]
    copied = Float64Model(model).model
    assert torch.allclose(copied(IMAGES.double()).float(), model(IMAGES), atol=1e-5)
    _certify(model)
    Rechecker(model, IMAGE, False)


def test_what_changes_gradients_alone_is_accepted() -> None:
    model = _model()
    layer = model.get_submodule("linear")
    layer.weight.register_hook(lambda gradient: 0 * gradient)  # type: ignore[operator, union-attr]
    layer.register_full_backward_hook(lambda *arguments: None)
    assert _honest(model)
    _certify(model)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripts_are_refused() -> None:
    for model in (
        _model(linear=torch.jit.script(nn.Linear(36, 8))),
        _model(relu=nn.Sequential(torch.jit.script(nn.ReLU()))),
    ):
        with pytest.raises(UnsupportedLayerError, match=r"compiled by torch\.jit"):
            _certify(model)
        with pytest.raises(NotImplementedError):
            Rechecker(model, IMAGE, False)


def test_networks_are_certified_after_others_were_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.compile` puts a counter around a method of all modules."""
    guard = importlib.import_module("torch._dynamo.mutation_guard")
    for name in ("__init__", "__setstate__"):
        monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))  # to be as now when this is over
    monkeypatch.setattr(nn.Module, "___needs_generation_tag_patch", True, raising=False)
    guard.install_generation_tagging_init()
    assert nn.Module.__setstate__.__code__.co_name == "patched_setstate"
    model = _model()
    _certify(model)
    model.get_submodule("linear")._compiled_call_impl = lambda *arguments: arguments[0]  # what `compile` does
    with pytest.raises(UnsupportedLayerError, match=r"'linear'.*was compiled"):
        _certify(model)
