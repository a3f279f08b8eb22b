import itertools
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

import topo
from topo.parallel import thread_count

CH = ("ch3_l3p", "ch2_l3p", "ch3_l3n", "ch2_l3n")
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))


@st.composite
def dense_layers(draw, most=9):
    shape = draw(st.integers(1, most)), draw(st.integers(1, most))
    density = draw(st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    dense = rng.random(shape) < density
    dense[rng.random(shape[0]) < 0.1] = draw(st.booleans())  # empty or full rows
    dense[:, rng.random(shape[1]) < 0.1] = draw(st.booleans())
    return dense


def random_layer(n_out, n_in, density, seed=0):
    return np.random.default_rng(seed).random((n_out, n_in)) < density


def reference(dense, name):
    """SCIENCE.md section 2, read out loud: sets of neighbours and the paths between them."""
    internal = {"ch2": 1, "ch3": 0}[name[:3]]
    inputs = [set(np.flatnonzero(row)) for row in dense]  # N(v) of an output neuron v
    outputs = [set(np.flatnonzero(column)) for column in dense.T]  # N(u) of an input neuron u
    scores = np.zeros(dense.shape)
    for v, u in np.argwhere(~dense):
        paths = [(z1, z2) for z1 in outputs[u] for z2 in inputs[v] if z2 in inputs[z1]]
        f = {}
        for z1, z2 in paths:
            for z, neighbours, end in (
                (("out", z1), inputs[z1], inputs[v]),
                (("in", z2), outputs[z2], outputs[u]),
            ):
                di = len(neighbours & end)
                de = len(neighbours) - di - 1
                f[z] = (1 + internal * di) / (1 + de)
        if name.endswith("p"):
            scores[v, u] = sum(math.sqrt(f["out", z1] * f["in", z2]) for z1, z2 in paths)
        else:
            scores[v, u] = sum(f.values())
    return scores


def cells(rows, cols):
    return tuple(zip(rows.tolist(), cols.tolist(), strict=True))


def chi_square(outcomes, odds):
    """P-value of the outcomes against relative odds; each of them must be possible."""
    counts = dict.fromkeys(odds, 0)
    for outcome in outcomes:
        counts[outcome] += 1
    expected = np.array(list(odds.values()))
    expected = expected / expected.sum() * len(outcomes)
    return stats.chisquare(list(counts.values()), expected).pvalue


def grown(dense, k, predictor, seeds, **options):
    return [cells(*topo.grow(dense, k, predictor, seed=seed, **options)) for seed in range(seeds)]


@pytest.fixture
def threads(monkeypatch):
    """Set the number of threads and, if given, the cells of a block."""

    def set_threads(number, block=None):
        monkeypatch.setattr("topo.parallel.thread_count", lambda: number)
        monkeypatch.setattr("topo.link_prediction.thread_count", lambda: number)
        if block is not None:
            monkeypatch.setattr("topo.link_prediction._BLOCK_CELLS", block)

    return set_threads


# ---- scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CH)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_scores(path, name):
    golden = np.load(path)
    scores = topo.link_scores(golden["adjacency"], name, dtype=np.float64)
    assert golden[name].max() > 0
    np.testing.assert_allclose(scores, golden[name], rtol=1e-12, atol=0)
    single = topo.link_scores(golden["adjacency"], name)
    assert single.dtype == np.float32
    assert np.array_equal(single, scores.astype(np.float32))


def test_there_are_golden_files():
    assert len(GOLDEN) >= 3


@pytest.mark.parametrize("name", CH)
@settings(max_examples=60, deadline=None)
@given(dense=dense_layers())
def test_scores_are_those_of_the_formulas(name, dense):
    scores = topo.link_scores(dense, name, dtype=np.float64)
    np.testing.assert_allclose(scores, reference(dense, name), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "corner", "fork"),
    [("ch3_l3p", 1, 2**-0.5), ("ch2_l3p", 2, 2**0.5), ("ch3_l3n", 2, 1.5), ("ch2_l3n", 4, 3)],
)
def test_scores_solved_by_hand(name, corner, fork):
    scores = topo.link_scores([[1, 1], [1, 0]], name, dtype=np.float64)
    np.testing.assert_allclose(scores, [[0, 0], [0, corner]], rtol=1e-14)
    # one path 1 - v1 - 0 - v0: di(v1) = 1 of degree 3, di(0) = 1 of degree 2; likewise for 2
    scores = topo.link_scores([[1, 0, 0], [1, 1, 1]], name, dtype=np.float64)
    np.testing.assert_allclose(scores, [[0, fork, fork], [0, 0, 0]], rtol=1e-14)


@pytest.mark.parametrize("name", CH)
@settings(max_examples=40, deadline=None)
@given(dense=dense_layers(), seed=st.integers(0, 1000))
def test_scores_follow_relabelling_and_transposition(name, dense, seed):
    rng = np.random.default_rng(seed)
    rows, cols = rng.permutation(dense.shape[0]), rng.permutation(dense.shape[1])
    scores = topo.link_scores(dense, name, dtype=np.float64)
    relabelled = topo.link_scores(dense[rows][:, cols], name, dtype=np.float64)
    np.testing.assert_allclose(relabelled, scores[rows][:, cols], rtol=1e-12)
    transposed = topo.link_scores(dense.T, name, dtype=np.float64)
    np.testing.assert_allclose(transposed, scores.T, rtol=1e-12)


DEGENERATE = {
    "1x1 empty": np.zeros((1, 1), bool),
    "1x1 full": np.ones((1, 1), bool),
    "one row": np.array([[1, 0, 1, 1, 0]], bool),
    "one column": np.array([[1], [0], [1]], bool),
    "empty": np.zeros((3, 4), bool),
    "full": np.ones((3, 4), bool),
    "full but one": ~np.eye(4, 3, dtype=bool) | (np.arange(4) > 0)[:, None],
    "empty rows and columns": np.pad(random_layer(5, 4, 0.6), 1),
    "full rows": random_layer(6, 5, 0.4) | (np.arange(6) % 3 == 0)[:, None],
    "full columns": random_layer(6, 5, 0.4) | (np.arange(5) % 3 == 0),
    "matching": np.eye(5, dtype=bool),
    "star": np.pad(np.ones((1, 4), bool), ((0, 3), (0, 0))),
}


@pytest.mark.parametrize("name", CH)
@pytest.mark.parametrize("dense", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_layers(dense, name):
    scores = topo.link_scores(dense, name, dtype=np.float64)
    np.testing.assert_allclose(scores, reference(dense, name), rtol=1e-12, atol=0)
    absent = np.count_nonzero(~dense)
    for soft in (True, False, 3.5):
        for k in range(0 if absent else 1, absent + 1):
            rows, cols = topo.grow(dense, k, name, soft=soft, seed=k)
            assert len(set(cells(rows, cols))) == k
            assert not dense[rows, cols].any()


@pytest.mark.parametrize("name", topo.PREDICTORS)
def test_every_predictor_keeps_the_contract(name, threads):
    dense = random_layer(31, 23, 0.15)
    assert topo.PREDICTORS[name].name == name
    threads(1)
    scores = topo.link_scores(dense, name, dtype=np.float64)
    assert scores.shape == dense.shape
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert (scores > 0).any()
    assert not scores[dense].any()
    for number, block in ((1, 1), (2, 60), (3, 300), (7, 2**22)):
        threads(number, block)
        assert np.array_equal(topo.link_scores(dense, name, dtype=np.float64), scores)


@pytest.mark.parametrize("name", topo.PREDICTORS)
@pytest.mark.parametrize("rows", [[], [4], [11, 0, 11, 3], np.arange(12, dtype=np.uint8)[::-1]])
def test_some_rows_are_scored_as_all_are(name, rows):
    dense = random_layer(12, 15, 0.3)
    everything = topo.link_scores(dense, name, dtype=np.float64)
    some = topo.link_scores(dense, name, rows=rows, dtype=np.float64)
    assert some.shape == (len(rows), 15)
    assert np.array_equal(some, everything[np.asarray(rows, dtype=int)])


def test_random_scores_every_absent_link_alike():
    dense = random_layer(7, 5, 0.4)
    assert np.array_equal(topo.link_scores(dense, "random"), ~dense)


def test_any_matrix_and_any_predictor_object_will_do():
    dense = random_layer(8, 6, 0.4)
    expected = topo.link_scores(dense, "ch2_l3n")
    for matrix in (dense.astype(float), dense.tolist(), sparse.coo_matrix(dense)):
        assert np.array_equal(topo.link_scores(matrix, topo.PREDICTORS["ch2_l3n"]), expected)


def test_a_predictor_of_ones_own(threads):
    def score_rows(layer, rows, out):
        out[:] = rows[:, None] * len(layer.t_indptr) + np.arange(out.shape[1])

    threads(2, 20)
    mine = topo.Predictor("mine", score_rows)
    dense = random_layer(9, 8, 0.3)
    expected = np.where(dense, 0, np.arange(9)[:, None] * 9 + np.arange(8))
    assert np.array_equal(topo.link_scores(dense, mine), expected)
    rows, cols = topo.grow(dense, 11, mine, soft=False, seed=0)
    assert cells(rows, cols) == tuple(map(tuple, np.argwhere(~dense)[-11:].tolist()))


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_in_a_predictor_comes_through(threads, number):
    def score_rows(layer, rows, out):
        raise ArithmeticError("mine")

    threads(number)
    with pytest.raises(ArithmeticError, match="mine"):
        topo.grow(np.eye(9), 2, topo.Predictor("broken", score_rows), seed=0)


def test_threads_follow_torch_where_it_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 5))
    assert thread_count() == 5
    monkeypatch.delitem(sys.modules, "torch")
    assert 1 <= thread_count() <= os.cpu_count()


# ---- growth ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_exactly_k_distinct_absent_links_grow(data):
    dense = data.draw(dense_layers())
    absent = np.count_nonzero(~dense)
    if absent == 0:
        dense[0, 0], absent = False, 1
    k = data.draw(st.integers(0, absent))
    name = data.draw(st.sampled_from([*topo.PREDICTORS]))
    soft = data.draw(st.sampled_from([True, False, 0.5, 9.0]))
    rows, cols = topo.grow(dense, k, name, soft=soft, seed=data.draw(st.integers(-9, 9)))
    assert rows.dtype == cols.dtype == np.int32
    chosen = rows.astype(int) * dense.shape[1] + cols
    assert len(chosen) == k
    assert (np.diff(chosen) > 0).all()
    assert not dense[rows, cols].any()
    # every positive score goes before any other; at the top the highest go first
    scores = topo.link_scores(dense, name, dtype=np.float64)
    assert np.count_nonzero(scores[rows, cols]) == min(k, np.count_nonzero(scores))
    if soft is False:
        best = np.sort(scores[~dense])[::-1][:k]
        np.testing.assert_allclose(np.sort(scores[rows, cols])[::-1], best, rtol=1e-12)


@pytest.mark.parametrize("name", CH)
def test_the_top_k_of_a_layer_in_many_blocks(name, threads):
    dense = random_layer(60, 50, 0.1)
    scores = topo.link_scores(dense, name, dtype=np.float64)
    threads(3, 200)
    for k in (1, 10, 150):
        rows, cols = topo.grow(dense, k, name, soft=False, seed=1)
        best = np.sort(scores[~dense])[-k:]
        np.testing.assert_allclose(np.sort(scores[rows, cols]), best, rtol=1e-12)


UNEVEN = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 1, 0]], bool)


@pytest.mark.parametrize("name", CH)
@pytest.mark.parametrize(("soft", "power"), [(True, 1), (0.5, 0.5), (3, 3)])
def test_one_link_grows_with_probability_in_proportion_to_its_score(name, soft, power, threads):
    threads(1)
    scores = reference(UNEVEN, name)
    odds = {((v, u),): scores[v, u] ** power for v, u in np.argwhere(scores).tolist()}
    assert len(set(np.round([*odds.values()], 9))) > 1
    assert chi_square(grown(UNEVEN, 1, name, 1500, soft=soft), odds) > 1e-4


def test_two_links_grow_as_a_sample_without_replacement(threads):
    threads(1)
    scores = reference(UNEVEN, "ch2_l3n")
    weights = {(v, u): scores[v, u] for v, u in np.argwhere(scores).tolist()}
    total = sum(weights.values())
    odds = {}
    for a, b in itertools.combinations(sorted(weights), 2):
        x, y = weights[a] / total, weights[b] / total
        odds[a, b] = x * y / (1 - x) + y * x / (1 - y)
    assert chi_square(grown(UNEVEN, 2, "ch2_l3n", 3000), odds) > 1e-4


def test_ties_at_the_top_are_broken_uniformly(threads):
    threads(1)
    dense = np.zeros((4, 4), bool)  # two blocks of one missing corner each: a tie of two
    dense[:2, :2] = dense[2:, 2:] = [[1, 1], [1, 0]]
    odds = {((1, 1),): 1, ((3, 3),): 1}
    assert chi_square(grown(dense, 1, "ch3_l3p", 1000, soft=False), odds) > 1e-4
    threads(1, 1)  # a block a row: most ties meet a cut that is already known
    dense = np.kron(np.eye(6, dtype=bool), [[True, True], [True, False]])
    odds = {((i, i),): 1 for i in range(1, 12, 2)}
    assert chi_square(grown(dense, 1, "ch3_l3p", 1000, soft=False), odds) > 1e-4


def test_ties_are_ties_whatever_the_order_of_their_sums(threads):
    """0.1 + 0.2 and 0.3 are one score: either may win."""
    threads(1)
    values = np.array([[0.1 + 0.2, 0.3], [0.25, 0.3 * (1 + 1e-11)]])
    assert values[0, 0] != values[0, 1]

    def score_rows(layer, rows, out):
        out[:] = values[rows]

    mine = topo.Predictor("mine", score_rows)
    empty = np.zeros((2, 2), bool)
    odds = {((0, 0), (1, 1)): 1, ((0, 1), (1, 1)): 1}
    assert chi_square(grown(empty, 2, mine, 500, soft=False), odds) > 1e-4


@pytest.mark.parametrize("soft", [True, False])
def test_the_rest_is_uniform_where_too_few_scores_are_positive(soft, threads):
    threads(1)
    dense = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)  # one L3 path, to (1, 1)
    others = [(v, u) for v, u in np.argwhere(~dense).tolist() if (v, u) != (1, 1)]
    odds = {tuple(sorted([(1, 1), *pair])): 1 for pair in itertools.combinations(others, 2)}
    assert chi_square(grown(dense, 3, "ch2_l3p", 1500, soft=soft), odds) > 1e-4


def test_random_growth_is_uniform(threads):
    threads(1)
    dense = np.array([[1, 0, 0], [0, 0, 1]], bool)
    absent = [tuple(x) for x in np.argwhere(~dense).tolist()]
    odds = dict.fromkeys(itertools.combinations(absent, 2), 1)
    for soft in (True, False):
        assert chi_square(grown(dense, 2, "random", 2000, soft=soft), odds) > 1e-4


def test_soft_is_sharpness():
    dense = random_layer(20, 20, 0.2)

    def grow(soft):
        return cells(*topo.grow(dense, 30, "ch2_l3n", soft=soft, seed=5))

    assert grow(True) == grow(1) == grow(1.0)
    assert grow(False) == grow(math.inf)
    assert len({grow(True), grow(2), grow(False)}) == 3


@pytest.mark.parametrize("soft", [True, False, 4.0])
@pytest.mark.parametrize("name", topo.PREDICTORS)
@pytest.mark.parametrize("k", [3, 400])
def test_growth_does_not_depend_on_threads_or_blocks(name, soft, k, threads):
    dense = random_layer(40, 30, 0.08)
    if not soft:  # fifteen ties, far apart
        dense[:30] = np.kron(np.eye(15), [[1, 1], [1, 0]])
        dense[30:] = False
    threads(1)
    expected = cells(*topo.grow(dense, k, name, soft=soft, seed=11))
    for number, block in ((1, 1), (2, 70), (5, 500), (16, 2**22)):
        threads(number, block)
        assert cells(*topo.grow(dense, k, name, soft=soft, seed=11)) == expected
    assert cells(*topo.grow(dense, k, name, soft=soft, seed=12)) != expected


def test_concurrent_calls_do_not_disturb_each_other(threads):
    dense = random_layer(64, 48, 0.1)
    jobs = [(name, soft, seed) for name in CH for soft in (True, False) for seed in range(4)]

    def work(job):
        name, soft, seed = job
        scores = topo.link_scores(dense, name, dtype=np.float64)
        return cells(*topo.grow(dense, 90, name, soft=soft, seed=seed)), scores.tobytes()

    threads(1)
    alone = [work(job) for job in jobs]
    threads(3, 600)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, jobs)) == alone


def test_growth_is_the_same_on_every_machine():
    dense = topo.erdos_renyi(10, 12, 0.2, seed=0)
    assert cells(*topo.grow(dense, 4, "ch2_l3n", seed=3)) == ((0, 8), (0, 9), (3, 8), (6, 0))
    assert cells(*topo.grow(dense, 4, "ch3_l3p", soft=False, seed=3)) == (
        (1, 2),
        (4, 10),
        (5, 2),
        (6, 11),
    )
    assert cells(*topo.grow(dense, 4, "random", seed=3)) == ((2, 1), (4, 5), (5, 10), (9, 8))


def test_growth_leaves_its_argument_alone():
    a = topo.erdos_renyi(10, 12, 0.2, seed=0)
    before = a.toarray()
    topo.grow(a, 9, "ch2_l3n", seed=0)
    assert np.array_equal(a.toarray(), before)


def test_scores_of_ones_own_are_those_of_a_predictor(threads):
    """An array of any number type, and lists."""
    dense = random_layer(19, 13, 0.3)
    scores = np.random.default_rng(0).integers(0, 9, dense.shape) * np.arange(13.0)

    def score_rows(layer, rows, out):
        out[:] = scores[rows]

    mine = topo.Predictor("mine", score_rows)
    for soft, k in itertools.product((True, False, 3.0), (0, 1, 60, np.count_nonzero(~dense))):
        expected = cells(*topo.grow(dense, k, mine, soft=soft, seed=4))
        for own in (scores, scores.astype(np.uint8), np.asfortranarray(scores), scores.tolist()):
            for number, block in ((1, 2**22), (3, 40)):
                threads(number, block)
                assert cells(*topo.grow(dense, k, own, soft=soft, seed=4)) == expected


def test_one_link_grows_in_proportion_to_a_score_of_ones_own(threads):
    threads(1)
    scores = np.array([[9, 9, 1, 2], [9, 4, 9, 9], [0, 9, 9, 8]])
    odds = {((v, u),): scores[v, u] for v, u in np.argwhere(~UNEVEN & (scores > 0)).tolist()}
    assert len(odds) == 4
    assert chi_square(grown(UNEVEN, 1, scores, 1500), odds) > 1e-4


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-1, 3, 1.0, True, None, "1"])
def test_an_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match="k must be an integer from 0 to 2"):
        topo.grow([[1, 0], [0, 1]], k, "ch3_l3p", seed=0)


def test_a_full_layer_cannot_grow():
    with pytest.raises(ValueError, match="k must be an integer from 0 to 0"):
        topo.grow([[1, 1]], 1, "ch3_l3p", seed=0)


@pytest.mark.parametrize("call", [topo.link_scores, lambda a, p: topo.grow(a, 1, p, seed=0)])
def test_an_unknown_predictor_is_refused_with_a_suggestion(call):
    with pytest.raises(ValueError, match=r"unknown predictor 'ch2l3n': did you mean 'ch2_l3n'\?"):
        call(np.eye(2), "ch2l3n")


@pytest.mark.parametrize("call", [topo.link_scores, lambda a, p: topo.grow(a, 1, p, seed=0)])
def test_a_matrix_that_is_no_adjacency_is_refused(call):
    with pytest.raises(ValueError, match=r"holds 0 and 1; this one holds 0\.5"):
        call([[0.5, 0]], "ch2_l3n")


@pytest.mark.parametrize("soft", [0, -1, float("nan"), 1e308, "yes", None])
def test_an_impossible_sharpness_is_refused(soft):
    with pytest.raises(ValueError, match=r"soft must be True|sharpness must be in"):
        topo.grow(np.eye(2), 1, "ch3_l3p", soft=soft, seed=0)


@pytest.mark.parametrize("seed", [None, 0.5, "0"])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        topo.grow(np.eye(2), 1, "ch3_l3p", seed=seed)


@pytest.mark.parametrize("rows", [[2], [-1], [0.0], 0, [[0]], [True, False]])
def test_impossible_rows_are_refused(rows):
    with pytest.raises(ValueError, match="rows must be"):
        topo.link_scores(np.eye(2), "ch3_l3p", rows=rows)


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_improper_scores_of_a_predictor_are_refused(bad):
    def score_rows(layer, rows, out):
        out[:] = bad

    with pytest.raises(ValueError, match="'mine' gave scores that are negative or NaN"):
        topo.grow(np.eye(3), 1, topo.Predictor("mine", score_rows), seed=0)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[1.0, np.nan], [1, 1]], "1 of 4 scores are NaN"),
        ([[np.inf, 0], [np.inf, 1]], "scores must be finite; 2 of 4 are infinite"),
        ([[1, -2], [0, 0]], "scores must not be negative; the smallest is -2"),
        ([1, 2], r"scores must have the layer's shape \(2, 2\), not \(2,\)"),
        (3.0, r"scores must have the layer's shape \(2, 2\), not \(\)"),
        ([["a", "b"]] * 2, "unknown predictor"),
        (None, "unknown predictor None"),
    ],
)
@pytest.mark.parametrize("soft", [True, False])
def test_improper_scores_of_ones_own_are_refused(scores, message, soft):
    with pytest.raises(ValueError, match=message):
        topo.grow(np.eye(2), 1, scores, soft=soft, seed=0)


def test_a_predictor_that_is_no_name():
    with pytest.raises(ValueError, match="unknown predictor"):
        topo.link_scores(np.eye(2), ["ch3_l3p"])
