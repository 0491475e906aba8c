"""The cascade: bounds from the cheapest to the tightest, each on the images that the ones before left undecided."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, check_epsilon
from lipcert.certificates.certificate import EXECUTED, Certificate
from lipcert.certificates.certifier import Certifier, check_images, check_labels, ordinary
from lipcert.certificates.float64 import FAILURE_PROBABILITY, Float64Model
from lipcert.crown import Effort, has_steps, refuted_from
from lipcert.norms import UpperNorms

WIDTH = 2e-4
"""Largest share by which bounds of a global norm differ that is left as it is: constants are products of several."""

CROWN_METHODS = ("crown", "crown-alpha")
"""How records call backward linear bounds, with the closest and with optimised slopes."""


@dataclass(frozen=True)
class Stage:
    """One bound of the cascade.

    Attributes:
        name: what records call it.
        bound: one of `Bound`.
        lanczos_steps: of a masked norm.
        within: enter only images whose radius proved so far reaches this share of epsilon.
        constant_share: the least share of constant units at which a layer's masked norm is bounded, see `Certifier`.
        effort: None for a Lipschitz bound; else that of backward linear bounds over the boxes and balls of `bound`.
    """

    name: str
    bound: Bound
    lanczos_steps: int
    within: float = 0.0
    constant_share: float = 0.0
    effort: Effort | None = None

    @property
    def method(self) -> str:
        """How records call what the stage computes: a Lipschitz bound, or backward linear bounds."""
        return str(self.bound) if self.effort is None else CROWN_METHODS[self.effort.steps > 0]


@dataclass
class Tally:
    """How many images entered a stage and were certified by it, and its seconds."""

    entered: int = 0
    certified: int = 0
    seconds: float = 0.0


STAGES = (
    Stage("global", Bound.GLOBAL, 20),
    Stage("local", Bound.LOCAL, 20, constant_share=0.02),
    Stage("tight", Bound.TIGHT, 30, constant_share=0.005),
    Stage("crown-alpha", Bound.TIGHT, 30, within=0.05, effort=Effort(steps=100, classes=32)),
)
"""Those of the default: docs/certificates.md says by which measurements."""

OTHER_STAGES = (
    Stage("tight-100", Bound.TIGHT, 100, within=0.85),
    Stage("liplt", Bound.LIPLT, 30, within=0.1),
    Stage("crown", Bound.TIGHT, 30, within=0.1, effort=Effort()),
    Stage("crown-split", Bound.TIGHT, 30, within=0.1, effort=Effort(steps=100, splits=16, refined=256)),
    Stage("crown-boxes", Bound.TIGHT, 30, within=0.1, effort=Effort(steps=100, refined=4096)),
)
"""Stages that run when they are named."""


class Cascade:
    """Certifies batches stage by stage; global norms are bounded once, `tallies` add up over batches.

    All stages hold together at the union bound over their norms, so an image keeps the best margin and the largest
    radius of any stage it went through.

    Args:
        model: any tree of supported layers, put into eval mode by the caller, or its float64 copy.
        stages: the cheapest first. Backward bounds leave networks out that have an activation without `steps`.
        failure_probability: of each norm, where the copy is made here.
        clip_input: intersect the input box with [0, 1].
        arithmetic: `executed` or `exact`, see `Certificate`.

    Raises:
        ValueError: for no stages.
    """

    def __init__(
        self,
        model: nn.Module | Float64Model,
        stages: Sequence[Stage] = STAGES,
        failure_probability: float = FAILURE_PROBABILITY,
        clip_input: bool = False,
        arithmetic: str = EXECUTED,
    ) -> None:
        if not stages:
            raise ValueError("Expected at least one stage.")
        self.stages = tuple(stages)
        self.tallies = [Tally() for _ in stages]
        self.clip_input, self.arithmetic = clip_input, arithmetic
        norms = UpperNorms(failure_probability=failure_probability, width=WIDTH)
        self._network = model if isinstance(model, Float64Model) else Float64Model(model, norms)

    @property
    def norms_bounded(self) -> int:
        """How many norms were bounded that may fail, for the union bound."""
        return self._network.norms.bounded

    def norm_brackets(self) -> dict[str, tuple[float, float]]:
        """Return (lower, upper) bounds of the global norms of the maps between activations, by the later activation."""
        return self._network.norm_brackets()

    def without_backward_bounds(self) -> Cascade:
        """Return the same with Lipschitz bounds alone, on the same norms."""
        stages = [stage for stage in self.stages if stage.effort is None]
        return Cascade(self._network, stages, clip_input=self.clip_input, arithmetic=self.arithmetic)

    def __call__(
        self, images: Tensor, labels: Tensor, epsilon: float | Tensor, refuted: Tensor | None = None
    ) -> Certificate:
        """Certify one batch, images (B, ...) and labels (B,), at `epsilon`, one number or (B,).

        `refuted`: radii, (B,), from which on there are counterexamples, so that no backward bound is tried.

        Raises:
            ValueError, TypeError, UnsupportedLayerError: as in `certify`.
        """
        best = self._certify(0, images, labels, epsilon)
        radii = torch.as_tensor(epsilon, dtype=torch.float64).cpu().expand(len(labels))
        for index, stage in enumerate(self.stages[1:], start=1):
            if bool(best.certified.all()):
                break
            share = best.radius / radii
            left = best.correct(labels) & ~best.certified & (share >= stage.within)
            if stage.effort is not None and refuted is not None:
                left &= radii < refuted
            rows = left.nonzero()[:, 0]
            rows = rows[share[rows].argsort(descending=True)]
            if len(rows) and (stage.effort is None or has_steps(self._network.graph(images.shape[1:]))):
                best = _merge(best, self._certify(index, images[rows], labels[rows], radii[rows]), rows)
        return replace(best, bound="cascade")

    def each(self, images: Tensor, labels: Tensor, epsilons: Sequence[float]) -> dict[float, Certificate]:
        """Certify one batch at several epsilons, the largest first, those of `epsilons` once each.

        An image that is certified at one epsilon keeps that certificate at all smaller ones, and a radius that was
        proved at a larger one stays proved.

        Raises:
            ValueError, TypeError, UnsupportedLayerError: as in `certify`.
        """
        for epsilon in epsilons:
            check_epsilon(epsilon)
        largest, *others = sorted(epsilons, reverse=True)
        check_images(images)
        refuted = self.refuted_from(images, labels, epsilons)
        best = self(images, labels, largest, refuted)
        found = {largest: best}
        for epsilon in others:
            rows = (~best.certified).nonzero()[:, 0]
            if len(rows):
                best = _updated(best, self(images[rows], labels[rows], epsilon, refuted[rows]), rows)
            found[epsilon] = replace(best, epsilon=epsilon)
        return {each: replace(found[each], failure_probability=best.failure_probability) for each in epsilons}

    @torch.inference_mode(False)
    def refuted_from(self, images: Tensor, labels: Tensor, epsilons: Sequence[float]) -> Tensor:
        """Return the least of `epsilons` with a counterexample to `images`, (B, ...), of `labels`, (B,), on the CPU.

        Infinity where none is found, or no stage asks for it.
        """
        graph = self._network.graph(images.shape[1:])
        (*several, classes) = graph.nodes[-1].shape
        backward = any(stage.effort is not None for stage in self.stages) and has_steps(graph)
        if len(epsilons) < 2 or several or not backward:
            return torch.full((len(labels),), torch.inf, dtype=torch.float64)
        check_labels(labels, len(images), classes)
        return refuted_from(graph, ordinary(images).double(), labels.long(), sorted(epsilons), self.clip_input).cpu()

    def _certify(self, index: int, images: Tensor, labels: Tensor, epsilon: float | Tensor) -> Certificate:
        """Run one stage and count it."""
        started, tally, stage = time.perf_counter(), self.tallies[index], self.stages[index]
        certifier = Certifier(
            self._network,
            stage.bound,
            stage.lanczos_steps,
            self.clip_input,
            self.arithmetic,
            stage.constant_share,
            stage.effort,
        )
        certificate = certifier(images, labels, epsilon)
        tally.entered += len(labels)
        tally.certified += int(certificate.certified.sum())
        tally.seconds += time.perf_counter() - started
        return replace(certificate, stage=torch.where(certificate.certified, index, -1))


def _updated(larger: Certificate, new: Certificate, rows: Tensor) -> Certificate:
    """Return the certificate at a larger epsilon with what a smaller one gave images `rows`."""
    columns = [each.name for each in fields(Certificate) if isinstance(getattr(new, each.name), Tensor)]
    changed = {name: getattr(larger, name).index_put((rows,), getattr(new, name)) for name in columns}
    known = torch.where(new.certified, torch.maximum(new.radius, larger.radius[rows]), new.radius)
    changed["radius"] = larger.radius.index_put((rows,), known)
    return replace(larger, **changed, failure_probability=new.failure_probability)


def _merge(best: Certificate, new: Certificate, rows: Tensor) -> Certificate:
    """Return `best` with what `new` improves for images `rows`: margin with its rounding, radius, L(x), the stage."""

    def pick(name: str, better: Tensor) -> Tensor:
        before, after = getattr(best, name), getattr(new, name)
        return before.index_put((rows,), torch.where(better, after, before[rows]))

    margin = ~(new.margin <= best.margin[rows])  # also where the best so far is NaN
    return replace(
        best,
        certified=pick("certified", new.certified),
        margin=pick("margin", margin),
        rounding=pick("rounding", margin),
        lipschitz=pick("lipschitz", new.lipschitz < best.lipschitz[rows]),
        radius=pick("radius", new.radius > best.radius[rows]),
        stage=pick("stage", new.certified),
        failure_probability=new.failure_probability,
    )
