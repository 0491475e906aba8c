"""Files of plain torch: they import torch alone, compute the same to the last bit, and are read back as the network."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from lipcert.exporting.source import OWN, read, written
from lipcert.graph import UnsupportedLayerError
from lipcert.records.fingerprint import model_sha256
from tests.networks import IMAGE, images, network
from tests.records.test_every_layer import CASES, _made

PLAIN = ("torch.nn.", "torchvision.transforms.transforms")
"""Where layers come from that are read back as what they were."""


def _plain(text: str, model: nn.Module) -> nn.Module:
    tree = ast.parse(text)
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.Import | ast.ImportFrom)]
    modules = [each.module if isinstance(each, ast.ImportFrom) else each.names[0].name for each in imports]
    assert modules == ["torch", "torch"]
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    plain: nn.Module = namespace["build"]()
    plain.load_state_dict(model.state_dict(), assign=True)
    return plain.eval()


@torch.no_grad()
def _refuse_difference(model: nn.Module, shape: tuple[int, ...]) -> None:
    text = written(model, shape[1:], 2)
    inputs = torch.randn(shape, dtype=next((each.dtype for each in model.parameters()), torch.float32))
    assert torch.equal(_plain(text, model)(inputs), model(inputs))
    again = read(text)
    again.load_state_dict(model.state_dict(), assign=True)
    assert model_sha256(again.eval()) == model_sha256(model)
    assert written(again, shape[1:], 2) == text


@pytest.mark.parametrize(("name", "kind"), [("plain", "clipped_maxmin"), ("pooled", "maxmin"), ("residual", "relu")])
def test_networks_come_back(name: str, kind: str) -> None:
    model = network(name, kind)
    assert torch.equal(_plain(written(model, IMAGE, 5), model)(images()), model(images()))
    _refuse_difference(model.float(), (3, *IMAGE))


@pytest.mark.parametrize("kind", [each for each in CASES if each in OWN or each.__module__.startswith(PLAIN)])
def test_every_layer_comes_back(kind: type[nn.Module]) -> None:
    shape, base, others = CASES[kind]
    changed = [{**base, key: value} for key, values in others.items() for value in values]
    for arguments in (base, *changed):
        try:
            layer = _made(kind, arguments).eval()
            outputs = layer(torch.randn(shape))
        except (RuntimeError, ValueError, TypeError, LookupError):
            continue  # no layer for inputs of this shape
        if isinstance(outputs, torch.Tensor) and not (
            not kind.__module__.startswith("torch.nn.") and arguments.get("inplace")
        ):  # bounds refuse it
            _refuse_difference(layer, shape)


def test_the_second_normalize_of_torchvision_is_written_as_the_first() -> None:
    first, second = (nn.Sequential(each.Normalize([0.1, 0.2], [0.5, 0.25])) for each in (transforms, v2))
    images = torch.rand(3, 2, 4, 4)
    text = written(second, (2, 4, 4), 2)
    assert text == written(first, (2, 4, 4), 2)
    assert torch.equal(_plain(text, second)(images), second(images))


class _Scaled(nn.ReLU):
    pass


class _Strange(nn.Module):
    pass


def test_what_has_no_plain_form_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'1\.0' \(_Strange\).*neither of torch nor of lipcert"):
        written(nn.Sequential(nn.ReLU(), nn.Sequential(_Strange())), (4,), 2)
    assert isinstance(read(written(nn.Sequential(_Scaled()), (4,), 2))[0], nn.ReLU)  # type: ignore[index]


@pytest.mark.parametrize(
    "network",
    [
        "__import__('os').getcwd()",
        "nn.functional.relu",
        "nn.init.zeros_(nn.Linear(1, 1).weight)",
        "nn.Linear(open('weights.pt'), 1)",
        "nn.Parameter(1)",
        "torch.load('weights.pt')",
        "(lambda: nn.ReLU())()",
        "3",
    ],
)
def test_nothing_of_a_file_is_executed(network: str) -> None:
    with pytest.raises(ValueError, match="it builds no network"):
        read(f"def build():\n    return {network}\n")


@pytest.mark.parametrize("text", ["", "def build():\n    pass\n", "def build(:", "class A: pass"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it builds no network"):
        read(text)
