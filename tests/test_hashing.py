import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

import topo
from topo.hashing import to_unit

SUSPICIOUS = 1e-4  # every seed below is fixed, so a test that passes once always passes


def keys(n, *names):
    return [topo.stream(i, *names) for i in range(n)]


def chi_square(outcomes, probabilities):
    """P-value of the observed outcomes; every one of them must be possible."""
    counts = dict.fromkeys(probabilities, 0)
    for outcome in outcomes:
        counts[outcome] += 1
    expected = np.array(list(probabilities.values()))
    return stats.chisquare(list(counts.values()), expected / expected.sum() * len(outcomes)).pvalue


def uniformly(outcomes):
    return dict.fromkeys(outcomes, 1.0)


def hashes_of(key, n):
    return topo.hash_links(key, np.zeros(n, np.int32), np.arange(n, dtype=np.int32))


# ---- streams ---------------------------------------------------------------------------------


def test_streams_are_the_same_on_every_machine():
    assert topo.stream(0) == 5263075011782779848
    assert topo.stream(0, 100, "fc1", "grow") == 17651283823400063268
    assert topo.stream(-(2**70), "größe") == 6402792342250993248


def test_streams_differ_in_every_argument_its_type_and_their_order():
    arguments = [
        (0,),
        (1,),
        (-1,),
        (2**64,),
        (0, 0),
        (0, "0"),
        (0, ""),
        (0, "a", "b"),
        (0, "b", "a"),
        (0, "ab"),
        (0, "a, b"),
        (0, "a', 'b"),
        (0, 1, 2),
        (0, 12),
        (0, 2, 1),
        (0, "fc1", "grow"),
        (0, "fc2", "grow"),
    ]
    streams = {topo.stream(*a) for a in arguments}
    assert len(streams) == len(arguments)
    assert all(0 <= s < 2**64 for s in streams)


def test_a_stream_takes_numpy_integers():
    assert topo.stream(np.int32(3), np.int64(5), "x") == topo.stream(3, 5, "x")


@pytest.mark.parametrize("seed", [None, 1.0, "1", True])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        topo.stream(seed)


# ---- hashes ----------------------------------------------------------------------------------


def test_hashes_are_the_same_on_every_machine():
    rows, cols = np.array([0, 0, 1, 2**31 - 1]), np.array([0, 1, 0, 2**31 - 1])
    assert topo.hash_links(0, rows, cols).tolist() == [
        6238072747940578789,
        10029422582870753883,
        16899028431761561291,
        10757736667807705850,
    ]
    assert topo.hash_links(2**64 - 1, rows, cols).tolist() == [
        18246602271723342527,
        628984899026080613,
        1820451397923222333,
        6487323272988479180,
    ]


def test_a_hash_depends_on_key_row_and_column_alone():
    rows, cols = np.divmod(np.arange(600, dtype=np.int32), 30)
    everything = topo.hash_links(7, rows, cols)
    assert everything.dtype == np.uint64
    some = np.array([599, 3, 3, 310])
    assert np.array_equal(topo.hash_links(7, rows[some], cols[some]), everything[some])
    assert np.array_equal(topo.hash_links(7, rows[::-2], cols[::-2]), everything[::-2])


def test_hashes_of_a_grid_under_two_keys_never_collide():
    rows, cols = np.divmod(np.arange(250_000, dtype=np.int32), 500)
    both = np.concatenate([topo.hash_links(k, rows, cols) for k in (1, 2)])
    assert len(np.unique(both)) == len(both)


@pytest.mark.parametrize("varied", ["column", "row", "key", "diagonal"])
def test_all_64_bits_are_fair_along_every_argument(varied):
    n = 20_000
    line, zeros = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
    if varied == "key":
        hashes = np.concatenate([topo.hash_links(k, zeros[:1], zeros[:1]) for k in range(n)])
    else:
        rows = line if varied in ("row", "diagonal") else zeros
        hashes = topo.hash_links(0, rows, line if varied in ("column", "diagonal") else zeros)
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    deviations = (bits.mean(0) - 0.5) * 2 * math.sqrt(n)
    assert np.abs(deviations).max() < 4.5
    repeats = (bits[1:] == bits[:-1]).mean(0)  # neighbours are unrelated
    assert np.abs((repeats - 0.5) * 2 * math.sqrt(n)).max() < 4.5


def test_uniform_numbers_are_uniform_and_never_0_or_1():
    ends = topo.uniform(np.array([0, 2**64 - 1], np.uint64))
    assert 0 < ends[0] < 1e-15
    assert 1 - 1e-15 < ends[1] < 1
    assert [to_unit(np.uint64(0)), to_unit(np.uint64(2**64 - 1))] == ends.tolist()  # the kernels'
    rows, cols = np.divmod(np.arange(40_000, dtype=np.int32), 200)
    u = topo.uniform(topo.hash_links(topo.stream(3), rows, cols))
    assert stats.kstest(u, "uniform").pvalue > SUSPICIOUS
    assert stats.kstest((u[1:] - u[:-1]) % 1, "uniform").pvalue > SUSPICIOUS


# ---- integers --------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 2**64 - 1))
@example(1, 1, 0)
@example(1, 0, 0)
@example(2, 1, 0)
def test_sampled_integers_are_k_distinct_ascending_in_range(n, k, key):
    k %= n + 1
    sample = topo.sample_integers(n, k, key)
    assert len(sample) == k
    assert (np.diff(sample) > 0).all()
    assert k == 0 or (sample[0] >= 0 and sample[-1] < n)
    assert np.array_equal(topo.sample_integers(n, k, key), sample)


@pytest.mark.parametrize(("n", "k"), [(7, 1), (5, 2), (6, 3), (5, 3), (7, 6), (17, 2)])
def test_every_subset_of_integers_is_equally_likely(n, k):
    outcomes = [tuple(topo.sample_integers(n, k, key).tolist()) for key in keys(12_000, n, k)]
    assert chi_square(outcomes, uniformly(itertools.combinations(range(n), k))) > SUSPICIOUS


def test_samples_out_of_a_huge_range_are_cheap_and_spread():
    for n in (10**15, 2**62 + 2**61):  # of the latter, 64 bits modulo n favour small integers
        sample = topo.sample_integers(n, 5000, topo.stream(1))
        assert stats.kstest(sample / n, "uniform").pvalue > SUSPICIOUS


def test_samples_are_the_same_on_every_machine():
    assert topo.sample_integers(100, 6, 0).tolist() == [12, 18, 20, 64, 66, 85]
    assert topo.sample_integers(8, 6, topo.stream(5)).tolist() == [0, 1, 3, 5, 6, 7]
    assert topo.sample_integers(10**12, 2, topo.stream(7)).tolist() == [259748508984, 944078104278]


@pytest.mark.parametrize(("n", "k"), [(3, 4), (3, -1), (0, 1)])
def test_an_impossible_sample_is_refused(n, k):
    with pytest.raises(ValueError, match=f"k must be an integer from 0 to {n}, not {k}"):
        topo.sample_integers(n, k, 0)


# ---- absent links ----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_sampled_absent_links_are_distinct_absent_and_in_row_major_order(data):
    shape = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    dense = rng.random(shape) < data.draw(st.sampled_from([0, 0.2, 0.5, 0.9]))
    dense[rng.random(shape[0]) < 0.2] = True  # full rows
    dense[0, 0] = False
    absent = np.flatnonzero(~dense)
    k = data.draw(st.integers(0, len(absent)))
    rows, cols = topo.sample_absent(topo.as_adjacency(dense), k, data.draw(st.integers(0, 99)))
    assert rows.dtype == cols.dtype == np.int32
    cells = rows.astype(int) * shape[1] + cols
    assert len(cells) == k
    assert (np.diff(cells) > 0).all()
    assert np.isin(cells, absent).all()
    if k == len(absent):
        assert np.array_equal(cells, absent)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_every_set_of_absent_links_is_equally_likely(k):
    a = topo.as_adjacency([[0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 1, 1]])
    absent = [tuple(x) for x in np.argwhere(~a.toarray()).tolist()]
    outcomes = []
    for key in keys(10_000, "absent"):
        rows, cols = topo.sample_absent(a, k, key)
        outcomes.append(tuple(zip(rows.tolist(), cols.tolist(), strict=True)))
    assert chi_square(outcomes, uniformly(itertools.combinations(absent, k))) > SUSPICIOUS


def test_absent_links_of_a_layer_with_more_than_2_to_the_31_cells():
    a = topo.from_links([0, 69_999], [0, 69_999], (70_000, 70_000))
    rows, cols = topo.sample_absent(a, 4000, topo.stream(0))
    cells = rows.astype(np.int64) * 70_000 + cols
    assert (np.diff(cells) > 0).all()
    assert stats.kstest(cells / 4.9e9, "uniform").pvalue > SUSPICIOUS


def test_more_absent_links_than_there_are_is_refused():
    with pytest.raises(ValueError, match="k must be an integer from 0 to 2, not 3"):
        topo.sample_absent(topo.as_adjacency([[1, 0], [0, 1]]), 3, 0)


# ---- selection -------------------------------------------------------------------------------


def sequential(weights, k):
    """Probability of each k-subset under sequential sampling without replacement."""
    odds = {}
    for subset in itertools.combinations(range(len(weights)), k):
        odds[subset] = 0.0
        for order in itertools.permutations(subset):
            left, p = sum(weights), 1.0
            for i in order:
                p *= weights[i] / left
                left -= weights[i]
            odds[subset] += p
    return odds


def selections(scores, k, sharpness, n=8000):
    return [
        tuple(topo.select(scores, k, sharpness=sharpness, hashes=hashes_of(key, len(scores))))
        for key in keys(n, "select")
    ]


@pytest.mark.parametrize(
    ("scores", "k", "sharpness", "scale"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1, 1, 1.0),
        ([1.0, 2.0, 3.0, 4.0], 2, 1, 1e-299),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3, 0.5, 1.0),
        ([1.0, 1.2, 1.5, 2.0], 2, 3, 1e-300),
        ([1.0, 1.1, 1.2, 1.3, 1.1], 4, 9, 1e-300),
        ([1.0, 1.1, 1.2, 1.3, 1.1], 2, 9, 1e299),
    ],
)
def test_soft_selection_is_sequential_sampling_without_replacement(scores, k, sharpness, scale):
    outcomes = selections(np.array(scores) * scale, k, sharpness)
    odds = sequential([s**sharpness for s in scores], k)
    assert chi_square(outcomes, odds) > SUSPICIOUS


@pytest.mark.parametrize("sharpness", [1, 9, np.inf])
def test_zeros_are_taken_only_when_the_positive_scores_run_out_and_uniformly(sharpness):
    scores = [0.0, 1e-300, 0.0, 1e300, 0.0]
    assert set(selections(scores, 2, sharpness, 500)) == {(1, 3)}
    outcomes = selections(scores, 4, sharpness)
    assert chi_square(outcomes, uniformly([(0, 1, 2, 3), (0, 1, 3, 4), (1, 2, 3, 4)])) > SUSPICIOUS


def test_sharp_selection_neither_underflows_nor_overflows():
    scores = [1e-300, 1e300, 5e-324, 1.0]
    assert set(selections(scores, 1, 9, 500)) == {(1,)}
    assert set(selections(scores, 3, 9, 500)) == {(0, 1, 3)}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-300, 0.5, 1.0, 1.0, 2.0, 1e300]), max_size=12),
    st.integers(0, 12),
    st.sampled_from([0.3, 1, 9, np.inf]),
    st.integers(0, 10**6),
)
def test_selection_takes_exactly_k_and_is_a_function_of_its_arguments(scores, k, sharpness, key):
    k %= len(scores) + 1
    hashes = hashes_of(key, len(scores))
    chosen = topo.select(scores, k, sharpness=sharpness, hashes=hashes)
    assert len(chosen) == k
    assert (np.diff(chosen) > 0).all()
    assert k == 0 or (chosen[0] >= 0 and chosen[-1] < len(scores))
    assert np.array_equal(topo.select(scores, k, sharpness=sharpness, hashes=hashes), chosen)
    if sharpness == np.inf:
        assert sorted(np.take(scores, chosen)) == sorted(scores)[len(scores) - k :]
    positive = np.count_nonzero(scores)
    assert np.count_nonzero(np.take(scores, chosen)) == min(k, positive)


@pytest.mark.parametrize("level", [0.0, 1e-300, 0.7, 1e300])
def test_ties_of_a_hard_selection_are_broken_uniformly(level):
    scores = [level, 1e301, level, level, level]
    outcomes = selections(scores, 3, np.inf, 6000)
    pairs = [(1, *sorted(pair)) for pair in itertools.combinations([0, 2, 3, 4], 2)]
    assert chi_square(outcomes, uniformly(tuple(sorted(p)) for p in pairs)) > SUSPICIOUS


def test_a_candidate_keeps_its_luck_when_others_are_left_out():
    rng = np.random.default_rng(0)
    scores, hashes = rng.random(200), hashes_of(topo.stream(0), 200)
    chosen = topo.select(scores, 50, sharpness=1, hashes=hashes)
    losers = np.setdiff1d(np.arange(200), chosen)[::3]
    rest = np.setdiff1d(np.arange(200), losers)
    again = topo.select(scores[rest], 50, sharpness=1, hashes=hashes[rest])
    assert np.array_equal(rest[again], chosen)


@pytest.mark.parametrize(
    ("scores", "k", "sharpness", "message"),
    [
        ([1.0, 2.0], 3, 1, "k must be an integer from 0 to 2, not 3"),
        ([1.0, 2.0], -1, 1, "k must be an integer from 0 to 2, not -1"),
        ([1.0, np.nan], 1, 1, "1 of 2 scores are NaN"),
        ([1.0, np.nan], 1, np.inf, "NaN"),
        ([1.0, -2.0], 1, 1, "not be negative"),
        ([1.0, -2.0], 1, np.inf, "not be negative"),
        ([1.0, np.inf], 1, 1, "finite"),
        ([1.0, 2.0], 1, 0, "sharpness must be in"),
        ([1.0, 2.0], 1, -1, "sharpness must be in"),
        ([1.0, 2.0], 1, np.nan, "sharpness must be in"),
    ],
)
def test_selection_refuses(scores, k, sharpness, message):
    with pytest.raises(ValueError, match=message):
        topo.select(scores, k, sharpness=sharpness, hashes=hashes_of(0, len(scores)))


def test_nothing_out_of_nothing():
    full = topo.as_adjacency(np.ones((2, 3)))
    assert topo.sample_integers(0, 0, 5).tolist() == []
    assert [a.tolist() for a in topo.sample_absent(full, 0, 5)] == [[], []]


def test_hashes_broadcast_and_know_large_indices():
    key = topo.stream(0)
    assert topo.hash_links(key, [1, 2], 3).tolist() == topo.hash_links(key, [1, 2], [3, 3]).tolist()
    assert topo.hash_links(key, [2**32 + 1])[0] != topo.hash_links(key, [1])[0]
    with pytest.raises(ValueError, match="broadcast"):
        topo.hash_links(key, [1, 2, 3], [1, 2])


def test_names_of_streams():
    assert topo.stream(0, np.str_("fc"), np.int64(3)) == topo.stream(0, "fc", 3)
    with pytest.raises(ValueError, match=r"not 1\.5"):
        topo.stream(0, 1.5)


def test_select_checks_its_shapes():
    with pytest.raises(ValueError, match="equal in length"):
        topo.select([0.1, 0.2], 1, sharpness=1.0, hashes=topo.hash_links(0, [1]))
