"""Measured values, kept beside the history that they are of."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

import topo
from topo.files import write_atomically

__all__ = ["Cache", "Value", "digest"]


def _code() -> str:
    """Of all measures: what another version of them found does not count."""
    found = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


_SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "layer": pa.string(),
        "measure": pa.string(),
        "value": pa.float64(),
        "reason": pa.string(),
        "topology": pa.string(),
    },
    metadata={"epitopo": topo.__version__, "format": "epitopo-measures-1", "code": _code()},
)


class Value(NamedTuple):
    """One value of a table: a measure of a layer at a step, and why it is NaN if it is."""

    step: int
    layer: str
    measure: str
    value: float
    reason: str


def digest(step: int, network: topo.Network) -> str:
    """What a value was measured on: all links of the network at a step."""
    found = hashlib.blake2b(f"{step} {network.couplings}".encode(), digest_size=16)
    for name, adjacency in network.layers.items():
        found.update(f"{name} {adjacency.shape}".encode())
        found.update(adjacency.indptr)
        found.update(adjacency.indices)
    return found.hexdigest()


@dataclass
class Cache:
    """Values by step, of one topology each. Without a file, of this session alone.

    What cannot be read or written is no cache: it never fails.
    """

    file: Path | None = None
    found: dict[int, tuple[str, dict[tuple[str, str], Value]]] = field(default_factory=dict)
    added: bool = False

    @classmethod
    def beside(cls, history: topo.History) -> Cache:
        """Open the file beside a history."""
        folder = history.path.resolve()  # which may be "."
        cache = cls(folder.with_name(f"{folder.name}.measures.parquet"))
        # none yet, or damaged: measured anew
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            with pq.ParquetFile(cache.file, page_checksum_verification=True) as parquet:
                table = parquet.read()
            if table.schema.equals(_SCHEMA, check_metadata=True):
                *columns, keys = (table[name].to_pylist() for name in _SCHEMA.names)
                for key, *row in zip(keys, *columns, strict=True):
                    cache._put(key, Value(*row))
        return cache

    def values(self, step: int, topology: str) -> dict[tuple[str, str], Value]:
        """What is known of a topology, by layer and measure."""
        found, values = self.found.get(step, ("", {}))
        return values if found == topology else {}

    def add(self, topology: str, values: Iterable[Value]) -> None:
        """Keep values of a topology; those of another one at the same step are gone."""
        for value in values:
            if (value.layer, value.measure) not in self.values(value.step, topology):
                self._put(topology, value)
                self.added = True

    def write(self) -> None:
        """Write what was added, where there is a place for it."""
        if self.file is None or not self.added:
            return
        in_order = (found for _, found in sorted(self.found.items()))
        rows = [(*v, key) for key, own in in_order for v in own.values()]
        columns = dict(zip(_SCHEMA.names, zip(*rows, strict=True), strict=True))
        buffer = io.BytesIO()
        table = pa.table({n: list(c) for n, c in columns.items()}, _SCHEMA)
        pq.write_table(table, buffer, write_page_checksum=True)
        with contextlib.suppress(OSError):  # a read-only folder
            write_atomically(self.file, buffer.getvalue())

    def _put(self, topology: str, value: Value) -> None:
        if self.found.get(value.step, ("", {}))[0] != topology:
            self.found[value.step] = (topology, {})
        self.found[value.step][1][value.layer, value.measure] = value
