"""The most memory of the host that a piece of work holds."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

PROCESS = Path("/proc/self")


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
