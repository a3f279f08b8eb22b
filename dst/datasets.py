"""Data sets: the registry, downloads with checksums, and the idx format."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import struct
import tomllib
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import topo
from topo.files import write_atomically
from topo.names import find

__all__ = ["Dataset", "describe", "fetch", "load", "registry"]

_OPENERS: dict[str, Callable[..., Any]] = {"": Path.open, ".gz": gzip.open, ".xz": lzma.open}


@dataclass(frozen=True)
class Dataset:
    """Images and labels in memory, normalised by the training set's mean and deviation.

    Attributes
    ----------
    train_x, test_x : float32 arrays, shape (images, pixels)
    train_y, test_y : int64 arrays, shape (images,)
    classes : int
    """

    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.int64]
    test_x: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.int64]
    classes: int


def registry() -> dict[str, dict[str, Any]]:
    """Every known data set: title, licence, format, and for downloads urls, sizes, checksums."""
    packaged = resources.files("dst") / "registry.toml"  # in a wheel
    if not packaged.is_file():
        packaged = Path(__file__).parents[1] / "data" / "registry.toml"  # in a checkout
    return tomllib.loads(packaged.read_text())


def load(name: str) -> Dataset:
    """Load a data set, from ``$EPITOPO_DATA``, the cache, or the network, in this order.

    Parameters
    ----------
    name : str
        A name in the registry.

    Raises
    ------
    ValueError
        For an unknown name, or a file that is truncated, damaged or not in the idx format.
    OSError
        If it cannot be downloaded.

    Examples
    --------
    >>> from dst.datasets import load
    >>> digits = load("digits")
    >>> digits.train_x.shape, digits.test_x.shape
    ((1433, 64), (364, 64))
    """
    entry = find(registry(), name, "data set")
    images, labels = _digits() if entry["format"] == "scikit-learn" else _idx(name, entry)
    scaled = [((x - entry["mean"]) / entry["std"]).astype(np.float32) for x in images]
    classes = int(max(y.max() for y in labels)) + 1
    return Dataset(scaled[0], labels[0], scaled[1], labels[1], classes)


def fetch(name: str) -> list[Path]:
    """The files of a data set, downloaded where they are nowhere yet, with their checksums.

    Raises
    ------
    ValueError
        For an unknown name, or a file whose size or checksum is wrong.
    OSError
        If no url answers.
    """
    entry = find(registry(), name, "data set")
    return [_fetch_file(name, file, entry) for file in entry.get("files", {})]


def describe(name: str) -> str:
    """Title, licence and size of a data set, in a line."""
    entry = find(registry(), name, "data set")
    size = sum(f["bytes"] for f in entry.get("files", {}).values())
    where = f"{size / 1e6:.0f} MB" if size else "no download"
    return f"{entry['title']}. {where}. Licence: {entry['licence']}"


def _digits() -> tuple[list[Any], list[Any]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    # a fixed split, every fifth image of each class for the test
    order = np.argsort(topo.hash_links(topo.stream(0, "digits"), np.arange(len(y))))
    rank = np.empty(len(y), dtype=np.int64)
    for label in range(10):
        members = order[y[order] == label]
        rank[members] = np.arange(len(members))
    test = rank % 5 == 0
    sides = [np.flatnonzero(~test), np.flatnonzero(test)]
    return [x[s] / 16 for s in sides], [y[s].astype(np.int64) for s in sides]


def _idx(name: str, entry: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    images, labels = [], []
    for side in ("train", "t10k"):
        x = _read_idx(_fetch_file(name, f"{side}-images-idx3-ubyte", entry))
        y = _read_idx(_fetch_file(name, f"{side}-labels-idx1-ubyte", entry))
        if len(x) != len(y):
            raise ValueError(f"{name}: {len(x)} {side} images but {len(y)} labels")
        images.append(x.reshape(len(x), -1) / 255)
        labels.append(y.astype(np.int64))
    return images, labels


def _read_idx(file: Path) -> npt.NDArray[np.uint8]:
    try:
        with _OPENERS[file.suffix if file.suffix in _OPENERS else ""](file, "rb") as f:
            content = f.read()
    except (EOFError, OSError, lzma.LZMAError) as error:
        raise ValueError(f"{file} is damaged ({error}): remove it to fetch it again") from None
    if len(content) < 8 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{file} is no idx file of bytes")
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if body.size != np.prod(shape):
        raise ValueError(
            f"{file} holds {body.size} bytes where its header {shape} asks for {np.prod(shape)}: "
            "remove it to fetch it again"
        )
    return body.reshape(shape)


def _fetch_file(name: str, file: str, entry: dict[str, Any]) -> Path:
    own = os.environ.get("EPITOPO_DATA")
    cache = Path(os.environ.get("EPITOPO_CACHE", Path.home() / ".cache" / "epitopo")) / name
    for folder in ([Path(own) / name] if own else []) + [cache]:
        for ending in _OPENERS:
            if (folder / (file + ending)).is_file():
                return folder / (file + ending)
    errors = []
    for url in entry["urls"]:
        try:
            with urllib.request.urlopen(f"{url}{file}.gz", timeout=60) as answer:
                compressed = answer.read()
        except OSError as error:
            errors.append(f"{url}{file}.gz: {error}")
            continue
        _check(f"{url}{file}.gz", compressed, entry["files"][file])
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(cache / f"{file}.gz", compressed)
        return cache / f"{file}.gz"
    raise OSError(
        f"cannot fetch {name}: {'; '.join(errors)}. Put its files into a folder {name!r} and set "
        "EPITOPO_DATA to the folder above it"
    )


def _check(url: str, compressed: bytes, expected: dict[str, Any]) -> None:
    try:
        content = gzip.decompress(compressed)
    except (EOFError, OSError) as error:
        raise ValueError(f"{url} is damaged ({error}): try again") from None
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != expected["bytes"] or digest != expected["sha256"]:
        raise ValueError(
            f"{url} has {len(content)} bytes with sha256 {digest}, expected {expected['bytes']} "
            f"with {expected['sha256']}: the file has changed or was damaged on its way"
        )
