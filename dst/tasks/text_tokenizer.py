"""Tokenizers: bytes, one of a folder or a hub, or one trained on the text."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topo.files import write_atomically

__all__ = ["TextTokenizer", "text_tokenizer"]

logger = logging.getLogger(__name__)

END = "<|endoftext|>"
_ENDS = (END, "</s>", "<eos>", "<|end_of_text|>", "[EOS]", "[SEP]")  # of others' tokenizers
_PROBE = "The 3 cats' fur,\n\n  naïve 語 \t(x_1 != 42)."


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer of the library `tokenizers`, and the token that ends a document.

    Attributes
    ----------
    core : tokenizers.Tokenizer
        It adds no special tokens, and takes them for text where they are in a text.
    end_text : str
    plain_bytes : bool
        Whether tokens are bytes: these need no library.

    Examples
    --------
    >>> from dst.tasks.text_tokenizer import text_tokenizer
    >>> tokenizer = text_tokenizer("bytes")
    >>> tokenizer.encode(["Hi", "é"])
    [array([ 72, 105], dtype=uint32), array([195, 169], dtype=uint32)]
    >>> tokenizer.vocabulary, tokenizer.end
    (257, 256)
    """

    core: Any
    end_text: str
    plain_bytes: bool = False

    @property
    def vocabulary(self) -> int:
        """One more than the highest token."""
        return int(max(self.core.get_vocab().values())) + 1

    @property
    def end(self) -> int:
        """The token that ends a document."""
        return int(self.core.token_to_id(self.end_text))

    @property
    def fingerprint(self) -> str:
        """The same for two tokenizers of the same vocabulary that cut a difficult line alike."""
        vocabulary = json.dumps(sorted(self.core.get_vocab().items()))
        ids = self.core.encode(_PROBE, add_special_tokens=False).ids
        return hashlib.sha256(f"{vocabulary}{ids}{self.end}".encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """The tokens of some texts, without special tokens."""
        if self.plain_bytes:
            raw = [np.frombuffer(text.encode(), np.uint8) for text in texts]
            return [ids.astype(np.uint32) for ids in raw]
        encoded = self.core.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint32) for one in encoded]

    def hugging_face(self, length: int) -> Any:
        """The same as a `transformers` tokenizer, for models of contexts up to `length`."""
        from transformers import PreTrainedTokenizerFast

        special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), self.end_text)
        return PreTrainedTokenizerFast(
            tokenizer_object=self.core,
            model_max_length=length,
            clean_up_tokenization_spaces=False,
            **special,
        )


def text_tokenizer(
    name: str, training_text: Callable[[], Iterable[str]] | None = None, cached: Path | None = None
) -> TextTokenizer:
    """A tokenizer by name.

    Parameters
    ----------
    name : str
        "bytes" (257 tokens); "bpe:4096" (byte-level BPE, trained on the text); a folder or a
        tokenizer.json; a name on the Hugging Face hub ("t5-base").
    training_text : callable, optional
        The text in pieces, for "bpe:...".
    cached : Path, optional
        A file where a trained tokenizer is kept.

    Raises
    ------
    ValueError
        If there is no such tokenizer, or it cannot be used.
    ImportError
        Without the library `tokenizers`.
    """
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise ImportError(
            "text needs the library tokenizers: pip install 'epitopo[text]'"
        ) from None
    kind, _, size = name.partition(":")
    if name == "bytes":
        return _bytes()
    if kind == "bpe":
        return _trained(name, size, training_text, cached)
    core, end = _of_path(Path(name)) if Path(name).exists() else _of_hub(name)
    ends = [end] if end else [e for e in _ENDS if core.token_to_id(e) is not None]
    if not ends or core.token_to_id(ends[0]) is None:
        raise ValueError(
            f"the tokenizer {name} has no token that ends a text (such as {END}): name it as "
            "eos_token in the tokenizer_config.json beside it"
        )
    return TextTokenizer(_plain(core), ends[0])


def _plain(core: Any) -> Any:
    """Without what a model of another kind wants: special tokens, padding, truncation."""
    from tokenizers import processors

    core.post_processor = processors.Sequence([])
    core.no_padding()
    core.no_truncation()
    core.encode_special_tokens = True
    return core


def _byte_level(model: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers

    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if core.token_to_id(END) is not None:
        core.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return core


def _bytes() -> TextTokenizer:
    from tokenizers import models

    # how byte-level tokenizers write bytes as letters: printable ones as themselves
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in shown}
    letters |= {b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(shown)))}
    vocabulary = {letters[b]: b for b in range(256)} | {END: 256}
    core = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
    return TextTokenizer(_plain(core), END, plain_bytes=True)


def _trained(
    name: str, size: str, text: Callable[[], Iterable[str]] | None, cached: Path | None
) -> TextTokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if not size.isdecimal() or int(size) < 257:
        raise ValueError(f"data.tokenizer must be bpe:N with N at least 257, not {name!r}")
    if cached is not None and cached.is_file():
        try:
            return TextTokenizer(_plain(Tokenizer.from_file(str(cached))), END)
        except Exception as error:  # of tokenizers: it raises nothing more special
            logger.warning("%s is damaged (%s): it is trained again", cached, error)
    if text is None:
        raise ValueError(f"data.tokenizer {name!r} is trained on text, and there is none")
    core = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=int(size),
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(text(), trainer)
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, core.to_str().encode())
    return TextTokenizer(_plain(core), END)


def _of_path(path: Path) -> tuple[Any, str]:
    from tokenizers import Tokenizer, models

    folder = path if path.is_dir() else path.parent
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file():
            return Tokenizer.from_file(str(file)), _end_of(folder)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            names = str(folder / "vocab.json"), str(folder / "merges.txt")
            return _byte_level(models.BPE.from_file(*names)), _end_of(folder)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} cannot be read as a tokenizer: {error}") from None
    if (folder / "tokenizer_config.json").is_file():
        return _of_hub(str(folder))
    raise ValueError(
        f"the folder {path} holds no tokenizer: neither a tokenizer.json, nor a vocab.json with "
        "merges.txt"
    )


def _end_of(folder: Path) -> str:
    file = folder / "tokenizer_config.json"
    end = json.loads(file.read_bytes()).get("eos_token") if file.is_file() else None
    return str(end.get("content", "") if isinstance(end, dict) else end or "")


def _of_hub(name: str) -> tuple[Any, str]:
    from transformers import AutoTokenizer

    if name.startswith((".", "/", "~")) or name.count("/") > 1:  # as no name on the hub is
        raise ValueError(f"there is no tokenizer {name}: neither such a folder nor such a file")
    try:
        fast = AutoTokenizer.from_pretrained(name, use_fast=True)
        return fast.backend_tokenizer, str(fast.eos_token or "")
    except (OSError, ValueError, AttributeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"data.tokenizer {name!r} is neither bytes, bpe:N, a folder, a file, nor a tokenizer "
            f"that the Hugging Face hub gives us ({reason})"
        ) from None
