"""Rows of tokens that a language model is trained on, and their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import topo
from dst.tasks.task import Batch

__all__ = ["ROWS", "ContiguousRows", "DocumentRows", "Rows", "shuffled"]

IGNORED = -100  # the target that no loss is taken of, as in torch and Hugging Face

Tokens = npt.NDArray[np.integer[Any]]
Numbers = npt.NDArray[np.int64]


class Rows(Protocol):
    """Rows by number; `len` tells how many."""

    def __len__(self) -> int:
        """How many rows there are."""

    def up_to(self, targets: int) -> int:
        """How many rows from the first hold at most so many targets; at least one."""

    def batch(self, numbers: Numbers) -> Batch:
        """Rows: "tokens" and "targets", int64 of shape (rows, length), and the targets' count."""


class ContiguousRows:
    """Equal pieces of one stream: each token but the first is a target once.

    Parameters
    ----------
    tokens : array, shape (tokens,)
    length : int
        Targets in a row; the tokens behind the last whole row are left out.
    end : int
        Not used: rows run across the ends of documents.

    Examples
    --------
    >>> import numpy as np
    >>> from dst.tasks.token_rows import ContiguousRows
    >>> rows = ContiguousRows(np.arange(8), length=3, end=0)
    >>> len(rows)
    2
    >>> rows.batch(np.array([1])).inputs["targets"].tolist()
    [[4, 5, 6]]
    """

    def __init__(self, tokens: Tokens, length: int, end: int) -> None:
        self.length = length
        self.count = max(0, len(tokens) - 1) // length
        self.windows = np.lib.stride_tricks.sliding_window_view(
            tokens, min(length + 1, len(tokens))
        )

    def __len__(self) -> int:
        return self.count

    def up_to(self, targets: int) -> int:
        """How many rows from the first hold at most so many targets; at least one."""
        return min(self.count, max(1, targets // self.length))

    def batch(self, numbers: Numbers) -> Batch:
        """Rows by number."""
        rows = torch.from_numpy(self.windows[numbers * self.length].astype(np.int64))
        inputs = {"tokens": rows[:, :-1], "targets": rows[:, 1:]}
        return Batch(inputs, len(numbers) * self.length)


class DocumentRows:
    """A document a row, as in the papers.

    The first `length` tokens of a document, then its end: as T5's tokenizer truncates. What is
    behind the end of a short one is padding, whose targets are -100. It needs no mask of the
    attention: it comes last, and nothing attends to what comes after.

    Parameters
    ----------
    tokens : array, shape (tokens,)
    length : int
        Highest number of targets in a row.
    end : int
        The token that ends a document.

    Examples
    --------
    >>> import numpy as np
    >>> from dst.tasks.token_rows import DocumentRows
    >>> rows = DocumentRows(np.array([5, 0, 6, 7, 8, 9, 0]), length=3, end=0)
    >>> batch = rows.batch(np.array([0, 1]))
    >>> batch.inputs["tokens"].tolist(), batch.inputs["targets"].tolist(), batch.count
    ([[5, 0, 0], [6, 7, 8]], [[0, -100, -100], [7, 8, 0]], 4)
    """

    def __init__(self, tokens: Tokens, length: int, end: int) -> None:
        self.tokens, self.length, self.end = tokens, length, end
        block = 2**24  # no array as long as the file
        ends = np.concatenate(
            [np.flatnonzero(tokens[i : i + block] == end) + i for i in range(0, len(tokens), block)]
            + [np.array([len(tokens)])]
        )
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = np.minimum(ends - starts, length)
        self.starts, self.lengths = starts[lengths > 0], lengths[lengths > 0]

    def __len__(self) -> int:
        return len(self.starts)

    def up_to(self, targets: int) -> int:
        """How many rows from the first hold at most so many targets; at least one."""
        within = int(np.searchsorted(np.cumsum(self.lengths), targets, side="right"))
        return min(len(self), max(1, within))

    def batch(self, numbers: Numbers) -> Batch:
        """Rows by number."""
        lengths = self.lengths[numbers, None]
        at = np.arange(self.length)
        where = np.minimum(self.starts[numbers, None] + at, len(self.tokens) - 1)
        tokens = np.where(at < lengths, self.tokens[where].astype(np.int64), self.end)
        targets = np.full_like(tokens, IGNORED)
        targets[:, :-1] = np.where(at[1:] < lengths, tokens[:, 1:], IGNORED)
        targets[at == lengths - 1] = self.end
        inputs = {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}
        return Batch(inputs, int(lengths.sum()))


ROWS: dict[str, Callable[[Tokens, int, int], Rows]] = {
    "contiguous": ContiguousRows,
    "documents": DocumentRows,
}
"""By the name in `data.rows`."""


def shuffled(size: int, key: int, positions: npt.ArrayLike) -> Tensor:
    """What is at some positions of a random order of 0..size-1, without making that order.

    A Feistel network permutes the numbers below a power of 4 that is at least `size`; what lands
    outside walks on until it is inside (Black and Rogaway 2002).

    Parameters
    ----------
    size : int
    key : int
        The order, see `topo.stream`.
    positions : array_like of int
        In 0..size-1.

    Returns
    -------
    Tensor
        int64, of the shape of `positions`.

    Examples
    --------
    >>> import topo
    >>> from dst.tasks.token_rows import shuffled
    >>> sorted(shuffled(5, topo.stream(0), range(5)).tolist())
    [0, 1, 2, 3, 4]
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    mask = 2**half - 1
    out = np.array(positions, dtype=np.int64)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        left, right = out[outside] >> half, out[outside] & mask
        for turn in range(6):
            bits = topo.hash_links(key, right, np.full_like(right, turn)).astype(np.int64) & mask
            left, right = right, left ^ bits
        out[outside] = (left << half) | right
        outside = out >= size
    return torch.from_numpy(out)
