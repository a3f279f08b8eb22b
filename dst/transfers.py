"""Bring a file from a url: streamed to disk, resumed where an earlier attempt was cut off."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

import topo

__all__ = ["TransferError", "transfer"]

TIMEOUT = 60.0  # seconds without a byte
_BLOCK = 1 << 20


class TransferError(Exception):
    """The network or the server failed, not this machine's disk."""


def transfer(url: str, part: Path) -> None:
    """Bring a file, beyond what `part` holds of it already.

    A cut connection is taken up again as long as every attempt brings more bytes. What is in
    `part` afterwards may still be anything, where it was begun from another url: check it.

    Parameters
    ----------
    url : str
        http, https or file.
    part : Path
        Kept when the transfer fails, for the next one to go on from.

    Raises
    ------
    TransferError
        If the server does not answer, or not with the whole file.
    OSError
        If the file cannot be written.
    """
    complete = False
    while not complete:
        before = _size(part)
        try:
            complete = _attempt(url, part)
            problem = f"the connection closed after {_size(part)} bytes"
        except TransferError as error:
            problem = str(error)
        if not complete and _size(part) <= before:
            raise TransferError(f"{url}: {problem}")


def _attempt(url: str, part: Path) -> bool:
    """Ask once; whether the file is complete now."""
    have = _size(part)
    headers = {"User-Agent": f"epitopo/{topo.__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416 and have:  # there is nothing beyond the part
                if error.headers.get("Content-Range") == f"bytes */{have}":
                    return True
                part.unlink()  # it is of another file
                return _attempt(url, part)
        raise TransferError(f"HTTP status {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise TransferError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with answer:
        start = have if _continues(answer, have) else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        # quiet where standard error is no terminal
        bar = tqdm(
            desc=url.rsplit("/", 1)[-1], total=total, initial=start, unit="B", unit_scale=True,
            unit_divisor=1000, disable=None, leave=False,
        )  # fmt: skip
        with bar, part.open("ab" if start else "wb") as f:
            for block in _blocks(answer):
                f.write(block)
                bar.update(len(block))
            f.flush()
            os.fsync(f.fileno())
    return total is None or _size(part) == total


def _continues(answer: Any, have: int) -> bool:
    """Whether the server sends what is beyond the part, and not the file from its start."""
    if not have or answer.status != 206:
        return False
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == have


def _blocks(answer: Any) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read(_BLOCK)
        except (OSError, HTTPException) as error:
            raise TransferError(str(error) or type(error).__name__) from None
        if not block:
            return
        yield block


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
