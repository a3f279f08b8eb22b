"""Copy named members out of tar and zip archives."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from dst.compressed import DAMAGE

__all__ = ["extract"]

_BLOCK = 1 << 20
_BROKEN = (*DAMAGE, tarfile.TarError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def extract(archive: Path, members: Mapping[str, Path], limit: int) -> None:
    """Copy members to files of the caller's choice.

    Names in the archive are compared, and never become paths; links and devices are refused.

    Parameters
    ----------
    archive : Path
        A zip file, or a tar file of any compression.
    members : dict of str to Path
        Name in the archive -> where to write its content.
    limit : int
        The most bytes that a member may have.

    Raises
    ------
    ValueError
        If a member is missing, no plain file or too large, or the archive is damaged.
    OSError
        If a file cannot be read or written.
    """
    missing = dict(members)
    try:
        walk = _zip_members if zipfile.is_zipfile(archive) else _tar_members
        for name, size, content in walk(archive, set(members)):
            if content is None:
                raise ValueError(f"{archive}: its member {name} is no plain file")
            if size > limit:
                raise ValueError(f"{archive}: its member {name} has {size} bytes, beyond {limit}")
            _copy(content, missing.pop(name), size)
            if not missing:
                return
    except _BROKEN as error:
        mend = "remove it and fetch or copy it again"
        raise ValueError(f"{archive} is damaged ({error}): {mend}") from None
    raise ValueError(f"{archive} holds no {', '.join(missing)}")


def _zip_members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as z:
        for name in sorted(wanted & set(z.namelist())):
            info = z.getinfo(name)
            kind = info.external_attr >> 28  # of Unix: 8 is a plain file, 0 says nothing
            if info.is_dir() or kind not in (0, 8):
                yield name, 0, None
                continue
            try:
                content = z.open(info)
            except OSError as error:  # a place before the file's beginning
                raise zipfile.BadZipFile(f"{name}: {error.strerror}") from None
            with content:
                yield name, info.file_size, content


def _tar_members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with tarfile.open(archive, "r:*") as t:
        for info in t:
            name = info.name.removeprefix("./")
            if name in wanted:
                wanted.discard(name)  # the first of a name counts
                yield name, info.size, t.extractfile(info) if info.isfile() else None


def _copy(content: IO[bytes], target: Path, size: int) -> None:
    left = size
    with target.open("wb") as f:
        while left and (block := content.read(min(left, _BLOCK))):
            f.write(block)
            left -= len(block)
    if left:
        raise EOFError(f"{left} bytes of {target.name} are missing")
