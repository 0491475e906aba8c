"""Switches of torch under which a network rounds more than bounds cover: refused, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import lipcert
from lipcert.certificates import Certifier, Float64Model
from lipcert.soundness.attacked import Strength
from lipcert.soundness.examination import examine
from lipcert.system.execution import PRECISE, cover_execution, multiply_in, present_execution, refuse_execution

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def _network(convolves: bool) -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()] if convolves else []
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(32 if convolves else 16, 3)).eval()


@contextmanager
def _set(switch: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(switch, name)
    setattr(switch, name, value)
    try:
        yield
    finally:
        setattr(switch, name, before)


@contextmanager
def _medium() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
    before = [each.fp32_precision for each in matmul]
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        for each, precision in zip(matmul, before, strict=True):
            each.fp32_precision = precision


Switch = Callable[[], Any]

ON_CPU: dict[str, tuple[Switch, str]] = {
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), "leave its block"),
    "nnpack": (lambda: torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), r"nnpack.set_flags\(False\)"),
    "convolutions": (lambda: _set(torch.backends.mkldnn.conv, "fp32_precision", "bf16"), "mkldnn.conv.*ieee"),
    "matrices": (lambda: _set(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"), "mkldnn.matmul.*ieee"),
    "medium": (_medium, "mkldnn.matmul.*ieee"),
    "everything": (lambda: torch.backends.flags(fp32_precision="bf16"), "mkldnn.*ieee"),
}


@pytest.mark.parametrize("bound", ["global", "tight", None])
@pytest.mark.parametrize("name", ON_CPU)
def test_what_changes_float32_on_a_cpu_is_refused(name: str, bound: str | None) -> None:
    model, images = _network(convolves=True), torch.rand(2, 1, 4, 4)
    labels = model(images).argmax(dim=1)
    switch, words = ON_CPU[name]
    with switch():
        with pytest.raises(ValueError, match=words):
            lipcert.certify(model, images, labels, 1e-3, bound)
        assert lipcert.certify(model, images, labels, 1e-6, bound, arithmetic="exact").certified.all()
        with pytest.raises(ValueError, match=words):
            lipcert.certified_radius(model, images, labels, bound)
    assert lipcert.certify(model, images, labels, 1e-6, bound).certified.all()


@pytest.mark.parametrize("name", ["nnpack", "convolutions"])
def test_switches_of_layers_that_are_not_there_do_not_matter(name: str) -> None:
    model, images = _network(convolves=False), torch.rand(2, 1, 4, 4)
    with ON_CPU[name][0]():
        lipcert.certify(model, images, model(images).argmax(dim=1), 1e-3)


def test_nnpack_switched_off_is_covered() -> None:
    model, images = _network(convolves=True), torch.rand(2, 1, 4, 4)
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), torch.backends.nnpack.flags(enabled=False):
        lipcert.certify(model, images, model(images).argmax(dim=1), 1e-3)


@pytest.mark.parametrize("variable", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
def test_fast_arithmetic_of_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("BF16", "any", "TF32"):
        monkeypatch.setenv(variable, mode)
        with pytest.raises(ValueError, match=f"{variable}={mode}.*start anew"):
            refuse_execution({nn.Conv2d}, CPU)
    monkeypatch.setenv(variable, "STRICT")
    refuse_execution({nn.Conv2d}, CPU)


@pytest.mark.parametrize("variable", ["NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION"])
def test_lower_precision_of_cublas_by_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ValueError, match=f"{variable}=1.*start anew"):
        refuse_execution({nn.Linear}, CUDA)
    refuse_execution({nn.Linear}, CPU)
    monkeypatch.setenv(variable, "0")
    refuse_execution({nn.Linear}, CUDA)


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
def test_devices_that_no_bound_covers(device: str) -> None:
    with pytest.raises(ValueError, match=f"{device}.*choose one of cpu, cuda"):
        refuse_execution({nn.Linear}, torch.device(device))


def test_what_cuda_starts_with() -> None:
    """TF32 convolutions, and algorithms that cuDNN chooses; products of matrices are those of float32."""
    with pytest.raises(ValueError, match=r"cudnn.conv.*tf32"):
        refuse_execution({nn.Conv2d}, CUDA)
    refuse_execution({nn.Linear, nn.ReLU}, CUDA)
    refuse_execution({nn.Conv2d}, CPU)
    with _set(torch.backends.cudnn.conv, "fp32_precision", "ieee"):
        with pytest.raises(ValueError, match=r"cudnn.enabled = False"):
            refuse_execution({nn.Conv2d}, CUDA)
        with _set(torch.backends.cudnn, "enabled", False):
            refuse_execution({nn.Conv2d}, CUDA)
    with _set(torch.backends.cuda.matmul, "fp32_precision", "tf32"):
        with pytest.raises(ValueError, match=r"cuda.matmul.*tf32"):
            refuse_execution({nn.Linear}, CUDA)
        refuse_execution({nn.Linear}, CPU)


class _Louder(TorchFunctionMode):
    """Doubles what linear layers return."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        return 2 * result if function is F.linear else result


class _Deeper(TorchDispatchMode):
    """Doubles what products of matrices are."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        return 2 * result if function._opname in ("addmm", "mm") else result


@contextmanager
def _flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


INTERCEPTIONS: dict[str, tuple[Switch, str]] = {
    "function mode": (_Louder, "_Louder is active.*leave its block"),
    "dispatch mode": (_Deeper, "_Deeper is active.*leave its block"),
    "a profiler": (lambda: FlopCounterMode(display=False), "FlopCounterMode is active"),
    "shapes alone": (FakeTensorMode, "FakeTensorMode is active"),
    "below a device": (lambda: _both(_Louder(), torch.device("cpu")), "_Louder is active"),
    "flushing": (_flushing, r"flushed to zero.*set_flush_denormal\(False\)"),
}


@contextmanager
def _both(outer: Any, inner: Any) -> Iterator[None]:
    with outer, inner:
        yield


@pytest.mark.parametrize("arithmetic", ["executed", "exact"])
@pytest.mark.parametrize("name", INTERCEPTIONS)
def test_what_intercepts_every_operation_is_refused(name: str, arithmetic: str) -> None:
    """What an analysis computes would be intercepted like the network."""
    model, images = _network(convolves=True), torch.rand(2, 1, 4, 4)
    labels = model(images).argmax(dim=1)
    network = Float64Model(model)
    certify = Certifier(network, arithmetic=arithmetic)
    assert certify(images, labels, 1e-6).certified.all()
    mode, words = INTERCEPTIONS[name]
    asked: list[Callable[[], object]] = [
        lambda: certify(images, labels, 1e-6),
        lambda: lipcert.certify(model, images, labels, 1e-6, arithmetic=arithmetic),
        lambda: lipcert.certified_radius(model, images, labels, "global"),
        lambda: lipcert.local_lipschitz(model, images, 1e-3),
        lambda: lipcert.global_lipschitz(model, (1, 4, 4)),
        lambda: Float64Model(model),
        lambda: refuse_execution({nn.ReLU}, CPU),
    ]
    for ask in asked:
        with mode(), pytest.raises(ValueError, match=words):
            ask()


@pytest.mark.parametrize("name", [*INTERCEPTIONS, *ON_CPU])
def test_what_is_refused_is_not_examined(name: str) -> None:
    """Attacks that are executed otherwise refute nothing, and confirm nothing."""
    model, images = _network(convolves=True), torch.rand(2, 1, 4, 4)
    mode, words = {**INTERCEPTIONS, **ON_CPU}[name]
    strength = Strength(steps=1, restarts=1, queries=1, batch_size=2, seed=0)
    with mode(), pytest.raises(ValueError, match=words):
        examine(model, images, torch.tensor([0, 0]), 1e-3, {}, (), strength, 1, 4)


def test_transforms_of_functions_are_refused() -> None:
    model, images = _network(convolves=False), torch.rand(2, 2, 1, 4, 4)

    def certified(batch: Tensor) -> Tensor:
        return lipcert.certify(model, batch, torch.tensor([0, 0]), 1e-6).margin

    for transformed in (torch.func.vmap(certified), torch.func.jacrev(lambda each: certified(each[0]))):
        with pytest.raises(ValueError, match=r"torch\.func"):
            transformed(images)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_is_no_interception(device: str) -> None:
    """It says where tensors are made; where that is elsewhere, nothing is certified."""
    model, images = _network(convolves=True), torch.rand(2, 1, 4, 4)
    labels = model(images).argmax(dim=1)
    with torch.device(device):
        refuse_execution({nn.Conv2d}, CPU)
        if device == "cpu":
            assert lipcert.certify(model, images, labels, 1e-6).certified.all()
        else:
            with pytest.raises((RuntimeError, NotImplementedError, ValueError)):
                lipcert.certify(model, images, labels, 1e-6)


def test_modes_that_compute_the_same_are_accepted() -> None:
    model, images = _network(convolves=True), torch.rand(2, 1, 4, 4)
    labels = model(images).argmax(dim=1)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            assert lipcert.certify(model, images, labels, 1e-6).certified.all()


@pytest.mark.parametrize("name", [*ON_CPU, "flushing"])
def test_what_is_covered_is_set_back(name: str) -> None:
    """Of what jobs set themselves; autocast is refused there, as of everyone."""
    kinds, before = {nn.Conv2d, nn.Linear}, present_execution(CPU)
    switch = ON_CPU[name][0] if name in ON_CPU else _flushing
    with switch():
        found = present_execution(CPU)
        assert found != before
        with cover_execution(CPU):
            if name in ("autocast", "nnpack"):
                with pytest.raises(ValueError, match="Nothing is certified"):
                    refuse_execution(kinds, CPU)
            else:
                refuse_execution(kinds, CPU)
        assert present_execution(CPU) == found
    assert present_execution(CPU) == before


class _Own(nn.Module):
    """A layer that is registered from outside may convolve."""


def test_layers_of_unknown_origin_count_as_any() -> None:
    with pytest.raises(ValueError, match="cudnn"):
        refuse_execution({_Own}, CUDA)


@pytest.mark.parametrize("shift", [0.4, 0.45])
def test_points_that_are_rounded_out_of_the_ball(shift: float) -> None:
    """Images in float32, points of the ball in float64: conversion moves them by half a step, the class with them."""
    step = 2.0**-24
    images, labels = torch.tensor([[0.75 - step, 0.75]]), torch.tensor([1])
    model = nn.Sequential(nn.Flatten(), nn.ReLU()).eval()
    point = images.double() + torch.tensor([[shift * step, -0.51 * step]], dtype=torch.float64)
    assert model(point.float()).argmax(dim=1) == 0
    certificate = lipcert.certify(model, images, labels, 0.7 * step)
    assert not certificate.certified.any()
    assert certificate.radius < (point - images.double()).norm()
    assert lipcert.certify(model, images, labels, 0.7 * step, arithmetic="exact").certified.all()
    assert lipcert.certify(model, images, labels, 0.3 * step).certified.all()


def test_logits_that_differ_by_less_than_a_normal_number() -> None:
    """Flushed to zero, they are a tie."""
    model, images, labels = nn.Sequential(nn.ReLU()).eval(), torch.tensor([[0.0, 9e-39]]), torch.tensor([1])
    assert not lipcert.certify(model, images, labels, 1e-42).certified.any()
    assert lipcert.certify(model, images, labels, 1e-42, arithmetic="exact").certified.all()


def test_variances_whose_sum_with_eps_overflows() -> None:
    """Exactly z = (4.3, 1/10); executed, the variance is infinite and the first logit 0."""
    norm = nn.BatchNorm1d(1, eps=1e38)
    norm.running_var.fill_(3.4e38)  # type: ignore[union-attr]
    model = nn.Sequential(nn.Linear(1, 1), norm, nn.Linear(1, 2)).eval().requires_grad_(False)
    for layer, weight, bias in ((model[0], [[1e19]], [0.0]), (model[2], [[10.0], [0.0]], [0.0, 0.1])):
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    image = torch.tensor([[0.9]])
    assert model(image).argmax() == 1
    with pytest.raises(lipcert.UnsupportedLayerError, match=r"Layer '1'.*sum with eps"):
        lipcert.certify(model, image, torch.tensor([0]), 1e-3)


@pytest.mark.parametrize(("precision", "reduced"), [("high", True), ("highest", False)])
def test_training_multiplies_as_it_is_told_and_what_is_executed_does_not(precision: str, reduced: bool) -> None:
    def switches() -> tuple[str, str]:
        execution = present_execution(CUDA)
        return execution.convolution_precision, execution.matrix_precision

    before = switches()
    try:
        multiply_in(precision)
        assert [each == "tf32" for each in switches()] == [reduced] * 2
        with cover_execution(CUDA):
            assert set(switches()) <= set(PRECISE)
            assert not torch.backends.cudnn.enabled
        assert [each == "tf32" for each in switches()] == [reduced] * 2
        assert torch.backends.cudnn.enabled
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = (each == "tf32" for each in before)
