"""Is a degree sequence scale-free? Power-law tails after Clauset, Shalizi and Newman.

The zeta tail, the geometric and the lognormal are fitted here; `powerlaw` tests the likelihood
ratios. Its `Fit` is not used: version 2.0 normalises by ``1 - (1 - zeta(alpha, xmin))``, which has
no digits left on a steep tail (an Erdos-Renyi layer of 1568 x 1568 at 10 %: xmin 136 at a distance
of 0.21, where igraph and this module find 179 at 0.03), and it holds alpha below 3 unless told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr, zeta

__all__ = ["LikelihoodRatio", "PowerLaw", "power_law"]

MIN_TAIL = 50  # points at or above xmin
MIN_DISTINCT = 10  # distinct degrees among them
MAX_ALPHA = 4.0  # beyond: see the notes of `power_law`
SIGNIFICANCE = 0.1  # a likelihood ratio counts below this p (Clauset et al., section 5)
_ARTICLES = {"exponential": "an exponential", "lognormal": "a lognormal"}

_MIN_CANDIDATE = 3  # distinct degrees; two are matched exactly by some alpha, whatever they are
_LOG_TINY = 700.0  # zeta(alpha, xmin) ~ exp(-alpha log xmin) underflows beyond
_DEGREE_MAX = 2**52  # k - 1/2 is a float of its own up to here

_Floats = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]


class LikelihoodRatio(NamedTuple):
    """How a power law compares with another distribution on the same tail (Vuong's test).

    Attributes
    ----------
    alternative : str
        "exponential" or "lognormal".
    ratio : float
        Log-likelihood of the power law less that of the alternative: positive favours the former.
    p : float
        Chance of so large a ratio, of either sign, if both were as good.
    """

    alternative: str
    ratio: float
    p: float


@dataclass(frozen=True)
class PowerLaw:
    """A power-law tail, or why there is none.

    Attributes
    ----------
    alpha : float
        Exponent of ``p(k) ~ k ** -alpha``; NaN where there is no fit.
    xmin : float
        Smallest degree of the tail. That of the rejected candidate where there is no fit, NaN
        where there was not even a candidate.
    ks : float
        Kolmogorov-Smirnov distance of the tail to its power law, fitted or rejected; or NaN.
    tail : int
        Degrees that are at least `xmin`.
    reasons : tuple of str
        Why there is no fit; empty where there is one.
    comparisons : tuple of LikelihoodRatio
        With the exponential and the lognormal; empty where the tail was turned down before.
    """

    alpha: float
    xmin: float
    ks: float
    tail: int
    reasons: tuple[str, ...] = ()
    comparisons: tuple[LikelihoodRatio, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the degrees have a power-law tail."""
        return not self.reasons

    def __str__(self) -> str:
        if not self.fits:
            return f"no power law: {'; '.join(self.reasons)}"
        return f"power law, alpha = {self.alpha:.2f} from degree {self.xmin:g}, {self.tail} neurons"


def power_law(degrees: npt.ArrayLike) -> PowerLaw:
    r"""Fit a discrete power law to the tail of a degree sequence.

    .. math:: p(k) = k^{-\alpha} / \zeta(\alpha, x_{min}), \qquad k \ge x_{min}

    For each degree as xmin, alpha maximises the exact likelihood; the xmin with the smallest
    Kolmogorov-Smirnov distance between the tail and its power law is taken. There is a fit only if

    * the tail has at least 50 points and 10 distinct degrees,
    * alpha is at most 4,
    * neither an exponential (the geometric distribution) nor a lognormal (rounded), fitted to the
      same tail, is preferred by Vuong's likelihood ratio test at p < 0.1.

    Parameters
    ----------
    degrees : array_like of int, shape (neurons,)
        Of one side of a layer, or of the block graph. Neurons without links (degree 0) are left
        out: a power law has no mass there.

    Returns
    -------
    PowerLaw

    Raises
    ------
    ValueError
        If degrees are empty, not one-dimensional, negative, NaN or not integers.

    Notes
    -----
    The bound on alpha is needed: over a factor of two in degree every tail looks like a steep power
    law, and the smallest distance likes short tails. Without it, 12 % of Erdos-Renyi layers of
    1568 x 1568 at 1 % and 48 % of 5000 x 5000 at 10 % pass, with alpha 11 to 85, and half of the
    geometric degree sequences, with alpha above 4.2. With it, none and about 1 % do (3,000 neurons;
    8 % of geometric ones at 1,000). Scale-free networks have alpha in 2 to 3, Barabasi-Albert 3.

    The test also turns down 2 % of true power laws (zipf, 3,000 neurons, alpha 1.6 to 3) and 7 % of
    Barabasi-Albert graphs. Over the range of most degree sequences a wide lognormal looks like a
    power law and often passes: a fit says that neither alternative is better, not that both are
    excluded (Broido and Clauset 2019).

    References
    ----------
    Clauset, Shalizi and Newman, Power-law distributions in empirical data, SIAM Review 51, 2009.
    Vuong, Likelihood ratio tests for model selection, Econometrica 57, 1989.
    Alstott, Bullmore and Plenz, powerlaw, PLoS ONE 9, 2014.
    Broido and Clauset, Scale-free networks are rare, Nature Communications 10, 2019.

    Examples
    --------
    >>> import numpy as np, topo
    >>> from analysis.power_law import power_law
    >>> fit = power_law(np.random.default_rng(0).zipf(2.5, 3000))
    >>> fit.fits, round(fit.alpha, 1), fit.xmin
    (True, 2.5, 1.0)

    A random layer is not scale-free:

    >>> layer = topo.erdos_renyi(1568, 1568, 0.01, seed=0)
    >>> power_law(np.diff(layer.indptr)).reasons[0]
    'the tail (degrees from 25) has 26 points; a fit needs 50'
    >>> print(power_law([7] * 30))
    no power law: the degrees have 1 distinct values; a fit needs 10
    """
    positive = _checked(degrees)
    positive = positive[positive > 0]
    values, counts = np.unique(positive, return_counts=True)
    if len(values) < _MIN_CANDIDATE:
        left_out = "" if len(values) else " (no neuron has a link)"
        return _unfit(
            f"the degrees have {len(values)} distinct values{left_out}; a fit needs {MIN_DISTINCT}"
        )
    best = _closest_tail(values.astype(np.float64), counts)
    if best is None:
        return _unfit("every tail is too steep for a power law: the degrees are nearly equal")
    reasons = _objections(best)
    # of a tail that is too short or too steep, a likelihood ratio has nothing to decide
    comparisons = () if reasons else _comparisons(best)
    reasons += [
        f"{_ARTICLES[c.alternative]} is preferred: log-likelihood ratio {c.ratio:.3g}, "
        f"p = {c.p:.2g}"
        for c in comparisons
        if c.ratio < 0 and c.p < SIGNIFICANCE
    ]
    return PowerLaw(
        alpha=np.nan if reasons else best.alpha,
        xmin=float(best.values[0]),
        ks=best.ks,
        tail=int(best.counts.sum()),
        reasons=tuple(reasons),
        comparisons=comparisons,
    )


class _Tail(NamedTuple):
    values: _Floats  # distinct degrees, ascending from xmin
    counts: _Counts
    alpha: float
    ks: float


def _checked(degrees: Any) -> _Counts:
    try:
        array = np.asarray(degrees)
    except ValueError:
        raise ValueError("degrees must be a flat sequence of integers, not a ragged one") from None
    if array.ndim != 1:
        raise ValueError(
            f"degrees must be one-dimensional, not of shape {array.shape}: pass the degrees of "
            "one side, such as np.diff(adjacency.indptr)"
        )
    if array.size == 0:
        raise ValueError("degrees are empty: at least one neuron is needed")
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"degrees must be integers, not {array.dtype} (count the links of each neuron first)"
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float64)  # float16 cannot be compared with the largest degree
    for wrong, expected in (
        (np.isnan(array), "numbers"),
        (array < 0, "at least 0"),
        (array > _DEGREE_MAX, f"at most {_DEGREE_MAX}"),
        (array != np.floor(array), "integers (weighted degrees have no discrete power law)"),
    ):
        if wrong.any():
            raise ValueError(f"degrees must be {expected}; this one is not: {array[wrong][0]}")
    return array.astype(np.int64)


def _unfit(reason: str) -> PowerLaw:
    return PowerLaw(alpha=np.nan, xmin=np.nan, ks=np.nan, tail=0, reasons=(reason,))


def _closest_tail(values: _Floats, counts: _Counts) -> _Tail | None:
    """The tail nearest to its maximum-likelihood power law, over every xmin."""
    points = np.cumsum(counts[::-1])[::-1]  # at or above each value
    mean_log = np.cumsum((counts * np.log(values))[::-1])[::-1] / points
    xmins = values[: 1 - _MIN_CANDIDATE]
    alphas = _exponents(xmins, mean_log[: len(xmins)])
    best, closest = None, np.inf
    for i, alpha in enumerate(alphas):
        if np.isnan(alpha):
            continue
        # shares of the tail at or above each value
        model = zeta(alpha, values[i:]) / zeta(alpha, values[i])
        ks = float(np.abs(model - points[i:] / points[i]).max())
        if ks < closest:
            best, closest = i, ks
    if best is None:
        return None
    return _Tail(values[best:], counts[best:], float(alphas[best]), closest)


def _exponents(xmins: _Floats, mean_log: _Floats) -> _Floats:
    """Maximum-likelihood alpha for each xmin: root of d log zeta(alpha, xmin) / d alpha + mean log.

    The log-likelihood is concave in alpha, so bisection finds it; NaN where it lies beyond the
    range of `zeta`.
    """
    step = 1e-5  # half a central difference: errors of 1e-8 in alpha
    highest = _LOG_TINY / np.log(np.maximum(xmins, np.e))
    low, high = np.full_like(xmins, 1.001), highest
    for _ in range(50):
        middle = (low + high) / 2
        slope = np.log(zeta(middle + step, xmins) / zeta(middle - step, xmins)) / (2 * step)
        above = slope + mean_log > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(highest - high > 1e-6, (low + high) / 2, np.nan)


def _objections(tail: _Tail) -> list[str]:
    """Why the tail does not count as a power law."""
    points, xmin = int(tail.counts.sum()), tail.values[0]
    reasons = []
    for has, needs, what in (
        (points, MIN_TAIL, "points"),
        (len(tail.values), MIN_DISTINCT, "distinct degrees"),
    ):
        if has < needs:
            reasons.append(
                f"the tail (degrees from {xmin:.0f}) has {has} {what}; a fit needs {needs}"
            )
    if tail.alpha > MAX_ALPHA:
        reasons.append(
            f"alpha would be {tail.alpha:.3g}, above {MAX_ALPHA:g}: the tails of random graphs "
            "are that steep"
        )
    return reasons


def _comparisons(tail: _Tail) -> tuple[LikelihoodRatio, ...]:
    from powerlaw import loglikelihood_ratio  # imports matplotlib: 0.8 s

    x, xmin = tail.values, tail.values[0]
    law = -tail.alpha * np.log(x) - np.log(zeta(tail.alpha, xmin))
    found = []
    for name, alternative in (("exponential", _geometric(tail)), ("lognormal", _lognormal(tail))):
        with np.errstate(all="ignore"):  # equal likelihoods: 0 / 0
            ratio, p = loglikelihood_ratio(
                np.repeat(law, tail.counts), np.repeat(alternative, tail.counts)
            )
        found.append(LikelihoodRatio(name, float(ratio), float(p)))
    return tuple(found)


def _geometric(tail: _Tail) -> _Floats:
    """Log-likelihood of each value under the discrete exponential; its optimum has closed form."""
    excess = tail.values - tail.values[0]
    mean = np.average(excess, weights=tail.counts)
    return np.asarray(excess * np.log(mean / (1 + mean)) - np.log1p(mean))


def _lognormal(tail: _Tail) -> _Floats:
    """Log-likelihood of each value under the lognormal, rounded and cut off at xmin - 1/2.

    A lognormal resembles a power law where mu -> -inf and sigma -> inf together: a curved, endless
    valley for an optimiser of (mu, sigma), and differences of erfc that lose all digits (`powerlaw`
    2.0 gains 8 units of log-likelihood from rounding on a zipf tail). With ``t = log(k / (xmin -
    1/2))`` the density is exp(-slope t - curvature t^2 / 2), a power law where the curvature
    vanishes: close to a parabola, so one start suffices. Each bin is integrated by Gauss-Legendre.
    """
    k = tail.values
    width = np.log1p(1 / (k - 0.5))
    lower = np.log((k - 0.5) / (k[0] - 0.5))
    unit = float(np.average(lower + width / 2, weights=tail.counts))  # of t: the optimum is near 1
    width, lower = width / unit, lower / unit
    nodes, weights = np.polynomial.legendre.leggauss(10)
    t = lower[:, None] + width[:, None] * (nodes + 1) / 2
    log_weights = np.log(width[:, None] * weights / 2)

    def log_likelihood(parameters: _Floats) -> _Floats:
        slope, curvature = parameters[0], np.exp(parameters[1])
        z = slope / np.sqrt(curvature)  # erfcx where the normal's tail underflows
        tail_mass = np.log(erfcx(z / np.sqrt(2)) / 2) if z > 0 else log_ndtr(-z) + z * z / 2
        total = tail_mass + np.log(2 * np.pi / curvature) / 2
        log_density = -(slope + curvature / 2 * t) * t
        return np.asarray(np.logaddexp.reduce(log_density + log_weights, axis=1) - total)

    # the quadrature resolves a sigma of a sixth of the widest bin, the first
    narrowest = 2 * np.log(6 / width[0])
    best = minimize(
        lambda parameters: -np.dot(tail.counts, log_likelihood(parameters)),
        x0=((tail.alpha - 1) * unit, -3.0),
        method="Nelder-Mead",
        bounds=((None, None), (-30.0, narrowest)),
        options={"xatol": 1e-5, "fatol": 1e-7, "maxiter": 2000},
    )
    return log_likelihood(best.x)
