"""Twenty networks of the fuzz job, the same networks each time; `make fuzz` runs it for longer, on others."""

from __future__ import annotations

import pytest

from lipcert.graph import supported_types
from tests.fuzz.checks import check
from tests.fuzz.layers import DRAWN
from tests.fuzz.networks import CONTAINERS
from tests.fuzz.rounds import run_round


def test_every_supported_layer_is_drawn() -> None:
    assert supported_types() == {*DRAWN, *CONTAINERS}


@pytest.mark.parametrize("number", range(2))
def test_nothing_goes_beyond_what_bounds_state(number: int) -> None:
    run_round(number, check)
