"""One run in a directory at a time: a lock that the kernel releases however a process ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    descriptor = _hold(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _hold(path: Path) -> int:
    """Return a descriptor of the lock file that is held exclusively."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise BlockingIOError(
                f"{path.parent} is in use by a run that is still going on ({holder}); wait for its end or choose "
                "another hydra.run.dir. Once it has ended, resume=auto goes on where it stopped."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            logger.warning("The file system of %s has no locks; start no second run in it.", path.parent)
        if _still_there(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return descriptor
        os.close(descriptor)  # its holder removed it between our opening and locking it


def _still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
