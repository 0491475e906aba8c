"""Graphs of layers: executed as written out by hand, compiled, bounded and re-checked as residual blocks are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.graph import UnsupportedLayerError, check_unchanged, compile_graph
from lipcert.nn import ElementwiseAffine, LayerGraph, Permute, Residual, Sum
from lipcert.recheck.program import compile_program
from tests.oracles import scale_weights

IMAGE = (1, 4, 4)


def _shared() -> LayerGraph:
    """One activation that four layers read, a layer used twice, a value added to itself."""
    torch.manual_seed(0)
    again = nn.Linear(16, 16)
    layers = {
        "flat": nn.Flatten(),
        "first": again,
        "relu": nn.ReLU(),
        "left": nn.Linear(16, 16),
        "right": again,
        "sum": Sum(),
        "bent": nn.ReLU(),
        "more": Sum(),
        "twice": Sum(),
        "last": nn.Linear(16, 3),
    }
    sources = {
        "flat": [""],
        "first": ["flat"],
        "relu": ["first"],
        "left": ["relu"],
        "right": ["relu"],
        "sum": ["left", "right"],
        "bent": ["sum"],
        "more": ["bent", "relu"],
        "twice": ["more", "more"],
        "last": ["twice"],
    }
    return LayerGraph(layers, sources).double().eval()


def _by_hand(graph: LayerGraph, images: Tensor) -> Tensor:
    layer = graph.get_submodule
    relu = layer("first")(images.flatten(1)).relu()
    more = (layer("left")(relu) + layer("first")(relu)).relu() + relu
    return layer("last")(more + more)


def _points(image: Tensor, epsilon: float) -> Tensor:
    directions = torch.randn(500, *image.shape, generator=torch.Generator().manual_seed(1), dtype=image.dtype)
    return image + epsilon * directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def test_it_computes_what_its_sources_say() -> None:
    graph, images = _shared(), torch.rand(5, *IMAGE, dtype=torch.float64)
    assert torch.equal(graph(images), _by_hand(graph, images))
    program = compile_program(graph, IMAGE)
    torch.testing.assert_close(program(images)[program.output], _by_hand(graph, images))
    assert compile_graph(graph, IMAGE).last_use[3] == 8  # `relu` is read by `left`, `right` and `more`


@torch.no_grad()
def test_bounds_hold_where_layers_share_what_they_read() -> None:
    graph, image = _shared(), torch.rand(1, *IMAGE, dtype=torch.float64)
    logits = graph(image)
    label, points = logits.argmax(dim=1), _points(image[0], 0.2)
    changes = (graph(points) - logits).norm(dim=1).max() / 0.2
    for bound in ("global", "local", "tight", "linear_split", "liplt"):
        assert float(lipcert.local_lipschitz(graph, image, 0.2, bound)) >= float(changes)
    for bound in ("global", "tight"):
        margin = lipcert.certify(graph, image, label, 0.2, bound).margin
        rivals = graph(points).scatter(1, label.expand(500, 1), -torch.inf).amax(dim=1)
        assert float(margin) <= float((graph(points)[:, label[0]] - rivals).min())


def test_a_residual_network_as_a_graph_has_the_same_certificates() -> None:
    torch.manual_seed(1)
    first, branch, last = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(32, 3)
    tree = nn.Sequential(first, nn.ReLU(), Residual(nn.Sequential(branch, nn.ReLU())), nn.Flatten(), last)
    scale_weights(tree, 0.8)
    layers = {"first": first, "relu": nn.ReLU(), "conv": branch, "bend": nn.ReLU(), "keep": nn.Identity()}
    layers |= {"sum": Sum(), "flat": nn.Flatten(), "last": last}
    sources = {"first": [""], "relu": ["first"], "conv": ["relu"], "bend": ["conv"], "keep": ["relu"]}
    sources |= {"sum": ["bend", "keep"], "flat": ["sum"], "last": ["flat"]}
    graph = LayerGraph(layers, sources).eval()
    images = torch.rand(4, *IMAGE)
    labels = tree.eval()(images).argmax(dim=1)
    mine, theirs = (lipcert.certify(model, images, labels, 0.05) for model in (graph, tree))
    assert bool(theirs.certified.any())
    assert torch.equal(mine.certified, theirs.certified)
    torch.testing.assert_close(mine.margin, theirs.margin, rtol=1e-3, atol=1e-4)  # norms start at random vectors


@pytest.mark.parametrize(
    ("layers", "sources"),
    [
        ({}, {}),
        ({"a": nn.ReLU()}, {}),
        ({"a": nn.ReLU()}, {"a": ["b"]}),
        ({"a": nn.ReLU()}, {"a": ["a"]}),
        ({"a": nn.ReLU()}, {"a": ["", ""]}),
        ({"a": Sum()}, {"a": [""]}),
        ({"a": nn.ReLU(), "b": nn.ReLU()}, {"a": ["b"], "b": [""]}),
    ],
)
def test_sources_must_be_there(layers: dict[str, nn.Module], sources: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        LayerGraph(layers, sources)


def test_what_is_refused() -> None:
    wide = {"a": nn.Flatten(), "b": nn.Linear(16, 3), "sum": Sum()}
    graph = LayerGraph(wide, {"a": [""], "b": ["a"], "sum": ["a", "b"]}).eval()
    with pytest.raises(UnsupportedLayerError, match=r"Layer 'sum': its sources yield shapes \(16,\) and \(3,\)"):
        compile_graph(graph, IMAGE)
    with pytest.raises(UnsupportedLayerError, match="works in place"):
        compile_graph(LayerGraph({"a": nn.ReLU(inplace=True)}, {"a": [""]}), IMAGE)
    with pytest.raises(UnsupportedLayerError, match="Layer '0' is a Sum"):
        compile_graph(nn.Sequential(Sum()), IMAGE)
    shared = _shared()
    compiled = compile_graph(shared, IMAGE)
    shared.sources = (*shared.sources[:4], ("flat",), *shared.sources[5:])
    with pytest.raises(UnsupportedLayerError, match="has other layers than when it was compiled"):
        check_unchanged(compiled)
    for made in (lambda: ElementwiseAffine(), lambda: Permute((1, 0)), lambda: Permute((0, 1, 1))):
        with pytest.raises(ValueError, match="Expected"):
            made()
    with pytest.raises(UnsupportedLayerError, match="dimension 1, nothing else"):
        compile_graph(nn.Unflatten(2, (2, 2)), IMAGE)
    with pytest.raises(UnsupportedLayerError, match="order of 4 dimensions"):
        compile_graph(Permute((0, 2, 1)), IMAGE)
