"""ONNX files: the same logits as in another runtime, certificates that hold, and what is refused by its node."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import lipcert
from lipcert.graph import UnsupportedLayerError

Nodes = Sequence[onnx.NodeProto]
SHAPE = (2, 6, 6)


def _array(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) / 3


def _model(
    nodes: Nodes,
    constants: dict[str, Any],
    shape: Sequence[Any] = ("n", *SHAPE),
    kind: int = TensorProto.FLOAT,
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", kind, shape), *inputs],
        [helper.make_tensor_value_info("logits", kind, ("rows", "classes"))],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=f"the_{output}", **attributes)


def _many(batch: Any) -> onnx.ModelProto:
    """Normalisation, an asymmetric convolution, a residual sum, a shape that is computed, pools, a layout."""
    nodes = [
        _node("Sub", "images mean", "shifted"),
        _node("Div", "shifted deviation", "normal"),
        _node("Conv", "normal weight bias", "conv", pads=[0, 1, 1, 2], strides=[1, 2], group=2),
        _node("BatchNormalization", "conv scale bias mean4 variance", "norm", epsilon=1e-3),
        helper.make_node("Split", ["norm"], ["left", "right"], axis=1),
        _node("Max", "left right", "larger"),
        _node("Min", "right left", "smaller"),
        _node("Concat", "larger smaller", "ordered", axis=1),
        _node("Relu", "ordered", "bent"),
        _node("Mul", "bent three", "scaled"),
        _node("Add", "scaled norm", "sum"),
        _node("Pad", "sum pads", "padded"),
        _node("AveragePool", "padded", "pooled", kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 0, 1]),
        _node("Transpose", "pooled", "last", perm=[0, 2, 3, 1]),
        _node("Shape", "last", "shape"),
        _node("Gather", "shape first", "batch"),
        _node("Unsqueeze", "batch axes", "rows"),
        _node("Concat", "rows minus", "target", axis=0),
        _node("Reshape", "last target", "flat"),
        _node("Dropout", "flat", "kept"),
        _node("MatMul", "kept matrix", "hidden"),
        _node("Add", "shift hidden", "shifted_again"),
        _node("Neg", "shifted_again", "minus_hidden"),
        _node("Max", "minus_hidden zero", "bent_again"),
        _node("Gemm", "bent_again last_weight last_bias", "head", alpha=0.5, beta=2.0, transB=1),
        _node("Sub", "one head", "flipped"),
        _node("ReduceMean", "bent", "mean_of_bent", axes=[2, 3], keepdims=0),
        _node("Gemm", "mean_of_bent small", "other"),
        _node("Sum", "flipped other other", "logits"),
    ]
    constants = {
        "mean": _array(1, 2, 1, 1),
        "deviation": np.float32([[[0.5]], [[0.25]]]),
        "weight": _array(4, 1, 3, 3),
        "bias": _array(4),
        "scale": _array(4),
        "mean4": _array(4),
        "variance": np.full(4, 0.7, np.float32),
        "three": np.float32(3),
        "pads": np.int64([0, 0, 1, 0, 0, 0, 0, 1]),
        "first": np.int64(0),
        "axes": np.int64([0]),
        "minus": np.int64([-1]),
        "matrix": _array(72, 7),
        "shift": _array(7),
        "zero": np.float32(0),
        "last_weight": _array(5, 7),
        "last_bias": _array(1, 5),
        "one": np.float32(1),
        "small": _array(4, 5),
    }
    return _model(nodes, constants, (batch, *SHAPE))


def _pairs() -> onnx.ModelProto:
    """Pairs of adjacent channels by slices and a stack, by reductions, by TopK; of halves of a vector."""
    nodes = [
        _node("Conv", "images weight", "conv", pads=[1, 1, 1, 1]),
        _node("Slice", "conv zero end one two", "even"),
        _node("Slice", "conv one end one two", "odd"),
        _node("Max", "odd even", "larger"),
        _node("Min", "even odd", "smaller"),
        _node("Unsqueeze", "larger two", "first"),
        _node("Unsqueeze", "smaller two", "second"),
        _node("Concat", "second first", "stacked", axis=2),
        _node("Reshape", "stacked channels", "sorted"),
        _node("Conv", "sorted weight2", "conv2"),
        _node("Reshape", "conv2 pairs", "apart"),
        _node("ReduceMax", "apart", "greatest", axes=[2], keepdims=0),
        _node("ReduceMin", "apart", "least", axes=[2], keepdims=0),
        _node("Concat", "greatest least", "both", axis=1),
        _node("Add", "both tenth", "moved"),
        _node("Reshape", "moved lanes", "wide"),
        _node("ReduceMin", "wide", "low", axes=[1], keepdims=1),
        _node("ReduceMax", "wide", "high", axes=[1], keepdims=1),
        _node("Concat", "low high", "ordered", axis=1),
        helper.make_node("TopK", ["ordered", "two"], ["top", "places"], axis=1, name="the_top"),
        _node("Flatten", "top", "flat"),
        _node("Gemm", "flat matrix", "logits"),
    ]
    constants = {
        "weight": _array(4, 2, 3, 3),
        "weight2": _array(4, 4, 1, 1),
        **{name: np.int64([number]) for name, number in (("zero", 0), ("one", 1), ("two", 2), ("end", 2**31))},
        "channels": np.int64([0, 4, 6, 6]),
        "pairs": np.int64([0, 2, 2, 6, 6]),
        "lanes": np.int64([0, 2, 72]),
        "tenth": np.float32(0.1),
        "matrix": _array(144, 5),
    }
    return _model(nodes, constants)


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "network.onnx"
    onnx.save(model, str(path))
    return path


def _by_runtime(path: Path, images: Tensor, each: int) -> Tensor:
    session = onnxruntime.InferenceSession(str(path))
    (name,) = [found.name for found in session.get_inputs()]
    return torch.cat([torch.from_numpy(session.run(None, {name: batch.numpy()})[0]) for batch in images.split(each)])


@pytest.mark.parametrize("batch", ["n", 1, "pairs"])
@torch.no_grad()
def test_the_logits_of_another_runtime_and_certificates_that_hold(batch: Any, tmp_path: Path) -> None:
    model, batch = (_pairs(), "n") if batch == "pairs" else (_many(batch), batch)
    path, images = _saved(model, tmp_path), torch.rand(100, *SHAPE)
    graph = lipcert.from_onnx(path, images)
    logits = graph(images)
    torch.testing.assert_close(logits, _by_runtime(path, images, 100 if batch == "n" else 1), rtol=1e-5, atol=1e-5)
    epsilon, few = 0.05, images[:4]
    directions = torch.randn(50, *few.shape, generator=torch.Generator().manual_seed(1))
    points = (few + epsilon * directions / directions.flatten(2).norm(dim=2).view(50, -1, 1, 1, 1)).flatten(0, 1)
    reached = _by_runtime(path, points, 200 if batch == "n" else 1).view(50, 4, -1)
    labels = logits[:4].argmax(dim=1)
    certificate = lipcert.certify(graph, few, labels, epsilon)
    assert bool(certificate.certified.any())
    changed = (reached.argmax(dim=2) != labels).any(dim=0)
    assert not bool((certificate.certified & changed).any())
    assert float((reached - logits[:4]).norm(dim=2).max()) <= epsilon * lipcert.global_lipschitz(graph, SHAPE)


def _external(folder: Path, location: str) -> Path:
    path = _saved(_model([_node("Conv", "images weight", "logits")], {"weight": _array(1, 2, 6, 6)}), folder)
    model = onnx.load(str(path))
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, str(path))
    (folder / "weights.bin").rename(folder.parent / "weights.bin")
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../weights.bin", "linked.bin", "absolute", "missing.bin"])
def test_data_outside_its_folder_is_not_read(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "network"
    folder.mkdir()
    path = _external(folder, str(tmp_path / "weights.bin") if location == "absolute" else location)
    (folder / "linked.bin").symlink_to(tmp_path / "weights.bin")
    kind, sentence = (FileNotFoundError, "no such file") if location == "missing.bin" else (ValueError, "outside its")
    with pytest.raises(kind, match=f"keeps 'weight' in .*{sentence}"):
        lipcert.from_onnx(path)


def test_a_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _saved(_many("n"), tmp_path).read_bytes()
    path = tmp_path / "broken.onnx"
    for content in (b"", whole[: len(whole) // 2], whole[:-3], b"\x80\x02 no model", b"\xff" * 200):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no (valid )?ONNX file"):
            lipcert.from_onnx(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        lipcert.from_onnx(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'lipcert\[onnx\]'"):
        lipcert.from_onnx(path)


def _weighted(*nodes: onnx.NodeProto, **more: Any) -> onnx.ModelProto:
    constants = {
        "weight": _array(3, 2, 6, 6),
        "matrix": _array(72, 3),
        "sizes": np.int64([-1, 72]),
        **more.pop("c", {}),
    }
    return _model(nodes, constants, **more)


def _info(name: str, *shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _branching() -> onnx.ModelProto:
    bodies = [
        helper.make_graph([helper.make_node("Identity", ["images"], [name])], name, [], [_info(name, "a", "b")])
        for name in ("first", "second")
    ]
    node = _node("If", "yes", "logits", then_branch=bodies[0], else_branch=bodies[1])
    return _weighted(node, c={"yes": np.array(True)})


def _conv(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    return _weighted(_node("Conv", "images weight", "conv"), *nodes, c=constants)


ADD = _node("Add", "conv more", "logits")
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "operator": (lambda: _conv(_node("Erf", "conv", "logits")), r"Node 'the_logits' \(Erf\): this operator"),
    "other set": (lambda: _conv(_node("Relu", "conv", "logits", domain="other")), "Node 'the_logits'.*set 'other'"),
    "random": (lambda: _conv(_node("RandomNormal", "", "more", shape=[3]), ADD), "Node 'the_more'.*draws random"),
    "branch": (_branching, r"Node 'the_logits' \(If\): it branches"),
    "two inputs": (lambda: _weighted(_node("Identity", "images", "conv"), ADD, inputs=[_info("more", 1)]), "'more'"),
    "open shape": (lambda: _weighted(_node("Relu", "images", "logits"), shape=("n", 2, "height", 6)), "is 'height'"),
    "batch": (lambda: _weighted(_node("Reshape", "images sizes", "logits"), c={"sizes": np.int64([-1, 36])}), "mixes"),
    "transposed": (lambda: _weighted(_node("Transpose", "images", "logits", perm=[1, 0, 2, 3])), "moves the batch"),
    "product": (lambda: _conv(_node("Mul", "conv conv", "logits")), "'the_logits'.*multiplies two values"),
    "zero": (lambda: _conv(_node("Div", "conv zero", "logits"), zero=np.float32(0)), "'the_logits'.*divides by 0"),
    "dropout": (
        lambda: _conv(_node("Dropout", "conv half on", "logits"), half=np.float32(0.5), on=np.array(True)),
        r"Node 'the_logits' \(Dropout\): dropout is random",
    ),
    "constant": (lambda: _weighted(_node("Identity", "weight", "logits")), "does not depend on the image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_name_of_the_node(name: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=sentence):
        lipcert.from_onnx(_saved(make(), tmp_path))


def test_half_precision_is_refused_by_its_tensor(tmp_path: Path) -> None:
    half = {"weight": _array(3, 2, 6, 6).astype(np.float16)}
    model = _model([_node("Conv", "images weight", "logits")], half, kind=TensorProto.FLOAT16)
    with pytest.raises(ValueError, match="'images' is in FLOAT16"):
        lipcert.from_onnx(_saved(model, tmp_path))
    model = _conv(_node("Cast", "half", "more", to=1), ADD, half=np.float16(0.5))
    with pytest.raises(ValueError, match="'half' is in FLOAT16"):
        lipcert.from_onnx(_saved(model, tmp_path))
