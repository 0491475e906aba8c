"""A network as a file of plain torch that builds it, and that file read back as data: nothing of it is executed."""

import ast
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipcert import nn as own
from lipcert.exporting import layers as plain
from lipcert.exporting.layers import sequential
from lipcert.nn import UnsupportedLayerError

HEAD = '''"""A network of plain torch for images {shape}, pixels in [0, 1], exported by lipcert.

    model = load("weights.pt")
    logits = model(images)  # (B, *{shape}) -> (B, {classes})
"""

import torch
from torch import Tensor, nn
'''

FOOT = '''

def build() -> nn.Module:
    """Return the network without its weights."""
    return {network}


def load(weights: str) -> nn.Module:
    """Return the network with the weights of a file, in eval mode."""
    model = build()
    model.load_state_dict(torch.load(weights, weights_only=True), assign=True)
    return model.eval()
'''

Arguments = Callable[[Any], dict[str, Any]]


def _named(layer: nn.Module) -> dict[str, nn.Module]:
    return {name: each for name, each in layer._modules.items() if each is not None}


OWN: dict[type[nn.Module], tuple[str, Arguments]] = {
    own.Abs: ("Abs", lambda layer: {}),
    own.ChannelPad: ("ChannelPad", lambda layer: {"before": layer.before, "after": layer.after}),
    own.ClippedMaxMin: (
        "ClippedMaxMin",
        lambda layer: {"shape": (2 * layer.max.shape[1], *layer.max.shape[2:])},
    ),
    own.ClippedReLU: ("ClippedReLU", lambda layer: {"shape": tuple(layer.threshold.shape[1:])}),
    own.ElementwiseAffine: (
        "ElementwiseAffine",
        lambda layer: {
            name: None if each is None else tuple(each.shape)
            for name, each in (("scale", layer.scale), ("shift", layer.shift))
        },
    ),
    own.GroupSort2: ("GroupSort2", lambda layer: {}),
    own.HalvesToPairs: ("HalvesToPairs", lambda layer: {}),
    own.Householder: ("Householder", lambda layer: {"channels": 2 * layer.directions.shape[1]}),
    own.LayerGraph: (
        "LayerGraph",
        lambda layer: {"layers": _named(layer), "sources": dict(zip(_named(layer), layer.sources, strict=True))},
    ),
    own.MaxMin: ("MaxMin", lambda layer: {}),
    own.Normalize: ("Normalize", lambda layer: {"mean": layer.mean.tolist(), "std": layer.std.tolist()}),
    own.PairsToHalves: ("PairsToHalves", lambda layer: {}),
    own.Permute: ("Permute", lambda layer: {"order": layer.order}),
    own.Residual: ("Residual", lambda layer: {"branch": layer.branch, "shortcut": layer.shortcut}),
    own.Sum: ("Sum", lambda layer: {}),
    nn.Sequential: ("sequential", lambda layer: {"layers": _named(layer)}),
}
"""What layers are called in `lipcert.exporting.layers`, and what they are made of there."""


TRANSFORM = ("Transform", lambda layer: {"mean": list(layer.mean), "std": list(layer.std)})
"""The same of torchvision's Normalize, v1 and v2, which is imported only where somebody uses it."""


def _transform(mean: list[float], std: list[float]) -> nn.Module:
    from torchvision.transforms import Normalize

    return Normalize(mean, std)


def _affine(scale: tuple[int, ...] | None, shift: tuple[int, ...] | None) -> nn.Module:
    constants: list[Tensor | None] = [None if each is None else torch.ones(each) for each in (scale, shift)]
    return own.ElementwiseAffine(*constants)


READ: dict[str, Callable[..., nn.Module]] = {
    **{name: kind for kind, (name, _) in OWN.items()},
    "ElementwiseAffine": _affine,
    "Transform": _transform,
    "sequential": sequential,
}
"""What these names are read back as."""


def written(model: nn.Module, image_shape: Sequence[int], num_classes: int) -> str:
    """Return the text of a file that builds a network, importing torch alone.

    Raises:
        UnsupportedLayerError: naming a layer that is neither of torch nor of lipcert.
    """
    used: set[str] = set()
    network = _expression(model, "", "    ", used)
    classes = [inspect.getsource(getattr(plain, name)) for name in sorted(used)]
    head = HEAD.format(shape=tuple(image_shape), classes=num_classes)
    return "\n\n".join([head, *classes]).rstrip("\n") + "\n" + FOOT.format(network=network)


def _expression(layer: nn.Module, name: str, indent: str, used: set[str]) -> str:
    kind = next((cls for cls in type(layer).__mro__ if cls in OWN or cls.__module__.startswith("torch.nn.")), nn.Module)
    children = _named(layer)
    if kind is nn.Sequential and list(children) == [str(number) for number in range(len(children))]:
        inner = "".join(
            f"{indent}    {_expression(each, f'{name}.{key}', indent + '    ', used)},\n"
            for key, each in children.items()
        )
        return f"nn.Sequential(\n{inner}{indent})"
    normalizes = type(layer).__module__.startswith("torchvision.transforms.") and type(layer).__name__ == "Normalize"
    if kind in OWN or normalizes:
        called, arguments = TRANSFORM if normalizes else OWN[kind]
        used.add(called)
        values = arguments(layer)
    elif kind.__module__.startswith("torch.nn.modules.") and kind is not nn.Module:
        called, values = f"nn.{kind.__name__}", dict(_arguments(layer, kind))
    else:
        raise UnsupportedLayerError(
            f"Layer {name.lstrip('.') or 'model'!r} ({type(layer).__name__}) is neither of torch nor of lipcert: no "
            "file of plain torch can build it. Export the network that uses layers of torch in its place."
        )
    said = (f"{key}={_literal(value, name, indent, used)}" for key, value in values.items())
    return f"{called}({', '.join(said)})"


def _arguments(layer: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a layer of torch that are not as by default: attributes of the same names."""
    for key, parameter in inspect.signature(kind).parameters.items():
        if key in ("device", "dtype") or not hasattr(layer, key):
            continue
        value = getattr(layer, key)
        value = value is not None if key == "bias" else value
        usual = value in (parameter.default, (parameter.default, parameter.default))
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and not usual:
            yield key, value


def _literal(value: Any, name: str, indent: str, used: set[str]) -> str:
    """Return a value as Python text; layers in it as what builds them."""
    if isinstance(value, nn.Module):
        return _expression(value, name, indent, used)
    if isinstance(value, dict):
        inner = (
            f"{indent}    {key!r}: {_literal(each, name, indent + '    ', used)},\n" for key, each in value.items()
        )
        return f"{{\n{''.join(inner)}{indent}}}"
    if isinstance(value, tuple | list):
        parts = [_literal(each, name, indent, used) for each in value]
        comma = "," if len(parts) == 1 and isinstance(value, tuple) else ""
        return f"({', '.join(parts)}{comma})" if isinstance(value, tuple) else f"[{', '.join(parts)}]"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return repr(value)


def read(text: str) -> nn.Module:
    """Return the network that a file builds, of lipcert's layers, without its weights.

    Raises:
        ValueError: for a text that `written` does not write.
    """
    try:
        functions = {each.name: each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef)}
        returned = functions["build"].body[-1]
        if not isinstance(returned, ast.Return) or returned.value is None:
            raise ValueError("`build` returns nothing")
        network = _made(returned.value)
    except (SyntaxError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise ValueError(f"it builds no network that lipcert has written ({type(error).__name__}: {error})") from error
    if not isinstance(network, nn.Module):
        raise ValueError("it builds no network")
    return network


def _made(node: ast.expr) -> Any:
    """Return the value of an expression: literals, and calls of layers by name."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="nn"), attr=name)):
            kind = getattr(nn, name)
            if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
                raise ValueError(f"nn.{name} is no layer")
            return kind(*map(_made, node.args), **{each.arg or "": _made(each.value) for each in node.keywords})
        case ast.Call(func=ast.Name(id=name)):
            return READ[name](**{each.arg or "": _made(each.value) for each in node.keywords})
        case ast.Dict(keys=keys, values=values):
            return {ast.literal_eval(key): _made(value) for key, value in zip(keys, values, strict=True) if key}
    return ast.literal_eval(node)
