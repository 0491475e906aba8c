"""What memory of the host this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def _number(path: Path) -> int | None:
    """Return the number a file holds; None where there is no such file or number (cgroups say "max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _left_in(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return what a control group leaves below its limit; file caches in its usage can be dropped."""
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None:
        return None
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= int(statistics.get(cache, 0))
    except (OSError, ValueError):
        pass
    return max(0, most - used)


def _control_groups(proc: Path, cgroup: Path) -> Iterator[int]:
    """Yield what each control group around this process leaves, versions 1 and 2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        second = controllers == ""
        if not second and "memory" not in controllers.split(","):
            continue
        root = cgroup if second else cgroup / "memory"
        names = (
            ("memory.max", "memory.current", "inactive_file")
            if second
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        folder = root / place.lstrip("/")
        for each in (folder, *folder.parents):
            if not each.is_relative_to(root):
                break
            left = _left_in(each, *names)
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
