"""Products with 0/1 matrices, exact on units that round.

Fast units multiply short numbers: 16 bits on a GPU, with sums in 32 bits that round downwards at
every step, which thousands of steps make 1e-5. Nothing here depends on how they round: the other
factor is cut into integers so short that each sum stays below 2**24, where float32 is exact in any
order. So a product has the same bits whatever kernel the library chooses and whatever precision it
is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Arithmetic", "Split", "choose", "multiply"]


@dataclass(frozen=True)
class Arithmetic:
    """How products are taken."""

    operand: torch.dtype  # of the factors
    bits: int | None  # integers up to 2**bits are exact in it; None: it needs no splitting
    table: torch.dtype  # of all else
    total: torch.dtype  # of sums over tiles

    def fitting(self, terms: int) -> Arithmetic:
        """The same with integers of which `terms` add up to no more than 2**24."""
        if self.bits is None:
            return self
        return replace(self, bits=min(self.bits, 24 - max(terms - 1, 0).bit_length()))


def choose(device: torch.device, dtype: torch.dtype) -> Arithmetic:
    """Operands that the device multiplies fast, and exactly whatever its settings."""
    if dtype == torch.float64 or device.type == "cpu":
        return Arithmetic(torch.float64, None, torch.float64, torch.float64)
    if device.type == "cuda" and torch.version.hip is None:
        if torch.backends.cuda.matmul.allow_fp16_accumulation:  # which bfloat16 never does
            return Arithmetic(torch.bfloat16, 8, torch.float32, torch.float64)
        return Arithmetic(torch.float16, 11, torch.float32, torch.float64)
    # float32 products may be taken in bfloat16, which 8 bits survive; Apple's have no float64
    total = torch.float32 if device.type == "mps" else torch.float64
    return Arithmetic(torch.float32, 8, torch.float32, total)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of matrices or batches; 16-bit operands give float32, unrounded."""
    if a.dtype not in (torch.float16, torch.bfloat16):
        return a @ b
    if a.is_cuda:
        product: Callable[..., Tensor] = torch.mm if a.dim() == 2 else torch.bmm
        return product(a, b, out_dtype=torch.float32)
    return (a.double() @ b.double()).float()  # the CPU rounds to 16 bits: for tests


@dataclass(frozen=True)
class Split:
    """A table as ``unit * (pieces[0] + pieces[1] * step + pieces[2] * step**2 ...)``."""

    pieces: list[Tensor]
    unit: float = 1.0
    step: float = 1.0

    @classmethod
    def of(cls, table: Tensor, arithmetic: Arithmetic, terms: float = math.inf) -> Split:
        """Split a table of weights >= 0, which is used up.

        The largest weight being 1, f bits behind the point leave a weight off by 2**-(f + 1). For
        f = 21 + log2(largest / smallest) that is 2**-22 of the smallest one, hence of any sum. So
        it is of the best score, if that is no less than the largest weight and a score sums up to
        `terms` of them, for f = 21 + log2(terms).
        """
        bits = arithmetic.bits
        if bits is None:
            return cls([table])
        smallest = table.masked_fill(table == 0, math.inf).amin()
        high, low = torch.stack([table.amax(), smallest]).tolist()
        if high == 0:
            return cls([table.to(arithmetic.operand)])
        behind = 21 + math.log2(min(high / low, terms))
        rest, pieces = table.mul_(2.0**bits / high), []
        while True:
            rounded = rest.round()
            pieces.append(rounded.to(arithmetic.operand))
            behind -= bits if len(pieces) == 1 else bits + 1  # the others have a sign
            if behind <= 0:
                return cls(pieces, high / 2.0**bits, 2.0 ** -(bits + 1))
            rest.sub_(rounded).mul_(2.0 ** (bits + 1))

    def times(self, factor: Tensor, at: Any = ...) -> Tensor:
        """The table, or its entries `at`, times a 0/1 matrix, in units."""
        total = multiply(self.pieces[0][at], factor)
        for i, piece in enumerate(self.pieces[1:], 1):
            total.add_(multiply(piece[at], factor), alpha=self.step**i)
        return total
