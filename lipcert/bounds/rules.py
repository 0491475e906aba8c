"""One rule a layer type: how the layer maps a region to a region.

Affine layers extend the region's linear maps. An activation closes them: it knows which of its outputs vary,
asks for masked norms, multiplies the Lipschitz constants and opens the region anew at its output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_state
from torch.nn.utils.parametrize import is_parametrized

from lipcert.bounds.errors import UnsupportedLayerError
from lipcert.bounds.linear_map import identity_map
from lipcert.bounds.norms import Norms
from lipcert.bounds.operators import operator
from lipcert.bounds.region import Region, Source, Term, add, affine, mask_terms, open_region, sum_of
from lipcert.bounds.rounding import Arithmetic, Rounding, after_affine
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, Normalize, Residual
from lipcert.nn.activations import clipped_max_min, clipped_relu, max_min, split_pairs

LARGEST_MERGED = 2**15
"""Behind larger activations `liplt` starts anew: norms of runs across them would cost more than they are worth."""


class Bound(StrEnum):
    """How the Lipschitz constant is bounded, and which radius the box pass uses.

    GLOBAL: no masks (BCP, GloRo). LOCAL: the paper's masks, box pass with the global radius. TIGHT: masks that
    know MaxMin's order, box pass with the local radius. LINEAR_SPLIT: linear neurons kept apart (appendix A.2).
    LIPLT: `tight`, and at every layer the smaller of its radius and that of the loop transformation, by which a
    neuron is a linear one of slope 0, 1/2 or 1 plus a remainder of half the Lipschitz constant (Fazlyab et al. 2023).
    """

    GLOBAL = "global"
    LOCAL = "local"
    TIGHT = "tight"
    LINEAR_SPLIT = "linear_split"
    LIPLT = "liplt"

    @property
    def splits(self) -> bool:
        """Whether linear neurons are told apart from those that bend."""
        return self in (Bound.LINEAR_SPLIT, Bound.LIPLT)

    @property
    def tightens(self) -> bool:
        """Whether the box pass uses the local radius, masked row norms and masks that know MaxMin's order."""
        return self in (Bound.TIGHT, Bound.LIPLT)

    @classmethod
    def _missing_(cls, value: object) -> Bound:
        raise ValueError(f"Expected a bound, one of {[str(bound) for bound in cls]}, got {value!r}.")


@dataclass(frozen=True)
class ActivationBounds:
    """What closing an activation found out; kept for losses, logs and figures.

    `lower`, `upper`: box before the activation; `output_lower`, `output_upper`: after it. `varying`: 0/1 a neuron
    of the output, or None where nothing is known to be constant. `whole_norm`: (1,), norm of the linear map
    before it; `masked_norm`: (B,) or (1,), the norm that the bound used.
    """

    name: str
    layer: nn.Module
    lower: Tensor
    upper: Tensor
    output_lower: Tensor
    output_upper: Tensor
    varying: Tensor | None
    whole_norm: Tensor
    masked_norm: Tensor


@dataclass
class Walk:
    """What a walk through a model carries along: the bound, the norm algorithm, the activations met.

    `arithmetic`: what the model is executed in, None for exact real numbers.
    """

    bound: Bound
    norms: Norms
    arithmetic: Arithmetic | None = None
    activations: list[ActivationBounds] = field(default_factory=list)


@dataclass(frozen=True)
class Closing:
    """An activation's input box, its output and what is constant in it.

    `box`: (lower, upper) before the activation. `center`, `lower`, `upper`: after it. `varying`: outputs that vary.
    `rows`: inputs of the activation that any varying output depends on. `linear`: neurons that equal their input
    all over the region. Masks are 0/1, or None for ones. `remainder`: for elementwise activations, how the range of
    σ(z) - z/2 over the box follows. `rounding`: of the output.
    """

    box: tuple[Tensor, Tensor]
    center: Tensor
    lower: Tensor
    upper: Tensor
    varying: Tensor | None
    rows: Tensor | None
    linear: Tensor | None = None
    remainder: tuple[Tensor, Tensor] | None = None
    rounding: Rounding | None = None


def _masked_norms(walk: Walk, name: str, terms: tuple[Term, ...], rows: Tensor | None, like: Tensor) -> list[Tensor]:
    return [
        walk.norms.masked(_term_name(name, index, terms), term.map, rows, term.source.varying, like)
        for index, term in enumerate(terms)
    ]


def _whole_norms(walk: Walk, name: str, terms: tuple[Term, ...], like: Tensor) -> list[Tensor]:
    return [walk.norms.whole(_term_name(name, index, terms), term.map, like) for index, term in enumerate(terms)]


def _term_name(name: str, index: int, terms: tuple[Term, ...]) -> str:
    return name if len(terms) == 1 else f"{name}..{index}"  # no module is called so


def _carry(terms: tuple[Term, ...], norms: list[Tensor]) -> Tensor:
    """Return the Lipschitz constant behind `terms`: the sum of source constant times norm."""
    return sum_of([term.source.lipschitz * norm for term, norm in zip(terms, norms, strict=True)])


def _close(walk: Walk, name: str, layer: nn.Module, region: Region, closing: Closing) -> Region:
    """Multiply Lipschitz constants with norms and open the region at the activation's output."""
    like, terms = region.center, region.lipschitz_terms
    if closing.center.shape != like.shape:
        raise UnsupportedLayerError(
            f"Layer {name!r}: a {type(layer).__name__} for another shape broadcasts {tuple(like.shape[1:])} "
            f"to {tuple(closing.center.shape[1:])}; its shape must be that of its input."
        )
    whole = _whole_norms(walk, name, region.ball_terms, like)
    ball_lipschitz = _carry(region.ball_terms, whole)
    varying, norms = closing.varying, whole
    product = sum_of([t.source.product * norm for t, norm in zip(region.ball_terms, whole, strict=True)])
    split: tuple[Term, ...] = ()
    if walk.bound is Bound.GLOBAL:
        varying = None
    elif walk.bound is Bound.LINEAR_SPLIT:
        linear = torch.zeros_like(like) if closing.linear is None else closing.linear
        varying = (1 - linear) if varying is None else varying * (1 - linear)
        norms = _masked_norms(walk, name, terms, None if closing.rows is None else varying, like)
        split = mask_terms(terms, linear)
    else:
        capped = terms if walk.bound is not Bound.LIPLT else region.ball_terms
        masked = _masked_norms(walk, name, capped, closing.rows, like)
        norms = [torch.minimum(norm, cap) for norm, cap in zip(masked, whole, strict=True)]
    walk.activations.append(_summary(name, layer, closing, whole, norms))
    if walk.bound is Bound.LIPLT:
        return _close_with_remainder(walk, name, region, closing, _carry(region.ball_terms, norms), product)
    lipschitz = ball_lipschitz if norms is whole else _carry(terms, norms)
    source = Source(closing.center, closing.lower, closing.upper, lipschitz, product, varying)
    same = walk.bound in (Bound.GLOBAL, Bound.TIGHT)
    ball_source = source if same else replace(source, lipschitz=ball_lipschitz, varying=None)
    opened = open_region(source, ball_source, region.epsilon, mask_ball=walk.bound is Bound.TIGHT)
    opened = replace(opened, rounding=closing.rounding)
    return replace(opened, lipschitz_terms=(*opened.lipschitz_terms, *split)) if split else opened


def _close_with_remainder(
    walk: Walk, name: str, region: Region, closing: Closing, tight: Tensor, product: Tensor
) -> Region:
    """Close by the loop transformation: σ(z') - σ(z) = D (z' - z) + r, D of slopes 0, 1/2, 1 and |r| <= |z' - z| / 2.

    `tight`: Lipschitz constant of the varying outputs by the product of masked norms. Where an activation is not
    elementwise D is 0 and r all of σ(z') - σ(z).
    """
    like, terms = region.center, region.lipschitz_terms

    def behind(kind: str, rows: Tensor | None) -> Tensor:
        return _carry(terms, _masked_norms(walk, f"{name}..{kind}", terms, rows, like))

    first = terms is region.ball_terms  # both then say the same
    outputs = tight if first else torch.minimum(tight, behind("outputs", closing.rows))
    source = Source(closing.center, closing.lower, closing.upper, outputs, product, closing.varying)
    opened = open_region(source, source, region.epsilon, mask_ball=True)
    opened = replace(opened, rounding=closing.rounding)
    if closing.linear is None or closing.varying is None or closing.remainder is None:
        return opened
    if math.prod(region.shape) > LARGEST_MERGED:
        return opened
    unstable = closing.varying * (1 - closing.linear)
    remainder = torch.minimum(tight, behind("remainder", unstable)) / 2
    lower, upper = (unstable * each for each in closing.remainder)
    kept = Source(torch.zeros_like(like), lower, upper, remainder, product, unstable)
    linear_part = mask_terms(terms, closing.linear + unstable / 2)
    identity = open_region(kept, kept, region.epsilon, mask_ball=True).lipschitz_terms
    return replace(opened, lipschitz_terms=(*identity, *linear_part))


def _summary(
    name: str, layer: nn.Module, closing: Closing, whole: list[Tensor], norms: list[Tensor]
) -> ActivationBounds:
    return ActivationBounds(
        name, layer, *closing.box, closing.lower, closing.upper, closing.varying, sum_of(whole), sum_of(norms)
    )


@singledispatch
def apply_rule(layer: nn.Module, region: Region, walk: Walk, name: str) -> Region:
    """Return the region behind `layer`.

    Raises:
        UnsupportedLayerError: naming the layer and its place, for a type without a rule.
    """
    supported = ", ".join(sorted({rule.__name__ for rule in apply_rule.registry if rule is not object}))
    raise UnsupportedLayerError(
        f"Layer {name or 'model'!r} is a {type(layer).__name__}, which has no bound. Supported: {supported}."
    )


INERT = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__parameters__", "__orig_bases__"}
"""What a subclass may define without changing what its layer computes."""


def parametrizations(layer: nn.Module) -> list[str]:
    """Return the names of the parameters that a parametrization computes."""
    registered = layer._modules.get("parametrizations")
    return list(registered) if is_parametrized(layer) and isinstance(registered, nn.ModuleDict) else []


def _parametrized_by_torch(layer: nn.Module) -> bool:
    """Return whether the layer's class is the one that `torch.nn.utils.parametrize` makes, with nothing added."""
    names = set(parametrizations(layer))
    return bool(names) and all(
        key in INERT | {"__getstate__", "__deepcopy__"} or (key in names and isinstance(value, property))
        for key, value in vars(type(layer)).items()
    )


def refuse_altered(layer: nn.Module, name: str) -> None:
    """Refuse a layer that may compute something else than its type says.

    Raises:
        UnsupportedLayerError: for a forward hook, a method of its own in a subclass or instance, or a
            parametrization in train mode (it may change the weight at each use).
    """
    place = f"Layer {name or 'model'!r} ({type(layer).__name__})"
    if any((layer._forward_hooks, layer._forward_pre_hooks)):
        raise UnsupportedLayerError(f"{place} has a forward hook, which a bound cannot follow; remove it.")
    if any((module_state._global_forward_hooks, module_state._global_forward_pre_hooks)):
        raise UnsupportedLayerError("A global forward hook is registered, which a bound cannot follow; remove it.")
    if layer._compiled_call_impl is not None:
        raise UnsupportedLayerError(f"{place} was compiled; certify the module as it was before `compile()`.")
    parametrized = _parametrized_by_torch(layer)
    if parametrized and any(part.training for part in layer.modules()):
        raise UnsupportedLayerError(f"{place} has a parametrization in train mode; call model.eval() first.")
    own_class, *rest = type(layer).__mro__
    classes = rest if parametrized else [own_class, *rest]
    owner = next((cls for cls in classes if cls is not object and cls in apply_rule.registry), None)
    if owner is None:
        return  # `apply_rule` refuses it by name
    altered = [key for cls in classes[: classes.index(owner)] for key in vars(cls) if key not in INERT]
    altered += [key for key in vars(layer) if key.startswith("__") or callable(getattr(type(layer), key, None))]
    if altered:
        raise UnsupportedLayerError(
            f"{place} has a `{altered[0]}` of its own, so the rule of {owner.__name__} need not hold for it."
        )


def walk_layer(layer: nn.Module, region: Region, walk: Walk, name: str) -> Region:
    """Check a layer, then apply its rule; errors name the layer."""
    refuse_altered(layer, name)
    return apply_rule(layer, region, walk, name)


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


@apply_rule.register
def _(layer: nn.Sequential, region: Region, walk: Walk, name: str) -> Region:
    for child_name, child in layer._modules.items():  # named_children() would skip a layer used a second time
        if child is not None:
            region = walk_layer(child, region, walk, _join(name, child_name))
    return region


@apply_rule.register
def _(layer: Residual, region: Region, walk: Walk, name: str) -> Region:
    if any(getattr(module, "inplace", False) for module in layer.modules()):
        raise UnsupportedLayerError(
            f"Layer {name!r}: an activation inside a Residual works in place and may overwrite what the "
            "shortcut reads; build it with inplace=False."
        )
    branch = walk_layer(layer.branch, region, walk, _join(name, "branch"))
    shortcut = walk_layer(layer.shortcut, region, walk, _join(name, "shortcut"))
    if branch.shape != shortcut.shape:
        raise UnsupportedLayerError(
            f"Layer {name!r}: branch and shortcut yield shapes {branch.shape} and {shortcut.shape}; they must agree."
        )
    total = add(branch, shortcut)
    if walk.arithmetic is None or branch.rounding is None or shortcut.rounding is None:
        return total
    size = branch.size() + branch.rounding.entries + shortcut.size() + shortcut.rounding.entries
    rounding = branch.rounding.plus(shortcut.rounding, size, walk.arithmetic)
    return total.rounded(rounding, walk.arithmetic.analysis)


@apply_rule.register(nn.Linear)
@apply_rule.register(nn.Conv2d)
@apply_rule.register(nn.Flatten)
@apply_rule.register(nn.Identity)
@apply_rule.register(nn.Dropout)
@apply_rule.register(nn.Dropout1d)
@apply_rule.register(nn.Dropout2d)
@apply_rule.register(nn.AvgPool2d)
@apply_rule.register(nn.BatchNorm1d)
@apply_rule.register(nn.BatchNorm2d)
@apply_rule.register(Normalize)
def _(layer: nn.Module, region: Region, walk: Walk, name: str) -> Region:
    try:
        affine_map = operator(layer, region.shape)
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"Layer {name!r}: {error}") from None
    moved = affine(region, affine_map)
    if walk.arithmetic is None or region.rounding is None:
        return moved
    norm = None
    if affine_map.products()[0] and not bool((region.rounding.length == 0).all()):
        norm = walk.norms.whole(f"{name}..layer", identity_map(region.shape).after(affine_map), region.center)
    rounding = after_affine(region.rounding, affine_map, region.reach(), norm, walk.arithmetic)
    return replace(moved.rounded(rounding, walk.arithmetic.analysis), last=affine_map)


def _mask(condition: Tensor, like: Tensor) -> Tensor:
    return condition.to(like.dtype)


def _clips_above(threshold: Tensor) -> Tensor:
    """Return above which inputs min(max(z, 0), threshold) is constant: all of them for a threshold of 0 or less."""
    return torch.where(threshold > 0, threshold, -torch.inf)


def _remainder(region: Region, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the range of σ(z') - σ(z) - (z' - z)/2 over the box, z the center; σ is min(max(·, 0), threshold).

    The function is piecewise linear: its extremes are at the ends of the box or at the kinks inside.
    """

    def bent(values: Tensor) -> Tensor:
        output = values.relu() if threshold is None else clipped_relu(values, threshold)
        return output - values / 2

    lower, upper = region.box()
    kinks = [torch.zeros_like(upper)] if threshold is None else [torch.zeros_like(upper), threshold.expand_as(upper)]
    candidates = [bent(each.clamp(lower, upper)) for each in (lower, upper, *kinks)]
    stacked = torch.stack(candidates) - bent(region.center)
    return stacked.amin(dim=0), stacked.amax(dim=0)


def _of_unclipped(region: Region, threshold: Tensor | None) -> Rounding | None:
    """Return the error behind a ReLU: none where the executed input, too, stays outside (0, threshold)."""
    rounding = region.rounding
    if rounding is None:
        return None
    lower, upper = region.box()
    clipped = upper + rounding.entries <= 0
    if threshold is not None:
        clipped = clipped | (lower - rounding.entries >= _clips_above(threshold))
    return Rounding.of(torch.where(clipped, 0, rounding.entries), rounding.length)


def _of_pairs(rounding: Rounding | None) -> Rounding | None:
    """Return the error behind MaxMin: an output's is at most the larger of its pair."""
    if rounding is None:
        return None
    larger = torch.maximum(*split_pairs(rounding.entries))
    return replace(rounding, entries=torch.cat((larger, larger), dim=1))


@apply_rule.register
def _(layer: nn.ReLU, region: Region, walk: Walk, name: str) -> Region:
    lower, upper = region.box()
    varying = _mask(~(upper <= 0), upper)
    linear = _mask(lower >= 0, upper) if walk.bound.splits else None
    closing = Closing(
        (lower, upper),
        region.center.relu(),
        lower.relu(),
        upper.relu(),
        varying,
        varying,
        linear,
        _remainder(region, None) if walk.bound is Bound.LIPLT else None,
        _of_unclipped(region, None),
    )
    return _close(walk, name, layer, region, closing)


@apply_rule.register
def _(layer: ClippedReLU, region: Region, walk: Walk, name: str) -> Region:
    lower, upper = region.box()
    threshold = layer.threshold
    varying = _mask(~((upper <= 0) | (lower >= _clips_above(threshold))), upper)
    linear = _mask((lower >= 0) & (upper <= threshold), upper) if walk.bound.splits else None
    closing = Closing(
        (lower, upper),
        clipped_relu(region.center, threshold),
        clipped_relu(lower, threshold),
        clipped_relu(upper, threshold),
        varying,
        varying,
        linear,
        _remainder(region, threshold) if walk.bound is Bound.LIPLT else None,
        _of_unclipped(region, threshold),
    )
    return _close(walk, name, layer, region, closing)


@apply_rule.register
def _(layer: MaxMin, region: Region, walk: Walk, name: str) -> Region:
    lower, upper = region.box()
    closing = Closing(
        (lower, upper),
        max_min(region.center),
        max_min(lower),
        max_min(upper),
        None,
        None,
        rounding=_of_pairs(region.rounding),
    )
    return _close(walk, name, layer, region, closing)


@apply_rule.register
def _(layer: ClippedMaxMin, region: Region, walk: Walk, name: str) -> Region:
    lower, upper = region.box()
    first_lower, second_lower = split_pairs(lower)
    first_upper, second_upper = split_pairs(upper)
    larger = ~(torch.maximum(first_lower, second_lower) >= layer.max)
    smaller = ~(torch.minimum(first_upper, second_upper) <= layer.min)
    rows = None
    if walk.bound.tightens:
        # An input pair matters while one of its outputs varies; where its order is decided, each input alone.
        first_leads, second_leads = first_lower >= second_upper, second_lower >= first_upper
        either = larger | smaller
        first_row = torch.where(first_leads, larger, torch.where(second_leads, smaller, either))
        second_row = torch.where(first_leads, smaller, torch.where(second_leads, larger, either))
        rows = _mask(torch.cat((first_row, second_row), dim=1), upper)
    closing = Closing(
        (lower, upper),
        clipped_max_min(region.center, layer.max, layer.min),
        clipped_max_min(lower, layer.max, layer.min),
        clipped_max_min(upper, layer.max, layer.min),
        _mask(torch.cat((larger, smaller), dim=1), upper),
        rows,
        rounding=_of_pairs(region.rounding),
    )
    return _close(walk, name, layer, region, closing)
