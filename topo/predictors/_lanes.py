# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Sums over a neuron's links for `WIDTH` columns at once, kept in vector registers.

The inner loops of the tiled link predictors, written as LLVM vectors: numba's own loops load and
store the sums for every link, which costs a factor of three. Each function is

    out[at:at + WIDTH] = sum of row(which[i]) for i in start..stop

where `out` is a C-contiguous array seen flat; `add_rows` adds to what is there. The sum runs in
the order of i, column by column, so a result does not depend on how columns are grouped. LLVM
lowers the vectors to whatever the machine has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from topo.lanes import INT64, Lanes, intrinsic

__all__ = ["WIDTH", "Mask", "add_rows", "sum_masked", "sum_ones"]

WIDTH = 32
Mask = np.uint32  # one bit per column

_F64 = ir.VectorType(ir.DoubleType(), 8)
_U16 = ir.VectorType(ir.IntType(16), 32)


class _Loop(Lanes):
    """Emits the loop over links; a subclass says what one link adds."""

    kind: ir.VectorType
    adds = False  # to what is there

    def __init__(self, *codegen: Any) -> None:
        super().__init__(codegen, self.kind)

    def pieces(self, offset: Any) -> list[Any]:
        """Where the vectors of WIDTH numbers from `offset` on begin."""
        steps = range(0, WIDTH, self.kind.count)
        return [self.builder.add(offset, INT64(step)) for step in steps]

    def row(self, node: Any) -> list[Any]:
        """The vectors that one link adds."""
        raise NotImplementedError

    def finish(self, sums: list[Any]) -> list[Any]:
        """What to store."""
        return sums

    def emit(self) -> Any:
        _, at, _, start, stop, *_ = self.args
        add = self.builder.add if isinstance(self.kind.element, ir.IntType) else self.builder.fadd
        out, which, places = self.data(0), self.data(2), self.pieces(at)
        zero = ir.Constant(self.kind, None)
        first = [self.load(out, place) if self.adds else zero for place in places]

        def body(i: Any, sums: list[Any]) -> list[Any]:
            terms = self.row(self.number(which, i))
            return [add(total, term) for total, term in zip(sums, terms, strict=True)]

        for total, place in zip(
            self.finish(self.loop(start, stop, first, body)), places, strict=True
        ):
            self.store(total, out, place)
        return self.context.get_dummy_value()


class _Rows(_Loop):
    kind = _F64
    adds = True

    def row(self, node: Any) -> list[Any]:
        table, offset = self.data(5), self.builder.mul(node, INT64(WIDTH))
        return [self.load(table, piece) for piece in self.pieces(offset)]


class _Masked(_Loop):
    kind = _F64

    def finish(self, sums: list[Any]) -> list[Any]:
        out, table = self.data(0), self.data(7)
        factors = self.pieces(self.builder.mul(self.args[8], INT64(WIDTH)))
        finished = []
        for total, place, factor in zip(sums, self.pieces(self.args[1]), factors, strict=True):
            product = self.builder.fmul(total, self.load(table, factor))
            finished.append(self.builder.fadd(self.load(out, place), product))
        return finished

    def value(self, node: Any) -> Any:
        """The number that a link adds, in every lane."""
        return self.splat(self.number(self.data(6), node))

    def row(self, node: Any) -> list[Any]:
        builder, lanes = self.builder, self.kind.count
        bits = builder.load(builder.gep(self.data(5), [node]))
        value, none = self.value(node), ir.Constant(self.kind, None)
        flags = []
        for first in range(0, WIDTH, lanes):
            part = builder.lshr(bits, bits.type(first))
            if bits.type.width > lanes:
                part = builder.trunc(part, ir.IntType(lanes))
            flags.append(builder.bitcast(part, ir.VectorType(ir.IntType(1), lanes)))
        return [builder.select(flag, value, none) for flag in flags]


class _Ones(_Masked):
    kind = _U16

    def finish(self, sums: list[Any]) -> list[Any]:
        return sums

    def value(self, node: Any) -> Any:
        return ir.Constant(self.kind, [1] * self.kind.count)


@intrinsic
def add_rows(typingctx, out, at, which, start, stop, table):
    """``row(z) = table[z]``; out and table of float64, table of shape (n, WIDTH)."""
    signature = types.void(out, types.intp, which, types.intp, types.intp, table)
    return signature, lambda *codegen: _Rows(*codegen).emit()


@intrinsic
def sum_masked(typingctx, out, at, which, start, stop, masks, weights, table, factor):
    """``out += table[factor] * sum``, ``row(z) = weights[z]`` where masks[z] has a bit, else 0."""
    signature = types.void(
        out, types.intp, which, types.intp, types.intp, masks, weights, table, types.intp
    )
    return signature, lambda *codegen: _Masked(*codegen).emit()


@intrinsic
def sum_ones(typingctx, out, at, which, start, stop, masks):
    """``row(z) = 1`` where the bit of masks[z] is set, else 0; out of uint16."""
    signature = types.void(out, types.intp, which, types.intp, types.intp, masks)
    return signature, lambda *codegen: _Ones(*codegen).emit()
