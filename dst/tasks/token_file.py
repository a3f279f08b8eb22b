"""Files of tokens: integers one after the other, read through a memory map."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topo.files import write_atomically
from topo.names import find

__all__ = ["DTYPES", "TokenFile", "TokenFileInfo", "open_tokens", "write_tokens"]

FORMAT = 1
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
"""By name: how tokens are stored, little-endian."""
_LOOK_AT = (
    2**26
)  # tokens of a file that says nothing of itself that are looked at when it is opened

Tokens = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class TokenFileInfo:
    """What the .json beside a token file says of it.

    Attributes
    ----------
    dtype : str
        uint16 or uint32.
    tokens, documents : int
        How many there are; a document ends with the token `end`.
    end : int
    highest : int
        The highest token.
    tokenizer, source : str
        Fingerprints of what it was made with, and from.
    format : int
    """

    dtype: str
    tokens: int
    documents: int
    end: int
    highest: int
    tokenizer: str
    source: str
    format: int = FORMAT


@dataclass(frozen=True)
class TokenFile:
    """An open token file.

    Attributes
    ----------
    path : Path
    tokens : array, shape (tokens,), uint16 or uint32
        A memory map, read-only.
    info : TokenFileInfo or None
        None where there is no .json beside it.
    """

    path: Path
    tokens: Tokens
    info: TokenFileInfo | None


def write_tokens(
    path: Path,
    parts: Iterable[Tokens],
    *,
    vocabulary: int,
    end: int,
    tokenizer: str = "",
    source: str = "",
    limit: int | None = None,
) -> TokenFileInfo:
    """Write a token file and the .json beside it, which comes last.

    Parameters
    ----------
    path : Path
        NAME.bin; both files get temporary names first.
    parts : iterable of integer arrays
        The tokens in order; each document ends with `end`.
    vocabulary : int
        Tokens are below it; up to 65,536 they are stored as uint16, else as uint32.
    end : int
    tokenizer, source : str
        Fingerprints, kept in the .json.
    limit : int, optional
        Stop after the part that reaches so many tokens.

    Raises
    ------
    ValueError
        If there are no tokens, or one is not below the vocabulary.
    OSError
        If the disk is full, or the folder cannot be written. Nothing is left then.

    Examples
    --------
    >>> import pathlib, tempfile, numpy as np
    >>> from dst.tasks.token_file import open_tokens, write_tokens
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.bin"
    >>> parts = [np.array([5, 7, 0]), np.array([6, 0])]
    >>> write_tokens(path, parts, vocabulary=10, end=0).documents
    2
    >>> open_tokens(path, vocabulary=10).tokens.tolist()
    [5, 7, 0, 6, 0]
    """
    name = "uint16" if vocabulary <= 2**16 else "uint32"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tokens = documents = highest = 0
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            f = temporary.open("wb")
        with f:
            for part in parts:
                if part.size == 0:
                    continue
                highest = max(highest, int(part.max()))
                if highest >= vocabulary or part.min() < 0:
                    bad = highest if highest >= vocabulary else int(part.min())
                    raise ValueError(f"token {bad} is not in a vocabulary of {vocabulary}")
                with _writing(path):
                    f.write(part.astype(DTYPES[name]).tobytes())
                tokens += part.size
                documents += int(np.count_nonzero(part == end))
                if limit is not None and tokens >= limit:
                    break
            with _writing(path):
                f.flush()
                os.fsync(f.fileno())
        if tokens == 0:
            raise ValueError(f"there is no text for {path.name}")
        info = TokenFileInfo(name, tokens, documents, end, highest, tokenizer, source)
        with _writing(path):
            temporary.replace(path)
            write_atomically(_beside(path), json.dumps(asdict(info), indent=1).encode())
    finally:
        temporary.unlink(missing_ok=True)
    return info


def open_tokens(
    path: Path, *, vocabulary: int, dtype: str = "uint16", tokenizer: str = ""
) -> TokenFile:
    """Open a token file: one of `write_tokens`, or bare integers as nanoGPT writes them.

    Parameters
    ----------
    path : Path
        NAME.bin; NAME.json is read where it is there.
    vocabulary : int
        Tokens must be below it. Without a .json the first 67 million are looked at.
    dtype : str
        uint16 or uint32, for a file without .json.
    tokenizer : str
        Fingerprint of the tokenizer that the model has; empty: any.

    Raises
    ------
    ValueError
        If the file is truncated, of another dtype, or made with another tokenizer.
    OSError
        If it is not there.
    """
    stored = find(DTYPES, dtype, "data.dtype")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise OSError(f"cannot read the token file {path}: {error.strerror}") from None
    info = _read_info(path)
    if info is not None:
        stored = DTYPES[info.dtype]
        if size != info.tokens * stored.itemsize:
            raise ValueError(
                f"{path} is truncated or was changed: {size} bytes, where {_beside(path).name} "
                f"tells of {info.tokens} tokens of {stored.itemsize} bytes. Make both anew"
            )
        if tokenizer and info.tokenizer and tokenizer != info.tokenizer:
            raise ValueError(
                f"{path} was made with another tokenizer (fingerprint {info.tokenizer}, that of "
                f"data.tokenizer is {tokenizer}): set data.tokenizer to the one it was made with"
            )
    if size == 0 or size % stored.itemsize:
        other = next(name for name in DTYPES if DTYPES[name] != stored)
        raise ValueError(
            f"{path} has {size} bytes, no multiple of {stored.itemsize}: it is truncated, or "
            f"data.dtype is not {dtype} (but perhaps {other})"
        )
    tokens = np.memmap(path, dtype=stored, mode="r")
    if info is None:
        _look_at(path, tokens[:_LOOK_AT], vocabulary, dtype)
    elif info.highest >= vocabulary:
        raise ValueError(_too_high(path, info.highest, vocabulary))
    return TokenFile(path, tokens, info)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write tokens to {path}: {error.strerror}. Make room there, or set "
            "EPITOPO_CACHE to another folder"
        ) from None


def _look_at(path: Path, tokens: Tokens, vocabulary: int, dtype: str) -> None:
    few = tokens[: 2**16]
    if dtype == "uint16" and len(few) >= 4 and not few[1::2].any() and few[::2].any():
        raise ValueError(
            f"every other token of {path} is 0: it holds uint32. Set data.dtype: uint32"
        )
    highest = int(tokens.max())
    if highest >= vocabulary:
        raise ValueError(
            f"{_too_high(path, highest, vocabulary)}; or it does not hold {dtype}: set data.dtype"
        )


def _too_high(path: Path, highest: int, vocabulary: int) -> str:
    return (
        f"{path} holds the token {highest}, but the model's vocabulary has {vocabulary}: set "
        "data.tokenizer to the one it was made with, or model.vocabulary to its size"
    )


def _read_info(path: Path) -> TokenFileInfo | None:
    beside = _beside(path)
    try:
        content = json.loads(beside.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{beside} is damaged ({error}): make it and {path.name} anew") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{beside} is of format {version!r}, this version reads {FORMAT}: make {path.name} "
            "anew, or remove the .json if its tokens are bare integers"
        )
    try:
        info = TokenFileInfo(**content)
    except TypeError as error:
        raise ValueError(f"{beside} is damaged ({error}): make it and {path.name} anew") from None
    find(DTYPES, info.dtype, f"dtype in {beside}")
    return info


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")
