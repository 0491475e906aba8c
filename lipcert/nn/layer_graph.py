"""Directed acyclic graphs of layers: what networks with a `forward` of their own are imported as."""

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

IMAGE = ""
"""What the image is called among the sources of a layer."""


class Sum(nn.Module):
    """The sum of two inputs of one shape; only in a `LayerGraph`."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return first + second, (B, ...) each."""
        return first + second


class LayerGraph(nn.Module):
    """Named layers, each applied to the image or to what an earlier layer yields; a `Sum` to two of these.

    Args:
        layers: by name, in the order of execution; the last one's output is the network's. One may stand there twice.
        sources: of each layer, names of earlier ones or "" for the image: two of a `Sum`, one of others.

    Raises:
        ValueError: for no layers, or sources that are not there or not as many as the layer takes.
    """

    __constants__ = ("sources",)

    def __init__(self, layers: Mapping[str, nn.Module], sources: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        if not layers or layers.keys() != sources.keys():
            raise ValueError(f"Expected sources of each of the layers {list(layers)}, got those of {list(sources)}.")
        for name, layer in layers.items():
            count, known = 2 if isinstance(layer, Sum) else 1, {IMAGE, *self._modules}
            if len(sources[name]) != count or not known.issuperset(sources[name]):
                raise ValueError(
                    f"Expected {count} source{'s' * (count > 1)} of layer {name!r} among the image, '', and earlier "
                    f"layers, got {list(sources[name])}."
                )
            self.add_module(name, layer)
        self.sources = tuple(tuple(sources[name]) for name in layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the last layer's output for `images`, (B, ...)."""
        uses = Counter(source for sources in self.sources for source in sources)
        values, output = {IMAGE: images}, images
        for (name, layer), sources in zip(self._modules.items(), self.sources, strict=True):
            assert layer is not None
            output = layer(*(values[source] for source in sources))
            uses.subtract(sources)
            for source in sources:
                if not uses[source]:
                    values.pop(source, None)  # later layers do without
            values[name] = output
        return output

    def extra_repr(self) -> str:
        """Return the sources of every layer, in order."""
        return f"sources={self.sources}"
