"""Norm estimates: never above the norm, close after few steps, with the norm's gradient."""

from __future__ import annotations

import copy
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import analyze
from lipcert.graph import LinearMap
from lipcert.norms import PowerNorms
from lipcert.norms.estimate import has_fast_bfloat16
from lipcert.norms.krylov import krylov_iteration, over_lengths, power_iteration
from tests.networks import images, network
from tests.norms.maps import key, map_of
from tests.oracles import ExactNorms

torch.manual_seed(0)
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "dense": (nn.Linear(20, 12), (20,)),
    "convolution": (nn.Conv2d(3, 4, 3, 1, 1), (3, 6, 6)),
    "strided": (nn.Conv2d(3, 4, 4, 2, 1), (3, 6, 6)),
}


def _masks(linear_map: LinearMap, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(batch, *linear_map.output_shape, generator=generator) < 0.7).double()
    columns = (torch.rand(batch, *linear_map.input_shape, generator=generator) < 0.7).double()
    return rows, columns


@pytest.mark.parametrize("name", CASES)
def test_estimates_stay_below_and_converge(name: str) -> None:
    layer, shape = CASES[name]
    linear_map = map_of(copy.deepcopy(layer).double(), shape)
    rows, columns = _masks(linear_map, 6)
    exact = ExactNorms().local_norms(key(""), linear_map, rows, columns)
    previous = torch.zeros(6, dtype=torch.float64)
    for iterations in (1, 2, 5, 30 if name == "dense" else 300):  # of Krylov steps, 12 span everything
        torch.manual_seed(0)
        estimate = PowerNorms(iterations).local_norms(key("layer"), linear_map, rows, columns)
        assert (estimate <= exact * (1 + 1e-12)).all()
        assert (estimate >= previous * (1 - 1e-9)).all()
        previous = estimate
    torch.testing.assert_close(previous, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_the_norm(name: str) -> None:
    """Converged, the estimate's gradient is v uT at the leading singular vectors, as autograd of an SVD gives."""
    layer = copy.deepcopy(CASES[name][0]).double()
    linear_map = map_of(layer, CASES[name][1])
    rows, columns = _masks(linear_map, 3)
    PowerNorms(2000 if name != "dense" else 10).local_norms(key("layer"), linear_map, rows, columns).sum().backward()
    estimated = layer.weight.grad.clone()  # type: ignore[union-attr, operator]
    layer.zero_grad()
    ExactNorms().local_norms(key(""), linear_map, rows, columns).sum().backward()
    torch.testing.assert_close(estimated, layer.weight.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_the_whole_norm_is_that_of_the_norm(name: str) -> None:
    layer = copy.deepcopy(CASES[name][0]).double()
    linear_map = map_of(layer, CASES[name][1])
    PowerNorms(2000).global_norm(key("layer"), linear_map).sum().backward()
    estimated = layer.weight.grad.clone()  # type: ignore[union-attr, operator]
    layer.zero_grad()
    ExactNorms().global_norm(key(""), linear_map).sum().backward()
    torch.testing.assert_close(estimated, layer.weight.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("length", [0.0, 1e-45, 1e-30, 1e-18])
def test_vectors_become_no_longer_than_1_and_dead_ones_stay_short(length: float) -> None:
    vectors = torch.tensor([[length, 0.0], [0.0, 4.0]])
    scaled = over_lengths(vectors, vectors.norm(dim=1))
    assert scaled[1].tolist() == [0.0, 1.0]
    torch.testing.assert_close(scaled[0, 0], torch.tensor(1.0 if length == 1e-18 else 0.0))


def test_krylov_beats_as_many_power_steps() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    layer = nn.Linear(50, 30).double()
    layer.weight.data = weight
    linear_map = map_of(layer, (50,))
    start = torch.randn(8, 30, generator=generator, dtype=torch.float64)
    vector = krylov_iteration(linear_map, start, 4)
    best = (vector @ weight.T).norm(dim=1) / vector.norm(dim=1)
    power = start
    for _ in range(4):
        right = power @ weight
        power = right @ weight.T
    assert (best >= power.norm(dim=1) / right.norm(dim=1) * (1 - 1e-9)).all()


def test_many_krylov_steps_lose_nothing() -> None:
    """Where singular values decay fast, the space is soon exhausted up to rounding; more steps must do no harm."""
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.linalg.qr(torch.randn(size, 60, generator=generator)).Q for size in (60, 90))
    values = 0.4 + 0.6 * 0.8 ** torch.arange(60)
    layer = nn.Linear(90, 60)
    layer.weight.data = left @ torch.diag(values) @ right.T
    linear_map = map_of(layer, (90,))
    start = left[:, 0] + 0.3 * torch.randn(20, 60, generator=generator)
    for steps in (6, 15, 30):
        vector = krylov_iteration(linear_map, start, steps).double()
        found = (vector @ layer.weight.double().T).norm(dim=1) / vector.norm(dim=1)
        torch.testing.assert_close(found, torch.ones(20).double(), rtol=2e-3 if steps == 6 else 1e-5, atol=0)


def test_the_global_vector_is_warm_started_in_training_only() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, 1, 1)
    linear_map, norms = map_of(layer, (3, 6, 6)), PowerNorms(1)
    norms.global_norm(key("a.layer"), linear_map)
    (name,) = dict(norms.named_buffers())
    before = getattr(norms, name).clone()
    norms.eval()
    norms.global_norm(key("a.layer"), linear_map)
    assert torch.equal(before, getattr(norms, name))
    norms.train()
    for _ in range(50):
        estimate = norms.global_norm(key("a.layer"), linear_map)
    exact = ExactNorms().global_norm(key(""), map_of(layer.double(), (3, 6, 6)))
    torch.testing.assert_close(estimate.double(), exact, rtol=1e-3, atol=0)
    assert norms.state_dict().keys() == {name}


def test_dense_maps_learn_a_typical_start() -> None:
    """Every mask takes the map's largest singular values away; what the images have in common is soon known."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(80, 80, bias=False).double()
    left, right = (torch.linalg.qr(torch.randn(80, 80, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    layer.weight.data = left @ torch.diag(0.97 ** torch.arange(80, dtype=torch.float64)) @ right.T
    linear_map, norms = map_of(layer, (80,)), PowerNorms(1)
    rows = torch.ones(4, 80, dtype=torch.float64)
    rows[:, left[:, :8].abs().amax(dim=1) > 0.2] = 0
    rows[torch.arange(4), torch.arange(4)] = 0  # each image's mask is a little different
    exact = ExactNorms().local_norms(key(""), linear_map, rows, None)
    norms.global_norm(key("layer"), linear_map)
    visits = [norms.local_norms(key("layer"), linear_map, rows, None) / exact for _ in range(60)]
    assert (torch.stack(visits) <= 1 + 1e-12).all()
    assert (1 - visits[-1]).mean() < 0.3 * (1 - visits[0]).mean()
    before = {name: value.clone() for name, value in norms.state_dict().items()}
    with torch.no_grad():
        norms.local_norms(key("layer"), linear_map, rows, None)  # a measurement in the middle of a step
    norms.eval().local_norms(key("layer"), linear_map, rows, None)
    assert all(torch.equal(before[name], value) for name, value in norms.state_dict().items())


def test_checkpoints_without_typical_vectors_load() -> None:
    linear_map = map_of(nn.Linear(20, 12), (20,))
    norms, rows = PowerNorms(1), torch.ones(2, 12)
    norms.local_norms(key("a.layer"), linear_map, rows, None)
    earlier = {name: value for name, value in norms.state_dict().items() if not name.startswith("typical_")}
    assert len(earlier) == 1
    norms.load_state_dict(earlier)


def test_checkpoints_with_vectors_not_asked_for_yet_load() -> None:
    linear_map = map_of(nn.Linear(20, 12), (20,))
    norms, fresh, rows = PowerNorms(1), PowerNorms(1), torch.ones(2, 12)
    norms.local_norms(key("a.layer"), linear_map, rows, None)
    fresh.load_state_dict(norms.state_dict())
    assert fresh.state_dict().keys() == norms.state_dict().keys()
    assert all(torch.equal(value, norms.state_dict()[name]) for name, value in fresh.state_dict().items())
    with pytest.raises(RuntimeError, match="Unexpected"):
        fresh.load_state_dict({**norms.state_dict(), "other": rows})


def test_no_mask_leaves_an_estimate_dead() -> None:
    """Masks that remove all of the stored vector still get a positive estimate, unless they remove the map."""
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0]))
    linear_map = map_of(layer, (4,))
    norms = PowerNorms(3, "float32")
    for _ in range(50):
        norms.global_norm(key("layer"), linear_map)
    rows = torch.tensor([[0.0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    estimates = norms.local_norms(key("layer"), linear_map, rows, None)
    torch.testing.assert_close(estimates, torch.tensor([3.0, 1.0, 0.0]), rtol=1e-3, atol=0)


def test_low_precision_steps_give_nearly_the_same_norms() -> None:
    model = network("plain", "clipped_relu").float()
    inputs = images().float()
    constants = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        constants.append(analyze(model, inputs, 0.3, "local", PowerNorms(4, precision)).lipschitz)
    torch.testing.assert_close(constants[0], constants[1], rtol=0.03, atol=0)
    assert not torch.equal(constants[0], constants[1])


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_power_steps_leave_the_last_product_to_the_estimate(steps: int, scaled: bool) -> None:
    """The last M is left to the estimate: `steps` - 1 products with M, and as many with its adjoint."""
    linear_map, right = map_of(nn.Linear(5, 4).double(), (5,)), torch.ones(1, 5, dtype=torch.float64)
    counting = Mock(wraps=linear_map)
    found = power_iteration(counting, right, steps, scaled)
    assert (counting.apply.call_count, counting.adjoint.call_count) == (steps - 1, steps - 1)
    expected = right
    for _ in range(steps - 1):
        expected = linear_map.adjoint(linear_map.apply(expected))
    torch.testing.assert_close(found / found.norm(), expected / expected.norm())


@pytest.mark.parametrize(("iterations", "precision"), [(0, "auto"), (2, "float8")])
def test_bad_parameters_are_refused(iterations: int, precision: str) -> None:
    with pytest.raises(ValueError, match="Expected `"):
        PowerNorms(iterations, precision)


def test_bfloat16_where_the_device_in_use_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of that device alone, so that no context is made on another one; older GPUs emulate it slowly."""
    capabilities = {torch.device("cuda", 1): (8, 0), torch.device("cuda", 2): (7, 5), torch.device("cuda", 3): (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
    assert [has_fast_bfloat16(device) for device in capabilities] == [True, False, True]
    has_fast_bfloat16.cache_clear()
