"""Sweeps: all cells of a grid of settings, one run folder each.

A sweep is a YAML file::

    out: runs/my-sweep              # folder of the cells; default: runs/NAME-OF-THE-FILE
    preset: digits-chts             # or presets: [digits-dense, digits-chts]
    options: {optimizer.epochs: 5}  # of all cells, dotted or nested
    grid:                           # all combinations; the last key changes fastest
      sparsity.method: [null, set, chts]
      sparsity.density: [0.1, 0.05]
      seed: [0, 1, 2]

Where the file sets the method to null the network is dense: what else the file and the preset say
of sparsity and low rank does not apply, so there is one such cell for all densities.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from dst.config import Config, LowRankConfig, SparsityConfig
from dst.presets import PRESETS
from topo.files import write_atomically
from topo.names import flat, unknown

__all__ = ["Cell", "Outcome", "Sweep", "SweepError", "cells", "load_sweep", "run_sweep"]

_KEYS = ("out", "preset", "presets", "options", "grid")
_OWN = ".sweep"  # beside the cells: what each was to be, locks, failures
_METHOD, _SEED = "sparsity.method", "seed"

ParseCell = Callable[[str, Mapping[str, Any]], Config]
TrainCell = Callable[[str, Mapping[str, Any], Path, bool], object]


class SweepError(ValueError):
    """Some cells of a sweep failed; the message names them."""


@dataclass(frozen=True)
class Sweep:
    """A grid of settings.

    Attributes
    ----------
    out : Path
        Folder of the cells.
    presets : tuple of str
    several : bool
        Whether the file has a list of presets: the names of the cells begin with theirs then.
    options : dict
        Settings of all cells, by dotted key.
    grid : dict of str to list
        Values of each dotted key that varies.
    """

    out: Path
    presets: tuple[str, ...]
    several: bool
    options: dict[str, Any]
    grid: dict[str, list[Any]]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes
    ----------
    name : str
        Of its folder: a function of its own settings alone.
    preset : str
    options : dict
        By dotted key, on top of the preset.
    folder : Path
    settings : dict
        All of its settings, resolved.
    """

    name: str
    preset: str
    options: dict[str, Any]
    folder: Path
    settings: dict[str, Any]

    @property
    def state(self) -> str:
        """Its folder's: "finished", "unfinished" or "new"."""
        if (self.folder / "summary.json").is_file():
            return "finished"
        return "unfinished" if (self.folder / "config.yaml").is_file() else "new"

    def own(self, ending: str) -> Path:
        """A file of the sweep about the cell."""
        return self.folder.parent / _OWN / f"{self.name}.{ending}"


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes
    ----------
    cell : Cell
    status : str
        "trained", "finished before", "failed", or "busy" (another sweep trains it).
    message : str
        The score, the error, or who trains it.
    """

    cell: Cell
    status: str
    message: str


def load_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Read a sweep's YAML file.

    Raises
    ------
    ValueError
        If it cannot be read, or is no sweep; the message names the key and the mend.
    """
    file = Path(path)
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the sweep {file} cannot be read as YAML: {reason}") from None
    try:
        return _sweep(content, file.stem)
    except ValueError as error:
        raise ValueError(f"the sweep {file}: {error}") from None


def cells(sweep: Sweep, parse_cell: ParseCell) -> list[Cell]:
    """All cells, in order; each has been parsed.

    Parameters
    ----------
    sweep : Sweep
    parse_cell : callable of (preset, options) -> Config
        Raises a ValueError for what cannot be.

    Raises
    ------
    ValueError
        For a cell that cannot be, and for two cells with the same settings.
    """
    found: dict[str, Cell] = {}
    for preset in sweep.presets:
        usual = parse_cell(preset, {})
        for values in product(*sweep.grid.values()):
            varied = dict(zip(sweep.grid, values, strict=True))
            options = sweep.options | varied
            dense = options.get(_METHOD, usual.sparsity.method) is None
            if usual.sparsity.method is None:  # low rank alone is not dense
                ranks = (options.get(f"low_rank.{key}") for key in ("rank", "ratio"))
                dense = dense and not usual.low_rank.there and all(r is None for r in ranks)
            twin = preset
            if dense:  # of the preset that is dense: it may have a rate of its own
                twin = f"{preset.rpartition('-')[0]}-dense"
                twin = twin if twin in PRESETS else preset
                options, varied = _without_sparsity(options, usual), _without_sparsity(varied)
            name = _name(varied, preset if sweep.several else "")
            try:
                config = parse_cell(twin, options)
            except ValueError as error:
                raise ValueError(f"the cell {name} of preset {preset}: {error}") from None
            settings = json.loads(json.dumps({"preset": twin, **asdict(config)}, default=str))
            cell = Cell(name, twin, options, sweep.out / name, settings)
            if not dense and name in found:
                raise ValueError(f"the grid has the cell {name} twice: name every value once")
            if found.setdefault(name, cell).settings != settings:
                raise ValueError(f"two different cells would be named {name}: rename a value")
    _refuse_twins(found.values())
    return list(found.values())


def run_sweep(
    sweep: Sweep,
    parse_cell: ParseCell,
    train_cell: TrainCell,
    *,
    tell: Callable[[str], object] = partial(print, flush=True),  # noqa: B008
    dry_run: bool = False,
) -> list[Outcome]:
    """Train all cells that are not finished, one after the other; go on with unfinished ones.

    Several sweeps of the same file may run at once (one a GPU): each cell is trained by one.

    Parameters
    ----------
    sweep : Sweep
    parse_cell : callable of (preset, options) -> Config
    train_cell : callable of (preset, options, folder, resume)
        Trains a cell, and leaves its folder with a ``summary.json``.
    tell : callable
        Is told a line per cell.
    dry_run : bool
        Tell what there is to do, and do nothing.

    Returns
    -------
    list of Outcome

    Raises
    ------
    ValueError
        Before anything is trained, if a cell cannot be, or was trained with other settings.
    SweepError
        At the end, if cells failed; all others were trained.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            "a sweep trains each cell in one process: start it without torchrun; to use several "
            "GPUs, start the sweep once for each (CUDA_VISIBLE_DEVICES=0, 1, ...)"
        )
    todo = cells(sweep, parse_cell)
    for cell in todo:
        _check_unchanged(cell)
    outcomes: list[Outcome] = []
    for number, cell in enumerate(todo, start=1):
        if dry_run:
            tell(f"{number}/{len(todo)} {cell.name}: {cell.state}")
            continue
        outcome = _run(cell, train_cell)
        outcomes.append(outcome)
        tell(f"{number}/{len(todo)} {cell.name}: {outcome.status}, {outcome.message}")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(todo)} cells failed: "
            f"{', '.join(o.cell.name for o in failed)}; why: {sweep.out / _OWN}/*.failed"
        )
    return outcomes


def _run(cell: Cell, train_cell: TrainCell) -> Outcome:
    try:
        cell.own("lock").parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {cell.folder.parent}: {error.strerror}") from None
    # the system drops a lock with the process that holds it: none is ever stale
    lock = FileLock(cell.own("lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return Outcome(cell, "busy", f"by {_holder(cell)}")
    try:
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        write_atomically(cell.own("holder"), holder.encode())
        return _run_alone(cell, train_cell)
    finally:
        lock.release()


def _run_alone(cell: Cell, train_cell: TrainCell) -> Outcome:
    _check_unchanged(cell)
    if cell.state == "finished":
        return Outcome(cell, "finished before", _score(cell))
    write_atomically(cell.own("json"), json.dumps(cell.settings, indent=1).encode())
    try:
        train_cell(cell.preset, cell.options, cell.folder, cell.state == "unfinished")
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())
        write_atomically(cell.own("failed"), f"{reason}\n".encode())
        return Outcome(cell, "failed", reason)
    cell.own("failed").unlink(missing_ok=True)
    return Outcome(cell, "trained", _score(cell))


def _holder(cell: Cell) -> str:
    try:
        return cell.own("holder").read_text()
    except OSError:
        return "another sweep"


def _score(cell: Cell) -> str:
    try:
        score = json.loads((cell.folder / "summary.json").read_text())["score"]
        form = ".2%" if "accuracy" in score["name"] else ".2f"
        return f"{score['name'].replace('_', ' ')} {score['value']:{form}}"
    except (OSError, ValueError, KeyError, TypeError):
        return "but its summary.json cannot be read"


def _check_unchanged(cell: Cell) -> None:
    """Refuse a folder that another cell, or something else, has made."""
    if not cell.folder.exists() or (cell.folder.is_dir() and not any(cell.folder.iterdir())):
        return
    try:
        saved = json.loads(cell.own("json").read_text())
    except (OSError, ValueError):
        raise ValueError(
            f"{cell.folder} is there, and not of this sweep: give another out, or remove it"
        ) from None
    was, now = flat(saved), flat(cell.settings)
    # a key that the saved settings lack is newer than they are
    changed = [key for key in was if key not in now or was[key] != now[key]]
    if changed:
        what = ", ".join(f"{key} {was[key]!r}, not {now.get(key)!r}" for key in changed)
        raise ValueError(
            f"{cell.folder} was trained with {what}: give the changed sweep another out, or "
            "remove the folder"
        )


def _sweep(content: object, stem: str) -> Sweep:
    if not isinstance(content, dict):
        raise ValueError(f"it must be a mapping with the keys {', '.join(_KEYS)}")
    for key in content:
        if key not in _KEYS:
            raise ValueError(unknown(key, _KEYS, "key"))
    if ("preset" in content) == ("presets" in content):
        raise ValueError("it needs either preset or presets")
    presets = content.get("presets", [content.get("preset")])
    if not (isinstance(presets, list) and presets and all(isinstance(p, str) for p in presets)):
        raise ValueError(f"preset must be a name, and presets a list of names, not {presets!r}")
    out = content.get("out", f"runs/{stem}")
    if not isinstance(out, str) or not out:
        raise ValueError(f"out must be a folder, not {out!r}")
    groups = {key: content.get(key) or {} for key in ("options", "grid")}
    for key, value in groups.items():
        if not isinstance(value, dict):
            raise ValueError(f"{key} must be a mapping of option names, not {value!r}")
    options, grid = flat(groups["options"]), flat(groups["grid"])
    if not grid and len(presets) == 1:
        raise ValueError("its grid is empty: give keys, and a list of values for each")
    grid = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
    for key, values in grid.items():
        if not values:
            raise ValueError(f"grid: {key} has no values")
        if key in options:
            raise ValueError(f"{key} is both in options and in grid: leave one")
    return Sweep(Path(out), tuple(presets), "presets" in content, options, grid)


def _without_sparsity(options: Mapping[str, Any], usual: Config | None = None) -> dict[str, Any]:
    """Options of a dense cell; with `usual`, what the preset says of its layers is taken back."""
    kept = {
        k: v
        for k, v in options.items()
        if k == _METHOD or not k.startswith(("sparsity.", "low_rank."))
    }
    if usual is None:
        return kept
    for group, plain in (("sparsity", SparsityConfig()), ("low_rank", LowRankConfig())):
        own = asdict(getattr(usual, group))
        differs = {k: v for k, v in asdict(plain).items() if own[k] != v}
        kept |= {f"{group}.{name}": value for name, value in differs.items()}
    return kept


def _name(varied: Mapping[str, Any], preset: str) -> str:
    """A folder's name: readable, safe on every file system, whatever the order of the keys."""
    keys = sorted(varied, key=lambda key: (key == _SEED, key != _METHOD, key))
    short = Counter(key.rpartition(".")[2] for key in keys)
    parts = [preset] if preset else []
    for key in keys:
        label = key.rpartition(".")[2]
        parts.append(f"{_safe(label if short[label] == 1 else key)}-{_text(key, varied[key])}")
    return _shortened("_".join(parts) or "cell", 200)


def _text(key: str, value: object) -> str:
    if value is None:
        return "dense" if key == _METHOD else "none"
    if isinstance(value, (list, tuple)):
        return _shortened("-".join(_text(key, v) for v in value), 60)
    return _shortened(_safe(str(value).lower() if isinstance(value, bool) else str(value)), 60)


def _safe(text: str) -> str:
    """The text, if it can stand as it is in a file's name; else like it, and told apart."""
    plain = re.sub(r"[^a-z0-9._+-]+", "-", text.lower()).strip(".")
    return plain if plain == text else f"{plain}~{_digest(text)}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 9]}~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _refuse_twins(found: Iterable[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in found:
        first = seen.setdefault(json.dumps(cell.settings, sort_keys=True), cell)
        if first is not cell:
            raise ValueError(
                f"the cells {first.name} and {cell.name} have the same settings: leave one"
            )
