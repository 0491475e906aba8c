"""What a model becomes: flat nodes behind their sources, named as in the model; what has no bound is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lipcert.graph import Activation, Add, Affine, Image, UnsupportedLayerError, compile_graph
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, Normalize, Residual
from tests.networks import IMAGE, NETWORKS, images, network
from tests.pairwise import pairwise

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")


def _rows(model: nn.Module, shape: Sequence[int]) -> list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    """Return the kind, name, sources and shape of every node."""
    return [(type(node).__name__, node.name, node.sources, node.shape) for node in compile_graph(model, shape).nodes]


def test_a_chain() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(8, 3)))
    assert _rows(model, (1, 4, 4)) == [
        ("Image", "", (), (1, 4, 4)),
        ("Affine", "0", (0,), (2, 2, 2)),
        ("Activation", "1", (1,), (2, 2, 2)),
        ("Affine", "2.0", (2,), (8,)),
        ("Affine", "2.1", (3,), (3,)),
    ]


def test_a_layer_that_is_the_whole_model() -> None:
    assert _rows(nn.Linear(3, 2), (3,)) == [("Image", "", (), (3,)), ("Affine", "", (0,), (2,))]


def test_residual_blocks_in_residual_blocks() -> None:
    """The branch comes first, then the shortcut; an identity shortcut is a layer, too."""
    inner = Residual(nn.Linear(4, 4), nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(3, 4), Residual(nn.Sequential(nn.ReLU(), inner)), nn.Linear(4, 2))
    assert _rows(model, (3,)) == [
        ("Image", "", (), (3,)),
        ("Affine", "0", (0,), (4,)),
        ("Activation", "1.branch.0", (1,), (4,)),
        ("Affine", "1.branch.1.branch", (2,), (4,)),
        ("Affine", "1.branch.1.shortcut", (2,), (4,)),
        ("Add", "1.branch.1", (3, 4), (4,)),
        ("Affine", "1.shortcut", (1,), (4,)),
        ("Add", "1", (5, 6), (4,)),
        ("Affine", "2", (7,), (2,)),
    ]


def test_a_layer_used_twice_is_two_nodes() -> None:
    linear, relu = nn.Linear(3, 3), nn.ReLU()
    graph = compile_graph(nn.Sequential(linear, relu, linear, relu), (3,))
    assert [node.name for node in graph.nodes] == ["", "0", "1", "2", "3"]
    assert [node.sources for node in graph.nodes] == [(), (0,), (1,), (2,), (3,)]
    assert graph.nodes[1].layer is graph.nodes[3].layer is linear


def _executed(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's output, node by node."""
    values: list[Tensor] = []
    for node in compile_graph(model, inputs.shape[1:]).nodes:
        before = [values[source] for source in node.sources]
        match node:
            case Image():
                values.append(inputs)
            case Affine() | Activation():
                values.append(node.layer(*before))
            case Add():
                values.append(before[0] + before[1])
    return values[-1]


@pairwise(name=NETWORKS, kind=KINDS)
def test_nodes_are_indexed_in_order_and_compute_what_the_model_does(name: str, kind: str) -> None:
    model = network(name, kind)
    graph = compile_graph(model, IMAGE)
    assert [node.index for node in graph.nodes] == list(range(len(graph.nodes)))
    assert all(source < node.index for node in graph.nodes for source in node.sources)
    modules = dict(model.named_modules())
    assert all(modules[node.name] is node.layer for node in graph.nodes if isinstance(node, Affine | Activation))
    assert torch.equal(_executed(model, images()), model(images()))


def test_what_is_known_of_the_graph() -> None:
    block = Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    graph = compile_graph(nn.Sequential(nn.Linear(3, 3), block, nn.ReLU(), nn.Linear(3, 2)), (3,))
    # 0 image, 1 first layer, 2 and 3 branch, 4 shortcut, 5 sum, 6 activation, 7 output
    assert [node.name for node in graph.activations] == ["1.branch.1", "2"]
    assert graph.last_use == {0: 1, 1: 4, 2: 3, 3: 5, 4: 5, 5: 6, 6: 7}
    assert list(graph.operators()) == [1, 2, 4, 7]


def test_frozen_graphs_have_keys_of_their_own() -> None:
    graph = compile_graph(nn.Linear(2, 2), (2,))
    keys = [graph.key, graph.frozen().key, graph.frozen().key, graph.key]
    assert keys[0] is keys[3] is None
    assert None not in keys[1:3]
    assert keys[1] != keys[2]


def test_operators_have_the_present_weights() -> None:
    layer = nn.Linear(2, 2, bias=False)
    graph = compile_graph(layer, (2,))
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.weight.mul_(5)
    assert graph.operators()[1].apply(torch.ones(1, 2)).tolist() == [[5.0, 5.0]]


class _OwnForward(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


class _SilentSubclass(nn.Linear):
    __firstlineno__, __static_attributes__ = 1, ()  # in every class body since Python 3.13


def _hooked() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, before, after: after * 3)
    return layer


def _pre_hooked() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_forward_pre_hook(lambda module, before: (before[0] * 3,))
    return layer


def _patched() -> nn.Module:
    layer = nn.ReLU()
    layer.forward = lambda inputs: -inputs  # type: ignore[method-assign, assignment]
    return layer


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Softsign(), "Softsign"),
        (nn.MaxPool1d(1), "MaxPool1d"),
        (nn.GroupNorm(1, 2), "standard deviation of what it is given"),
        (nn.LayerNorm(2), "standard deviation of what it is given"),
        (nn.Softplus(threshold=1.0), "threshold >= 20"),
        (nn.PReLU(3), "3 channels"),
        (nn.MaxPool2d(2), r"\(C, height, width\)"),
        (nn.Dropout(), "dropout"),
        (_OwnForward(2, 2), "forward"),
        (_hooked(), "hook"),
        (_pre_hooked(), "hook"),
        (_patched(), "forward"),
        (nn.BatchNorm1d(2), "eval"),
        (nn.ELU(), "ELU"),
        (nn.Linear(3, 2), "takes 3 inputs"),
        (nn.Conv2d(2, 2, 1), r"takes inputs \(B, 2, height, width\), got \(B, 2\)"),
        (ClippedReLU((3,)), r"thresholds of shape \(1, 3\)"),
        (ClippedMaxMin((4,)), r"thresholds of shape \(1, 2\)"),
        (nn.Sequential(nn.Linear(2, 3), MaxMin(), nn.Linear(3, 2)), "odd number"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(layer: nn.Module, words: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), layer), nn.Linear(2, 2)).double()
    with pytest.raises(UnsupportedLayerError, match=words) as error:
        compile_graph(model, (2,))
    assert "1.1" in str(error.value)


def _with(layer: nn.Module, **tensors: Tensor) -> nn.Module:
    """Return the layer with other tensors, behind the back of the numbers that say their sizes."""
    for name, tensor in tensors.items():
        held = layer._parameters if name in layer._parameters else layer._buffers
        held[name] = nn.Parameter(tensor) if held is layer._parameters else tensor
    return layer


ONES = torch.ones

MISFITS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "batch norm of fewer channels": (nn.BatchNorm2d(3), (4, 6, 6)),
    "batch norm of one channel": (nn.BatchNorm2d(1), (4, 6, 6)),
    "batch norm of more channels": (nn.BatchNorm2d(4), (1, 6, 6)),
    "batch norm without weights": (nn.BatchNorm2d(3, affine=False), (4, 6, 6)),
    "batch norm with other weights": (_with(nn.BatchNorm2d(4), weight=ONES(1)), (4, 6, 6)),
    "batch norm with another bias": (_with(nn.BatchNorm2d(4), bias=ONES(2)), (4, 6, 6)),
    "batch norm with another mean": (_with(nn.BatchNorm2d(4), running_mean=ONES(1)), (4, 6, 6)),
    "batch norm with other variances": (_with(nn.BatchNorm1d(4), running_var=ONES(5)), (4,)),
    "batch norm of features on images": (nn.BatchNorm1d(4), (4, 6, 6)),
    "batch norm of images on features": (nn.BatchNorm2d(4), (4,)),
    "batch norm of features": (nn.BatchNorm1d(3), (4,)),
    "batch norm of one feature": (nn.BatchNorm1d(1), (4,)),
    "normalisation of more channels": (Normalize([0.5] * 3, [0.5] * 3), (1, 6, 6)),
    "normalisation of fewer channels": (Normalize([0.5] * 3, [0.5] * 3), (4, 6, 6)),
    "normalisation with more means": (_with(Normalize([0.5], [0.5]), mean=ONES(4)), (1, 6, 6)),
    "a dense layer": (nn.Linear(3, 2), (4,)),
    "a dense layer with other weights": (_with(nn.Linear(4, 2), weight=ONES(2, 3)), (4,)),
    "a dense layer with more outputs": (_with(nn.Linear(4, 2), weight=ONES(3, 4)), (4,)),
    "a dense layer with fewer outputs": (_with(nn.Linear(4, 2), weight=ONES(1, 4), bias=ONES(1)), (4,)),
    "a dense layer with another bias": (_with(nn.Linear(4, 1), bias=ONES(2)), (4,)),
    "a convolution": (nn.Conv2d(3, 2, 1), (4, 6, 6)),
    "a convolution with other weights": (_with(nn.Conv2d(4, 2, 1), weight=ONES(2, 3, 1, 1)), (4, 6, 6)),
    "a convolution with more outputs": (_with(nn.Conv2d(4, 2, 1, bias=False), weight=ONES(3, 4, 1, 1)), (4, 6, 6)),
    "a convolution with a larger kernel": (_with(nn.Conv2d(4, 2, 1), weight=ONES(2, 4, 3, 3)), (4, 6, 6)),
    "a convolution with other groups": (_with(nn.Conv2d(4, 2, 1, groups=2), weight=ONES(2, 4, 1, 1)), (4, 6, 6)),
    "a convolution with another bias": (_with(nn.Conv2d(4, 2, 1), bias=ONES(1)), (4, 6, 6)),
    "a convolution larger than its input": (nn.Conv2d(4, 2, 9), (4, 6, 6)),
    "a convolution of features": (nn.Conv2d(4, 2, 1), (4,)),
    "pooling larger than its input": (nn.AvgPool2d(9), (4, 6, 6)),
    "pooling of features": (nn.AvgPool2d(2), (4,)),
    "thresholds of more channels": (ClippedReLU((4, 6, 6)), (1, 6, 6)),
    "thresholds of fewer channels": (ClippedReLU((3, 6, 6)), (4, 6, 6)),
    "thresholds of other images": (ClippedReLU((4, 5, 6)), (4, 6, 6)),
    "thresholds of more dimensions": (ClippedReLU((1, 4, 6, 6)), (4, 6, 6)),
    "thresholds of pairs": (ClippedMaxMin((4, 6, 6)), (8, 6, 6)),
    "thresholds of one half": (_with(ClippedMaxMin((4, 6, 6)), max=ONES(1, 4, 6, 6)), (4, 6, 6)),
    "an odd channel": (MaxMin(), (3, 6, 6)),
    "a sum that broadcasts": (Residual(nn.Conv2d(4, 1, 1)), (4, 6, 6)),
}


@pytest.mark.parametrize("case", MISFITS)
def test_layers_of_other_sizes_than_their_input_are_refused_by_name(case: str) -> None:
    layer, shape = MISFITS[case]
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), layer)).eval()
    with pytest.raises(UnsupportedLayerError, match=r"Layer '1\.1"):
        compile_graph(model, shape)


def test_sizes_that_broadcast_as_they_are_executed_are_followed() -> None:
    """One mean for all channels, one threshold for all pixels: bounds broadcast as the layers do."""
    threshold = _with(ClippedReLU((3, 6, 6)), threshold=ONES(1, 3, 1, 1))
    graph = compile_graph(nn.Sequential(Normalize([0.5], [0.5]), threshold), (3, 6, 6))
    assert [node.shape for node in graph.nodes] == [(3, 6, 6)] * 3


def test_subclasses_that_keep_forward_are_followed() -> None:
    assert [node.name for node in compile_graph(nn.Sequential(_SilentSubclass(2, 2)), (2,)).nodes] == ["", "0"]


def test_activations_that_work_in_place_are_refused_in_residual_blocks_alone() -> None:
    layers = nn.Linear(2, 2), nn.ReLU(inplace=True)
    compile_graph(nn.Sequential(*layers), (2,))
    with pytest.raises(UnsupportedLayerError, match=r"'0': an activation .* works in place"):
        compile_graph(nn.Sequential(Residual(nn.Sequential(*layers))), (2,))


def test_branches_of_different_shape_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), Residual(nn.Linear(72, 5)), nn.Linear(5, 2)).double()
    with pytest.raises(UnsupportedLayerError, match="branch and shortcut"):
        compile_graph(model, IMAGE)
