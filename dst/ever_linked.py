"""Which links a layer has ever had."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["EverLinked"]


class EverLinked:
    """The links that have existed, for the in-time over-parametrization (ITOP) rate.

    A list of them, or one bit for each possible link, whichever is smaller.

    Parameters
    ----------
    cells : int
        Possible links.
    links : array of int64
        Each ``row * n_in + column``, ascending.

    References
    ----------
    Liu et al., ICML 2021, "Do we actually need dense over-parameterization? In-time
    over-parameterization in sparse training".

    Examples
    --------
    >>> import numpy as np
    >>> from dst.ever_linked import EverLinked
    >>> ever = EverLinked(10, np.array([0, 3, 9]))
    >>> ever.joined(np.array([3, 4])).rate
    0.4
    """

    def __init__(self, cells: int, links: npt.NDArray[np.int64]) -> None:
        self.cells = cells
        self._data: npt.NDArray[Any] = links
        if 64 * len(links) > cells:
            self._data = _with(np.zeros(-(-cells // 8), dtype=np.uint8), links)

    def joined(self, links: npt.NDArray[np.int64]) -> EverLinked:
        """Those, and further links."""
        if self._data.dtype == np.int64:
            return EverLinked(self.cells, np.union1d(self._data, links))
        joined = EverLinked(self.cells, links[:0])
        joined._data = _with(self._data.copy(), links)
        return joined

    @property
    def count(self) -> int:
        """How many there are."""
        if self._data.dtype == np.int64:
            return len(self._data)
        return int(np.bitwise_count(self._data).sum(dtype=np.int64))

    @property
    def rate(self) -> float:
        """Their share of the possible links."""
        return self.count / self.cells

    def state(self) -> Tensor:
        """The list, or the bits."""
        return torch.from_numpy(self._data.copy())

    def load(self, state: Tensor) -> None:
        """Take over what `state` gave."""
        given = state.cpu().numpy().copy()
        bits = given.dtype == np.uint8 and given.shape == (-(-self.cells // 8),)
        if not bits and not (given.dtype == np.int64 and given.ndim == 1):
            raise ValueError(
                f"the links that existed are int64 keys or {-(-self.cells // 8)} bytes of bits, "
                f"not {given.dtype} of shape {given.shape}"
            )
        self._data = given


def _with(bits: npt.NDArray[np.uint8], links: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    np.bitwise_or.at(bits, links >> 3, (1 << (links & 7)).astype(np.uint8))
    return bits
