"""Tiny-ImageNet from a small archive of the same layout: fetching, layout, decoding, decoded images kept on disk."""

from __future__ import annotations

import io
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest
import torch
from PIL import Image

from lipcert.data import ImageDataModule, Images, MissingDataError, download, load_images, sources
from lipcert.data import tinyimagenet as tiny
from lipcert.data.arrays import CorruptDataError
from lipcert.data.download import DownloadError

WNIDS = ("n05", "n01", "n04", "n02", "n03")
"""Out of order on purpose: a class's index is its place among the sorted ones."""
TRAIN, TEST = 6, 3
"""Images a class."""
TOP = "tiny-imagenet-200"


def _colour(label: int, number: int) -> tuple[int, int, int]:
    return (40 * label + 20, 10 * number, 200 - 30 * label)


def _jpeg(label: int, number: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """Return a picture of one colour; every third one is grey-scale."""
    picture = Image.new("RGB", size, _colour(label, number))
    content = io.BytesIO()
    (picture.convert("L") if number % 3 == 2 else picture).save(content, "JPEG", quality=95)
    return content.getvalue()


def _write_folder(folder: Path) -> None:
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "test" / "images" / "test_0.JPEG").write_bytes(_jpeg(0, 0))
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\tsome word\n" for wnid in WNIDS))
    annotations = []
    for label, wnid in enumerate(sorted(WNIDS)):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(TRAIN):
            (images / f"{wnid}_{number}.JPEG").write_bytes(_jpeg(label, number))
        boxes = "".join(f"{wnid}_{number}.JPEG\t0\t1\t60\t61\n" for number in range(TRAIN))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    for number in range(TEST * len(WNIDS)):
        label = number % len(WNIDS)
        (folder / "val" / "images" / f"val_{number}.JPEG").write_bytes(_jpeg(label, number))
        annotations.append(f"val_{number}.JPEG\t{sorted(WNIDS)[label]}\t0\t0\t62\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))


@pytest.fixture(scope="module", name="original")
def fixture_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the archive and what it unpacks to."""
    top = tmp_path_factory.mktemp("original")
    _write_folder(top / TOP)
    with zipfile.ZipFile(top / f"{TOP}.zip", "w") as archive:
        for path in sorted((top / TOP).rglob("*")):
            archive.write(path, path.relative_to(top))
    return top


@pytest.fixture(name="home", autouse=True)
def fixture_home(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The usual place, empty; the small archive counts as the published one; no waiting, no proxy."""
    home = tmp_path / "home"
    monkeypatch.setattr(sources, "DEFAULT_ROOT", home)
    monkeypatch.setattr(tiny, "MD5", pooch.file_hash(str(original / f"{TOP}.zip"), "md5"))
    monkeypatch.setattr(tiny, "URL", "http://127.0.0.1:9/nothing.zip")
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return home


@pytest.fixture(name="folder")
def fixture_folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the unpacked folder, inside a folder of its own."""
    shutil.copytree(original / TOP, tmp_path / "mine" / TOP)
    return tmp_path / "mine" / TOP


@pytest.fixture(name="archived")
def fixture_archived(original: Path, tmp_path: Path) -> Path:
    """A folder that holds the archive alone."""
    (tmp_path / "archived").mkdir()
    shutil.copy(original / f"{TOP}.zip", tmp_path / "archived")
    return tmp_path / "archived"


class Server(ThreadingHTTPServer):
    """Serves one file, well or badly."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.requests = 0  # answered so far
        self.cuts: list[int] = []  # answers that end after so many bytes, first one first
        self.statuses: list[int] = []  # answers in place of the file, first one first

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{TOP}.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        content = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cuts.pop(0) if self.server.cuts else len(content)])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(name="server")
def fixture_server(original: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server((original / f"{TOP}.zip").read_bytes())
    monkeypatch.setattr(tiny, "URL", server.url)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _check(images: Images) -> None:
    """Compare everything with the colours that were painted."""
    assert images.num_classes == len(WNIDS)
    assert images.train.images.shape == (TRAIN * 5, 3, 64, 64)
    assert images.test.images.shape == (TEST * 5, 3, 64, 64)
    assert images.train.images.dtype == images.test.images.dtype == torch.uint8
    painted = [(label, number) for number in range(TRAIN) for label in range(5)]
    assert images.train.labels.tolist() == [label for label, _ in painted]
    for split, numbers in (
        (images.train, [number for _, number in painted]),
        (images.test, list(range(TEST * 5))),
    ):
        for picture, label, number in zip(split.images, split.labels.tolist(), numbers, strict=True):
            red, green, blue = _colour(label, number)
            grey = round(0.299 * red + 0.587 * green + 0.114 * blue)
            expected = (grey, grey, grey) if number % 3 == 2 else (red, green, blue)
            middle = picture[:, 32, 32].tolist()
            assert max(abs(found - wanted) for found, wanted in zip(middle, expected, strict=True)) <= 4
    assert images.test.labels.tolist() == [number % 5 for number in range(TEST * 5)]


def test_from_an_archive(archived: Path) -> None:
    _check(load_images("tinyimagenet", archived))
    assert {path.name for path in archived.iterdir()} == {f"{TOP}.zip", f"{TOP}-arrays"}  # nothing is unpacked


@pytest.mark.parametrize("inside", [True, False])
def test_from_a_folder(folder: Path, inside: bool) -> None:
    _check(load_images("tinyimagenet", folder if inside else folder.parent))


def test_archive_and_folder_agree(archived: Path, folder: Path) -> None:
    first, second = load_images("tinyimagenet", archived), load_images("tinyimagenet", folder)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)


def test_the_usual_place(original: Path, home: Path) -> None:
    home.mkdir()
    shutil.copy(original / f"{TOP}.zip", home)
    _check(load_images("tinyimagenet"))


def test_held_out_images_hold_all_classes_alike(archived: Path) -> None:
    data = ImageDataModule("tinyimagenet", 8, archived, validation=5)
    assert sorted(data.validation.labels.tolist()) == [0, 1, 2, 3, 4]
    assert data.image_shape == (3, 64, 64)
    images, _ = data.train[[0, 1]]
    assert images.dtype == torch.float32
    assert images.max() <= 1


def test_the_published_archive() -> None:
    """What many public projects state of the archive."""
    source = Path(tiny.__file__).read_text()
    assert 'URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"' in source
    assert 'MD5 = "90528d7ca1a48142e341f4ef8d21d0de"' in source


# ---- fetching


def test_download(server: Server, home: Path) -> None:
    _check(load_images("tinyimagenet"))
    assert server.requests == 1
    assert {path.name for path in home.iterdir()} == {f"{TOP}.zip", f"{TOP}-arrays"}
    _check(load_images("tinyimagenet"))
    assert server.requests == 1


def test_a_connection_that_is_cut(server: Server) -> None:
    server.cuts = [len(server.content) // 2]
    _check(load_images("tinyimagenet"))
    assert server.requests == 2


def test_a_server_that_is_busy(server: Server) -> None:
    server.statuses = [503, 429]
    _check(load_images("tinyimagenet"))
    assert server.requests == 3


def test_a_server_that_always_cuts(server: Server, home: Path) -> None:
    server.cuts = [1000] * 50
    with pytest.raises(MissingDataError, match=r"given up after 5 tries in a row.*data\.root=FOLDER"):
        load_images("tinyimagenet")
    assert server.requests == 5
    assert list(home.iterdir()) == [home / f"{TOP}-arrays"]


def test_a_server_that_says_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    waiting = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: waiting.wait(5) and None)
    with pytest.raises(MissingDataError, match=r"given up after 2 tries in a row \(.*timed out"):
        load_images("tinyimagenet")
    waiting.set()


def test_a_damaged_archive_is_not_kept(server: Server, home: Path) -> None:
    server.content = server.content[:-100] + b"y" * 100
    with pytest.raises(CorruptDataError, match=r"Expected MD5 \w+ of http.*got \w+; it was removed"):
        load_images("tinyimagenet")
    assert not list(home.glob(f"{TOP}.zip*"))


def test_not_found(server: Server, home: Path) -> None:
    server.statuses = [404]
    with pytest.raises(MissingDataError, match=r"the server answered 404 Not Found.*data\.root=FOLDER") as caught:
        load_images("tinyimagenet")
    assert server.requests == 1
    assert str(home / f"{TOP}.zip") in str(caught.value)


def test_offline() -> None:
    with pytest.raises(MissingDataError, match=r"looked in .*a download was not possible \(http.*refused.*data\.root"):
        load_images("tinyimagenet")


def test_a_name_that_does_not_resolve(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="nowhere"):
        download.download("http://nowhere.invalid/a.zip", tmp_path / "a.zip", "0")


def test_nothing_is_fetched_into_a_folder_of_yours(server: Server, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match=rf"looked in {tmp_path / 'empty'}.*data\.root=FOLDER"):
        load_images("tinyimagenet", tmp_path / "empty")
    assert server.requests == 0
    assert not list((tmp_path / "empty").iterdir())


def test_an_archive_of_yours_that_is_not_the_published_one(archived: Path) -> None:
    path = archived / f"{TOP}.zip"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptDataError, match=rf"{path} is not the archive published.*Delete it and fetch it again"):
        load_images("tinyimagenet", archived)
    assert path.is_file()


# ---- layout


def _without_wnids(folder: Path) -> None:
    (folder / "wnids.txt").unlink()


def _repeated_wnid(folder: Path) -> None:
    (folder / "wnids.txt").write_text("n01\nn01\n")


def _binary_wnids(folder: Path) -> None:
    (folder / "wnids.txt").write_bytes(b"\xff\xfe\x00")


def _without_a_class(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "n02")


def _class_without_images(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "n02" / "images")


def _without_boxes(folder: Path) -> None:
    (folder / "train" / "n03" / "n03_boxes.txt").unlink()


def _empty_boxes(folder: Path) -> None:
    (folder / "train" / "n03" / "n03_boxes.txt").write_text("")


def _without_a_training_image(folder: Path) -> None:
    (folder / "train" / "n03" / "images" / "n03_4.JPEG").unlink()


def _unknown_class(folder: Path) -> None:
    shutil.copytree(folder / "train" / "n03", folder / "train" / "n77")


def _without_annotations(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").unlink()


def _annotations(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "val" / "val_annotations.txt").write_text(text) and None


def _without_a_validation_image(folder: Path) -> None:
    (folder / "val" / "images" / "val_3.JPEG").unlink()


def _unannotated_image(folder: Path) -> None:
    (folder / "val" / "images" / "val_99.JPEG").write_bytes(_jpeg(0, 0))


def _unreadable_image(folder: Path) -> None:
    (folder / "train" / "n04" / "images" / "n04_1.JPEG").write_bytes(b"not a picture")


def _truncated_image(folder: Path) -> None:
    path = folder / "val" / "images" / "val_6.JPEG"
    path.write_bytes(path.read_bytes()[:-60])


def _large_image(folder: Path) -> None:
    (folder / "val" / "images" / "val_7.JPEG").write_bytes(_jpeg(2, 7, (80, 64)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_wnids, r"Expected .*/wnids\.txt, which is not there"),
        (_repeated_wnid, r"wnids\.txt to name each class once, got 2 lines"),
        (_binary_wnids, r"wnids\.txt is no text file"),
        (_without_a_class, r"Expected .*/train/n02/n02_boxes\.txt, which is not there"),
        (
            _class_without_images,
            r"n02_boxes\.txt names .*/n02_0\.JPEG, which is not there \(6 such images\)",
        ),
        (_empty_boxes, r"n03_boxes\.txt to name the images of train/n03/images, got no line"),
        (_without_boxes, r"Expected .*/n03_boxes\.txt, which is not there"),
        (_without_a_training_image, r"n03_boxes\.txt names .*/n03_4\.JPEG, which is not there \(1 such images\)"),
        (_unknown_class, r"train/n77 holds images of a class that wnids\.txt does not name"),
        (_without_annotations, r"Expected .*/val_annotations\.txt, which is not there"),
        (_annotations("\n"), r"val_annotations\.txt to name the images of val/images, got no line"),
        (_annotations("val_0.JPEG n01\n"), r"Line 1 of .*: expected file, class and box between tabs"),
        (_annotations("val_0.JPEG\tn99\t0\n"), r"Line 1 of .*: expected a class that wnids\.txt names, got 'n99'"),
        (
            _annotations("val_0.JPEG\tn01\nval_0.JPEG\tn02\n"),
            r"Line 2 of .*: expected each image once, got val_0\.JPEG",
        ),
        (_without_a_validation_image, r"val_annotations\.txt names .*/val_3\.JPEG, which is not there"),
        (_unannotated_image, r"val_99\.JPEG has no line in val/val_annotations\.txt"),
        (_unreadable_image, r"n04_1\.JPEG is no readable image"),
        (_truncated_image, r"val_6\.JPEG is no readable image"),
        (_large_image, r"val_7\.JPEG: expected an image of 64x64, got 80x64"),
    ],
)
def test_a_layout_that_is_refused(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(CorruptDataError, match=message):
        load_images("tinyimagenet", folder)
    arrays = folder / f"{TOP}-arrays"
    assert not (arrays / tiny.CACHE).exists()
    assert not list(arrays.glob(".*.tmp"))


def test_a_part_of_the_images(folder: Path, decoded: list[str]) -> None:
    """Asked for, it is told apart from the whole; a class without images and a missing test image are refused."""
    _without_a_training_image(folder)
    (folder / "train" / "n05" / "images" / "n05_0.JPEG").unlink()
    with pytest.raises(CorruptDataError, match=r"n03_4\.JPEG, which is not there.*or type data\.partial=true"):
        load_images("tinyimagenet", folder)
    data = ImageDataModule("tinyimagenet", 4, folder, partial=True)
    assert data.called == "tinyimagenet (28 of 30 training images)"
    assert torch.bincount(data.train.labels).tolist() == [6, 6, 5, 6, 5]
    assert len(data.test) == TEST * 5
    assert load_images("tinyimagenet", folder, partial=True).absent == 2
    assert len(decoded) == 28 + TEST * 5
    with pytest.raises(CorruptDataError, match=r"n03_4\.JPEG, which is not there"):
        load_images("tinyimagenet", folder)
    (folder / "train" / "n05" / "images" / "n05_0.JPEG").write_bytes(_jpeg(4, 0))
    assert load_images("tinyimagenet", folder, partial=True).absent == 1
    _class_without_images(folder)
    with pytest.raises(CorruptDataError, match=r"n02_0\.JPEG, which is not there \(6 such images\)"):
        load_images("tinyimagenet", folder, partial=True)


def test_files_of_file_managers_are_left_alone(folder: Path) -> None:
    for name in ("Thumbs.db", ".DS_Store", "._n01_0.JPEG"):
        (folder / "train" / "n01" / "images" / name).write_bytes(b"x")
    (folder / "val" / "images" / ".DS_Store").write_bytes(b"x")
    _check(load_images("tinyimagenet", folder))


# ---- decoded images kept on disk


@pytest.fixture(name="decoded")
def fixture_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were decoded."""
    names: list[str] = []
    decode = tiny.decode
    monkeypatch.setattr(tiny, "decode", lambda tree, name: names.append(name) or decode(tree, name))
    return names


def test_decoded_once(folder: Path, decoded: list[str]) -> None:
    load_images("tinyimagenet", folder)
    assert len(decoded) == (TRAIN + TEST) * 5
    for path in folder.rglob("*.JPEG"):
        path.unlink()
    _check(load_images("tinyimagenet", folder))
    shutil.rmtree(folder / "train")
    _check(load_images("tinyimagenet", folder))
    assert len(decoded) == (TRAIN + TEST) * 5


def test_the_archive_is_not_needed_again(archived: Path) -> None:
    load_images("tinyimagenet", archived)
    (archived / f"{TOP}.zip").unlink()
    _check(load_images("tinyimagenet", archived))


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _flip_a_label(path: Path) -> None:
    content = bytearray(path.read_bytes())
    labels = torch.load(path, weights_only=True)["test"][1].numpy().tobytes()
    content[content.index(labels)] ^= 1
    path.write_bytes(content)


def _no_tensors(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("{}")


def _other_content(path: Path) -> None:
    torch.save({"version": tiny.VERSION}, path)


def _other_shape(path: Path) -> None:
    kept = torch.load(path, weights_only=True)
    torch.save({**kept, "train": (kept["train"][0][:3], kept["train"][1])}, path)


def _other_labels(path: Path) -> None:
    kept = torch.load(path, weights_only=True)
    torch.save({**kept, "test": (kept["test"][0], kept["test"][1] + 1)}, path)


@pytest.mark.parametrize(
    "damage",
    [_shorten, _flip_a_bit, _flip_a_label, _no_tensors, _text, _other_content, _other_shape, _other_labels],
)
def test_a_damaged_file_is_decoded_again(
    archived: Path, decoded: list[str], caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    load_images("tinyimagenet", archived)
    damage(archived / f"{TOP}-arrays" / tiny.CACHE)
    _check(load_images("tinyimagenet", archived))
    assert len(decoded) == 2 * (TRAIN + TEST) * 5
    assert [tiny.CACHE in message for message in caplog.messages] == [True]
    _check(load_images("tinyimagenet", archived))
    assert len(decoded) == 2 * (TRAIN + TEST) * 5


def test_a_file_that_is_gone_is_decoded_again(archived: Path) -> None:
    load_images("tinyimagenet", archived)
    (archived / f"{TOP}-arrays" / tiny.CACHE).unlink()
    _check(load_images("tinyimagenet", archived))


def test_a_disk_that_is_full(archived: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=rf"{tiny.CACHE} could not be written"):
        load_images("tinyimagenet", archived)
    assert not list((archived / f"{TOP}-arrays").glob(".*.tmp"))


def test_arrays_of_another_version_or_source(folder: Path, decoded: list[str]) -> None:
    load_images("tinyimagenet", folder)
    path = folder / f"{TOP}-arrays" / tiny.CACHE
    torch.save({**torch.load(path, weights_only=True), "version": tiny.VERSION + 1}, path)
    _check(load_images("tinyimagenet", folder))
    annotations = folder / "val" / "val_annotations.txt"
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join(reversed(lines)))
    images = load_images("tinyimagenet", folder)
    assert images.test.labels.tolist() == [number % 5 for number in reversed(range(TEST * 5))]
    assert len(decoded) == 3 * (TRAIN + TEST) * 5


def test_damaged_arrays_and_nothing_to_decode(archived: Path) -> None:
    load_images("tinyimagenet", archived)
    (archived / f"{TOP}.zip").unlink()
    _flip_a_bit(archived / f"{TOP}-arrays" / tiny.CACHE)
    with pytest.raises(MissingDataError, match="Tiny-ImageNet was not found"):
        load_images("tinyimagenet", archived)


def test_a_folder_that_cannot_be_written(archived: Path, home: Path) -> None:
    (archived / f"{TOP}-arrays").write_text("in the way")
    _check(load_images("tinyimagenet", archived))
    _check(load_images("tinyimagenet", archived))
    assert [path.name.startswith(f"{TOP}-arrays-") for path in home.iterdir()] == [True]


def test_nowhere_to_write(archived: Path, home: Path) -> None:
    (archived / f"{TOP}-arrays").write_text("in the way")
    home.write_text("in the way")
    with pytest.raises(PermissionError, match=r"Expected one of .* to be writable"):
        load_images("tinyimagenet", archived)


def test_what_is_loaded_can_be_changed_and_the_files_stay(archived: Path) -> None:
    load_images("tinyimagenet", archived)
    images = load_images("tinyimagenet", archived)
    images.train.images[0] = 0
    _check(load_images("tinyimagenet", archived))


def test_several_processes_at_once(server: Server, decoded: list[str]) -> None:
    """Threads stand for processes: a lock is held by an open file, not by a process."""
    results: list[Images] = []
    threads = [threading.Thread(target=lambda: results.append(load_images("tinyimagenet"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for images in results:
        _check(images)
    assert len(results) == 3
    assert server.requests == 1
    assert len(decoded) == (TRAIN + TEST) * 5
