"""Downloads under a temporary name, tried anew where a connection breaks, verified, then renamed."""

import sys
from pathlib import Path
from typing import Any

import pooch
from requests import HTTPError, RequestException

from lipcert.data.arrays import CorruptDataError

ATTEMPTS = 5
"""Tries before a download is given up."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as interrupted."""
CHUNK = 1 << 20
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
"""Answers of a server that are worth another try."""


class DownloadError(OSError):
    """A file that could not be fetched."""


def download(url: str, target: Path, digest: str) -> None:
    """Fetch `url` into `target`.

    Raises:
        DownloadError: when the server cannot be reached, refuses, or keeps interrupting.
        CorruptDataError: when what came has another MD5 than `digest`; nothing of it is kept.
    """
    known = {target.name: f"md5:{digest}"}
    files = pooch.create(target.parent, "", registry=known, urls={target.name: url}, retry_if_failed=ATTEMPTS - 1)
    try:
        files.fetch(target.name, downloader=_fetch)
    except RequestException as error:
        raise DownloadError(f"{url}: given up after {ATTEMPTS} tries in a row ({error})") from error
    except ValueError as error:  # with the MD5 that was found
        raise CorruptDataError(
            f"Expected MD5 {digest} of {url}, got another; it was removed. Try again, or fetch it another way."
        ) from error


def _fetch(url: str, file: Any, files: pooch.Pooch | None, check_only: bool = False) -> None:
    """Fetch `url` into an open file once; an answer that further tries would not change is a DownloadError."""
    fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK, timeout=TIMEOUT)
    try:
        fetch(url, file, files, check_only)
    except HTTPError as error:
        if error.response is None:
            raise
        with error.response as answer:
            if answer.status_code in TRANSIENT_STATUS:
                raise
            raise DownloadError(f"{url}: the server answered {answer.status_code} {answer.reason}") from error
