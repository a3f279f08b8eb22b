"""The topology of a run as frames: pictures and degrees of layers at some recorded steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

import topo
from analysis.measures import degrees
from analysis.measures.degree_counts import SIDES

__all__ = ["LayerFrames", "layer_frames", "tile_levels", "tile_sides"]

TILES = 128  # along a side, at most


@dataclass(frozen=True)
class LayerFrames:
    """One layer at the steps of the frames.

    Attributes
    ----------
    shape : (int, int)
        n_out, n_in.
    levels : array of uint8, shape (frames, tall, wide)
        From `tile_levels`.
    links : list of int
    degrees : dict of str to list of array of int, shape (distinct degrees, 2)
        By side and frame: each degree that occurs, ascending, and how many neurons have it;
        neurons without links are left out.
    """

    shape: tuple[int, int]
    levels: npt.NDArray[np.uint8]
    links: list[int]
    degrees: dict[str, list[npt.NDArray[np.int64]]]

    def at(self, frames: Sequence[int]) -> LayerFrames:
        """Some of the frames."""
        return LayerFrames(
            self.shape,
            self.levels[list(frames)],
            [self.links[i] for i in frames],
            {side: [of[i] for i in frames] for side, of in self.degrees.items()},
        )


def tile_sides(shape: tuple[int, int]) -> tuple[int, int]:
    """Output and input neurons of a tile, so that a layer has at most 128 x 128 tiles.

    The last tiles of a side may have fewer.
    """
    return -(-shape[0] // TILES), -(-shape[1] // TILES)


def tile_levels(adjacency: sparse.csr_array) -> npt.NDArray[np.uint8]:
    """The density of each tile of a layer, in 256 levels: round(255 sqrt(density)).

    The root keeps one link in a tile apart from none and from two.

    Parameters
    ----------
    adjacency : csr_array of bool, shape (n_out, n_in)

    Returns
    -------
    array of uint8
        Tiles of output neurons downwards, of input neurons to the right.

    Examples
    --------
    >>> import topo
    >>> from analysis.frames import tile_levels
    >>> tile_levels(topo.as_adjacency([[1, 0, 0], [0, 0, 1]])).tolist()
    [[255, 0, 0], [0, 0, 255]]
    """
    n_out, n_in = adjacency.shape
    high, broad = tile_sides(adjacency.shape)
    tall, wide = -(-n_out // high), -(-n_in // broad)
    rows = np.repeat(np.arange(n_out), np.diff(adjacency.indptr)) // high
    links = np.bincount(rows * wide + adjacency.indices // broad, minlength=tall * wide)
    heights = np.minimum(high, n_out - high * np.arange(tall))
    widths = np.minimum(broad, n_in - broad * np.arange(wide))
    density = links.reshape(tall, wide) / np.outer(heights, widths)
    return np.round(255 * np.sqrt(density)).astype(np.uint8)


def layer_frames(
    history: topo.History, layers: Sequence[str], steps: Sequence[int]
) -> dict[str, LayerFrames]:
    """Frames of some layers at some of the recorded steps; the history is replayed once.

    Parameters
    ----------
    history : topo.History
    layers : sequence of str
    steps : sequence of int
        Recorded ones, ascending.

    Returns
    -------
    dict of str to LayerFrames
    """
    chosen = set(steps)
    shown = [network for step, network in history.networks() if step in chosen]
    found = {}
    for name in layers:
        own = [network.layers[name] for network in shown]
        found[name] = LayerFrames(
            history.shapes[name],
            np.stack([tile_levels(adjacency) for adjacency in own]),
            [int(adjacency.nnz) for adjacency in own],
            {side: [_counts(degrees(adjacency, side)) for adjacency in own] for side in SIDES},
        )
    return found


def _counts(degrees: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.stack(np.unique(degrees[degrees > 0], return_counts=True), axis=1)
