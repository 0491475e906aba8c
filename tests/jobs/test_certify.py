"""Which stages a certification may name, and what they make of a network that overflows."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
import torch
from torch import nn

from lipcert.certificates import STAGES
from lipcert.certificates.cascade import Cascade
from lipcert.jobs.certify import certify_batch, chosen_stages
from lipcert.nn import build
from lipcert.records import Row
from lipcert.records.format import COLUMNS
from lipcert.records.typed_text import from_csv, to_csv


def test_stages_are_those_named_or_the_default() -> None:
    assert chosen_stages(None) == STAGES
    assert [stage.method for stage in chosen_stages(["global", "crown", "crown-alpha"])] == [
        "global",
        "crown",
        "crown-alpha",
    ]


def test_exhaustive_stages_enter_every_image_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    images = torch.rand(12, 1, 8, 8)
    labels, names = model(images).argmax(dim=1), ["global", "tight-100", "liplt", "crown"]
    entered = []
    for exhaustive in (False, True):
        cascade = Cascade(model, chosen_stages(names, exhaustive))
        cascade(images, labels, 50.0)
        entered.append([tally.entered for tally in cascade.tallies])
    assert entered == [[12, 0, 0, 0], [12, 12, 12, 12]]
    assert chosen_stages(None, exhaustive=True) != STAGES


def test_images_with_many_open_classes_are_left_unless_stages_are_exhaustive() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 40)).eval()
    images = torch.rand(6, 1, 4, 4)
    labels, margins = model(images).argmax(dim=1), []
    for exhaustive in (False, True):
        stages = chosen_stages(["global", "crown-alpha"], exhaustive)
        margins.append(Cascade(model, [replace(stage, within=0.0) for stage in stages])(images, labels, 3.0).margin)
    assert torch.equal(margins[0], Cascade(model, chosen_stages(["global"]))(images, labels, 3.0).margin)
    assert bool((margins[1] > margins[0] + 1e-3).all())


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
    assert [Row(*each) for each in from_csv(to_csv(COLUMNS, map(astuple, batch.rows)), COLUMNS)] == list(batch.rows)
