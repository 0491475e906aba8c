"""How data reach a device: the same batches whichever way, in time, and without a copy that waits."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.data import DataLoader

from lipcert.data import ImageDataModule
from lipcert.data.arrays import Split, Stored
from lipcert.data.module import Prefetched, belongs_on_device, crop_and_flip, draw
from tests.waiting import Watch


def _eight_bit(on_device: str) -> ImageDataModule:
    """Return a module of 8-bit images that trains on the CPU, with augmentation."""
    data = ImageDataModule("digits", 16, limit_train=50, crop_padding=2, on_device=on_device)
    data.train = Split((data.train.images * 255).to(torch.uint8), data.train.labels)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(world_size=1, global_rank=0, training=True, global_step=3, strategy=strategy)
    data.trainer = trainer
    return data


def _epoch(data: ImageDataModule, loader: Any) -> list[tuple[Tensor, ...]]:
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_batches_are_the_same_whichever_way_they_come() -> None:
    host, device = _eight_bit("false"), _eight_bit("true")
    expected = _epoch(host, host.train_dataloader())
    assert len(expected) == 4
    assert expected[0][0].dtype == torch.float32
    for found in (_epoch(device, device.train_dataloader()), _epoch(host, Prefetched(host.train_dataloader()))):
        for batch, other in zip(expected, found, strict=True):
            assert all(map(torch.equal, batch, other))


def test_stored_images_travel_as_they_are() -> None:
    images, labels = next(iter(_eight_bit("false").train_dataloader()))
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64


def test_validation_images_become_pixels_too() -> None:
    data = _eight_bit("auto")
    stored = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    data.trainer.training = False
    images, _ = data.on_after_batch_transfer((stored, torch.zeros(1)), 0)
    torch.testing.assert_close(images.flatten(), torch.tensor([0, 0.2, 1]))


class _Counting(torch.utils.data.Dataset[int]):
    """Notes what was asked for; breaks at `broken`."""

    def __init__(self, broken: int = -1) -> None:
        self.asked: list[int] = []
        self.broken = broken

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> int:
        self.asked.append(index)
        if index == self.broken:
            raise OSError("gone")
        return index


def _prefetched(dataset: _Counting) -> Prefetched:
    return Prefetched(DataLoader(dataset, batch_size=None, generator=torch.Generator()))


def test_one_batch_is_made_ahead_and_an_early_end_leaves_no_thread() -> None:
    dataset, before = _Counting(), threading.active_count()
    batches = iter(_prefetched(dataset))
    assert int(next(batches)) == 0
    assert int(next(batches)) == 1
    batches.close()  # type: ignore[attr-defined]
    assert dataset.asked == [0, 1, 2]
    assert threading.active_count() == before


def test_errors_reach_the_training_loop_and_order_its_sampler() -> None:
    loader = _prefetched(_Counting(broken=2))
    assert len(loader) == 5
    assert loader.sampler is loader.loader.sampler
    batches = iter(loader)
    assert [int(next(batches)), int(next(batches))] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(batches)


@pytest.mark.parametrize(("free", "fits"), [(4000, True), (3999, False)])
def test_images_stay_on_a_gpu_where_they_fit(free: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 8000))
    images, gpu = torch.zeros(10, 1, 10, 10, dtype=torch.uint8), torch.device("cuda")
    assert belongs_on_device(images.nbytes, gpu, "auto") is fits
    assert belongs_on_device(images.nbytes, gpu, "true")
    assert not belongs_on_device(images.nbytes, gpu, "false")
    assert not belongs_on_device(images.nbytes, torch.device("cpu"), "auto")


def test_a_batch_of_images_on_a_gpu_costs_no_copy_that_waits() -> None:
    with FakeTensorMode() as mode:
        images = torch.zeros(10, 1, 4, 4, dtype=torch.uint8, device="cuda")
        split = Stored(Split(images, torch.zeros(10, dtype=torch.int64, device="cuda")))
    watch = Watch()
    with mode, watch:
        batch = split[[3, 1]]
    assert [each.device.type for each in batch] == ["cuda"] * 2
    assert watch.noted == []


def test_augmentation_costs_no_copy_that_waits() -> None:
    with FakeTensorMode() as mode:
        images = torch.rand(4, 1, 8, 8, device="cuda")
    with mode, Watch() as watch:
        assert crop_and_flip(images, 2, draw(4, 2, None)).device.type == "cuda"
    assert watch.noted == []


def test_the_watch_sees_what_waits() -> None:
    with FakeTensorMode() as mode:
        images = torch.rand(4, device="cuda")
    with mode, Watch() as watch:
        images + torch.ones(4).to("cuda")
        with pytest.raises(DataDependentOutputException):
            images.sum().item()
    with watch:
        torch.ones(4).sum().item()
    assert watch.noted == ["aten::_to_copy", "aten::_local_scalar_dense"]


def test_another_choice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.on_device.*'maybe'"):
        ImageDataModule("digits", 16, on_device="maybe")
