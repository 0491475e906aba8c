"""One loop over a graph: the region behind every node, and with it Lipschitz bounds up to the last activation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lipcert.bounds.activation import ActivationBounds, Bound, Near
from lipcert.bounds.linear_split import close_linear_split
from lipcert.bounds.liplt import close_global_liplt, close_liplt
from lipcert.bounds.product import Close, Closed, Demand, Entry, Plan, close_local, close_tight
from lipcert.bounds.region import (
    SMALLEST_CONSTANT,
    Region,
    Source,
    Term,
    Terms,
    added,
    image_region,
    opened,
    through_affine,
)
from lipcert.bounds.rounding import Arithmetic, Rounding, after_activation, after_steep
from lipcert.graph import (
    Activation,
    Add,
    Affine,
    Box,
    Graph,
    Image,
    LinearMap,
    Node,
    Nonlinearity,
    Operator,
    check_unchanged,
    compile_graph,
    map_of,
)
from lipcert.norms.protocol import MapKey, Norms, SideBySide


class Rule(NamedTuple):
    """How a bound closes activations.

    `close`: None for the product of global norms (BCP, GloRo), which every other bound starts from. `masks`: it masks
    norms by what varies, so that it needs boxes. `across`: it keeps linear maps of each image across activations.
    `both`: maps that do not run across activations bound the logits, too; the smaller counts.
    """

    close: Close | None
    masks: bool
    across: bool = False
    both: bool = False


RULES = {
    Bound.GLOBAL: Rule(None, masks=False),
    Bound.LOCAL: Rule(close_local, masks=True),
    Bound.TIGHT: Rule(close_tight, masks=True),
    Bound.LINEAR_SPLIT: Rule(close_linear_split, masks=True, across=True),
    Bound.LIPLT: Rule(close_liplt, masks=True, across=True, both=True),
    Bound.GLOBAL_LIPLT: Rule(close_global_liplt, masks=False, both=True),
}
"""One row a bound."""


@dataclass(frozen=True)
class Analysis:
    """What a bound knows of a batch.

    Attributes:
        graph: of the model.
        region: the open region at the logits.
        families: sets of its terms, each of which alone bounds the logits; the last one bounds the Lipschitz constant.
        activations: what is known of every activation on the way, in order.
        bound: how it was bounded.
    """

    graph: Graph
    region: Region
    families: tuple[tuple[Term, ...], ...]
    activations: tuple[ActivationBounds, ...]
    bound: Bound

    @cached_property
    def logits(self) -> Tensor:
        """Clean logits, (B, K): the region's center."""
        return self.region.center

    @property
    def global_lipschitz(self) -> Tensor:
        """Product of global norms up to the last activation, (1,), whatever the bound."""
        return torch.stack([term.source.product for term in self.region.terms.values()]).amax(dim=0)

    @property
    def lipschitz(self) -> Tensor:
        """Bound on the Lipschitz constant up to the last activation, (B,) or (1,): the paper's L(x).

        The largest when the last linear map starts from several activations.
        """
        constants = [term.source.lipschitz for term in self.families[-1]]
        return torch.stack(torch.broadcast_tensors(*constants)).amax(dim=0)


def check_epsilon(epsilon: float | Tensor, images: int | None = None, name: str = "epsilon") -> None:
    """Refuse an epsilon that no certificate can be about.

    Args:
        epsilon: l2 radius in pixels, a number or, where `images` says how many there are, one an image, (B,).
        images: B; None where one number is asked for.
        name: what the caller calls it.

    Raises:
        ValueError: unless every epsilon is positive and finite, and there are as many as images.
        TypeError: for lists and arrays.
    """
    values = torch.as_tensor(epsilon, dtype=torch.float64)
    if values.dim() and not isinstance(epsilon, Tensor):
        raise TypeError(f"Expected `{name}` as a number or a torch.Tensor, got a {type(epsilon).__name__}.")
    if values.dim() and values.shape != (images,):
        asked = "one number" if images is None else f"one number, or one an image, shape ({images},)"
        raise ValueError(f"Expected `{name}` as {asked}, got shape {tuple(values.shape)}.")
    if not bool(((values > 0) & values.isfinite()).all()):
        raise ValueError(f"Expected `{name}` > 0 and finite, got {epsilon}.")


class Propagation:
    """Carries regions of a batch through a graph; arguments as for `analyze`."""

    def __init__(
        self,
        model: nn.Module | Graph,
        images: Tensor,
        epsilon: float | Tensor,
        bound: Bound | str,
        norms: Norms,
        clip_input: bool = False,
        arithmetic: Arithmetic | None = None,
        plan: Plan | None = None,
        box_gradients: bool = True,
        boxes: bool = True,
        activation_boxes: bool = True,
        output_box: bool = False,
    ) -> None:
        self.graph = model if isinstance(model, Graph) else compile_graph(model, images.shape[1:])
        shape = self.graph.nodes[0].shape
        if tuple(images.shape[1:]) != shape:
            raise ValueError(
                f"Expected images of shape {shape}, for which the model was compiled, got {tuple(images.shape[1:])}."
            )
        if isinstance(epsilon, Tensor):
            radius = epsilon.to(images).reshape(-1)
            if len(radius) not in (1, len(images)):
                raise ValueError(f"Expected one `epsilon` or one an image, got {len(radius)} for {len(images)} images.")
        else:
            radius = torch.full((1,), epsilon, dtype=images.dtype, device=images.device)  # a copy would stop a GPU
        box = None
        if clip_input:
            reach = radius.view(-1, *(1 for _ in shape))
            box = (images - reach).clamp_min(0), (images + reach).clamp_max(1)
        self.start = image_region(images, radius, box, arithmetic)
        self.bound, self.norms, self.arithmetic = Bound(bound), norms, arithmetic
        self.rule, self.plan = RULES[self.bound], plan or Plan()
        self.box_gradients, self.activation_boxes, self.output_box = box_gradients, activation_boxes, output_box
        self.every_box = output_box or arithmetic is not None  # those that no activation asks for, too
        self.known: dict[MapKey, Tensor] = {}  # global norms that were found side by side
        self.any_box = boxes or self.every_box or self.rule.masks

    @cached_property
    def demand(self) -> Demand:
        """Which boxes and masks are asked for, where not all are."""
        return Demand(self.graph, self.plan)

    def run(self) -> Iterator[tuple[Node, Region, ActivationBounds | None]]:
        """Yield every node with the region behind it, and what is known of it where it is an activation."""
        graph = self.graph
        check_unchanged(graph)
        operators, regions = graph.operators(), dict[int, Region]()
        if isinstance(self.norms, SideBySide) and graph.activations:
            self.known = self.norms.global_norms(self._maps(operators))
        for node in graph.nodes:
            before, bounds = [regions[source] for source in node.sources], None
            box = self.every_box or (self.any_box and node.index in self.demand.boxes)
            match node:
                case Image():
                    region = self.start
                case Affine():
                    region = self._affine(before[0], operators[node.index], node, box)
                case Add():
                    region = added(before[0], before[1], box, self.arithmetic)
                case Activation():
                    region, bounds = self._activation(before[0], node, box)
            regions[node.index] = region
            for source in node.sources:
                if graph.last_use[source] == node.index:
                    regions.pop(source, None)
            yield node, region, bounds

    def _affine(self, region: Region, operator: Operator, node: Affine, box: bool) -> Region:
        norm, rounding = None, region.rounding
        if self.arithmetic is not None and rounding is not None and not bool((rounding.length == 0).all()):
            own = map_of(operator, region.center)
            if own.roundings[0]:
                key = MapKey(self.graph.key, node.sources[0], node.index, False, node.name)
                norm = self.norms.global_norm(key, own)
        skip = node.name in self.plan.boxes
        gradients = self.box_gradients if self._asks_gradients(node) else None
        return through_affine(region, operator, box, skip, gradients, self.arithmetic, norm)

    def _activation(self, region: Region, node: Activation, box_behind: bool) -> tuple[Region, ActivationBounds]:
        terms, box = region.terms, None
        if self._asks_box(node, box_behind):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self._asks_gradients(node)):
                region = region.boxed()
            box = region.interval
        keys = self._keys([term.source.index for term in terms.values()], node)
        norms = [
            self.known[key] if key in self.known else self.norms.global_norm(key, term.map)
            for key, term in zip(keys, terms.values(), strict=True)
        ]
        if node.function.lipschitz is not None:
            norms = [node.function.lipschitz * norm for norm in norms]
        source = Source(
            node.index,
            *self._image(node, region, box, box_behind),
            *self._constants([term.source for term in terms.values()], norms),
        )
        closed = Closed(source, norms)
        if self.rule.close is not None:
            merged = () if region.merged is None else region.merged.values()
            across = self._keys([term.source.index for term in merged], node, across=True)
            unmasked = node.index in self.demand.unmasked
            closed = self.rule.close(
                Entry(node, region, box, source, keys, across, norms, self.norms, self.plan, unmasked)
            )
        whole, masked = reduce(torch.add, norms), reduce(torch.add, closed.local_norms)
        rounding, ball = region.rounding, self._near(region, node.function, closed, norms)
        bounds = ActivationBounds(node, box if self.activation_boxes else None, whole, masked, closed.mask, ball)
        if rounding is not None and box is not None:
            rounding = self._rounding(node, rounding, box, terms, closed, norms)
        term = {(node.index, False): opened(closed.source, closed.mask_rows)}
        return Region(source.center, source.box, term, closed.merged, region.epsilon, rounding), bounds

    def _constants(self, sources: list[Source], norms: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return Lipschitz constants behind maps from `sources`: `lipschitz`, `box_lipschitz` and `product`.

        Bounds that mask norms put one of their own in place of the first.
        """
        product = _total([each.product for each in sources], norms)
        boxes = product
        if any(each.box_lipschitz is not each.product for each in sources):
            boxes = _total([each.box_lipschitz for each in sources], norms)
        if self.rule.masks or all(each.lipschitz is each.product for each in sources):
            return product, boxes, product
        return _total([each.lipschitz for each in sources], norms), boxes, product

    def _maps(self, operators: Mapping[int, Operator]) -> dict[MapKey, LinearMap]:
        """Return the linear maps that end at activations, from those before or the image."""
        origin, found = self.start.center.new_empty(0), dict[MapKey, LinearMap]()
        leading: dict[int, dict[int, LinearMap]] = {}  # to each node, by source
        for node in self.graph.nodes[: self.graph.activations[-1].index + 1]:
            match node:
                case Affine():
                    before = leading[node.sources[0]].items()
                    leading[node.index] = {source: each.after(operators[node.index]) for source, each in before}
                case Add():
                    first, second = (leading[source] for source in node.sources)
                    both = {source: first[source].plus(each) for source, each in second.items() if source in first}
                    leading[node.index] = first | second | both
                case Image() | Activation():
                    if isinstance(node, Activation):
                        ending = leading[node.sources[0]]
                        found |= zip(self._keys(list(ending), node), ending.values(), strict=True)
                    leading[node.index] = {node.index: LinearMap(node.shape, node.shape, origin)}
        return found

    def _keys(self, sources: Sequence[int], node: Activation, across: bool = False) -> list[MapKey]:
        """Return which linear maps those from `sources` to an activation are; `across`: across activations.

        Parts of a name behind two dots tell the maps apart: no module is called so.
        """
        several, suffix = len(sources) > 1, "..across" * across
        return [
            MapKey(self.graph.key, source, node.sources[0], across, node.name + f"..{number}" * several + suffix)
            for number, source in enumerate(sources)
        ]

    def _rounding(
        self, node: Activation, rounding: Rounding, box: Box, terms: Terms, closed: Closed, norms: list[Tensor]
    ) -> Rounding:
        """Return the rounding behind an activation; through one affine layer, masked norms bound what comes along."""
        function = node.function
        entries, masked = function.rounding(rounding.entries, *box), None
        if function.lipschitz is not None or function.operations:
            evaluated = self._evaluated(function, box)
            return after_steep(rounding, entries, function.lipschitz, evaluated, closed.source.varying)
        rows_known = function.slopes is not None or (closed.mask is None and function.needed(*box) is None)
        if self.rule.masks and closed.own and rows_known and len(terms) == 1:
            (term,) = terms.values()
            layers = sum(not operator.moves for operator in term.map.operators)
            masked = (closed.local_norms[0], norms[0]) if layers == 1 else None
        return after_activation(rounding, entries, closed.source.varying, masked, closed.mask)

    def _evaluated(self, function: Nonlinearity, box: Box) -> Tensor | None:
        """Return what rounding adds to an activation's outputs over a box, at most; None where it selects."""
        if self.arithmetic is None or not function.operations:
            return None
        size = function.magnitude(*box)
        share = self.arithmetic.gamma(size.new_full((), function.operations))
        return share * size + self.arithmetic.tiny * (1 + torch.maximum(*(end.abs() for end in box)))

    def _near(self, region: Region, function: Nonlinearity, closed: Closed, whole: list[Tensor]) -> Near | None:
        """Return where the inputs of an activation are that any varying output depends on, None where unknown.

        `whole`: norms of the terms times the activation's constant.
        """
        rounding, images = region.rounding, len(region.center)
        if rounding is None or self.arithmetic is None or not closed.own:
            return None
        norms, lipschitz = closed.local_norms, closed.source.lipschitz
        if function.lipschitz is not None:  # these are of outputs
            norms = [norm / function.lipschitz for norm in (norms if function.slopes is None else whole)]
            lipschitz = _total([term.source.lipschitz for term in region.terms.values()], norms)
        error = (self.arithmetic.analysis * rounding.length).expand(images)
        radius = (region.epsilon * lipschitz).expand(images) + error
        if len(region.terms) > 1:
            return Near(region.center, radius)
        (term,), (norm,) = region.terms.values(), norms
        return Near(region.center, radius, term, norm.expand(images), error)

    def _asks_box(self, node: Activation, box_behind: bool) -> bool:
        """Return whether anyone asks for the box before an activation."""
        if box_behind or self.activation_boxes:
            return self.any_box
        return self.rule.masks and not (self.bound is Bound.LOCAL and node.index in self.demand.unmasked)

    def _image(self, node: Activation, region: Region, box: Box | None, asked: bool) -> tuple[Tensor, Box | None]:
        """Return the center behind an activation, and the box where it is asked for.

        The latter without a graph where none is to pass it.
        """
        function = node.function
        if box is None or not asked:
            return function.apply(region.center), None
        passes = torch.is_grad_enabled() and (self.box_gradients or node.index in self.demand.margins)
        if passes and function.monotone and region.together is not None:
            center, lower, upper = function.apply(region.together).chunk(3)
            return center, (lower, upper)
        center = function.apply(region.center)
        with torch.set_grad_enabled(passes):
            return center, function.range(*box)

    def _asks_gradients(self, node: Affine | Activation) -> bool:
        """Return whether gradients are to pass the box behind a layer: the margins', or what a caller is given."""
        return self.box_gradients or self.activation_boxes or self.output_box or node.index in self.demand.margins


def _total(constants: list[Tensor], norms: list[Tensor]) -> Tensor:
    """Return the sum of constant times norm, however small."""
    products = [constant * norm for constant, norm in zip(constants, norms, strict=True)]
    total = reduce(torch.add, products)
    return total.clamp_min(SMALLEST_CONSTANT) if total.dtype == torch.float64 else total


def analyze(
    model: nn.Module | Graph,
    images: Tensor,
    epsilon: float | Tensor,
    bound: Bound | str,
    norms: Norms,
    clip_input: bool = False,
    arithmetic: Arithmetic | None = None,
    **settings: Any,
) -> Analysis:
    """Bound everything a model may do when each image moves by at most `epsilon` in l2.

    Args:
        model: its graph; a model is compiled first.
        images: (B, ...), pixels in [0, 1].
        epsilon: radius in pixels, a number or (B,); 0 only makes sense in tests.
        bound: one of `Bound`.
        norms: norm algorithm: estimates to train on, upper bounds to certify with.
        clip_input: intersect the input box with [0, 1].
        arithmetic: also bound how far the model executed in it is from the exact one; None to leave that out.
        settings: `plan`, work to skip while training (nothing by default); `box_gradients`, False lets no gradient
            flow through box propagation, see `through_affine`; `boxes`, False makes none where the bound needs none,
            so that margins are those of balls; `activation_boxes`, False keeps none for `ActivationBounds.box`, and no
            gradients but for margins; `output_box`, True makes the box of the logits, too.

    Raises:
        UnsupportedLayerError: naming a layer that has no sound bound, or was altered since it was compiled.

    Source: section 1 of the design; eqs 21-23; Theorem 1.
    """
    propagation = Propagation(model, images, epsilon, bound, norms, clip_input, arithmetic=arithmetic, **settings)
    activations, output = [], None
    for _, region, bounds in propagation.run():
        output = region
        if bounds is not None:
            activations.append(bounds)
    assert output is not None  # a graph has at least its image
    families = [output.terms if output.merged is None else output.merged]
    if propagation.rule.both and output.merged is not None:
        families.append(output.terms)
    terms = tuple(tuple(each.values()) for each in families)
    return Analysis(propagation.graph, output, terms, tuple(activations), propagation.bound)
