"""Downloads that survive interruptions: a `.part` file that is continued, checked, then renamed."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from lipcert.data.arrays import CorruptDataError
from lipcert.data.progress import Advance, progress

ATTEMPTS = 5
"""Tries in a row that may bring nothing new before a download is given up."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as interrupted."""
PAUSE = 1.0
"""Seconds before the second try; doubled for each one after."""
CHUNK = 1 << 20
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)

logger = logging.getLogger(__name__)


class DownloadError(OSError):
    """A file that could not be fetched."""


class _CutShortError(Exception):
    """A connection that ended early: worth another try."""


def md5(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(url: str, target: Path, digest: str) -> None:
    """Fetch `url` into `target`, going on where an earlier download was stopped.

    Raises:
        DownloadError: when the server cannot be reached, refuses, or keeps interrupting.
        CorruptDataError: when what came has another MD5 than `digest`; nothing of it is kept.
    """
    part = target.with_name(f"{target.name}.part")
    for resumed in (_size(part) > 0, False):
        _fetch(url, part)
        found = md5(part)
        if found == digest:
            os.replace(part, target)
            return
        part.unlink()
        if not resumed:  # what was resumed may have been another file: fetch that once from its start
            raise CorruptDataError(
                f"Expected MD5 {digest} of {url}, got {found}; it was removed. Try again, or fetch it another way."
            )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch(url: str, part: Path) -> None:
    """Fetch all of `url` into `part`; only tries that bring nothing new count."""
    failures, most = 0, _size(part)
    with progress(f"Fetching {part.stem}", unit="bytes") as advance:
        while True:
            try:
                return _continue(url, part, advance)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in TRANSIENT_STATUS:
                    raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
                reason = f"the server answered {error.code} {error.reason}"
            except (_CutShortError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            except urllib.error.URLError as error:
                if not isinstance(error.reason, TimeoutError | ConnectionResetError):
                    raise DownloadError(f"{url}: {error.reason}") from error
                reason = str(error.reason)
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= ATTEMPTS:
                raise DownloadError(f"{url}: given up after {ATTEMPTS} tries in a row ({reason})")
            logger.warning("%s: %s; trying again", url, reason)
            time.sleep(PAUSE * 2 ** max(0, failures - 1))


def _continue(url: str, part: Path, advance: Advance) -> None:
    """Fetch what `part` lacks; raise _CutShortError when the connection ends before that."""
    had = _size(part)
    headers = {"User-Agent": "lipcert", "Accept-Encoding": "identity"}
    if had:
        headers["Range"] = f"bytes={had}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not had:
            raise
        error.close()
        if _total(error.headers.get("Content-Range")) == had:  # all of it was there
            return
        part.unlink()
        raise _CutShortError("the part fetched earlier does not belong to this file") from error
    with response:
        goes_on = response.status == 206 and _start(response.headers.get("Content-Range")) == had
        if response.status == 206 and not goes_on:
            part.unlink(missing_ok=True)
            raise _CutShortError("the server sent another range than asked for")
        done = had if goes_on else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with part.open("ab" if goes_on else "wb") as file:
            advance(done, total)
            while block := response.read(CHUNK):
                file.write(block)
                done += len(block)
                advance(done, total)
    if total is not None and done < total:
        raise _CutShortError(f"the connection ended after {done} of {total} bytes")


def _start(content_range: str | None) -> int | None:
    """Return the first byte of a Content-Range header, `bytes 10-99/100`."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", content_range or "")
    return int(match[1]) if match else None


def _total(content_range: str | None) -> int | None:
    """Return the whole size a Content-Range header states, `bytes */100`."""
    match = re.fullmatch(r"bytes \S+/(\d+)", content_range or "")
    return int(match[1]) if match else None
