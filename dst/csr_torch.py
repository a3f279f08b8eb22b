"""The products of a linear layer in CSR, by torch's own sparse kernels (cuSPARSE on CUDA).

The functions of `dst.csr_kernels`, for devices other than the CPU; they run there, too.
"""

from __future__ import annotations

import warnings

import torch

__all__ = ["csr_tensor", "dots", "product"]

with warnings.catch_warnings():  # torch says once per process that CSR support is in beta
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


def product(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """``(W x + bias)'``, of shape (batch, n_out), for W in canonical CSR and x (n_in, batch)."""
    if order is not None:
        values = values.index_select(0, order)
    rows, batch = len(indptr) - 1, x.shape[1]
    y = x.new_empty_strided((batch, rows), (1, batch))
    with torch.autocast(x.device.type, enabled=False):  # a backward pass may be under it
        torch.mm(csr_tensor(indptr, indices, values, (rows, len(x))), x, out=y.t())
    return y if bias is None else y.add_(bias)


def dots(
    indptr: torch.Tensor, indices: torch.Tensor, x: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """For every link (v, u) the inner product of grad[v] and x[u]: the gradient of its value."""
    pattern = csr_tensor(indptr, indices, x.new_zeros(len(indices)), (len(grad), len(x)))
    with torch.autocast(x.device.type, enabled=False):
        return torch.sparse.sampled_addmm(pattern, grad, x.t(), beta=0.0).values()


def csr_tensor(
    indptr: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """A sparse CSR tensor that shares its parts, unchecked."""
    return torch.sparse_csr_tensor(indptr, indices, values, shape, check_invariants=False)
