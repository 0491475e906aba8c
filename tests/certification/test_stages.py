"""Which stages a certification may name, and what they make of a network that overflows."""

from __future__ import annotations

import math

import pytest
import torch

from lipcert.certificates import STAGES
from lipcert.certificates.cascade import Cascade
from lipcert.certification.batches import certify_batch
from lipcert.certification.settings import chosen_stages
from lipcert.nn import build
from lipcert.records.table import from_csv, to_csv


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


def test_rows_of_a_diverged_network_can_be_read_back() -> None:
    torch.manual_seed(0)
    model = build("small", (1, 8, 8), 10, "relu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e13)
    batch = certify_batch(Cascade(model), torch.rand(3, 1, 8, 8), torch.arange(3), 0, [0.1])
    assert not any(row.certified for row in batch.rows)
    assert {row.margin for row in batch.rows} == {-math.inf}
    assert from_csv(to_csv(batch.rows)) == list(batch.rows)
