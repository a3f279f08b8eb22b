"""How well a link predictor finds links of a real network that were hidden from it."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from topo.adjacency import _from_sorted_keys, as_adjacency, link_keys
from topo.checks import as_integer
from topo.hashing import sample_integers, stream
from topo.link_prediction import link_scores
from topo.predictors import Predictor
from topo.selection import level_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate_predictor"]


def evaluate_predictor(
    adjacency: Any,
    predictor: str | Predictor,
    *,
    hidden: float = 0.1,
    k: int | None = None,
    seeds: Iterable[int] = range(10),
) -> pd.DataFrame:
    """Hide a share of a network's links, rank all absent links, and see where the hidden ones are.

    Parameters
    ----------
    adjacency : csr_array, or any 0/1 matrix, shape (n_out, n_in)
        A bipartite network.
    predictor : str or Predictor
        As in `link_scores`.
    hidden : float
        Share of the links to hide, in (0, 1); ``round(hidden * links)`` of them, chosen uniformly.
    k : int, optional
        For the precision: among how many best-ranked links. Default: as many as are hidden.
    seeds : iterable of int
        One evaluation each; the same seed hides the same links from every predictor.

    Returns
    -------
    DataFrame
        One row per seed: seed, hidden (links), k, auc_pr, auc_roc, precision.

    Raises
    ------
    ValueError
        If no link or every link would be hidden, nothing but hidden links is absent, or k is
        larger than the number of ranked links.

    Notes
    -----
    Ranked are all links that are absent once the hidden ones are: the hidden ones are to come
    first. ``auc_pr`` is the average precision, sum of (R_n - R_{n-1}) P_n over the distinct scores
    (no interpolation: Davis and Goadrich, ICML 2006); ``auc_roc`` counts a tie as one half;
    ``precision`` is its mean over random orders of tied links. Scores equal to twelve digits tie.

    Examples
    --------
    Two groups, fully linked within: paths of length three find what is missing.

    >>> import numpy as np, topo
    >>> groups = np.kron(np.eye(2), np.ones((6, 6)))
    >>> table = topo.evaluate_predictor(groups, "ch2_l3n", seeds=range(3))
    >>> table.precision.tolist()
    [1.0, 1.0, 1.0]
    """
    import pandas as pd
    from sklearn.metrics import average_precision_score, roc_auc_score

    a = as_adjacency(adjacency)
    cells = a.shape[0] * a.shape[1]
    if isinstance(hidden, bool) or not isinstance(hidden, Real) or not 0 < hidden < 1:
        raise ValueError(f"hidden, the share of links to hide, must be in (0, 1), not {hidden!r}")
    n = round(float(hidden) * a.nnz)
    if not 0 < n < a.nnz or a.nnz == cells:
        raise ValueError(
            f"hiding {n} of {a.nnz} links among {cells} cells leaves nothing to learn from or "
            "nothing to tell apart: change `hidden`, or use a larger or sparser network"
        )
    ranked = cells - a.nnz + n
    best = n if k is None else as_integer("k", k, 1, ranked)

    rows = []
    for seed in seeds:
        keys = link_keys(a)
        out = sample_integers(a.nnz, n, stream(seed, "evaluate", "hide"))
        left = _from_sorted_keys(np.delete(keys, out), a.shape)
        scores = link_scores(left, predictor, dtype=np.float64).ravel()
        sought = np.zeros(cells, dtype=bool)
        sought[keys[out]] = True
        candidate = np.ones(cells, dtype=bool)
        candidate[link_keys(left)] = False
        scores, sought = level_all(scores[candidate]), sought[candidate]
        rows.append(
            {
                "seed": seed,
                "hidden": n,
                "k": best,
                "auc_pr": float(average_precision_score(sought, scores)),
                "auc_roc": float(roc_auc_score(sought, scores)),
                "precision": _precision(scores, sought, best),
            }
        )
    return pd.DataFrame(rows, columns=["seed", "hidden", "k", "auc_pr", "auc_roc", "precision"])


def _precision(scores: npt.NDArray[np.float64], sought: npt.NDArray[np.bool_], k: int) -> float:
    """Share of the sought among the k best, in the mean over random orders of ties."""
    cut = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, level = scores > cut, scores == cut
    of_level = (k - above.sum()) / level.sum()
    return float((sought[above].sum() + of_level * sought[level].sum()) / k)
