"""A linear layer whose weights are those of its links: the interface of all layouts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

import topo
from dst.initialization import SEED_NAME, swi
from dst.layouts import choose_layout
from topo.names import find

__all__ = ["Carry", "SparseLinear", "make_adjacency"]

Carry = Callable[[torch.Tensor], torch.Tensor]
"""Takes a tensor with a number per weight from an old topology to a new one."""


class SparseLinear(nn.Module):
    r"""Apply :math:`y = x W^\top + b` with a W that is zero off the links of a graph.

    A drop-in for `torch.nn.Linear`. In the csr layout the parameter `values` has one entry per
    link, and so have its gradient and the optimizer's state: no dense weight or gradient is made.
    In the masked layout the parameter `weight` is dense; it and its gradient are zero off the
    links. Both give the same results to rounding.

    Parameters
    ----------
    in_features, out_features : int
    density : float, optional
        Share of the possible links that exist, in (0, 1]; needed unless `topology` is a matrix.
    topology : str, matrix or callable
        A name in `topo.GENERATORS`, an adjacency of shape (out_features, in_features), or a
        callable ``f(n_out, n_in, density, seed=seed)`` that returns one.
    layout : {"auto", "csr", "masked"}
        How the weights are stored; "auto" is the rule of `dst.choose_layout`.
    bias : bool
    seed : int
        Of the topology and of the initial weights (SWI: N(0, 2 / (density * in_features))).

    Attributes
    ----------
    values : Parameter, shape (links,); csr only
        One weight per link, in row-major order.
    weight : Parameter, shape (out_features, in_features); masked only
        Zero off the links. (In csr: a sparse CSR view of the values, detached.)
    bias : Parameter, shape (out_features,), or None
    adjacency : csr_array of bool, shape (out_features, in_features)
    links : int
    density : float
    layout : str
    reason : str
        Why the layer has this layout.
    final_links : int
        How many links the layer is to end with, whatever a method starts it at.

    Notes
    -----
    Any leading batch dimensions. csr computes in float32 or float64 (under autocast, too) and
    batch-last, so a chain of these layers with elementwise functions in between never transposes
    an activation. masked computes in whatever `torch.nn.Linear` does.

    Examples
    --------
    >>> import torch, dst
    >>> layer = dst.SparseLinear(100, 50, density=0.02)
    >>> layer
    SparseLinear(in_features=100, out_features=50, links=100, density=0.02, layout=csr, bias=True)
    >>> layer(torch.ones(8, 100)).shape, layer.values.shape
    (torch.Size([8, 50]), torch.Size([100]))
    >>> dst.SparseLinear(100, 50, density=0.5).weight.shape
    torch.Size([50, 100])
    """

    layout: str
    in_features: int
    out_features: int
    reason: str
    bias: nn.Parameter | None
    final_links: int
    init: str = (
        "swi"  # what links that a method's start adds are initialised by; else as the others
    )
    #: Called with input and output, gives the output: where someone needs to see them.
    watch: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    _layouts: ClassVar[dict[str, type[SparseLinear]]] = {}

    def __init_subclass__(cls, *, layout: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if layout is not None:  # else a subclass of one, such as torch's parametrizations make
            cls.layout = layout
            cls._layouts[layout] = cls

    def __new__(cls, *_: Any, layout: str = "auto", **options: Any) -> SparseLinear:
        """Make the subclass of the layout, as `pathlib.Path` does that of the system."""
        kind = cls
        if cls is SparseLinear:
            dtype = torch.get_default_dtype()
            peak = _asked_density(options.get("density"), options.get("topology"))
            kind = cls._layouts[choose_layout(layout, "cpu", dtype, peak)[0]]
        return super().__new__(kind)

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
        adjacency = make_adjacency(topology, out_features, in_features, density, seed)
        dtype = torch.get_default_dtype()
        self.out_features, self.in_features = adjacency.shape
        peak = _asked_density(density, topology)
        chosen, self.reason = choose_layout(layout, "cpu", dtype, peak)
        if chosen != self.layout:  # a subclass by its name
            if layout != "auto":
                raise ValueError(f"{type(self).__name__} has the layout {self.layout!r}")
            self.reason = "as asked"
        values = torch.from_numpy(swi(adjacency, topo.stream(seed, SEED_NAME))).to(dtype)
        self._fill(adjacency, values)
        self.final_links = adjacency.nnz
        if bias:
            hashes = topo.hash_links(topo.stream(seed, "bias"), np.arange(out_features))
            bias_values = (2 * topo.uniform(hashes) - 1) * in_features**-0.5  # as nn.Linear
            self.bias = nn.Parameter(torch.from_numpy(bias_values).to(dtype))
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        adjacency: sparse.csr_array,
        values: Any,
        *,
        layout: str = "auto",
        peak_density: float | None = None,
    ) -> SparseLinear:
        """Take the place of a dense layer: its bias, device, dtype and mode, these links.

        Parameters
        ----------
        linear : torch.nn.Linear
        adjacency : csr_array of bool, shape (out_features, in_features)
        values : array_like, shape (links,)
            The weights, in row-major order.
        layout : {"auto", "csr", "masked"}
        peak_density : float, optional
            The largest density that the layer is to have; default: what it has now.
        """
        weight = linear.weight
        if weight.device.type == "meta":
            raise ValueError("the layer is on the meta device: give it storage first (to_empty)")
        data = torch.as_tensor(values).detach().to(weight.device, weight.dtype, copy=True)
        if data.shape != (adjacency.nnz,):
            raise ValueError(f"{adjacency.nnz} links need as many values, not {tuple(data.shape)}")
        peak = _share(adjacency) if peak_density is None else peak_density
        chosen, reason = choose_layout(layout, weight.device, weight.dtype, peak)
        layer = cls._layouts[chosen].__new__(cls._layouts[chosen])
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        layer.reason = reason
        layer._fill(adjacency, data)
        layer.final_links = adjacency.nnz
        layer.parameter.requires_grad_(weight.requires_grad)
        layer.register_parameter("bias", linear.bias)
        return layer.train(linear.training)

    @property
    @abstractmethod
    def parameter(self) -> nn.Parameter:
        """What the optimizer trains: `values` or `weight`."""

    @property
    @abstractmethod
    def adjacency(self) -> sparse.csr_array:
        """The topology, with read-only arrays; csr on the CPU shares its own."""

    @property
    @abstractmethod
    def links(self) -> int:
        """How many links there are."""

    @abstractmethod
    def link_values(self) -> torch.Tensor:
        """The weights of the links in row-major order, detached, shape (links,)."""

    @abstractmethod
    def link_gradients(self) -> torch.Tensor | None:
        """The gradients of the links in row-major order, shape (links,), if there are any."""

    @abstractmethod
    def flat_positions(self, keys: npt.NDArray[np.int64]) -> torch.Tensor:
        """Where links, each ``row * in_features + column``, are in the flat parameter."""

    @abstractmethod
    def _fill(self, adjacency: sparse.csr_array, values: torch.Tensor) -> None:
        """Register parameter and topology."""

    def rewire(self, adjacency: sparse.csr_array) -> Carry:
        """Replace the topology; the parameter object stays.

        Weights and gradient move with the links; new links start at 0. Optimizers and copies are
        not known here: `dst.rewire` does all of it.

        Parameters
        ----------
        adjacency : csr_array of bool, shape (out_features, in_features)
            With any number of links.

        Returns
        -------
        callable
            Takes any tensor with a number per weight of the parameter (momentum, say) along.
        """
        self.check_rewire(adjacency)
        return self._rewire(adjacency)

    def check_rewire(self, adjacency: sparse.csr_array) -> None:
        """Refuse a topology that `rewire` could not take, with a ValueError."""
        if adjacency.shape != (self.out_features, self.in_features):
            raise ValueError(
                f"the topology has shape {adjacency.shape}, "
                f"the layer {(self.out_features, self.in_features)}"
            )

    @abstractmethod
    def _rewire(self, adjacency: sparse.csr_array) -> Carry:
        """Move weights and gradient to another topology."""

    @property
    def density(self) -> float:
        """Links over possible links."""
        return self.links / (self.in_features * self.out_features)

    def to_dense(self) -> torch.Tensor:
        """The weight as a dense tensor of shape (out_features, in_features), detached."""
        values = self.link_values()
        dense = values.new_zeros(self.out_features, self.in_features)
        rows, cols = (torch.from_numpy(i.astype(np.int64)) for i in topo.links(self.adjacency))
        dense[rows.to(dense.device), cols.to(dense.device)] = values
        return dense

    def extra_repr(self) -> str:
        """What `repr` says."""
        links = ""
        if not any(b.is_meta for b in self.buffers()):  # a mask there has none to count
            links = f"links={self.links}, density={self.density:.4g}, "
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {links}"
            f"layout={self.layout}, bias={self.bias is not None}"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"expected inputs of shape (..., {self.in_features}), not {tuple(x.shape)}"
            )
        y = self._multiply(x)
        if self.watch is not None and torch.is_grad_enabled():
            y = self.watch(x, y)
        return y

    @abstractmethod
    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` gives for an input of the right size."""

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles have: whoever watches this layer does not watch them."""
        return {k: v for k, v in vars(self).items() if k != "watch"}

    def _get_name(self) -> str:
        return "SparseLinear"


def _share(adjacency: sparse.csr_array) -> float:
    return float(adjacency.nnz / (adjacency.shape[0] * adjacency.shape[1]))


def _asked_density(density: Any, topology: Any) -> float:
    """Of the layer to be made; nonsense is refused later."""
    if isinstance(density, (int, float)):
        return density
    return _share(topo.as_adjacency(topology)) if _is_matrix(topology) else 1.0


def _is_matrix(topology: Any) -> bool:
    return sparse.issparse(topology) or isinstance(topology, list) or hasattr(topology, "__array__")


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
    given = _is_matrix(topology)
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
