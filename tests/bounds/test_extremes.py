"""Every kind of layer at the ends of float32: no execution is farther from exact fractions than its bound.

Numbers are drawn over all exponents, subnormal ones among them, so that sums overflow, cancel and vanish. What the
exact network computes is found in fractions, roots to 300 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, analyze
from lipcert.graph import UnsupportedLayerError
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, Normalize, Residual
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import compile_program
from tests.oracles import ExactNorms

SINGLE = Arithmetic.of(torch.float32, torch.float32)
SHAPE = (2, 5, 4)
BITS = 300
SEEDS = 24

Exact = list[Fraction]


def _root(value: Fraction) -> Fraction:
    """Return the square root, to `BITS` bits below its own size."""
    shift = 2 * (BITS + max(0, value.denominator.bit_length() - value.numerator.bit_length()))
    return Fraction(math.isqrt((value.numerator << shift) // value.denominator), 1 << (shift // 2))


def _fractions(values: Tensor) -> Exact:
    return [Fraction(value) for value in values.double().flatten().tolist()]


def _shape(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(layer(torch.zeros(1, *shape)).shape[1:])


def _pooled(layer: nn.AvgPool2d, inputs: Exact, shape: tuple[int, ...]) -> Exact:
    """Sums of windows over their divisors: those of torch on ones, where nothing rounds."""
    (kernel, stride, padding) = (
        (size, size) if isinstance(size, int) else size for size in (layer.kernel_size, layer.stride, layer.padding)
    )
    channels, height, width = _shape(layer, shape)
    found = []
    for channel, row, column in product(range(channels), range(height), range(width)):
        total, rows, columns = Fraction(0), row * stride[0] - padding[0], column * stride[1] - padding[1]
        ends = [
            min(first + size, extent + pad)
            for first, size, extent, pad in zip((rows, columns), kernel, shape[1:], padding, strict=True)
        ]
        inside = [
            (i, j)
            for i in range(max(rows, 0), min(ends[0], shape[1]))
            for j in range(max(columns, 0), min(ends[1], shape[2]))
        ]
        for i, j in inside:
            total += inputs[(channel * shape[1] + i) * shape[2] + j]
        divisor = (ends[0] - rows) * (ends[1] - columns) if layer.count_include_pad else len(inside)
        found.append(total / (layer.divisor_override or divisor))
    return found


def _scaled(layer: nn.Module, inputs: Exact, shape: tuple[int, ...]) -> Exact:
    """Return what batch norm and `Normalize` make of each channel."""
    each, found = len(inputs) // shape[0], []
    for channel in range(shape[0]):
        if isinstance(layer, Normalize):
            mean, scale = _fractions(layer.mean)[channel], 1 / _fractions(layer.std)[channel]
            shift = Fraction(0)
        else:
            assert isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)
            mean = _fractions(layer.running_mean)[channel]  # type: ignore[arg-type]
            scale = 1 / _root(_fractions(layer.running_var)[channel] + Fraction(layer.eps))  # type: ignore[arg-type]
            scale *= 1 if layer.weight is None else _fractions(layer.weight)[channel]
            shift = Fraction(0) if layer.bias is None else _fractions(layer.bias)[channel]
        found += [(value - mean) * scale + shift for value in inputs[channel * each : (channel + 1) * each]]
    return found


def _products(layer: nn.Linear | nn.Conv2d, inputs: Exact, shape: tuple[int, ...]) -> Exact:
    """Return sums of products and a bias; impulses tell which weight meets which input."""
    impulses = torch.eye(len(inputs)).view(-1, *shape)
    zero = torch.zeros(1, *shape)
    shifts = _fractions(layer(zero).detach())
    with torch.no_grad():
        bias, layer.bias = layer.bias, None
        columns = layer(impulses).flatten(1)
        layer.bias = bias
    found = list(shifts)
    for entry, column in zip(inputs, columns, strict=True):
        for place in column.nonzero()[:, 0].tolist() if entry else []:
            found[place] += Fraction(float(column[place])) * entry
    return found


def _selected(layer: nn.Module, inputs: Exact) -> Exact:
    """Return what activations select: thresholds are the same for all entries here."""
    if isinstance(layer, MaxMin | ClippedMaxMin):
        pairs = list(zip(inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :], strict=True))
        high, low = [max(pair) for pair in pairs], [min(pair) for pair in pairs]
        if isinstance(layer, ClippedMaxMin):
            most, least = _fractions(layer.max)[0], _fractions(layer.min)[0]
            high, low = [min(each, most) for each in high], [max(each, least) for each in low]
        return high + low
    clipped = [max(each, Fraction(0)) for each in inputs]
    if isinstance(layer, ClippedReLU):
        most = _fractions(layer.threshold)[0]
        clipped = [min(each, most) for each in clipped]
    return clipped


def _exact(layer: nn.Module, inputs: Exact, shape: tuple[int, ...]) -> Exact:
    """Return what a layer makes of one image, flattened, in fractions."""
    if isinstance(layer, nn.AvgPool2d):
        return _pooled(layer, inputs, shape)
    if isinstance(layer, nn.Identity):
        return inputs
    if isinstance(layer, nn.Linear | nn.Conv2d):
        return _products(layer, inputs, shape)
    if isinstance(layer, nn.ReLU | ClippedReLU | MaxMin | ClippedMaxMin):
        return _selected(layer, inputs)
    if isinstance(layer, Residual):
        branch, shortcut = (_exact(each, inputs, shape) for each in (layer.branch, layer.shortcut))
        return [first + second for first, second in zip(branch, shortcut, strict=True)]
    if isinstance(layer, nn.Sequential):
        for each in layer:
            inputs, shape = _exact(each, inputs, shape), _shape(each, shape)
        return inputs
    return _scaled(layer, inputs, shape)


def _wild(generator: torch.Generator, *shape: int, low: float = -46.0, high: float = 38.5) -> Tensor:
    """Return float32 numbers of either sign, evenly over exponents of ten, some of them 0."""
    exponents = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
    signs = torch.randint(-1, 2, shape, generator=generator)
    signs = torch.where(torch.rand(shape, generator=generator) < 0.8, signs * 2 + 1, signs).sign()
    return (signs * 10**exponents).clamp(-3.4e38, 3.4e38).float()


def _normal(values: Tensor) -> Tensor:
    """Return weights as certificates take them: none so small that its square vanishes."""
    return torch.where(values.abs() < 1e-30, 0, values)


def _pool(generator: torch.Generator) -> nn.AvgPool2d:
    def drawn(*sizes: int) -> int:
        return sizes[int(torch.randint(len(sizes), (), generator=generator))]

    kernel = (drawn(1, 2, 3, 4), drawn(1, 2, 3))
    padding = (drawn(0, kernel[0] // 2), drawn(0, kernel[1] // 2))
    divisor = (None, None, 1, 3, 7, 2**30)[drawn(*range(6))]
    stride = (drawn(1, 2, 3), drawn(1, 2, 5))
    return nn.AvgPool2d(kernel, stride, padding, bool(drawn(0, 1)), bool(drawn(0, 1)), divisor)


def _batch_norm(generator: torch.Generator, dimensions: int = 2) -> nn.Module:
    """Statistics and weights of any size; `eps` may be 0."""
    eps = (0.0, 1e-40, 1e-5, 1.0, 1e30)[int(torch.randint(5, (), generator=generator))]
    affine = bool(torch.randint(3, (), generator=generator))
    layer = (nn.BatchNorm1d, nn.BatchNorm2d)[dimensions > 1](SHAPE[0], eps=eps, affine=affine)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(_normal(_wild(generator, 2, low=-30.0)))
    layer.running_var.copy_(_wild(generator, 2, low=-29.5, high=37.9).abs().clamp_min(2e-30))
    if affine:
        layer.weight.data.copy_(_normal(_wild(generator, 2)))
        layer.bias.data.copy_(_normal(_wild(generator, 2)))
    return layer


def _normalize(generator: torch.Generator) -> nn.Module:
    layer = Normalize([0.0, 0.0], [1.0, 1.0])
    layer.mean.copy_(_normal(_wild(generator, 2)))
    layer.std.copy_(_wild(generator, 2, low=-29.0).abs().clamp_min(1e-29))
    return layer


def _sum(generator: torch.Generator) -> nn.Module:
    """Of what may nearly cancel: x and a multiple of -x, x and x, or two scalings."""
    kind = torch.rand((), generator=generator)
    if kind < 0.2:
        return Residual(nn.Identity())
    if kind < 0.5:
        return Residual(_batch_norm(generator), _normalize(generator))
    near = Normalize([0.0, 0.0], [1.0, 1.0])
    opposite = nn.BatchNorm2d(2, eps=0.0)
    opposite.weight.data.fill_(-1.0)
    opposite.running_mean.copy_(_normal(_wild(generator, 2, low=-8.0, high=8.0)))  # type: ignore[union-attr]
    return Residual(near, opposite)


def _chain(generator: torch.Generator) -> nn.Module:
    """Layers behind layers: errors are carried, too."""
    makers = (_batch_norm, _normalize, _sum)
    first = [makers[int(torch.randint(3, (), generator=generator))](generator) for _ in range(2)]
    return nn.Sequential(first[0], Residual(nn.AvgPool2d(3, 1, 1), first[1]), _pool(generator))


def _dense(generator: torch.Generator) -> nn.Module:
    """Rows of any size, some entries 0, some nearly opposite, so that sums cancel."""
    layer = nn.Linear(SHAPE[-1], 3, bias=bool(torch.randint(3, (), generator=generator)))
    return _filled(layer, generator)


def _convolution(generator: torch.Generator) -> nn.Module:
    groups, padding = 1 + int(torch.randint(2, (), generator=generator)), int(torch.randint(3, (), generator=generator))
    stride = 1 + int(torch.randint(2, (), generator=generator))
    return _filled(nn.Conv2d(SHAPE[0], 2, 3, stride, padding, groups=groups), generator)


def _filled(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> nn.Module:
    wide = bool(torch.randint(2, (), generator=generator))
    size = 10 ** (-20 + 40 * float(torch.rand((), generator=generator)))
    for tensor in layer.parameters():
        values = _wild(generator, *tensor.shape) if wide else size * torch.randn(tensor.shape, generator=generator)
        tensor.data.copy_(_normal(values))
    return layer


def _activation(generator: torch.Generator) -> nn.Module:
    """Between layers: what it selects may be subnormal, or as large as numbers are."""
    low, high = _normal(_wild(generator, 2)).abs().sort().values.tolist()
    layers = (nn.ReLU(), ClippedReLU(SHAPE, high), MaxMin(), ClippedMaxMin(SHAPE, high, -low))
    before, behind = _normalize(generator), _filled(nn.Linear(SHAPE[-1], 3), generator)
    return nn.Sequential(before, layers[int(torch.randint(4, (), generator=generator))], behind)


LAYERS: dict[str, Callable[[torch.Generator], nn.Module]] = {
    "dense": _dense,
    "convolution": _convolution,
    "activation": _activation,
    "pool": _pool,
    "batch norm": _batch_norm,
    "normalize": _normalize,
    "sum": _sum,
    "chain": _chain,
}


@contextmanager
def _flushing(on: bool) -> Iterator[None]:
    torch.set_flush_denormal(on)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _executions(layer: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Yield what is executed: with and without subnormal numbers, in either format, one by one and side by side."""
    with torch.no_grad():
        for flush, memory in product((False, True), (torch.contiguous_format, torch.channels_last)):
            with _flushing(flush):
                yield layer(images.clone(memory_format=memory))
                yield torch.cat([layer(image) for image in images.split(1)])


def _images(generator: torch.Generator, narrow: bool) -> Tensor:
    """Return images of all exponents, or of few, so that sums cancel."""
    if not narrow:
        return _wild(generator, 3, *SHAPE)
    size = 10 ** (-44 + 82 * torch.rand(3, 1, 1, 1, generator=generator, dtype=torch.float64))
    return (size * torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)).clamp(-3e38, 3e38).float()


def _executed_and_bound(
    layer: nn.Module, centers: Tensor, points: Tensor
) -> tuple[list[Tensor], Exact, list[float]] | None:
    """Return executions, exact values and bounds on their distance, entry by entry; None for a layer that is refused.

    Args:
        layer: in eval mode.
        centers: of the balls that the bound is of, (B, *SHAPE); `points`: as many in them, which are executed.
    """
    radii = (points.double() - centers.double()).flatten(1).norm(dim=1) * (1 + 1e-9)
    try:
        analysis = analyze(layer.double(), centers.double(), radii, "global", ExactNorms(), arithmetic=SINGLE)
    except UnsupportedLayerError:
        return None
    assert analysis.region.rounding is not None
    entries = analysis.region.rounding.entries.expand(len(points), *analysis.region.shape).flatten().tolist()
    executions = list(_executions(layer.float(), points))
    exact = [value for point in points for value in _exact(layer, _fractions(point), SHAPE)]
    return executions, exact, entries


def _distinct(executions: list[Tensor]) -> list[set[float]]:
    """Return the values that executions have, entry by entry: most have one."""
    return [set(values) for values in zip(*(each.flatten().tolist() for each in executions), strict=True)]


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_no_execution_is_farther_from_fractions_than_its_bound(kind: str, moved: bool) -> None:
    """`moved`: at points of a ball around other images."""
    compared, reached = 0, 0.0
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        layer, points = LAYERS[kind](generator).eval(), _images(generator, seed % 2 == 0)
        centers = points * (1 + 0.1 * torch.rand(points.shape, generator=generator)) if moved else points
        found = _executed_and_bound(layer, centers.clamp(-3.4e38, 3.4e38), points)
        if found is None:
            continue
        executions, exact, entries = found
        for values, right, entry in zip(_distinct(executions), exact, entries, strict=True):
            if not entry < math.inf:  # nor NaN: nothing is certified
                continue
            compared, allowed = compared + len(executions), Fraction(entry)
            for value in values:
                assert math.isfinite(value), (seed, entry)
                error = abs(Fraction(value) - right)
                assert error <= allowed, (seed, float(error), entry)
                reached = max(reached, float(error / allowed)) if allowed else reached
    assert compared > 1000
    assert moved or reached > 0.01  # bounds are of the size of what happens


@pytest.mark.parametrize("kind", LAYERS)
def test_nor_than_the_bound_of_the_re_check(kind: str) -> None:
    """Which has rules of its own, and derives nothing where a value may overflow."""
    compared = 0
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        layer, points = LAYERS[kind](generator).eval(), _images(generator, seed % 2 == 0)
        program = compile_program(nn.Sequential(layer, nn.Flatten()).eval(), SHAPE)
        executions = list(_executions(layer, points))
        for image, point in enumerate(points):
            try:
                entries = Derivation(program, point.double(), 0.0, False, False, Norms()).logits.executed.entries
            except ArithmeticError:
                continue
            exact = _exact(layer, _fractions(point), SHAPE)
            several = _distinct([executed[image] for executed in executions])
            for values, right, entry in zip(several, exact, entries.flatten().tolist(), strict=True):
                compared, allowed = compared + len(executions), Fraction(entry)
                for value in values:
                    assert math.isfinite(value), (seed, image, entry)
                    assert abs(Fraction(value) - right) <= allowed, (seed, image, entry)
    assert compared > 1000
