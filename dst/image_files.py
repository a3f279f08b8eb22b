"""Formats of image files: idx (MNIST and its kin) and CIFAR's binary records."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.compressed import opened

__all__ = ["idx_folder", "is_idx_folder", "read_cifar", "read_idx"]

Bytes = npt.NDArray[np.uint8]

_NAME = re.compile(
    r"((?P<prefix>.+)-)?(?P<side>train|t10k|test)-(?P<kind>images|labels)[-.]idx\d-ubyte(\.gz|\.xz)?"
)
_CIFAR_PIXELS = 3 * 32 * 32


def read_idx(file: Path) -> Bytes:
    """The array of an idx file of bytes, which may be compressed.

    Raises
    ------
    ValueError
        If it is in another format, damaged, or not as long as its header says.
    """
    with opened(file) as f:
        magic = f.read(4)
        if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not magic[3]:
            raise ValueError(f"{file} is no idx file of bytes: it begins with {magic.hex(' ')}")
        header = f.read(4 * magic[3])
        if len(header) < 4 * magic[3]:
            raise ValueError(f"{file} ends within its header: remove it and fetch or copy it again")
        shape = struct.unpack(f">{magic[3]}I", header)
        body = f.read()
    if len(body) != math.prod(shape):
        raise ValueError(
            f"{file} holds {len(body)} bytes where its header {shape} asks for "
            f"{math.prod(shape)}: remove it and fetch or copy it again"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_cifar(files: Sequence[Path]) -> tuple[Bytes, Bytes]:
    """Images and labels of CIFAR-10's binary files: records of a label and 3 x 32 x 32 bytes.

    Returns
    -------
    images : uint8 array, shape (images, 3, 1024)
        All of red, then green, then blue, each row by row.
    labels : uint8 array, shape (images,)

    Raises
    ------
    ValueError
        If a file is damaged or holds no whole records.
    """
    parts = []
    for file in files:
        with opened(file) as f:
            content = f.read()
        if not content or len(content) % (1 + _CIFAR_PIXELS):
            raise ValueError(
                f"{file} holds {len(content)} bytes, no multiple of {1 + _CIFAR_PIXELS}: "
                "remove it and fetch or copy it again"
            )
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, 1 + _CIFAR_PIXELS))
    records = np.concatenate(parts)
    return records[:, 1:].reshape(-1, 3, _CIFAR_PIXELS // 3), records[:, 0]


def is_idx_folder(name: str) -> bool:
    """Whether a name is a folder, or a folder and what the names of its idx files begin with."""
    path = Path(name)
    return path.is_dir() or (path.parent.is_dir() and path.name in _sets(path.parent))


def idx_folder(name: str) -> dict[tuple[str, str], Path]:
    """The four files of a data set in a folder.

    Their names are as those of MNIST (train-images-idx3-ubyte, t10k-labels-idx1-ubyte, ...) or
    EMNIST (emnist-letters-train-images-idx3-ubyte, emnist-letters-test-labels-idx1-ubyte, ...).

    Parameters
    ----------
    name : str
        The folder; where it holds several data sets, with the beginning of the names:
        "FOLDER/emnist-letters".

    Returns
    -------
    dict
        ("train" or "test", "images" or "labels") -> file.

    Raises
    ------
    ValueError
        If files are missing, or the folder holds several data sets.
    """
    path = Path(name)
    folder, prefix = (path, None) if path.is_dir() else (path.parent, path.name)
    sets = _sets(folder)
    if prefix is None and len(sets) > 1:
        one = next(filter(None, sets))
        raise ValueError(
            f"{folder} holds several data sets ({', '.join(sets)}): name one, as {folder / one}"
        )
    files = sets[prefix] if prefix is not None else next(iter(sets.values()), {})
    wanted = [(side, kind) for side in ("train", "test") for kind in ("images", "labels")]
    missing = [f"{side} {kind}" for side, kind in wanted if (side, kind) not in files]
    if missing:
        raise ValueError(
            f"{name} holds no {', no '.join(missing)}: expected idx files such as "
            "train-images-idx3-ubyte and t10k-labels-idx1-ubyte, which may end in .gz or .xz"
        )
    return files


def _sets(folder: Path) -> dict[str, dict[tuple[str, str], Path]]:
    """The idx files of a folder by the beginning of their names."""
    sets: dict[str, dict[tuple[str, str], Path]] = {}
    for file in sorted(folder.iterdir()):  # of a file and its packed copy the first counts
        match = _NAME.fullmatch(file.name)
        if match and file.is_file():
            side = "train" if match["side"] == "train" else "test"
            files = sets.setdefault(match["prefix"] or "", {})
            files.setdefault((side, match["kind"]), file)
    return sets
