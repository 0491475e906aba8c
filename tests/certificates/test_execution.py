"""Switches of torch under which a network rounds more than bounds cover: refused, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import lipcert
from lipcert.certificates.float64 import refuse_execution

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
