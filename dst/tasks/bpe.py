"""Subword tokenizers: byte pair encoding by `tokenizers`, trained, kept and checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from topo.files import write_atomically

__all__ = ["END", "PAD", "TokenArrays", "Tokenizer", "load_tokenizer", "train_bpe"]

PAD, END = "<pad>", "</s>"
_MARKS = (PAD, END)
_VERSION = 1  # of the way that tokenizers are trained
_BLOCK = 20_000  # sentences encoded at a time
_log = logging.getLogger(__name__)

TokenArrays = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""Tokens of all sentences in one array, and where each sentence starts and the last one ends."""


class Tokenizer:
    """A tokenizer with marks for padding and for the end of a sentence.

    Parameters
    ----------
    inner : tokenizers.Tokenizer
    name : str
        Where it is from, for messages.

    Attributes
    ----------
    inner : tokenizers.Tokenizer
    name : str
    pad, end : int
        Ids of the marks.
    unknown : int or None
        Id of what stands for unknown characters.
    size : int
        Of the vocabulary.

    Raises
    ------
    ValueError
        If it lacks one of the marks, or its ids are not 0, 1, ... without gaps.
    """

    def __init__(self, inner: Any, name: str) -> None:
        self.inner, self.name = inner, name
        vocabulary = inner.get_vocab(with_added_tokens=True)
        for mark in _MARKS:
            if mark not in vocabulary:
                raise ValueError(
                    f"{name} does not fit: its vocabulary has no {mark!r}; train one with the "
                    f"special tokens {' and '.join(_MARKS)}, or set data.tokenizer to null"
                )
        self.size = len(vocabulary)
        if max(vocabulary.values()) >= self.size:
            raise ValueError(
                f"{name} does not fit: it has {self.size} tokens but the id "
                f"{max(vocabulary.values())}: ids must be 0, 1, ... without gaps"
            )
        self.pad, self.end = vocabulary[PAD], vocabulary[END]
        unknown = getattr(inner.model, "unk_token", None) or "<unk>"
        self.unknown: int | None = vocabulary.get(unknown)
        inner.encode_special_tokens = True  # what looks like a mark within a sentence is text

    def encode(self, sentences: Sequence[str]) -> TokenArrays:
        """The tokens of each sentence, without marks.

        Parameters
        ----------
        sentences : sequence of str

        Returns
        -------
        tokens : int32 array, shape (all tokens,)
        bounds : int64 array, shape (sentences + 1,)
        """
        parts: list[npt.NDArray[np.int32]] = []
        lengths: list[int] = []
        for start in range(0, len(sentences), _BLOCK):  # what `tokenizers` returns is large
            found = self.inner.encode_batch_fast(
                sentences[start : start + _BLOCK], add_special_tokens=False
            )
            ids = [encoding.ids for encoding in found]
            lengths += map(len, ids)
            parts += [np.fromiter((i for row in ids for i in row), np.int32)]
        tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        return tokens, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))

    def decode(self, sentences: Sequence[Sequence[int]]) -> list[str]:
        """Text of tokens, without marks: detokenised."""
        texts = self.inner.decode_batch([list(s) for s in sentences], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def check(self, tokens: npt.NDArray[np.int32], what: str) -> None:
        """Refuse a tokenizer that was made for other text.

        Parameters
        ----------
        tokens : int32 array
            What it made of a text.
        what : str
            Which text, for the message.

        Raises
        ------
        ValueError
            If an id is beyond the vocabulary, or more than one token in twenty is unknown.
        """
        if len(tokens) and int(tokens.max()) >= self.size:
            raise ValueError(
                f"{self.name} does not fit {what}: it gave the id {int(tokens.max())}, but its "
                f"vocabulary has {self.size} tokens"
            )
        share = float((tokens == self.unknown).mean()) if len(tokens) else 0.0
        if share > 0.05:
            raise ValueError(
                f"{self.name} does not fit {what}: {share:.0%} of the tokens are unknown to it; "
                "name one made for this text, or set data.tokenizer to null to train one"
            )


def load_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer from the tokenizer.json of `tokenizers`.

    Raises
    ------
    ValueError
        If the file is none, or the tokenizer cannot be used (see `Tokenizer`).
    """
    if not file.is_file():
        raise ValueError(f"data.tokenizer: there is no file {str(file)!r}")
    try:
        inner = _library().Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no other
        raise ValueError(
            f"{file} cannot be read as a tokenizer.json of `tokenizers`: {error}"
        ) from None
    inner.no_padding()
    inner.no_truncation()
    return Tokenizer(inner, str(file))


def train_bpe(sentences: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte pair encoding with a vocabulary learned from a text, kept in the cache.

    It works on the bytes of words, so nothing is unknown and any text comes back exactly. What is
    in the cache is taken only for the same text and settings, and only if it is undamaged.

    Parameters
    ----------
    sentences : sequence of str
        The training split.
    vocabulary : int
        Tokens at most, with 256 for the bytes and two marks. A small text gives fewer.

    Raises
    ------
    ValueError
        If the vocabulary is too small.
    OSError
        If the cache cannot be written.
    """
    if vocabulary < 256 + len(_MARKS):
        raise ValueError(
            f"data.vocabulary must be at least {256 + len(_MARKS)} (all bytes and "
            f"{len(_MARKS)} marks), not {vocabulary!r}"
        )
    digest = hashlib.sha256(f"byte pairs, {_VERSION}, {vocabulary}\n".encode())
    for sentence in sentences:
        digest.update(sentence.encode() + b"\n")
    fingerprint = digest.hexdigest()
    cache = Path(os.environ.get("EPITOPO_CACHE") or Path.home() / ".cache" / "epitopo")
    folder = cache / "tokenizers"
    file = folder / f"{fingerprint[:32]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{file.name}.lock"):  # ranks train the same one at once
            inner = _cached(file, fingerprint)
            if inner is None:
                inner = _train(sentences, vocabulary)
                write_atomically(file, _wrapped(inner.to_str(), fingerprint))
    except OSError as error:
        raise OSError(
            f"cannot write {file}: {error.strerror or error}. Make room there, or set "
            "EPITOPO_CACHE to another folder"
        ) from None
    return Tokenizer(inner, str(file))


def _wrapped(text: str, fingerprint: str) -> bytes:
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"fingerprint": fingerprint, "sha256": sha256, "tokenizer": text}).encode()


def _cached(file: Path, fingerprint: str) -> Any:
    """The tokenizer in a file of the cache; None where it has to be trained (again)."""
    if not file.is_file():
        return None
    try:
        content = file.read_bytes()
        text = json.loads(content)["tokenizer"]
        if content == _wrapped(text, fingerprint):
            return _library().Tokenizer.from_str(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    _log.warning("%s is damaged, or of another text: the tokenizer is trained again", file)
    return None


def _train(sentences: Sequence[str], vocabulary: int) -> Any:
    library = _library()
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_MARKS),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_blocks(sentences), trainer, length=len(sentences))
    return inner


def _blocks(sentences: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(sentences), _BLOCK):
        yield sentences[start : start + _BLOCK]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError(
            "translation needs the library `tokenizers`: pip install 'epitopo[text]'"
        ) from None
    return tokenizers
