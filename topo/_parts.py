"""The Parquet parts that a history is made of: their schemas, and reading and writing them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from topo.adjacency import link_keys
from topo.files import write_atomically
from topo.network import Network

__all__ = [
    "EVENTS",
    "KEYFRAME",
    "LOSSES",
    "UPDATES",
    "HistoryError",
    "Keys",
    "event_table",
    "keyframe_table",
    "link_keys_of",
    "of_layer",
    "part_file",
    "read_part",
    "write_part",
]

Keys = npt.NDArray[np.int64]
LOSSES = ("thinned", "removed", "percolated")

EVENTS = pa.schema(
    {
        "step": pa.int64(),
        "layer": pa.dictionary(pa.int32(), pa.string()),
        "event": pa.dictionary(pa.int8(), pa.string()),
        "row": pa.int32(),
        "column": pa.int32(),
        "weight": pa.float32(),
    }
)
KEYFRAME = pa.schema([f for f in EVENTS if f.name not in ("step", "event")])
UPDATES = pa.schema(
    {
        "update": pa.int64(),
        "step": pa.int64(),
        "layer": pa.string(),
        "links": pa.int64(),
        **{phase: pa.int64() for phase in (*LOSSES, "grown")},
        "overlap": pa.float64(),
    }
)


class HistoryError(ValueError):
    """A history that is missing, damaged, or would be overwritten."""


def _columns(name: str, keys: npt.NDArray[np.int64], n_in: int) -> dict[str, Any]:
    names = pa.DictionaryArray.from_arrays(np.zeros(len(keys), np.int32), [name])
    return {
        "layer": names,
        "row": (keys // n_in).astype(np.int32),
        "column": (keys % n_in).astype(np.int32),
        "weight": pa.nulls(len(keys), pa.float32()),
    }


def event_table(
    step: int, events: Mapping[str, Mapping[str, npt.ArrayLike]], network: Network
) -> pa.Table:
    """The link events of one update."""
    parts: list[dict[str, Any]] = []
    for name, kinds in events.items():
        for kind, given in kinds.items():
            keys = np.sort(np.asarray(given, dtype=np.int64))
            part = _columns(name, keys, network.layers[name].shape[1])
            part["step"] = np.full(len(keys), step)
            part["event"] = pa.DictionaryArray.from_arrays(np.zeros(len(keys), np.int8), [kind])
            parts.append(part)
    return _table(parts, EVENTS)


def keyframe_table(network: Network) -> pa.Table:
    """All links of a network, with their weights if it has them."""
    parts = []
    for name, a in network.layers.items():
        part = _columns(name, link_keys(a), a.shape[1])
        if network.weights is not None:
            part["weight"] = network.weights[name].data.astype(np.float32)
        parts.append(part)
    return _table(parts, KEYFRAME)


def _table(parts: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    tables = [pa.table([p[f.name] for f in schema], schema=schema) for p in parts]
    joined = pa.concat_tables(tables) if tables else schema.empty_table()
    return joined.unify_dictionaries().combine_chunks()


def of_layer(table: pa.Table, name: str) -> pa.Table:
    """The rows of a table that are about one layer."""
    return table.filter(pa.compute.equal(table["layer"].cast(pa.string()), name))


def link_keys_of(table: pa.Table, n_in: int) -> npt.NDArray[np.int64]:
    """Each row's link as ``row * n_in + column``."""
    rows = table["row"].to_numpy().astype(np.int64)
    return np.asarray(rows * n_in + table["column"].to_numpy())


def part_file(path: Path, part: str, step: int) -> Path:
    """Where a part of a history is."""
    return path / part / f"part-{step:010d}.parquet"


def read_part(file: Path, schema: pa.Schema) -> pa.Table:
    """Read a part, or say which file is missing or damaged."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        return table.select(schema.names).cast(schema)
    except FileNotFoundError:
        raise HistoryError(f"{file} is missing: restore it from a copy of the history") from None
    except (OSError, pa.ArrowException, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise HistoryError(
            f"{file} is damaged ({reason}): restore it from a copy of the history"
        ) from None


def write_part(file: Path, table: pa.Table) -> None:
    """Write a table as a Parquet file that is there whole or not at all."""
    sink = pa.BufferOutputStream()
    links = "row" in table.column_names
    pq.write_table(
        table,
        sink,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=["layer", "event"] if links else True,
        column_encoding=dict.fromkeys(("row", "column"), "DELTA_BINARY_PACKED") if links else None,
    )
    write_atomically(file, sink.getvalue().to_pybytes())
