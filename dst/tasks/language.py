"""Language modelling with a LLaMA."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

import topo
from dst.config import Config, require
from dst.densify import Sum
from dst.tasks.cross_entropy import summed_cross_entropy
from dst.tasks.task import Batch, Score, Task
from dst.tasks.text_sources import TextSource, named, of_files, token_parts
from dst.tasks.text_tokenizer import TextTokenizer, text_tokenizer
from dst.tasks.token_file import DTYPES, open_tokens, write_tokens
from dst.tasks.token_rows import ROWS, shuffled
from topo.names import find

__all__ = ["LLAMAS", "Language", "LanguageConfig", "LanguageData", "LlamaShape", "cut_tail"]


@dataclass
class LanguageData:
    """The text.

    Parameters
    ----------
    name : str
        Text (pydoc-topics, novels98, tiny-shakespeare, openwebtext, c4), unless `train` is given.
    train : str or None
        Text files instead (.txt, .jsonl, also .gz and .xz; a path, or a pattern of paths), or a
        token file (.bin).
    valid : str or None
        The same for validation; null: `valid_share` of the training text, its end.
    revision : str or None
        Revision of a data set on the hub (openwebtext, c4); null: the newest.
    documents : int or None
        Documents of the training text that are used; null: all.
    tokens : int or None
        Tokens of the training text after which no further document is used; null: all.
    tokenizer : str
        bytes, bpe:N (of N tokens, trained on the training text), a folder or tokenizer.json, or a
        name on the Hugging Face hub (t5-base).
    dtype : str
        Of the tokens (uint16, uint32) in a token file that has no .json beside it.
    rows : str
        contiguous (equal pieces of the whole text), or documents (one a row, cut or padded).
    length : int
        Target tokens of a row: the model's context.
    batch_size : int
        Rows per optimizer step.
    micro_batch_size : int
        Rows per forward pass and process, at most.
    valid_share : float
        Share of the training text that is for validation where there is no other, in (0, 1).
    valid_tokens : int
        Target tokens that an evaluation takes at most.
    """

    name: str = "pydoc-topics"
    train: str | None = None
    valid: str | None = None
    revision: str | None = None
    documents: int | None = None
    tokens: int | None = None
    tokenizer: str = "bytes"
    dtype: str = "uint16"
    rows: str = "contiguous"
    length: int = 256
    batch_size: int = 512
    micro_batch_size: int = 32
    valid_share: float = 0.05
    valid_tokens: int = 10_000_000

    def __post_init__(self) -> None:
        find(ROWS, self.rows, "data.rows")
        find(DTYPES, self.dtype, "data.dtype")
        for key in ("length", "batch_size", "micro_batch_size", "valid_tokens"):
            require(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")
        for key in ("documents", "tokens"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"data.{key}", value, "at least 1, or null")
        require(0 < self.valid_share < 1, "data.valid_share", self.valid_share, "in (0, 1)")
        if self.valid is not None and self.train is None:
            raise ValueError("data.valid is for the text of data.train: set that, too")


@dataclass
class LlamaShape:
    """The LLaMA.

    Parameters
    ----------
    width : int
        Width of the residual stream.
    ffn : int
        Width within the feed-forward blocks.
    layers : int
        Blocks of attention and feed-forward.
    heads : int
        Attention heads; they divide `width` into even parts.
    vocabulary : int or None
        Tokens that the model knows; null: the tokenizer's.
    dropout : float
        Of the attention, in [0, 1).
    """

    width: int = 256
    ffn: int = 768
    layers: int = 8
    heads: int = 8
    vocabulary: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for key in ("width", "ffn", "layers", "heads"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "at least 1")
        even = self.width % (2 * self.heads) == 0
        require(even, "model.width", self.width, f"a multiple of 2 model.heads ({2 * self.heads})")
        known = self.vocabulary is None or self.vocabulary >= 2
        require(known, "model.vocabulary", self.vocabulary, "at least 2, or null")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")


LLAMAS: dict[str, LlamaShape] = {
    "9m": LlamaShape(256, 768, 8, 8),
    "60m": LlamaShape(512, 1376, 8, 8),
    "130m": LlamaShape(768, 2048, 12, 12),
    "1b": LlamaShape(2048, 5461, 24, 32),
}
"""By the name that the papers call them by; see the presets for their vocabularies."""


@dataclass
class LanguageConfig(Config):
    """Model language with a LLaMA.

    Parameters
    ----------
    data : LanguageData
        The text.
    model : LlamaShape
        The LLaMA.
    """

    data: LanguageData = field(default_factory=LanguageData)
    model: LlamaShape = field(default_factory=LlamaShape)

    def task(self) -> Language:
        """Tokenise the text, or open its tokens."""
        return Language(self)

    def describe(self) -> str:
        """Text and size."""
        size = self.model
        shape = f"{size.layers} layers, {size.width}/{size.ffn}"
        return f"{self.data.train or self.data.name}, LLaMA of {shape}"


class Language(Task):
    """Rows of tokens from a memory map; all layers but the embedding and the last are sparse.

    Text is tokenised once, into the folder tokens of ``$EPITOPO_CACHE``.

    Parameters
    ----------
    config : LanguageConfig

    Raises
    ------
    ValueError, OSError
        If the text, the token file or the tokenizer cannot be used.
    """

    unit: ClassVar[str] = "tokens"
    score = Score("valid_perplexity", higher_is_better=False)
    dense = ("lm_head",)

    def __init__(self, config: LanguageConfig) -> None:
        self.config, data = config, config.data
        train, valid = _sources(data)
        cache = Path(os.environ.get("EPITOPO_CACHE") or Path.home() / ".cache" / "epitopo")
        self.folder = cache / "tokens"
        with _locked(self.folder):
            self.tokenizer = self._tokenizer(train)
            self.vocabulary = config.model.vocabulary or self.tokenizer.vocabulary
            tokens = self._tokens(train, data.tokens)
            if valid is None:
                tokens, held_out = cut_tail(tokens, data.valid_share, self.tokenizer.end)
            else:
                held_out = self._tokens(valid, data.valid_tokens + 1)
        rows = ROWS[data.rows]
        self.tokens = tokens, held_out
        self.train = rows(tokens, data.length, self.tokenizer.end)
        self.valid = rows(held_out, data.length, self.tokenizer.end)
        for side, has, of in (("train", self.train, tokens), ("valid", self.valid, held_out)):
            if len(has) == 0:
                raise ValueError(
                    f"the {side} text has {len(of)} tokens, too few for a row of data.length "
                    f"({data.length})"
                )
        self.epoch_steps = -(-len(self.train) // data.batch_size)

    def model(self) -> nn.Module:
        """A Hugging Face LLaMA that ends in an untied `lm_head`, with its own initial weights."""
        try:
            from transformers import LlamaConfig, LlamaForCausalLM
        except ImportError:
            raise ImportError(
                "a LLaMA needs the library transformers: pip install 'epitopo[text]'"
            ) from None
        shape = self.config.model
        end = self.tokenizer.end if self.tokenizer.end < self.vocabulary else None
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=self.config.data.length,
            rms_norm_eps=1e-6,
            attention_dropout=shape.dropout,
            tie_word_embeddings=False,
            bos_token_id=end,
            eos_token_id=end,
        )
        config._attn_implementation = "sdpa"
        return LlamaForCausalLM(config)

    def batches(self, step: int, ranks: int) -> list[Batch]:
        """The next rows of the epoch's order, in equal parts."""
        data = self.config.data
        epoch, at = divmod(step, self.epoch_steps)
        positions = np.arange(
            at * data.batch_size, min((at + 1) * data.batch_size, len(self.train))
        )
        key = topo.stream(self.config.seed, "epoch", epoch)
        numbers = shuffled(len(self.train), key, positions)
        parts = -(-len(numbers) // (data.micro_batch_size * ranks)) * ranks
        return [self._batch(self.train, part) for part in numbers.tensor_split(parts)]

    def fingerprint(self) -> str:
        """Of the tokenizer, and of up to a million tokens from all over the text."""
        digest = hashlib.sha256(self.tokenizer.fingerprint.encode())
        for tokens in self.tokens:
            digest.update(f"{len(tokens)} ".encode())
            for start in np.linspace(0, max(len(tokens) - 256, 0), 2048).astype(np.int64):
                digest.update(np.array(tokens[start : start + 256], np.int64).data)
        return digest.hexdigest()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy in nats."""
        logits = model(input_ids=batch.inputs["tokens"], use_cache=False).logits
        return summed_cross_entropy(logits, batch.inputs["targets"])

    def evaluate(self, model: nn.Module, rank: int, ranks: int) -> dict[str, float]:
        """Over every `ranks`-th of the validation rows."""
        device = next(model.parameters()).device
        rows = torch.arange(self.valid.up_to(self.config.data.valid_tokens))[rank::ranks]
        loss, count = torch.zeros((), dtype=torch.float64, device=device), 0
        for part in rows.split(self.config.data.micro_batch_size):
            batch = self._batch(self.valid, part)
            inputs = {name: value.to(device) for name, value in batch.inputs.items()}
            loss += self.loss(model, Batch(inputs, batch.count))
            count += batch.count
        return {"loss": loss.item(), "count": count}

    def measures(self, sums: dict[str, float]) -> dict[str, float]:
        """Mean cross-entropy of a token (nats) on the validation text, and its exponential."""
        loss = torch.tensor(sums["loss"] / sums["count"], dtype=torch.float64)
        return {"valid_loss": loss.item(), "valid_perplexity": loss.exp().item()}

    def export(self, model: nn.Module, folder: Path) -> None:
        """What `AutoModelForCausalLM` and `AutoTokenizer` load.

        Where layers have an activation between factors of low rank, a file of code goes along:
        ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``.
        """
        whole: Any = with_code(model)
        whole.save_pretrained(folder)
        self.tokenizer.hugging_face(self.config.data.length).save_pretrained(folder)

    def _tokenizer(self, train: TextSource | Path) -> TextTokenizer:
        name = self.config.data.tokenizer
        if isinstance(train, Path):
            return text_tokenizer(name)
        cached = self.folder / f"{name.replace(':', '-')}-{_digest(train.key)}.tokenizer.json"
        return text_tokenizer(name, train.text, cached)

    def _tokens(self, source: TextSource | Path, limit: int | None) -> Any:
        """A token file's tokens, those of text after they are written to one in the cache."""
        data, made_with = self.config.data, self.tokenizer.fingerprint
        if isinstance(source, Path):
            file = open_tokens(
                source, vocabulary=self.vocabulary, dtype=data.dtype, tokenizer=made_with
            )
            return file.tokens if limit is None else file.tokens[:limit]
        longest = data.length if data.rows == "documents" else None
        digest = _digest(source.key, made_with, longest, limit)
        path = self.folder / f"{source.name}-{digest}.bin"
        if not path.with_suffix(".json").is_file():
            write_tokens(
                path,
                token_parts(source, self.tokenizer, longest),
                vocabulary=self.tokenizer.vocabulary,
                end=self.tokenizer.end,
                tokenizer=made_with,
                source=_digest(source.key),
                limit=limit,
            )
        return open_tokens(path, vocabulary=self.vocabulary, tokenizer=made_with).tokens

    @staticmethod
    def _batch(rows: Any, numbers: Tensor) -> Batch:
        if len(numbers):
            return rows.batch(numbers.numpy())
        # of a rank that has none: a row without targets, for a LLaMA takes no empty batch
        row = rows.batch(np.zeros(1, np.int64))
        row.inputs["targets"] = torch.full_like(row.inputs["targets"], -100)
        return Batch(row.inputs, 0)


def with_code(model: Any) -> Any:
    """A LLaMA whose class knows its layers, if they are no longer those of any LLaMA."""
    made: dict[str, Any] = {
        name: layer
        for name, layer in model.named_modules()
        if name.endswith("_proj") and not isinstance(layer, nn.Linear)
    }
    if not made:
        return model
    from dst.tasks.modeling_low_rank import LowRankLlama, LowRankLlamaConfig

    alone = [name for name, layer in made.items() if not isinstance(layer, Sum)]
    branches: dict[str, Any] = {
        name: layer[1] if isinstance(layer, Sum) else layer for name, layer in made.items()
    }
    ranks = {name: branch[0].out_features for name, branch in branches.items()}
    config = LowRankLlamaConfig(ranks, alone, **model.config.to_dict())
    config._attn_implementation = model.config._attn_implementation
    LowRankLlamaConfig.register_for_auto_class()
    LowRankLlama.register_for_auto_class("AutoModelForCausalLM")
    whole = LowRankLlama(config)
    whole.load_state_dict(model.state_dict())
    return whole.eval()


def cut_tail(tokens: Any, share: float, end: int) -> tuple[Any, Any]:
    """Cut a stream in two, near its end and if possible behind the end of a document.

    Examples
    --------
    >>> import numpy as np
    >>> from dst.tasks.language import cut_tail
    >>> [part.tolist() for part in cut_tail(np.array([5, 6, 7, 0, 8, 9, 0]), 0.5, end=0)]
    [[5, 6, 7, 0], [8, 9, 0]]
    """
    cut = round(len(tokens) * (1 - share))
    near = np.flatnonzero(tokens[cut : cut + round(len(tokens) * share / 2)] == end)
    cut += int(near[0]) + 1 if len(near) else 0
    return tokens[:cut], tokens[cut:]


def _sources(data: LanguageData) -> tuple[TextSource | Path, TextSource | Path | None]:
    """Text, or token files, of training and validation."""
    train: TextSource | Path
    valid: TextSource | Path | None
    if data.train is None:
        train, valid = named(data.name, data.revision)
    else:
        train = _given(data.train)
        valid = None if data.valid is None else _given(data.valid)
    if isinstance(train, TextSource):
        train = train.first(data.documents)
    elif data.documents is not None:
        raise ValueError("data.documents is for text: limit a token file by data.tokens")
    return train, valid


def _given(pattern: str) -> TextSource | Path:
    path = Path(pattern).expanduser()
    return path if path.suffix == ".bin" else of_files(str(path))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _locked(folder: Path) -> FileLock:
    """Processes that want the same tokens wait for the one that makes them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {folder} for tokens: {error.strerror}. Set EPITOPO_CACHE to "
            "a folder that can be written"
        ) from None
    return FileLock(folder / ".lock")
