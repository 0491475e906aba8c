"""Operations in place: which later reads they change, so that a graph without them computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import fx

from lipcert.importing.drawing import unsupported

RETURNING = frozenset(("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "dropout1d"))
"""Operations that may return what they are given, though their schemas do not say so."""


def written(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the arguments that an operation writes into."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for number, argument in enumerate(node.target._schema.arguments):
        found = node.kwargs.get(argument.name, node.args[number] if number < len(node.args) else None)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(found, fx.Node):
            yield found


def refuse_overwriting(nodes: Sequence[fx.Node]) -> None:
    """Refuse a program that writes into what it is given, or into memory that a node before it still reads.

    What is left: an operation in place whose result is read in its place, under either name.

    Raises:
        UnsupportedLayerError: naming the node that writes.
    """
    order = {node: number for number, node in enumerate(nodes)}
    roots: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        roots[node] = roots[node.all_input_nodes[0]] if _may_alias(node) else node
    for node in nodes:
        for target in written(node):
            if str(node.target).startswith("aten.detach_"):
                continue  # which changes no number
            if roots[target].op != "call_function":
                raise unsupported(str(node.name), str(node.target), f"it writes into {roots[target].name!r}.")
            for other in nodes[: order[node]]:
                later = any(order[user] > order[node] for user in other.users)
                if roots[other] is roots[target] and other is not target and later:
                    raise unsupported(
                        str(node.name), str(node.target), f"it writes into memory that {other.name!r} shares."
                    )


def _may_alias(node: fx.Node) -> bool:
    """Return whether what a node yields may be in the memory of its first input."""
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True  # a part of what another yields
    schema = node.target._schema
    return node.target.overloadpacket.__name__ in RETURNING or any(each.alias_info for each in schema.returns)
