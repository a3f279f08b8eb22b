"""The last weights of links that went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

import topo
from topo.adjacency import positions
from topo.changes import subset, union

__all__ = ["StoredWeights", "gather"]


class StoredWeights:
    """The links that a layer once had, with their last weights: 8 bytes each for float32.

    Attributes
    ----------
    links : csr_array of bool, shape (n_out, n_in)
        None of them is present.
    weights : Tensor, shape (links,)
        On the CPU.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.links: sparse.csr_array = topo.from_links([], [], shape)
        self.weights: Tensor = torch.empty(0, dtype=dtype)

    def joined(self, present: sparse.csr_array) -> sparse.csr_array:
        """The links that are there and those that are stored."""
        return union(present, *topo.links(self.links))

    def read(self, links: sparse.csr_array) -> Tensor:
        """The stored weight of each of these links; 0 where there is none."""
        return gather(self.weights, positions(links, among=self.links))

    def updated(
        self, before: sparse.csr_array, weights: Tensor, after: sparse.csr_array
    ) -> StoredWeights:
        """With what went from `before`, with its weights, and without what is there `after`."""
        everything = self.joined(before)
        at = torch.from_numpy(positions(everything, among=before))
        values = self.read(everything)
        values[at >= 0] = weights[at[at >= 0]].to(values)
        gone: npt.NDArray[np.bool_] = positions(everything, among=after) < 0
        updated = StoredWeights(before.shape, values.dtype)
        updated.links = subset(everything, gone)
        updated.weights = values[torch.from_numpy(gone)]
        return updated

    def state_dict(self) -> dict[str, Any]:
        """Index arrays and weights."""
        arrays = {"indptr": self.links.indptr, "indices": self.links.indices}
        return {k: torch.from_numpy(a.copy()) for k, a in arrays.items()} | {
            "weights": self.weights.clone()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        indptr, indices, weights = (state[k].cpu() for k in ("indptr", "indices", "weights"))
        data = np.ones(len(indices), dtype=bool)
        links = sparse.csr_array((data, indices.numpy(), indptr.numpy()), shape=self.links.shape)
        self.links = topo.as_adjacency(links)
        if weights.shape != (self.links.nnz,):
            raise ValueError(f"{self.links.nnz} stored links, weights of {tuple(weights.shape)}")
        self.weights = weights.to(self.weights.dtype, copy=True)


def gather(values: Tensor, at: npt.NDArray[np.int64]) -> Tensor:
    """The values at some positions (`topo.adjacency.positions`); 0 where there is none."""
    where = torch.from_numpy(at).to(values.device)
    out = values.new_zeros(len(where))
    out[where >= 0] = values[where[where >= 0]]
    return out
