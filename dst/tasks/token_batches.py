"""Batches of about as many tokens each, of sentences of about the same length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch

import topo
from dst.tasks.bpe import TokenArrays
from dst.tasks.task import Batch

__all__ = ["IGNORED", "TokenBatches"]

IGNORED = -100
"""The label of what is padding, as in Hugging Face's models."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenBatches:
    """Pairs of sentences as padded batches.

    A sentence is as long as its longer side, with the mark of its end. Sorted by this length, the
    sentences are cut into batches: as many as fit while sentences times longest is within
    `tokens`. So each side of a batch, padding counted, has at most `tokens` tokens. Sentences of
    the same length change places from epoch to epoch, and the batches their order; where the cuts
    are does not change, so every epoch has as many batches.

    Parameters
    ----------
    source, target : TokenArrays
        Tokens without marks.
    tokens : int
        Tokens of a batch at most. A longer sentence is a batch by itself.
    pad, end : int
        Ids of the marks, the same on both sides. Decoders start from `pad`.

    Examples
    --------
    >>> import numpy as np
    >>> from dst.tasks.token_batches import TokenBatches
    >>> side = np.array([5, 6, 7, 8, 9, 5], np.int32), np.array([0, 2, 3, 6])  # 2, 1 and 3 tokens
    >>> batches = TokenBatches(side, side, tokens=6, pad=0, end=1)
    >>> len(batches)  # of the two shorter sentences, of the longest
    2
    >>> batches.part(batches.sorted_batches()[0]).inputs["decoder_input_ids"].tolist()
    [[0, 7, 0], [0, 5, 6]]
    """

    source: TokenArrays
    target: TokenArrays
    tokens: int
    pad: int
    end: int

    @cached_property
    def lengths(self) -> Rows:
        """Tokens of the longer side of each pair, with the mark."""
        return np.maximum(np.diff(self.source[1]), np.diff(self.target[1])) + 1

    @cached_property
    def cuts(self) -> Rows:
        """Where in the sorted sentences each batch starts, and the last one ends."""
        ascending = np.sort(self.lengths)
        cuts = [0]
        while cuts[-1] < len(ascending):
            start = cuts[-1]
            # sentences x longest rises with every sentence that is added
            window = ascending[start : start + max(self.tokens, 1)]
            sizes = np.arange(1, len(window) + 1) * window
            cuts.append(start + max(int(np.searchsorted(sizes, self.tokens, side="right")), 1))
        return np.array(cuts)

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def sorted_batches(self) -> list[Rows]:
        """The sentences of every batch, shortest first: for evaluation."""
        return np.split(np.argsort(self.lengths, kind="stable"), self.cuts[1:-1])

    def rows(self, step: int, seed: int) -> Rows:
        """The sentences of a training step (from 0), a function of the arguments alone."""
        epoch, at = divmod(step, len(self))
        order, batches = _epoch(self, seed, epoch)
        batch = batches[at]
        return order[self.cuts[batch] : self.cuts[batch + 1]]

    def parts(self, rows: Rows, ranks: int, micro: int | None) -> list[Batch]:
        """A batch in equal parts.

        Parameters
        ----------
        rows : array of int
            Sentences.
        ranks : int
            The number of parts is a multiple of it.
        micro : int, optional
            Tokens of a part at most, padding counted.
        """
        each = 1
        if micro is not None and len(rows):
            longest = int(self.lengths[rows].max())
            each = -(-len(rows) // (ranks * max(micro // longest, 1)))
        return [self.part(part) for part in np.array_split(rows, ranks * each)]

    def part(self, rows: npt.ArrayLike) -> Batch:
        """Padded arrays of some sentences, as Hugging Face's encoder-decoders take them.

        Without sentences it has one that is empty, and no label: its loss is 0, as is the
        gradient, but processes that train together all have something to compute.

        Parameters
        ----------
        rows : array of int

        Returns
        -------
        Batch
            "input_ids", "attention_mask", "decoder_input_ids", "labels" of shape (sentences,
            tokens); its `count` is of the target's tokens with the marks of the ends.
        """
        rows = np.asarray(rows, np.int64)
        source, mask = _padded(self.source, rows, self.pad, self.end)
        labels, real = _padded(self.target, rows, self.pad, self.end)
        count = int(real.sum())
        if not len(rows):
            source, mask = np.array([[self.end]]), np.array([[True]])
            labels, real = np.array([[self.pad]]), np.array([[False]])
        start = np.full((len(labels), 1), self.pad, labels.dtype)
        shifted = np.where(real[:, :-1] & real[:, 1:], labels[:, :-1], self.pad)
        arrays = {
            "input_ids": source,
            "attention_mask": mask.astype(np.int64),
            "decoder_input_ids": np.concatenate([start, shifted], axis=1),
            "labels": np.where(real, labels, IGNORED),
        }
        return Batch({name: torch.from_numpy(array) for name, array in arrays.items()}, count)


def _padded(
    side: TokenArrays, rows: Rows, pad: int, end: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Tokens with the mark of the end, then padding; and which are not padding."""
    tokens, bounds = side
    starts, lengths = bounds[rows], bounds[rows + 1] - bounds[rows]
    columns = np.arange(int(lengths.max(initial=0)) + 1)
    places = np.minimum(starts[:, None] + columns, max(len(tokens) - 1, 0))
    found = tokens[places].astype(np.int64) if len(tokens) else np.zeros(places.shape, np.int64)
    found = np.where(columns < lengths[:, None], found, pad)
    found[np.arange(len(rows)), lengths] = end
    return found, columns <= lengths[:, None]


@lru_cache(maxsize=2)
def _epoch(batches: TokenBatches, seed: int, epoch: int) -> tuple[Rows, Rows]:
    """The order of the sentences, and that of the batches."""
    lengths = batches.lengths
    shuffled = np.argsort(
        topo.hash_links(topo.stream(seed, "sentences", epoch), np.arange(len(lengths))),
        kind="stable",
    )
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    steps = topo.hash_links(topo.stream(seed, "batches", epoch), np.arange(len(batches)))
    return order, np.argsort(steps, kind="stable")
