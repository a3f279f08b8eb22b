"""The topology as a time series on disk: Parquet link events and keyframes.

A history is a folder that pandas, polars and DuckDB read without us::

    _meta.json     schema version, layer shapes, couplings, truncations
    events/        step, layer, event, row, column, weight     one part per update
    updates/       update, step, layer, links, thinned, removed, percolated, grown, overlap,
                   active_neuron_rate, itop_rate, thin_seconds, remove_seconds,
                   percolate_seconds, regrow_seconds, frozen
    keyframes/     step, layer, row, column, weight            all links at some steps

Events are "start" (every link at step 0), "thinned", "removed", "percolated" and "grown"; weights
are null where they were not asked for. ``pandas.read_parquet(folder / "events")`` is all of them;
where a tool reads hidden files too, ``events/*.parquet`` leaves out a writer's temporary ones.
`History.updates` says what the columns of ``updates/`` are.

Each part is written to a temporary name, synced and renamed; an update's part in ``updates/`` comes
last, so an update exists once it is complete. A writer that is killed loses at most the update it
was writing, and a reader beside a writer sees a consistent prefix. `History.incomplete` names what
there is of an update that is not complete; `topo.HistoryWriter.open` goes on with a history, warns
if such an update was lost, and truncates.
"""

from __future__ import annotations

import bisect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from topo._parts import (
    EVENTS,
    KEYFRAME,
    UPDATES,
    HistoryError,
    HistoryWarning,
    Keys,
    Links,
    Meta,
    Weights,
    apply_events,
    has_weights,
    is_cut_off,
    links_of,
    parts_in,
    read_part,
)
from topo.adjacency import wrap_csr
from topo.checks import as_integer
from topo.network import Network

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["History", "HistoryError", "HistoryWarning"]


class History:
    """Read a history as it was when it was opened. Open one with `History.open`.

    Attributes
    ----------
    path : Path
    steps : list of int
        The recorded steps, ascending: 0, then one per update.
    shapes : dict of str to (int, int)
        ``(n_out, n_in)`` of each layer.
    couplings : tuple of Coupling
    incomplete : tuple of str
        Files of an update or keyframe that is not complete, hence not part of the history: a
        writer is at it just now, or died in it. Shown by ``repr``, too.
    """

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self.shapes = meta.shapes
        self.couplings = meta.couplings
        self.meta = meta
        # In this order, no part is seen without those that a writer beside us wrote before it.
        found = {
            kind: [p for p in parts_in(path, kind) if meta.keeps(p)]
            for kind in ("keyframes", "updates", "events")
        }
        lost = [p for parts in found.values() for p in parts if p.temporary]
        keyframes, updates, events = (
            {p.step: p for p in parts if not p.temporary} for parts in found.values()
        )
        #: The last parts, where their ends are missing: no kill does that, but a power cut may.
        self.damaged = [
            parts.pop(max(parts))
            for parts in (keyframes, updates, events)
            if parts and is_cut_off(parts[max(parts)].file)
        ]
        begun = events.keys() - updates.keys()
        if updates and max(updates) not in events:
            begun.add(max(updates))
            lost.append(updates.pop(max(updates)))
        end = min(begun, default=None)
        for parts in (keyframes, events):
            lost += [parts.pop(s) for s in list(parts) if end is not None and s >= end]
        #: What is not part of the history, because it is not complete.
        self.lost = [*lost, *self.damaged]
        self.incomplete = tuple(sorted(map(str, self.lost)))
        if not updates:
            raise HistoryError(f"{path / 'updates'} is empty: the history was cut off at its start")
        tables = [read_part(p.file, UPDATES) for p in updates.values()]
        self._updates = pa.concat_tables(tables).sort_by([("update", "ascending")])
        self._check_updates()
        self.steps: list[int] = sorted(updates)
        self._events = {s: path / "events" / p.file.name for s, p in updates.items()}
        #: Files that hold all links of a step: step 0 is one.
        self.keyframes = {0: self._events[0]} | {s: p.file for s, p in keyframes.items()}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> History:
        """Open the history in a folder, or that of a run (its ``topology`` folder).

        What a writer does later is not seen: open it again. If the history is truncated
        meanwhile, reading what was dropped raises a HistoryError that says so.

        Raises
        ------
        HistoryError
            If there is none, or it is damaged; the message names the file and the mend.

        Warns
        -----
        HistoryWarning
            If the file written last has lost its end; the history ends before it.
        """
        history = cls._snapshot(path)
        if history.damaged:
            warnings.warn(
                f"{history.path} lost its end: {', '.join(map(str, history.damaged))} is cut off; "
                f"the last complete update is that of step {history.steps[-1]}",
                HistoryWarning,
                stacklevel=2,
            )
        return history

    @classmethod
    def _snapshot(cls, path: str | os.PathLike[str]) -> History:
        folder = Path(path)
        if not (folder / "_meta.json").is_file() and (folder / "topology" / "_meta.json").is_file():
            folder = folder / "topology"
        while True:
            meta, parts = Meta.read(folder), parts_in(folder, "updates")
            try:
                history = cls(folder, meta)
            except HistoryError:
                if (Meta.read(folder), parts_in(folder, "updates")) == (meta, parts):
                    raise
                continue  # a writer changed it while it was read
            if Meta.read(folder) == meta:
                return history

    def at(self, step: int, weights: bool = False) -> Network:
        """The topology at the latest recorded step that is not after `step`, exactly.

        Parameters
        ----------
        step : int
            From 0.
        weights : bool
            With the weights, too, in float32; for the steps at which all were recorded
            (`weight_steps`).

        Raises
        ------
        ValueError
            If the step is negative, or weights were not recorded at it.
        HistoryError
            If a part that is needed is missing or damaged.
        """
        step = as_integer("step", step, 0)
        if weights:
            return self._weighted(step)
        for _, keys in self._replay(max(s for s in self.keyframes if s <= step), until=step):
            latest = keys
        return self._network(latest)

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
        for step, keys in self._replay(0, until=self.steps[-1]):
            yield step, self._network(keys)

    def events(self) -> pd.DataFrame:
        """All link events: step, layer, event, row, column, weight (NaN if not recorded)."""
        with self._while_it_is_there():
            tables = [read_part(file, EVENTS) for file in self._events.values()]
        return pa.concat_tables(tables).unify_dictionaries().to_pandas()

    def updates(self) -> pd.DataFrame:
        """One row per update and layer.

        Returns
        -------
        DataFrame
            With the columns

            - update (from 1), step, layer
            - links: after the update
            - thinned, removed, percolated, grown: how many links each phase took or gave
            - overlap: ELM overlap
            - active_neuron_rate: `topo.active_neuron_rate` of the whole network after the update,
              the same for each layer
            - itop_rate: share of the layer's possible links that have ever existed
            - thin_seconds, remove_seconds, percolate_seconds, regrow_seconds: time the phase took
            - frozen: whether the topology of the layer no longer evolves

            What was not recorded is NaN; frozen is False then.
        """
        frame = self._updates.to_pandas()
        return frame[frame["update"] > 0].reset_index(drop=True)

    @property
    def weight_steps(self) -> list[int]:
        """The steps at which `at` can give the weights."""
        with self._while_it_is_there():
            return [s for s, file in sorted(self.keyframes.items()) if has_weights(file)]

    def __repr__(self) -> str:
        lost = f"; incomplete: {', '.join(self.incomplete)}" if self.incomplete else ""
        return (
            f"History({str(self.path)!r}: {len(self.shapes)} layers, "
            f"{len(self.steps) - 1} updates, last step {self.steps[-1]}{lost})"
        )

    def _check_updates(self) -> None:
        updates = self.path / "updates"
        numbers = sorted(set(self._updates["update"].to_pylist()))
        if numbers != list(range(len(numbers))):
            missing = min(set(range(numbers[-1])) - set(numbers))
            raise HistoryError(
                f"update {missing} is missing from {updates}: restore its part from a copy"
            )
        layers = set(self._updates["layer"].to_pylist())
        if layers != set(self.shapes) or min(map(min, self.shapes.values())) < 1:
            raise HistoryError(
                f"{self.path / '_meta.json'} does not fit {updates}: restore it from a copy"
            )

    @contextmanager
    def _while_it_is_there(self) -> Iterator[None]:
        """If a part is missing because the history was truncated since it was opened, say so."""
        try:
            yield
        except HistoryError:
            if Meta.read(self.path) == self.meta:
                raise
            raise HistoryError(
                f"{self.path} was continued from an earlier step since it was opened: open it again"
            ) from None

    def _replay(self, keyframe: int, *, until: int) -> Iterator[tuple[int, dict[str, Keys]]]:
        """The link keys of each layer at a keyframe, and after each later update."""
        keys = {name: np.empty(0, np.int64) for name in self.shapes}
        keys |= {links.layer: links.keys for links in self._links(keyframe, KEYFRAME)}
        self._check_counts(keyframe, keys)
        yield keyframe, keys
        for step in self.steps:
            if not keyframe < step <= until:
                continue
            events: dict[str, list[Links]] = {name: [] for name in self.shapes}
            for links in self._links(step, EVENTS):
                events[links.layer].append(links)
            try:
                keys = {name: apply_events(keys[name], events[name]) for name in keys}
            except ValueError as error:
                raise HistoryError(f"{self.path} is damaged at step {step}: {error}") from None
            self._check_counts(step, keys)
            yield step, keys

    def _links(self, step: int, schema: pa.Schema) -> list[Links]:
        file = (self._events if schema is EVENTS else self.keyframes)[step]
        with self._while_it_is_there():
            return links_of(file, self.shapes, schema)

    def _check_counts(self, step: int, keys: Mapping[str, Keys]) -> None:
        """Compare with the number of links that the update recorded."""
        recorded = self.steps[bisect.bisect(self.steps, step) - 1]
        at_step = self._updates.filter(pa.compute.equal(self._updates["step"], recorded))
        for row in at_step.select(["layer", "links"]).to_pylist():
            if len(keys[row["layer"]]) != row["links"]:
                raise HistoryError(
                    f"{self.path} is damaged: step {step} has {len(keys[row['layer']])} links in "
                    f"layer {row['layer']!r}, recorded were {row['links']}: restore it from a copy"
                )

    def _weighted(self, step: int) -> Network:
        if step not in self.keyframes or not has_weights(self.keyframes[step]):
            raise ValueError(
                f"no weights were recorded at step {step}; they were at {self.weight_steps}"
            )
        keys = {name: np.empty(0, np.int64) for name in self.shapes}
        weights = {name: np.empty(0, np.float32) for name in self.shapes}
        for links in self._links(step, KEYFRAME):
            keys[links.layer] = links.keys
            if links.weights is not None:
                weights[links.layer] = links.weights
        self._check_counts(step, keys)
        return self._network(keys, weights)

    def _network(
        self, keys: Mapping[str, Keys], weights: Mapping[str, Weights] | None = None
    ) -> Network:
        layers = {}
        for name, (n_out, n_in) in self.shapes.items():
            starts = np.searchsorted(keys[name], np.arange(n_out + 1) * n_in)
            indices = (keys[name] % n_in).astype(np.int32)
            layers[name] = wrap_csr(starts.astype(np.int32), indices, (n_out, n_in))
        try:
            return Network(layers, self.couplings, weights=weights)
        except ValueError as error:
            raise HistoryError(f"{self.path} is damaged: {error}") from None
