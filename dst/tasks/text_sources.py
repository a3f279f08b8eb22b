"""Where the text of a language model comes from: Python itself, files, or a hub."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dst.downloads import entry, fetch_file, opened
from dst.tasks.text_tokenizer import TextTokenizer
from topo.names import find

__all__ = ["NAMED", "TextSource", "named", "of_files", "token_parts"]

PIECE = 2**16  # characters that are tokenised at once: a whole novel takes too much memory
_BATCH = 64  # pieces for all threads


@dataclass(frozen=True)
class TextSource:
    """Documents that can be read again and again.

    Attributes
    ----------
    name : str
        For people, and the names of files.
    key : str
        Changes with the content.
    documents : callable
        Returns the documents anew, each as pieces of text.
    """

    name: str
    key: str
    documents: Callable[[], Iterator[Iterable[str]]]

    def text(self) -> Iterator[str]:
        """All pieces of text."""
        return chain.from_iterable(self.documents())

    def first(self, documents: int | None) -> TextSource:
        """Only so many documents; None: all."""
        if documents is None:
            return self
        key = f"{self.key} first {documents}"
        return TextSource(self.name, key, lambda: islice(self.documents(), documents))


def token_parts(
    source: TextSource, tokenizer: TextTokenizer, longest: int | None = None
) -> Iterator[npt.NDArray[np.uint32]]:
    """Tokens of a source, in parts of documents; each document ends with the tokenizer's end.

    Parameters
    ----------
    source : TextSource
    tokenizer : TextTokenizer
    longest : int, optional
        Cut documents to so many tokens, and the end.

    Examples
    --------
    >>> from dst.tasks.text_sources import TextSource, token_parts
    >>> from dst.tasks.text_tokenizer import text_tokenizer
    >>> source = TextSource("two", "", lambda: iter([["a", "b"], ["c"]]))
    >>> [part.tolist() for part in token_parts(source, text_tokenizer("bytes"))]
    [[97], [98, 256], [99, 256]]
    """
    used = 0
    pieces = chain.from_iterable(map(_last_marked, source.documents()))
    while batch := list(islice(pieces, _BATCH)):
        for ids, (_, last) in zip(tokenizer.encode([t for t, _ in batch]), batch, strict=True):
            kept = ids if longest is None else ids[: max(0, longest - used)]
            used += len(kept)
            if last:
                kept, used = np.append(kept, np.uint32(tokenizer.end)), 0
            yield kept


def of_files(pattern: str) -> TextSource:
    """Text files: .txt is a document each, a line of .jsonl one; also .gz and .xz.

    Parameters
    ----------
    pattern : str
        A path, or a pattern of paths such as "shards/*.jsonl.gz".

    Raises
    ------
    OSError
        If there is no such file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from dst.tasks.text_sources import of_files
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = file.write_text("To be, or not to be.")
    >>> list(of_files(str(file)).text())
    ['To be, or not to be.']
    """
    paths = [Path(p) for p in sorted(glob.glob(pattern))]  # noqa: PTH207 (absolute patterns)
    paths = [Path(pattern)] if Path(pattern).is_file() else paths
    if not paths:
        raise OSError(f"there is no text file {pattern}")
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    name = _plain_name(paths[0])

    def documents() -> Iterator[Iterable[str]]:
        for path in paths:
            jsonl = _plain_name(path).endswith((".jsonl", ".json"))
            yield from _lines(path) if jsonl else _whole(path)

    return TextSource(name, repr(stats), documents)


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".xz")


def _last_marked(document: Iterable[str]) -> Iterator[tuple[str, bool]]:
    before: str | None = None
    for piece in document:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True


def _whole(path: Path) -> Iterator[Iterable[str]]:
    pieces = _pieces(path)
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"{path} holds no text")
    yield chain([first], pieces)


def _pieces(path: Path) -> Iterator[str]:
    """The text, cut before line ends, where most tokenizers cut in any case."""
    rest = ""
    with _text(path) as f:
        while block := f.read(PIECE):
            *whole, rest = _cut(rest + block)
            yield from whole
    if rest.strip():
        yield rest


def _cut(text: str) -> list[str]:
    pieces, start = [], 0
    while len(text) - start > PIECE:
        at = text.rfind("\n", start + 1, start + PIECE)
        while at > start + 1 and text[at - 1].isspace():
            at -= 1
        at = at if at > start + 1 else start + PIECE
        pieces.append(text[start:at])
        start = at
    return [*pieces, text[start:]]


def _lines(path: Path) -> Iterator[Iterable[str]]:
    with _text(path) as f:
        for number, line in enumerate(f, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise ValueError(
                    f'{path}, line {number}: expected {{"text": "..."}}, not {line.strip()[:60]!r}'
                )
            if text.strip():
                yield _cut(text.encode(errors="replace").decode())  # halves of surrogate pairs


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    try:
        with opened(path) as f, io.TextIOWrapper(f, encoding="utf-8-sig") as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): convert it") from None


def _pydoc(revision: str | None) -> tuple[TextSource, TextSource]:
    """Python's own manual pages: every tenth in alphabetical order is for validation."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    key = hashlib.sha256(json.dumps([topics[n] for n in names]).encode()).hexdigest()

    def side(name: str, chosen: list[str]) -> TextSource:
        return TextSource(
            f"pydoc-topics.{name}", key + name, lambda: (_cut(topics[n]) for n in chosen)
        )

    held_out = names[6::10]
    return side("train", [n for n in names if n not in held_out]), side("valid", held_out)


def _registered(name: str, train: str, valid: str | None) -> Callable[..., Any]:
    """Files of the registry, which may also lie in the folder lm-text of ``$EPITOPO_DATA``."""

    def find_file(file: str) -> Path:
        folder = Path(os.environ.get("EPITOPO_DATA", "")) / "lm-text"
        here = [folder / (file + ending) for ending in ("", ".gz", ".xz")]
        present = [path for path in here if path.is_file()]
        return present[0] if present else fetch_file(name, file)

    def both(revision: str | None) -> tuple[TextSource, TextSource | None]:
        first = of_files(glob.escape(str(find_file(train))))
        return first, of_files(glob.escape(str(find_file(valid)))) if valid else None

    return both


def _hub(name: str, share: float = 0.05) -> Callable[..., Any]:
    """Streamed by `datasets`; without a validation split, a share of the documents by hash."""

    def stream(split: str, hub: dict[str, Any]) -> Iterator[str]:
        try:
            from datasets import load_dataset
        except ImportError:
            raise ImportError(
                f"{name} is streamed by the library datasets: pip install 'epitopo[text]'"
            ) from None
        try:
            for row in load_dataset(**hub, split=split, streaming=True):
                if row["text"].strip():
                    yield row["text"]
        except Exception as error:  # of the network, the hub, or the data
            raise OSError(
                f"cannot stream {name} ({type(error).__name__}: {error}). Set data.revision to "
                "another revision of it on the hub, or data.train to files of text"
            ) from None

    def held_out(text: str) -> bool:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < share * 2**64

    def both(revision: str | None) -> tuple[TextSource, TextSource]:
        known = entry(name)
        hub = known["hub"] | ({"revision": revision} if revision else {})
        own = known.get("validation")  # the name of a split

        def documents(of_valid: bool) -> Iterator[Iterable[str]]:
            texts = stream(own if of_valid and own else "train", hub)
            return (_cut(text) for text in texts if own or held_out(text) == of_valid)

        key = f"{hub} {own or share}"
        return (
            TextSource(f"{name}.train", f"{key} train", lambda: documents(False)),
            TextSource(f"{name}.valid", f"{key} valid", lambda: documents(True)),
        )

    return both


NAMED: dict[str, Callable[[str | None], tuple[TextSource, TextSource | None]]] = {
    "pydoc-topics": _pydoc,
    "novels98": _registered("novels98", "novels98.train.txt", "novels98.valid.txt"),
    "tiny-shakespeare": _registered("tiny-shakespeare", "tinyshakespeare.input.txt", None),
    "openwebtext": _hub("openwebtext"),
    "c4": _hub("c4"),
}
"""By the name in `data.name`: training and validation text at a revision (of the hub)."""


def named(name: str, revision: str | None = None) -> tuple[TextSource, TextSource | None]:
    """Training and validation text by name; None: none of its own.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    return find(NAMED, name, "data.name")(revision)
