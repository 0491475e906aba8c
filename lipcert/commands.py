"""What all command lines share: errors as one sentence, exit codes, files that are never half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

EXPECTED_ERRORS = (ValueError, OSError, NotImplementedError, ArithmeticError)
"""Errors that a user can act on; anything else is a fault of lipcert and keeps its traceback."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used-up quota, a file beyond the limit of its size."""


class Interrupted(SystemExit):
    """A signal ended the command; its exit code is 128 plus the signal's number, as shells have it."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(128 + number)
        self.message = f"ended by {signal.Signals(number).name}. {advice}".strip()


@contextmanager
def stoppable(sentence: str = "Stopped.") -> Iterator[None]:
    """Exit with code 130 and a sentence on standard error at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print(sentence, file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def run_command(command: Callable[[], Any], name: str | None = None, stopped: str = "Stopped.") -> None:
    """Run a Hydra application, or show its help; print an expected error as one message and exit with code 1.

    Args:
        command: decorated by `hydra.main`.
        name: of the command's file in `conf/`, which `--help` reads; None for Hydra's own help.
        stopped: what to say at Ctrl-C.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lipcert.config import config_folder
    from lipcert.usage import asks_for_help, usage

    if name is not None and asks_for_help(sys.argv[1:]):
        print(usage(Path(config_folder()), name))
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to here
    try:
        with stoppable(stopped):
            command()
    except (HydraException, OmegaConfBaseException) as error:
        _fail(error, _composition_message(error))
    except EXPECTED_ERRORS as error:
        _fail(error, _message(error))
    except Interrupted as stop:
        print(f"error: {stop.message}", file=sys.stderr)
        sys.exit(stop.code)


def _composition_message(error: BaseException) -> str:
    """Return what is wrong with a configuration; Hydra's advice to add a setting that the schema lacks is left out."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    from lipcert.config import unknown_setting

    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
        return unknown_setting(str(cause.full_key), cause.object_type)
    return f"{error} ({cause})" if cause is not None and str(cause) not in str(error) else str(error)


def sentence_of(error: BaseException) -> str:
    """Return an error's sentence; for a file, its name and the system's reason."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def _message(error: BaseException) -> str:
    """Return an error's sentence, and the notes added to it on its way."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        advice = "Choose another folder (hydra.run.dir=...) or file."
        if error.errno in NO_ROOM:
            advice = "Make room; what was written before is kept."
        message = f"{error.filename}: {error.strerror}. {advice}"
    return " ".join([message, *getattr(error, "__notes__", [])])


def _fail(error: BaseException, message: str) -> None:
    if os.environ.get("LIPCERT_TRACEBACK"):
        raise error
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


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
