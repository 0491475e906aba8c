"""Modules with a `forward` of their own: what comes in computes the same, what cannot is refused by its node."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision import transforms

import lipcert
from lipcert.graph import Clamp, UnsupportedLayerError, register_activation
from lipcert.graph.activations import MAKERS
from lipcert.nn import LayerGraph, MaxMin
from lipcert.nn.integrity import REGISTERED

SHAPE = (1, 6, 6)


class _Net(nn.Module):
    """A forward that is a function of the module and its images."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(144, 5)
        self.act, self.drop, self.maxmin = nn.ReLU(inplace=True), nn.Dropout(), MaxMin()
        self.matrix, self.calls = nn.Parameter(torch.randn(144, 144) / 12), 0
        self.register_buffer("mean", torch.tensor([[[0.4]]]))
        self.register_buffer("count", torch.zeros(()))
        self.norm.running_mean.uniform_(-0.3, 0.3)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> Any:
        return self.function(self, images)


def _residual(net: _Net, images: Tensor) -> Tensor:
    hidden = net.norm(net.conv((images - net.mean) / 0.3))
    hidden = hidden + net.act(hidden.clone())
    hidden += net.maxmin(hidden)
    return net.last(net.drop(torch.flatten(F.relu(hidden), 1)))


def _arithmetic(net: _Net, images: Tensor) -> Tensor:
    hidden = 1 - net.conv(2 * images / 0.7).permute(0, 2, 3, 1).reshape(images.shape[0], -1)
    return torch.matmul((hidden - torch.linspace(0, 1, 144)).relu(), net.matrix) @ net.last.weight.T + net.last.bias


def _pooled(net: _Net, images: Tensor) -> Tensor:
    hidden = F.conv2d(images, net.conv.weight, net.conv.bias, stride=(2, 1), padding=(1, 2))
    hidden = F.batch_norm(hidden, net.norm.running_mean, net.norm.running_var, net.norm.weight, net.norm.bias)
    hidden = F.avg_pool2d(F.relu(hidden), 2, stride=1, padding=1, count_include_pad=False)
    hidden = F.dropout(hidden, 0.5, net.training).float()
    whole = F.adaptive_avg_pool2d(hidden, 1).squeeze(-1).squeeze(-1) - hidden.mean((2, 3)) * 3
    return whole + F.adaptive_avg_pool2d(hidden, (2, 1)).flatten(2).mean(-1)


def _in_place(net: _Net, images: Tensor) -> Tensor:
    hidden = net.conv(images)
    double = 2 * hidden
    hidden.relu_()
    return net.last((hidden + double).view(-1, 144))


def _sorted_pairs(net: _Net, images: Tensor) -> Tensor:
    hidden = net.conv(images)
    pairs = hidden.view(len(images), 2, 2, 6, 6).sort(dim=2)[0].view_as(hidden)
    first, second = (pairs - 0.1).chunk(2, dim=1)
    halves = torch.cat([torch.minimum(first, second), torch.max(second, first)], dim=1)
    halves = torch.cat([halves[:, 1:3], halves[:, :1] - 1, halves[:, 3:]], dim=1)
    return net.last(halves.flatten(1).unflatten(1, (2, 72)).sort(dim=1, descending=True).values.flatten(1))


def _adjacent_pairs(net: _Net, images: Tensor) -> Tensor:
    hidden = net.conv(images)
    even, odd = hidden[:, ::2], hidden[:, 1::2]
    hidden = torch.stack([torch.minimum(even, odd), torch.maximum(even, odd)], dim=2).flatten(1, 2) - 0.1
    pairs = hidden.unflatten(1, (2, 2))
    hidden = torch.cat([pairs.amax(2), pairs.amin(2)], dim=1) + 0.2
    rows = hidden.view(-1, 4, 2, 3, 6)
    hidden = torch.cat([rows.max(dim=2, keepdim=True).values, rows.min(dim=2, keepdim=True)[0]], dim=2).flatten(1)
    twos = (hidden * 2).view(-1, 72, 2)
    flat = torch.stack((twos.amin(-1), twos.amax(-1)), -1).flatten(1)
    first, second = flat[:, :72], flat[:, 72:]
    return net.last(torch.cat((F.relu(first - second) + second, first - F.relu(first - second)), 1))


WHOLE = (_residual, _arithmetic, _pooled, _in_place, _sorted_pairs, _adjacent_pairs)


@pytest.mark.parametrize("function", WHOLE, ids=lambda each: each.__name__)
@torch.no_grad()
def test_what_comes_in_computes_the_same_and_is_certified(function: Callable[[Any, Tensor], Tensor]) -> None:
    net = _Net(function).eval()
    images = torch.rand(6, *SHAPE)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph = lipcert.from_torch(net, SHAPE)
    assert isinstance(graph, LayerGraph)
    logits = net(images)
    torch.testing.assert_close(graph(images), logits, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    weights = {id(each) for each in net.parameters()}
    assert {id(each) for each in graph.parameters() if each.requires_grad} <= weights  # shared, so that they train
    epsilon, labels = 0.02, logits.argmax(dim=1)
    directions = torch.randn(40, *images.shape, generator=torch.Generator().manual_seed(1))
    points = images + epsilon * directions / directions.flatten(2).norm(dim=2).view(40, -1, 1, 1, 1)
    reached = net(points.flatten(0, 1)).view(40, 6, -1)
    lipschitz = lipcert.local_lipschitz(net, images, epsilon)
    assert bool(((reached - logits).norm(dim=2).amax(dim=0) <= epsilon * lipschitz * (1 + 1e-4)).all())
    assert lipcert.global_lipschitz(net, SHAPE) >= float(lipschitz.max()) * (1 - 1e-6)
    certificate = lipcert.certify(net, images, labels, epsilon, "tight")
    own = reached.gather(2, labels.expand(40, 6).unsqueeze(2))
    rivals = (own - reached).scatter(2, labels.expand(40, 6).unsqueeze(2), torch.inf).amin(dim=(0, 2))
    assert bool((certificate.margin <= rivals).all())


class _Clipped(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.clamp_min(-0.25).clamp_max(0.25)


def test_a_registered_layer_is_taken_as_a_whole() -> None:
    net = _Net(lambda net, images: net.last(net.clipped(net.conv(images)).flatten(1))).eval()
    net.clipped = _Clipped().eval()
    assert list(lipcert.from_torch(net, SHAPE)._modules)[1:3] == ["clipped_clamp_min", "clipped_clamp_max"]
    try:
        register_activation(_Clipped, lambda layer, shape: Clamp(-0.25, 0.25))
        assert lipcert.from_torch(net, SHAPE).get_submodule("clipped") is net.clipped
        assert lipcert.global_lipschitz(nn.Sequential(net, nn.ReLU()), SHAPE) > 0
    finally:
        MAKERS.pop(_Clipped)
        REGISTERED.discard(_Clipped)


def test_a_transform_before_a_network() -> None:
    net = nn.Sequential(transforms.Normalize([0.4], [0.3]), _Net(_pooled)).eval()
    graph, images = lipcert.from_torch(net, SHAPE), torch.rand(3, *SHAPE)
    assert graph.get_submodule("0") is net[0]
    assert "forward" not in vars(net[0])
    assert torch.equal(graph.get_submodule("0")(images), (images - 0.4) / 0.3)


def _random_weight(net: _Net, images: Tensor) -> Tensor:
    return net.last(net.conv(images).flatten(1)) + torch.rand(5)


def _python_random(net: _Net, images: Tensor) -> Tensor:
    return net.last(net.conv(images).flatten(1)) * random.random()


def _branch(net: _Net, images: Tensor) -> Tensor:
    hidden = net.conv(images)
    return net.last((hidden if hidden.sum() > 0 else -hidden).flatten(1))


def _counts(net: _Net, images: Tensor) -> Tensor:
    net.calls += 1
    return net.last(net.conv(images).flatten(1)) * net.calls


def _writes_buffer(net: _Net, images: Tensor) -> Tensor:
    net.count += 1
    return net.last(net.conv(images).flatten(1)) * net.count


def _writes_images(net: _Net, images: Tensor) -> Tensor:
    return net.last(net.conv(images.mul_(2)).flatten(1))


def _overwrites(net: _Net, images: Tensor) -> Tensor:
    hidden = net.conv(images)
    flat = hidden.view(-1, 144)
    return net.last(net.act(hidden).flatten(1) + flat)


def _item(net: _Net, images: Tensor) -> Tensor:
    return net.last(net.conv(images).flatten(1)) * images.amax().item()


def _other_weight(net: _Net, images: Tensor) -> Tensor:
    return torch.func.functional_call(net.conv, {"weight": 2 * net.conv.weight}, images).flatten(1)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "other weight": (_other_weight, r"Node 'conv' \(Conv2d\): it is not applied to one value, with its own weights"),
    "maxima of three": (
        lambda net, x: net.conv(x).view(-1, 4, 12, 3).amax(3).flatten(1),
        r"Node 'amax' \(extreme\): only along dimensions of two entries",
    ),
    "a maximum alone": (
        lambda net, x: net.conv(x).view(-1, 2, 2, 36).amax(2).relu().flatten(1),
        r"Node 'relu' \(relu\): this operation of torch is no layer",
    ),
    "extremes of two values": (
        lambda net, x: net.last(
            torch.cat(
                [net.conv(x).view(-1, 2, 2, 36).amax(2), net.norm(net.conv(x)).view(-1, 2, 2, 36).amin(2)], 1
            ).flatten(1)
        ),
        r"Node 'cat' \(concatenation\): only",
    ),
    "longer sorts": (lambda net, x: net.last(net.conv(x).sort(dim=1)[0].flatten(1)), r"Node 'sort' \(sort\): only"),
    "maximum alone": (lambda net, x: torch.max(*net.conv(x).chunk(2, dim=1)).flatten(1), "Node 'flatten'"),
    "other maximum": (lambda net, x: torch.max(net.conv(x), 2 * net.conv(x)).flatten(1), "Node 'max_1'.*halves of a"),
    "random": (_random_weight, r"Node 'rand' \(rand\): it draws random numbers"),
    "random of python": (_python_random, "draws random numbers"),
    "branch": (_branch, r"Layer 'model' \(_Net\), line \d+ of \S+ cannot be followed \(.*not branch"),
    "state": (_counts, "Layer 'model' changes its `calls`"),
    "buffer": (_writes_buffer, "Node 'add_'.*it writes into 'b_count'"),
    "images": (_writes_images, "Node 'mul_'.*it writes into 'images'"),
    "memory": (_overwrites, "Node 'relu_'.*it writes into memory that 'view' shares"),
    "number": (_item, r"Node '(amax|item)"),
    "batch": (lambda net, images: net.last((images - images.mean(0)).flatten(1).repeat(1, 4)), "Node 'mean'.*mixes"),
    "product": (lambda net, images: net.last((net.conv(images) * images).flatten(1)), "Node 'mul'.*two values"),
    "dropout": (lambda net, x: net.last(F.dropout(net.conv(x)).flatten(1)), "Node 'dropout'.*random in train mode"),
    "softmax": (lambda net, images: net.last(net.conv(images).flatten(1)).softmax(1), "Node 'softmax'.*is no layer"),
    "several outputs": (lambda net, images: (net.last(net.conv(images).flatten(1)), images), "Node 'output'"),
    "shape": (
        lambda net, images: net.last(images),
        r"line \d+ of \S+ cannot be followed .*must take images \(B, 1, 6, 6\)",
    ),
    "other matrix": (lambda net, images: net.act(net.conv(images) @ images).flatten(1), "Node 'matmul'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_name_of_the_node(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, sentence = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=sentence):
        lipcert.from_torch(_Net(function).eval(), SHAPE)


def test_layers_are_refused_as_those_of_a_tree_are() -> None:
    def refused(change: Callable[[_Net], object], sentence: str, kind: type[Exception] = UnsupportedLayerError) -> None:
        net = _Net(_residual).eval()
        change(net)
        with pytest.raises(kind, match=sentence):
            lipcert.certify(net, torch.rand(1, *SHAPE), torch.zeros(1, dtype=torch.long), 0.1)

    refused(lambda net: net.train(), r"Layer 'model' \(_Net\) is in train mode")
    refused(lambda net: net.drop.train(), r"Layer 'drop' \(Dropout\) is in train mode")
    refused(lambda net: net.norm.train(), r"Layer 'norm' \(BatchNorm2d\) is in train mode")
    refused(lambda net: net.conv.register_forward_hook(lambda *_: None), r"Layer 'conv' \(Conv2d\) has a forward hook")
    refused(lambda net: net.half(), "`matrix` is in half precision", ValueError)
    refused(lambda net: weight_norm(net.last), r"Layer 'last' .* computes its `weight` at each use.*folded")
    refused(lambda net: setattr(net.act, "forward", torch.tanh), "Layer 'act'.*has a `forward` of its own")
    refused(lambda net: setattr(net, "drop", nn.Softmax(1).eval()), "Layer 'drop' is a Softmax, which has no bound")
    normed = _Net(lambda net, x: F.linear(net.conv(x).flatten(1), net.matrix / net.matrix.norm())).eval()
    with pytest.raises(UnsupportedLayerError, match=r"Node 'linalg_vector_norm'.*lipcert\.from_torch\(model"):
        lipcert.global_lipschitz(normed, SHAPE)
    assert lipcert.global_lipschitz(lipcert.from_torch(normed, SHAPE), SHAPE) > 0


def test_logits_are_compared_on_the_images_that_are_given() -> None:
    """A network whose forward knows images that no random ones are like, by something export cannot see."""
    marked = torch.full((1, *SHAPE), 0.25)

    def sly(net: _Net, images: Tensor) -> Tensor:
        known = not torch.compiler.is_exporting() and bool((images == 0.25).all())
        return net.last(net.conv(images).flatten(1)) * (2 if known else 1)

    fixed = _Net(lambda net, images: net.last(net.conv(images).view(3, -1))).eval()
    with pytest.raises(ValueError, match="does not take a batch of 4 images"):
        lipcert.from_torch(fixed, SHAPE)
    net = _Net(sly).eval()
    lipcert.from_torch(net, SHAPE)
    with pytest.raises(ValueError, match="yields logits that differ by"):
        lipcert.from_torch(net, SHAPE, marked)
