"""What is checked of every case: nothing that attacks meet lies beyond what bounds state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

import lipcert
from lipcert.attacks import pgd, projected_ascent, random_search, unbounded
from lipcert.bounds import Analysis, Arithmetic, Bound, logit_rounding
from lipcert.certificates import Certificate
from lipcert.certificates.cascade import OTHER_STAGES, STAGES, Cascade, Stage
from lipcert.certificates.certifier import Certifier
from lipcert.certificates.certify import CertifyBatch
from lipcert.certificates.float64 import FAILURE_PROBABILITY
from lipcert.crown import Ball, Rows
from lipcert.graph import Graph, NonFiniteBoundError
from tests.fuzz.networks import Case
from tests.fuzz.subject import Subject, Tally, refute

SLOPE_STEPS, SPLITS = 6, 2
"""Of optimised slopes, and rounds of splits."""

STEPS_OF_PARTS = {"WHOLE": (SLOPE_STEPS, 0.1), "TRIED": (2, 0.1), "CHOSEN": (4, 0.1)}
"""Steps and learning rates of branch and bound: bounds hold after any of them, and there are many cases."""


def check(case: Case) -> Tally:
    """Attack everything that is stated of a case; return what was tried.

    Raises:
        RefutedError: naming what was refuted.
    """
    tally = Tally(nets=1, images=len(case.images))
    few = patch.multiple("lipcert.crown.splits", **STEPS_OF_PARTS)
    with _norms(case.lanczos), few, patch("lipcert.crown.search.refuted", _none), torch.random.fork_rng():
        torch.manual_seed(case.seed)
        try:
            _check(Subject(case, tally))
        except (lipcert.UnsupportedLayerError, NonFiniteBoundError):
            tally.refused = 1
        except ValueError as error:
            if "entries below" not in str(error) and "NaN or infinite" not in str(error):
                raise
            tally.refused = 1
    return tally


def _none(graph: Graph, rows: Rows, bounds: Rows, ball: Ball) -> Tensor:
    """Find no counterexamples: bounds are to be tried where they cannot hold."""
    return torch.zeros_like(rows.image, dtype=torch.bool)


@contextmanager
def _norms(lanczos: bool) -> Iterator[None]:
    """Let Lanczos bound small maps, too, which are left to exact norms otherwise."""
    if not lanczos:
        yield
        return
    with patch("lipcert.norms.upper.is_small", lambda linear_map: False):
        yield


def _check(subject: Subject) -> None:
    case, tally = subject.case, subject.tally
    radii = subject.distances() * case.factors
    certificates = {name: certify(case.images, case.labels, radii) for name, certify in _certifiers(subject)}
    points = subject.attacked(subject.region(radii))
    exact, executed = subject.least_exact(points), subject.least_executed(points)
    for name, certificate in certificates.items():
        tally.certificates += len(exact)
        tally.certified += int(certificate.certified.sum())
        _check_margins(name, certificate, exact, executed, subject.share)
    arithmetic = Arithmetic.of(subject.executed.dtype, case.images.dtype)
    for bound in subject.some(tuple(Bound), 2):
        with torch.no_grad():
            analysis = subject.network.analyze(
                case.images, radii, bound, subject.steps, 0.0, case.clip_input, arithmetic
            )
        _check_activations(analysis, subject, points)
        errors = _check_rounding(analysis, subject, points)
    if not case.lanczos:  # whose steps are many there
        _check_constants(subject, radii, points, errors)
    _check_radii(subject, radii, list(certificates.values()))


def _certifiers(subject: Subject) -> Iterator[tuple[str, CertifyBatch]]:
    """Yield some of what certifies: bounds, backward bounds, what runs several."""
    case = subject.case
    settings = case.clip_input, case.arithmetic
    for bound in subject.some(tuple(Bound), 3):
        yield str(bound), Certifier(subject.network, bound, subject.steps, *settings)
    stages = [_in_few_steps(stage) for stage in (*STAGES, *OTHER_STAGES)]
    backward = [stage for stage in stages if stage.effort is not None]
    for stage in subject.some(backward, 1):
        yield stage.name, Certifier(subject.network, stage.bound, subject.steps, *settings, effort=stage.effort)
    for name in subject.some(("cascade", "certify", "", "", "", ""), 0 if case.lanczos else 1):
        if name == "cascade":
            yield name, Cascade(case.model, stages, FAILURE_PROBABILITY, *settings)
        elif name == "certify":
            yield name, partial(lipcert.certify, case.model, clip_input=settings[0], arithmetic=settings[1])


def _in_few_steps(stage: Stage) -> Stage:
    """Return a stage that spends little on backward bounds of each case: there are many."""
    if stage.effort is None:
        return stage
    steps, splits = min(stage.effort.steps, SLOPE_STEPS), min(stage.effort.splits, SPLITS)
    return replace(stage, effort=replace(stage.effort, steps=steps, splits=splits))


def _check_margins(name: str, certificate: Certificate, exact: Tensor, executed: Tensor, share: float) -> None:
    """Check margins that are stated against the least ones met, `exact` and `executed`, (N,)."""
    margin, rounding = certificate.margin, certificate.rounding
    refute(f"{name}: certified", certificate.certified & ~(margin > 0), certificate.certified, margin)
    if certificate.arithmetic == "exact":
        refute(f"{name}: exact margin", margin - share * rounding > exact, margin, exact)
        return
    refute(f"{name}: exact margin", margin + rounding - share * rounding > exact, margin + rounding, exact)
    refute(f"{name}: executed margin", margin > executed, margin, executed)


def _check_activations(analysis: Analysis, subject: Subject, points: Tensor) -> None:
    """Check boxes, balls and masks of activations against values at points (P, N, ...)."""
    with subject.inputs() as met, torch.no_grad():
        subject.reference(points.flatten(0, 1))
    for bounds in analysis.activations:
        place, function = f"{analysis.bound}: {bounds.name}", bounds.node.function
        values = met[bounds.name].unflatten(0, points.shape[:2])
        needed = None
        if bounds.box is not None:
            room = 1e-12 * values.abs()
            refute(f"{place}: lower end", values + room < bounds.lower, bounds.lower, values)
            refute(f"{place}: upper end", values - room > bounds.upper, bounds.upper, values)
            needed = function.needed(*bounds.box)
        if bounds.mask is not None:
            outputs = function.apply(values.flatten(0, 1)).unflatten(0, points.shape[:2])
            moved = (outputs - outputs[0]).abs() > 1e-9 * outputs.abs()
            refute(f"{place}: constant outputs", moved & (bounds.mask == 0), bounds.mask, outputs)
        if bounds.ball is not None:
            center, radius = bounds.ball[:2]
            changes = (values - center) * (1 if needed is None else needed)
            lengths = (1 - 1e-9) * changes.flatten(2).norm(dim=2) - 1e-12 * values.flatten(2).norm(dim=2)
            refute(f"{place}: ball", lengths > radius, radius, lengths)


def _check_rounding(analysis: Analysis, subject: Subject, points: Tensor) -> Tensor:
    """Check the bound on the rounding of z_j - z_y at points (P, N, ...); return what float64 loses of logits, (N,)."""
    assert analysis.region.rounding is not None
    covered, own = logit_rounding(analysis, subject.case.labels), subject.labels(points).unsqueeze(2)
    executed = subject.executed.logits(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    change = executed - subject.logits(points)
    errors = (change - change.gather(2, own)).abs() - subject.share * covered
    refute(f"{analysis.bound}: rounding", ~(errors <= covered), covered, errors)
    shares = torch.where(covered > 0, errors / covered, 0).nan_to_num(0.0, 0.0, 0.0)
    subject.tally.rounding = max(subject.tally.rounding, float(shares.max()))
    return 2 * subject.share * analysis.region.rounding.length


def _check_constants(subject: Subject, radii: Tensor, points: Tensor, errors: Tensor) -> None:
    """Check Lipschitz constants against how far logits moved; `errors`: of the reference, (N,)."""
    logits, case = subject.logits(points), subject.case
    moved = (1 - 1e-9) * (logits - logits[0]).flatten(2).norm(dim=2) - errors
    lengths = (points - subject.images).flatten(2).norm(dim=2)
    whole = torch.tensor(lipcert.global_lipschitz(case.model, case.images.shape[1:]), dtype=torch.float64)
    refute("global_lipschitz", moved > whole * lengths, whole, moved / lengths)
    for bound in subject.some(tuple(Bound), 1):
        local = lipcert.local_lipschitz(case.model, case.images, radii, bound)
        refute(f"{bound}: local_lipschitz", moved > local * lengths, local, moved / lengths)


def _check_radii(subject: Subject, radii: Tensor, certificates: list[Certificate]) -> None:
    """Attack just inside of the largest radius that is proved of each image."""
    case = subject.case
    proved = torch.stack([certificate.radius for certificate in certificates]).amax(dim=0)
    if subject.some(range(8), 1) == [0] and case.arithmetic == "executed" and not case.lanczos:
        for bound in subject.some((*Bound, None), 1):
            largest = 2 * float(radii.max())
            found = lipcert.certified_radius(case.model, case.images, case.labels, bound, largest, rounds=8)
            proved = torch.maximum(proved, found)
    region = subject.region(proved * (1 - 1e-9))
    points = subject.attacked(region)
    if subject.executed.dtype == case.images.dtype and subject.some(range(4), 1) == [0]:
        points = torch.cat([points, _library_points(subject, float(proved[0]))])
    exact, executed = subject.least_exact(points), subject.least_executed(points)
    refute("radius, exact", (proved > 0) & (exact < -1e-12 * exact.abs()), proved, exact)
    if case.arithmetic == "executed":
        refute("radius", (proved > 0) & ~(executed > 0), proved, executed)


def _library_points(subject: Subject, radius: float) -> Tensor:
    """Return what the library's attacks find around the first image, for the others themselves, (3, N, ...)."""
    case, model = subject.case, subject.executed.model
    points = case.images[None].repeat(3, *(1 for _ in case.images.shape))
    if radius > 1e-20:
        image, label = case.images[:1], case.labels[:1]
        box = (0.0, 1.0) if case.clip_input else unbounded(radius)

        def rise(found: Tensor) -> Tensor:
            logits = model(found)
            return (logits[:, (label + 1) % logits.shape[1]] - logits[:, label]).sum()

        points[0, 0] = pgd(model, image, label, radius, steps=5, box=box)[0]
        points[1, 0] = random_search(model, image, label, radius, queries=10, box=box)[0]
        points[2, 0] = projected_ascent(rise, image, image, radius, 5, radius / 2, box)[0]
    return points.double()
