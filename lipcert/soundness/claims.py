"""Does a claimed Lipschitz constant hold: upper bounds, steep pairs and a verdict, of a network and layer by layer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, lipschitz_to_logits
from lipcert.certificates.certify import followed
from lipcert.certificates.float64 import FAILURE_PROBABILITY, LANCZOS_STEPS, Float64Model, executed_dtype
from lipcert.norms import UpperNorms
from lipcert.records import FailureProbability
from lipcert.soundness.parts import Part, parts_of
from lipcert.soundness.secants import Search, steepest_secant
from lipcert.system.files import write_json

NAME = "audit.json"
SEARCH = Search(starts=8, steps=50, seed=0)
BOUNDS = (Bound.GLOBAL, Bound.GLOBAL_LIPLT)
"""Bounds that hold for all images; the smaller counts."""

TOLERANCE = 1e-5
"""Share of a claim by which a pair must exceed it: weights of constant 1 are off by less once rounded to float32."""


class Verdict(StrEnum):
    """What is known of a claim."""

    HOLDS = "holds"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Finding:
    """What is known of one part of a network.

    Attributes:
        name, kind: as of `Part`.
        upper: proved upper bound of its Lipschitz constant.
        attacked: ratio of the steepest pair, as computed in float64; `lower`: what that is at least.
        claimed: the constant that is claimed, None where none is.
        verdict: None where nothing is claimed.
        scales: as of `Part`.
    """

    name: str
    kind: str
    upper: float
    attacked: float
    lower: float
    claimed: float | None
    verdict: Verdict | None
    scales: bool = False


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        network: the whole network.
        layers: its layers and blocks, in order.
        implied: nothing was claimed of the layers: their claim of 1 is what the network's claim of 1 is thought to
            follow from, and counts only as long as that is not proved.
        images: how many were executed; ties: at how many of them two logits share the largest value.
        failure_probability: of all upper bounds together.
    """

    network: Finding
    layers: tuple[Finding, ...]
    implied: bool
    images: int
    ties: int
    failure_probability: FailureProbability

    @property
    def refutations(self) -> list[str]:
        """A sentence for every claim that is refuted."""
        found = [self.network] if self.network.verdict is Verdict.REFUTED else []
        if not (self.implied and self.network.verdict is Verdict.HOLDS):
            found += [each for each in self.layers if each.verdict is Verdict.REFUTED]
        return [
            f"{f'layer {each.name!r} ({each.kind})' if each.kind != 'network' else 'the network'} moves two points "
            f"apart by {each.attacked:.6g} times their distance, claimed is {each.claimed:.6g}"
            for each in found
        ]

    @property
    def normalization(self) -> float:
        """By how much layers before any that mixes pixels enlarge distances: a normalisation with std s by 1/s."""
        return math.prod(each.upper for each in self.layers if each.scales)

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write `audit.json`, in place of an earlier one, with null for numbers that are not finite."""
        content = json.dumps({**about, "refuted": self.refutations, **asdict(self)})
        write_json(folder / NAME, json.loads(content, parse_constant=lambda constant: None))


def check_claim(name: str, value: Any) -> float:
    """Return a claimed constant.

    Raises:
        ValueError: for what is no positive finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"Expected `{name}` to be a Lipschitz constant, a number > 0 and finite, got {value!r}.")
    return float(value)


def audit(
    model: nn.Module,
    images: Tensor,
    claimed: float,
    claims: Mapping[str, float] | None = None,
    bounds: Sequence[Bound] = (Bound.GLOBAL,),
    search: Search = SEARCH,
    tolerance: float = TOLERANCE,
    failure_probability: float = FAILURE_PROBABILITY,
) -> Audit:
    """Find out whether claimed Lipschitz constants hold, in l2 and for all images.

    Args:
        model: as for `certify`; weights are taken as they are, the arithmetic as exact.
        images: (N, ...), at least one, on the device of the model: starts of the attack, and looked through for ties.
        claimed: constant of the map to the logits.
        claims: constants of layers and residual blocks, by name; when None, 1 of each where `claimed` is 1.
        bounds: some of `BOUNDS`.
        search: how hard to attack.
        tolerance: share by which a pair must exceed a claim to refute it.
        failure_probability: of the norm of one layer.

    Raises:
        UnsupportedLayerError: naming a layer without a sound rule.
        ValueError: for a claim that is no positive finite number, or is about no layer.
    """
    check_claim("claimed", claimed)
    known = {name: check_claim(f"claims.{name}", value) for name, value in (claims or {}).items()}
    implied, model = claims is None, followed(model, images)
    network = Float64Model(model, UpperNorms(failure_probability=failure_probability))
    with torch.no_grad():
        few = images[: search.starts].double()
        parts = parts_of(network.graph(few.shape[1:]), few, list(known))

    def finding(part: Part, claim: float | None) -> Finding:
        found = network if part.model is network.model else Float64Model(part.model, network.norms)
        upper = min(_upper_bound(found, part.inputs, bound) for bound in bounds)
        secant = steepest_secant(found, part.inputs, search)
        verdict = None if claim is None else _verdict(claim, upper, secant.proved, tolerance)
        return Finding(part.name, part.kind, upper, secant.ratio, secant.proved, claim, verdict, part.scales)

    whole = finding(Part("", "network", network.model, few), claimed)
    of_layers = [finding(part, known.get(part.name, 1.0 if implied and claimed == 1 else None)) for part in parts]
    norms = network.norms
    failure = FailureProbability(norms.failure_probability, norms.bounded, norms.union_failure_probability)
    return Audit(whole, tuple(of_layers), implied, len(images), count_ties(model, images), failure)


def _verdict(claim: float, upper: float, lower: float, tolerance: float) -> Verdict:
    if upper <= claim:
        return Verdict.HOLDS
    return Verdict.REFUTED if lower > claim * (1 + tolerance) else Verdict.UNDECIDED


@torch.no_grad()
def _upper_bound(network: Float64Model, inputs: Tensor, bound: Bound) -> float:
    """Return an upper bound on the Lipschitz constant of a network for all inputs of the shape of some, (B, *shape)."""
    zero = torch.zeros_like(inputs[:1])
    exact = Arithmetic.of(torch.float64, torch.float64)
    analysis = network.analyze(zero, 1.0, bound, LANCZOS_STEPS, arithmetic=exact)
    return lipschitz_to_logits(analysis, network.norms).nan_to_num(math.inf, math.inf).max().item()


@torch.no_grad()
def count_ties(model: nn.Module, images: Tensor, batch_size: int = 100) -> int:
    """Return at how many images (N, ...) two executed logits share the largest value: none of them is a prediction."""
    ties = 0
    for batch in images.to(executed_dtype(model)).split(batch_size):
        largest = model(batch).topk(2, dim=1).values
        ties += int((largest[:, 0] == largest[:, 1]).sum())
    return ties
