"""The example of a user's own network: its records are confirmed by whoever has its weights."""

import pytest

from tests.running import REPOSITORY, forked

FOLDER = REPOSITORY / "experiments" / "own_network"


@pytest.mark.parametrize("record", ["record", "record_clipped", "record_tight"])
def test_committed_records_are_confirmed(record: str) -> None:
    options = ["--checkpoint", "residual.pt", "--builder", "residual:build", "--count", "1"]
    result = forked("-m", "lipcert.check", f"{record}/certificate.json", *options, cwd=FOLDER)
    assert result.returncode == 0, result.stderr
    assert "confirmed: 1 of 1 rows" in result.stdout
