"""What a user types with commas is a list, except in a sweep."""

from __future__ import annotations

import pytest

from lipcert.commands.application import with_lists


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epsilon=0.1,0.25", "epsilon=[0.1,0.25]"),
        ("epsilon=0.1, 0.25", "epsilon=[0.1, 0.25]"),
        ("epsilon=1e-3,36", "epsilon=[1e-3,36]"),
        ("stages=global,tight", "stages=[global,tight]"),
        ("stages=tight-100", "stages=[tight-100]"),
        ("stages=null", "stages=null"),
        ("stages=[global]", "stages=[global]"),
        ("epsilon=0.1", "epsilon=0.1"),
        ("epsilon=null", "epsilon=null"),
        ("epsilon=[0.1,0.25]", "epsilon=[0.1,0.25]"),
        ("epsilon=range(1,3)", "epsilon=range(1,3)"),
        ("output=a,b", "output=a,b"),
        ("checkpoint=epsilon=0.1,0.2", "checkpoint=epsilon=0.1,0.2"),
        ("--help", "--help"),
    ],
)
def test_lists(typed: str, meant: str) -> None:
    assert with_lists(["limit=3", typed]) == ["limit=3", meant]


@pytest.mark.parametrize("sweep", ["-m", "--multirun", "--multi", "hydra.mode=MULTIRUN"])
def test_sweeps_keep_their_commas(sweep: str) -> None:
    assert with_lists(["epsilon=0.1,0.25", sweep]) == ["epsilon=0.1,0.25", sweep]
