"""The layers of lipcert in plain torch, as exported files hold them: the same operations, the same names."""

import torch
from torch import Tensor, nn


class Abs(nn.Module):
    """The absolute value."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.abs()


class ChannelPad(nn.Module):
    """Channels of zeros in front and behind; negative numbers cut channels off."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.pad(inputs, ((0, 0) * (inputs.dim() - 2)) + (self.before, self.after))


class ClippedMaxMin(nn.Module):
    """Pairs (channel i, channel i + C/2) sorted, the larger clipped from above, the smaller from below."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.max = nn.Parameter(torch.ones(1, shape[0] // 2, *shape[1:]))
        self.min = nn.Parameter(-torch.ones(1, shape[0] // 2, *shape[1:]))

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = inputs.chunk(2, dim=1)
        larger, smaller = torch.maximum(first, second), torch.minimum(first, second)
        return torch.cat((torch.minimum(larger, self.max), torch.maximum(smaller, self.min)), dim=1)


class ClippedReLU(nn.Module):
    """min(max(z, 0), threshold), one threshold a neuron."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.ones(1, *shape))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.minimum(inputs.relu(), self.threshold)


class ElementwiseAffine(nn.Module):
    """scale * h + shift, constants of these shapes; None for neither."""

    def __init__(self, scale: tuple[int, ...] | None, shift: tuple[int, ...] | None) -> None:
        super().__init__()
        self.register_buffer("scale", None if scale is None else torch.ones(scale))
        self.register_buffer("shift", None if shift is None else torch.zeros(shift))
        self.scale: Tensor | None
        self.shift: Tensor | None

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = inputs if self.scale is None else inputs * self.scale
        return scaled if self.shift is None else scaled + self.shift


class GroupSort2(nn.Module):
    """Adjacent channels sorted: (2k, 2k + 1) become (min, max)."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = inputs.unflatten(1, (-1, 2)).unbind(2)
        return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), dim=2).flatten(1, 2)


class HalvesToPairs(nn.Module):
    """Channels k of the first and of the second half to the places 2k + 1 and 2k."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.unflatten(1, (2, -1)).flip(1).transpose(1, 2).flatten(1, 2)


class Householder(nn.Module):
    """Pairs (channel i, channel i + C/2), reflected behind the lines that these directions are normal to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.ones(2, channels // 2))

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = inputs.chunk(2, dim=1)
        v, w = (each.view(-1, *(1 for _ in inputs.shape[2:])) for each in self.directions)
        depth = (v * first + w * second).clamp_max(0) * (2 / (v * v + w * w))
        return torch.cat((first - v * depth, second - w * depth), dim=1)


class LayerGraph(nn.Module):
    """Named layers, each applied to earlier ones or to the image, ""."""

    def __init__(self, layers: dict[str, nn.Module], sources: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.sources = sources

    def forward(self, images: Tensor) -> Tensor:
        values = {"": images}
        for name, sources in self.sources.items():
            images = values[name] = getattr(self, name)(*[values[each] for each in sources])
        return images


class MaxMin(nn.Module):
    """Pairs (channel i, channel i + C/2) sorted: the larger in the first half."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = inputs.chunk(2, dim=1)
        return torch.cat((torch.maximum(first, second), torch.minimum(first, second)), dim=1)


class Normalize(nn.Module):
    """(x - mean) / std, channel by channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (inputs.dim() - 2)
        return (inputs - self.mean.view(shape)) / self.std.view(shape)


class PairsToHalves(nn.Module):
    """Channels (2k, 2k + 1) to the places k of the first and of the second half."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


class Permute(nn.Module):
    """Dimensions in another order; the batch stays first."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.permute(self.order)


class Residual(nn.Module):
    """branch(h) + shortcut(h)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        return self.branch(inputs) + self.shortcut(inputs)


class Sum(nn.Module):
    """The sum of two inputs."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class Transform(nn.Module):
    """torchvision's Normalize: its constants are no buffers."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, inputs: Tensor) -> Tensor:
        mean, std = (inputs.new_tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return (inputs - mean) / std


def sequential(layers: dict[str, nn.Module]) -> nn.Sequential:
    """Layers one after the other, by name."""
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model
