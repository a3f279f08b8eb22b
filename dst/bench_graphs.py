"""Benchmarks of `topo`: link predictors, generators, growth, and what real networks say."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm import tqdm

import topo
from dst.bench import describe, median_seconds, paired
from dst.bench_process import in_a_process
from topo.compiled import njit
from topo.parallel import map_threads, thread_count

__all__ = ["first_call", "generators", "grow", "predictors", "recovery", "scaling"]

Shape = tuple[int, int, float]
SHAPES: tuple[Shape, ...] = ((1568, 1568, 0.01), (1024, 1024, 0.05), (768, 2048, 0.3))


def predictors(shapes: Sequence[Shape] = SHAPES) -> None:
    """Print the time of the link scores, beside what users have: both on the CPU, in one run.

    CH2-L3n as dense float32 matrix products in torch, CH3-L3p as a plain numba loop over paths.
    """
    rivals: dict[str, tuple[str, Callable[[Any], Callable[[], Any]]]] = {
        "ch2_l3n": ("torch products", lambda a: partial(_ch2_l3n_dense, _dense(a))),
        "ch3_l3p": ("numba loop", lambda a: partial(_ch3_l3p_loop, a)),
    }
    print(f"link scores on {describe('cpu')}; median milliseconds")
    print(f"{'shape':>12}{'density':>9}{'predictor':>11}{'topo':>9}{'rival':>10}{'rival/topo':>12}")
    for n_out, n_in, density in shapes:
        a = topo.erdos_renyi(n_out, n_in, density, seed=0)
        for name, (rival, make) in rivals.items():
            slow = name == "ch3_l3p" and density > 0.1
            ours, theirs = paired(
                partial(topo.link_scores, a, name),
                make(a),
                blocks=1 if slow else 5,
                block=2 if slow else 7,
                drop=1 if slow else 2,
            )
            print(
                f"{n_out:>7}x{n_in:<4}{density:9.0%}{name:>11}{ours * 1e3:9.1f}"
                f"{theirs * 1e3:10.1f}{theirs / ours:12.1f}  {rival}"
            )


def generators(n: int = 4096, density: float = 0.05) -> None:
    """Print the time of every generator, and of one that large dense layers would not fit in."""
    print(f"generators on {describe('cpu')}; median milliseconds")
    wide = 65_536
    for shape in ((n, n, density), (784, 1568, 0.01), (wide, wide, 430_000 / wide**2)):
        links = topo.link_count(shape[2], *shape[:2])
        print(f"{shape[0]} x {shape[1]}, {links:,} links")
        for name, generator in topo.GENERATORS.items():
            seconds = median_seconds(partial(generator, *shape, seed=0), 5)
            print(f"{name:>18}{seconds * 1e3:10.1f}")


def grow(n: int = 16_384, density: float = 0.01, share: float = 0.3) -> None:
    """Print time and peak memory of growing `share` as many links as there are, sampled."""
    row = _in_a_process(n, n, density, "ch2_l3n", share)
    print(
        f"grow at {n} x {n}, {density:.0%}, k = {share:.0%} of the links, ch2_l3n, soft: "
        f"{row['seconds']:.1f} s, peak of the process {row['peak_mb']:.0f} MB"
    )


def first_call() -> None:
    """Print what the first call costs, with and without compiled code in the cache."""
    code = (
        "import time, topo; layers = [topo.erdos_renyi(200, 200, d, seed=0) for d in (0.01, 0.3)];"
        "s = time.perf_counter();"
        "[topo.grow(a, 9, p, seed=0) for a in layers for p in ('ch2_l3n', 'ch3_l3p')];"
        "print(time.perf_counter() - s)"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        for state in ("compiling", "from the cache"):
            out = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, check=True
            ).stdout
            print(f"first ch2_l3n and ch3_l3p in a process, {state}: {float(out):.2f} s")


def scaling(largest: int = 16_384) -> pd.DataFrame:
    """How time and peak memory of growth go with density, and with size at fixed degree or density.

    Each in a process of its own. ``torch`` is CH2-L3n as dense products, without the selection.
    """
    sizes = [n for n in (512, 1024, 2048, 4096, 8192, 16_384) if n <= largest]
    jobs = [("density, n = 1024", 1024, d) for d in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)]
    jobs += [("size, density 5 %", n, 0.05) for n in sizes]
    jobs += [("size, degree 16", n, 16 / n) for n in sizes]
    rows: list[dict[str, Any]] = []
    for sweep, n, density in tqdm(jobs, desc="scaling", disable=not sys.stderr.isatty()):
        for name in ("ch2_l3n", "ch3_l3p", "torch"):
            work = {"ch2_l3n": n**3 * density, "ch3_l3p": n**4 * density**2, "torch": n**3}[name]
            if work < 1e12 and not (name == "torch" and n > 4096):  # minutes, gigabytes
                measured = _in_a_process(n, n, density, name, 0.3)
                rows.append({"sweep": sweep, "n": n, "density": density, "predictor": name})
                rows[-1] |= measured
    return pd.DataFrame(rows)


def recovery(folder: str | None = None, seeds: int = 20) -> pd.DataFrame:
    """How well each predictor finds a tenth of real bipartite networks' links that were hidden."""
    where = Path(folder or Path(os.environ.get("EPITOPO_DATA", "."), "networks", "bipartite"))
    files = sorted(where.glob("*.edges"))
    if not files:
        raise ValueError(f"no *.edges file in {where}: point EPITOPO_DATA at the data sets")
    rows: list[dict[str, Any]] = []
    for file in files:
        network = topo.read_edge_list(file)
        for name in topo.PREDICTORS:
            table = topo.evaluate_predictor(network, name, seeds=range(seeds))
            row: dict[str, Any] = {"network": file.stem, "predictor": name}
            for measure in ("auc_pr", "auc_roc", "precision"):
                row[measure], row[f"{measure}_std"] = table[measure].mean(), table[measure].std()
            rows.append(row)
    return pd.DataFrame(rows)


_CHILD = """
import topo
n_out, n_in, density, name, share = arguments
a = topo.erdos_renyi(n_out, n_in, density, seed=0)
if name == "torch":
    import torch
    from dst.bench_graphs import _ch2_l3n_dense
    dense = torch.from_numpy(a.toarray()).float()
    def work(): _ch2_l3n_dense(dense)
    _ch2_l3n_dense(torch.ones(9, 9))
else:
    k = round(share * a.nnz)
    def work(): topo.grow(a, k, name, seed=0)
    for d in (0.01, 0.5):  # compile, or load the compiled code
        topo.grow(topo.erdos_renyi(99, 99, d, seed=0), 9, name, seed=0)
"""


def _in_a_process(
    n_out: int, n_in: int, density: float, name: str, share: float
) -> dict[str, float]:
    return in_a_process(_CHILD, n_out, n_in, density, name, share)


def _dense(a: Any) -> torch.Tensor:
    return torch.from_numpy(a.toarray()).float()


def _ch2_l3n_dense(a: torch.Tensor) -> torch.Tensor:
    """CH2-L3n of an (n_out, n_in) 0/1 matrix as matrix products (arXiv 2501.19107)."""
    c_out, c_in = a @ a.T, a.T @ a
    f_out = (c_out > 0) * (c_out + 1) / (a.sum(1)[:, None] - c_out).clamp(min=1)
    f_in = (c_in > 0) * (c_in + 1) / (a.sum(0)[:, None] - c_in).clamp(min=1)
    return (f_out.T @ a + a @ f_in) * (a == 0)


def _ch3_l3p_loop(a: Any) -> npt.NDArray[np.float64]:
    """CH3-L3p as it is mostly written: over all paths, with tables of 1 / sqrt(de*)."""
    dense = a.toarray().astype(np.float32)
    g_v, of_u = (
        1 / np.sqrt(np.maximum(m.sum(1) - m @ m.T, 1).astype(np.float64)) for m in (dense, dense.T)
    )
    g_u = np.ascontiguousarray(of_u.T)
    back = a.T.tocsr()
    out = np.zeros(a.shape)
    size = -(-a.shape[0] // (4 * thread_count()))

    def loop(start: int, stop: int) -> None:
        _paths(a.indptr, a.indices, back.indptr, back.indices, g_v, g_u, start, stop, out)

    starts = range(0, a.shape[0], size)
    map_threads(lambda start: loop(start, min(start + size, a.shape[0])), starts)
    return np.asarray(np.where(dense, 0, out))


@njit(nogil=True, cache=True)
def _paths(indptr, indices, t_indptr, t_indices, g_v, g_u, start, stop, out):  # type: ignore[no-untyped-def]
    for v in range(start, stop):
        for p in range(indptr[v], indptr[v + 1]):
            z2 = indices[p]
            for q in range(t_indptr[z2], t_indptr[z2 + 1]):
                z1 = t_indices[q]
                weight = g_v[v, z1]
                for r in range(indptr[z1], indptr[z1 + 1]):
                    u = indices[r]
                    out[v, u] += weight * g_u[z2, u]
