"""Branch and bound in fewer steps: on networks as small as those of tests its bounds settle sooner."""

import pytest

FEW = {"WHOLE": (25, 0.1), "TRIED": (4, 0.05), "CHOSEN": (10, 0.05)}


def optimise_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a quarter of the steps for whole balls, for both sides of kinks tried and for the best ones."""
    for name, steps in FEW.items():
        monkeypatch.setattr(f"lipcert.crown.splits.{name}", steps)
