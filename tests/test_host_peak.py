"""Memory that work holds, measured by the kernel, is what was allocated."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lipcert.host_peak import host_peak_mb


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell")
def test_peak_is_what_was_held_at_once() -> None:
    def work() -> None:
        first = np.ones(30 * 2**17)  # 30 MB, written to
        second = np.ones(20 * 2**17)
        del first, second
        np.ones(10 * 2**17)

    work()
    measured = host_peak_mb(work)
    assert measured is not None
    assert 49 < measured < 55
    nothing = host_peak_mb(lambda: None)
    assert nothing is not None
    assert nothing < 3
