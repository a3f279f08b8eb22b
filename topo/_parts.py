"""What a history is made of: the Parquet parts, their names and order, and the meta file."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from topo.adjacency import locate
from topo.files import write_atomically
from topo.network import Coupling

__all__ = [
    "EVENTS",
    "KEYFRAME",
    "KINDS",
    "LOSSES",
    "MEASURES",
    "UPDATES",
    "HistoryError",
    "HistoryWarning",
    "Keys",
    "Links",
    "Meta",
    "Part",
    "Shapes",
    "Weights",
    "apply_events",
    "has_weights",
    "is_cut_off",
    "link_table",
    "links_of",
    "part_file",
    "parts_in",
    "read_part",
    "write_part",
]

Keys = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, int]]

LOSSES = ("thinned", "removed", "percolated")
KINDS = ("start", *LOSSES, "grown")
SCHEMA = 2

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
KEYFRAME = pa.schema([f for f in EVENTS if f.name != "event"])
# What may be recorded of a layer's update, and what it is where it was not: the first histories
# lack these columns, and what reads those alone reads the later ones, so the schema is the same.
MEASURES: dict[str, float] = {
    "active_neuron_rate": math.nan,
    "itop_rate": math.nan,
    "thin_seconds": math.nan,
    "remove_seconds": math.nan,
    "percolate_seconds": math.nan,
    "regrow_seconds": math.nan,
    "frozen": False,
}
UPDATES = pa.schema(
    {
        "update": pa.int64(),
        "step": pa.int64(),
        "layer": pa.string(),
        "links": pa.int64(),
        **{phase: pa.int64() for phase in (*LOSSES, "grown")},
        "overlap": pa.float64(),
        **{n: pa.bool_() if missing is False else pa.float64() for n, missing in MEASURES.items()},
    }
)
# Of what every reader of Parquet knows, the smallest for links in row-major order: rows rise by 0
# or 1, columns hardly use their upper bytes, nor do weights differ much in their exponents.
ENCODINGS = {
    "row": "DELTA_BINARY_PACKED",
    "column": "BYTE_STREAM_SPLIT",
    "weight": "BYTE_STREAM_SPLIT",
}
_NAME = re.compile(r"(\.?)part-(\d+)-(\d+)\.parquet(\.tmp)?")


class HistoryError(ValueError):
    """A history that is missing, damaged, or would be overwritten."""


class HistoryWarning(UserWarning):
    """The end of a history was lost: it was being written when the writer or the machine died."""


class Links(NamedTuple):
    """Links of one layer that went through the same event, ascending."""

    layer: str
    kind: str
    keys: Keys
    weights: Weights | None = None


# ---- the meta file ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Meta:
    """What ``_meta.json`` says.

    The n-th entry of `cuts` is the step to which the n-th truncation went back. It made the
    generation n, whose parts it is that follow; of the earlier ones, only those up to that step
    count. So rewriting this one file truncates the history at once, and what it dropped stays
    dropped although its files are unlinked later.
    """

    shapes: dict[str, tuple[int, int]]
    couplings: tuple[Coupling, ...]
    cuts: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Meta:
        """Read it, or say why there is no history."""
        file = folder / "_meta.json"
        try:
            meta = json.loads(file.read_bytes())
            schema = meta["schema"]
            if type(schema) is not int or schema != SCHEMA:
                raise HistoryError(
                    f"{file} has schema {schema!r}, this version of epitopo reads {SCHEMA}: "
                    "install the version that wrote it"
                )
            shapes = {n: (int(s[0]), int(s[1])) for n, s in meta["layers"].items()}
            couplings = tuple(Coupling(**c) for c in meta["couplings"])
            cuts = tuple(int(c) for c in meta["cuts"])
        except (FileNotFoundError, NotADirectoryError):
            what = "no such folder"
            if folder.is_dir():
                what = "the folder has no _meta.json (it comes last when a history is begun)"
            raise HistoryError(f"no history in {folder}: {what}") from None
        except HistoryError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise HistoryError(f"{file} is damaged ({error!r}): restore it from a copy") from None
        return cls(shapes, couplings, cuts)

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        meta = {
            "format": "epitopo-history",
            "schema": SCHEMA,
            "layers": self.shapes,
            "couplings": [dataclasses.asdict(c) for c in self.couplings],
            "cuts": self.cuts,
        }
        write_atomically(folder / "_meta.json", json.dumps(meta, indent=1).encode())

    def keeps(self, part: Part) -> bool:
        """Whether a part is of this history, not dropped by a truncation."""
        return all(part.step <= cut for cut in self.cuts[part.generation :])


# ---- parts -----------------------------------------------------------------------------------


class Part(NamedTuple):
    """A Parquet file of a history, by its name."""

    step: int
    generation: int
    temporary: bool
    file: Path

    def __str__(self) -> str:
        return f"{self.file.parent.name}/{self.file.name}"


def part_file(folder: Path, kind: str, step: int, generation: int = 0) -> Path:
    """Where a part of a history is."""
    return folder / kind / f"part-{step:010d}-{generation}.parquet"


def parts_in(folder: Path, kind: str) -> list[Part]:
    """The parts of a kind that lie in a history, by step and generation."""
    found = []
    for file in (folder / kind).glob("*"):
        if match := _NAME.fullmatch(file.name):
            hidden, step, generation, temporary = match.groups()
            found.append(Part(int(step), int(generation), bool(hidden or temporary), file))
    return sorted(found)


def read_part(file: Path, schema: pa.Schema) -> pa.Table:
    """Read a part, or say which file is missing or damaged."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            table = parquet.read(schema.names)
        for name in MEASURES.keys() & set(schema.names) - set(table.column_names):
            table = table.append_column(name, pa.repeat(MEASURES[name], len(table)))
        table = table.select(schema.names).cast(schema)
    except FileNotFoundError:
        raise HistoryError(f"{file} is missing: restore it from a copy of the history") from None
    except (OSError, pa.ArrowException, LookupError) as error:
        raise _damaged(file, str(error).splitlines()[0]) from None
    return table.unify_dictionaries().combine_chunks()


def is_cut_off(file: Path) -> bool:
    """Whether a file begins as Parquet but lacks the end, which holds the table of contents."""
    try:
        with file.open("rb") as f:
            begins = b"PAR1".startswith(f.read(4))
        pq.read_metadata(file)
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException):
        return begins
    return False


def has_weights(file: Path) -> bool:
    """Whether a part holds the weight of every link, read from its table of contents."""
    try:
        with pq.ParquetFile(file) as parquet:
            column = parquet.schema_arrow.names.index("weight")
            groups = (
                parquet.metadata.row_group(i).column(column)
                for i in range(parquet.metadata.num_row_groups)
            )
            return not any(g.statistics.null_count for g in groups)
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException, LookupError, ValueError, AttributeError) as error:
        raise _damaged(file, str(error).splitlines()[0]) from None


def write_part(file: Path, table: pa.Table) -> None:
    """Write a table as a Parquet file that is there whole or not at all."""
    sink = pa.BufferOutputStream()
    encoded = {name: e for name, e in ENCODINGS.items() if name in table.column_names}
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=5,
        write_page_checksum=True,
        use_dictionary=[name for name in table.column_names if name not in encoded],
        column_encoding=encoded or None,
    )
    write_atomically(file, sink.getvalue().to_pybytes())


# ---- links in parts --------------------------------------------------------------------------


def link_table(step: int, groups: Iterable[Links], shapes: Shapes, schema: pa.Schema) -> pa.Table:
    """Links as a table, in the order of layers, events, rows and columns."""
    layers = {name: i for i, name in enumerate(shapes)}
    groups = sorted(groups, key=lambda g: (layers[g.layer], KINDS.index(g.kind)))
    sizes = [len(g.keys) for g in groups]
    rows = [g.keys // shapes[g.layer][1] for g in groups]
    columns = [g.keys - r * shapes[g.layer][1] for g, r in zip(groups, rows, strict=True)]
    weights = [
        pa.nulls(len(g.keys), pa.float32()) if g.weights is None else pa.array(g.weights)
        for g in groups
    ]

    def named(codes: list[int], names: Iterable[str], dtype: type) -> pa.Array:
        return pa.DictionaryArray.from_arrays(np.repeat(np.array(codes, dtype), sizes), list(names))

    arrays = {
        "step": np.full(sum(sizes), step),
        "layer": named([layers[g.layer] for g in groups], layers, np.int32),
        "event": named([KINDS.index(g.kind) for g in groups], KINDS, np.int8),
        "row": _joined(rows),
        "column": _joined(columns),
        "weight": pa.chunked_array(weights, pa.float32()),
    }
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def links_of(file: Path, shapes: Shapes, schema: pa.Schema) -> list[Links]:
    """The links in a part of events, or in one of all links: each is then at its start.

    Raises
    ------
    HistoryError
        If the file is missing or damaged, or names links that the layers cannot have, in another
        order than `link_table` makes, or twice.
    """
    table = read_part(file, schema)
    unlike = [name for name in schema.names if name != "weight" and table[name].null_count]
    if unlike:
        raise _damaged(file, f"{unlike[0]} is null")
    layers = list(shapes)
    codes = _codes(table["layer"], layers) * len(KINDS)
    if "event" in schema.names:
        codes += _codes(table["event"], KINDS)
    if (codes < 0).any() or (np.diff(codes) < 0).any():
        raise _damaged(file, "its layers or events are not those of the history, in order")
    row, column, weight = (table[name].to_numpy() for name in ("row", "column", "weight"))
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    groups = []
    for start, end in pairwise([*starts, len(codes)]):
        layer, kind = divmod(int(codes[start]), len(KINDS))
        name, here = layers[layer], slice(start, end)
        keys = row[here].astype(np.int64) * shapes[name][1] + column[here]
        for index, size in zip((row[here], column[here]), shapes[name], strict=True):
            if index.min() < 0 or index.max() >= size:
                raise _damaged(file, f"layer {name!r} has no such link")
        if (np.diff(keys) <= 0).any():
            raise _damaged(file, f"the links of layer {name!r} are not in order")
        weighed = None if table["weight"].null_count else weight[here]
        groups.append(Links(name, KINDS[kind], keys, weighed))
    return groups


def apply_events(keys: Keys, events: Iterable[Links]) -> Keys:
    """Ascending link keys after the losses and then the gains of one update."""
    lost = _joined([e.keys for e in events if e.kind in LOSSES])
    grown = _joined([e.keys for e in events if e.kind == "grown"])
    lost.sort()
    at = locate(lost, among=keys)
    if (at < 0).any() or (at[1:] == at[:-1]).any():
        raise ValueError("a link is lost twice, or was not there")
    left = np.delete(keys, at)
    if (np.diff(grown) == 0).any() or (locate(grown, among=left) >= 0).any():
        raise ValueError("a link is grown twice, or was there already")
    return np.insert(left, np.searchsorted(left, grown), grown)


def _joined(arrays: list[Keys]) -> Keys:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _codes(column: pa.ChunkedArray, names: Iterable[str]) -> npt.NDArray[np.int64]:
    """Each entry as its position in `names`; far below 0 where it is not among them."""
    place = {name: i for i, name in enumerate(names)}
    array = column.combine_chunks()
    places = [place.get(name, -(1 << 40)) for name in array.dictionary.to_pylist()]
    return np.array(places, np.int64)[array.indices.to_numpy()]


def _damaged(file: Path, reason: str) -> HistoryError:
    return HistoryError(f"{file} is damaged ({reason}): restore it from a copy of the history")
