"""What the re-check says of affine layers, against their dense matrices."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lipcert.nn import Abs, ChannelPad, GroupSort2, Householder
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
    _stays_inside(nn.Sequential(*upper, *lower, *head), decomposed=True)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_network_of_steep_activations_stays_inside_what_is_derived(decomposed: bool) -> None:
    torch.manual_seed(0)
    upper = (nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(-0.3), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1))
    lower = (nn.Conv2d(4, 6, 3, padding=1), nn.PReLU(6), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(6, 4, 1), Abs())
    head = (nn.Flatten(), nn.Linear(16, 8), nn.Hardtanh(-0.1, 0.3), nn.Linear(8, 8), Householder(8), nn.Linear(8, 3))
    nn.init.normal_(head[4].directions)
    _stays_inside(nn.Sequential(*upper, *lower, *head), decomposed)


def _stays_inside(model: nn.Sequential, decomposed: bool) -> None:
    """Check boxes, balls and errors of execution in float32 at points of a ball."""
    executed = copy.deepcopy(model).eval()
    model = model.double().eval()
    image, epsilon = torch.rand(1, 1, 6, 6).double(), 0.3
    program = replace(compile_program(model, (1, 6, 6)), dtype=torch.float32)
    derived = Derivation(program, image[0], epsilon, False, decomposed, Norms())
    points = points_in_ball(image, epsilon, 300)[:, 0]
    with torch.no_grad():
        values = derived.program(points)
        torch.testing.assert_close(values[-1], model(points))
        errors = (executed(points.float()) - program(points.float())[-1]).abs()
    assert (errors <= derived.logits.executed.entries).all()
    assert (derived.logits.executed.entries < 1e-4).all()
    for value, reach in zip(values, derived.reaches, strict=True):
        assert ((value >= reach.lower) & (value <= reach.upper)).all()
    for number, source in derived.sources.items():
        change = values[number] - derived.reaches[number].center
        assert (change.flatten(1).norm(dim=1) <= epsilon * source.tight * (1 + 1e-9)).all()
        assert ((change >= source.change[0]) & (change <= source.change[1])).all()
