"""Which stages a certification may name."""

from __future__ import annotations

import pytest

from lipcert.certificates import STAGES
from lipcert.certification.settings import chosen_stages


def test_backward_linear_bounds_run_only_when_named() -> None:
    assert chosen_stages(None) == STAGES
    assert all(stage.slope_steps is None for stage in STAGES)
    assert [stage.method for stage in chosen_stages(["global", "crown", "crown-alpha"])] == [
        "global",
        "crown",
        "crown-alpha",
    ]


@pytest.mark.parametrize("names", [[], ["crown", "crown"], ["alpha"]])
def test_others_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="crown-alpha"):
        chosen_stages(names)
