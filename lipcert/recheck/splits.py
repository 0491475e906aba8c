"""Branch and bound: a row that one bound leaves open, bounded on both sides of kinks.

What of a ball leads a clamped entry below its kink and what leads it above are all of the ball together. Only the
entry's interval shrinks: balls, centers and maps stay those of the whole ball.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.recheck.ascent import ascended
from lipcert.recheck.ball_box import Choice, Clamp, Relaxed
from lipcert.recheck.bends import Bends, Windows
from lipcert.recheck.substitution import Known, substituted

WHOLE, TRIED, CHOSEN = 200, 10, 40
"""Steps of ascents: for the whole ball, for both sides of kinks that are tried, and for the best ones."""

CANDIDATES = 5
"""Kinks tried for each part."""

PARTS = 64
"""Parts of a ball at most; what is open then stays open."""


class Kink(NamedTuple):
    """Of one clamped entry of the activation `target`, in its `outer` clamp or in its inner one."""

    target: int
    outer: bool
    entry: int
    place: float


class Part(NamedTuple):
    """What is known over a part of the ball, choices to go on from, and the bound reached, (1,)."""

    known: Known
    choices: Mapping[Clamp, Choice] | None
    bound: Tensor


def least_of_parts(known: Known, rows: Tensor, goal: Tensor) -> Tensor:
    """Return lower bounds over the ball of linear functions of the output, (R,), all above `goal`; else -infinity.

    Args:
        known: over the ball.
        rows: coefficients, (R, *shape of the output).
        goal: what is enough, (R,); the first row that does not get there ends the search.
    """
    least, nothing = list[Tensor](), torch.full_like(goal, -torch.inf)
    for row, enough in zip(rows.split(1), goal.split(1), strict=True):
        found = _least(known, row, enough)
        if found is None:
            return nothing
        least.append(found)
    return torch.cat(least) if least else nothing


def _least(known: Known, row: Tensor, goal: Tensor) -> Tensor | None:
    """Return the least bound of all parts, (1,), of which each is above `goal`; None where one stays open."""
    least, left = torch.full_like(goal, torch.inf), PARTS
    parts = [_better(Part(known, None, -least), row, WHOLE, goal)]
    while parts:
        part = parts.pop()
        if bool(part.bound > goal):
            least = torch.minimum(least, part.bound)
            continue
        halves = _halves(part, row, goal)
        left -= len(halves)
        if not halves or left < 0:
            return None
        parts += [_better(half, row, CHOSEN, goal) for half in halves]
    return least


def _better(part: Part, row: Tensor, steps: int, goal: Tensor) -> Part:
    """Return a part after an ascent, if it is not above the goal yet."""
    if bool(part.bound > goal):
        return part
    found, choices = ascended(part.known, part.known.derived.program.output, row, steps, goal, part.choices)
    return Part(part.known, choices, torch.maximum(found, part.bound))


def _halves(part: Part, row: Tensor, goal: Tensor) -> list[Part]:
    """Return both sides of the kink that helps most of those tried; none where nothing bends."""
    best, highest = list[Part](), -torch.inf
    for kink in _kinks(part, row):
        sides = [_better(side, row, TRIED, goal) for side in _sides(part, kink)]
        low, high = sorted(float((side.bound - goal).clamp(max=0)) for side in sides)
        if low + high / 10 > highest or not best:
            best, highest = sides, low + high / 10
    return best


def _kinks(part: Part, row: Tensor) -> list[Kink]:
    """Return the kinks that lines over the intervals miss by most, about."""
    chosen: dict[Clamp, Relaxed] = {}
    with torch.no_grad():
        substituted(part.known, part.known.derived.program.output, row, part.choices or {}, chosen)
    kinks = list[tuple[float, Kink]]()
    for target, bends in part.known.bends.items():
        if isinstance(bends, Windows):
            continue
        for outer, clamp in ((False, bends.inner), (True, bends.outer)):
            if clamp is None or clamp not in chosen:
                continue
            for place in (clamp.low, clamp.high):
                missed, entries = _missed(clamp, chosen[clamp], place).topk(min(CANDIDATES, len(place)))
                kinks += [
                    (amount, Kink(target, outer, entry, float(place[entry])))
                    for amount, entry in zip(missed.tolist(), entries.tolist(), strict=True)
                    if amount > 0
                ]
    return [kink for _, kink in sorted(kinks, reverse=True)[:CANDIDATES]]


def _missed(clamp: Clamp, relaxed: Relaxed, kink: Tensor) -> Tensor:
    """Return how far the chord of each entry passes from its kink, where its ball lets it, times its coefficient."""
    steepness = relaxed.behind[0].abs()
    reach = torch.where(clamp.near, 2 * steepness / relaxed.curvature, torch.inf)
    lower, upper = torch.maximum(clamp.lower, clamp.center - reach), torch.minimum(clamp.upper, clamp.center + reach)
    below, above = (kink - lower).clamp(min=0), (upper - kink).clamp(min=0)
    return (steepness * below * above / (below + above)).nan_to_num(0.0)


def _sides(part: Part, kink: Kink) -> list[Part]:
    """Return the parts below and above a kink."""
    bends, at, sides = part.known.bends[kink.target], torch.tensor(kink.entry), list[Part]()
    assert isinstance(bends, Bends)
    clamp = bends.inner if bends.outer is None or not kink.outer else bends.outer
    place = clamp.lower.new_tensor(kink.place)
    for cut in (
        replace(clamp, upper=clamp.upper.index_put((at,), place)),
        replace(clamp, lower=clamp.lower.index_put((at,), place)),
    ):
        choices = {(cut if key is clamp else key): choice for key, choice in (part.choices or {}).items()}
        if cut in choices:
            slopes = torch.where(cut.index == at, cut.hull, choices[cut].slopes)
            choices[cut] = replace(choices[cut], slopes=slopes)
        smaller = replace(bends, outer=cut) if kink.outer else replace(bends, inner=cut)
        known = replace(part.known, bends={**part.known.bends, kink.target: smaller})
        sides.append(Part(known, choices, part.bound))
    return sides
