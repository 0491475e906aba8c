"""What is free is read from the system's files, control groups included; what work holds is measured by the kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lipcert.system.memory import free_memory
from tests.running import python

MEASURE = """
import numpy as np
from lipcert.system.memory import host_peak_mb
def work():
    first = np.ones(30 * 2**17)  # 30 MB, written to
    second = np.ones(20 * 2**17)
    del first, second
    np.ones(10 * 2**17)
work()
print(host_peak_mb(work), host_peak_mb(lambda: None))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell")
def test_peak_is_what_was_held_at_once(tmp_path: Path) -> None:
    """In a process of its own: what others left behind decides how much of the memory is new."""
    done = python("-c", MEASURE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    peak, nothing = (float(each) for each in done.stdout.split())
    assert 45 < peak < 60
    assert nothing < 5


def _system(folder: Path, files: dict[str, str]) -> int | None:
    """Return what is free by a system's files; 1000 KiB are available in all."""
    for name, text in {"proc/meminfo": "MemTotal: 9999 kB\nMemAvailable: 1000 kB\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return free_memory(folder / "proc", folder / "cgroup")


def test_without_control_groups(tmp_path: Path) -> None:
    assert _system(tmp_path, {}) == 1000 * 1024


def test_without_linux(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) is None


@pytest.mark.parametrize("limited", ["", "outer/", "outer/inner/"])
def test_second_version_of_control_groups(tmp_path: Path, limited: str) -> None:
    """The limit of any group around the process counts; file caches can be dropped."""
    files = {f"cgroup/{place}memory.max": "max\n" for place in ("outer/", "outer/inner/")}
    files |= {f"cgroup/{place}memory.current": "400000\n" for place in ("", "outer/", "outer/inner/")}
    files |= {"proc/self/cgroup": "0::/outer/inner\n", f"cgroup/{limited}memory.max": "500000\n"}
    assert _system(tmp_path, files) == 100_000
    files |= {f"cgroup/{limited}memory.stat": "anon 3\ninactive_file 50000\n"}
    assert _system(tmp_path, files) == 150_000
    files |= {f"cgroup/{limited}memory.current": "900000\n"}
    assert _system(tmp_path, files) == 0


def test_first_version_of_control_groups(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "9:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
        "cgroup/memory/job/memory.limit_in_bytes": "500000\n",
        "cgroup/memory/job/memory.usage_in_bytes": "300000\n",
        "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "cgroup/memory/memory.usage_in_bytes": "900000\n",
    }
    assert _system(tmp_path, files) == 200_000


def test_a_limit_inside_a_container(tmp_path: Path) -> None:
    """The group's folder has its name outside; inside, its files are at the root."""
    files = {
        "proc/self/cgroup": "4:memory:/docker/0123\n",
        "cgroup/memory/memory.limit_in_bytes": "500000\n",
        "cgroup/memory/memory.usage_in_bytes": "100000\n",
    }
    assert _system(tmp_path, files) == 400_000
