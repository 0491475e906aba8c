"""Costs of a run: its own memory, whatever its process held before and holds after."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from lipcert.training.callbacks import Costs
from tests.running import forked

TRAIN = """
import numpy as np
from unittest.mock import Mock
from lipcert.training.callbacks import Costs, peak_memory_mb

def hold(megabytes):
    np.ones(megabytes * 2**17)  # written to, and freed

hold(900)
before, costs = peak_memory_mb(), Costs()
costs.on_train_start(Mock(), Mock())
costs.on_train_epoch_end(Mock(), Mock())
start = costs.peak_memory_mb
hold(400)
costs.on_train_epoch_end(Mock(), Mock())
saved = costs.state_dict()["peak_memory_mb"]
costs.on_train_end(Mock(), Mock())
hold(900)
again = Costs()
again.load_state_dict(costs.state_dict())
print(before, start, saved, costs.peak_memory_mb, again.peak_memory_mb)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems let no peak start anew")
def test_the_peak_is_that_of_training(tmp_path: Path) -> None:
    done = forked("-c", TRAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, start, saved, peak, again = (float(each) for each in done.stdout.split())
    assert before > start + 300  # a system short of memory takes pages away meanwhile
    assert start + 50 < peak < start + 600
    assert saved == peak == again


def test_a_run_that_went_on_keeps_the_larger_peak() -> None:
    costs = Costs()
    costs.load_state_dict({"epochs": 3, "seconds": 7.0, "peak_memory_mb": 1e9})
    costs.on_train_start(Mock(), Mock())
    costs.on_train_epoch_end(Mock(), Mock())
    costs.on_train_end(Mock(), Mock())
    assert (costs.epochs, costs.peak_memory_mb) == (4, 1e9)
    assert costs.seconds > 7
