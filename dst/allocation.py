"""How a density is spread over layers, by name in `ALLOCATIONS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from numbers import Real

__all__ = ["ALLOCATIONS", "erk", "uniform"]

Shapes = Mapping[str, tuple[int, int]]


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """Every layer has the same density.

    Parameters
    ----------
    shapes : mapping of str to (int, int)
        ``(n_out, n_in)`` by layer name.
    density : float

    Returns
    -------
    dict of str to float
        Each layer's density.
    """
    return dict.fromkeys(shapes, density)


def erk(shapes: Shapes, density: float) -> dict[str, float]:
    r"""Erdos-Renyi-kernel: small layers are denser, wide ones sparser.

    .. math:: d_l = \min\left(1, \varepsilon \frac{n_{in} + n_{out}}{n_{in} n_{out}}\right)

    so that a layer has :math:`\varepsilon (n_{in} + n_{out})` links: as many per neuron everywhere,
    except in layers that this fills. :math:`\varepsilon` makes the number of links of all layers
    together exactly ``round(density * cells)``; links are rounded down and the rest given to the
    largest remainders.

    Parameters
    ----------
    shapes : mapping of str to (int, int)
        ``(n_out, n_in)`` by layer name.
    density : float
        Of all layers together, in (0, 1].

    Returns
    -------
    dict of str to float
        Each layer's density.

    Raises
    ------
    ValueError
        For a density outside (0, 1], or one that leaves a layer without links.

    References
    ----------
    Mocanu et al., Nature Communications 9 (2018), "Scalable training of artificial neural
    networks with adaptive sparse connectivity inspired by network science" (Erdos-Renyi);
    Evci et al., ICML 2020, "Rigging the lottery" (RigL), section 3 (the kernel; full layers).

    Examples
    --------
    Fifty links: 16 and 12 neurons share 42, and the small layer is full.

    >>> from dst.allocation import erk
    >>> densities = erk({"a": (8, 8), "b": (4, 8), "c": (2, 4)}, 50 / 104)
    >>> {name: round(d, 3) for name, d in densities.items()}
    {'a': 0.375, 'b': 0.562, 'c': 1.0}
    """
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density!r}")
    cells = {name: int(n_out) * int(n_in) for name, (n_out, n_in) in shapes.items()}
    neurons = {name: int(n_out) + int(n_in) for name, (n_out, n_in) in shapes.items()}
    total = round(float(density) * sum(cells.values()))
    links: dict[str, Fraction] = {}
    full: set[str] = set()
    while len(full) < len(cells):  # the more layers are full, the more the others get
        left = total - sum(cells[n] for n in full)
        scale = Fraction(left, sum(neurons[n] for n in cells if n not in full))
        links = {n: Fraction(cells[n]) if n in full else scale * neurons[n] for n in cells}
        overfull = {n for n in cells if links[n] > cells[n]}
        if not overfull:
            break
        full |= overfull
    counts = {name: int(share) for name, share in links.items()}
    by_remainder = sorted(links, key=lambda n: counts[n] - links[n])  # stable: ties in order
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if count < 1:
            raise ValueError(
                f"density {density!r} by 'erk' leaves no link in layer {name!r} of shape "
                f"{tuple(shapes[name])}: use a higher density, or exclude the layer"
            )
    return {name: counts[name] / cells[name] for name in cells}


ALLOCATIONS: dict[str, Callable[[Shapes, float], dict[str, float]]] = {
    "uniform": uniform,
    "erk": erk,
}
"""By name: ``f(shapes, density)`` gives each layer's density."""
