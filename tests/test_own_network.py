"""The example of a user's own network: its record is confirmed by whoever has its weights."""

from __future__ import annotations

from tests.running import REPOSITORY, forked

FOLDER = REPOSITORY / "experiments" / "own_network"


def test_the_committed_record_is_confirmed() -> None:
    options = ["--checkpoint", "residual.pt", "--builder", "residual:build", "--count", "3"]
    result = forked("-m", "lipcert.check", "record/certificate.json", *options, cwd=FOLDER)
    assert result.returncode == 0, result.stderr
    assert "confirmed: 3 of 3 rows" in result.stdout
