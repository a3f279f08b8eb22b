"""The folder of a run: its configuration, its metrics, and what they are cut back to."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from topo.files import is_taken, write_atomically

__all__ = [
    "BEST",
    "CANCELLATION",
    "CHECKPOINTS",
    "CONFIG",
    "METRICS",
    "SUMMARY",
    "TIMINGS",
    "claim",
    "refuse_taken",
    "removed_on_error",
    "rewind",
    "running",
    "write_config",
    "write_summary",
]

CHECKPOINTS, BEST = "checkpoints", "best"
CONFIG, SUMMARY, METRICS, TIMINGS = "config.yaml", "summary.json", "metrics.jsonl", "timings.jsonl"
CANCELLATION = "cancellation.jsonl"


def refuse_taken(out: Path) -> None:
    """Refuse a run directory that holds something.

    Raises
    ------
    ValueError
        If the folder exists and is not empty.
    """
    begun = out.is_dir() and [p.name for p in out.iterdir()] == [f".{CONFIG}.tmp"]
    if is_taken(out) and not begun:
        unfinished = (out / CONFIG).is_file() and not (out / SUMMARY).is_file()
        mend = f"go on with it (epitopo train --resume {out}), " if unfinished else ""
        raise ValueError(f"{out} exists already: {mend}give another --out, or remove it")


def claim(out: Path) -> None:
    """Make a run directory, or refuse one that holds something.

    Raises
    ------
    ValueError
        If the folder exists and is not empty, or cannot be made.
    """
    refuse_taken(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the run folder {out}: {error.strerror}") from None


@contextmanager
def removed_on_error(out: Path | None) -> Iterator[None]:
    """Remove a run directory that was just made if what is within fails."""
    try:
        yield
    except Exception:
        if out is not None:
            shutil.rmtree(out, ignore_errors=True)
        raise


@contextmanager
def running(out: Path) -> Iterator[None]:
    """Have the run directory for this process alone, on this machine.

    Raises
    ------
    ValueError
        If another process trains it.
    """
    digest = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"epitopo-{digest}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process trains {out}: let it finish, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def write_config(out: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml``: a folder is a run from then on."""
    write_atomically(out / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``: a run is finished from then on."""
    write_atomically(out / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())


def rewind(out: Path, step: int) -> None:
    """Cut metrics, timings and cancellation back to what they were after a step.

    At 0, the history, too; else that is cut by ``topo.HistoryWriter.open(path, step)``.
    """
    for name in (METRICS, TIMINGS, CANCELLATION):
        file = out / name
        if name == CANCELLATION and not file.is_file():
            continue
        kept = [line for line in _whole_lines(file) if json.loads(line)["step"] <= step]
        write_atomically(file, "".join(line + "\n" for line in kept).encode())
    if step == 0:
        shutil.rmtree(out / "topology", ignore_errors=True)


def _whole_lines(file: Path) -> list[str]:
    """Those that a killed process has written to their end."""
    if not file.is_file():
        return []
    text = file.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
