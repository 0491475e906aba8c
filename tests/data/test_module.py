"""The data module: splits, order of batches, augmentation while training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lipcert.data import ImageDataModule, load_images


def _batches(data: ImageDataModule, epoch: int) -> list[torch.Tensor]:
    """Return the images of a training epoch, with the sampler told of it as Lightning does."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [images for images, *_ in loader]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, first, second))


def _trainer(**attributes: Any) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    whole = {"world_size": 1, "global_rank": 0, "training": True, "global_step": 0, "strategy": strategy}
    return SimpleNamespace(**{**whole, **attributes})


def test_validation_is_held_out_of_training() -> None:
    everything = load_images("digits").train.images
    data = ImageDataModule("digits", 64, validation=140, draw="first")
    assert torch.equal(torch.cat((data.train.images, data.validation.images)), everything)
    assert (len(data.train), len(data.validation), len(data.test)) == (1297, 140, 360)
    assert ImageDataModule("digits", 64, validation=140, limit_train=10_000).train.images.shape[0] == 1297


def test_limits_keep_the_first() -> None:
    whole = load_images("digits")
    data = ImageDataModule("digits", 64, limit_train=30, limit_test=7, validation=20, draw="first")
    assert torch.equal(data.train.images, whole.train.images[:30])
    assert torch.equal(data.test.labels, whole.test.labels[:7])
    assert len(data.validation) == 20


def test_shape_and_classes() -> None:
    data = ImageDataModule("digits", 64)
    assert data.image_shape == (1, 8, 8)
    assert data.num_classes == 10


def test_an_epoch_serves_every_image_once() -> None:
    data = ImageDataModule("digits", 32, limit_train=100)
    batches = _batches(data, epoch=3)
    assert [len(batch) for batch in batches] == [32, 32, 32, 4]
    served = sorted(map(tuple, torch.cat(batches).view(100, -1).tolist()))
    assert served == sorted(map(tuple, data.train.images.view(100, -1).tolist()))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(0)
    first = ImageDataModule("digits", 32, limit_train=100, seed=5)
    reference = _batches(first, epoch=2)
    torch.manual_seed(1)
    second = ImageDataModule("digits", 32, limit_train=100, seed=5)
    _batches(second, epoch=0)  # what went before does not matter
    assert _same(reference, _batches(second, epoch=2))
    assert not _same(reference, _batches(second, epoch=3))
    assert not _same(reference, _batches(ImageDataModule("digits", 32, limit_train=100, seed=50), epoch=2))


def test_training_batches_hold_the_images_that_their_order_says() -> None:
    """By places in the training split, every image once, and not in their order."""
    data = ImageDataModule("digits", 32, limit_train=70, validation=20)
    seen, loader = [], data.train_dataloader()
    for numbers, (images, labels) in zip(loader.sampler, loader, strict=True):
        assert torch.equal(images, data.train[numbers][0])
        assert torch.equal(labels, data.train.labels[numbers])
        seen += numbers
    assert sorted(seen) == list(range(70))
    assert seen != sorted(seen)
    augmenting = ImageDataModule("digits", 32, crop_padding=2)
    augmenting.trainer = _trainer()
    augmented, kept = augmenting.on_after_batch_transfer((images, labels), 0)
    assert torch.equal(kept, labels)
    assert not torch.equal(augmented, images)
    assert all(len(batch) == 2 for batch in data.val_dataloader())


def test_validation_in_order() -> None:
    data = ImageDataModule("digits", 32, validation=50)
    served = torch.cat([images for images, _ in data.val_dataloader()])
    assert torch.equal(served, data.validation.images)
    assert list(ImageDataModule("digits", 32).val_dataloader()) == []


def test_devices_share_a_batch() -> None:
    data = ImageDataModule("digits", 32, limit_train=64)
    parts = []
    for rank in range(2):
        data.trainer = _trainer(world_size=2, global_rank=rank)
        parts.append(_batches(data, epoch=1))
    assert [len(batch) for batch in parts[0] + parts[1]] == [16, 16, 16, 16]
    served = torch.cat([torch.cat(part) for part in parts]).view(64, -1)
    assert sorted(served.tolist()) == sorted(data.train.images.view(64, -1).tolist())


def test_a_device_without_an_image_gets_an_empty_validation_batch() -> None:
    data = ImageDataModule("digits", 2, validation=3)
    data.trainer = _trainer(world_size=2, global_rank=1)
    assert [len(labels) for _, labels in data.val_dataloader()] == [1, 0]


def test_batches_that_devices_cannot_share() -> None:
    data = ImageDataModule("digits", 32)
    data.trainer = _trainer(world_size=3)
    with pytest.raises(ValueError, match="batch_size`=32 cannot be split over 3 devices"):
        data.train_dataloader()


def test_augmentation_depends_on_seed_and_step() -> None:
    batch = ImageDataModule("digits", 32).train[:32]

    def augmented(seed: int = 0, padding: int = 2, **attributes: Any) -> torch.Tensor:
        data = ImageDataModule("digits", 32, crop_padding=padding, seed=seed)
        data.trainer = _trainer(**attributes)
        images, labels = data.on_after_batch_transfer(batch, 0)
        assert images.shape == batch[0].shape
        assert torch.equal(labels, batch[1])
        return images

    at_step = augmented(global_step=7)
    assert at_step.min() >= 0
    assert at_step.max() <= 1
    torch.manual_seed(99)
    assert torch.equal(at_step, augmented(global_step=7))
    for other in (augmented(global_step=8), augmented(seed=1, global_step=7)):
        assert not torch.equal(at_step, other)
    assert torch.equal(augmented(training=False, global_step=7), batch[0])
    assert torch.equal(augmented(padding=0, global_step=7), batch[0])


@pytest.mark.parametrize("count", [32, 13, 1])
def test_augmentation_of_an_image_is_the_same_on_any_number_of_devices(count: int) -> None:
    data = ImageDataModule("digits", 32, crop_padding=2)
    images, labels = data.train[:count]
    data.trainer = _trainer(global_step=3)
    expected, _ = data.on_after_batch_transfer((images, labels), 0)
    for ranks in (2, 4):
        for rank in range(ranks):
            data.trainer = _trainer(global_step=3, world_size=ranks, global_rank=rank)
            share, _ = data.on_after_batch_transfer((images[rank::ranks], labels[rank::ranks]), 0)
            assert torch.equal(share, expected[rank::ranks])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size` >= 1, got 0"),
        ({"limit_train": 0}, r"data\.limit_train` >= 1, got 0"),
        ({"limit_test": -3}, r"data\.limit_test` >= 1, got -3"),
        ({"validation": -1}, r"data\.validation.* >= 0"),
        ({"crop_padding": -1}, r"data\.crop_padding.* >= 0"),
        ({"validation": 1437}, r"data\.validation`=1437 leaves none of 1437"),
        ({"name": "cifar100"}, r"data\.name.*got 'cifar100'"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageDataModule(**{"name": "digits", "batch_size": 32, **arguments})
