"""Files that are whole or absent: written under a temporary name and renamed; archives whose bytes are verified."""

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

ZIP_MAGIC = b"PK\x03\x04"

LARGEST_FILE = 2**28
"""Bytes of a record's file, at most: 256 MiB, more than a million rows."""


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file that lies in its folder itself.

    Raises:
        ValueError: for a symbolic link out of its folder, or more than `LARGEST_FILE` bytes.
        OSError: if it cannot be read.
    """
    if path.resolve().parent != path.parent.resolve():
        raise ValueError(f"it is a symbolic link to {path.resolve()}, out of its folder; put the file itself there")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"it holds {size} bytes, more than the {LARGEST_FILE} that are read")
    return path.read_bytes()


def write_bytes(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Write a file under a temporary name, sync it, then rename it: readers see all of it or nothing, at any time.

    Args:
        path: the file; one that is there is replaced as a whole.
        content: what it will hold.
        previous: where to keep the file that is replaced, in the same folder.

    Raises:
        OSError: with the file's name; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            link(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def link(path: Path, other: Path) -> None:
    """Give a file a second name in its folder, in place of what had that name; rename it where there are no links."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        os.replace(path, other)
        return
    os.replace(temporary, other)
    temporary.unlink(missing_ok=True)  # renaming onto another name of the same file does nothing


def _sync_folder(folder: Path) -> None:
    """Make renamed entries last through a loss of power, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 with `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with `write_text`; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def refuse_damaged(path: Path) -> None:
    """Refuse a zip archive, such as a checkpoint, that is not whole, by the checksum of every member.

    `torch.save` stores a CRC-32 of every member of its archive, but `torch.load` verifies none: a flipped bit inside a
    tensor loads as another number. It compresses nothing: an archive that unpacks to more bytes than it has is refused
    before anything of it is unpacked. Files of other formats (pickles of old versions of torch) carry no checksums and
    pass.

    Raises:
        ValueError: saying what is wrong; whatever else `zipfile` raises for damaged bytes.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return
    with zipfile.ZipFile(path) as archive:
        size, unpacked = path.stat().st_size, sum(each.file_size for each in archive.infolist())
        if unpacked > size:
            raise ValueError(f"it unpacks to {unpacked} bytes, more than its own {size}; torch.save compresses nothing")
        if (member := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its part {member} does not hold")
