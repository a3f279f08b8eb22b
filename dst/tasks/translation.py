"""Translation with an encoder-decoder Transformer."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dst.config import Config, require
from dst.tasks.beam_search import Marks, beam_search
from dst.tasks.bpe import TokenArrays, Tokenizer, load_tokenizer, train_bpe
from dst.tasks.marian import export_marian, marian
from dst.tasks.parallel_text import SPLITS, ParallelText, load_parallel
from dst.tasks.task import Batch, Score, Task
from dst.tasks.token_batches import IGNORED, TokenBatches

__all__ = [
    "SearchConfig",
    "TransformerConfig",
    "Translation",
    "TranslationConfig",
    "TranslationData",
]

EVALUATION_TOKENS = 4096  # of a batch, where no gradients are kept
_log = logging.getLogger(__name__)


@dataclass
class TranslationData:
    """The parallel text, its tokenizers, and the batches.

    Parameters
    ----------
    name : str
        Data set (number-words, multi30k, tatoeba-en-de, iwslt14, wmt17), or a folder of text files
        such as train.en and train.de, also .gz or .xz, with a sentence a line.
    source : str
        Language to translate from, as the file names end.
    target : str
        Language to translate into, as the file names end.
    train : str or None
        What the names of the training files start with; null: train, or as the data set has it.
    valid : str or None
        What the names of the validation files start with; null: valid, or as the data set has it.
    test : str or None
        What the names of the test files start with; null: test, or as the data set has it.
    sentences : int or None
        Train on the first pairs alone; null: on all (number-words: 10,000).
    largest : int
        Largest number of number-words, 99 to 999,999.
    skip_empty : bool
        Leave out pairs of which a side is empty, which are refused otherwise.
    vocabulary : int
        Tokens of each vocabulary at most (byte pair encoding, learned from the training split).
    shared_vocabulary : bool
        One vocabulary, and one embedding, for both languages.
    tokenizer : str or None
        A tokenizer.json for both languages, instead of learned ones.
    max_length : int
        Tokens of a sentence at most. Longer ones are left out of the training, and truncated in
        validation and test (the references of BLEU are not).
    batch_tokens : int
        Tokens of an optimizer step at most: sentences times the longest, on the larger side,
        with padding.
    micro_batch_tokens : int or None
        Tokens of a forward pass at most, to fit into memory; null: batch_tokens.
    """

    name: str = "number-words"
    source: str = "en"
    target: str = "de"
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    sentences: int | None = None
    largest: int = 999
    skip_empty: bool = False
    vocabulary: int = 10_000
    shared_vocabulary: bool = False
    tokenizer: str | None = None
    max_length: int = 256
    batch_tokens: int = 1024
    micro_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        different = self.source != self.target
        require(different, "data.target", self.target, "another language than data.source")
        for key in ("sentences", "micro_batch_tokens"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"data.{key}", value, "at least 1, or null")
        for key in ("max_length", "batch_tokens"):
            require(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")


@dataclass
class TransformerConfig:
    """The Transformer of Vaswani et al. 2017: ReLU, layer norms behind, positions as sinusoids.

    Parameters
    ----------
    layers : int
        Of the encoder, and of the decoder.
    width : int
        Neurons of the residual stream.
    heads : int
        Attention heads; they share the width.
    ffn : int
        Neurons of the feed-forward layers within.
    dropout : float
        Share of the neurons that are dropped in training, in [0, 1).
    attention_dropout : float
        Share of the attention weights that are dropped in training, in [0, 1).
    label_smoothing : float
        Share of the target's probability that is spread over the vocabulary, in [0, 1).
    """

    layers: int = 6
    width: int = 512
    heads: int = 8
    ffn: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.1
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        for key in ("layers", "width", "heads", "ffn"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "at least 1")
        fits = self.width % self.heads == 0 and self.width % 2 == 0
        expected = f"even, and a multiple of model.heads ({self.heads})"
        require(fits, "model.width", self.width, expected)
        for key in ("dropout", "attention_dropout", "label_smoothing"):
            require(0 <= getattr(self, key) < 1, f"model.{key}", getattr(self, key), "in [0, 1)")


@dataclass
class SearchConfig:
    """Beam search, for the test.

    Parameters
    ----------
    beams : int
        Outputs that are kept at each step; 1: greedy.
    length_penalty : float
        Exponent alpha of ((5 + tokens) / 6)^alpha, which log-probabilities are divided by (Wu et
        al. 2016); 0: none.
    """

    beams: int = 2
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        require(self.beams >= 1, "search.beams", self.beams, "at least 1")
        alpha = self.length_penalty
        require(alpha >= 0, "search.length_penalty", alpha, "0 or more")


@dataclass
class TranslationConfig(Config):
    """Translate with an encoder-decoder Transformer.

    Parameters
    ----------
    data : TranslationData
        The parallel text, its tokenizers, and the batches.
    model : TransformerConfig
        The Transformer.
    search : SearchConfig
        Beam search, for the test.
    """

    data: TranslationData = field(default_factory=TranslationData)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def task(self) -> Translation:
        """Load the text, and learn its tokens."""
        return Translation(self)

    def describe(self) -> str:
        """Data, direction and size."""
        data, size = self.data, self.model
        shape = f"{size.layers}+{size.layers} layers, {size.width}/{size.ffn}"
        return f"{data.name} {data.source}-{data.target}, Transformer of {shape}"


class Translation(Task):
    """Sentences in memory as tokens; all linear layers but the output layer are sparse.

    Parameters
    ----------
    config : TranslationConfig

    Attributes
    ----------
    tokenizers : tuple of Tokenizer
        Of the source and of the target.
    splits : dict of str to TokenBatches
        "train", "valid" and "test".
    dropped : int
        Training pairs that are too long.
    """

    unit: ClassVar[str] = "tokens"
    score = Score("test_bleu", higher_is_better=True, selected_by="valid_loss")
    dense = ("lm_head",)

    def __init__(self, config: TranslationConfig) -> None:
        self.config, data = config, config.data
        texts = load_parallel(
            data.name,
            data.source,
            data.target,
            prefixes={s: p for s in SPLITS if (p := getattr(data, s)) is not None},
            sentences=data.sentences,
            largest=data.largest,
            skip_empty=data.skip_empty,
        )
        self.shared = data.shared_vocabulary or data.tokenizer is not None
        self.tokenizers = _tokenizers(data, texts["train"])
        self.marks = Marks(self.tokenizers[0].pad, self.tokenizers[0].end)
        self.dropped = 0
        self.splits = {name: self._batches(name, texts[name]) for name in SPLITS}
        self.test_source, self.test_target = texts["test"].source, texts["test"].target
        self.epoch_steps = len(self.splits["train"])

    def _batches(self, split: str, text: ParallelText) -> TokenBatches:
        data, sides = self.config.data, []
        pairs = ((self.tokenizers[0], text.source), (self.tokenizers[1], text.target))
        for tokenizer, sentences in pairs:
            sides.append(tokenizer.encode(sentences))
            tokenizer.check(sides[-1][0], f"{text.name} ({split})")
        long = np.any([np.diff(bounds) > data.max_length for _, bounds in sides], axis=0)
        training = split == "train"
        if long.any():
            done = "left out" if training else "truncated"
            _log.warning(
                "%s (%s): %d of %d pairs %s, longer than data.max_length (%d tokens)",
                text.name, split, long.sum(), len(text), done, data.max_length,
            )  # fmt: skip
        if training:
            self.dropped = int(long.sum())
            if long.all():
                raise ValueError(
                    f"all {len(text)} training pairs of {text.name} are longer than "
                    f"data.max_length ({data.max_length} tokens): raise it"
                )
            sides = [_kept(side, ~long) for side in sides]
        sides = [_truncated(side, data.max_length) for side in sides]
        size = data.batch_tokens if training else EVALUATION_TOKENS
        return TokenBatches(sides[0], sides[1], size, self.marks.start, self.marks.end)

    def model(self) -> nn.Module:
        """Hugging Face's `MarianMTModel`, with Glorot's weights."""
        size, tokens = self.config.model, self.tokenizers
        return marian(
            vocabularies=(tokens[0].size, tokens[1].size),
            shared=self.shared,
            pad=self.marks.start,
            end=self.marks.end,
            positions=self.config.data.max_length + 1,
            layers=size.layers,
            width=size.width,
            heads=size.heads,
            ffn=size.ffn,
            dropout=size.dropout,
            attention_dropout=size.attention_dropout,
        )

    def fingerprint(self) -> str:
        """Of the tokens of all sentences, and of the tokenizers."""
        digest = hashlib.sha256()
        for tokenizer in self.tokenizers:
            digest.update(tokenizer.inner.to_str().encode())
        for split in self.splits.values():
            for part in (*split.source, *split.target):
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def batches(self, step: int, ranks: int) -> list[Batch]:
        """The step's sentences, all of about the same length, in equal parts."""
        train = self.splits["train"]
        rows = train.rows(step, self.config.seed)
        return train.parts(rows, ranks, self.config.data.micro_batch_tokens)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy in nats, with label smoothing."""
        logits, labels = _forward(model, batch)
        smoothing = self.config.model.label_smoothing
        return F.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )

    def evaluate(self, model: nn.Module, rank: int, ranks: int) -> dict[str, float]:
        """Over every `ranks`-th batch of the validation split, without label smoothing."""
        valid, device = self.splits["valid"], next(model.parameters()).device
        loss = correct = count = 0.0
        for rows in valid.sorted_batches()[rank::ranks]:
            batch = valid.part(rows)
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            logits, labels = _forward(model, Batch(inputs, batch.count))
            loss += F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
            count += batch.count
        return {"loss": loss, "correct": correct, "count": count}

    def measures(self, sums: dict[str, float]) -> dict[str, float]:
        """Cross-entropy per target token (nats), its exponential, and the accuracy of tokens."""
        loss = sums["loss"] / sums["count"]
        return {
            "valid_loss": loss,
            "valid_perplexity": math.exp(loss) if loss < 700 else math.inf,
            "valid_accuracy": sums["correct"] / sums["count"],
        }

    def translate(self, model: nn.Module, split: str = "test") -> list[str]:
        """Detokenised translations of a split, by beam search, in the split's order.

        An output has at most 16 + 2 x the source's tokens, and at most `data.max_length`.
        """
        batches, search = self.splits[split], self.config.search
        device = next(model.parameters()).device
        outputs: list[list[int]] = [[] for _ in range(len(batches.lengths))]
        for rows in batches.sorted_batches():
            inputs = batches.part(rows).inputs
            mask = inputs["attention_mask"].to(device)
            longest = (2 * mask.sum(1) + 14).clamp(max=self.config.data.max_length) + 1
            found = beam_search(
                model,
                inputs["input_ids"].to(device),
                mask,
                longest,
                self.marks,
                beams=search.beams,
                alpha=search.length_penalty,
            )
            for row, output in zip(rows.tolist(), found, strict=True):
                outputs[row] = output
        return self.tokenizers[1].decode(outputs)

    def test(self, model: nn.Module) -> dict[str, Any]:
        """BLEU by sacreBLEU on the detokenised test split, with its signature and examples.

        The model is in evaluation mode.
        """
        bleu = _sacrebleu().BLEU()
        translations = self.translate(model)
        score = bleu.corpus_score(translations, [self.test_target])
        return {
            "test_bleu": score.score,
            "test_bleu_signature": str(bleu.get_signature()),
            "test_sentences": len(translations),
            "test_examples": [
                {"source": source, "translation": translation, "reference": reference}
                for source, translation, reference in zip(
                    self.test_source[:3], translations, self.test_target, strict=False
                )
            ],
        }

    def export(self, model: nn.Module, folder: Path) -> None:
        """A folder for `MarianMTModel.from_pretrained` and `AutoTokenizer.from_pretrained`.

        The tokenizer is the source's; the target's is in the folder "target". Mind that Hugging
        Face's `generate` has another length penalty.
        """
        search, longest = self.config.search, self.config.data.max_length
        export_marian(model, folder, self.tokenizers, beams=search.beams, longest=longest)


def _tokenizers(data: TranslationData, text: ParallelText) -> tuple[Tokenizer, Tokenizer]:
    if data.tokenizer is not None:
        given = load_tokenizer(Path(data.tokenizer).expanduser())
        return given, given
    if data.shared_vocabulary:
        learned = train_bpe([*text.source, *text.target], data.vocabulary)
        return learned, learned
    return train_bpe(text.source, data.vocabulary), train_bpe(text.target, data.vocabulary)


def _kept(side: TokenArrays, rows: np.ndarray) -> TokenArrays:
    tokens, bounds = side
    lengths = np.diff(bounds)
    return tokens[np.repeat(rows, lengths)], np.concatenate(([0], np.cumsum(lengths[rows])))


def _truncated(side: TokenArrays, longest: int) -> TokenArrays:
    tokens, bounds = side
    lengths = np.diff(bounds)
    place = np.arange(len(tokens)) - np.repeat(bounds[:-1], lengths)
    cut = np.concatenate(([0], np.cumsum(np.minimum(lengths, longest))))
    return tokens[place < longest], cut


def _forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and labels of all places, of a batch on the model's device."""
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels").flatten()
    logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    return (logits if logits.dtype == torch.float64 else logits.float()), labels


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError:
        raise ImportError("BLEU needs the library sacrebleu: pip install 'epitopo[text]'") from None
    return metrics
