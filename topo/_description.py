"""All of a network but its links, as text that any format can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from topo.adjacency import from_links
from topo.network import Coupling, Network

__all__ = ["Description", "describe"]

FORMAT = "epitopo-network-1"

Links = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]


def describe(network: Network) -> str:
    """Names, shapes, couplings and dtypes of the weights as JSON (in ASCII)."""
    layers: list[dict[str, Any]] = []
    for name, a in network.layers.items():
        layers.append({"name": name, "shape": list(a.shape), "weights": None})
        if network.weights is not None:
            dtype = network.weights[name].dtype
            if dtype.kind not in "biuf":
                raise ValueError(f"the weights of layer {name!r} are {dtype}, not numbers")
            layers[-1]["weights"] = dtype.str
    couplings = [asdict(c) for c in network.couplings]
    return json.dumps({"format": FORMAT, "layers": layers, "couplings": couplings})


@dataclass(frozen=True)
class Description:
    """What `describe` wrote: all of a network but its links.

    Attributes
    ----------
    shapes : dict of str to (int, int)
    couplings : tuple of Coupling, or None
        None: a chain.
    dtypes : dict of str to dtype, or None
        Of the weights, if there are any.
    """

    shapes: dict[str, tuple[int, int]]
    couplings: tuple[Coupling, ...] | None
    dtypes: dict[str, np.dtype[Any]] | None

    @classmethod
    def parse(cls, text: object) -> Description:
        """Read what `describe` wrote.

        Raises
        ------
        ValueError
            If it is damaged or of another version. Who reads a file names it.
        """
        try:
            record = json.loads(text)  # type: ignore[arg-type]
            written = record["format"]
            if written == FORMAT:
                return cls._of(record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(
                f"the description of the network is missing or damaged: {text!r:.200}"
            ) from None
        raise ValueError(
            f"the network is written as {written!r}, this version of epitopo reads {FORMAT!r}: "
            "install the version that wrote it"
        )

    @classmethod
    def _of(cls, record: Any) -> Description:
        shapes = {r["name"]: _shape(r["shape"]) for r in record["layers"]}
        couplings = tuple(Coupling(**c) for c in record["couplings"])
        dtypes = {r["name"]: np.dtype(r["weights"]) for r in record["layers"] if r["weights"]}
        if len(shapes) < len(record["layers"]) or (dtypes and set(dtypes) != set(shapes)):
            raise ValueError
        if not shapes or not all(isinstance(name, str) for name in shapes):
            raise ValueError
        if not {n for c in couplings for n in c.outputs + c.inputs} <= set(shapes):
            raise ValueError
        if any(dtype.kind not in "biuf" for dtype in dtypes.values()):
            raise ValueError
        return cls(shapes, couplings, dtypes or None)

    def network(self, links: Mapping[str, Links]) -> Network:
        """The network whose layers have these rows, columns and, if it has weights, weights."""
        layers, weights = {}, {}
        for name, (rows, cols, values) in links.items():
            try:
                layers[name] = from_links(rows, cols, self.shapes[name])
                if self.dtypes is not None:
                    if values is None or values.shape != rows.shape:
                        raise ValueError("a link has no weight, but the network has weights")
                    weights[name] = _cast(values[np.lexsort((cols, rows))], self.dtypes[name])
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from None
        return Network(layers, self.couplings, weights=weights if self.dtypes else None)


def _shape(sizes: Any) -> tuple[int, int]:
    n_out, n_in = sizes
    if type(n_out) is not int or type(n_in) is not int:
        raise ValueError
    return n_out, n_in


def _cast(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The same values in the dtype that they had."""
    if values.dtype == dtype:
        return values
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its weights are {values.dtype}, not numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
    wrong = np.isinf(cast) & np.isfinite(values) if dtype.kind == "f" else cast != values
    if wrong.any():
        raise ValueError(f"the weight {values[wrong][0].item()!r} does not fit into {dtype}")
    return cast
