# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""The products of a linear layer in CSR, on the links alone, for the CPU.

Activations are batch-last, of shape (features, batch): a link then multiplies a whole row of
them, and the sums of an output neuron stay in vector registers over all its links.
"""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import types

from dst.openmp import array_at, member, my_parts, run
from topo.compiled import njit
from topo.lanes import INT64, Lanes, intrinsic

__all__ = ["dots", "product"]

_WIDTHS = (128, 32, 8, 1)  # a batch is cut into pieces of these many columns
_WIDEST = {torch.float32: 128, torch.float64: 32}  # what the registers of most machines hold
_SHARE = 3e5  # multiplications that are worth a thread


def _for_width(codegen, width, emit):
    """Emit the code for every width, and the choice among them."""
    context, builder, signature, _ = codegen
    element = context.get_data_type(signature.args[0].dtype)
    for lanes in _WIDTHS:
        with builder.if_then(builder.icmp_signed("==", width, INT64(lanes))):
            emit(Lanes(codegen, ir.VectorType(element, lanes)))
    return context.get_dummy_value()


@intrinsic
def _row_product(
    typing,
    out,
    at,
    first,
    values,
    order,
    turned,
    indices,
    start,
    stop,
    table,
    stride,
    column,
    width,
):
    """``out[at:at + width] = first + sum of value i * row indices[i] of table[:, column:]``.

    Value i is values[i], or, of a turned layer, values[order[i]].
    """
    n = types.intp
    signature = types.void(
        out, n, out.dtype, values, order, types.boolean, indices, n, n, table, n, n, n
    )

    def emit(lanes):
        builder = lanes.builder
        _, at, first, _, _, turned, _, start, stop, _, stride, column, _ = lanes.args
        out, values, order, indices, table = (lanes.data(i) for i in (0, 3, 4, 6, 9))

        def sum_up(position):
            def add(i, sums):
                row = builder.mul(lanes.number(indices, i), stride)
                product = builder.fmul(
                    lanes.splat(lanes.number(values, position(i))),
                    lanes.load(table, builder.add(row, column)),
                    flags=("contract",),
                )
                return [builder.fadd(sums[0], product, flags=("contract",))]

            (total,) = lanes.loop(start, stop, [lanes.splat(first)], add)
            lanes.store(total, out, at)

        with builder.if_else(turned) as (yes, no):
            with yes:
                sum_up(lambda i: lanes.number(order, i))
            with no:
                sum_up(lambda i: i)

    return signature, lambda *codegen: _for_width(codegen, codegen[3][-1], emit)


@intrinsic
def _row_dots(typing, out, factor, at, indices, start, stop, table, stride, column, width):
    """``out[i] += factor[at:at + width] . row indices[i] of table[:, column:]``."""
    n = types.intp
    signature = types.void(out, factor, n, indices, n, n, table, n, n, n)

    def emit(lanes):
        builder, vector = lanes.builder, lanes.vector
        _, _, at, _, start, stop, _, stride, column, _ = lanes.args
        out, factor, indices, table = (lanes.data(i) for i in (0, 1, 3, 6))
        reduce = builder.module.declare_intrinsic(
            f"llvm.vector.reduce.fadd.v{vector.count}f{8 * lanes.align}",
            (),
            ir.FunctionType(vector.element, [vector.element, vector]),
        )
        own = lanes.load(factor, at)

        def add(i, _):
            row = builder.mul(lanes.number(indices, i), stride)
            products = builder.fmul(own, lanes.load(table, builder.add(row, column)))
            place = builder.gep(out, [i])
            dot = builder.call(reduce, [vector.element(-0.0), products], fastmath=("reassoc",))
            builder.store(builder.fadd(builder.load(place), dot), place)
            return []

        lanes.loop(start, stop, [], add)

    return signature, lambda *codegen: _for_width(codegen, codegen[3][-1], emit)


@njit(nogil=True, cache=True)
def _product(arguments, part, parts, zero):
    rows, links, batch = arguments[0], arguments[1], arguments[2]
    indptr = array_at(arguments[3], rows + 1, np.int32(0))
    indices = array_at(arguments[4], links, np.int32(0))
    values = array_at(arguments[5], links, zero)
    x = array_at(arguments[6], batch, zero)
    out = array_at(arguments[7], rows * batch, zero)
    bias = array_at(arguments[8], rows, zero)
    order = array_at(arguments[9], links, np.int32(0))
    turned = arguments[9] != 0
    column = 0
    while column < batch:
        width = _width(batch - column, arguments[10])
        for row in range(_cut(indptr, part, parts), _cut(indptr, part + 1, parts)):
            at, start, stop = row * batch + column, indptr[row], indptr[row + 1]
            b = bias[row] if arguments[8] else zero
            _row_product(
                out, at, b, values, order, turned, indices, start, stop, x, batch, column, width
            )
        column += width


@njit(nogil=True, cache=True)
def _dots(arguments, part, parts, zero):
    rows, links, batch = arguments[0], arguments[1], arguments[2]
    indptr = array_at(arguments[3], rows + 1, np.int32(0))
    indices = array_at(arguments[4], links, np.int32(0))
    x = array_at(arguments[5], batch, zero)
    grad = array_at(arguments[6], rows * batch, zero)
    out = array_at(arguments[7], links, zero)
    first, last = _cut(indptr, part, parts), _cut(indptr, part + 1, parts)
    out[indptr[first] : indptr[last]] = 0
    column = 0
    while column < batch:
        width = _width(batch - column, arguments[8])
        for row in range(first, last):
            at, start, stop = row * batch + column, indptr[row], indptr[row + 1]
            _row_dots(out, grad, at, indices, start, stop, x, batch, column, width)
        column += width


@njit(cache=True)
def _width(left, widest):
    return widest if left >= widest else 32 if left >= 32 else 8 if left >= 8 else 1


@njit(cache=True)
def _cut(indptr, part, parts):
    """The first row of a part, so that parts have about equally many links."""
    if part == parts:
        return len(indptr) - 1
    return np.searchsorted(indptr, np.int64(indptr[-1]) * part // parts) if part else 0


# Written out one by one: each is an entry of its own in numba's cache on disk.


@member
def _product_float32(address):
    arguments, part, parts, step = my_parts(address)
    for p in range(part, parts, step):
        _product(arguments, p, parts, np.float32(0))


@member
def _product_float64(address):
    arguments, part, parts, step = my_parts(address)
    for p in range(part, parts, step):
        _product(arguments, p, parts, np.float64(0))


@member
def _dots_float32(address):
    arguments, part, parts, step = my_parts(address)
    for p in range(part, parts, step):
        _dots(arguments, p, parts, np.float32(0))


@member
def _dots_float64(address):
    arguments, part, parts, step = my_parts(address)
    for p in range(part, parts, step):
        _dots(arguments, p, parts, np.float64(0))


_TEAMS = {
    torch.float32: (_product_float32, _dots_float32, np.float32(0)),
    torch.float64: (_product_float64, _dots_float64, np.float64(0)),
}


def product(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """``(W x + bias)'`` for W in canonical CSR and x (n_in, batch).

    Parameters
    ----------
    indptr, indices : int32 tensors
        Not checked: an index out of range reads memory that is not ours.
    values, x, bias : contiguous tensors of one floating type
    order : int32 tensor, optional
        Where the value of each link is among the values.

    Returns
    -------
    tensor, shape (batch, n_out)
        Batch-last in memory, and no view: what autograd gives out may be changed in place.
    """
    rows, links, batch = len(indptr) - 1, len(indices), x.shape[1]
    _check(values, values.dtype, links)
    _check(x, values.dtype, *x.shape)
    if bias is not None:
        _check(bias, values.dtype, rows)
    out = x.new_empty_strided((batch, rows), (1, batch))
    tensors = (indptr, indices, values, x, out, bias, order)
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    team, _, zero = _TEAMS[x.dtype]
    arguments = [rows, links, batch, *addresses, _WIDEST[x.dtype]]
    run(_product, team, arguments, zero, links * batch / _SHARE)
    return out


def dots(
    indptr: torch.Tensor, indices: torch.Tensor, x: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """For every link (v, u) the inner product of grad[v] and x[u]: the gradient of its value."""
    rows, links, batch = len(indptr) - 1, len(indices), x.shape[1]
    _check(x, grad.dtype, *x.shape)
    _check(grad, grad.dtype, rows, batch)
    out = x.new_empty(links)
    addresses = [t.data_ptr() for t in (indptr, indices, x, grad, out)]
    _, team, zero = _TEAMS[x.dtype]
    arguments = [rows, links, batch, *addresses, _WIDEST[x.dtype]]
    run(_dots, team, arguments, zero, links * batch / _SHARE)
    return out


def _check(tensor: torch.Tensor, dtype: torch.dtype, *shape: int) -> None:
    """The kernels see addresses only."""
    if not (
        tensor.dtype is dtype
        and dtype in _TEAMS
        and tensor.shape == shape
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)  # others may have no memory
        and (tensor.data_ptr() or not tensor.numel())
    ):
        raise RuntimeError(
            "the input, the values and the bias of a csr layer must have the same dtype and the "
            f"same device: expected a {dtype} of shape {shape} on the CPU, not {tensor.dtype} of "
            f"shape {tuple(tensor.shape)} on {tensor.device}"
        )
