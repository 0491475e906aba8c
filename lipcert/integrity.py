"""Whether a checkpoint's file is whole, before anything is built on it.

`torch.save` stores a CRC-32 of every member of its zip archive, but `torch.load` checks none: a flipped bit inside a
tensor loads as another number.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

ZIP_MAGIC = b"PK\x03\x04"


def damage(path: Path) -> str | None:
    """Return what is wrong with the bytes of a zip archive, None where every checksum holds.

    Files of other formats (pickles of old versions of torch) carry no checksums and pass.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None if member is None else f"the checksum of its part {member} does not hold"
