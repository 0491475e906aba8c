"""Memory that work holds, measured by the kernel, is what was allocated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands import python

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
