"""The Lightning module: every layer of 8C2F is bounded locally."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lipcert.graph.operators import LinearMap
from lipcert.losses import BCP
from lipcert.nn import build
from lipcert.nn.almost_orthogonal import almost_orthogonal
from lipcert.norms import MapKey, PowerNorms
from lipcert.system.schema import BoundConfig
from lipcert.training.module import RobustClassifier
from lipcert.training.schedules import Schedule
from tests.training.fits import classifier, digits


class Asked(PowerNorms):
    """Estimates that note which maps were masked, and on which sides."""

    def __init__(self, iterations: int, precision: str) -> None:
        super().__init__(iterations, precision)
        self.sides: dict[str, tuple[bool, bool]] = {}

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        sides = rows is not None and rows.shape[0] == 2, columns is not None and columns.shape[0] == 2
        self.sides[key.name] = sides
        return super().local_norms(key, linear_map, rows, columns)


def test_tiny_imagenet_is_local_in_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code had memory for 5 of 9 layers of 8C2F; here each norm is masked on both sides."""
    monkeypatch.setattr("lipcert.training.module.PowerNorms", Asked)
    torch.manual_seed(0)
    model = build("8c2f", (3, 64, 64), 200)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    schedule = Schedule(1, 0, 0, 1, 1e-3, 1e-3, 0.16)
    settings = BoundConfig(iterations=1, precision="float32", box_gradients=True)
    module = RobustClassifier(model, BCP(), optimizer, schedule, (3, 64, 64), 0.14, settings)
    module.current_epsilon, module.current_mixing = 0.16, 1.0
    norms: Any = module.norms
    norms.sides.clear()
    objective = module.objective(torch.rand(2, 3, 64, 64), torch.tensor([3, 190]))
    activations = [str(index) for index, layer in enumerate(model) if hasattr(layer, "threshold")]
    assert len(activations) == 9
    assert [each.name for each in objective.analysis.activations] == activations
    assert norms.sides == {name: (True, index > 0) for index, name in enumerate(activations)}
    for each in objective.analysis.activations:
        assert each.masked_norm.shape == (2,)


def test_an_objective_outside_a_training() -> None:
    with torch.no_grad():
        assert classifier().objective(*digits().train[:4]).loss.isfinite()


def test_a_parametrized_weight_is_computed_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("small", (1, 8, 8), 10, "maxmin", parametrization="aol")
    schedule = Schedule(1, 0, 0, 1, 1e-3, 1e-3, 0.3)
    module = RobustClassifier(model, BCP(), partial(torch.optim.Adam), schedule, (1, 8, 8), 0.3, BoundConfig())
    module.current_epsilon, module.current_mixing = 0.3, 0.5
    computed = list[torch.Size]()

    def noting(weight: Tensor) -> Tensor:
        computed.append(weight.shape)
        return almost_orthogonal(weight)

    monkeypatch.setattr("lipcert.nn.almost_orthogonal.almost_orthogonal", noting)
    module.objective(torch.rand(3, 1, 8, 8), torch.arange(3)).loss.backward()
    assert len(computed) == len(set(computed)) == 4
