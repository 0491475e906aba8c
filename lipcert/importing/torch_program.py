"""Networks with a `forward` of their own, as layers: what `torch.export` writes down of it, node by node."""

from __future__ import annotations

import random
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from lipcert.importing.aten import EXACT, RULES, Call
from lipcert.importing.comparison import refuse_difference
from lipcert.importing.drawing import Drawing, Shape, Value, unsupported
from lipcert.importing.overwriting import refuse_overwriting, written
from lipcert.importing.pairs import Extreme
from lipcert.nn import LayerGraph, UnsupportedLayerError
from lipcert.nn.integrity import has_own_forward, is_layer, refuse_altered, refuse_parametrized, refuse_unreadable
from lipcert.system.errors import first_line

BATCH = 3
"""Images in the batch that the forward is followed with."""

TRANSFORMS = "torchvision.transforms."
"""Where layers come from that keep the shape of pictures, and are taken as a whole."""

MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
"""Layers of torch that compute something else in train mode."""

CallStack = tuple[str, ...]
"""Calls of modules that an operation is made in, outermost first."""


def from_torch(model: nn.Module, image_shape: tuple[int, ...], images: Tensor | None = None) -> LayerGraph:
    """Return a network with a `forward` of its own as a graph of layers, which share its weights.

    Args:
        model: in eval mode; its forward takes images (B, *image_shape) and returns logits.
        image_shape: of one image, without the batch.
        images: (N, *image_shape), on which the graph and the network are compared, besides random ones.

    Raises:
        UnsupportedLayerError: naming the node, or the layer, that is no layer with known bounds: one that draws random
            numbers, depends on the batch or on what an image shows, changes what the network holds, ...
        ValueError: for weights in half precision, or a graph that yields other logits than the network.
    """
    return _followed(model, tuple(image_shape), images, exact=False)


def imported(model: nn.Module, image_shape: tuple[int, ...], images: Tensor | None = None) -> nn.Module:
    """Return the network itself where it is a tree of layers, else as of `from_torch`.

    What is proved of the graph holds of the network itself: it executes the same operations on the same weights.

    Raises:
        UnsupportedLayerError, ValueError: as in `from_torch`; also where weights are computed at each use.
    """
    return _followed(model, tuple(image_shape), images, exact=True) if has_own_forward(model) else model


@torch.no_grad()
def _followed(model: nn.Module, image_shape: Shape, images: Tensor | None, exact: bool) -> LayerGraph:
    refuse_altered(model.named_modules(), ())
    refuse_parametrized(model)
    refuse_unreadable(model)
    for name, module in model.named_modules():
        if module.training and (isinstance(module, MODAL) or not is_layer(type(module))):
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} ({type(module).__name__}) is in train mode; call model.eval() first."
            )
    like = _precision(model)
    with _unchanged(model):
        program = _exported(model, like.new_zeros(BATCH, *image_shape))
    graph = _Walk(model, program, Drawing(image_shape, like), exact).graph()
    with _unchanged(model):
        refuse_difference(model, graph, image_shape, like, images)
    return graph


def _precision(model: nn.Module) -> Tensor:
    """Return an empty tensor of the network's precision, on its device.

    Raises:
        ValueError: for half precision, naming the tensor.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`{name}` is in half precision or less ({tensor.dtype}), which certificates do not cover."
            )
    return next((tensor.new_empty(0) for _, tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def _exported(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Return the forward as a graph of operations.

    Raises:
        UnsupportedLayerError: with the line of the forward that cannot be followed.
    """
    try:
        with warnings.catch_warnings(), _taken_whole(model):
            warnings.simplefilter("ignore")
            return torch.export.export(model, (images,), strict=False)
    except Exception as error:  # following somebody's code may end in any of them
        raise UnsupportedLayerError(
            f"{_place(model, error)} cannot be followed ({first_line(error)}); a forward must take images "
            f"({', '.join(map(str, ('B', *images.shape[1:])))}), and not branch on pixels nor leave torch."
        ) from error


@contextmanager
def _taken_whole(model: nn.Module) -> Iterator[None]:
    """Let transforms copy their input: they look at their own numbers, which export takes for pixels."""
    transforms = [each for each in model.modules() if type(each).__module__.startswith(TRANSFORMS)]
    transforms = [each for each in transforms if "forward" not in vars(each)]
    try:
        for each in transforms:
            each.forward = torch.clone
        yield
    finally:
        for each in transforms:
            del each.forward


def _place(model: nn.Module, error: BaseException) -> str:
    """Return the innermost layer of the model that an error came through, with its line."""
    names = {id(module): name for name, module in model.named_modules()}
    found = f"The forward of {type(model).__name__}"
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            owner = names.get(id(frame.f_locals.get("self")))
            if owner is not None and not frame.f_globals.get("__name__", "").startswith("torch."):
                kind = type(frame.f_locals["self"]).__name__
                found = f"Layer {owner or 'model'!r} ({kind}), line {line} of {frame.f_code.co_name}"
        error = error.__cause__  # type: ignore[assignment]
    return found


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Refuse a network whose execution changes what it holds, or draws random numbers.

    Raises:
        UnsupportedLayerError: naming the layer and its attribute.
    """
    before, drawn = dict(_state(model)), _random_state()
    try:
        yield
    finally:
        _refuse_changed(model, before, drawn)


def _refuse_changed(model: nn.Module, before: Mapping[tuple[str, str], Any], drawn: tuple[Any, ...]) -> None:
    after = dict(_state(model))
    for key in [*after.keys() - before.keys(), *before.keys()]:
        if key not in before or key not in after or before[key] != after[key]:
            name, attribute = key
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} changes its `{attribute}` when it is executed; nothing is proved of a "
                "network that computes something else the next time."
            )
    if _random_state() != drawn:
        raise UnsupportedLayerError(
            f"The forward of {type(model).__name__} draws random numbers; nothing is proved of it."
        )


def _state(model: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield what every layer holds, by its name and the attribute's, in values that can be compared."""
    for name, module in model.named_modules():
        for key, value in {**vars(module), **module._parameters, **module._buffers}.items():
            yield (name, key), _comparable(value)


def _comparable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), [_comparable(each) for each in value]
    if isinstance(value, dict):
        return type(value), [(key, _comparable(each)) for key, each in value.items()]
    return value if isinstance(value, int | float | str | bytes) else id(value)


def _random_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), torch.get_rng_state().numpy().tobytes(), kind, np.asarray(keys).tobytes(), *rest


@dataclass
class _Walk:
    """Turns nodes into layers.

    Attributes:
        model: whose layers are taken as a whole where their types are known.
        program: as exported.
        drawing: that layers are appended to.
        exact: refuse what is computed from weights at each use, with roundings.
    """

    model: nn.Module
    program: torch.export.ExportedProgram
    drawing: Drawing
    exact: bool

    def graph(self) -> LayerGraph:
        """Return the whole program as a graph of layers."""
        self.values: dict[fx.Node, Any] = {}
        nodes, groups = list(self.program.graph.nodes), dict[CallStack, list[fx.Node]]()
        refuse_overwriting(nodes)
        for node in nodes:
            if self._layer_of(node) is not None:
                groups.setdefault(_stack(node), []).append(node)
        for node in nodes:
            if node.op == "placeholder":
                self.values[node] = self._held(node)
            elif node.op == "output":
                return self.drawing.finished(self._output(node))
            elif node not in self.values:
                layer = self._layer_of(node)
                done = [node] if layer is None else groups[_stack(node)]
                value = self._operation(node) if layer is None else self._whole(*layer, done)
                self.values.update(dict.fromkeys(done, value))
                for target in [target for each in done for target in written(each)]:
                    self.values[target] = value  # read in its place
        raise AssertionError("torch.export yields an output")

    def _held(self, node: fx.Node) -> Any:
        signature, name = self.program.graph_signature, str(node.name)
        if name in signature.inputs_to_parameters:
            return self.model.get_parameter(signature.inputs_to_parameters[name])
        if name in signature.inputs_to_buffers:
            return self.model.get_buffer(signature.inputs_to_buffers[name])
        if name in signature.inputs_to_lifted_tensor_constants:
            return self.program.constants[signature.inputs_to_lifted_tensor_constants[name]]
        return self.drawing.image

    def _layer_of(self, node: fx.Node) -> tuple[str, nn.Module] | None:
        """Return the innermost layer that a node belongs to, with its name, where it is taken as a whole."""
        stack = node.meta.get("nn_module_stack")
        if node.op != "call_function" or not stack:
            return None
        path = list(stack.values())[-1][0]
        module = self.model.get_submodule(path)
        return (path, module) if is_layer(type(module)) and not any(module.children()) else None

    def _whole(self, path: str, layer: nn.Module, nodes: list[fx.Node]) -> Value:
        """Append a layer for all nodes of one call of it and return what it yields."""
        outside = {each for node in nodes for each in node.all_input_nodes} - set(nodes)
        outputs = [node for node in nodes if any(user not in nodes for user in node.users)]
        own = {id(tensor) for tensor in (*layer.parameters(), *layer.buffers())}
        sources = {self.values[each] for each in outside if not isinstance(self.values[each], Tensor)}
        held = all(id(self.values[each]) in own for each in outside if isinstance(self.values[each], Tensor))
        if len(sources) != 1 or len(outputs) != 1 or not held or not isinstance(next(iter(sources)), Value):
            raise unsupported(path, type(layer).__name__, "it is not applied to one value, with its own weights alone.")
        value = self.drawing.apply(path, layer, sources.pop(), kept=True)
        self._check_shape(outputs[0], value)
        return value

    def _operation(self, node: fx.Node) -> Any:
        """Return what an operation yields: a value, a constant, or several."""
        place = ".".join([*[each for each in [_path(node)] if each], str(node.name)])
        if node.op != "call_function":
            raise unsupported(place, node.op, "it is no operation of torch.")
        arguments, kinds = self._read(node.args), self._read(node.kwargs)
        if not isinstance(node.target, torch._ops.OpOverload):
            return node.target(*arguments, **kinds)  # type: ignore[operator]  # parts of what another yields
        name = node.target.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise unsupported(place, name, "it draws random numbers; nothing is proved of it.")
        if not any(isinstance(self.values[each], Value | Extreme | tuple) for each in node.all_input_nodes):
            if self.exact and node.all_input_nodes and name not in EXACT:
                raise unsupported(
                    place, name, "it computes weights at each use, with roundings that no bound covers; certify and "
                    "use lipcert.from_torch(model, image_shape), which stores them.",
                )  # fmt: skip
            return node.target(*arguments, **kinds)
        rule = RULES.get(name.removesuffix("_"))
        alone = name != "cat" and any(isinstance(self.values[each], Extreme) for each in node.all_input_nodes)
        if rule is None or alone:
            raise unsupported(place, name, "this operation of torch is no layer with known bounds.")
        schema = node.target._schema.arguments
        given = {each.name: each.default_value for each in schema}
        given |= dict(zip((each.name for each in schema), arguments, strict=False)) | kinds
        found = node.meta["val"]
        first = found[0] if isinstance(found, tuple | list) else found
        if not first.shape or first.shape[0] != BATCH:
            raise unsupported(place, name, f"it makes {tuple(first.shape)} of {BATCH} images, which mixes them.")
        result = rule(Call(self.drawing, place, tuple(first.shape[1:]), given))
        self._check_shape(node, result[0] if isinstance(result, tuple) else result)
        return result

    def _read(self, given: Any) -> Any:
        return fx.node.map_arg(given, lambda node: self.values[node])

    def _check_shape(self, node: fx.Node, value: Value) -> None:
        found = node.meta["val"]
        expected = tuple((found[0] if isinstance(found, tuple | list) else found).shape)
        if expected != (BATCH, *value.shape):
            raise unsupported(str(node.name), "layer", f"it yields {(BATCH, *value.shape)} in place of {expected}.")

    def _output(self, node: fx.Node) -> Value:
        (found,) = node.args
        outputs = [self.values.get(each) for each in found] if isinstance(found, tuple | list) else []  # type: ignore[arg-type]
        if len(outputs) != 1 or not isinstance(outputs[0], Value):
            raise unsupported("output", type(self.model).__name__, "the forward must return the logits alone.")
        return outputs[0]


def _stack(node: fx.Node) -> CallStack:
    return tuple(node.meta["nn_module_stack"])


def _path(node: fx.Node) -> str:
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""
