"""What a graph refuses: layers without a rule, layers that may compute something else than their type says."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lipcert.graph.activations import MAKERS
from lipcert.graph.errors import UnsupportedLayerError
from lipcert.graph.layers import operator
from lipcert.nn import Residual, integrity

CONTAINERS = (nn.Sequential, Residual)
"""Layers that are made of layers."""


def supported_types() -> frozenset[type[nn.Module]]:
    """Return the classes of layers that have bounds."""
    affine = (kind for kind in operator.registry if kind is not object)
    return frozenset((*CONTAINERS, *affine, *MAKERS))


def unsupported(layer: nn.Module, name: str) -> UnsupportedLayerError:
    """Return the error for a layer of a class without bounds."""
    names = ", ".join(sorted({kind.__name__ for kind in supported_types()}))
    return UnsupportedLayerError(
        f"Layer {name or 'model'!r} is a {type(layer).__name__}, which has no bound. Supported: {names}."
    )


def refuse_inplace(layer: Residual, name: str) -> None:
    """Refuse a residual block in which an activation works in place.

    Raises:
        UnsupportedLayerError: naming the block.
    """
    if any(getattr(module, "inplace", False) for module in layer.modules()):
        raise UnsupportedLayerError(
            f"Layer {name!r}: an activation inside a Residual works in place and may overwrite what the "
            "shortcut reads; build it with inplace=False."
        )


def refuse_altered(layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse the first layer, of (name, layer), that may compute something else than its type says.

    Raises:
        UnsupportedLayerError: as in `lipcert.nn.integrity.refuse_altered`.
    """
    integrity.refuse_altered(layers, supported_types())
