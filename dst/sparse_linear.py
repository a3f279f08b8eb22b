"""A linear layer whose weights, gradients and optimizer state live on its links."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.autograd.function import once_differentiable

import topo
from dst.initialization import SEED_NAME, swi
from topo.adjacency import transpose, wrap_csr
from topo.names import find

__all__ = ["SparseLinear", "make_adjacency"]

_DTYPES = (torch.float32, torch.float64)
_PRECISION = "the csr layout computes in float32 or float64"

with warnings.catch_warnings():  # torch says once per process that CSR support is in beta
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


class SparseLinear(nn.Module):
    r"""Apply :math:`y = x W^\top + b` with a sparse W that stores its links and nothing else.

    A drop-in for `torch.nn.Linear` in the csr layout: the parameter `values` has one entry per
    link, and so have its gradient and the optimizer's state. No dense weight or gradient is made.

    Parameters
    ----------
    in_features, out_features : int
    density : float, optional
        Share of the possible links that exist, in (0, 1]; needed unless `topology` is a matrix.
    topology : str, matrix or callable
        A name in `topo.GENERATORS`, an adjacency of shape (out_features, in_features), or a
        callable ``f(n_out, n_in, density, seed=seed)`` that returns one.
    layout : {"auto", "csr"}
        How the weights are stored. "auto" is "csr".
    bias : bool
    seed : int
        Of the topology and of the initial weights (SWI: N(0, 2 / (density * in_features))).

    Attributes
    ----------
    values : Parameter, shape (links,)
        One weight per link, in row-major order.
    bias : Parameter, shape (out_features,), or None
    adjacency : csr_array of bool, shape (out_features, in_features)
    density : float
    layout : str

    Notes
    -----
    float32 and float64; any leading batch dimensions. The work is done batch-last, so a chain of
    these layers with elementwise functions in between never transposes an activation.

    Examples
    --------
    >>> import torch, dst
    >>> layer = dst.SparseLinear(100, 50, density=0.02)
    >>> layer
    SparseLinear(in_features=100, out_features=50, links=100, density=0.02, layout=csr, bias=True)
    >>> layer(torch.ones(8, 100)).shape, layer.values.shape
    (torch.Size([8, 50]), torch.Size([100]))
    """

    values: nn.Parameter
    indptr: torch.Tensor
    indices: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        density: float | None = None,
        topology: Any = "small_world",
        layout: str = "auto",
        bias: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_layout(layout)
        adjacency = make_adjacency(topology, out_features, in_features, density, seed)
        self.in_features = int(in_features)
        self.out_features = int(out_features)
        self.layout = "csr"
        self._set_indices(adjacency, torch.device("cpu"))
        values = swi(adjacency, topo.stream(seed, SEED_NAME))
        self.values = nn.Parameter(torch.from_numpy(values).to(torch.get_default_dtype()))
        if bias:
            hashes = topo.hash_links(topo.stream(seed, "bias"), np.arange(out_features))
            bias_values = (2 * topo.uniform(hashes) - 1) * in_features**-0.5  # as nn.Linear
            self.bias = nn.Parameter(torch.from_numpy(bias_values).to(self.values.dtype))
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, adjacency: sparse.csr_array, values: Any
    ) -> SparseLinear:
        """Take the place of a dense layer: its bias, device, dtype and mode, these links.

        Parameters
        ----------
        linear : torch.nn.Linear
        adjacency : csr_array of bool, shape (out_features, in_features)
        values : array_like, shape (links,)
            The weights, in row-major order.
        """
        dtype, device = linear.weight.dtype, linear.weight.device
        if dtype not in _DTYPES:
            raise ValueError(f"{_PRECISION}, not {dtype}")
        if device.type == "meta":
            raise ValueError("the layer is on the meta device: give it storage first (to_empty)")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        layer.layout = "csr"
        layer._set_indices(adjacency, device)
        data = torch.as_tensor(values).detach().to(device, dtype, copy=True)
        if data.shape != (adjacency.nnz,):
            raise ValueError(f"{adjacency.nnz} links need as many values, not {tuple(data.shape)}")
        layer.values = nn.Parameter(data, requires_grad=linear.weight.requires_grad)
        layer.register_parameter("bias", linear.bias)
        return layer.train(linear.training)

    @property
    def adjacency(self) -> sparse.csr_array:
        """The topology; on the CPU it shares its index arrays with the layer, read-only."""
        indptr, indices = (t.detach().cpu().numpy() for t in (self.indptr, self.indices))
        return wrap_csr(indptr, indices, (self.out_features, self.in_features))

    @property
    def density(self) -> float:
        """Links over possible links."""
        return self.values.numel() / (self.in_features * self.out_features)

    def rewire(self, adjacency: sparse.csr_array, source: torch.Tensor) -> None:
        """Replace the topology by one with as many links; the parameter object stays.

        Parameters
        ----------
        adjacency : csr_array of bool
        source : int64 tensor, shape (links,)
            For each new link its position among the old ones, whose value it takes, or -1: it
            starts at 0.
        """
        if adjacency.nnz != self.values.numel():
            raise ValueError(
                f"the layer has {self.values.numel()} links, the new topology {adjacency.nnz}"
            )
        self._set_indices(adjacency, self.values.device)
        gather_(self.values.detach(), source)
        if self.values.grad is not None:
            gather_(self.values.grad, source)

    def to_dense(self) -> torch.Tensor:
        """The weight as a dense tensor of shape (out_features, in_features), detached."""
        dense = self.values.new_zeros(self.out_features, self.in_features)
        rows, cols = topo.links(self.adjacency)
        index = (torch.from_numpy(rows).long(), torch.from_numpy(cols.copy()).long())
        dense[index] = self.values.detach()
        return dense

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"expected inputs of shape (..., {self.in_features}), not {tuple(x.shape)}"
            )
        if self.values.dtype not in _DTYPES:
            raise ValueError(f"{_PRECISION}, not {self.values.dtype}")
        if torch.is_autocast_enabled(x.device.type):  # the kernels have no half precision
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(self.values.dtype))
        flat = x.reshape(-1, self.in_features)
        y = _CSRLinear.apply(
            flat,
            self.values,
            self.indptr,
            self.indices,
            self.t_indptr,
            self.t_indices,
            self.t_order,
        )
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """What `repr` says."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"links={self.values.numel()}, density={self.density:.4g}, layout={self.layout}, "
            f"bias={self.bias is not None}"
        )

    def _set_indices(self, adjacency: sparse.csr_array, device: torch.device) -> None:
        # New tensors every time: an adjacency that someone holds never changes.
        t_indptr, t_indices, t_order = transpose(adjacency)
        self.register_buffer("indptr", _tensor(adjacency.indptr, device))
        self.register_buffer("indices", _tensor(adjacency.indices, device))
        self.register_buffer("t_indptr", _tensor(t_indptr, device), persistent=False)
        self.register_buffer("t_indices", _tensor(t_indices, device), persistent=False)
        self.register_buffer("t_order", _tensor(t_order, device), persistent=False)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Values and topology are loaded together, or neither: kernels trust the indices.
        names = [f"{prefix}{n}" for n in ("values", "indptr", "indices")]
        whole = all(name in state_dict for name in names)
        links = len(state_dict[names[0]]) if whole else 0
        if links == self.values.numel():
            indptr, indices = (state_dict[name].cpu().numpy() for name in names[1:])
            shape = (self.out_features, self.in_features)
            arrays = (np.ones(len(indices), dtype=np.bool_), indices, indptr)
            try:  # scipy and as_adjacency check every index
                adjacency = topo.as_adjacency(sparse.csr_array(arrays, shape=shape))
                if adjacency.nnz != links:
                    raise ValueError(f"{adjacency.nnz} links for {links} values")
            except ValueError as error:
                raise ValueError(f"the topology of {prefix[:-1]!r} is bad: {error}") from None
            self._set_indices(adjacency, self.values.device)
        else:
            state_dict = {k: v for k, v in state_dict.items() if k not in names}
        ours = (state_dict, prefix, local_metadata, strict)
        super()._load_from_state_dict(*ours, missing_keys, unexpected_keys, error_msgs)
        if whole and links != self.values.numel():
            missing_keys[:] = [key for key in missing_keys if key not in names]
            error_msgs.append(
                f"layer {prefix[:-1]!r} has {self.values.numel()} links, the state {links}: "
                "make the model with the density of the state"
            )


class _CSRLinear(torch.autograd.Function):
    """x W' for x (batch, n_in) and W in CSR; every product runs on (features, batch)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        values: torch.Tensor,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        t_indptr: torch.Tensor,
        t_indices: torch.Tensor,
        t_order: torch.Tensor,
    ) -> torch.Tensor:
        x_t = x.t().contiguous()
        ctx.save_for_backward(x_t, values, indptr, indices, t_indptr, t_indices, t_order)
        shape = (len(indptr) - 1, len(t_indptr) - 1)
        return (_csr(indptr, indices, values, shape) @ x_t).t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_t, values, indptr, indices, t_indptr, t_indices, t_order = ctx.saved_tensors
        n_out, n_in = len(indptr) - 1, len(t_indptr) - 1
        grad_t = grad.t().contiguous()
        grad_x = grad_values = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                ordered = values.index_select(0, t_order)
                grad_x = (_csr(t_indptr, t_indices, ordered, (n_in, n_out)) @ grad_t).t()
            if ctx.needs_input_grad[1]:
                pattern = _csr(indptr, indices, values, (n_out, n_in))
                products = torch.sparse.sampled_addmm(pattern, grad_t, x_t.t(), beta=0.0)
                grad_values = products.values()
        return grad_x, grad_values, None, None, None, None, None


def _csr(
    indptr: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    return torch.sparse_csr_tensor(indptr, indices, values, shape, check_invariants=False)


def gather_(tensor: torch.Tensor, source: torch.Tensor) -> None:
    """``tensor[i] = tensor[source[i]]`` in place, 0 where the source is -1."""
    moved = tensor[source.clamp(min=0)]
    tensor.copy_(torch.where(source >= 0, moved, torch.zeros_like(moved)))


def check_layout(layout: str) -> None:
    """Refuse a layout that there is not."""
    if layout not in ("auto", "csr"):
        raise ValueError(f"layout must be 'auto' or 'csr', not {layout!r}")


def make_adjacency(
    topology: Any, n_out: int, n_in: int, density: float | None, seed: int
) -> sparse.csr_array:
    """The adjacency that a topology argument asks for.

    Parameters
    ----------
    topology : str, matrix or callable
        A name in `topo.GENERATORS`, a matrix of the right shape, or a callable
        ``f(n_out, n_in, density, seed=seed)``.
    n_out, n_in : int
    density : float or None
        None only for a matrix.
    seed : int

    Raises
    ------
    ValueError
        For an unknown name, a density outside (0, 1], a wrong shape, or a matrix whose number of
        links is not that of the density.
    """
    given = (
        sparse.issparse(topology) or isinstance(topology, list) or hasattr(topology, "__array__")
    )
    if given and density is None:
        adjacency = topo.as_adjacency(topology)
    else:
        if density is None:
            raise ValueError("density is needed: a number in (0, 1]")
        links = topo.link_count(density, n_out, n_in)
        if given:
            adjacency = topo.as_adjacency(topology)
        else:
            make = topology if callable(topology) else find(topo.GENERATORS, topology, "topology")
            adjacency = topo.as_adjacency(make(n_out, n_in, density, seed=seed))
        if adjacency.shape == (n_out, n_in) and adjacency.nnz != links:
            raise ValueError(
                f"the topology has {adjacency.nnz} links; density {density} of a "
                f"{n_out} x {n_in} layer is {links}"
            )
    if adjacency.shape != (n_out, n_in):
        raise ValueError(f"the topology has shape {adjacency.shape}, the layer {(n_out, n_in)}")
    return adjacency


def _tensor(array: Any, device: torch.device) -> torch.Tensor:
    # torch warns about read-only arrays; the memory is shared and nobody writes to it
    if not array.flags.writeable:
        base = array.base if array.base is not None and array.base.flags.writeable else None
        array = base if base is not None and base.shape == array.shape else array.copy()
    return torch.from_numpy(array).to(device)
