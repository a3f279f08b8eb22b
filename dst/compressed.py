"""Files that may be compressed, opened by their ending: plain, .gz, .xz."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["DAMAGE", "ENDINGS", "ending_of", "measured", "opened"]

_OPENERS: dict[str, Callable[..., Any]] = {"": Path.open, ".gz": gzip.open, ".xz": lzma.open}
ENDINGS = tuple(_OPENERS)
# what the readers of compressed files raise where the content is damaged or ends early
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
_BLOCK = 1 << 20


@contextmanager
def opened(path: Path, what: str | None = None) -> Iterator[IO[bytes]]:
    """A binary file whose content is decompressed as it is read (.gz, .xz).

    Parameters
    ----------
    path : Path
    what : str, optional
        What a message calls the file; its path by default.

    Raises
    ------
    ValueError
        When what is read turns out to be damaged or truncated.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> import gzip, pathlib, tempfile
    >>> from dst.compressed import opened
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "words.gz"
    >>> _ = file.write_bytes(gzip.compress(b"one two"))
    >>> with opened(file) as f:
    ...     f.read()
    b'one two'
    """
    try:
        with _OPENERS[ending_of(path.name)](path, "rb") as f:
            yield f
    except DAMAGE as error:
        mend = "try again" if what else "remove it and fetch or copy it again"
        raise ValueError(f"{what or path} is damaged ({error}): {mend}") from None


def measured(path: Path, limit: int, what: str | None = None) -> tuple[int, str]:
    """Bytes of the decompressed content and their sha256.

    Reading stops just beyond `limit` bytes, whatever a small file may blow up to.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    size, digest = 0, hashlib.sha256()
    with opened(path, what) as f:
        while size <= limit and (block := f.read(_BLOCK)):
            size += len(block)
            digest.update(block)
    return size, digest.hexdigest()


def ending_of(file: str) -> str:
    """.gz, .xz or nothing.

    Examples
    --------
    >>> from dst.compressed import ending_of
    >>> ending_of("train.en.gz"), ending_of("train.en")
    ('.gz', '')
    """
    ending = Path(file).suffix
    return ending if ending in _OPENERS else ""
