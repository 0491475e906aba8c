"""How many power iterations the masked maps of each image need to converge: a measurement, no certificate.

Source: Figure 5 of the paper: from a random start, until ||u(t+1) - u(t)|| <= 1e-3.
"""

from collections import Counter

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, analyze
from lipcert.certificates.float64 import double_copy
from lipcert.graph import LinearMap, compile_graph
from lipcert.norms import MapKey, UpperNorms
from lipcert.norms.krylov import lengths_of, over_lengths
from lipcert.records.measurement import NOT_CONVERGED
from lipcert.system.progress import progress


@torch.no_grad()
def iterations_to_converge(
    linear_map: LinearMap, start: Tensor, rows: Tensor | None, columns: Tensor | None, tolerance: float, largest: int
) -> Tensor:
    """Return how many power iterations each image's map diag(rows) M diag(columns) takes, (B,), integers.

    One iteration: u <- MᵀM u / ||MᵀM u||. The count ends where u, of length 1, moved by `tolerance` or less; it is 0
    for a map that is zero and `NOT_CONVERGED` after more than `largest`. `start`: (B, *input_shape), of which the part
    inside the column mask is used; `rows`, `columns`: (B, *output_shape), (B, *input_shape), 0 or 1; None for ones.
    """
    counts = torch.full((len(start),), NOT_CONVERGED, device=start.device)
    vectors = start if columns is None else start * columns
    vectors = over_lengths(vectors, lengths_of(vectors))
    left = torch.arange(len(start), device=start.device)
    masked = linear_map.restricted(rows, columns)
    for number in range(1, largest + 1):
        following = masked.adjoint(masked.apply(vectors))
        lengths = lengths_of(following)
        following = over_lengths(following, lengths)
        done = (lengths == 0) | (lengths_of(following - vectors) <= tolerance)
        vectors = following
        if bool(done.any()):
            counts[left[done]] = torch.where(lengths[done] == 0, 0, number)
            left, vectors = left[~done], vectors[~done]
            masked = linear_map.restricted(*(None if mask is None else mask[left] for mask in (rows, columns)))
        if not len(left):
            break
    return counts.cpu()


class CountingNorms(UpperNorms):
    """Upper bounds of norms; counts what power iteration would take for each masked map.

    `counts`: how many images took so many iterations, by layer. `images`: in the present batch.
    """

    def __init__(self, tolerance: float, largest: int, seed: int) -> None:
        super().__init__()
        self.tolerance, self.largest, self.images = tolerance, largest, 1
        self.starts = torch.Generator().manual_seed(seed)
        self.counts: dict[str, Counter[int]] = {}

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        origin, shape = linear_map.origin, linear_map.input_shape
        start = torch.randn(self.images, *shape, generator=self.starts, dtype=origin.dtype).to(origin.device)
        taken = iterations_to_converge(linear_map, start, rows, columns, self.tolerance, self.largest)
        self.counts.setdefault(key.name, Counter()).update(taken.tolist())
        return super().local_norms(key, linear_map, rows, columns)


@torch.no_grad()
def convergence_counts(
    model: nn.Module, images: Tensor, epsilon: float, tolerance: float, largest: int, batch_size: int, seed: int
) -> dict[str, Counter[int]]:
    """Return how many images take so many iterations, by layer in order, with the masks of the paper's local bound.

    `images`: (N, C, H, W), pixels in [0, 1]; `epsilon`: l2 radius that the masks hold for; `seed`: of start vectors;
    the others as for `iterations_to_converge`.
    """
    graph = compile_graph(double_copy(model), images.shape[1:]).frozen()
    norms = CountingNorms(tolerance, largest, seed)
    with progress("power iterations", len(images)) as advance:
        for first in range(0, len(images), batch_size):
            batch = images[first : first + batch_size].double()
            norms.images = len(batch)
            analyze(graph, batch, epsilon, Bound.LOCAL, norms)
            advance(len(batch))
    return norms.counts
