"""Dense tiles and kernels that follow the links: two ways to the same scores, bit by bit."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import topo
from topo.parallel import map_threads
from topo.predictors._base import Layer
from topo.predictors._lanes import WIDTH
from topo.predictors._tiles import NodeTiles, PathTiles

CH = ("ch3_l3p", "ch2_l3p", "ch3_l3n", "ch2_l3n")
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
SIDES = (1, 2, 9, WIDTH - 1, WIDTH, WIDTH + 1, 70)


@pytest.fixture
def way(monkeypatch):
    """Make the choice between tiles and links for the predictors."""

    def choose(tiles):
        for kind in (NodeTiles, PathTiles):
            monkeypatch.setattr(kind, "faster", lambda self, layer, rows: tiles)

    return choose


@pytest.fixture
def blocks(monkeypatch):
    def set_blocks(threads, cells, tile, ranked):
        monkeypatch.setattr("topo.parallel.thread_count", lambda: threads)
        for name, value in (
            ("thread_count", lambda: threads),
            ("_BLOCK_CELLS", cells),
            ("_SMALL_BLOCK", 1),
            ("_TILE_CELLS", tile),
            ("_LEAST_TILE", 1),
            ("_RANK_CELLS", ranked),
        ):
            monkeypatch.setattr(f"topo.link_prediction.{name}", value)

    return set_blocks


def layer(n_out, n_in, density, seed=0):
    return np.random.default_rng(seed).random((n_out, n_in)) < density


def scores(dense, name, **options):
    return topo.link_scores(dense, name, dtype=np.float64, **options)


@pytest.mark.parametrize("name", CH)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_scores(path, name, way):
    golden = np.load(path)
    way(True)
    found = scores(golden["adjacency"], name)
    assert golden[name].max() > 0
    np.testing.assert_allclose(found, golden[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CH)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_both_ways_give_the_same_bits(name, way, data):
    shape = data.draw(st.sampled_from(SIDES)), data.draw(st.sampled_from(SIDES))
    density = data.draw(st.sampled_from([0.02, 0.1, 0.3, 0.7, 1.0]))
    dense = layer(*shape, density, data.draw(st.integers(0, 999)))
    dense[data.draw(st.integers(0, shape[0] - 1))] = data.draw(st.booleans())
    rows = data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=50) | st.none())
    way(False)
    expected = scores(dense, name, rows=rows)
    way(True)
    assert np.array_equal(scores(dense, name, rows=rows), expected)


@pytest.mark.parametrize("name", CH)
def test_blocks_and_threads_do_not_show(name, way, blocks):
    dense = layer(150, 140, 0.08)
    way(False)
    expected = scores(dense, name)
    grown = {soft: topo.grow(dense, 400, name, soft=soft, seed=4) for soft in (True, False, 2.5)}
    for setting in (
        (1, 1, 1, 1),
        (2, 5000, 3000, 100),
        (3, 9000, 9000, 2**16),
        (7, 99, 2**24, 999),
    ):
        blocks(*setting)
        for tiles in (True, False):
            way(tiles)
            assert np.array_equal(scores(dense, name), expected)
            for soft, links in grown.items():
                assert np.array_equal(topo.grow(dense, 400, name, soft=soft, seed=4), links)


@pytest.mark.parametrize("shape", [(2100, 40), (40, 2100), (2080, 2070)])
def test_tables_longer_than_a_block_of_the_cache(shape, way):
    dense = layer(*shape, 0.02)
    for name in ("ch2_l3n", "ch3_l3p"):
        way(False)
        expected = scores(dense, name, rows=range(0, shape[0], 37))
        way(True)
        assert np.array_equal(scores(dense, name, rows=range(0, shape[0], 37)), expected)


def test_many_common_neighbours_are_not_counted_in_16_bits():
    rows = np.repeat([0, 1, 2], [70_000, 70_000, 1])
    cols = np.concatenate([np.arange(70_000), np.arange(70_000), [5]])
    adjacency = topo.from_links(rows, cols, (3, 70_001))
    for tiles in (NodeTiles(1.0), PathTiles(1.0)):
        assert not tiles.faster(Layer.of(adjacency), np.arange(3))
    found = scores(adjacency, "ch2_l3n", rows=[2])[0]
    # to (2, u): two z1 of degree 70,000, one internal link; z2 of degree 3, two internal links
    np.testing.assert_allclose(found[:3], 2 * 2 / 69_999 + 3, rtol=1e-12)


@pytest.mark.parametrize("tiles", [NodeTiles(1.0), PathTiles(0.0)])
def test_dense_layers_are_scored_in_tiles_and_sparse_ones_by_links(tiles):
    for density, expected in ((0.001, False), (0.3, True)):
        a = topo.erdos_renyi(1024, 1024, density, seed=0)
        assert tiles.faster(Layer.of(a), np.arange(1024)) is expected
    assert not tiles.faster(Layer.of(topo.as_adjacency(np.zeros((3, 4)))), np.arange(3))


@pytest.mark.parametrize("low", [1e-300, 1e-20, 1.0, 1e290])
def test_the_race_is_that_of_select_whatever_the_blocks(low, blocks):
    """Early cuts must drop no winner, for scores of any size."""
    dense = layer(60, 50, 0.1, seed=3)
    values = low * 10.0 ** np.random.default_rng(0).uniform(0, 10, dense.shape)

    def score_rows(layer, rows, out):
        out[:] = values[rows]

    mine = topo.Predictor("mine", score_rows)
    rows, cols = np.nonzero(~dense)
    for seed in range(20):
        hashes = topo.hash_links(topo.stream(seed, "grow"), rows, cols)
        for soft, sharpness in ((True, 1.0), (0.5, 0.5), (False, np.inf)):
            best = topo.select(values[~dense], 30, sharpness=sharpness, hashes=hashes)
            for cells in (1, 70, 10**6):
                blocks(2, 400, 1, cells)
                found = topo.grow(dense, 30, mine, soft=soft, seed=seed)
                assert np.array_equal(found, (rows[best], cols[best]))


def test_infinite_scores_cannot_be_sampled_but_ranked():
    def score_rows(layer, rows, out):
        out[:] = np.where(rows[:, None] == 1, np.inf, 1.0)

    mine = topo.Predictor("mine", score_rows)
    with pytest.raises(ValueError, match="infinite ones to sample from"):
        topo.grow(np.eye(3), 1, mine, seed=0)
    rows, _ = topo.grow(np.eye(3), 2, mine, soft=False, seed=0)
    assert rows.tolist() == [1, 1]


def test_common_predictors_against_matrix_products():
    dense = layer(30, 40, 0.2).astype(float)
    dense[:, 3] = dense[4] = 0
    out, into = (np.maximum(dense.sum(side), 1) ** -0.5 for side in (1, 0))
    absent = dense == 0
    paths = dense @ dense.T @ dense
    assert np.array_equal(scores(dense, "cn_l3"), paths * absent)
    weighted = (dense * into) @ dense.T @ (out[:, None] * dense)
    np.testing.assert_allclose(scores(dense, "ra_l3"), weighted * absent, rtol=1e-12)
    product = np.outer(dense.sum(1), dense.sum(0)) * absent
    assert np.array_equal(scores(dense, "degree_product"), product)


# ---- threads ---------------------------------------------------------------------------------


def test_a_task_that_calls_for_threads_itself_does_not_wait_for_its_own(monkeypatch):
    monkeypatch.setattr("topo.parallel.thread_count", lambda: 2)

    def task(i):
        return sum(map_threads(lambda j: 10 * i + j, range(5)))

    assert map_threads(task, range(8)) == [50 * i + 10 for i in range(8)]


def test_concurrent_calls_share_one_pool(monkeypatch):
    monkeypatch.setattr("topo.parallel.thread_count", lambda: 3)
    names, running, most = set(), 0, 0
    lock = threading.Lock()

    def task(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            names.add(threading.get_ident())
        time.sleep(0.005)
        with lock:
            running -= 1

    callers = [threading.Thread(target=map_threads, args=(task, range(40))) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert most <= 3
    assert len(names) <= 3


def test_an_error_waits_for_the_tasks_that_run(monkeypatch):
    monkeypatch.setattr("topo.parallel.thread_count", lambda: 2)
    begun, go, done = threading.Event(), threading.Event(), []

    def task(i):
        if i == 0:
            begun.wait(10)
            threading.Timer(0.05, go.set).start()
            raise KeyError("first")
        begun.set()
        go.wait(10)
        done.append(i)

    with pytest.raises(KeyError, match="first"):
        map_threads(task, range(2))
    assert done == [1]


@pytest.mark.parametrize(
    "before",
    [
        # no folder to keep compiled code in, as in a read-only container
        "from numba.core import caching; caching.CacheImpl._locator_classes = []; import topo",
        # the main thread has ended: Python starts no threads any more
        "import topo, threading, time; main = threading.main_thread()",
    ],
)
def test_kernels_run_in_adverse_places(before):
    code = f"""
{before}
def work():
    if "main" in globals():
        main.join()
    a = topo.erdos_renyi(3, 4, 0.5, seed=0)
    topo.small_world(3, 4, 0.5, seed=0)
    from topo.parallel import map_threads
    print(map_threads(abs, range(-40, 0))[0], len(topo.grow(a, 1, "random", seed=0)[0]))
import threading
threading.Thread(target=work).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["40", "1"], "")


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads: what we test
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr("topo.parallel.thread_count", lambda: 2)
    assert map_threads(abs, range(4)) == [0, 1, 2, 3]
    child = os.fork()
    if child == 0:
        os._exit(map_threads(abs, range(4)) != [0, 1, 2, 3])
    assert os.waitpid(child, 0)[1] == 0
