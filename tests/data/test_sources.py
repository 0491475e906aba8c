"""Data sets by name: what they hold, and what is said when they are missing or damaged."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from lipcert.data import Images, MissingDataError, Split, load_images, sources
from lipcert.data.arrays import CorruptDataError, to_pixels
from tests.data.idx_files import NAMES, write_set


def test_digits_are_split_without_overlap() -> None:
    digits = load_images("digits")
    assert (len(digits.train), len(digits.test), digits.num_classes) == (1437, 360, 10)
    data, labels = load_digits(return_X_y=True)
    joined = torch.cat((digits.train.images, digits.test.images)).view(-1, 64).numpy() * 16
    joined_labels = torch.cat((digits.train.labels, digits.test.labels)).numpy()
    ours = sorted(map(tuple, np.column_stack((joined, joined_labels)).tolist()))
    assert ours == sorted(map(tuple, np.column_stack((data, labels)).tolist()))
    counts = torch.bincount(digits.test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_digits_are_the_same_every_time() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = load_images("digits")
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(first.train.images, load_images("digits").train.images)


@pytest.mark.parametrize("inside", ["", "MNIST", "MNIST/raw"])
def test_mnist_from_a_folder(tmp_path: Path, inside: str) -> None:
    arrays = write_set(tmp_path / inside, compressed=True)
    images = load_images("mnist", tmp_path)
    assert images.num_classes == 10
    np.testing.assert_array_equal(images.test.images[:, 0].numpy(), arrays["t10k_images"])


def test_label_out_of_range(tmp_path: Path) -> None:
    write_set(tmp_path, t10k_labels=np.arange(12))
    with pytest.raises(CorruptDataError, match="test labels reach from 0 to 11; expected 0 to 9"):
        load_images("mnist", str(tmp_path))


def test_damaged_file_is_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    path = tmp_path / NAMES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptDataError, match=NAMES[0]):
        load_images("fashionmnist", tmp_path)


@pytest.mark.parametrize(("name", "called"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_missing_files_say_where_they_were_looked_for(tmp_path: Path, name: str, called: str) -> None:
    with pytest.raises(MissingDataError, match=rf"{called} was not found.*data\.root=FOLDER") as caught:
        load_images(name, tmp_path)
    for folder in (tmp_path, tmp_path / called, tmp_path / called / "raw"):
        assert str(folder) in str(caught.value)
    assert ("apt install" in str(caught.value)) == (name == "fashionmnist")


def test_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(root: str, download: bool) -> None:
        assert download
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets, "MNIST", refused)
    monkeypatch.setattr(sources, "DEFAULT_ROOT", tmp_path / "cache")
    with pytest.raises(MissingDataError, match=rf"looked in {tmp_path / 'cache'}.*data\.root="):
        load_images("mnist")


def test_download_where_nothing_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MNIST", lambda root, download: write_set(Path(root) / "MNIST" / "raw"))
    monkeypatch.setattr(sources, "DEFAULT_ROOT", tmp_path)
    assert len(load_images("mnist").train) == 30


def test_cifar10_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"CIFAR10.*cifar-10-batches-py.*data\.root="):
        load_images("cifar10", tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"half of it")
    with pytest.raises(CorruptDataError, match=r"data_batch_1 is not the file that was published: expected MD5 c99c"):
        load_images("cifar10", tmp_path)


def test_cifar10_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny batches in the published form: rows of 1,024 red, green and blue pixels each."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels, digests = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8), []
    for number, each in enumerate(pixels):
        batch = {"data": each.reshape(2, 3072), "labels": [number, 9]}
        content = pickle.dumps(batch, protocol=2)
        (folder / f"part_{number}").write_bytes(content)
        digests.append([f"part_{number}", hashlib.md5(content).hexdigest()])
    monkeypatch.setattr(datasets.CIFAR10, "train_list", digests[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", digests[5:])
    images = load_images("cifar10", tmp_path)
    assert np.array_equal(images.train.images.numpy(), pixels[:5].reshape(10, 3, 32, 32))
    assert images.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert np.array_equal(images.test.images.numpy(), pixels[5])
    (folder / "part_4").unlink()
    with pytest.raises(CorruptDataError, match=r"part_4 is missing; unpack"):
        load_images("cifar10", tmp_path)


def test_unknown_name_and_root() -> None:
    with pytest.raises(ValueError, match=r"data\.name.*'digits'.*'photos'.*got 'svhn'"):
        load_images("svhn")
    with pytest.raises(MissingDataError, match=r"data\.root=nowhere is not a folder.*mnist"):
        load_images("mnist", "nowhere")


def test_pixels() -> None:
    pixels = to_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert pixels.dtype == torch.float32
    assert pixels.tolist() == pytest.approx([0.0, 0.2, 1.0], abs=1e-7)
    already = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(to_pixels(already), already)


def test_split_serves_pixels() -> None:
    split = Split(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([4, 5, 6]))
    images, labels = split[[2, 0]]
    assert images.tolist() == torch.ones(2, 1, 2, 2).tolist()
    assert labels.tolist() == [6, 4]


@pytest.mark.parametrize(("images", "labels"), [((3, 2, 2), (3,)), ((3, 1, 2, 2), (2,)), ((3, 1, 2, 2), (3, 1))])
def test_split_refuses_shapes(images: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(CorruptDataError, match=r"Expected images \(N, C, H, W\)"):
        Split(torch.zeros(images), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("label", [-1, 10])
def test_images_refuse_labels(label: int) -> None:
    good = Split(torch.zeros(1, 1, 2, 2), torch.tensor([9]))
    bad = Split(torch.zeros(1, 1, 2, 2), torch.tensor([label]))
    with pytest.raises(CorruptDataError, match="training labels"):
        Images(bad, good, 10)
