"""The public functions: certify predictions at one radius, find the largest radius of each."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, check_epsilon
from lipcert.certificates.cascade import STAGES, Cascade
from lipcert.certificates.certificate import EXECUTED, Certificate
from lipcert.certificates.certifier import Certifier, check_pairs
from lipcert.certificates.float64 import FAILURE_PROBABILITY, LANCZOS_STEPS, Float64Model
from lipcert.certificates.radius import bisect
from lipcert.importing import imported
from lipcert.nn.integrity import has_own_forward
from lipcert.norms import UpperNorms
from lipcert.system.progress import progress as shown

BATCH_SIZE = 32
"""Images bounded at a time: small batches of float64 convolutions are the fastest on CPUs."""

TRIED, RESOLUTION = 64, 0.005
"""Radii at which counterexamples are looked for, and the share of a radius to which the cascade finds it."""

CertifyBatch = Callable[[Tensor, Tensor, float | Tensor], Certificate]
"""A `Certifier` or a `Cascade`: certifies images (B, ...) with labels (B,) at one epsilon, or at one each, (B,)."""


def followed(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a model for images (N, ...) as a tree of layers: what one with a `forward` of its own is imported as.

    Raises:
        UnsupportedLayerError, ValueError: as in `lipcert.importing.imported`.
    """
    return imported(model, tuple(images.shape[1:]), images[:32].cpu()) if has_own_forward(model) else model


def certify_batches(
    certifier: CertifyBatch,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    batch_size: int = BATCH_SIZE,
    advance: Callable[[int], object] | None = None,
) -> Certificate:
    """Certify images batch after batch; return one certificate of all.

    Args:
        certifier: a `Certifier` or a `Cascade`.
        images: (N, ...), at least one.
        labels: (N,).
        epsilon: l2 radius, a number or (N,).
        batch_size: images bounded at a time.
        advance: is told how many images are done after each batch.

    Raises:
        ValueError, TypeError, UnsupportedLayerError: as in `certify`.
    """
    if batch_size < 1:
        raise ValueError(f"Expected `batch_size` >= 1, got {batch_size}.")
    if isinstance(epsilon, Tensor):
        check_epsilon(epsilon, len(images))
    parts = [slice(first, first + batch_size) for first in range(0, len(images), batch_size)]
    radii = epsilon.expand(len(images)) if isinstance(epsilon, Tensor) else None
    certificates = []
    for part in parts:
        certificates.append(certifier(images[part], labels[part], epsilon if radii is None else radii[part]))
        if advance is not None:
            advance(len(images[part]))
    return _joined(certificates, epsilon)


def _joined(certificates: Sequence[Certificate], epsilon: float | Tensor) -> Certificate:
    """Return one certificate of all batches at one epsilon."""
    last = certificates[-1]  # its failure probability is that of all batches
    columns = [each.name for each in fields(Certificate) if isinstance(getattr(last, each.name), Tensor)]
    joined: dict[str, Any] = {name: torch.cat([getattr(each, name) for each in certificates]) for name in columns}
    return replace(last, **(joined | {"epsilon": epsilon}))


def _certify_each(
    cascade: Cascade,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    batch_size: int,
    advance: Callable[[int], object] | None,
) -> list[Certificate]:
    """Return a certificate of all images at each epsilon, batch after batch, see `Cascade.each`."""
    parts = list[dict[float, Certificate]]()
    for some, others in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        parts.append(cascade.each(some, others, epsilons))
        if advance is not None:
            advance(len(some) * len(epsilons))
    return [_joined([part[each] for part in parts], each) for each in epsilons]


@overload
def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | int,
    epsilon: float | Tensor,
    bound: Bound | str | None = None,
    batch_size: int = BATCH_SIZE,
    clip_input: bool = False,
    lanczos_steps: int | None = None,
    failure_probability: float = FAILURE_PROBABILITY,
    arithmetic: str = EXECUTED,
    progress: bool = False,
) -> Certificate: ...


@overload
def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | int,
    epsilon: Sequence[float],
    bound: Bound | str | None = None,
    batch_size: int = BATCH_SIZE,
    clip_input: bool = False,
    lanczos_steps: int | None = None,
    failure_probability: float = FAILURE_PROBABILITY,
    arithmetic: str = EXECUTED,
    progress: bool = False,
) -> dict[float, Certificate]: ...


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | int,
    epsilon: float | Tensor | Sequence[float],
    bound: Bound | str | None = None,
    batch_size: int = BATCH_SIZE,
    clip_input: bool = False,
    lanczos_steps: int | None = None,
    failure_probability: float = FAILURE_PROBABILITY,
    arithmetic: str = EXECUTED,
    progress: bool = False,
) -> Certificate | dict[float, Certificate]:
    """Prove which predictions cannot change within an l2 ball.

    Args:
        model: any tree of supported layers, in eval mode, or a module with a `forward` of its own made of such layers.
        images: (N, ...), float, pixels in [0, 1]; or one image without the N.
        labels: (N,), integers; of one image a number.
        epsilon: radius in pixels of [0, 1], > 0; of several, in a list, there is a certificate each, and by the cascade
            an image that is certified at one keeps that certificate at all smaller ones.
        bound: one of `Bound`; None for the cascade of `lipcert.certificates.cascade`, cheapest bound first.
        batch_size: images bounded at a time.
        clip_input: let the adversary only use pixels in [0, 1].
        lanczos_steps: of a norm an image, 60 when None; more certify more, none wrongly. For a `bound` alone: stages
            of the cascade have their own.
        failure_probability: of each norm; the certificate holds the union bound.
        arithmetic: `executed` for the network in the precision of its weights, rounding included; `exact` for its
            weights taken as real numbers, as the literature counts.
        progress: show a bar on a terminal, else log how many images are done.

    Raises:
        ValueError: for epsilon, images or labels out of range, or `lanczos_steps` without a bound.
        TypeError: for arrays or lists in place of tensors.
        UnsupportedLayerError: naming a layer without a sound rule.

    Source: Theorem 1 and eqs 21-24, with norm upper bounds in place of power iteration.
    """
    if isinstance(images, Tensor) and (isinstance(labels, int) or (isinstance(labels, Tensor) and labels.dim() == 0)):
        images, labels = images[None], torch.as_tensor(labels)[None]
    assert not isinstance(labels, int)
    check_pairs(images, labels)
    several = isinstance(epsilon, list | tuple)
    radii: list[Any] = list(epsilon) if several else [epsilon]  # type: ignore[arg-type]
    if several and (not radii or len(set(radii)) < len(radii)):
        raise ValueError(f"Expected at least one `epsilon`, and each once, got {epsilon}.")
    model = followed(model, images)
    certifier: CertifyBatch
    stages: tuple[str, ...]
    if bound is not None:
        steps = LANCZOS_STEPS if lanczos_steps is None else lanczos_steps
        network = Float64Model(model, UpperNorms(steps, failure_probability=failure_probability))
        certifier, stages = Certifier(network, bound, steps, clip_input, arithmetic), (str(Bound(bound)),)
    elif lanczos_steps is None:
        certifier = Cascade(model, STAGES, failure_probability, clip_input, arithmetic)
        stages = tuple(stage.name for stage in STAGES)
    else:
        raise ValueError(
            f"Expected `lanczos_steps` with a `bound`, got {lanczos_steps} without one: each stage of the cascade has "
            'its own steps. Name a bound, for example bound="tight", or leave `lanczos_steps` out.'
        )
    with shown("certifying", len(images) * len(radii)) if progress else nullcontext(None) as advance:
        if several and isinstance(certifier, Cascade):
            found = _certify_each(certifier, images, labels, radii, batch_size, advance)
        else:
            found = [certify_batches(certifier, images, labels, each, batch_size, advance) for each in radii]
    found = [replace(each, stages=stages, failure_probability=found[-1].failure_probability) for each in found]
    return dict(zip(radii, found, strict=True)) if several else found[0]


def certified_radius(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    bound: Bound | str | None = None,
    largest: float = 10.0,
    rounds: int = 20,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Return for each image a radius within which its prediction is proved, (N,); 0 where it is wrong.

    Bisection over epsilon in [0, `largest`]: every radius returned was itself proved. The cascade bisects by Lipschitz
    bounds first, then by all of it, below counterexamples and to half a percent. All norms of all rounds count for the
    union bound: about `rounds` * N * layers * `FAILURE_PROBABILITY`, twice that for the cascade.

    Args:
        model, images, labels, bound, batch_size: as for `certify`.
        largest: upper end of the search, in pixels of [0, 1].
        rounds: halvings of an interval at most.

    Raises:
        ValueError, TypeError, UnsupportedLayerError: as in `certify`.
    """
    check_epsilon(largest, name="largest")
    check_pairs(images, labels)
    model = followed(model, images)
    nothing = torch.zeros(len(images), dtype=torch.float64)

    def searched(certifier: CertifyBatch, proved: Tensor, refused: Tensor, resolution: Tensor) -> Tensor:
        def attempt(rows: Tensor, radii: Tensor) -> Tensor:
            return certify_batches(certifier, images[rows], labels[rows], radii, batch_size).radius

        return bisect(attempt, proved, refused, rounds, resolution)

    everywhere = torch.full_like(nothing, largest)
    if bound is not None:
        return searched(Certifier(Float64Model(model), bound), nothing, everywhere, nothing)
    cascade = Cascade(model)
    proved = searched(cascade.without_backward_bounds(), nothing, everywhere, nothing)
    if not bool(proved.any()):
        return proved
    tried = torch.logspace(math.log10(float(proved[proved > 0].min())), math.log10(largest), TRIED).tolist()
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    refuted = torch.cat([cascade.refuted_from(*part, tried) for part in parts]).clamp_max(largest)
    return searched(cascade, proved, torch.where(proved > 0, refuted, 0), RESOLUTION * refuted)
