"""Images of one's own: what a folder, an .npz file or a torch Dataset becomes, and what is refused in a sentence."""

from __future__ import annotations

import io
import shutil
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from lipcert.data import ImageDataModule, load_images
from lipcert.data.arrays import CorruptDataError, MissingDataError, drawn
from lipcert.data.batches import GlobalBatches
from lipcert.data.folder import list_pictures


def picture(seed: int, mode: str = "RGB", side: int = 6) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (side, side, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode)


def write_folder(top: Path, mode: str = "RGB", count: int = 10) -> Path:
    """Write `count` pictures of each of three classes."""
    for label, name in enumerate(("ant", "bee", "cat")):
        (top / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * label + number, mode).save(top / name / f"{number}.png")
    return top


def _sorted(images: Tensor) -> list[Any]:
    return sorted(images.flatten(1).tolist())


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_folder_holds_what_torchvision_finds_in_it(tmp_path: Path, mode: str) -> None:
    top = write_folder(tmp_path, mode)
    images, expected = load_images("imagefolder", top), ImageFolder(str(top))
    pictures = [np.array(Image.open(path).convert(mode)) for path, _ in expected.samples]
    pixels = [each.reshape(6, 6, -1).transpose(2, 0, 1) for each in pictures]
    assert (len(images.train), len(images.test), images.num_classes) == (24, 6, 3)
    assert images.test.labels.bincount().tolist() == [2, 2, 2]
    assert set(images.test.labels[:3].tolist()) == {0, 1, 2}
    whole = torch.cat((images.train.images, images.test.images))
    assert whole.dtype == torch.uint8
    assert _sorted(whole) == _sorted(torch.from_numpy(np.stack(pixels)))
    assert sorted(list_pictures(top).train) == sorted(expected.samples)
    assert torch.equal(images.train.images, load_images("imagefolder", str(top)).train.images)


def test_splits_of_a_folder_keep_the_classes_of_train(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", count=2)
    shutil.rmtree(tmp_path / "val" / "ant")
    images = load_images("imagefolder", tmp_path)
    assert (len(images.train), images.validation) == (30, None)
    assert images.test.labels.bincount().tolist() == [0, 2, 2]
    (tmp_path / "val").rename(tmp_path / "test")
    write_folder(tmp_path / "val", count=3)
    data = ImageDataModule("imagefolder", 4, root=tmp_path, validation=0.1, limit_train=12)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 9, 4)
    assert data.train.labels.bincount().tolist() == [4, 4, 4]


def test_sizes_and_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "mine", "L")
    wide = Image.new("RGB", (12, 6), (255, 0, 0))
    wide.save(tmp_path / "mine" / "ant" / "wide.png")
    with pytest.raises(CorruptDataError, match=r"12x6.*6x6|6x6.*12x6"):
        load_images("imagefolder", tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    images = load_images("imagefolder", "~/mine", image_size=3)
    assert images.train.images.shape[1:] == (3, 3, 3)
    monkeypatch.chdir(tmp_path)
    grey = load_images("imagefolder", "mine", image_size=3, channels=1)
    assert grey.train.images.shape[1:] == (1, 3, 3)
    red = np.array([255, 0, 0])
    whole = torch.cat((images.train.images, images.test.images))
    assert any(np.array_equal(each[:, 1, 1].numpy(), red) for each in whole)


def _save_animated(path: Path) -> None:
    frames = [picture(number) for number in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _save_deep(path: Path) -> None:
    Image.fromarray(np.arange(36, dtype=np.uint16).reshape(6, 6)).save(path)


BAD_PICTURES = {
    "corrupt": ("x.png", lambda path: path.write_bytes(b"no picture"), "is no readable picture"),
    "cut": ("x.png", lambda path: path.write_bytes(_png()[:60]), "is no readable picture"),
    "animated": ("x.webp", _save_animated, "it is animated"),
    "of another ending": ("x.gif", _save_animated, "it is animated"),
    "16 bits": ("x.png", _save_deep, "more than 8 bits"),
    "CMYK": ("x.jpg", lambda path: picture(0, "CMYK").save(path), "got CMYK"),
    "transparent": ("x.png", lambda path: picture(0, "RGBA").save(path), "transparent"),
    "larger": ("x.png", lambda path: picture(0, side=7).save(path), "data.image_size=SIDE"),
}


def _png() -> bytes:
    content = io.BytesIO()
    picture(0).save(content, "png")
    return content.getvalue()


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_refused_pictures_are_named(tmp_path: Path, case: str) -> None:
    name, save, message = BAD_PICTURES[case]
    top = write_folder(tmp_path, count=4)
    save(top / "bee" / name)
    with pytest.raises(CorruptDataError, match=message) as caught:
        load_images("imagefolder", top)
    assert name in str(caught.value) or case == "larger"


def test_refused_folders(tmp_path: Path) -> None:
    top = write_folder(tmp_path / "mine", count=2)
    (top / "empty").mkdir()
    with pytest.raises(CorruptDataError, match="empty"):
        load_images("imagefolder", top)
    for name in ("empty", "bee", "cat"):
        shutil.rmtree(top / name)
    with pytest.raises(CorruptDataError, match="one class, ant"):
        load_images("imagefolder", top)
    write_folder(tmp_path / "split" / "train", count=2)
    with pytest.raises(CorruptDataError, match=r"none of test, val.*data\.root="):
        load_images("imagefolder", tmp_path / "split")
    write_folder(tmp_path / "split" / "test", count=2)
    (tmp_path / "split" / "test" / "dog").mkdir()
    with pytest.raises(CorruptDataError, match="dog holds a class that"):
        load_images("imagefolder", tmp_path / "split")
    shutil.rmtree(tmp_path / "split" / "test")
    picture(0, side=9).save(write_folder(tmp_path / "split" / "test", count=1) / "ant" / "0.png")
    with pytest.raises(CorruptDataError, match=r"9x9"):
        load_images("imagefolder", tmp_path / "split")
    with pytest.raises(MissingDataError, match=r"data\.root=FOLDER"):
        load_images("imagefolder")
    for name, root in (("digits", tmp_path), ("photos", tmp_path)):
        with pytest.raises(ValueError, match=rf"data={name} takes no `data\.root`"):
            load_images(name, root)
    with pytest.raises(ValueError, match=r"data=digits takes no `data\.image_size`, got 8"):
        load_images("digits", image_size=8)


def _arrays(count: int = 12, **changed: Any) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return {"image": images, "label": np.arange(count) % 3, **changed}


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    whole = _arrays(15)
    np.savez(path, **whole)
    images = load_images("npz", path)
    assert (len(images.train), len(images.test), images.num_classes) == (12, 3, 3)
    assert images.test.labels.tolist().count(0) == 1
    joined = torch.cat((images.train.images, images.test.images))
    assert _sorted(joined) == _sorted(torch.from_numpy(whole["image"].transpose(0, 3, 1, 2).copy()))
    test = _arrays(6)
    np.savez(
        path,
        train_images=whole["image"],
        train_labels=whole["label"][:, None],
        test_images=test["image"],
        test_labels=test["label"],
    )
    images = load_images("npz", path)
    np.testing.assert_array_equal(images.train.images.permute(0, 2, 3, 1).numpy(), whole["image"])
    assert images.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


BAD_ARRAYS = {
    "floats": ({"image": np.zeros((12, 5, 5), np.float32)}, "uint8, got float32"),
    "gaps": ({"label": np.arange(12) % 3 * 2}, "without a gap, got 0, 2, 4"),
    "one class": ({"label": np.zeros(12, int)}, "without a gap, got 0"),
    "fractions": ({"label": np.arange(12) / 12}, "whole numbers"),
    "too few labels": ({"label": np.arange(11) % 3}, r"\(11,\)"),
    "flat": ({"image": np.zeros((12, 75), np.uint8)}, r"\(N, H, W\)"),
    "objects": ({"label": np.array([None] * 12)}, "damaged or no .npz"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_refused_arrays(tmp_path: Path, case: str) -> None:
    changed, message = BAD_ARRAYS[case]
    np.savez(tmp_path / "mine.npz", **_arrays(**changed))
    with pytest.raises(CorruptDataError, match=message):
        load_images("npz", tmp_path / "mine.npz")


def test_damaged_and_missing_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **_arrays())
    whole = (tmp_path / "mine.npz").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "mine.npz").write_bytes(content)
        with pytest.raises(CorruptDataError, match=r"mine\.npz is damaged"):
            load_images("npz", tmp_path / "mine.npz")
    with pytest.raises(MissingDataError, match=r"not a file"):
        load_images("npz", tmp_path / "none.npz")
    test = {"x_test": np.zeros((3, 4, 4, 3), np.uint8), "y_test": np.arange(3)}
    np.savez(tmp_path / "mine.npz", x_train=_arrays()["image"], y_train=_arrays()["label"], **test)
    with pytest.raises(CorruptDataError, match=r"test images are of shape \(3, 4, 4\), .* \(3, 5, 5\)"):
        load_images("npz", tmp_path / "mine.npz")


class Numbers(torch.utils.data.Dataset[Any]):
    """Eight squares of a shade each; what kind of image is an argument."""

    def __init__(self, split: str, kind: str = "tensor", step: int = 1) -> None:
        self.count = {"train": 8, "test": 4}[split]
        self.kind, self.step = kind, step

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        values = torch.full((1, 3, 3), index / 10)
        made = {"tensor": values, "normalized": values - 0.5, "array": (values[0] * 250).byte().numpy(), "text": "cat"}
        return made[self.kind], index % 2 * self.step


def test_any_dataset() -> None:
    target = {"_target_": f"{__name__}.Numbers"}
    images = load_images("dataset", dataset=target)
    assert (len(images.train), len(images.test), images.num_classes) == (8, 4, 2)
    assert images.train.images[3, 0, 0, 0] == pytest.approx(0.3)
    other = load_images("dataset", dataset={**target, "kind": "array"}, test_dataset={"split": "train"}, image_size=2)
    assert other.test.images.shape == (8, 1, 2, 2)
    assert other.test.images[3, 0, 0, 0] == 75
    for changed, message in (
        ({"kind": "normalized"}, r"Image 0 of Numbers: .*lipcert\.nn\.Normalize"),
        ({"kind": "text"}, "Image 0 of Numbers: expected a picture"),
        ({"step": 2}, "without a gap"),
        ({"colour": 1}, "data.dataset._target_=.*colour"),
        ({"_target_": "nowhere.Numbers"}, "data.dataset._target_=nowhere.Numbers"),
        ({"_target_": ""}, "Which data set"),
    ):
        with pytest.raises(ValueError, match=message):
            load_images("dataset", dataset={**target, **changed})


def test_prefixes_and_suffixes_of_a_draw_hold_each_class_in_its_share() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = drawn(labels, seed=3)
    assert sorted(order.tolist()) == list(range(100))
    for part in (order[:10], order[-10:], order[:20], order[-50:]):
        found, share = labels[part].bincount(minlength=3), torch.tensor([0.6, 0.3, 0.1]) * len(part)
        assert ((found - share).abs() <= 1).all()
    assert torch.equal(order, drawn(labels, seed=3))
    assert not torch.equal(order, drawn(labels, seed=4))


def test_hold_outs_are_drawn_by_seed() -> None:
    whole = load_images("digits").train
    first, second = (ImageDataModule("digits", 32, validation=200, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.validation.images, second.validation.images)
    parts = torch.cat((first.train.images, first.validation.images))
    assert _sorted(parts) == _sorted(whole.images)
    counts, share = first.validation.labels.bincount(), whole.labels.bincount() * 200 / 1437
    assert ((counts - share).abs() <= 1).all()
    kept = ImageDataModule("digits", 32)
    assert torch.equal(kept.train.images, whole.images)


def test_extra_images_fill_every_batch_at_their_ratio(tmp_path: Path) -> None:
    np.savez(tmp_path / "generated.npz", image=np.full((7, 8, 8), 255, np.uint8), label=np.full(7, 9, np.uint8))
    images = load_images("digits")
    eight_bit = type(images.train)((images.train.images * 255).byte(), images.train.labels)
    data = ImageDataModule("digits", 16, limit_train=18, extra={"path": tmp_path / "generated.npz", "ratio": 3})
    data.train = eight_bit.first(18)
    batches = list(data.train_dataloader())
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 16, 8]
    extra = [(images.flatten(1) == 255).all(dim=1) for images, _ in batches]
    assert [int(each.sum()) for each in extra] == [12, 12, 12, 12, 6]
    for (_, labels), added in zip(batches, extra, strict=True):
        assert set(labels[added].tolist()) == {9}
    own = torch.cat([images[~added] for (images, _), added in zip(batches, extra, strict=True)])
    assert _sorted(own) == _sorted(data.train.images)
    state = data.state_dict()
    data.load_state_dict(state)
    with pytest.raises(ValueError, match="trained with extra images of SHA-256"):
        ImageDataModule("digits", 16).load_state_dict(state)
    for name, message in (("label", "reach from 0 to 10"), ("image", r"shape \(1, 5, 5\)")):
        bad = {"image": np.zeros((2, 8, 8), np.uint8), "label": np.array([0, 9], np.uint8)}
        bad |= {"label": np.array([0, 10])} if name == "label" else {"image": np.zeros((2, 5, 5), np.uint8)}
        np.savez(tmp_path / "bad.npz", **bad)
        with pytest.raises(CorruptDataError, match=rf"data\.extra\.path=.*{message}"):
            ImageDataModule("digits", 16, extra={"path": tmp_path / "bad.npz", "ratio": 1})
    with pytest.raises(ValueError, match=r"data\.extra\.ratio` > 0"):
        ImageDataModule("digits", 16, extra={"path": tmp_path / "generated.npz", "ratio": 0})


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_batches_with_extra_images(ranks: int) -> None:
    def batches(count: int, rank: int) -> GlobalBatches:
        return GlobalBatches(22, 16, count, rank, seed=1, extra=5, ratio=1.5)

    whole = list(batches(1, 0))
    parts = [list(batches(ranks, rank)) for rank in range(ranks)]
    for number, batch in enumerate(whole):
        shares = [batches(ranks, rank).share(number) for rank in range(ranks)]
        assert sorted(chain(*(part[number] for part in parts))) == sorted(batch)
        assert {everyones for _, everyones in shares} == {len(batch)}
        assert [ranks * len(part[number]) for part in parts] == [held for held, _ in shares]
    with pytest.raises(ValueError, match=r"batch_size`=2 cannot be mixed.*larger batch_size"):
        GlobalBatches(22, 2, seed=1, extra=5, ratio=9)


def test_transforms_change_each_training_image_by_itself() -> None:
    flip = {"flip": {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip"}}
    data = ImageDataModule("digits", 32, transforms=flip)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    images, labels = data.train[:32]

    def augmented(step: int = 0, world: int = 1, rank: int = 0, training: bool = True) -> Tensor:
        trainer: Any = SimpleNamespace(
            world_size=world, global_rank=rank, training=training, global_step=step, strategy=strategy
        )
        data.trainer = trainer
        return data.on_after_batch_transfer((images[rank::world], labels[rank::world]), 0)[0]

    found = augmented()
    flipped = [bool(torch.equal(each, image.flip(-1))) for each, image in zip(found, images, strict=True)]
    kept = [bool(torch.equal(each, image)) for each, image in zip(found, images, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 5 < sum(flipped) < 27
    torch.manual_seed(3)
    assert torch.equal(found, augmented())
    assert not torch.equal(found, augmented(step=1))
    assert torch.equal(found[1::2], augmented(world=2, rank=1))
    assert torch.equal(images, augmented(training=False))
    normalize = {"_target_": "torchvision.transforms.v2.Normalize", "mean": [0.5], "std": [0.5]}
    with pytest.raises(ValueError, match=r"data\.transforms.*pixels in \[0, 1\].*lipcert\.nn\.Normalize"):
        ImageDataModule("digits", 32, transforms={"normalize": normalize})
    crop = {"_target_": "torchvision.transforms.v2.CenterCrop", "size": 4}
    with pytest.raises(ValueError, match=r"got \(1, 4, 4\)"):
        ImageDataModule("digits", 32, transforms={"crop": crop})
