"""The csr layout: weights, gradients and optimizer state that live on the links."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn
from torch.autograd.function import once_differentiable

import topo
from dst import csr_kernels, csr_torch
from dst.layouts import CSR_DTYPES
from dst.sparse_linear import Carry, SparseLinear
from topo.adjacency import link_keys, locate, positions, transpose, wrap_csr

__all__ = ["CSRLinear"]


class Indices(NamedTuple):
    """The links as CSR, and as CSR of the transposed layer."""

    indptr: torch.Tensor
    indices: torch.Tensor
    t_indptr: torch.Tensor
    t_indices: torch.Tensor
    t_order: torch.Tensor


class CSRLinear(SparseLinear, layout="csr"):
    """`SparseLinear` with one number per link; the kernels trust the indices."""

    values: nn.Parameter
    # No buffers: DDP would broadcast them in every step, and AveragedModel overwrite them.
    _indices: Indices

    @property
    def parameter(self) -> nn.Parameter:
        """The values."""
        return self.values

    @property
    def adjacency(self) -> sparse.csr_array:
        """The topology; on the CPU it shares its index arrays with the layer, read-only."""
        indptr, indices = (t.cpu().numpy() for t in self._indices[:2])
        return wrap_csr(indptr, indices, (self.out_features, self.in_features))

    @property
    def links(self) -> int:
        """How many links there are."""
        return len(self._indices.indices)

    @property
    def weight(self) -> torch.Tensor:
        """The weight as a sparse CSR tensor that shares the values, detached."""
        shape = (self.out_features, self.in_features)
        return csr_torch.csr_tensor(*self._indices[:2], self.values.detach(), shape)

    def link_values(self) -> torch.Tensor:
        """The values, detached."""
        return self.values.detach()

    def link_gradients(self) -> torch.Tensor | None:
        """The gradient of the values."""
        return self.values.grad

    def flat_positions(self, keys: npt.NDArray[np.int64]) -> torch.Tensor:
        """Positions of links among the values."""
        at = locate(keys, among=link_keys(self.adjacency))
        if (at < 0).any():
            raise ValueError(f"{int((at < 0).sum())} of {len(keys)} links are absent")
        return torch.from_numpy(at).to(self.values.device)

    def _fill(self, adjacency: sparse.csr_array, values: torch.Tensor) -> None:
        self.values = nn.Parameter(values)
        self._set_indices(adjacency)

    def _set_indices(self, adjacency: sparse.csr_array) -> None:
        # new tensors every time: an adjacency that someone holds never changes
        arrays = (adjacency.indptr, adjacency.indices, *transpose(adjacency))
        device = self.values.device
        device = torch.device("cpu") if device.type == "meta" else device
        self._indices = Indices(*(_tensor(a).to(device) for a in arrays))

    def check_rewire(self, adjacency: sparse.csr_array) -> None:
        """Refuse a topology that `rewire` could not take, with a ValueError."""
        super().check_rewire(adjacency)
        if adjacency.nnz == self.links:
            return
        twin = nn.Parameter(self.values.detach().clone())
        try:  # there and back
            torch.utils.swap_tensors(self.values, twin)
            torch.utils.swap_tensors(self.values, twin)
        except RuntimeError as error:
            raise ValueError(
                "its values cannot get another length while something holds them: a DDP wrapper "
                "(pass the wrapped model to the Evolver; load a state before wrapping), a compiled "
                f"graph that is kept, a weak reference (drop that first) ({error})"
            ) from None

    def _rewire(self, adjacency: sparse.csr_array) -> Carry:
        at = torch.from_numpy(positions(adjacency, self.adjacency))
        source, new = at.clamp(min=0), at < 0
        on_device = {torch.device("cpu"): (source, new)}

        def carry(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device not in on_device:
                on_device[tensor.device] = source.to(tensor.device), new.to(tensor.device)
            at, zero = on_device[tensor.device]
            if not len(tensor):
                return tensor.new_zeros(len(at))
            return tensor.index_select(0, at).masked_fill_(zero, 0)

        resize(self.values, carry)
        self._set_indices(adjacency)
        return carry

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        if self.values.dtype not in CSR_DTYPES:
            raise ValueError(
                f"the csr layout computes in float32 or float64, not {self.values.dtype}: "
                "use layout='masked'"
            )
        if x.device != self.values.device:
            raise RuntimeError(f"the layer is on {self.values.device}, its input on {x.device}")
        kind = x.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):  # the kernels have no half precision
            with torch.autocast(x.device.type, enabled=False):
                return self._multiply(x.to(self.values.dtype))
        flat = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if flat.shape[1] != len(self._indices.t_indptr) - 1:  # whatever `in_features` says
            raise RuntimeError(f"the links are of {len(self._indices.t_indptr) - 1} inputs")
        if _is_plain(flat) and _is_plain(self.values):
            y = _Linear.apply(flat, self.values, self.bias, self._indices)
        else:
            y = _linear(flat, self.values, self.bias, list(self._indices))
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        device = self.values.device
        if device.type != "meta" and self._indices.indptr.device != device:
            self._indices = Indices(*(t.to(device) for t in self._indices))
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, part in zip(("indptr", "indices"), self._indices[:2], strict=True):
            destination[prefix + name] = part.clone()  # kernels trust theirs

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
        names = [prefix + n for n in ("values", "indptr", "indices")]
        rest = {k: v for k, v in state_dict.items() if k not in names}
        missing = [name for name in names if name not in state_dict]
        if not missing:
            adjacency = self._read(prefix[:-1], *(state_dict[name] for name in names))
            if adjacency.nnz != self.links:
                self.check_rewire(adjacency)
                like = self.values.detach()
                resize(self.values, lambda _: like.new_zeros(adjacency.nnz))
            self._set_indices(adjacency)
            rest[names[0]] = state_dict[names[0]]
        ours = (rest, prefix, local_metadata, strict)
        super()._load_from_state_dict(*ours, missing_keys, unexpected_keys, error_msgs)
        if missing and strict:
            missing_keys[:] = [key for key in missing_keys if key not in names] + missing

    def _read(
        self, name: str, values: torch.Tensor, indptr: torch.Tensor, indices: torch.Tensor
    ) -> sparse.csr_array:
        """The adjacency in a state; scipy and `as_adjacency` check every index."""
        shape = (self.out_features, self.in_features)
        pointers, columns = (t.detach().cpu().numpy() for t in (indptr, indices))
        try:
            if not all(part.dtype.kind in "iu" for part in (pointers, columns)):
                raise ValueError(f"its indices are {pointers.dtype} and {columns.dtype}")
            if len(pointers) and pointers[-1] != len(columns):
                raise ValueError(f"{len(columns)} links, the last pointer is {pointers[-1]}")
            present = np.ones(len(columns), dtype=np.bool_)
            matrix = sparse.csr_array((present, columns, pointers), shape=shape)
            adjacency = topo.as_adjacency(matrix)
            if values.shape != (adjacency.nnz,):
                raise ValueError(f"{adjacency.nnz} links for values of shape {tuple(values.shape)}")
        except ValueError as error:
            raise ValueError(f"the topology of {name!r} is bad: {error}") from None
        return adjacency


def resize(parameter: nn.Parameter, carry: Carry) -> None:
    """Carry a parameter's numbers and gradient over, in place, also to another length.

    The object stays, so optimizers, weight-decay groups and hooks keep working; so does a loop
    that still holds the previous loss.
    """
    moved = carry(parameter.detach())
    grad = None if parameter.grad is None else carry(parameter.grad)
    if moved.shape == parameter.shape:
        parameter.detach().copy_(moved)
        if grad is not None:
            parameter.grad.copy_(grad)  # type: ignore[union-attr]
        return
    new = nn.Parameter(moved, requires_grad=parameter.requires_grad)
    new.grad = grad
    new.__dict__.update(parameter.__dict__)
    new._backward_hooks = parameter._backward_hooks
    new._post_accumulate_grad_hooks = parameter._post_accumulate_grad_hooks
    torch.utils.swap_tensors(parameter, new)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has memory, and nothing watches what is done with it."""
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
    )


def _engine(x: torch.Tensor) -> Any:
    return csr_kernels if x.device.type == "cpu" else csr_torch


def _batch_last(x: torch.Tensor) -> torch.Tensor:
    return x.t().contiguous().resolve_neg()


def _gradients(
    grad: torch.Tensor,
    x_t: torch.Tensor,
    values: torch.Tensor,
    links: Sequence[torch.Tensor],
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Of the inputs, the values and the bias, where they are wanted."""
    indptr, indices, t_indptr, t_indices, t_order = links
    engine = _engine(grad)
    grad_t = _batch_last(grad)
    of_x = of_values = of_bias = None
    if wanted[0]:
        of_x = engine.product(t_indptr, t_indices, values, grad_t, order=t_order)
    if wanted[1]:
        of_values = engine.dots(indptr, indices, x_t, grad_t)
    if wanted[2]:
        of_bias = grad_t.sum(1)
    return of_x, of_values, of_bias


class _Linear(torch.autograd.Function):
    """x W' + bias for x (batch, n_in); every product runs on (features, batch)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, links: Indices
    ) -> torch.Tensor:
        # detached: a graph that nobody differentiates does not keep `resize` from swapping
        x_t, values = _batch_last(x), values.detach().contiguous()
        ctx.save_for_backward(x_t, values)
        ctx.links = links
        bias = None if bias is None else bias.contiguous()
        return _engine(x).product(links[0], links[1], values, x_t, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_t, values = ctx.saved_tensors
        return *_gradients(grad, x_t, values, ctx.links, ctx.needs_input_grad), None


# The same as an operator, which torch.compile, fake tensors and wrappers take as it is. For plain
# tensors that would cost more.


@torch.library.custom_op("epitopo::csr_linear", mutates_args=())
def _linear(
    x: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, links: Sequence[torch.Tensor]
) -> torch.Tensor:
    bias = None if bias is None else bias.contiguous()
    product: torch.Tensor = _engine(x).product(
        links[0], links[1], values.contiguous(), _batch_last(x), bias
    )
    return product


@torch.library.custom_op("epitopo::csr_linear_backward", mutates_args=())
def _linear_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    values: torch.Tensor,
    links: Sequence[torch.Tensor],
    wanted: Sequence[bool],
) -> list[torch.Tensor]:
    gradients = _gradients(grad, _batch_last(x), values.contiguous(), links, wanted)
    return [g for g in gradients if g is not None]


@_linear.register_fake
def _(x: Any, values: Any, bias: Any, links: Any) -> torch.Tensor:
    return x.new_empty_strided((len(x), len(links[0]) - 1), (1, len(x)))


@_linear_backward.register_fake
def _(grad: Any, x: Any, values: Any, links: Any, wanted: Any) -> list[torch.Tensor]:
    like = (x.new_empty_strided(x.shape, (1, len(x))), values.new_empty(len(values)))
    three = (*like, grad.new_empty(grad.shape[1]))
    return [g for g, w in zip(three, wanted, strict=True) if w]


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    x, values, _, links = inputs
    ctx.save_for_backward(x, values.detach(), *links)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, values, *links = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    found = iter(_linear_backward(grad, x, values, links, wanted))
    return *(next(found) if w else None for w in wanted), [None] * len(links)


_linear.register_autograd(_differentiate, setup_context=_save)


def _tensor(array: Any) -> torch.Tensor:
    # torch warns about read-only arrays; the memory is shared and nobody writes to it
    if not array.flags.writeable:
        base = array.base if array.base is not None and array.base.flags.writeable else None
        array = base if base is not None and base.shape == array.shape else array.copy()
    return torch.from_numpy(array)
