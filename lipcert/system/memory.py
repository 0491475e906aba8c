"""Memory of the host: what this process may still take, and the most that a piece of work holds."""

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

PROCESS = Path("/proc/self")

FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SECOND = ("memory.max", "memory.current", "inactive_file")
"""Of the two versions of control groups: files of limit and usage, and what of the usage can be dropped."""


def _left_in(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return what a control group leaves below its limit; None where there is none ("max", or no such files)."""
    try:
        left = int((folder / limit).read_text()) - int((folder / usage).read_text())
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        left += int(statistics.get(cache, 0))
    return max(0, left)


def _control_groups(proc: Path, cgroup: Path) -> Iterator[int]:
    """Yield what each control group around this process leaves, versions 1 and 2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroup / "memory", FIRST) if controllers else (cgroup, SECOND)
        folder = root / place.lstrip("/")
        for each in (folder, *folder.parents):
            left = _left_in(each, *names) if each.is_relative_to(root) else None
            if left is not None:
                yield left


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes this process may still take on the CPU, None where the system does not tell (not Linux)."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    return min([available, *_control_groups(proc, cgroup)])


def _status_mb(key: str) -> float:
    """Return a line of the kernel's account of this process, such as VmRSS, in MB."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def restart_host_peak() -> bool:
    """Let the peak of this process start anew from what it holds now; False where that cannot be (not Linux).

    What was freed before is handed back to the system first, so that it is counted when it is taken again.
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def host_peak_mb(work: Callable[[], None]) -> float | None:
    """Return by how many MB this process's memory rises while `work` runs; None where nothing tells (not Linux)."""
    if not restart_host_peak():
        return None
    before = _status_mb("VmRSS")
    work()
    return max(0.0, _status_mb("VmHWM") - before)
