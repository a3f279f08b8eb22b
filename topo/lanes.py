"""Building blocks of kernels on LLVM vectors: what numba's own loops do several times slower.

numba's loops load and store a running sum for every link; here it stays in vector registers. The
vectors are as wide as the algorithm wants them, and LLVM lowers them to whatever the machine has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic as _intrinsic

__all__ = ["INT64", "Lanes", "intrinsic"]

INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)

intrinsic: Any = _intrinsic


class Lanes:
    """Emits code for one call of an intrinsic.

    Parameters
    ----------
    codegen : tuple
        What numba passes to an intrinsic's code generator: context, builder, signature, arguments.
    vector : llvmlite.ir.VectorType
        Of floating or integer numbers; whatever is loaded and stored is aligned as one number is.
    """

    def __init__(self, codegen: tuple[Any, ...], vector: ir.VectorType) -> None:
        self.context, self.builder, self.signature, self.args = codegen
        self.vector = vector
        self.align = vector.element.get_abi_alignment(self.context.target_data)

    def data(self, i: int) -> Any:
        """Pointer to the first element of the array that is argument i."""
        array = self.context.make_array(self.signature.args[i])
        return array(self.context, self.builder, self.args[i]).data

    def number(self, base: Any, i: Any) -> Any:
        """The i-th number of an array; integers widened, as the unsigned indices that they are."""
        number = self.builder.load(self.builder.gep(base, [i]))
        small = isinstance(number.type, ir.IntType) and number.type.width < 64
        return self.builder.zext(number, INT64) if small else number

    def load(self, base: Any, offset: Any) -> Any:
        """The vector that begins at an offset."""
        loaded = self.builder.load(self._place(base, offset))
        loaded.align = self.align
        return loaded

    def store(self, vector: Any, base: Any, offset: Any) -> None:
        """Write a vector at an offset."""
        self.builder.store(vector, self._place(base, offset)).align = self.align

    def splat(self, number: Any) -> Any:
        """A number in every lane."""
        blank = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(blank, number, _INT32(0))
        lanes = ir.Constant(ir.VectorType(_INT32, self.vector.count), None)
        return self.builder.shuffle_vector(first, blank, lanes)

    def loop(
        self,
        start: Any,
        stop: Any,
        initial: Sequence[Any],
        body: Callable[[Any, list[Any]], Sequence[Any]],
    ) -> list[Any]:
        """``for i in range(start, stop): state = body(i, state)``; the final state."""
        builder, entry = self.builder, self.builder.block
        loop, end = (builder.append_basic_block(name) for name in ("links", "links.end"))
        builder.cbranch(builder.icmp_signed("<", start, stop), loop, end)

        builder.position_at_end(loop)
        i = builder.phi(INT64)
        state = [builder.phi(value.type) for value in initial]
        after = body(i, state)
        following = builder.add(i, INT64(1))
        builder.cbranch(builder.icmp_signed("<", following, stop), loop, end)
        i.add_incoming(start, entry)
        i.add_incoming(following, loop)

        builder.position_at_end(end)
        finals = [builder.phi(value.type) for value in initial]
        for phi, final, first, more in zip(state, finals, initial, after, strict=True):
            for node in (phi, final):
                node.add_incoming(first, entry)
                node.add_incoming(more, loop)
        return finals

    def _place(self, base: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [offset]), self.vector.as_pointer())
