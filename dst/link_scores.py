"""Link predictors as dense torch products: the twin of `topo.link_scores`, on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dst.exact_products import Arithmetic, Split, choose, multiply
from topo.names import find

__all__ = ["link_scores"]

_BUDGET = 2**28  # bytes of intermediate results at once
_MULTIPLE = 8  # tensor cores read rows that start at 16 bytes
_TERMS = 32  # that may be added in float32: errors of more would show
_ALIKE = 0.7  # of the longest list that is padded to: the shortest
_LINK_STEPS = 512  # a row of a product costs as much as so many steps of its sums: it is memory


def link_scores(adjacency: Tensor, predictor: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Scores of all absent links under a link predictor, as dense products.

    Parameters
    ----------
    adjacency : Tensor, shape (n_out, n_in)
        A mask: bool or 0/1 of any dtype, dense or sparse (CSR, COO ...), on any device.
    predictor : str
        "ch3_l3p", "ch2_l3p", "ch3_l3n", "ch2_l3n" (Cannistraci-Hebb), "ra_l3", "cn_l3" (paths of
        length three) or "degree_product".
    dtype : torch.dtype
        Of the result, float32 or float64.

    Returns
    -------
    Tensor, shape (n_out, n_in)
        Higher is likelier; 0 on present links and where no path of length three leads across. On
        the device of the adjacency, without a gradient.

    Raises
    ------
    ValueError
        For an unknown predictor, another dtype, or a tensor that is no adjacency: one with other
        values, another number of dimensions or an empty side.

    Notes
    -----
    An absent link (v, u) is bridged by paths u - z1 - z2 - v. With C the numbers of common
    neighbours, F = (1 + i C) / (deg z - C), i = 1 for CH2 and 0 for CH3, and G its root,

    .. math::
        L3n(v, u) &= \sum_{z_1 \in N(u)} F[z_1, v] + \sum_{z_2 \in N(v)} F[z_2, u] \\
        L3p(v, u) &= \sum_{z_1 \in N(u)} G[z_1, v] \sum_{z_2 \in N(z_1) \cap N(v)} G[z_2, u]

    float32 scores are within 1e-6 of the largest of the exact ones, whatever precision torch is
    allowed for float32 products, and unaffected by autocast. Memory: some copies of the dense
    layer and tiles of 256 MB.

    See Also
    --------
    topo.link_scores : the same on the CPU in memory in proportion to the links.

    References
    ----------
    Zhang et al., Epitopological learning and Cannistraci-Hebb network shape intelligence
    brain-inspired theory for ultra-sparse advantage in deep learning, ICLR 2024 (CH3-L3p); Zhang et
    al., arXiv 2501.19107 (CH2-L3n as matrix products).

    Examples
    --------
    >>> import torch
    >>> import dst
    >>> dst.link_scores(torch.tensor([[1, 1], [1, 0]]), "ch2_l3n")
    tensor([[0., 0.],
            [0., 4.]])
    """
    if predictor == "random":
        raise ValueError(
            "the predictor 'random' scores every absent link alike: `topo.grow` draws from them"
        )
    score = find(_SCORES, predictor, "predictor")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, not {dtype}")
    links = _as_mask(adjacency)
    with torch.autocast(links.device.type, enabled=False):
        arithmetic = choose(links.device, dtype)
        n_out, n_in = links.shape
        a = F.pad(links.to(arithmetic.operand), (0, -n_in % _MULTIPLE, 0, -n_out % _MULTIPLE))
        of_out, of_in = (a.sum(side, dtype=arithmetic.table) for side in (1, 0))
        most = int(torch.stack([of_out.amax(), of_in.amax()]).amax())
        scores = score(_Layer(a, of_out, of_in, most), arithmetic.fitting(most))
        return scores[:n_out, :n_in].to(dtype).masked_fill_(links, 0).contiguous()


def _as_mask(adjacency: Tensor) -> Tensor:
    """A dense bool mask, or an error that says what is wrong with the tensor."""
    if not isinstance(adjacency, Tensor):
        raise ValueError(
            f"an adjacency is a torch tensor here, not {type(adjacency).__name__} "
            "(`topo.link_scores` takes arrays)"
        )
    shape = tuple(adjacency.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"an adjacency has the shape (n_out, n_in), both at least 1; this one has {shape}"
        )
    if adjacency.is_complex():
        raise ValueError(f"an adjacency holds 0 and 1; this one has the dtype {adjacency.dtype}")
    values = adjacency.detach()
    if values.layout != torch.strided:  # where entries given twice add up, and are refused
        values = (values.int() if values.dtype == torch.bool else values).to_dense()
    if values.dtype == torch.bool:
        return values
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        raise ValueError(
            f"an adjacency holds 0 and 1; this one holds {values[wrong][0].item()!r} "
            "(for weights, pass `weights != 0`)"
        )
    return values != 0


# ---- predictors ------------------------------------------------------------------------------


def _slices(n: int, bytes_each: int) -> Iterator[slice]:
    """Cut n rows into blocks within the budget."""
    size = max(_MULTIPLE, _BUDGET // bytes_each // _MULTIPLE * _MULTIPLE)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _padded(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE


class _Layer(NamedTuple):
    a: Tensor  # padded with neurons without links
    of_out: Tensor  # degrees
    of_in: Tensor
    most: int


def _weigh(common: Tensor, degree: Tensor, internal: int) -> Tensor:
    """F of neurons z that share `common` neighbours with the end of a link.

    It is 0 where z shares none, and where it shares all: such a z bridges no absent link.
    """
    external = degree - common
    idle = (common == 0) | (external == 0)
    weights = common.add_(1).div_(external) if internal else external.reciprocal_()
    return weights.masked_fill_(idle, 0)


def _node_scores(layer: _Layer, arithmetic: Arithmetic, internal: int) -> Tensor:
    a, of_out, of_in, most = layer
    scores = torch.zeros(a.shape, dtype=arithmetic.table, device=a.device)
    for m, degree, out in ((a, of_out, scores), (a.T, of_in, scores.T)):
        for rows in _slices(len(m), scores.element_size() * (8 * len(m) + 2 * m.shape[1])):
            split = Split.of(_weigh(multiply(m[rows], m.T), degree, internal), arithmetic, most)
            out[rows] += split.times(m).mul_(split.unit)
    return scores


def _path_scores(layer: _Layer, arithmetic: Arithmetic, internal: int) -> Tensor:
    a, of_out, of_in, _ = layer

    def cost(degree: Tensor) -> float:
        return len(degree) * float((degree * (degree + _LINK_STEPS)).sum(dtype=arithmetic.total))

    if cost(of_in) < cost(of_out):  # the same sum with z2 in front
        return _sum_paths(a.T, of_in, of_out, arithmetic, internal).T
    return _sum_paths(a, of_out, of_in, arithmetic, internal)


def _sum_paths(
    a: Tensor, degree: Tensor, across: Tensor, arithmetic: Arithmetic, internal: int
) -> Tensor:
    """Sum G[z1, v] (G[u, z2] A[v, z2]') over z1, for its own u and z2 alone, in batches of z1."""
    n, k = a.shape
    order = degree.argsort(descending=True, stable=True)  # a batch pads to its largest
    degree = degree[order]
    # beyond the last column is one without links, for which padding stands
    m, across = F.pad(a[order], (0, _MULTIPLE)), F.pad(across, (0, _MULTIPLE))
    ends = m.T.contiguous()
    partners = _Lists.of(m)
    size = degree.element_size()
    totals = torch.zeros((k, n), dtype=arithmetic.total, device=a.device)
    for columns in _slices(k, 8 * size * m.shape[1]):
        split = Split.of(_weigh(multiply(ends[columns], m), across, internal).sqrt_(), arithmetic)
        block = m[:, columns]
        members = _Lists.of(block)
        room = _BUDGET - sum(piece.nbytes for piece in split.pieces)
        tallest = _padded(max(members.sizes) + 1)
        start = 0
        while start < n and partners.sizes[start]:
            depth = _padded(partners.sizes[start])
            height = min(depth + _MULTIPLE, tallest)
            bytes_each = arithmetic.operand.itemsize * depth * (n + height)
            bytes_each += 2 * size * height * n + 32 * block.shape[1]
            count = min(max(1, room // bytes_each), _TERMS, n - start)
            rows = slice(start, start + count)
            while partners.sizes[rows.stop - 1] < _ALIKE * partners.sizes[start]:
                rows = slice(start, rows.stop - 1)
            height = _padded(max(members.sizes[rows]) + 1)
            start = rows.stop
            z2, u = partners.padded(rows, depth, k), members.padded(rows, height, 0)
            weights = _weigh(multiply(m[rows], m.T), degree[rows, None], internal).sqrt_()
            through = split.times(ends[z2], (u[:, :, None], z2[:, None, :]))  # [z1, u, v]
            through.mul_(weights.mul_(split.unit)[:, None])
            # add up over z1 in a fixed order, which index_add_ on a GPU has not; the last row of
            # the first z1 is padding
            linked = block[rows] != 0
            first = torch.arange(0, len(u) * height, height, device=a.device)
            place = torch.where(linked, linked.cumsum(1) - 1 + first[:, None], height - 1)
            totals[columns] += F.embedding_bag(
                place.T, through.flatten(0, 1), mode="sum", padding_idx=height - 1
            )
    scores = torch.empty((n, k), dtype=arithmetic.table, device=a.device)
    scores[order] = totals.T.to(arithmetic.table)
    return scores


class _Lists(NamedTuple):
    """The linked columns of each row."""

    sizes: list[int]
    starts: Tensor
    columns: Tensor

    @classmethod
    def of(cls, m: Tensor) -> _Lists:
        linked = m != 0
        sizes = linked.sum(1)
        return cls(sizes.tolist(), F.pad(sizes.cumsum(0), (1, 0)), linked.nonzero()[:, 1])

    def padded(self, rows: slice, length: int, filler: int) -> Tensor:
        """Those of some rows, each list filled up to the length."""
        starts, stops = self.starts[:-1][rows, None], self.starts[1:][rows, None]
        where = starts + torch.arange(length, device=starts.device)
        columns = F.pad(self.columns, (0, 1))[where.clamp(max=len(self.columns))]
        return torch.where(where < stops, columns, filler)


def _path_counts(layer: _Layer, arithmetic: Arithmetic, power: float) -> Tensor:
    a = layer.a
    of_z1, of_z2 = (degree.clamp(min=1).pow(power) for degree in (layer.of_out, layer.of_in))
    scores = torch.empty(a.shape, dtype=arithmetic.table, device=a.device)
    for rows in _slices(len(a), 5 * scores.element_size() * max(a.shape)):
        split = Split.of(a[rows] * of_z2, arithmetic)
        split = Split.of(split.times(a.T).mul_(split.unit).mul_(of_z1), arithmetic)
        scores[rows] = split.times(a).mul_(split.unit)
    return scores


def _degree_product(layer: _Layer, arithmetic: Arithmetic) -> Tensor:
    return torch.outer(layer.of_out, layer.of_in)


_SCORES: dict[str, Callable[[_Layer, Arithmetic], Tensor]] = {
    "ch3_l3p": partial(_path_scores, internal=0),
    "ch2_l3p": partial(_path_scores, internal=1),
    "ch3_l3n": partial(_node_scores, internal=0),
    "ch2_l3n": partial(_node_scores, internal=1),
    "ra_l3": partial(_path_counts, power=-0.5),
    "cn_l3": partial(_path_counts, power=0.0),
    "degree_product": _degree_product,
}
