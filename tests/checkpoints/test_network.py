"""Networks from files: lipcert's, the published code's, a user's own; every other file is refused with a reason."""

from __future__ import annotations

import sys
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lipcert
from lipcert.checkpoints import load_network, read_checkpoint
from lipcert.nn import ACTIVATIONS, ARCHITECTURES, build
from tests.damage import flip_bit
from tests.training.fits import classifier

IMAGE = (1, 8, 8)


def _network(activation: str = "clipped_relu", name: str = "small", shape: tuple[int, ...] = IMAGE) -> nn.Sequential:
    """Return a network none of whose tensors is as initialised."""
    torch.manual_seed(5)
    network = build(name, shape, 10, activation, threshold=0.37).eval()
    for tensor in network.state_dict().values():
        tensor.add_(torch.rand(tensor.shape) / 10)
    return network


def _saved(folder: Path, content: Any, name: str = "net.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def _same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def _refusal(path: Path, *arguments: Any, **named: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load_network(path, *(arguments or (IMAGE, 10)), **named)
    assert str(path) in str(refused.value) or "builder" in str(refused.value) or "Expected" in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("activation", ["maxmin", "clipped_relu"])
def test_own_checkpoint(tmp_path: Path, activation: str) -> None:
    """Lightning's file, with buffers of norms and metrics beside the network; plain MaxMin is not told by its keys."""
    module = classifier(activation, description={"data": "digits", "model": "small", "activation": activation})
    content: dict[str, Any] = {"state_dict": module.state_dict(), "epoch": 3}
    module.on_save_checkpoint(content)
    loaded = load_network(_saved(tmp_path, content, "best.ckpt"), IMAGE, 10)
    assert _same(loaded.model, module.model)
    assert repr(loaded.model) == repr(module.model)
    assert not loaded.model.training
    assert loaded.description == {"data": "digits", "model": "small", "activation": activation}


def test_own_checkpoint_of_a_network_with_no_name(tmp_path: Path) -> None:
    """A module made in Python describes nothing; its network is found by names and shapes."""
    module = classifier(description={})
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    loaded = load_network(_saved(tmp_path, content), IMAGE, 10)
    assert _same(loaded.model, module.model)
    assert loaded.description == {"model": "small", "activation": "clipped_relu"}


WRAPPED = {
    "plain": lambda state: state,
    "dict": dict,
    "data parallel": lambda state: OrderedDict((f"module.{key}", value) for key, value in state.items()),
    "compiled": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "nested": lambda state: {"state_dict": state, "epoch": 7, "error": 0.3},
    "nested in a list": lambda state: {"state_dict": [state], "epoch": 7},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_published_names(tmp_path: Path, wrapping: str) -> None:
    network = _network("clipped_maxmin")
    loaded = load_network(_saved(tmp_path, WRAPPED[wrapping](network.state_dict())), IMAGE, 10)
    assert _same(loaded.model, network)
    assert loaded.description == {"model": "small", "activation": "clipped_maxmin"}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["clipped_relu", "clipped_maxmin"])
def test_every_clipped_architecture_is_found(tmp_path: Path, name: str, activation: str) -> None:
    shape = (3, 22, 22) if name == "8c2f" else (1, 8, 8)
    with torch.device("meta"):
        state = build(name, shape, 4, activation).state_dict()
    path = _saved(tmp_path, {key: torch.empty(value.shape) for key, value in state.items()})
    assert load_network(path, shape, 4).description == {"model": name, "activation": activation}


@pytest.mark.parametrize("activation", ["relu", "maxmin"])
def test_activations_without_parameters_must_be_named(tmp_path: Path, activation: str) -> None:
    network = _network(activation)
    path = _saved(tmp_path, network.state_dict())
    refusal = _refusal(path)
    assert "model=small activation=relu or model=small activation=maxmin" in refusal
    loaded = load_network(path, IMAGE, 10, activation=activation)
    assert repr(loaded.model) == repr(network)
    assert _same(load_network(path, IMAGE, 10, model="small", activation=activation).model, network)


def test_weights_keep_their_dtype(tmp_path: Path) -> None:
    """A float32 copy of float64 weights would be another network."""
    network = _network().double()
    loaded = load_network(_saved(tmp_path, network.state_dict()), IMAGE, 10)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float64}
    assert _same(loaded.model, network)


BUILDER = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10))

def nothing():
    return None

def pictures():
    return nn.Sequential(nn.Conv2d(1, 3, 1))

number = 3
"""


@pytest.fixture(name="own")
def fixture_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a module of networks."""
    (tmp_path / "my_networks_of_a_test.py").write_text(BUILDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])  # as a console script has it
    return tmp_path


def test_builder(own: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10))
    network(torch.rand(20, *IMAGE))  # moves the running statistics
    path = _saved(own, network.state_dict())
    loaded = load_network(path, IMAGE, 10, builder="my_networks_of_a_test:network")
    assert _same(loaded.model, network)
    assert not loaded.model.training
    assert loaded.description == {"builder": "my_networks_of_a_test:network"}


BUILDERS = {
    "my_networks_of_a_test": "Expected builder=package.module:function",
    "my_networks_of_a_test:": "Expected builder=package.module:function",
    "no_such_module_here:network": "No module named 'no_such_module_here'",
    "my_networks_of_a_test:missing": "'missing'",
    "my_networks_of_a_test:nothing": "return an nn.Module, got NoneType",
    "my_networks_of_a_test:number": "to be a function, got int",
    "my_networks_of_a_test:network": "has no '1.weight'",
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_builders_that_do_not_build_it(own: Path, builder: str) -> None:
    path = _saved(own, {"0.weight": torch.zeros(3, 1, 1, 1), "0.bias": torch.zeros(3)})
    assert BUILDERS[builder] in _refusal(path, builder=builder)


def test_networks_that_do_not_classify(own: Path) -> None:
    path = _saved(own, {"0.weight": torch.zeros(3, 1, 1, 1), "0.bias": torch.zeros(3)})
    pictures = "my_networks_of_a_test:pictures"
    assert "logits (B, K), got (1, 3, 8, 8)" in _refusal(path, builder=pictures)
    assert "does not take images of shape (2, 8, 8)" in _refusal(path, (2, 8, 8), 10, builder=pictures)


def test_builder_and_model_contradict(tmp_path: Path) -> None:
    path = _saved(tmp_path, _network().state_dict())
    assert "leave one out" in _refusal(path, model="small", builder="a:b")


def test_other_number_of_classes(own: Path) -> None:
    path = _saved(own, _network().state_dict())
    for named in ({}, {"model": "small"}, {"model": "small", "activation": "clipped_relu"}):
        assert "tells 10 classes apart, the data has 7" in _refusal(path, IMAGE, 7, **named)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10))
    path = _saved(own, network.state_dict())
    refusal = _refusal(path, IMAGE, 7, builder="my_networks_of_a_test:network")
    assert "tells 10 classes apart, the data has 7" in refusal


def test_the_first_tensor_that_differs_is_named(tmp_path: Path) -> None:
    path = _saved(tmp_path, _network().state_dict())
    refusal = _refusal(path, (1, 28, 28), 10, model="small", activation="clipped_relu")
    assert "'1.threshold' of shape (1, 16, 4, 4), but the network needs (1, 16, 14, 14)" in refusal
    refusal = _refusal(path, (1, 8, 8), 10, model="small", activation="relu")
    assert "has '1.threshold', which the network lacks" in refusal
    refusal = _refusal(path, (1, 8, 8), 10, model="small", activation="clipped_maxmin")
    assert "has no '1.max', which the network needs" in refusal


def test_what_fits_nothing(tmp_path: Path) -> None:
    path = _saved(tmp_path, _network().state_dict())
    refusal = _refusal(path, (1, 28, 28), 10)
    assert "fits no network of lipcert for images of shape (1, 28, 28)" in refusal
    assert "builder=" in refusal
    assert "with model=4c3f" in _refusal(path, model="4c3f")


@pytest.mark.parametrize(("key", "known"), [("model", tuple(ARCHITECTURES)), ("activation", tuple(ACTIVATIONS))])
def test_unknown_names(tmp_path: Path, key: str, known: tuple[str, ...]) -> None:
    path = _saved(tmp_path, _network().state_dict())
    refusal = _refusal(path, **{key: "swish"})
    assert f"Expected {key}= to be one of {', '.join(known)}, got 'swish'" in refusal


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "missing.ckpt")
    assert "no such file" in _refusal(tmp_path)


JUNK = {
    "empty": b"",
    "text": b"hello",
    "cut number": b"junk",
    "numbers": bytes(range(256)) * 10,
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
}


@pytest.mark.parametrize("junk", JUNK)
def test_damaged_files(tmp_path: Path, junk: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(JUNK[junk])
    refusal = _refusal(path)
    assert "damaged or no checkpoint" in refusal
    assert "\n" not in refusal


def test_cut_files(tmp_path: Path) -> None:
    path = _saved(tmp_path, _network().state_dict())
    whole = path.read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged or no checkpoint" in _refusal(path)


def test_one_flipped_bit_of_a_weight(tmp_path: Path) -> None:
    """torch.load takes it for another number; the checksum tells."""
    network = _network()
    path = _saved(tmp_path, network.state_dict())
    flip_bit(path, network[0].weight)
    assert not torch.equal(torch.load(path, weights_only=True)["0.weight"], network[0].weight)
    assert "damaged or no checkpoint" in _refusal(path)


def test_archives_that_unpack_to_more_than_they_are(tmp_path: Path) -> None:
    """A megabyte of zeros in a kilobyte; a gigabyte is refused as fast."""
    path = _saved(tmp_path, {"0.weight": torch.zeros(2**18)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 2**13
    assert "it unpacks to 10" in _refusal(path)


@pytest.mark.parametrize("tensor", [torch.zeros(1).expand(2**50), torch.eye(3).to_sparse()])
def test_tensors_that_do_not_hold_their_numbers(tmp_path: Path, tensor: torch.Tensor) -> None:
    refusal = _refusal(_saved(tmp_path, {"0.weight": tensor}))
    assert "says '0.weight' is of shape" in refusal
    assert "does not hold all its numbers" in refusal


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_networks_are_not_executed(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    torch.save(_network(), path, _use_new_zipfile_serialization=zipped)
    refusal = _refusal(path)
    assert "pickled Python objects" in refusal
    assert "save model.state_dict()" in refusal


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)], torch.zeros(2), {"state_dict": [{}, {}]}])
def test_files_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    assert "holds no state dict" in _refusal(_saved(tmp_path, content))


def test_description_alone(tmp_path: Path) -> None:
    """Data and epsilon are known before the network can be built."""
    own = _saved(tmp_path, {"state_dict": {"model.a": torch.zeros(1)}, "lipcert": {"data": "digits", "epsilon": 0.3}})
    assert read_checkpoint(own).description == {"data": "digits", "epsilon": 0.3}
    assert read_checkpoint(_saved(tmp_path, _network().state_dict(), "other.pth")).description == {}


def _trained(folder: Path, network: nn.Module | None = None, **origin: Any) -> Path:
    """Return the folder of a run with one checkpoint, as training leaves it."""
    module = classifier(description={"data": "digits"})
    module.origin = replace(module.origin, **origin)
    content: dict[str, Any] = {}
    module.on_save_checkpoint(content)
    tensors = (network or module.model).state_dict()
    content["state_dict"] = {f"model.{name}": tensor for name, tensor in tensors.items()}
    (folder / "checkpoints").mkdir(exist_ok=True)
    _saved(folder, content, "checkpoints/last.ckpt")
    return folder


def test_load(tmp_path: Path) -> None:
    """A run, its checkpoint, and that of an earlier version, which says nothing of its images."""
    images = torch.rand(3, *IMAGE)
    named = {"name": "small", "activation": "maxmin", "width": 0.5, "threshold": None}
    network = build("small", IMAGE, 10, "maxmin", width=0.5).eval()
    run = _trained(tmp_path, network, builder="lipcert.nn.build", arguments=named)
    # what the description says of model and activation is the same in a real run
    for path in (run, run / "checkpoints" / "last.ckpt"):
        loaded = lipcert.load(path)
        assert not loaded.training
        assert torch.equal(loaded(images), network(images))
    earlier = _saved(tmp_path, _network().state_dict())
    assert torch.equal(lipcert.load(earlier)(images), _network()(images))
    with pytest.raises(ValueError, match="does not say for which images"):
        lipcert.load(_saved(tmp_path, {"0.weight": torch.zeros(3, 7), "0.bias": torch.zeros(3)}))


def test_load_calls_nobodys_code_unasked(own: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10)).eval()
    builder = "my_networks_of_a_test:network"
    sys.modules.pop("my_networks_of_a_test", None)
    run = _trained(own, network, builder=builder)
    with pytest.raises(ValueError, match=f"name it: builder={builder}"):
        lipcert.load(run)
    assert "my_networks_of_a_test" not in sys.modules
    images = torch.rand(3, *IMAGE)
    for named in (builder, "my_networks_of_a_test.network"):
        assert torch.equal(lipcert.load(run, named)(images), network(images))
    _trained(own, network, builder=builder, arguments={"unit": {"_target_": "os.system", "command": "touch here"}})
    with pytest.raises(ValueError, match="is code that may do anything"):
        lipcert.load(run, builder)
    assert not Path("here").exists()


@pytest.mark.parametrize(
    "said", [{"image_shape": "x", "num_classes": 3}, {"image_shape": [1, -8, 8], "num_classes": 3}, 7]
)
def test_origins_that_are_none(tmp_path: Path, said: Any) -> None:
    content = {"state_dict": {"model.a": torch.zeros(1)}, "lipcert": {}, "network": said}
    assert "says nothing sensible of its network" in _refusal(_saved(tmp_path, content))
