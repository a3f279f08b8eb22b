"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["is_taken", "reading", "sync", "write_atomically"]


def is_taken(path: Path) -> bool:
    """Whether a folder to be made would meet something: a file, or a folder that is not empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


@contextmanager
def reading(file: Path, what: str) -> Iterator[BinaryIO]:
    """Open a file; if it is damaged, name it, whatever the library that reads it raises."""
    with file.open("rb") as f:
        try:
            yield f
        except Exception as error:
            reason = str(error) or type(error).__name__
            if "allow_pickle" in reason:
                reason = "it holds pickles, which may run any code when loaded: save plain arrays"
            raise ValueError(f"{file} cannot be read as {what}: {reason}") from error


def write_atomically(file: Path, content: bytes) -> None:
    """Write to a temporary name, sync, and rename."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, outlive the machine; on Windows do nothing."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
