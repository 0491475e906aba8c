"""One run in a directory at a time: a lock that the kernel releases however a process ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lipcert.training.processes import is_first_process

logger = logging.getLogger(__name__)

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's directory; of several ranks, the first holds it for all.

    Raises:
        BlockingIOError: while another process holds it, saying which.
        PermissionError: where nothing can be written.
    """
    if not is_first_process():
        yield
        return
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"The run directory {folder} cannot be written; choose another hydra.run.dir.")
    path = folder / NAME
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = path.read_text(errors="replace").strip() or "another process"
        raise BlockingIOError(
            f"{folder} is in use by a run that is still going on ({holder}); wait for its end or choose "
            "another hydra.run.dir. Once it has ended, resume=auto goes on where it stopped."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        logger.warning("The file system of %s has no locks; start no second run in it.", folder)
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
