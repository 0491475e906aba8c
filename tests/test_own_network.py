"""The example of a user's own network: its record is confirmed by whoever has its weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "own_network"


def test_the_committed_record_is_confirmed() -> None:
    options = ["--checkpoint", "residual.pt", "--builder", "residual:build", "--count", "3"]
    result = subprocess.run(
        [sys.executable, "-m", "lipcert.check", "record/certificate.json", *options],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "confirmed: 3 of 3 rows" in result.stdout
