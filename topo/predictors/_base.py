"""What a link predictor is: a name and a kernel that scores some rows of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

__all__ = ["Layer", "Predictor"]


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
        from topo.adjacency import transpose

        t_indptr, t_indices, _ = transpose(adjacency)
        return cls(adjacency.indptr, adjacency.indices, t_indptr, t_indices)


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
    """

    name: str
    score_rows: Callable[[Layer, npt.NDArray[np.int64], npt.NDArray[np.float64]], None]
    uniform: bool = False
