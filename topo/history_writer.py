"""Write a history: begin one, or go on with one from any of its steps."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from topo._parts import (
    EVENTS,
    KEYFRAME,
    LOSSES,
    MEASURES,
    UPDATES,
    HistoryError,
    HistoryWarning,
    Links,
    Meta,
    Weights,
    apply_events,
    link_table,
    part_file,
    parts_in,
    write_part,
)
from topo.adjacency import link_keys
from topo.checks import as_integer, check_type
from topo.files import is_taken
from topo.history import History
from topo.names import unknown
from topo.network import Network

__all__ = ["HistoryWriter"]

KEYFRAME_EVERY = 16  # updates; at a churn of 0.1 their events are three times the links


class HistoryWriter:
    """Write a history, one update at a time. `HistoryWriter.open` goes on with one.

    One writer at a time: after `open`, an older writer of the same history is refused.

    Parameters
    ----------
    path : path
        A folder that does not exist yet, or is empty.
    network : Network
        The topology at step 0; its weights are recorded if it has them.

    Attributes
    ----------
    path : Path
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
        check_type("network", network, Network)
        folder = Path(path)
        if is_taken(folder):
            raise HistoryError(
                f"{folder} exists already: a history is never overwritten; give another path, "
                "remove it, or go on with it (topo.HistoryWriter.open)"
            )
        meta = Meta({n: a.shape for n, a in network.layers.items()}, network.couplings)
        start = link_table(0, _all_links(network), meta.shapes, EVENTS)
        for kind in ("events", "updates", "keyframes"):
            (folder / kind).mkdir(parents=True)
        write_part(part_file(folder, "events", 0), start)
        write_part(part_file(folder, "updates", 0), _update_table(0, 0, network, (), {}, {}))
        meta.write(folder)
        self._continue(History.open(folder), network)

    def _continue(self, history: History, network: Network, last: int = 0) -> None:
        self.path: Path = history.path
        self.network: Network = network
        self._meta: Meta = history.meta
        self._last: int = last  # step of the last update or keyframe
        self._updates: int = sum(0 < s <= last for s in history.steps)
        self._keyframes: dict[int, Path] = {
            s: file for s, file in history.keyframes.items() if s <= last
        }
        self._unfinished: bool = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], step: int | None = None) -> HistoryWriter:
        """Go on with the history in a folder, or that of a run (its ``topology`` folder).

        Parameters
        ----------
        path : path
        step : int, optional
            Drop what was recorded after this step. That is atomic: if the process dies at any
            moment, the history is as before or ends at this step.

        Raises
        ------
        HistoryError
            If there is none, or it is damaged.

        Warns
        -----
        HistoryWarning
            If a writer died in an update after the last complete one, and `step` does not drop
            it anyway. What there is of that update is removed.

        Examples
        --------
        >>> import tempfile, topo
        >>> net, folder = topo.Network({"fc": [[1, 0]]}), tempfile.mkdtemp()
        >>> writer = topo.HistoryWriter(folder, net)
        >>> writer.append(5, topo.Network({"fc": [[1, 1]]}), {"fc": {"grown": [1]}})
        >>> writer = topo.HistoryWriter.open(folder, step=4)
        >>> writer.network == net
        True
        """
        if step is not None:
            step = _as_step(step, 0)
        history = History._snapshot(path)
        last = max(s for s in (*history.steps, *history.keyframes) if step is None or s <= step)
        writer = cls.__new__(cls)
        writer._continue(history, history.at(last), last)
        writer._cut()
        for part in history.damaged:  # a keyframe's, which may be from before the cut
            part.file.unlink(missing_ok=True)
        lost = [str(p) for p in history.lost if step is None or p.step <= step]
        if lost:
            warnings.warn(
                f"{history.path} was cut off while it was written: {', '.join(lost)} was "
                "incomplete and is removed; the last complete update is that of step "
                f"{history.steps[-1]}",
                HistoryWarning,
                stacklevel=2,
            )
        return writer

    def append(
        self,
        step: int,
        network: Network,
        events: Mapping[str, Mapping[str, npt.ArrayLike]],
        overlap: Mapping[str, float] | None = None,
        weights: Mapping[str, Mapping[str, npt.ArrayLike]] | None = None,
        measures: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Record one update.

        Parameters
        ----------
        step : int
            Greater than that of the update before, and that of any keyframe.
        network : Network
            The topology after the update. If it has weights, the keyframe that every 16th update
            is recorded with has them, too.
        events : mapping of layer name to mapping of event name to link keys
            "thinned", "removed", "percolated" and "grown" links as ``row * n_in + column``.
        overlap : mapping of str to float, optional
            ELM overlap per layer; NaN where none is given.
        weights : mapping of layer name to mapping of event name to array, optional
            One finite weight for each of the links in `events`, in their order: the last of those
            that went, the first of those that were grown. Any may be left out.
        measures : mapping of layer name to mapping of str to float, optional
            "active_neuron_rate" (of the whole network), "itop_rate", "thin_seconds",
            "remove_seconds", "percolate_seconds", "regrow_seconds" and "frozen" (a bool) of layers,
            as
            `History.updates` gives them back. Any may be left out.

        Raises
        ------
        ValueError
            If the step does not come later, the events do not lead from the topology of the
            update before to this one, the weights are not theirs, or a measure is none of these
            or no number. Nothing is written then.
        HistoryError
            If another writer goes on with this history.
        OSError
            If the update cannot be written; it is not part of the history then.
        """
        step = _as_step(step, self._last + 1)
        check_type("network", network, Network)
        overlap, weights, measures = overlap or {}, weights or {}, measures or {}
        check_type("events", events, Mapping)
        check_type("overlap", overlap, Mapping)
        check_type("weights", weights, Mapping)
        check_type("measures", measures, Mapping)
        for of_layer in (*events.values(), *weights.values(), *measures.values()):
            check_type("what is given for a layer", of_layer, Mapping)
        before = self.network
        same = [(n, a.shape) for n, a in before.layers.items()]
        if [(n, a.shape) for n, a in network.layers.items()] != same:
            raise ValueError(f"step {step}: the network must have the layers {before}")
        strange = set().union(events, overlap, weights, measures) - set(before.layers)
        if strange:
            raise ValueError(f"step {step}: there is no layer {', '.join(map(repr, strange))}")
        wrong = {n: o for n, o in overlap.items() if not isinstance(o, Real)}
        if wrong:
            raise ValueError(f"step {step}: the overlap of a layer is a number, not {wrong!r}")
        measured = {n: _measures(f"step {step}, layer {n!r}", m) for n, m in measures.items()}
        checked: list[Links] = []
        for name, a in network.layers.items():
            where = f"step {step}, layer {name!r}"
            given = _links(where, name, events.get(name, {}), weights.get(name, {}))
            try:
                after = apply_events(link_keys(before.layers[name]), given)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if not np.array_equal(after, link_keys(a)):
                raise ValueError(f"step {step}: the events of layer {name!r} do not give its links")
            checked += given
        number = self._updates + 1
        event_table = link_table(step, checked, self._meta.shapes, EVENTS)
        update_table = _update_table(number, step, network, checked, overlap, measured)
        keyframe = None
        if number % KEYFRAME_EVERY == 0:
            keyframe = link_table(step, _all_links(network), self._meta.shapes, KEYFRAME)

        self._check_alone()
        if self._unfinished:  # what failed then may be complete on disk
            self._cut()
        self._unfinished = True
        write_part(self._file("events", step), event_table)
        if keyframe is not None:
            write_part(self._file("keyframes", step), keyframe)
        write_part(self._file("updates", step), update_table)
        if keyframe is not None:
            self._keyframes[step] = self._file("keyframes", step)
        self.network, self._last, self._updates = network, step, number
        self._unfinished = False

    def keyframe(self, step: int, weights: Mapping[str, npt.ArrayLike] | None = None) -> None:
        """Record all present links, with their weights if given (one finite value per link).

        Parameters
        ----------
        step : int
            Not before the latest update or keyframe.
        weights : mapping of str to array, optional
            By layer name, in row-major order of the links.
        """
        step = _as_step(step, self._last)
        network = Network(self.network.layers, self.network.couplings, weights=weights)
        table = link_table(step, _all_links(network), self._meta.shapes, KEYFRAME)
        self._check_alone()
        if self._unfinished:
            self._cut()
        if weights is not None or step not in self._keyframes:  # never replace weights by none
            # under its own name if there is one (that of step 0 may be a part of the events)
            name = self._keyframes.get(step, self._file("keyframes", step)).name
            self._unfinished = True
            write_part(self.path / "keyframes" / name, table)
            self._keyframes[step] = self.path / "keyframes" / name
        self._last = step
        self._unfinished = False

    def _file(self, kind: str, step: int) -> Path:
        return part_file(self.path, kind, step, len(self._meta.cuts))

    def _check_alone(self) -> None:
        if Meta.read(self.path) != self._meta:
            raise HistoryError(
                f"another writer goes on with {self.path}: stop one of them, "
                "and go on with topo.HistoryWriter.open"
            )

    def _cut(self) -> None:
        """Drop whatever is later than this writer knows of, and begin a new generation."""
        meta = replace(self._meta, cuts=(*self._meta.cuts, self._last))
        meta.write(self.path)  # it is done
        self._meta, self._unfinished = meta, False
        for kind in ("keyframes", "updates", "events"):
            for part in parts_in(self.path, kind):
                if part.temporary or not meta.keeps(part):
                    part.file.unlink(missing_ok=True)


def _as_step(step: int, first: int) -> int:
    return as_integer("step", step, first, 2**63 - 1)


def _all_links(network: Network) -> list[Links]:
    weights = network.weights
    return [
        Links(
            name,
            "start",
            link_keys(a),
            None if weights is None else _weights(f"layer {name!r}", weights[name].data, a.nnz),
        )
        for name, a in network.layers.items()
    ]


def _links(
    where: str,
    layer: str,
    events: Mapping[str, npt.ArrayLike],
    weights: Mapping[str, npt.ArrayLike],
) -> list[Links]:
    """The events of a layer, in ascending order of their links."""
    kinds = (*LOSSES, "grown")
    without = set(weights) - set(events)
    if without:
        raise ValueError(
            f"{where}: weights are given of {', '.join(map(repr, without))} links, "
            f"but the events are {', '.join(map(repr, events)) or 'none'}"
        )
    groups = []
    for kind, given in events.items():
        keys = np.asarray(given)
        if kind not in kinds or keys.ndim != 1 or (keys.size and keys.dtype.kind not in "iu"):
            raise ValueError(
                f"{where}: events are lists of integer link keys by kind "
                f"({', '.join(kinds)}), not {kind!r}: {given!r}"
            )
        keys = keys.astype(np.int64)
        weighed = weights.get(kind)
        values = None
        if weighed is not None:
            values = _weights(f"{where}, {kind} links", weighed, len(keys))
        if (np.diff(keys) < 0).any():
            order = np.argsort(keys)
            keys, values = keys[order], None if values is None else values[order]
        groups.append(Links(layer, kind, keys, values))
    return groups


def _weights(what: str, given: npt.ArrayLike, count: int) -> Weights:
    """Weights as finite float32: a NaN would read as one that was not recorded."""
    values = np.asarray(given)
    if values.shape != (count,) or (count and values.dtype.kind not in "iuf"):
        raise ValueError(
            f"{what}: one number for each of {count} links, not {values.dtype} of shape "
            f"{values.shape}"
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{what}: a weight is a finite float32, not {np.asarray(given)[bad]}")
    return values


def _measures(where: str, given: Mapping[str, float]) -> dict[str, float]:
    """All measures of a layer's update: those given, and what stands for the others."""
    for name, value in given.items():
        if name not in MEASURES:
            raise ValueError(f"{where}: {unknown(name, MEASURES, 'measure')}")
        truth = isinstance(value, (bool, np.bool_))
        if name == "frozen" and not truth:
            raise ValueError(f"{where}: frozen is True or False, not {value!r}")
        if name != "frozen" and (truth or not isinstance(value, Real)):
            raise ValueError(f"{where}: {name} is a number, not {value!r}")
    return MEASURES | {name: type(MEASURES[name])(value) for name, value in given.items()}


def _update_table(
    update: int,
    step: int,
    network: Network,
    events: Iterable[Links],
    overlap: Mapping[str, float],
    measures: Mapping[str, Mapping[str, float]],
) -> pa.Table:
    counts = {(links.layer, links.kind): len(links.keys) for links in events}
    rows = [
        {
            "update": update,
            "step": step,
            "layer": name,
            "links": a.nnz,
            **{kind: counts.get((name, kind), 0) for kind in (*LOSSES, "grown")},
            "overlap": float(overlap.get(name, float("nan"))),
            **measures.get(name, MEASURES),
        }
        for name, a in network.layers.items()
    ]
    return pa.Table.from_pylist(rows, UPDATES)
