"""What the re-check says of affine layers, against their dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipcert.nn import ChannelPad, GroupSort2
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import AffineStep, compile_program
from tests.graph.test_operators import LAYERS, repeats_pixels
from tests.oracles import dense_matrix, points_in_ball


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "identity"])
def test_affine_layers_are_their_matrices(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build().double().eval()
    program = compile_program(nn.Sequential(layer, nn.Flatten()).eval(), shape)
    step, matrix, inputs = program.steps[0], dense_matrix(layer, shape), torch.rand(3, *shape, dtype=torch.float64)
    assert isinstance(step, AffineStep)
    affine, shift = step.affine, layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(affine.whole(inputs), layer(inputs))
    expected = {"linear": matrix, "absolute": matrix.abs(), "squared": matrix.square()}
    for what, entries in expected.items():
        found, wanted = getattr(affine, what)(inputs).flatten(1), inputs.flatten(1) @ entries.T
        if what == "linear" or not repeats_pixels(layer, shape):
            torch.testing.assert_close(found, wanted)
        assert (found >= wanted - 1e-12).all()
    assert (affine.magnitude(inputs).flatten(1) >= inputs.flatten(1) @ matrix.abs().T + shift.abs() - 1e-12).all()
    nonzero = matrix != 0
    assert affine.terms >= nonzero.sum(dim=1).max()
    assert affine.operations > affine.terms or affine.monomial or nonzero.sum(dim=1).max() == 1
    single = nonzero.sum(dim=0).max() <= 1
    assert affine.disjoint <= single
    assert affine.monomial <= (single and bool(nonzero.sum(dim=1).max() <= 1))
    norm = torch.linalg.matrix_norm(matrix, 2)
    assert affine.operations > 0 or norm <= 1 + 1e-12


def test_a_network_of_many_layers_stays_inside_what_is_derived() -> None:
    torch.manual_seed(0)
    upper = (nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), GroupSort2(), nn.PixelUnshuffle(2), nn.ReLU())
    lower = (nn.ReflectionPad2d(1), nn.ConvTranspose2d(16, 4, 3, 2), GroupSort2(), ChannelPad(1, -2))
    head = (nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(18, 4), GroupSort2(), nn.Linear(4, 3))
    model = nn.Sequential(*upper, *lower, *head).double().eval()
    image, epsilon = torch.rand(1, 1, 6, 6, dtype=torch.float64), 0.3
    derived = Derivation(compile_program(model, (1, 6, 6)), image[0], epsilon, False, True, Norms())
    points = points_in_ball(image, epsilon, 300)[:, 0]
    with torch.no_grad():
        values = derived.program(points)
        torch.testing.assert_close(values[-1], model(points))
    for value, reach in zip(values, derived.reaches, strict=True):
        assert ((value >= reach.lower) & (value <= reach.upper)).all()
