"""What a link predictor is: a name and a kernel that scores some rows of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import transpose

__all__ = ["Layer", "Predictor", "Tiles"]

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """A layer's links by row and by column, as the kernels read them."""

    indptr: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int32]
    t_indptr: npt.NDArray[np.int32]
    t_indices: npt.NDArray[np.int32]

    @classmethod
    def of(cls, adjacency: sparse.csr_array) -> Layer:
        """Read-only views of a canonical adjacency and of its transpose."""
        t_indptr, t_indices, _ = transpose(adjacency)
        return cls(adjacency.indptr, adjacency.indices, t_indptr, t_indices)

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_out, n_in)``."""
        return len(self.indptr) - 1, len(self.t_indptr) - 1

    @property
    def arrays(self) -> tuple[Any, Any, Any, Any]:
        """The four arrays for a kernel; unsigned indices: numba need not look for negative ones."""
        indices, t_indices = (i.view(np.uint32) for i in (self.indices, self.t_indices))
        return self.indptr, indices, self.t_indptr, t_indices

    @cached_property
    def wedges(self) -> tuple[Floats, Floats]:
        """Walks of length two from each output neuron, and from each input neuron."""
        out, into = np.diff(self.indptr), np.diff(self.t_indptr)
        return _summed(into, self.indptr, self.indices), _summed(out, self.t_indptr, self.t_indices)

    @cached_property
    def walks(self) -> Floats:
        """Walks of length three from each output neuron."""
        return _summed(self.wedges[1], self.indptr, self.indices)


def _summed(values: npt.NDArray[Any], indptr: npt.NDArray[Any], of: npt.NDArray[Any]) -> Floats:
    totals = np.concatenate([[0.0], np.cumsum(values[of], dtype=np.float64)])
    return np.asarray(totals[indptr[1:]] - totals[indptr[:-1]])


class Tiles(Protocol):
    """A second way to score a layer: in tiles of rows x columns, for layers with many links.

    It gives the same bits as the predictor's ``score_rows``.
    """

    def faster(self, layer: Layer, rows: Rows) -> bool:
        """Whether tiles are expected to score these rows in less time."""
        ...

    def score(self, layer: Layer, rows: Rows, first: int, out: Floats) -> None:
        """Score the columns of some rows from `first` on."""
        ...


@dataclass(frozen=True)
class Predictor:
    """A link predictor.

    Attributes
    ----------
    name : str
        Its key in `PREDICTORS`.
    score_rows : callable
        ``score_rows(layer, rows, out)`` writes the float64 scores of the rows' cells to ``out``,
        shape ``(len(rows), n_in)``. A row's result depends on the layer alone, not on which other
        rows are asked for. Only absent links need a right value.
    uniform : bool
        Whether every absent link scores the same, so that none needs to be computed.
    tiles : Tiles, optional
        A faster way for layers with many links.
    """

    name: str
    score_rows: Callable[[Layer, Rows, Floats], None]
    uniform: bool = False
    tiles: Tiles | None = None
