"""Checkpoints: folders of safetensors and JSON with checksums, there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import topo
from topo.files import sync

__all__ = [
    "FORMAT",
    "CheckpointError",
    "drop_after",
    "is_there",
    "latest",
    "pack",
    "prune",
    "read",
    "save",
    "steps",
    "unpack",
]

logger = logging.getLogger(__name__)

FORMAT = 1  # of checkpoints and run folders
_TEMPORARY = ".writing"
_KINDS = {"tensor", "array", "dict", "tuple"}


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or of another version."""


def save(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write a checkpoint under a temporary name, sync, and rename.

    Parameters
    ----------
    folder : Path
        What it is to be called, such as ``checkpoints/step-00000100``; replaced if it is there.
    parts : mapping of str to nested dicts, lists, tensors, arrays, numbers, strings
        Each becomes a file of its own: "model", "optimizer", ...

    Raises
    ------
    OSError
        If it cannot be written (a full disk); older checkpoints are still there then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(_TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        plain, digests = {}, {}
        for name, part in parts.items():
            tensors: dict[str, Tensor] = {}
            plain[name] = pack(part, tensors)
            if tensors:
                file = temporary / f"{name}.safetensors"
                save_file(tensors, file)
                sync(file)
                digests[file.name] = _digest(file)
        content = {
            "format": FORMAT,
            "epitopo": topo.__version__,
            "torch": torch.__version__,
            "files": digests,
            "parts": plain,
        }
        text = json.dumps(content)
        whole = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text}
        state = temporary / "state.json"
        state.write_text(json.dumps(whole))
        sync(state)
        replaced = _replaced(folder)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"cannot write the checkpoint {folder}: {error}; the older ones are as they were"
        ) from error
    sync(folder.parent)


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints in a folder but the newest."""
    for step in steps(folder)[:-keep]:
        shutil.rmtree(folder / step, ignore_errors=True)


def drop_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: damaged ones, that would pass for the newest."""
    for name in steps(folder):
        if _step(name) > step:
            shutil.rmtree(folder / name, ignore_errors=True)


def is_there(folder: Path) -> bool:
    """Whether there is such a checkpoint, whole or not."""
    return folder.exists() or _replaced(folder).exists()


def read(folder: Path) -> dict[str, Any]:
    """Read the parts of a checkpoint, verified.

    Raises
    ------
    CheckpointError
        If it is damaged (a file is missing, or not what was written), or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not folder.exists() and _replaced(folder).exists():
        folder = _replaced(folder)  # killed between two renames
    try:
        whole = json.loads((folder / "state.json").read_text())
        text = whole["content"]
        if hashlib.sha256(text.encode()).hexdigest() != whole["sha256"]:
            raise CheckpointError(f"{folder / 'state.json'} is damaged: its checksum is another")
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} is of format {content['format']} (epitopo {content['epitopo']}), this "
                f"epitopo {topo.__version__} reads format {FORMAT}: go on with that version"
            )
        parts = {}
        for name, part in content["parts"].items():
            file = folder / f"{name}.safetensors"
            tensors = {}
            if file.name in content["files"]:
                if _digest(file) != content["files"][file.name]:
                    raise CheckpointError(f"{file} is damaged: its checksum is another")
                tensors = load_file(file)
            parts[name] = unpack(part, tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    return parts


def latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None if there is none at all.

    A damaged one is named in a warning (logger "dst.checkpoints") and the one before it is read.

    Raises
    ------
    CheckpointError
        If there are some, and none can be read.
    """
    errors = []
    for step in reversed(steps(folder)):
        try:
            parts = read(folder / step)
        except CheckpointError as error:
            errors.append(str(error))
            continue
        for message in errors:
            logger.warning("%s; going on from %s", message, folder / step)
        return parts
    if errors:
        raise CheckpointError(
            f"no checkpoint can be read: {'; '.join(errors)}. "
            f"To begin anew, remove {folder} and resume"
        )
    return None


def steps(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder, oldest first."""
    names = (p.name for p in folder.glob("step-*") if p.name.removeprefix("step-").isdigit())
    return sorted(names, key=_step)


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Take the tensors out of nested state; what remains is JSON.

    Parameters
    ----------
    value : nested dict, list, tuple, Tensor, ndarray, number, str, bool or None
    tensors : dict
        Where the tensors are put, on the CPU, each with its own memory.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> import torch
    >>> from dst.checkpoints import pack, unpack
    >>> tensors = {}
    >>> plain = pack({0: {"exp_avg": torch.ones(2), "betas": (0.9, 0.99)}}, tensors)
    >>> unpack(plain, tensors)
    {0: {'exp_avg': tensor([1., 1.]), 'betas': (0.9, 0.99)}}
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return {"array": pack(torch.from_numpy(np.array(value)), tensors)["tensor"]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {"dict": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(v, tensors) for v in value]}
    if isinstance(value, list):
        return [pack(v, tensors) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} of {type(value).__name__} cannot be part of a checkpoint")


def unpack(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `pack`."""
    if isinstance(plain, list):
        return [unpack(v, tensors) for v in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind not in _KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in value}
    if kind == "tuple":
        return tuple(unpack(v, tensors) for v in value)
    return tensors[value] if kind == "tensor" else tensors[value].numpy()


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _replaced(folder: Path) -> Path:
    """Where an older one of this name is while the new one takes its place."""
    return folder.with_name(f".{folder.name}.replaced")


def _digest(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
