import hashlib
import sys
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import topo

MODULE = import_module("topo.generators.correlated")  # the package has the function


def features(samples, size, seed=0):
    """Some that vary together, more or less; no two pairs alike."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, size)) @ rng.normal(size=(size, size))


def scores(x, n_out, n_in):
    """The dense reference: the tiled and cropped matrix of |Pearson|."""
    x = np.asarray(x, dtype=np.float64)
    varies = x.min(0) < x.max(0)
    c = np.zeros((x.shape[1], x.shape[1]))
    c[np.ix_(varies, varies)] = np.abs(np.corrcoef(x[:, varies].T))
    np.fill_diagonal(c, 0)
    return np.tile(c, (-(-n_out // len(c)), -(-n_in // len(c))))[:n_out, :n_in]


def cells(a):
    return tuple(np.flatnonzero(a.toarray()).tolist())


def chi_square(outcomes, every):
    counts = Counter(outcomes)
    assert set(counts) <= set(every)
    return stats.chisquare([counts[outcome] for outcome in every]).pvalue


# by hand

# features 0 and 1 rise together, 2 falls as they rise but for one sample, 3 never changes
BY_HAND = np.array([[0, 0, 3, 7], [1, 2, 2, 7], [2, 4, 0, 7], [3, 6, 1, 7]])


def test_the_strongest_correlations_become_links():
    a = topo.correlated(BY_HAND, 4, 2 / 16, seed=0)
    assert a.toarray().astype(int).tolist() == [
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_a_fall_counts_as_a_rise():
    a = topo.correlated(BY_HAND, 4, 6 / 16, seed=0)
    assert a.toarray().astype(int).tolist() == [
        [0, 1, 1, 0],
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
    ]


def test_a_larger_layer_is_tiled():
    a = topo.correlated(BY_HAND, 8, 4 / 32, seed=0)
    assert cells(a) == (1, 4, 17, 20)
    b = topo.correlated(BY_HAND, 6, 4 / 24, n_in=4, seed=0)
    assert cells(b) == (1, 4, 17, 20)
    c = topo.correlated(BY_HAND, 6, 8 / 36, n_in=6, seed=0)  # as a hidden layer of the papers
    assert cells(c) == (1, 5, 6, 10, 25, 29, 30, 34)


def test_a_smaller_layer_is_cropped():
    assert cells(topo.correlated(BY_HAND, 1, 1 / 4, seed=0)) == (1,)
    assert cells(topo.correlated(BY_HAND, 3, 1 / 3, n_in=1, seed=0)) == (1,)
    # of the two links of 0 and 1 with 2 only the half below 3 inputs is there
    assert cells(topo.correlated(BY_HAND, 2, 4 / 6, n_in=3, seed=0)) == (1, 2, 3, 5)


# against the dense reference


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 20)),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_exactly_the_highest_scores_are_kept(size, n_out, n_in, share, seed):
    x = features(30, size, seed)
    x[:, seed % size] = 3  # constant
    width = size if n_in is None else n_in
    density = max(1, round(share * n_out * width)) / (n_out * width)
    a = topo.correlated(x, n_out, density, n_in=n_in, seed=seed)
    assert topo.as_adjacency(a) is a
    assert (a.shape, a.nnz) == ((n_out, width), round(density * n_out * width))
    score, kept = scores(x, n_out, width), a.toarray()
    assert score[kept].min(initial=1) >= score[~kept].max(initial=0) - 1e-10


@pytest.mark.parametrize("shape", [(70, 70), (140, 70), (200, 100), (40, 70), (35, 35)])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.9])
def test_blocks_change_nothing(shape, density, monkeypatch):
    x = features(50, 70)
    x[:, 20] = x[:, 10]  # scores tie
    x[:, 30] = -x[:, 10]
    whole = topo.correlated(x, shape[0], density, n_in=shape[1], seed=1)
    monkeypatch.setattr(MODULE, "_BLOCK", 700)
    small = topo.correlated(x, shape[0], density, n_in=shape[1], seed=1)
    assert np.array_equal(small.toarray(), whole.toarray())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float16", "float32", "float64"])
def test_any_real_type(dtype):
    x = (features(50, 12) > 0) if dtype == "bool" else np.abs(features(50, 12) * 9).astype(dtype)
    expected = topo.correlated(x.astype(np.float64), 12, 0.2, seed=1)
    assert cells(topo.correlated(x, 12, 0.2, seed=1)) == cells(expected)
    assert cells(topo.correlated(x.tolist(), 12, 0.2, seed=1)) == cells(expected)


def test_neither_unit_nor_offset_matters():
    x = features(50, 12)
    unit = 10.0 ** np.array([300, -300, 0, 5, -5, 200, -200, 1, 2, 3, 4, 155])
    expected = cells(topo.correlated(x, 12, 0.2, seed=1))
    assert cells(topo.correlated(x * unit, 12, 0.2, seed=1)) == expected
    assert cells(topo.correlated(x - 1e3 * np.arange(12), 12, 0.2, seed=1)) == expected


# ties


def test_both_halves_of_a_pair_tie_exactly():
    a = topo.correlated(features(500, 200), 200, 0.1, seed=0).toarray()
    assert np.array_equal(a, a.T)
    b = topo.correlated(features(500, 200), 200, 4001 / 40000, seed=0).toarray()
    assert (b != b.T).sum() == 2  # one link without its counterpart


def test_the_same_feature_twice_ties_exactly():
    x = features(77, 40)
    x = np.concatenate([x, -2 * x + 1, x / 3], axis=1)
    # 240 perfect correlations; which 17 of them is up to the seed
    score = scores(x, 120, 120)
    perfect = np.flatnonzero(score.ravel() > 1 - 1e-9)
    assert len(perfect) == 240
    taken = [cells(topo.correlated(x, 120, 17 / 14400, seed=s)) for s in range(150)]
    counts = Counter(np.concatenate(taken).tolist())
    assert set(counts) == set(perfect.tolist())
    # without replacement: a little less spread than independent draws
    assert stats.chisquare(list(counts.values())).statistic == pytest.approx(239, abs=90)


@pytest.mark.parametrize(
    ("n_out", "n_in", "every"),
    [
        (2, 2, (1, 2)),
        (4, 2, (1, 2, 5, 6)),
        (3, 3, (1, 3, 5, 7)),  # cropped: columns 0, 1, 0
        (5, 4, (1, 3, 4, 6, 9, 11, 12, 14, 17, 19)),
    ],
)
def test_tiles_tie_and_the_seed_decides(n_out, n_in, every):
    x = [[0, 0], [1, 1], [3, 3]]
    one = 1 / (n_out * n_in)
    outcomes = [cells(topo.correlated(x, n_out, one, n_in=n_in, seed=s))[0] for s in range(1500)]
    assert chi_square(outcomes, every) > 1e-4


def test_without_enough_correlation_the_rest_is_uniform():
    # features 0 and 1 correlate with each other, 2 is constant; one more link than that
    x = [[0, 1, 5], [1, 0, 5], [2, 3, 5]]
    outcomes = []
    for seed in range(1500):
        first, second, third = cells(topo.correlated(x, 3, 3 / 9, seed=seed))
        outcomes.append(({first, second, third} - {1, 3}).pop())
    assert chi_square(outcomes, (0, 2, 4, 5, 6, 7, 8)) > 1e-4


def test_constants_are_found_whatever_their_mean_rounds_to():
    x = features(30, 4)
    x[:, 1:3] = 0.1, 0.7  # the means of thirty of these are others
    assert (x.mean(0) != x[0])[1:3].any()
    for seed in range(20):
        assert cells(topo.correlated(x, 4, 2 / 16, seed=seed)) == (3, 12)


@pytest.mark.parametrize("x", [np.ones((5, 6)), np.arange(5.0)[:, None]])
def test_nothing_correlated_is_uniform(x):
    n_in = x.shape[1]
    seen = np.sum([topo.correlated(x, 4, 0.5, seed=s).toarray() for s in range(400)], axis=0)
    assert np.abs(seen - 200).max() < 50
    assert seen.shape == (4, n_in)


# what it costs


def test_only_links_and_blocks_are_held():
    resource = pytest.importorskip("resource")
    x = features(40, 30).repeat(100, axis=1) + np.random.default_rng(0).normal(size=(40, 3000))
    topo.correlated(x[:, :50], 50, 0.1, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert topo.correlated(x, 200_000, 1e-5, seed=0).nnz == 6000
    in_kilobytes = 1 if sys.platform == "linux" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / in_kilobytes < 300_000


# reproducibility and errors


def test_results_are_the_same_on_every_machine():
    x = (np.arange(60)[:, None] * np.arange(7, 27) ** 2) % 31
    digest = hashlib.sha256()
    for n_out, n_in, density in [(20, 20, 0.1), (50, 20, 0.05), (30, 45, 0.3)]:
        a = topo.correlated(x, n_out, density, n_in=n_in, seed=5)
        digest.update(a.indptr.astype("<i4").tobytes() + a.indices.astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == "b56ea2e16bcf57c4"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(5), r"shape \(samples, features\), not \(5,\): flatten each sample"),
        (np.ones((2, 3, 4)), r"not \(2, 3, 4\): flatten"),
        (np.ones((5, 0)), r"not \(5, 0\)"),
        (np.ones((1, 5)), "at least 2 samples, not 1: pass a calibration set"),
        (np.ones((0, 5)), "at least 2 samples, not 0"),
        ([[1, np.nan, 3], [4, 5, np.inf]], "2 of 3 hold NaN or infinity, the first .* feature 1"),
        ([[-np.inf, 0], [4, 5]], "1 of 2 hold NaN or infinity, the first .* feature 0"),
        (np.ones((3, 3), dtype=complex), "real numbers, not of dtype complex128"),
        ([["a", "b"], ["c", "d"]], "real numbers, not of dtype <U1"),
    ],
)
def test_features_that_are_none_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        topo.correlated(x, 4, 0.5, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0}, r"density must be in \(0, 1\]"),
        ({"n_out": 0}, "n_out must be a positive integer"),
        ({"n_in": 2.5}, "n_in must be a positive integer"),
        ({"seed": None}, "seed must be an integer"),
    ],
)
def test_impossible_layers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        topo.correlated(BY_HAND, **{"n_out": 4, "density": 0.5, "seed": 0} | arguments)
