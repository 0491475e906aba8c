"""Where norm estimates start: from one vector for all images, or from vectors that training images keep.

Everything kept serves *estimates*: a bad start makes an estimate smaller, never a certificate larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.norms import Norms
from lipcert.bounds.operators import Shape
from lipcert.bounds.vector_table import VectorTable

LARGEST_KEPT = 2048
"""Bytes of vectors that `output_side` keeps an image, at most."""

ADMIXTURE = 1e-3
"""Share of the shared start in an image's own, so that no mask leaves it zero."""


@dataclass(frozen=True)
class Kind:
    """A way to start. `choose`: which of the sides, by name, images keep a vector of.

    `input_side`: right singular vectors are kept, as published; left ones otherwise. `on_host`: in host memory
    whatever the device of the model; on the model's device otherwise.
    """

    choose: Callable[[Mapping[str, Shape]], list[str]]
    dtype: torch.dtype
    input_side: bool
    on_host: bool


def _none(sides: Mapping[str, Shape]) -> list[str]:
    return []


def _all(sides: Mapping[str, Shape]) -> list[str]:
    return list(sides)


def _flat_that_fit(sides: Mapping[str, Shape]) -> list[str]:
    """Return dense maps whose half-precision vectors fit into `LARGEST_KEPT` bytes, the smallest first."""
    chosen, left = [], LARGEST_KEPT
    for name, shape in sorted(sides.items(), key=lambda side: math.prod(side[1])):
        needed = math.prod(shape) * torch.float16.itemsize
        if len(shape) == 1 and needed <= left:
            chosen.append(name)
            left -= needed
    return chosen


KINDS = {
    "shared": Kind(_none, torch.float16, input_side=False, on_host=False),
    "output_side": Kind(_flat_that_fit, torch.float16, input_side=False, on_host=False),
    "per_image": Kind(_all, torch.float32, input_side=True, on_host=True),
}
"""`shared`: nothing is kept. `output_side`: left vectors of dense maps. `per_image`: all right vectors (published)."""


@dataclass
class MapsMet:
    """Norms that remember which linear maps were masked; wraps other norms for one walk."""

    norms: Norms
    maps: dict[str, LinearMap] = field(default_factory=dict)

    def whole(self, name: str, linear_map: LinearMap, like: Tensor) -> Tensor:
        return self.norms.whole(name, linear_map, like)

    def masked(
        self, name: str, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None, like: Tensor
    ) -> Tensor:
        self.maps[name] = linear_map
        return self.norms.masked(name, linear_map, rows, columns, like)


class WarmStart:
    """Start vectors of each image's masked norms.

    Args:
        name: a key of `KINDS`.
        count: number of training images; they are known by their numbers from 0 on.

    Images that were never seen, and maps whose vectors are not kept, start from the shared vector.

    Raises:
        ValueError: for an unknown name or a negative count.
    """

    def __init__(self, name: str = "shared", count: int = 0) -> None:
        if name not in KINDS:
            raise ValueError(f"Expected `warm_start.name` to be one of {list(KINDS)}, got {name!r}.")
        if count < 0:
            raise ValueError(f"Expected `count` >= 0, got {count}.")
        self.name = name
        self.kind = KINDS[name]
        self.count = count
        self.kept: dict[str, int] = {}
        self.sharing: list[str] = []
        self._tables: dict[str, VectorTable] = {}
        self._visited: Tensor | None = None

    def reserve(self, maps: Mapping[str, LinearMap]) -> None:
        """Decide which of the maps, by name, keep vectors: `kept` entries an image; the others are `sharing`."""
        sides = {
            name: each.input_shape if self.kind.input_side else each.output_shape
            for name, each in maps.items()
            if not each.trivial
        }
        chosen = set(self.kind.choose(sides))
        self.kept = {name: math.prod(shape) for name, shape in sides.items() if name in chosen}
        self.sharing = [name for name in maps if name not in chosen]

    @property
    def bytes_per_image(self) -> int:
        """Bytes of vectors that an image keeps."""
        return sum(self.kept.values()) * self.kind.dtype.itemsize

    def _table(self, name: str, device: torch.device) -> VectorTable:
        """Return a map's table, made at the first use, where it is to lie."""
        device = torch.device("cpu") if self.kind.on_host else device
        if name not in self._tables:
            self._tables[name] = VectorTable(self.count, self.kept[name], self.kind.dtype, device)
        table = self._tables[name]
        table.vectors = table.vectors.to(device)
        return table

    def keeps(self, name: str) -> bool:
        """Return whether images keep vectors of the map of that name."""
        return name in self.kept

    def start(
        self,
        name: str,
        images: Tensor,
        masked: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        shared: Tensor,
    ) -> Tensor:
        """Return left start vectors, (B, *output_shape), inside the row mask.

        Args:
            name: of the map.
            images: (B,), numbers of the training images.
            masked: diag(rows) M diag(columns).
            rows, columns: the masks, in the dtype of `shared`.
            shared: (B, *output_shape): where images without a vector start.
        """
        if not self.keeps(name):
            return shared
        shape, mask = (masked.input_shape, columns) if self.kind.input_side else (masked.output_shape, rows)
        vectors, known = self._table(name, shared.device).take(images, shared)
        vectors = vectors.view(-1, *shape) if mask is None else vectors.view(-1, *shape) * mask
        own = masked.apply(vectors) if self.kind.input_side else vectors
        return torch.where(known.view(-1, *(1 for _ in shared.shape[1:])), own + ADMIXTURE * shared, shared)

    def keep(self, name: str, images: Tensor, left: Tensor, right: Tensor) -> None:
        """Take new singular vectors, of any length.

        Args:
            name: of the map.
            images: numbers of the images, (B,).
            left: (B, *output_shape).
            right: (B, *input_shape).
        """
        if self.keeps(name):
            table = self._table(name, left.device)
            table.put(images, right if self.kind.input_side else left)
            visited = self._flags().to(table.vectors.device)
            visited[images.to(visited.device)] = True
            self._visited = visited

    def _flags(self) -> Tensor:
        """Return which images this process visited since the last merge, (count,), bool."""
        return torch.zeros(self.count, dtype=torch.bool) if self._visited is None else self._visited

    def merge(self, sum_over_ranks: Callable[[Tensor], Tensor], rank: int, world_size: int) -> None:
        """Give every process all vectors; to be called by all of them at the end of an epoch.

        An image that several processes visited keeps the vector of the lowest rank.

        Args:
            sum_over_ranks: sums a float32 tensor over processes.
            rank: of this process.
            world_size: number of processes.
        """
        if not self.kept:
            return
        counts = torch.zeros(world_size, self.count)
        counts[rank] = self._flags().float().cpu()
        visited = sum_over_ranks(counts).cpu() > 0
        changed = visited.any(dim=0)
        if not bool(changed.any()):
            return
        own = changed & (visited.int().argmax(dim=0) == rank)
        for name in self.kept:
            table = self._tables.get(name) or self._table(name, torch.device("cpu"))
            table.merge(own, changed, sum_over_ranks)
        self._visited = None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs: the kind, and every table's vectors."""
        return {"name": self.name, "vectors": {name: table.vectors for name, table in self._tables.items()}}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state`; None stands for a checkpoint of `shared`.

        Raises:
            ValueError: if it is of another kind, or its vectors are of other images or maps.
        """
        saved = "shared" if state is None else state["name"]
        if saved != self.name:
            raise ValueError(
                f"The checkpoint was trained with warm_start={saved}, this run has warm_start={self.name}; "
                f"set warm_start={saved} to go on."
            )
        vectors: Mapping[str, Tensor] = {} if state is None else state["vectors"]
        found = {name: tuple(each.shape) for name, each in vectors.items()}
        expected = {name: (self.count, size) for name, size in self.kept.items()}
        if any(expected.get(name) != shape for name, shape in found.items()):
            raise ValueError(
                f"The checkpoint keeps vectors of shapes {found} (images, entries), this run expects {expected}; "
                "train on the same images with the same network and bound."
            )
        self._tables = {}
        for name, each in vectors.items():
            self._tables[name] = VectorTable(0, 0, self.kind.dtype, each.device)
            self._tables[name].vectors = each.to(self.kind.dtype)
