"""The processes of one run: who started them, which of them this is, what they tell each other, and their lock."""

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from filelock import FileLock, Timeout
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

PATIENCE = timedelta(days=7)
"""How long a process waits for another that still works; one that dies is noticed at once."""


def slurm_tasks() -> int:
    """Return how many tasks SLURM started, 1 without SLURM and in its interactive jobs."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return 1 if interactive else int(os.environ.get("SLURM_NTASKS") or 1)


def started_processes() -> int:
    """Return how many processes of this run torchrun, SLURM or Lightning started, 1 where none of them did."""
    return int(os.environ.get("WORLD_SIZE") or slurm_tasks())


def started_apart() -> bool:
    """Whether torchrun or SLURM started the processes, so that each chooses a run directory by itself.

    Those that Lightning starts are told the first one's.
    """
    return started_processes() > 1 and ("TORCHELASTIC_RUN_ID" in os.environ or slurm_tasks() > 1)


def is_first_process() -> bool:
    """Whether this process is the one that writes, as far as the environment says before training starts."""
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if key in os.environ:
            return os.environ[key] == "0"
    return True


def environment_plugins() -> list[ClusterEnvironment]:
    """Return what makes Lightning start the processes itself inside a single task of SLURM, empty elsewhere."""
    return [LightningEnvironment()] if "SLURM_NTASKS" in os.environ and not started_apart() else []


def ranks() -> tuple[int, int]:
    """Return this process's rank and the number of processes that train together."""
    joined = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)


def from_every_process(work: Callable[[], Value]) -> list[Value]:
    """Do `work` in every process and return all results, in order of rank; values must be picklable."""
    _, count = ranks()
    if count == 1:
        return [work()]
    group = dist.new_group(backend="gloo", timeout=PATIENCE)  # before the work, while all are here
    results: list[Any] = [None] * count
    dist.all_gather_object(results, work(), group=group)  # type: ignore[arg-type]
    return results


def leave_group() -> None:
    """Leave the group of processes: a thread of it that is left at the interpreter's end may abort the process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's directory, for all ranks in the first, by a lock that ends with the process, however it ends.

    Raises:
        BlockingIOError: while another process holds it, saying which.
        OSError: where nothing can be written.
    """
    if not is_first_process():
        yield
        return
    path = folder / ".lock"
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
