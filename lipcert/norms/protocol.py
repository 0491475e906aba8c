"""What bounds ask of a norm algorithm."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from lipcert.graph.operators import LinearMap


class MapKey(NamedTuple):
    """Which linear map of a graph a norm is asked for.

    Attributes:
        graph: key of a graph whose weights nobody else holds, so that norms may be kept; None for others.
        source, target: nodes where the map starts and ends.
        across: whether it runs across activations (loop transformation).
        name: of the activation or layer that it ends at, with a number where several maps end there; unique.
    """

    graph: int | None
    source: int
    target: int
    across: bool
    name: str


class Norms(Protocol):
    """Spectral norms of the linear maps between activations; each implementation says: upper bounds, or estimates."""

    def global_norm(self, key: MapKey, linear_map: LinearMap) -> Tensor:
        """Return the norm of the map itself, the same for all images, (1,)."""
        ...

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        """Return norms of diag(rows) M diag(columns), (B,), or (1,) where nothing differs between images.

        `rows`: (B, *output_shape), `columns`: (B, *input_shape), 0/1 masks; None for ones.
        """
        ...


@runtime_checkable
class SideBySide(Norms, Protocol):
    """Norms of all maps of a network that are found together, in fewer operations than one after another."""

    def global_norms(self, maps: Mapping[MapKey, LinearMap]) -> dict[MapKey, Tensor]:
        """Return what `global_norm` does of each map, (1,)."""
        ...
