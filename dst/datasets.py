"""Image data sets in memory: those of the registry, and any folder of idx files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import topo
from dst import downloads
from dst.downloads import describe, fetch, fetch_file, registry
from dst.image_files import Bytes, idx_folder, is_idx_folder, read_cifar, read_idx
from topo.files import reading
from topo.names import find

__all__ = ["Dataset", "describe", "fetch", "holds_images", "load", "registry"]

_BLOCK = 256  # images that are worked on at a time, to stay within the processor's cache

_Side = tuple[Bytes, Bytes]  # images, labels


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


def load(name: str) -> Dataset:
    """Load a data set, from ``$EPITOPO_DATA``, the cache, or the network, in this order.

    Parameters
    ----------
    name : str
        A name in the registry, or a folder of idx files named as MNIST's or EMNIST's are; where
        it holds several data sets, the folder and the beginning of the names
        ("FOLDER/emnist-letters"). A folder's images are normalised by the mean and deviation of
        all training pixels, those of the registry by the figures there (CIFAR-10: per colour).

    Raises
    ------
    ValueError
        For an unknown name, or a file that is truncated, damaged or not in its format, or labels
        that do not fit the images.
    OSError
        If it cannot be downloaded.

    Examples
    --------
    >>> from dst.datasets import load
    >>> digits = load("digits")
    >>> digits.train_x.shape, digits.test_x.shape
    ((1433, 64), (364, 64))
    """
    known = _entry(name)
    train, test = _FORMATS[known["format"]](name, known)
    classes = known.get("classes") or int(train[1].max(initial=0)) + 1
    _check(name, "training", train, classes, train[0].shape[1:])
    _check(name, "test", test, classes, train[0].shape[1:])
    values = _values(name, known, train[0])
    (train_x, train_y), (test_x, test_y) = train, test
    return Dataset(
        _normalised(train_x, values),
        train_y.astype(np.int64),
        _normalised(test_x, values),
        test_y.astype(np.int64),
        classes,
    )


def holds_images(name: str) -> bool:
    """Whether `load` can load a data set of the registry.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> from dst.datasets import holds_images
    >>> holds_images("mnist")
    True
    """
    return downloads.entry(name)["format"] in _FORMATS


def _entry(name: str) -> dict[str, Any]:
    known = downloads.registry()
    images = {n: e for n, e in known.items() if e["format"] in _FORMATS}
    if name in known and name not in images:
        raise ValueError(f"{name} holds no images: data sets that do are {', '.join(images)}")
    if name not in known and is_idx_folder(name):
        return {"format": "idx-folder"}
    if name not in known and len(Path(name).parts) > 1:
        raise ValueError(
            f"{name} is no folder, and no data set is called so: known are {', '.join(images)}"
        )
    return find(images, name, "data set")


def _digits(name: str, known: dict[str, Any]) -> tuple[_Side, _Side]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    # a fixed split, every fifth image of each class for the test
    order = np.argsort(topo.hash_links(topo.stream(0, "digits"), np.arange(len(y))))
    rank = np.empty(len(y), dtype=np.int64)
    for label in range(10):
        members = order[y[order] == label]
        rank[members] = np.arange(len(members))
    test = rank % 5 == 0
    x, y = x.astype(np.uint8), y.astype(np.uint8)
    return (x[~test], y[~test]), (x[test], y[test])


def _idx(name: str, known: dict[str, Any]) -> tuple[_Side, _Side]:
    sides = []
    for prefix in (known.get("train", "train"), known.get("test", "t10k")):
        x = read_idx(fetch_file(name, f"{prefix}-images-idx3-ubyte"))
        y = read_idx(fetch_file(name, f"{prefix}-labels-idx1-ubyte"))
        sides.append((x.swapaxes(1, 2) if known.get("transposed") else x, y))
    return sides[0], sides[1]


def _idx_split(name: str, known: dict[str, Any]) -> tuple[_Side, _Side]:
    x = read_idx(fetch_file(name, known["images"]))
    y = read_idx(fetch_file(name, known["labels"]))
    with reading(fetch_file(name, known["split"]), "a split") as f:
        split = np.load(f, allow_pickle=False)
        train, test = split["train"], split["test"]
    for side in (train, test):
        if side.size and not 0 <= side.min() <= side.max() < min(len(x), len(y)):
            raise ValueError(f"{name}: {known['split']} names images beyond the {len(x)}")
    return (x[train], y[train]), (x[test], y[test])


def _idx_folder(name: str, known: dict[str, Any]) -> tuple[_Side, _Side]:
    files = idx_folder(name)
    x, y = read_idx(files["train", "images"]), read_idx(files["train", "labels"])
    return (x, y), (read_idx(files["test", "images"]), read_idx(files["test", "labels"]))


def _cifar(name: str, known: dict[str, Any]) -> tuple[_Side, _Side]:
    train, test = ([fetch_file(name, file) for file in known[side]] for side in ("train", "test"))
    return read_cifar(train), read_cifar(test)


_FORMATS: dict[str, Callable[[str, dict[str, Any]], tuple[_Side, _Side]]] = {
    "scikit-learn": _digits,
    "idx": _idx,
    "idx-split": _idx_split,
    "idx-folder": _idx_folder,
    "cifar": _cifar,
}


def _check(name: str, what: str, side: _Side, classes: int, shape: tuple[int, ...]) -> None:
    x, y = side
    if not x.size:
        raise ValueError(f"{name} holds no {what} images")
    if y.ndim != 1 or len(x) != len(y):
        raise ValueError(f"{name}: {len(x)} {what} images but {y.size} labels")
    if x.shape[1:] != shape:
        raise ValueError(
            f"{name}: {what} images have the shape {x.shape[1:]}, those of the training {shape}"
        )
    if y.max() >= classes:
        raise ValueError(f"{name}: {what} label {y.max()} is beyond the {classes} classes")


def _values(name: str, known: dict[str, Any], x: Bytes) -> npt.NDArray[np.float32]:
    """What every byte becomes; shape (channels, 256). As exact as dividing every pixel."""
    if "mean" in known:
        mean, std = known["mean"], known["std"]
    else:
        counts = sum(
            np.bincount(x[i : i + _BLOCK].reshape(-1), minlength=256)
            for i in range(0, len(x), _BLOCK)
        )
        levels = np.arange(256) / 255
        mean = np.average(levels, weights=counts)
        std = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
        if not std:
            raise ValueError(f"{name}: all pixels of the training images are equal")
    channels = np.reshape(mean, (-1, 1)), np.reshape(std, (-1, 1))
    shades = np.arange(256) / known.get("white", 255)
    return ((shades - channels[0]) / channels[1]).astype(np.float32)


def _normalised(x: Bytes, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Look every byte up; float32, shape (images, pixels)."""
    channels = len(values)
    out = np.empty((len(x), channels, x[0].size // channels), np.float32)
    for i in range(0, len(x), _BLOCK):
        block = x[i : i + _BLOCK].reshape(-1, *out.shape[1:])
        for c in range(channels):
            out[i : i + _BLOCK, c] = values[c].take(block[:, c])
    return out.reshape(len(x), -1)
