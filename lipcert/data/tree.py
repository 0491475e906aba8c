"""A tree of files, in a folder or inside a zip archive, read without unpacking anything."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from lipcert.data.arrays import CorruptDataError


class Tree(Protocol):
    """Files by their name below the top, with `/` between parts."""

    def names(self) -> frozenset[str]: ...

    def locate(self, name: str) -> str:
        """Return where a file is, for messages."""
        ...

    def read(self, name: str) -> bytes: ...


class FolderTree:
    """The files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> frozenset[str]:
        found = []
        for parent, _, files in os.walk(self.folder, followlinks=True):
            below = Path(parent).relative_to(self.folder).as_posix()
            found += files if below == "." else [f"{below}/{name}" for name in files]
        return frozenset(found)

    def locate(self, name: str) -> str:
        return str(self.folder / name)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class ArchiveTree:
    """The files of an open zip archive below one of its folders; reading is safe from several threads."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, top: str) -> None:
        self.path = path
        self.archive = archive
        self.top = f"{top}/"

    def names(self) -> frozenset[str]:
        return frozenset(name.removeprefix(self.top) for name in self.archive.namelist() if name.startswith(self.top))

    def locate(self, name: str) -> str:
        return f"{self.top}{name} in {self.path}"

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            CorruptDataError: if it does not unpack to what the archive says of it.
        """
        try:
            return self.archive.read(f"{self.top}{name}")
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CorruptDataError(
                f"{self.locate(name)} cannot be unpacked: {error}. Fetch the archive again."
            ) from error


@contextmanager
def open_tree(path: Path, top: str) -> Iterator[Tree]:
    """Open a folder, or a zip archive that holds the folder `top`.

    Raises:
        CorruptDataError: if the archive is none.
    """
    if path.is_dir():
        yield FolderTree(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise CorruptDataError(f"{path} is no zip archive: {error}. Delete it and fetch it again.") from error
    with archive:
        yield ArchiveTree(path, archive, top)
