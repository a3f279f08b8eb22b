"""Beam search for the encoder-decoders of Hugging Face, with the length penalty of Wu et al."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Marks", "beam_search", "length_penalty"]


@dataclass(frozen=True)
class Marks:
    """Ids with a meaning: `start` begins every output, and never follows; `end` ends it."""

    start: int
    end: int


def length_penalty(tokens: Tensor, alpha: float) -> Tensor:
    """What log-probabilities are divided by: ((5 + tokens) / 6) ^ alpha (Wu et al. 2016).

    Hugging Face's `generate` divides by tokens ^ alpha instead.

    Examples
    --------
    >>> import torch
    >>> from dst.tasks.beam_search import length_penalty
    >>> length_penalty(torch.tensor([1, 7]), alpha=1.0)
    tensor([1., 2.])
    """
    return ((5 + tokens) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    longest: Tensor,
    marks: Marks,
    *,
    beams: int = 2,
    alpha: float = 1.0,
) -> list[list[int]]:
    """The best translation that a search of limited width finds, for each sentence of a batch.

    Step by step the `beams` likeliest unfinished outputs are kept. One is finished where the mark
    of the end is among the `beams` likeliest continuations. A sentence is done when `beams`
    outputs are finished, or when none that is unfinished can become better than the best of them.
    Outputs are compared by log-probability / `length_penalty`, the mark of the end counted in
    both; those that reach the longest length are taken as they are there. With one beam this is
    greedy search.

    Parameters
    ----------
    model : torch.nn.Module
        An encoder-decoder of Hugging Face in evaluation mode, on the device of the inputs.
    input_ids, attention_mask : int64 tensors, shape (sentences, tokens)
    longest : int64 tensor, shape (sentences,)
        Tokens of an output at most, with the mark of the end; positive.
    marks : Marks
    beams : int
    alpha : float
        Exponent of the length penalty; 0: none.

    Returns
    -------
    list of list of int
        Tokens of each output, without marks.
    """
    search = _Search(len(input_ids), longest, marks, beams, alpha)
    decoder = _Decoder(model, input_ids, attention_mask, beams)
    while len(search.sentences):
        search.advance(decoder.log_probabilities(search.outputs[:, :, -1].reshape(-1)))
        unfinished = search.unfinished()
        decoder.reorder(search.origins[unfinished], unfinished)
        search.keep(unfinished)
    return search.best


class _Decoder:
    """The model's next log-probabilities, with keys and values of former tokens kept."""

    def __init__(self, model: Any, input_ids: Tensor, attention_mask: Tensor, beams: int) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self.model, self.beams = model, beams
        hidden = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
        self.hidden = hidden.repeat_interleave(beams, 0)
        self.mask = attention_mask.repeat_interleave(beams, 0)
        self.cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def log_probabilities(self, last: Tensor) -> Tensor:
        """After the last tokens, shape (sentences, beams, vocabulary)."""
        logits = self.model(
            encoder_outputs=(self.hidden,),
            attention_mask=self.mask,
            decoder_input_ids=last[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits.log_softmax(-1).unflatten(0, (-1, self.beams))

    def reorder(self, origins: Tensor, kept: Tensor) -> None:
        """Go on from these beams of these sentences."""
        rows = kept[:, None] * self.beams
        self.cache.self_attention_cache.reorder_cache((rows + origins).reshape(-1))
        if len(kept) * self.beams < len(self.hidden):
            all_beams = torch.arange(self.beams, device=rows.device)
            rows = (rows + all_beams).reshape(-1)
            self.cache.cross_attention_cache.reorder_cache(rows)
            self.hidden, self.mask = self.hidden[rows], self.mask[rows]


class _Search:
    """Unfinished outputs of the sentences that are not done, and the best of those that are."""

    def __init__(
        self, sentences: int, longest: Tensor, marks: Marks, beams: int, alpha: float
    ) -> None:
        self.marks, self.beams, self.alpha = marks, beams, alpha
        self.best: list[list[int]] = [[] for _ in range(sentences)]
        self.best_scores = longest.new_full((sentences,), -torch.inf, dtype=torch.float64)
        self.finished = torch.zeros_like(longest)  # outputs of each sentence
        self.longest = longest
        self.sentences = torch.arange(sentences, device=longest.device)
        self.outputs = longest.new_full((sentences, beams, 1), marks.start)
        # all beams start alike: only the first counts
        self.scores = longest.new_full((sentences, beams), -torch.inf, dtype=torch.float64)
        self.scores[:, 0] = 0
        self.origins = torch.zeros_like(self.outputs[:, :, 0])

    def advance(self, log_probabilities: Tensor) -> None:
        """Continue every output by the likeliest tokens; finish those that end."""
        log_probabilities = log_probabilities.double()
        log_probabilities[:, :, self.marks.start] = -torch.inf
        vocabulary = log_probabilities.shape[-1]
        candidates = (self.scores[:, :, None] + log_probabilities).flatten(1)
        # of twice as many, at least `beams` do not end: each beam ends in one way
        scores, places = candidates.topk(2 * self.beams)
        origins, tokens = places // vocabulary, places % vocabulary
        length = torch.tensor(self.outputs.shape[2], device=scores.device)  # with the new token
        ends = tokens == self.marks.end
        self._finish(
            scores[:, : self.beams].where(ends[:, : self.beams], -torch.inf),
            origins[:, : self.beams],
            length,
        )
        self.scores, order = scores.where(~ends, -torch.inf).topk(self.beams)
        self.origins = origins.gather(1, order)
        history = self.outputs.gather(1, self.origins[:, :, None].expand_as(self.outputs))
        self.outputs = torch.cat([history, tokens.gather(1, order)[:, :, None]], 2)
        # cut where the longest length is reached
        at_end = (self.longest[self.sentences] == length)[:, None]
        cut = self.scores.where(at_end, -torch.inf)
        self._finish(cut, torch.arange(self.beams, device=cut.device).expand_as(cut), length)

    def _finish(self, scores: Tensor, origins: Tensor, length: Tensor) -> None:
        """Take outputs (as they are now) whose scores are not -inf as finished."""
        normal, best = (scores / length_penalty(length.double(), self.alpha)).max(1)
        self.finished[self.sentences] += (scores > -torch.inf).sum(1)
        better = (normal > self.best_scores[self.sentences]).nonzero()[:, 0]
        self.best_scores[self.sentences[better]] = normal[better]
        rows = self.outputs[better, origins[better, best[better]], 1:].tolist()
        for sentence, row in zip(self.sentences[better].tolist(), rows, strict=True):
            self.best[sentence] = row

    def unfinished(self) -> Tensor:
        """Which of the sentences are not done, as indices."""
        length, longest = self.outputs.shape[2] - 1, self.longest[self.sentences]
        # log-probabilities only fall, so this is the most that an output can reach
        bound = self.scores[:, 0] / length_penalty(longest.double(), max(self.alpha, 0))
        open_ = (
            (length < longest)
            & (self.finished[self.sentences] < self.beams)
            & (bound > self.best_scores[self.sentences])
        )
        return open_.nonzero()[:, 0]

    def keep(self, unfinished: Tensor) -> None:
        """Go on with these sentences alone."""
        self.sentences = self.sentences[unfinished]
        self.outputs = self.outputs[unfinished]
        self.scores = self.scores[unfinished]
