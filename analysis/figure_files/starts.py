"""Start topologies: small worlds from lattice to random, scale-free networks, receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.sparse import csr_array

import topo
from analysis import figures
from analysis.measures import degrees
from analysis.power_law import PowerLaw, power_law
from analysis.shown import full_ink

__all__ = ["start_topologies", "starts_figure"]

_BETAS = (0.0, 0.25, 0.5, 1.0)
_CELLS = 128
_MOST = 8


def start_topologies(
    size: int,
    density: float,
    *,
    beta: Sequence[float] = _BETAS,
    r: Sequence[float] = (),
    seed: int = 0,
) -> dict[str, csr_array]:
    """Layers of ``size x size`` neurons by name: BSW at each beta, BRF at each r, and BSF.

    The neurons of BSF are in the order of their degrees, hubs first: its own order is random.
    """
    made = {
        rf"BSW, $\beta$ = {b:g}": topo.small_world(size, size, density, beta=b, seed=seed)
        for b in beta
    }
    made |= {
        f"BRF, r = {x:g}": topo.receptive_field(size, size, density, r=x, seed=seed) for x in r
    }
    free = topo.scale_free(size, size, density, seed=seed)
    rows, columns = (
        np.argsort(-degrees(free, side), kind="stable") for side in ("output", "input")
    )
    made["BSF"] = topo.as_adjacency(free[rows][:, columns])
    return made


def starts_figure(
    *,
    size: int = 1024,
    density: float = 0.05,
    beta: Sequence[float] | None = None,
    r: Sequence[float] | None = None,
    seed: int = 0,
) -> Figure:
    r"""Adjacency matrices of start topologies above the degrees of their neurons.

    As Figure 3 of arXiv 2501.19107. gamma is the exponent of the degrees of both sides together
    (`analysis.power_law`), where they have one.

    Parameters
    ----------
    size : int
        Neurons on each side.
    density : float
        In (0, 1].
    beta : sequence of float, optional
        Of the small worlds; default 0, 0.25, 0.5 and 1.
    r : sequence of float, optional
        Of receptive fields; default: none.
    seed : int

    Raises
    ------
    ValueError
        For what no topology has, or more of them than there is room for.
    """
    betas, fields = list(_BETAS if beta is None else beta), list(r or ())
    if len(betas) + len(fields) >= _MOST:
        raise ValueError(
            f"a figure has room for {_MOST - 1} values of beta and r together, not "
            f"{len(betas) + len(fields)}"
        )
    made = start_topologies(size, density, beta=betas, r=fields, seed=seed)
    figure = figures.canvas(figures.PAGE, 0.75 + 2 * figures.PAGE / max(4, len(made)))
    axes = figure.subplots(2, len(made), squeeze=False)
    for (above, below), (name, layer) in zip(axes.T, made.items(), strict=True):
        figures.adjacency(layer, above, cells=_CELLS, vmax=full_ink(density))
        above.set_aspect("equal")
        both = np.concatenate([degrees(layer, side) for side in ("output", "input")])
        fit = power_law(both)
        above.set_title(f"{name}{_gamma(fit) if name == 'BSF' else ''}")
        above.set_xlabel("input neuron")
        figures.degree_distribution(both, below, colour=figures.COLOURS[2], fit=fit)
        below.set_xlabel("links of a neuron, k")
    _alike(axes[1])
    for ax in axes[:, 1:].flat:
        ax.tick_params(axis="y", labelleft=False)
    axes[0, 0].set_ylabel("output neuron")
    axes[1, 0].set_ylabel("share with at least k")
    figures.footnote(
        figure,
        f"{size} x {size} neurons, {100 * density:g} % of the links, seed {seed}. Grey: the "
        f"density of a tile, black {100 * full_ink(density):g} % and more. Neurons of BSF in "
        "the order of their degrees. Orange: power law, where the degrees have one.",
    )
    return figure


def _gamma(fit: PowerLaw) -> str:
    return rf", $\gamma$ = {fit.alpha:.2f}" if fit.fits else ""


def _alike(row: npt.NDArray[Any]) -> None:
    """Give panels the same limits, those that hold all that is in any of them."""
    limits = np.array([[*ax.get_xlim(), *ax.get_ylim()] for ax in row])
    for ax in row:
        ax.set_xlim(limits[:, 0].min(), limits[:, 1].max())
        ax.set_ylim(limits[:, 2].min(), limits[:, 3].max())
