"""The products on the links, by our kernels and by torch's (the CUDA path), and their threads."""

import concurrent.futures
import itertools
import multiprocessing
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import topo
from dst import csr_kernels, csr_torch, openmp
from dst.csr_kernels import _SHARE
from topo.adjacency import transpose

ENGINES = {
    "ours": csr_kernels,
    "torch": pytest.param(
        csr_torch,
        marks=pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL"),
    ),
}
BATCHES = (0, 1, 2, 7, 8, 9, 31, 32, 33, 100, 127, 128, 129, 300)
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def holes():
    """First, middle and last rows and columns without links, and rows of many lengths."""
    present = np.random.default_rng(0).random((11, 13)) < 0.3
    present[[0, 4, 10]] = present[:, [0, 5, 12]] = False
    present[2, 1:5] = present[3, 6:12] = True
    return topo.as_adjacency(present)


TOPOLOGIES = {
    "holes": holes(),
    "one link": topo.from_links([1], [2], (3, 4)),
    "1 x 1": topo.as_adjacency([[1]]),
    "full": topo.as_adjacency(np.ones((4, 5))),
    "no link": topo.from_links([], [], (3, 2)),
}


def tensors(adjacency):
    turned = transpose(adjacency)
    parts = (adjacency.indptr, adjacency.indices, *turned)
    return [torch.from_numpy(part.copy()) for part in parts]


def check(engine, adjacency, batch, dtype, bias, seed=0):
    """Both functions against a dense reference in float64, and each against wrong memory."""
    indptr, indices, t_indptr, t_indices, order = tensors(adjacency)
    generator = torch.Generator().manual_seed(seed)
    (n_out, n_in), links = adjacency.shape, adjacency.nnz
    draw = [(links,), (n_in, batch), (n_out, batch), (n_out,)]
    values, x, grad, b = (torch.randn(s, generator=generator, dtype=dtype) for s in draw)
    rows, cols = (torch.from_numpy(i.astype(np.int64)) for i in topo.links(adjacency))
    dense = torch.zeros(n_out, n_in, dtype=torch.float64)
    dense[rows, cols] = values.double()
    actual = (
        engine.product(indptr, indices, values, x, b if bias else None).t(),
        engine.product(t_indptr, t_indices, values, grad, order=order).t(),
        engine.dots(indptr, indices, x, grad),
    )
    expected = (
        dense @ x.double() + (b.double()[:, None] if bias else 0),
        dense.t() @ grad.double(),
        (grad.double()[rows] * x.double()[cols]).sum(1),
    )
    eps = torch.finfo(dtype).eps
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        terms = max(n_in, n_out, batch)
        torch.testing.assert_close(a.double(), e, rtol=8 * eps, atol=8 * eps * max(terms, 1))


@engines
@dtypes
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_batch_size(engine, dtype, topology):
    for batch, bias in itertools.product(BATCHES, (True, False)):
        check(engine, TOPOLOGIES[topology], batch, dtype, bias)


@engines
@dtypes
@settings(deadline=None, max_examples=40)
@given(
    n_out=st.integers(1, 20),
    n_in=st.integers(1, 20),
    batch=st.integers(0, 270),
    density=st.floats(0, 1),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_problem(engine, dtype, n_out, n_in, batch, density, bias, seed):
    present = np.random.default_rng(seed).random((n_out, n_in)) < density
    check(engine, topo.as_adjacency(present), batch, dtype, bias, seed)


# threads


def large(dtype=torch.float32, seed=0):
    """Work worth more than three threads, with most links in the last rows, and its results."""
    rng = np.random.default_rng(seed)
    density = np.linspace(0, 0.6, 300)[:, None]
    links = tensors(topo.as_adjacency(rng.random((300, 200)) < density))
    values = torch.from_numpy(rng.normal(size=len(links[1]))).to(dtype)
    x, grad = (torch.from_numpy(rng.normal(size=(n, 105))).to(dtype) for n in (200, 300))
    bias = torch.from_numpy(rng.normal(size=300)).to(dtype)
    assert len(values) * 105 > 3 * _SHARE

    def compute():
        return (
            csr_kernels.product(*links[:2], values, x, bias),
            csr_kernels.product(*links[2:4], values, grad, order=links[4]),
            csr_kernels.dots(*links[:2], x, grad),
        )

    return compute


def equal(results, expected):
    return all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def teams(monkeypatch):
    """Sizes of the OpenMP teams that kernels ran on."""
    sizes = []
    library = openmp._openmp
    if library is None:
        pytest.skip("torch has no OpenMP library with GNU's entry points")

    def parallel(function, data, size, flags):
        sizes.append(size)
        library.GOMP_parallel(function, data, size, flags)

    monkeypatch.setattr(openmp, "_openmp", SimpleNamespace(GOMP_parallel=parallel))
    return sizes


@dtypes
def test_the_same_bits_with_any_number_of_threads(dtype, threads, teams):
    compute = large(dtype)
    threads(1)
    expected = compute()
    assert not teams
    for count in (2, 3):
        threads(count)
        assert equal(compute(), expected)
        assert teams == [count] * 3
        teams.clear()


@dtypes
def test_without_the_openmp_library_the_same_bits(dtype, threads, monkeypatch, tmp_path):
    threads(3)
    expected = large(dtype)()
    lib = tmp_path / "lib"
    lib.mkdir()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert openmp._runtime() is None
    (lib / "libgomp.so").write_text("no library")
    assert openmp._runtime() is None
    monkeypatch.setattr(openmp, "_openmp", None)
    used = []

    def spy(function, items):
        used.append(len(items))
        return map_threads(function, items)

    map_threads = openmp.map_threads
    monkeypatch.setattr(openmp, "map_threads", spy)
    assert equal(large(dtype)(), expected)
    assert used == [3] * 3


def test_a_team_smaller_than_asked_for_does_all_parts(threads, monkeypatch):
    # OMP_THREAD_LIMIT, OMP_DYNAMIC or a nested region may give fewer threads
    compute, library = large(), openmp._openmp
    if library is None:
        pytest.skip("torch has no OpenMP library with GNU's entry points")
    threads(1)
    expected = compute()
    threads(3)
    for size in (1, 2):
        smaller = SimpleNamespace(
            GOMP_parallel=lambda f, data, _, flags, n=size: library.GOMP_parallel(f, data, n, flags)
        )
        monkeypatch.setattr(openmp, "_openmp", smaller)
        assert equal(compute(), expected)


def test_concurrent_calls_from_python_threads(threads):
    threads(2)
    problems = [large(seed=seed) for seed in range(4)]
    expected = [compute() for compute in problems]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            results = [f.result() for f in [pool.submit(compute) for compute in problems]]
            assert all(equal(r, e) for r, e in zip(results, expected))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.parametrize("count", [1, 2])
def test_a_forked_child_does_not_hang(count, threads):
    # torch's own kernels do, on two threads: GNU's OpenMP does not survive a fork
    threads(2)
    compute = large()
    expected = compute()
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():  # Python warns of forks beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = context.Process(target=_compute_and_exit, args=(count, compute, expected))
        child.start()
    child.join(5)
    hung = child.is_alive()
    child.kill()
    child.join()
    assert not hung
    assert child.exitcode == 0


def _compute_and_exit(count, compute, expected):
    torch.set_num_threads(count)
    raise SystemExit(0 if equal(compute(), expected) else 1)
