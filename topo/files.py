"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_taken", "write_atomically"]


def is_taken(path: Path) -> bool:
    """Whether a folder to be made would meet something: a file, or a folder that is not empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def write_atomically(file: Path, content: bytes) -> None:
    """Write to a temporary name, sync, and rename."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(file)
    if os.name == "posix":
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
