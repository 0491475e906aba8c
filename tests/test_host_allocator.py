"""Freed memory is kept where that was asked for, and only there."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import torch
from lipcert.host_allocator import keep_freed_memory
from lipcert.system.memory import PROCESS

def held():
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

kept = {kept}
assert not kept or keep_freed_memory()
before = held()
blocks = [torch.ones(2**20) for _ in range(64)]  # 4 MB each
del blocks
print(held() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_blocks_stay(kept: bool) -> None:
    done = subprocess.run([sys.executable, "-c", CHECK.format(kept=kept)], capture_output=True, text=True, check=True)
    assert (float(done.stdout) > 200) is kept
