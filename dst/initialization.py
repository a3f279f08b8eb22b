"""Initial weights of the links, by name in `INITIALIZATIONS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.special import ndtri
from torch import nn

import topo

__all__ = ["INITIALIZATIONS", "keep", "normal", "swi", "uniform"]

SEED_NAME = "weights"

Initialization = Callable[[nn.Linear, sparse.csr_array, int], Any]


def swi(adjacency: sparse.csr_array, key: int) -> npt.NDArray[np.float64]:
    r"""Sparse weight initialisation: N(0, 2 / (density * fan_in)) on every link.

    Each neuron's input then has the variance that Kaiming initialisation gives a dense layer.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)
    key : int
        From `topo.stream`; each value is a function of it, the row and the column.

    Returns
    -------
    array of float64, shape (links,)

    References
    ----------
    Zhang et al., ICLR 2024 (CHT), "sparse weight initialization".

    Examples
    --------
    >>> import topo
    >>> from dst.initialization import swi
    >>> values = swi(topo.erdos_renyi(500, 400, 0.05, seed=0), topo.stream(0))
    >>> bool(abs(values.std() - (2 / (0.05 * 400)) ** 0.5) < 0.01)
    True
    """
    n_out, n_in = adjacency.shape
    density = max(adjacency.nnz, 1) / (n_out * n_in)
    return normal(adjacency, key, float(np.sqrt(2 / (density * n_in))))


def normal(adjacency: sparse.csr_array, key: int, std: float) -> npt.NDArray[np.float64]:
    """N(0, std ** 2) on every link, each value a function of the key, the row and the column."""
    uniforms = topo.uniform(topo.hash_links(key, *topo.links(adjacency)))
    return np.asarray(ndtri(uniforms) * std)


def keep(linear: nn.Linear, adjacency: sparse.csr_array) -> npt.NDArray[Any]:
    """The dense layer's own weights on the links."""
    weight = linear.weight.detach()
    if weight.dtype == torch.bfloat16:  # numpy has none; float32 holds its numbers
        weight = weight.float()
    return np.asarray(weight.cpu().numpy()[topo.links(adjacency)])


def uniform(adjacency: sparse.csr_array, key: int) -> npt.NDArray[np.float64]:
    """U(-b, b) with b = fan_in ** -0.5 on every link: SLTrain's, and torch's of a dense layer.

    Examples
    --------
    >>> import topo
    >>> from dst.initialization import uniform
    >>> values = uniform(topo.erdos_renyi(500, 400, 0.05, seed=0), topo.stream(0))
    >>> bool(0.0499 < abs(values).max() < 0.05)
    True
    """
    uniforms = topo.uniform(topo.hash_links(key, *topo.links(adjacency)))
    return np.asarray((2 * uniforms - 1) * adjacency.shape[1] ** -0.5)


INITIALIZATIONS: dict[str, Initialization] = {
    "swi": lambda linear, adjacency, key: swi(adjacency, key),
    "keep": lambda linear, adjacency, key: keep(linear, adjacency),
    "uniform": lambda linear, adjacency, key: uniform(adjacency, key),
}
"""By name: ``f(linear, adjacency, key)`` gives one value per link."""
