"""What a bound is given at an activation and makes of it; products of norms that know what varies: `local`, `tight`.

`close_local` is the paper's, `close_tight` the tighter one; other bounds have files of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from lipcert.bounds.region import SMALLEST_CONSTANT, Region, Source, Terms
from lipcert.graph import Activation, Add, Affine, Box, Graph, scaling
from lipcert.nn.activations import minimum
from lipcert.norms.protocol import MapKey, Norms


@dataclass(frozen=True)
class Plan:
    """Work to skip, by name of layer; the bounds stay sound and become looser. `Plan()` skips nothing.

    Attributes:
        boxes: affine layers whose box is that of the ball alone.
        masks: activations before which the global norm stands in for local ones.
        rows: activations behind which row norms count constant inputs too (bound `tight`).
    """

    boxes: frozenset[str] = frozenset()
    masks: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()


class Demand:
    """Which boxes and masks bounds ask for in a graph, by index of node.

    Attributes:
        boxes: nodes whose boxes are asked for: masks of activations ask for those before them, margins for those of the
            last activations; each is made of the boxes before it, but behind layers whose boxes the plan skips.
        margins: nodes whose boxes reach the margins by row norms alone, so that gradients need no other boxes; all of
            them where more than one operator with several entries a row, or a sum, lies between two activations.
        unmasked: activations of which no norm before or behind asks what varies.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        output, ends = len(graph.nodes), _ends(graph)
        names = {node.index: node.name for node in graph.nodes if isinstance(node, Activation)}
        last = {index for index in names if output in ends[index]}
        boxes = set(last)
        for node in reversed(graph.nodes):
            if isinstance(node, Activation) or (node.index in boxes and node.name not in plan.boxes):
                boxes.update(node.sources)
        every = not _balls_known(graph)
        self.boxes = frozenset(boxes)
        self.margins = frozenset(
            node.index
            for node in graph.nodes
            if every or (node.index in last if isinstance(node, Activation) else ends[node.index] & last)
        )
        self.unmasked = frozenset(
            index
            for index, name in names.items()
            if plan.masks.issuperset((name, *(names[end] for end in ends[index] - {output})))
        )


def _ends(graph: Graph) -> Mapping[int, frozenset[int]]:
    """Return where each node leads by affine and sum nodes alone: to which activations; `len(nodes)`: the output."""
    found: dict[int, frozenset[int]] = dict.fromkeys(range(len(graph.nodes)), frozenset())
    found[len(graph.nodes) - 1] = frozenset({len(graph.nodes)})
    for node in reversed(graph.nodes):
        for source in node.sources:
            found[source] |= {node.index} if isinstance(node, Activation) else found[node.index]
    return found


def _balls_known(graph: Graph) -> bool:
    """Return whether at most one operator with several entries a row lies between two activations, and no sum."""
    mixing = dict.fromkeys(range(len(graph.nodes)), 0)
    for node in graph.nodes:
        if isinstance(node, Add):
            return False
        if isinstance(node, Affine):
            mixing[node.index] = mixing[node.sources[0]] + node.mixes
    return max(mixing.values()) <= 1


@dataclass(frozen=True)
class Entry:
    """An activation and the open region before it, with what global norms make of them.

    Attributes:
        node: the activation; its `function` says what it does to boxes.
        region: before it.
        box: that of the region; None where nobody asks for it.
        source: the set at the activation's output, bounded by global norms; a bound replaces what it knows better.
        keys: of the region's terms, `across`: of those across activations; `global_norms`: of the former, (1,) each,
            times the activation's Lipschitz constant.
        norms: norm algorithm.
        plan: work to skip; `unmasked`: no norm before or behind the activation asks what varies.
    """

    node: Activation
    region: Region
    box: Box | None
    source: Source
    keys: list[MapKey]
    across: list[MapKey]
    global_norms: list[Tensor]
    norms: Norms
    plan: Plan
    unmasked: bool

    @property
    def longest(self) -> Terms:
        """The terms that run across activations where there are any, else those from the last activations."""
        return self.region.terms if self.region.merged is None else self.region.merged

    def keys_of(self, terms: Terms) -> list[MapKey]:
        """Return which maps those of the terms are, the region's own or those across activations."""
        return self.keys if terms is self.region.terms else self.across

    def local_norms(self, terms: Terms, rows: Tensor | None) -> list[Tensor]:
        """Return the norms of each term's map, (B,) each, masked by `rows` and by what varies in its source.

        The activation's own slopes over the box, or its Lipschitz constant, are in them.
        """
        pairs = zip(self.keys_of(terms), terms.values(), strict=True)
        function, box = self.node.function, self.box
        if function.lipschitz is None:
            return [self.norms.local_norms(key, term.map, rows, term.source.varying) for key, term in pairs]
        gains = None if box is None or function.slopes is None else function.gains(*box)
        if gains is None:
            norms = [self.norms.local_norms(key, term.map, rows, term.source.varying) for key, term in pairs]
            return [function.lipschitz * norm for norm in norms]
        steep = scaling(self.region.shape, gains if rows is None else gains * rows, per_image=True)
        return [self.norms.local_norms(key, term.map.after(steep), None, term.source.varying) for key, term in pairs]


@dataclass(frozen=True)
class Closed:
    """What a bound makes of an activation.

    Attributes:
        source: the set at its output.
        local_norms: of the maps before the activation, those that the bound used.
        merged: further terms that run across it, None for none.
        mask: outputs that vary, where the bound made it.
        mask_rows: row norms of what follows leave out constant outputs.
        own: `local_norms` are those of the region's own terms, masked by what varies on either side.
    """

    source: Source
    local_norms: list[Tensor]
    merged: Terms | None = None
    mask: Tensor | None = None
    mask_rows: bool = False
    own: bool = True


Close = Callable[[Entry], Closed]


def constant(terms: Terms, norms: Sequence[Tensor]) -> Tensor:
    """Return the Lipschitz constant behind `terms`: the sum of source constant times norm, however small."""
    products = [term.source.lipschitz * norm for term, norm in zip(terms.values(), norms, strict=True)]
    total = reduce(torch.add, products)
    return total.clamp_min(SMALLEST_CONSTANT) if total.dtype == torch.float64 else total


def close_local(entry: Entry) -> Closed:
    """Multiply constants with local norms; balls that bound neurons keep to global norms (Theorem 1).

    As published, rows are masked for elementwise activations alone.
    """
    terms, varying = entry.region.terms, varying_outputs(entry)
    norms = capped_local_norms(entry, varying if entry.node.function.slopes is not None else None)
    source = replace(entry.source, lipschitz=constant(terms, norms), varying=varying)
    return Closed(source, norms, mask=varying)


def close_tight(entry: Entry) -> Closed:
    """Multiply constants with local norms, those of balls that bound neurons too; masks know the order of pairs."""
    mask_rows = entry.node.name not in entry.plan.rows
    varying = varying_outputs(entry, mask_rows)
    norms = capped_local_norms(entry, needed_inputs(entry, varying))
    lipschitz = constant(entry.region.terms, norms)
    source = replace(entry.source, lipschitz=lipschitz, box_lipschitz=lipschitz, varying=varying)
    return Closed(source, norms, mask=varying, mask_rows=mask_rows)


def varying_outputs(entry: Entry, mask_rows: bool = False) -> Tensor | None:
    """Return which outputs vary, (B, *shape), None for all, and where the plan skips whatever would leave them out.

    `mask_rows`: row norms would.
    """
    if entry.unmasked and not mask_rows:
        return None
    assert entry.box is not None  # the bounds that mask are given boxes
    return entry.node.function.varying(*entry.box)


def needed_inputs(entry: Entry, varying: Tensor | None) -> Tensor | None:
    """Return which inputs any varying output depends on, (B, *shape), None for all."""
    assert entry.box is not None
    return varying if entry.node.function.slopes is not None else entry.node.function.needed(*entry.box)


def capped_local_norms(entry: Entry, rows: Tensor | None) -> list[Tensor]:
    """Return local norms of the region's terms, (B,) each, never above the global ones.

    The latter alone where the plan skips masks.
    """
    terms = entry.region.terms
    if entry.node.name in entry.plan.masks and not any(term.map.per_image for term in terms.values()):
        return entry.global_norms
    images = entry.source.center.shape[0]
    pairs = zip(entry.local_norms(terms, rows), entry.global_norms, strict=True)
    return [minimum(norm, cap).expand(images) for norm, cap in pairs]
