"""Fingerprints change with everything that is fingerprinted, and with nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lipcert.nn import Normalize
from lipcert.records.fingerprint import data_sha256, model_sha256


def _network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval()


def test_equal_networks_have_one_fingerprint() -> None:
    network = _network()
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model_sha256(network) == model_sha256(other.requires_grad_(False))
    assert len(model_sha256(network)) == 64


@torch.no_grad()
def _move_one_weight(network: nn.Sequential) -> nn.Module:
    weight = network[0].weight
    weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    return network


@torch.no_grad()
def _negate_zero(network: nn.Sequential) -> nn.Module:
    network[1].running_mean.neg_()  # of zeros: equal values, other bytes
    return network


def _strided(network: nn.Sequential) -> nn.Module:
    network[0].stride = (2, 2)
    return network


def _other_activation(network: nn.Sequential) -> nn.Module:
    network[2] = nn.Identity()
    return network


def _renamed(network: nn.Sequential) -> nn.Module:
    return nn.Sequential(network)


CHANGES: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "a weight by one bit": _move_one_weight,
    "the sign of a zero buffer": _negate_zero,
    "a stride": _strided,
    "an activation": _other_activation,
    "names": _renamed,
    "dtype": lambda network: network.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_network_has_another_fingerprint(change: str) -> None:
    before = model_sha256(_network())
    assert model_sha256(CHANGES[change](_network())) != before


def test_buffers_count() -> None:
    assert model_sha256(Normalize([0.5], [1.0])) != model_sha256(Normalize([0.5], [2.0]))


def test_every_dtype_has_a_fingerprint() -> None:
    """Half precision among them: it is refused by certificates, not here."""
    prints = {model_sha256(nn.Linear(2, 2).to(dtype)) for dtype in (torch.float16, torch.bfloat16, torch.float64)}
    assert len(prints) == 3


def test_data() -> None:
    images, labels = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    found = data_sha256(images, labels)
    assert data_sha256(images.clone(), labels.clone()) == found
    assert data_sha256(images.flip(3).flip(3), labels) == found
    others = [
        (images[:2], labels[:2]),
        (images.double(), labels),
        (images, labels.int()),
        (images.flip(0), labels),
        (images, labels.flip(0)),
        (images.view(3, 1, 2, 8), labels),
    ]
    assert len({found, *(data_sha256(*each) for each in others)}) == 7
