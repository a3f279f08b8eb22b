"""`dst.link_scores` on a device: time, memory and error."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

import topo
from dst.bench import describe, gpu_peak, median_seconds
from dst.link_scores import link_scores

__all__ = ["scores"]

_CALLS = 7  # timed; the median is printed
_AIMS = (("ch2_l3n", 2048, 5461), ("ch3_l3p", 768, 2048))
_SMALLER = (("ch2_l3n", 512, 1365), ("ch3_l3p", 192, 512))  # seconds on a CPU


def scores(device: str = "cpu", density: float = 0.3) -> None:
    """Print time, memory and error of link scores as dense products.

    Parameters
    ----------
    device : str
        "cuda": layers of LLaMA-60M's size and such; "cpu": smaller ones.
    density : float
        Of uniformly random layers.
    """
    cuda = torch.device(device).type == "cuda"
    print(f"link scores at {density:.0%} on {describe(device)}; float32, median of {_CALLS} calls")
    print(f"{'predictor':<11}{'layer':>13}{'ms':>10}{'topo ms':>10}{'peak MB':>10}{'error':>10}")
    for name, n_out, n_in in _AIMS if cuda else _SMALLER:
        a = topo.erdos_renyi(n_out, n_in, density, seed=0)
        mask = torch.tensor(a.toarray(), device=device)
        seconds = median_seconds(partial(link_scores, mask, name), _CALLS)
        memory = f"{gpu_peak(partial(link_scores, mask, name)) / 1e6:.0f}" if cuda else ""
        # on a GPU's host topo is there for the error alone
        rival = median_seconds(partial(topo.link_scores, a, name), 1 if cuda else _CALLS)
        exact = topo.link_scores(a, name, dtype=np.float64)
        off = np.abs(link_scores(mask, name).cpu().numpy() - exact).max() / exact.max()
        layer = f"{n_out} x {n_in}"
        times = f"{seconds * 1e3:10.2f}{rival * 1e3:10.1f}"
        print(f"{name:<11}{layer:>13}{times}{memory:>10}{off:10.1e}")
