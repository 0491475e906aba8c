"""The partial record: one line a finished batch, so that a certification that was stopped goes on where it was."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import lock_descriptor

from lipcert.records.format import NormBracket, Row
from lipcert.records.typed_text import decode

JOURNAL_NAME = "certificates.partial.jsonl"


@dataclass(frozen=True)
class StageWork:
    """What one stage did in a batch: images that entered, images certified, seconds."""

    entered: int
    certified: int
    seconds: float


@dataclass(frozen=True)
class Batch:
    """One finished batch: the next `count` images behind those of earlier batches.

    `rows`: one an image and epsilon, in any order; `norms_bounded`: for it; `norms`: the global ones that it relied on.
    """

    count: int
    rows: tuple[Row, ...]
    norms_bounded: int
    stages: tuple[StageWork, ...]
    norms: dict[str, NormBracket]
    seconds: float


class Journal:
    """The file `certificates.partial.jsonl` of a folder, opened: `batches` of earlier processes, `append` for more.

    The first line is `header`, everything on which the rows depend; an existing file with an equal header is continued
    behind its last whole line; one without a finished batch, or with `restart` one with another header, is begun anew.
    One process at a time.

    Raises:
        ValueError: for a file with another header, naming what differs, a damaged one, or one another process is at.
        OSError: if the file cannot be written.
    """

    def __init__(self, folder: Path, header: dict[str, Any], restart: bool = False) -> None:
        self.path = folder / JOURNAL_NAME
        self.batches: list[Batch] = []
        self._file: BinaryIO = self.path.open("a+b")
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                if not lock_descriptor(self._file.fileno(), blocking=False):
                    raise ValueError(f"{self.path} is in use by another process; choose another output=DIR.")
            self._continue(json.loads(json.dumps(header, default=asdict)), restart)
        except BaseException:
            self._file.close()
            raise

    def _continue(self, header: dict[str, Any], restart: bool) -> None:
        """Read what earlier processes finished, cut a torn last line off."""
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        whole = [_parsed(line) for line in lines]
        if whole and whole[-1] is None:  # torn, or never reached the disk
            lines, whole = lines[:-1], whole[:-1]
        if whole and whole[0] != {"header": header}:
            begun = len(whole) > 1 or not (isinstance(whole[0], dict) and "header" in whole[0])
            if begun and not restart:
                raise ValueError(_refusal(self.path, whole[0], header))
            lines, whole = [], []
        for number, content in enumerate(whole[1:], start=2):
            try:
                self.batches.append(decode(Batch, content, "the batch"))
            except ValueError as error:
                raise ValueError(f"Line {number} of {self.path} is damaged ({error}); delete the file.") from error
        self._file.truncate(sum(map(len, lines)))
        if not lines:
            self._write({"header": header})

    def _write(self, content: dict[str, Any]) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def images_done(self) -> int:
        """How many images are finished."""
        return sum(batch.count for batch in self.batches)

    def append(self, batch: Batch) -> None:
        """Write a finished batch; it is on the disk when this returns."""
        self._write(asdict(batch))
        self.batches.append(batch)

    def close(self) -> None:
        """Let another process at the file."""
        self._file.close()

    def remove(self) -> None:
        """Delete the file: the final record is in place."""
        self.path.unlink(missing_ok=True)
        self.close()


def _parsed(line: bytes) -> object:
    """Return the value of a whole line, None for one that is not whole."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _refusal(path: Path, found: object, header: dict[str, Any]) -> str:
    old = found.get("header") if isinstance(found, dict) else None
    if not isinstance(old, dict):
        return f"{path} does not begin as a partial record of lipcert; delete it or choose another output=DIR."
    keys = [key for key in (*header, *(key for key in old if key not in header)) if old.get(key) != header.get(key)]
    differs = ", ".join(f"{key} {old.get(key)!r} there and {header.get(key)!r} here" for key in keys)
    return (
        f"{path} was begun with other settings: {differs}. Repeat that command to go on, or choose another "
        "output=DIR, or type overwrite=true to begin anew."
    )
