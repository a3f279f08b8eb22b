"""The topology as a time series on disk: Parquet link events and keyframes.

A history is a folder that pandas, polars and DuckDB read without us::

    _meta.json     schema version, layer shapes, couplings
    events/        step, layer, event, row, column, weight     one part per update
    updates/       update, step, layer, links, thinned, removed, percolated, grown, overlap
    keyframes/     layer, row, column, weight                  all links at some steps

Events are "start" (every link at step 0), "thinned", "removed", "percolated" and "grown". Each part
is written to a temporary name, synced and renamed; an update's part in ``updates/`` comes last, so
an update exists once it is complete, and a reader beside the writer sees a consistent prefix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from topo._parts import (
    EVENTS,
    KEYFRAME,
    LOSSES,
    UPDATES,
    HistoryError,
    Keys,
    event_table,
    keyframe_table,
    link_keys_of,
    of_layer,
    part_file,
    read_part,
    write_part,
)
from topo.adjacency import from_links, link_keys, locate
from topo.files import is_taken, write_atomically
from topo.network import Coupling, Network

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["History", "HistoryError", "HistoryWriter"]

SCHEMA = 1
KEYFRAME_EVERY = 16  # updates; an update changes about half the links, so they cost little


class HistoryWriter:
    """Write a history, one update at a time.

    Parameters
    ----------
    path : path
        A folder that does not exist yet, or is empty.
    network : Network
        The topology at step 0.

    Attributes
    ----------
    network : Network
        The latest topology.

    Raises
    ------
    HistoryError
        If the folder holds something already.

    Examples
    --------
    >>> import tempfile, topo
    >>> net = topo.Network({"fc": [[1, 0], [0, 1]]})
    >>> folder = tempfile.mkdtemp()
    >>> writer = topo.HistoryWriter(folder, net)
    >>> grown = topo.Network({"fc": [[1, 1], [0, 0]]})
    >>> writer.append(10, grown, {"fc": {"removed": [3], "grown": [1]}})
    >>> topo.History.open(folder).at(10) == grown
    True
    """

    def __init__(self, path: str | os.PathLike[str], network: Network) -> None:
        self.path = Path(path)
        if is_taken(self.path):
            raise HistoryError(
                f"{self.path} exists already: a history is never overwritten; "
                "give another path or remove it"
            )
        self.network = network
        self._updates = 0
        self._step = 0
        for part in ("events", "updates", "keyframes"):
            (self.path / part).mkdir(parents=True)
        start = {name: {"start": link_keys(a)} for name, a in network.layers.items()}
        self._write("events", 0, event_table(0, start, network))
        self._write("updates", 0, self._update_table(0, 0, network, {}, {}))
        meta = {
            "format": "epitopo-history",
            "schema": SCHEMA,
            "layers": {name: list(a.shape) for name, a in network.layers.items()},
            "couplings": [
                {"outputs": list(c.outputs), "inputs": list(c.inputs)} for c in network.couplings
            ],
        }
        write_atomically(self.path / "_meta.json", json.dumps(meta, indent=1).encode())

    def append(
        self,
        step: int,
        network: Network,
        events: Mapping[str, Mapping[str, npt.ArrayLike]],
        overlap: Mapping[str, float] | None = None,
    ) -> None:
        """Record one update.

        Parameters
        ----------
        step : int
            Greater than that of the update before.
        network : Network
            The topology after the update.
        events : mapping of layer name to mapping of event name to link keys
            "thinned", "removed", "percolated" and "grown" links as ``row * n_in + column``.
        overlap : mapping of str to float, optional
            ELM overlap per layer; NaN where none is given.

        Raises
        ------
        ValueError
            If the step does not come later, or the events do not lead from the topology of the
            update before to this one.
        """
        if isinstance(step, bool) or not isinstance(step, Integral) or step <= self._step:
            raise ValueError(f"step must be an integer after {self._step}, not {step!r}")
        step = int(step)
        before = self.network
        same = [(n, a.shape) for n, a in before.layers.items()]
        if [(n, a.shape) for n, a in network.layers.items()] != same:
            raise ValueError(f"step {step}: the network must have the layers {before}")
        strange = (set(events) | set(overlap or {})) - set(before.layers)
        if strange:
            raise ValueError(f"step {step}: there is no layer {', '.join(map(repr, strange))}")
        checked = {
            name: _check_events(name, step, before.layers[name], a, events.get(name, {}))
            for name, a in network.layers.items()
        }
        self._write("events", step, event_table(step, checked, network))
        if (self._updates + 1) % KEYFRAME_EVERY == 0:
            self._write("keyframes", step, keyframe_table(network))
        update = self._update_table(self._updates + 1, step, network, checked, overlap or {})
        self._write("updates", step, update)
        self.network, self._step, self._updates = network, step, self._updates + 1

    def keyframe(self, step: int, weights: Mapping[str, npt.ArrayLike] | None = None) -> None:
        """Record all present links, with their weights if given (one value per link).

        Parameters
        ----------
        step : int
            Not before the latest update.
        weights : mapping of str to array, optional
            By layer name, in row-major order of the links.
        """
        if isinstance(step, bool) or not isinstance(step, Integral) or step < self._step:
            raise ValueError(f"step must be an integer from {self._step}, not {step!r}")
        network = Network(self.network.layers, self.network.couplings, weights=weights)
        self._write("keyframes", int(step), keyframe_table(network))

    @staticmethod
    def _update_table(
        update: int,
        step: int,
        network: Network,
        events: Mapping[str, Mapping[str, Keys]],
        overlap: Mapping[str, float],
    ) -> pa.Table:
        rows = [
            {
                "update": update,
                "step": step,
                "layer": name,
                "links": a.nnz,
                **{kind: len(events.get(name, {}).get(kind, ())) for kind in (*LOSSES, "grown")},
                "overlap": overlap.get(name, float("nan")),
            }
            for name, a in network.layers.items()
        ]
        return pa.Table.from_pylist(rows, UPDATES)

    def _write(self, part: str, step: int, table: pa.Table) -> None:
        write_part(part_file(self.path, part, step), table)


class History:
    """Read a history. Open one with `History.open`.

    Attributes
    ----------
    path : Path
    steps : list of int
        The recorded steps, ascending: 0, then one per update.
    shapes : dict of str to (int, int)
        ``(n_out, n_in)`` of each layer.
    couplings : tuple of Coupling
    """

    def __init__(
        self,
        path: Path,
        shapes: dict[str, tuple[int, int]],
        couplings: tuple[Coupling, ...],
        updates: pa.Table,
    ) -> None:
        self.path = path
        self.shapes = shapes
        self.couplings = couplings
        self._updates = updates
        self.steps: list[int] = sorted(set(updates["step"].to_pylist()))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> History:
        """Open the history in a folder, or that of a run (its ``topology`` folder).

        Raises
        ------
        HistoryError
            If there is none, or it is damaged; the message names the file and the mend.
        """
        folder = Path(path)
        if not (folder / "_meta.json").is_file() and (folder / "topology" / "_meta.json").is_file():
            folder = folder / "topology"
        meta_file = folder / "_meta.json"
        if not meta_file.is_file():
            what = "no such folder" if not folder.is_dir() else "the folder has no _meta.json"
            raise HistoryError(f"no history in {folder}: {what}")
        try:
            meta = json.loads(meta_file.read_text())
            schema = meta["schema"]
            readable = type(schema) is int and schema == SCHEMA
            if readable:
                shapes = {n: (int(s[0]), int(s[1])) for n, s in meta["layers"].items()}
                couplings = tuple(
                    Coupling(tuple(c["outputs"]), tuple(c["inputs"])) for c in meta["couplings"]
                )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise HistoryError(
                f"{meta_file} is damaged ({error!r}): restore it from a copy"
            ) from None
        if not readable:
            raise HistoryError(
                f"{meta_file} has schema {schema!r}, this version of epitopo reads {SCHEMA}: "
                "install the version that wrote it"
            )
        parts = sorted((folder / "updates").glob("part-*.parquet"))
        tables = [read_part(p, UPDATES) for p in parts]
        if not tables:
            raise HistoryError(
                f"{folder / 'updates'} is empty: the history was cut off at its start"
            )
        updates = pa.concat_tables(tables).sort_by([("update", "ascending")])
        numbers = sorted(set(updates["update"].to_pylist()))
        if numbers != list(range(len(numbers))):
            missing = min(set(range(numbers[-1])) - set(numbers))
            raise HistoryError(
                f"update {missing} is missing from {folder / 'updates'}: "
                "restore its part from a copy"
            )
        if set(updates["layer"].to_pylist()) != set(shapes) or min(map(min, shapes.values())) < 1:
            raise HistoryError(
                f"{meta_file} does not fit {folder / 'updates'}: restore it from a copy"
            )
        return cls(folder, shapes, couplings, updates)

    def at(self, step: int, weights: bool = False) -> Network:
        """The topology at the latest recorded step that is not after `step`, exactly.

        Parameters
        ----------
        step : int
            From 0.
        weights : bool
            With the weights, too, in float32; for the steps that have a keyframe with weights
            (`weight_steps`).

        Raises
        ------
        ValueError
            If the step is negative, or weights were not recorded at it.
        HistoryError
            If a part that is needed is missing or damaged.
        """
        if isinstance(step, bool) or not isinstance(step, Integral) or step < 0:
            raise ValueError(f"step must be an integer from 0, not {step!r}")
        if weights:
            return self._weighted(step)
        recorded = set(self.steps)
        frames = [s for s in self._keyframes() if s <= step and s in recorded]
        for _, keys in self._replay(max(frames, default=None), until=step):
            latest = keys
        return self._network(latest, step)

    def networks(self) -> Iterator[tuple[int, Network]]:
        """Every recorded step and its topology, in order, reading each update once.

        Examples
        --------
        >>> import tempfile, topo
        >>> folder = tempfile.mkdtemp()
        >>> writer = topo.HistoryWriter(folder, topo.Network({"fc": [[1, 0]]}))
        >>> writer.append(5, topo.Network({"fc": [[0, 1]]}), {"fc": {"removed": [0], "grown": [1]}})
        >>> [(s, n.layers["fc"].indices.tolist()) for s, n in topo.History.open(folder).networks()]
        [(0, [0]), (5, [1])]
        """
        for step, keys in self._replay(None, until=self.steps[-1]):
            yield step, self._network(keys, step)

    def events(self) -> pd.DataFrame:
        """All link events: step, layer, event, row, column, weight."""
        frame = pa.concat_tables([self._events(s) for s in self.steps]).to_pandas()
        return frame.astype({"layer": "category", "event": "category"})

    def updates(self) -> pd.DataFrame:
        """One row per update and layer: links after it, counts per phase, ELM overlap."""
        frame = self._updates.to_pandas()
        return frame[frame["update"] > 0].reset_index(drop=True)

    @property
    def weight_steps(self) -> list[int]:
        """The steps at which `at` can give the weights."""
        return [s for s in self._keyframes() if not self._frame(s)["weight"].null_count]

    def __repr__(self) -> str:
        return (
            f"History({str(self.path)!r}: {len(self.shapes)} layers, "
            f"{len(self.steps) - 1} updates, last step {self.steps[-1]})"
        )

    def _keyframes(self) -> list[int]:
        parts = (self.path / "keyframes").glob(f"part-{'[0-9]' * 10}.parquet")
        return sorted(int(p.stem.removeprefix("part-")) for p in parts)

    def _frame(self, step: int) -> pa.Table:
        return read_part(part_file(self.path, "keyframes", step), KEYFRAME)

    def _events(self, step: int) -> pa.Table:
        return read_part(part_file(self.path, "events", step), EVENTS)

    def _replay(self, keyframe: int | None, *, until: int) -> Iterator[tuple[int, dict[str, Keys]]]:
        """The link keys of each layer at a keyframe, or else step 0, and after each update."""
        if keyframe is None:
            keyframe = 0
            start = self._events(0)
        else:
            start = self._frame(keyframe)
        keys = {n: link_keys_of(of_layer(start, n), shape[1]) for n, shape in self.shapes.items()}
        self._check_counts(keyframe, keys)
        yield keyframe, keys
        for step in self.steps:
            if not keyframe < step <= until:
                continue
            events = self._events(step)
            after = {}
            for name, shape in self.shapes.items():
                rows = of_layer(events, name)
                kinds = rows["event"].to_numpy(zero_copy_only=False)
                cells = link_keys_of(rows, shape[1])
                after[name] = _apply(keys[name], {k: cells[kinds == k] for k in set(kinds)})
            keys = after
            self._check_counts(step, keys)
            yield step, keys

    def _check_counts(self, step: int, keys: Mapping[str, Keys]) -> None:
        """Compare with the number of links that the update recorded."""
        at_step = self._updates.filter(pa.compute.equal(self._updates["step"], step))
        for row in at_step.select(["layer", "links"]).to_pylist():
            if len(keys[row["layer"]]) != row["links"]:
                raise HistoryError(
                    f"{self.path} is damaged: step {step} has {len(keys[row['layer']])} links in "
                    f"layer {row['layer']!r}, recorded were {row['links']}: restore it from a copy"
                )

    def _weighted(self, step: int) -> Network:
        table = self._frame(step) if step in self._keyframes() else None
        if table is None or table["weight"].null_count:
            raise ValueError(
                f"no weights were recorded at step {step}; they were at {self.weight_steps}"
            )
        parts = {name: of_layer(table, name) for name in self.shapes}
        keys = {name: link_keys_of(part, self.shapes[name][1]) for name, part in parts.items()}
        weights = {name: part["weight"].to_numpy() for name, part in parts.items()}
        return self._network(keys, step, weights)

    def _network(
        self,
        keys: Mapping[str, Keys],
        step: int,
        weights: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Network:
        try:
            layers = {
                name: from_links(keys[name] // shape[1], keys[name] % shape[1], shape)
                for name, shape in self.shapes.items()
            }
            return Network(layers, self.couplings, weights=weights)
        except ValueError as error:
            raise HistoryError(f"{self.path} is damaged at step {step}: {error}") from None


def _check_events(
    name: str,
    step: int,
    before: sparse.csr_array,
    after: sparse.csr_array,
    events: Mapping[str, npt.ArrayLike],
) -> dict[str, Keys]:
    """The events as ascending keys, if they lead from one topology to the other."""
    kinds = (*LOSSES, "grown")
    checked = {}
    for kind, given in events.items():
        keys = np.asarray(given)
        if kind not in kinds or keys.ndim != 1 or (keys.size and keys.dtype.kind not in "iu"):
            raise ValueError(
                f"step {step}, layer {name!r}: events are lists of integer link keys by kind "
                f"({', '.join(kinds)}), not {kind!r}: {given!r}"
            )
        checked[kind] = np.sort(keys.astype(np.int64))
    old = link_keys(before)
    lost = np.concatenate([checked.get(kind, old[:0]) for kind in LOSSES])
    if len(np.unique(lost)) < len(lost) or (locate(lost, among=old) < 0).any():
        raise ValueError(f"step {step}, layer {name!r}: a link is lost twice, or was not there")
    if not np.array_equal(_apply(old, checked), link_keys(after)):
        raise ValueError(f"step {step}: the events of layer {name!r} do not give its links")
    return checked


def _apply(keys: Keys, events: Mapping[str, npt.ArrayLike]) -> Keys:
    """Ascending link keys after the losses and then the gains of one update."""
    lost = [np.asarray(events.get(kind, ()), dtype=np.int64) for kind in LOSSES]
    gained = [np.asarray(events.get(kind, ()), dtype=np.int64) for kind in ("start", "grown")]
    left = np.setdiff1d(keys, np.concatenate(lost), assume_unique=True)
    return np.sort(np.concatenate([left, *gained]))
