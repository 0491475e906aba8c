"""The backward pass: a linear lower bound at some node becomes one at the image, node after node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.bounds.margins import support
from lipcert.crown.ball_box import Pieces, least_remainder
from lipcert.crown.lines import Interval
from lipcert.crown.state import Link, State, step_of
from lipcert.graph import Activation, Add, Affine, Clamp, Enclosed, Graph, Lines, Operator
from lipcert.norms.krylov import per_image

SAFETY = 2
"""Factor on bounds of rounding errors, for those that the bounds themselves take and for products of two."""

ERROR_SHARE, ERRORS = 1e-9, 4
"""(u + e)² <= (1 + share) u² + (1 + 1 / share) e², e the errors of centers, which no more than so many take in turn."""

NORM_SLACK = 1e-9
"""Relative room for the arithmetic of norms and of maxima over ball and box."""

ROOM = 1e-3
"""Curvatures before steps other than clamps exceed those behind by this share: of what they pass there is no box."""

STEP_OPERATIONS = 16
"""Rounded operations on the way of a coefficient through a step, at most."""

UNDERFLOW = 1e-200
"""Added to coefficients where rounding is bounded: more than products of coefficients and weights lose to underflow."""

LARGEST_CHUNK = 2**20
"""Entries of the widest layer's rows, and slopes to optimise, that are handled at a time."""


class Rows(NamedTuple):
    """Lower bounds `coefficients`·h + `constant` of quantities at the output, h the value at some node.

    `coefficients`: (R, *shape); `constant`: (R,); `image`: (R,), which image of the batch a row is about.
    `slack`: (R,), how much rounding may have raised the bounds in all. `curvature`: d, (R,), of rows at the image: the
    bound is (d / 2) |A (h - x)|² lower, see `Ball.quadratic`. `stops`: (R,), lower bounds by other means: balls on the
    way, parts.
    """

    coefficients: Tensor
    constant: Tensor
    slack: Tensor
    curvature: Tensor
    stops: Tensor
    image: Tensor

    @classmethod
    def of(cls, coefficients: Tensor, image: Tensor) -> Rows:
        """Return rows without a constant."""
        zeros = coefficients.new_zeros(len(image))
        return cls(coefficients, zeros, zeros, zeros, torch.full_like(zeros, -torch.inf), image)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Return all rows of `parts`, in order."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def of_rows(self, index: Tensor) -> Rows:
        """Return rows `index`, (N,)."""
        return Rows(*(each[index] for each in self))

    def put(self, index: Tensor, others: Rows) -> Rows:
        """Return the rows with `others` at `index`, (N,)."""
        return Rows(*(mine.index_put((index,), new) for mine, new in zip(self, others, strict=True)))

    def where(self, chosen: Tensor, other: Rows) -> Rows:
        """Return these rows where `chosen`, (R,) bool, elsewhere the other ones."""
        pairs = zip(self, other, strict=True)
        return Rows(*(torch.where(per_image(chosen, mine.dim()), mine, theirs) for mine, theirs in pairs))


def rows_at_a_time(graph: Graph) -> int:
    """Return how many rows to take through a graph at a time."""
    return max(1, LARGEST_CHUNK // max(math.prod(node.shape) for node in graph.nodes))


def substitute(
    graph: Graph, rows: Rows, state: State, at: int | None = None, found: dict[int, Found] | None = None
) -> Rows:
    """Return lower bounds at the image, given linear ones at node `at`, the output when None.

    Args:
        graph: whose activations are split, see `split_activations`.
        rows: at the node.
        state: of the graph.
        at: index of the node.
        found: takes coefficients and slopes of rows, (R, *shape), and multipliers, (R,), by the node's index.

    Raises:
        UnsupportedLayerError: for a layer that is not affine in its present mode.
    """
    at = len(graph.nodes) - 1 if at is None else at
    operators, backward = graph.operators(), _Backward(state, rows, at, found)
    for node in reversed(graph.nodes[1 : at + 1]):
        coefficients = backward.coefficients.pop(node.index, None)
        if coefficients is None:
            continue
        match node:
            case Affine():
                backward.affine(node, coefficients, operators[node.index])
            case Activation():
                backward.activation(node, coefficients)
            case Add():
                for source in node.sources:
                    backward.arrive(source, coefficients)
    nothing = rows.constant.new_zeros(len(rows.constant), *graph.image_shape)
    curvature = backward.curvatures.get(0, torch.zeros_like(rows.constant))
    return Rows(
        backward.coefficients.get(0, nothing), backward.constant, backward.slack, curvature, backward.stops, rows.image
    )


def inner(coefficients: Tensor, values: Tensor) -> Tensor:
    """Return the inner product of each row, (R,)."""
    return (coefficients * values).flatten(1).sum(dim=1)


def rounding(operations: int, coefficients: Tensor, sizes: Tensor, constant: Tensor) -> Tensor:
    """Return a bound on the errors of so many rounded operations in a row, relative to |coefficients|·sizes, (R,).

    `coefficients`, `sizes`: (R, *shape); `constant`: (R,), what products are added to.
    """
    share = SAFETY * operations * torch.finfo(constant.dtype).eps / 2
    return share * (inner(coefficients.abs() + UNDERFLOW, sizes) + constant.abs())


class Found(NamedTuple):
    """What a row had at a clamp: `coefficients` behind it, `slopes` before it, and the ball's `multiplier`, if any.

    `hidden`: what splits at the low and the high kink of each neuron may gain, (R, 2, n), where there is a ball.
    """

    coefficients: Tensor
    slopes: Tensor
    multiplier: Tensor | None = None
    hidden: Tensor | None = None


class _Backward:
    """Rows on their way: coefficients and curvatures of the nodes still to be followed, by index, and the constant."""

    def __init__(self, state: State, rows: Rows, at: int, found: dict[int, Found] | None) -> None:
        self.state, self.image, self.found = state, rows.image, found
        self.curvatures: dict[int, Tensor] = {}
        self.stops = torch.full_like(rows.constant, -torch.inf)
        self.coefficients = {at: rows.coefficients}
        self.constant, self.slack = rows.constant, rows.slack

    def _round(self, operations: int, coefficients: Tensor, sizes: Tensor) -> None:
        """Add the errors of `operations` roundings relative to |coefficients|·sizes."""
        self.slack = self.slack + rounding(operations, coefficients, sizes, self.constant)

    def arrive(self, index: int, coefficients: Tensor) -> None:
        """Add coefficients of the node `index`."""
        if index in self.coefficients:
            other = self.coefficients[index]
            if self.state.sizes is not None:
                self._round(4, other.abs() + coefficients.abs(), self.state.sizes[index][self.image])
            coefficients = other + coefficients
        self.coefficients[index] = coefficients

    def affine(self, node: Affine, coefficients: Tensor, operator: Operator) -> None:
        if self.state.sizes is not None:
            operations = operator.products()[1] + math.prod(node.shape) + 2
            self._round(operations, coefficients, self.state.sizes[node.index][self.image])
        before = operator.adjoint(coefficients)
        offset = operator.affine(before.new_zeros(1, *node.input_shape))
        self.constant = self.constant + inner(coefficients, offset)
        self.arrive(node.sources[0], before)

    def activation(self, node: Activation, coefficients: Tensor) -> None:
        source, enclosed = node.sources[0], isinstance(node.function, Enclosed)
        if node.index in self.state.balls and not enclosed:
            self.stop(node, coefficients)
        before = self._enclosed(node, coefficients) if enclosed else self._followed(node, coefficients)
        held = self.state.held.get(node.index)
        if held is not None:
            needed, center = (each[self.image] for each in held)
            before, still = before * needed, before * (1 - needed)
            self.constant = self.constant + inner(still, center)
            if self.state.sizes is not None:
                self._round(math.prod(node.shape), still, self.state.sizes[source][self.image])
        self.arrive(source, before)

    def _followed(self, node: Activation, coefficients: Tensor) -> Tensor:
        """Return what rows are before a step: its linear part, and slopes that stand in for its clamp."""
        step = step_of(node)
        passed, before = step.passed(coefficients), step.shown(self._bent(node, step.bent(coefficients)))
        if passed is None:
            return before
        if self.state.sizes is not None:
            weight = step.weight(coefficients) + passed.abs() + before.abs()
            self._round(STEP_OPERATIONS, weight, self.state.sizes[node.sources[0]][self.image])
        return passed + before

    def _enclosed(self, node: Activation, coefficients: Tensor) -> Tensor:
        """Return what rows are before an activation by its lines; curvature passes it by its Lipschitz constant."""
        function, lines = node.function, Lines(*(each[self.image] for each in self.state.lines[node.index]))
        assert isinstance(function, Enclosed)
        rises = coefficients >= 0
        intercepts = torch.where(rises, lines.lower_intercept, lines.upper_intercept)
        slopes = torch.where(rises.unsqueeze(1), lines.lower_slope, lines.upper_slope) * coefficients.unsqueeze(1)
        self.constant = self.constant + inner(coefficients, intercepts)
        shape = self.state.boxes[node.index][0].shape[1:]
        arriving = self.curvatures.pop(node.index, None)
        if arriving is not None:
            curvature = arriving * (1 + ROOM) * (1 if function.lipschitz is None else function.lipschitz**2)
            _, radius, link = self.state.balls[node.index]
            if link is None:
                self.constant = self.constant - curvature / 2 * radius[self.image].square()
            else:
                self._pass_on(link, curvature, curvature)
        if self.state.sizes is not None:
            size = self.state.sizes[node.sources[0]][self.image]
            self._round(math.prod(node.shape) + STEP_OPERATIONS, coefficients, intercepts.abs())
            self._round(slopes.shape[1] + STEP_OPERATIONS, function.gathered(slopes.abs(), shape), size)
        return function.gathered(slopes, shape)

    def _bent(self, node: Activation, coefficients: Tensor) -> Tensor:
        """Return the slopes that stand in for a row's clamps, (R, *shape); what they leave goes to the constant."""
        state, image, slopes = self.state, self.image, self.state.slopes.get(node.index)
        interval = state.interval(node)
        if slopes is None:
            lines = Lines(*(each[image] for each in interval.lines(state.otherwise(interval))))
            below = coefficients >= 0
            slopes = coefficients * torch.where(below, lines.lower_slope, lines.upper_slope)
            gaps = coefficients * torch.where(below, lines.lower_intercept, lines.upper_intercept)
        else:
            slopes = slopes * state.varies(node)[image]
            gaps = state.interval(node, image).least(coefficients, slopes)
        if state.sizes is not None:
            self._round(math.prod(node.shape) + 8, 4 * (coefficients.abs() + slopes.abs()), interval.size[image])
        multiplier = hidden = None
        if node.index not in state.balls:
            self.constant = self.constant + gaps.flatten(1).sum(dim=1)
        else:
            multiplier, hidden = self._over_ball(node, coefficients, slopes, gaps)
        if self.found is not None:
            self.found[node.index] = Found(coefficients, slopes, multiplier, hidden)
        return slopes

    def _over_ball(
        self, node: Activation, coefficients: Tensor, slopes: Tensor, gaps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Add the least value of what `slopes` leave of the clamps; return the multiplier and what is hidden.

        `gaps`: that over the box, entry by entry.
        """
        interval, image = self.state.interval(node), self.image
        center, radius, link = self.state.balls[node.index]
        step, arriving, floor = step_of(node), self.curvatures.pop(node.index, None), None
        center, radius = step.seen(center), radius * step.stretch
        if arriving is not None and not isinstance(step, Clamp):
            arriving = arriving / step.square
            floor = (1 + ROOM) * arriving * (1 if step.lipschitz is None else step.lipschitz**2)
        turn = step.turn(center)
        varies = self.state.varies(node).flatten(1)
        self.constant = self.constant + torch.where(varies[image], 0, gaps.flatten(1)).sum(dim=1)
        most = max(1, int(varies.sum(dim=1).amax()))
        order = varies.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        valid = varies.gather(1, order)
        anchor = step.clamp.apply(center)
        center, anchor = (each.flatten(1).gather(1, order) for each in (center, anchor))
        anchor = torch.where(valid, anchor, center)
        turns = turn.expand_as(interval.bends).flatten(1).gather(1, order)[image] if isinstance(turn, Tensor) else turn

        def chosen(values: Tensor) -> Tensor:
            """Return the entries of images that vary; others stand still at their centers."""
            return torch.where(valid, values.flatten(1).gather(1, order), center)[image]

        def of_rows(values: Tensor) -> Tensor:
            return torch.where(valid[image], values.flatten(1).gather(1, order[image]), 0)

        clamp = Interval(
            tuple(map(chosen, interval.points)),  # type: ignore[arg-type]
            tuple(map(chosen, interval.values)),  # type: ignore[arg-type]
            interval.bends_up,
            interval.bends_down,
        )
        anchor = anchor[image] + turns * center[image].clamp_max(0)
        pieces = Pieces(of_rows(coefficients), of_rows(slopes), center[image], anchor, clamp, arriving, turns, floor)
        box = of_rows(gaps).sum(dim=1)
        rest = least_remainder(pieces, radius[image], box, self.state.multipliers.get(node.index))
        self.constant = self.constant + rest.value
        if link is None:
            self.constant = self.constant - rest.curvature / 2 * radius[image].square()
        else:
            self._pass_on(
                link, rest.curvature * step.stretch**2, arriving if floor is None else floor * step.stretch**2
            )
        if self.state.sizes is not None:
            ends = clamp.size.square().sum(dim=1) * torch.finfo(rest.value.dtype).eps
            squares = rest.squares + radius[image].square() + ends
            curvatures = rest.curvature if arriving is None else rest.curvature + arriving
            self._round(most + 8, curvatures.unsqueeze(1), squares.unsqueeze(1))
        if self.found is None:
            return rest.multiplier, None
        hidden = pieces.hidden(rest.multiplier)
        places = order[image].unsqueeze(1).expand_as(hidden)
        return rest.multiplier, hidden.new_zeros(*hidden.shape[:2], varies.shape[1]).scatter(2, places, hidden)

    def _pass_on(self, link: Link, curvature: Tensor, arriving: Tensor | None) -> None:
        """Take (d / 2) |z - c|² on to the node that a link leads to."""
        origin, norm, error = link
        passed = curvature * norm[self.image].square() * (1 + ERROR_SHARE) ** 2  # for errors on both sides of the link
        self.curvatures[origin] = self.curvatures[origin] + passed if origin in self.curvatures else passed
        errors = (1 + 1 / ERROR_SHARE) * (ERRORS * error[self.image]).square()
        self.constant = self.constant - (curvature if arriving is None else curvature + 2 * arriving) / 2 * errors

    def stop(self, node: Activation, coefficients: Tensor) -> None:
        """Bound rows at the output of a step by the ball around its input alone."""
        if self.state.sizes is None or self.state.varying:  # a part's box may leave out the center
            return
        if self.coefficients:  # of other nodes; where there are none, no curvature is on its way to these either
            return
        near, interval, image = self.state.balls[node.index], self.state.interval(node), self.image
        values = node.function.apply(near.center)[image]
        directions, radius, lower, upper = coefficients.flatten(1), near.radius[image], None, None
        if node.function.lipschitz is not None:
            radius = radius * node.function.lipschitz
        if isinstance(node.function, Clamp):
            directions = directions * interval.varies[image].flatten(1)
            lower, upper = ((end[image] - values).flatten(1) for end in interval.values[:2])
        fall = support(-directions.unsqueeze(1), radius, lower, upper)[:, 0] * (1 + NORM_SLACK)
        bend = self.curvatures.get(node.index, 0) / 2 * radius.square()
        slack = rounding(math.prod(node.shape) + SAFETY, coefficients, values.abs(), self.constant)
        value = self.constant + inner(coefficients, values) - fall - bend * (1 + NORM_SLACK) - self.slack - slack
        self.stops = torch.where(value > self.stops, value, self.stops)
