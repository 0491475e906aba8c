"""Batch sizes follow the memory there is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipcert.certificates import batch_size
from lipcert.certificates.batch_size import LARGEST_BATCH, bytes_per_image, choose_batch_size
from lipcert.nn import Residual, build

CPU = torch.device("cpu")
GIB = 2**30


def _convolution(groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(800, 10))


RETAINED = 8 * (400 + 3 * 800 + 10)
"""Image 400, layers 800, 800, 800, 10 entries."""


def test_margins_meet_all_classes_at_the_last_layer_one_at_a_time_elsewhere() -> None:
    exact = 3 * 10 * 800  # a norm of 10 x 800, more than 14 x 800 of one class
    assert bytes_per_image(_convolution(), (4, 10, 10)) == 8 * (RETAINED + exact)
    assert bytes_per_image(_convolution(), (4, 10, 10), separate=False) == 8 * (RETAINED + 14 * 10 * 800)
    widened = nn.Sequential(*_convolution()[:4], nn.ReLU(), nn.Linear(10, 10))
    assert bytes_per_image(widened, (4, 10, 10), separate=False) == 8 * (RETAINED + 8 * 20 + exact)


@pytest.mark.parametrize("groups", [1, 2])
def test_unfolded_convolutions(groups: int) -> None:
    """4 channels x 9 taps x 100 pixels; the single class has the other terms small."""
    model = nn.Sequential(*_convolution(groups)[:3], nn.Linear(800, 1))
    assert bytes_per_image(model, (4, 10, 10)) == 8 * (RETAINED - 8 * 9 + 8 * 800 + 2 * 3600)


def test_branches_count_and_no_hook_stays() -> None:
    inner, outer = _convolution()[:2], nn.Sequential(nn.Flatten(), nn.Linear(800, 10))
    model = nn.Sequential(Residual(inner, nn.Conv2d(4, 8, 1)), outer)
    alone = bytes_per_image(nn.Sequential(inner, outer), (4, 10, 10))
    assert bytes_per_image(model, (4, 10, 10)) == alone + 8 * 8 * 800  # what the shortcut retains
    assert not [layer for layer in model.modules() if layer._forward_hooks]


def _chosen(model: nn.Module, images: float) -> int:
    """Return the batch size where memory suffices for the weights and so many images."""
    weights = 16 * sum(tensor.numel() for tensor in model.parameters())
    needed = bytes_per_image(model, (4, 10, 10))
    return choose_batch_size(model, (4, 10, 10), CPU, memory_gb=(weights + images * needed) / GIB)


def test_as_many_as_fit() -> None:
    assert [_chosen(_convolution(), images) for images in (1.01, 3.5, 31.9, 32.1, 5000)] == [1, 3, 31, 32, 32]


def test_not_even_one_fits() -> None:
    with pytest.raises(ValueError, match=r"one image need about .* GiB .* memory_gb="):
        _chosen(_convolution(), 0.99)


def test_larger_images_make_smaller_batches() -> None:
    small, large = build("4c3f", (3, 32, 32), 10), build("4c3f", (3, 64, 64), 10)
    sizes = [
        choose_batch_size(model, shape, CPU, memory_gb=2)
        for model, shape in ((small, (3, 32, 32)), (large, (3, 64, 64)))
    ]
    assert LARGEST_BATCH["cpu"] == sizes[0] > sizes[1] >= 1


def test_given_batch_size_wins() -> None:
    assert choose_batch_size(_convolution(), (4, 10, 10), CPU, batch_size=500, memory_gb=1e-9) == 500


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"batch_size": 0}, "`batch_size` >= 1, got 0"),
        ({"memory_gb": 0.0}, "`memory_gb` > 0"),
        ({"memory_gb": -1.0}, "`memory_gb` > 0"),
        ({"memory_gb": float("nan")}, "`memory_gb` > 0"),
        ({"memory_gb": float("inf")}, "`memory_gb` > 0"),
    ],
)
def test_refused(named: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        choose_batch_size(_convolution(), (4, 10, 10), CPU, **named)  # type: ignore[arg-type]


def test_free_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _convolution()
    weights = 16 * sum(tensor.numel() for tensor in model.parameters())
    enough = weights + 5.5 * bytes_per_image(model, (4, 10, 10))
    monkeypatch.setattr(batch_size, "free_memory", lambda: int(enough / batch_size.USABLE))
    assert choose_batch_size(model, (4, 10, 10), CPU) == 5
    monkeypatch.setattr(batch_size, "free_memory", lambda: None)  # nobody knows
    assert choose_batch_size(model, (4, 10, 10), CPU) == LARGEST_BATCH["cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_of_a_gpu() -> None:
    model = _convolution().cuda()
    assert choose_batch_size(model, (4, 10, 10), torch.device("cuda")) == LARGEST_BATCH["cuda"]
