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
from numba.extending import intrinsic

__all__ = ["WIDTH", "Mask", "add_rows", "sum_masked", "sum_ones"]

WIDTH = 32
Mask = np.uint32  # one bit per column

_intrinsic: Any = intrinsic
_INT64 = ir.IntType(64)
_F64 = ir.VectorType(ir.DoubleType(), 8)
_U16 = ir.VectorType(ir.IntType(16), 32)


class _Loop:
    """Emits the loop over links; a subclass says what one link adds."""

    vector: ir.VectorType
    adds = False  # to what is there

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> None:
        self.context, self.builder, self.signature, self.args = context, builder, signature, args
        self.pieces = range(WIDTH // self.vector.count)
        self.align = 2 if isinstance(self.vector.element, ir.IntType) else 8

    def data(self, i: int) -> Any:
        array = self.context.make_array(self.signature.args[i])
        return array(self.context, self.builder, self.args[i]).data

    def place(self, base: Any, offset: Any, piece: int) -> Any:
        """Where the piece of WIDTH numbers from `offset` on lies."""
        first = self.builder.add(offset, _INT64(piece * self.vector.count))
        return self.builder.bitcast(self.builder.gep(base, [first]), self.vector.as_pointer())

    def load(self, pointer: Any) -> Any:
        loaded = self.builder.load(pointer)
        loaded.align = self.align
        return loaded

    def start(self) -> None:
        """What is the same for all links."""

    def row(self, node: Any) -> list[Any]:
        """The vectors that one link adds."""
        raise NotImplementedError

    def finish(self, sums: list[Any], places: list[Any]) -> list[Any]:
        """What to store."""
        return sums

    def emit(self) -> Any:
        builder, (at, start, stop) = self.builder, (self.args[i] for i in (1, 3, 4))
        add = builder.add if isinstance(self.vector.element, ir.IntType) else builder.fadd
        out, which = self.data(0), self.data(2)
        places = [self.place(out, at, piece) for piece in self.pieces]
        zero = ir.Constant(self.vector, None)
        before = [self.load(place) if self.adds else zero for place in places]
        self.start()
        entry = builder.block
        loop, end = (builder.append_basic_block(name) for name in ("links", "links.end"))
        builder.cbranch(builder.icmp_signed("<", start, stop), loop, end)

        builder.position_at_end(loop)
        i = builder.phi(_INT64)
        sums = [builder.phi(self.vector) for _ in self.pieces]
        node = builder.load(builder.gep(which, [i]))
        if node.type.width < 64:
            node = builder.zext(node, _INT64)
        after = [add(s, x) for s, x in zip(sums, self.row(node), strict=True)]
        following = builder.add(i, _INT64(1))
        builder.cbranch(builder.icmp_signed("<", following, stop), loop, end)
        i.add_incoming(start, entry)
        i.add_incoming(following, loop)
        for total, first, more in zip(sums, before, after, strict=True):
            total.add_incoming(first, entry)
            total.add_incoming(more, loop)

        builder.position_at_end(end)
        finals = [builder.phi(self.vector) for _ in self.pieces]  # phis come before stores
        for final, first, more in zip(finals, before, after, strict=True):
            final.add_incoming(first, entry)
            final.add_incoming(more, loop)
        for final, place in zip(self.finish(finals, places), places, strict=True):
            builder.store(final, place).align = self.align
        return self.context.get_dummy_value()


class _Rows(_Loop):
    vector = _F64
    adds = True

    def start(self) -> None:
        self.table = self.data(5)

    def row(self, node: Any) -> list[Any]:
        offset = self.builder.mul(node, _INT64(WIDTH))
        return [self.load(self.place(self.table, offset, piece)) for piece in self.pieces]


class _Masked(_Loop):
    vector = _F64

    def start(self) -> None:
        self.masks, self.weights = self.data(5), self.data(6)

    def finish(self, sums: list[Any], places: list[Any]) -> list[Any]:
        offset = self.builder.mul(self.args[8], _INT64(WIDTH))
        factors = [self.load(self.place(self.data(7), offset, piece)) for piece in self.pieces]
        products = [self.builder.fmul(s, f) for s, f in zip(sums, factors, strict=True)]
        return [
            self.builder.fadd(self.load(place), product)
            for place, product in zip(places, products, strict=True)
        ]

    def value(self, node: Any) -> Any:
        """The number that a link adds, in every lane."""
        number = self.builder.load(self.builder.gep(self.weights, [node]))
        blank = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(blank, number, ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.vector.count), None)
        return self.builder.shuffle_vector(first, blank, lanes)

    def row(self, node: Any) -> list[Any]:
        builder, lanes = self.builder, self.vector.count
        bits = builder.load(builder.gep(self.masks, [node]))
        value, none = self.value(node), ir.Constant(self.vector, None)
        flags = []
        for piece in self.pieces:
            part = builder.lshr(bits, bits.type(piece * lanes))
            if bits.type.width > lanes:
                part = builder.trunc(part, ir.IntType(lanes))
            flags.append(builder.bitcast(part, ir.VectorType(ir.IntType(1), lanes)))
        return [builder.select(flag, value, none) for flag in flags]


class _Ones(_Masked):
    vector = _U16

    def start(self) -> None:
        self.masks = self.data(5)

    def finish(self, sums: list[Any], places: list[Any]) -> list[Any]:
        return sums

    def value(self, node: Any) -> Any:
        return ir.Constant(self.vector, [1] * self.vector.count)


@_intrinsic
def add_rows(typingctx, out, at, which, start, stop, table):
    """``row(z) = table[z]``; out and table of float64, table of shape (n, WIDTH)."""
    signature = types.void(out, types.intp, which, types.intp, types.intp, table)
    return signature, lambda *codegen: _Rows(*codegen).emit()


@_intrinsic
def sum_masked(typingctx, out, at, which, start, stop, masks, weights, table, factor):
    """``out += table[factor] * sum``, ``row(z) = weights[z]`` where masks[z] has a bit, else 0."""
    signature = types.void(
        out, types.intp, which, types.intp, types.intp, masks, weights, table, types.intp
    )
    return signature, lambda *codegen: _Masked(*codegen).emit()


@_intrinsic
def sum_ones(typingctx, out, at, which, start, stop, masks):
    """``row(z) = 1`` where the bit of masks[z] is set, else 0; out of uint16."""
    signature = types.void(out, types.intp, which, types.intp, types.intp, masks)
    return signature, lambda *codegen: _Ones(*codegen).emit()
