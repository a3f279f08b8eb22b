import hashlib
import itertools
import math
from collections import Counter
from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

import topo

MODULE = import_module("topo.generators.receptive_field")  # the package has the function
SIZES = st.one_of(st.integers(1, 12), st.integers(1, 60))
RANDOMNESS = st.sampled_from([0, 5e-324, 1e-9, 0.01, 0.1, 0.25, 0.5, 0.9, 1])


@st.composite
def layers(draw):
    """(n_out, n_in, density) that leave at least one link."""
    n_out, n_in = draw(SIZES), draw(SIZES)
    least = min(1, 0.6 / (n_out * n_in))
    density = st.one_of(st.floats(least, 1), st.floats(least, min(1, 20 * least)))
    return n_out, n_in, draw(density)


def inputs(a, row):
    return tuple(a.indices[a.indptr[row] : a.indptr[row + 1]].tolist())


def offsets(n_out, n_in, row):
    """Where every input is on the ring, seen from the output neuron: from -n_in/2 on."""
    half = Fraction(n_in, 2)
    return [(i - Fraction(row * n_in, n_out) + half) % n_in - half for i in range(n_in)]


def weights(n_out, n_in, row, r):
    return [(1 + abs(float(o))) ** (-(1 - r) / r) for o in offsets(n_out, n_in, row)]


def sequential(weight, k):
    """The odds of every set of k, drawn one after the other without replacement."""
    odds = Counter()
    for order in itertools.permutations(range(len(weight)), k):
        left, p = sum(weight), 1.0
        for i in order:
            p *= weight[i] / left
            left -= weight[i]
        odds[tuple(sorted(order))] += p
    return odds


def chi_square(outcomes, odds):
    """P-value of the outcomes; the rare ones are lumped together."""
    counts = Counter(outcomes)
    assert set(counts) <= {outcome for outcome, p in odds.items() if p > 0}
    observed, expected = [0], [0.0]
    for outcome, p in odds.items():
        if p * len(outcomes) < 5:
            observed[0] += counts[outcome]
            expected[0] += p * len(outcomes)
        else:
            observed.append(counts[outcome])
            expected.append(p * len(outcomes))
    if expected[0] < 1:
        assert observed[0] < 10
        observed, expected = observed[1:], expected[1:]
    if len(expected) < 2:
        return 1.0
    expected = np.array(expected) / sum(expected) * sum(observed)
    return stats.chisquare(observed, expected).pvalue


# r = 0 and r close to it


def test_a_layer_by_hand():
    # p = 0, 1.5 and 3, three links each; 1.5 is as near to 0 as to 3: the one before it comes first
    a = topo.receptive_field(3, 6, 0.5, r=0, seed=0).toarray().astype(int).tolist()
    assert a == [[1, 1, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
    b = topo.receptive_field(4, 6, 0.5, r=0, seed=0).toarray().astype(int).tolist()
    assert b == [[1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    c = topo.receptive_field(2, 4, 0.5, r=0, seed=0).toarray().astype(int).tolist()
    assert c == [[1, 0, 0, 1], [0, 1, 1, 0]]


@settings(max_examples=100, deadline=None)
@given(layers(), st.sampled_from(["fixed", "uniform"]))
@example((7, 1, 0.5), "fixed")
@example((2, 9, 1.0), "uniform")
def test_without_randomness_the_nearest(layer, degrees):
    n_out, n_in, density = layer
    a = topo.receptive_field(n_out, n_in, density, r=0, degrees=degrees, seed=3)
    assert topo.as_adjacency(a) is a
    for row in range(n_out):
        offset = offsets(n_out, n_in, row)
        nearest = sorted(range(n_in), key=lambda i: (abs(offset[i]), offset[i]))
        assert inputs(a, row) == tuple(sorted(nearest[: len(inputs(a, row))]))


@settings(max_examples=100, deadline=None)
@given(layers(), st.sampled_from([5e-324, 1e-300, 1e-30, 1e-12]))
def test_with_next_to_none_the_nearest_but_for_ties(layer, r):
    n_out, n_in, density = layer
    a = topo.receptive_field(n_out, n_in, density, r=r, seed=3)
    for row in range(n_out):
        far = [abs(o) for o in offsets(n_out, n_in, row)]
        assert sorted(far[i] for i in inputs(a, row)) == sorted(far)[: len(inputs(a, row))]


@pytest.mark.parametrize("r", [5e-324, 1e-12, 1e-3])
def test_with_next_to_none_ties_are_broken_evenly(r):
    # the second of two links is as near on either side
    outcomes = [inputs(topo.receptive_field(1, 50, 0.04, r=r, seed=s), 0) for s in range(400)]
    assert set(outcomes) == {(0, 1), (0, 49)}
    assert abs(Counter(outcomes)[0, 1] - 200) < 40


# the distribution


@pytest.mark.parametrize("r", [0.05, 0.1, 0.3, 0.5, 0.8, 1])
@pytest.mark.parametrize(
    ("n_out", "n_in", "k"), [(3, 7, 3), (2, 5, 2), (4, 6, 1), (5, 8, 2), (1, 9, 2)]
)
def test_exactly_sequential_sampling(n_out, n_in, k, r):
    drawn = [topo.receptive_field(n_out, n_in, k / n_in, r=r, seed=s) for s in range(1000)]
    for row in range(n_out):
        odds = sequential(weights(n_out, n_in, row, r), k)
        assert chi_square([inputs(a, row) for a in drawn], odds) > 1e-5


@pytest.mark.parametrize("horizon", [-2.0, -1.0, 0.0])
def test_who_came_in_the_first_period_stays(horizon, monkeypatch):
    # all four are likely to arrive in the second, so that two of them are too many
    monkeypatch.setattr(MODULE, "_horizon", lambda *_: horizon)
    drawn = [inputs(topo.receptive_field(1, 4, 0.5, r=0.25, seed=s), 0) for s in range(20_000)]
    assert chi_square(drawn, sequential(weights(1, 4, 0, 0.25), 2)) > 1e-4


@pytest.mark.parametrize("r", [0.2, 0.5, 0.8, 1])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("horizon", [None, -4.0, -1.5])
def test_jumps_and_further_periods_change_no_odds(k, r, horizon, monkeypatch):
    n_in = 40
    if horizon:  # before enough inputs have arrived: some in the first period, some later
        monkeypatch.setattr(MODULE, "_horizon", lambda *_: horizon)
    odds = sequential(weights(1, n_in, 0, r), k)
    drawn = [inputs(topo.receptive_field(1, n_in, k / n_in, r=r, seed=s), 0) for s in range(4000)]
    assert chi_square(drawn, odds) > 1e-4


def test_far_inputs_are_jumped_over_and_still_found():
    # 2 of 4000 inputs with weights 1 / (1 + d): most of them are far
    n_out, n_in = 2000, 4000
    a = topo.receptive_field(n_out, n_in, 2 / n_in, r=0.5, seed=0)
    p = np.array(weights(n_out, n_in, 0, 0.5))
    p /= p.sum()
    odds = p / (1 - p)
    drawn = p + p * (odds.sum() - odds)  # first, or second after another
    rows, cols = topo.links(a)
    bins = [0, 1, 3, 10, 30, 100, 300, 1000, 2001]

    def ring(i):
        return np.minimum(i % n_in, -i % n_in)

    observed = np.histogram(ring(cols - 2 * rows), bins)[0]
    expected = np.histogram(ring(np.arange(n_in)), bins, weights=drawn * n_out)[0]
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("horizon", [None, -4.0, -2.4])
def test_with_all_randomness_every_input_is_as_likely(horizon, monkeypatch):
    if horizon:
        monkeypatch.setattr(MODULE, "_horizon", lambda *_: horizon)
    a = topo.receptive_field(500, 300, 0.1, r=1, seed=0)
    assert set(np.diff(a.indptr)) == {30}
    degrees = np.bincount(a.indices, minlength=300)
    # the variance of a column is that of 500 draws of 30 out of 300
    assert stats.chisquare(degrees).statistic / 0.9 == pytest.approx(299, abs=4 * math.sqrt(598))
    both = (a.astype(float) @ a.T.astype(float)).toarray()[np.triu_indices(500, 1)]
    expected = stats.hypergeom(300, 30, 30)
    counts = np.bincount(both.astype(int), minlength=9)
    counts[8] = counts[8:].sum()
    p = np.append(expected.pmf(np.arange(8)), expected.sf(7))
    assert stats.chisquare(counts[:9], p * len(both)).pvalue > 1e-4


def test_the_less_random_the_nearer():
    def mean_distance(r):
        rows, cols = topo.links(topo.receptive_field(300, 500, 0.05, r=r, seed=1))
        away = (cols - rows * 500 / 300) % 500
        return np.minimum(away, 500 - away).mean()

    distances = [mean_distance(r) for r in (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1)]
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(25 / 4, abs=0.1)  # a window of 25
    assert distances[-1] == pytest.approx(125, abs=2)


def test_r_is_a_tenth_and_degrees_are_fixed_by_default():
    default = topo.receptive_field(30, 40, 0.2, seed=4)
    given = topo.receptive_field(30, 40, 0.2, r=0.1, degrees="fixed", seed=4)
    assert np.array_equal(default.toarray(), given.toarray())


# degrees


@settings(max_examples=100, deadline=None)
@given(layers(), RANDOMNESS)
def test_fixed_degrees_are_floor_and_ceiling_evenly_mixed(layer, r):
    n_out, n_in, density = layer
    a = topo.receptive_field(n_out, n_in, density, r=r, seed=0)
    mean = Fraction(a.nnz, n_out)
    assert a.nnz == round(density * n_out * n_in)
    for row, so_far in enumerate(a.indptr.tolist()):
        assert abs(so_far - row * mean) < 1


@settings(max_examples=100, deadline=None)
@given(layers(), RANDOMNESS, st.integers(0, 9))
@example((5, 4, 1.0), 0.1, 0)
@example((5, 4, 0.95), 0.1, 0)
@example((9, 1, 1.0), 0.1, 0)
@example((9, 1, 0.5), 0.1, 0)
def test_uniform_degrees_have_one_link_each_where_there_are_enough(layer, r, seed):
    n_out, n_in, density = layer
    a = topo.receptive_field(n_out, n_in, density, r=r, degrees="uniform", seed=seed)
    degrees = np.diff(a.indptr)
    assert a.nnz == round(density * n_out * n_in)
    assert degrees.max() <= n_in
    assert (degrees.min() >= 1) if a.nnz >= n_out else (degrees.max() == 1)


def dealt(n_out, n_in, links):
    """The odds of every sequence of degrees, link by link."""
    odds = {(1,) * n_out: 1.0}
    for _ in range(links - n_out):
        after = Counter()
        for degrees, p in odds.items():
            free = [i for i in range(n_out) if degrees[i] < n_in]
            for i in free:
                after[degrees[:i] + (degrees[i] + 1,) + degrees[i + 1 :]] += p / len(free)
        odds = after
    return odds


@pytest.mark.parametrize(("n_out", "n_in", "links"), [(3, 3, 6), (3, 2, 5), (2, 6, 7), (4, 3, 9)])
def test_every_further_link_goes_to_any_output_neuron_that_is_not_full(n_out, n_in, links):
    density = links / (n_out * n_in)
    drawn = [
        topo.receptive_field(n_out, n_in, density, degrees="uniform", seed=s) for s in range(4000)
    ]
    outcomes = [tuple(np.diff(a.indptr).tolist()) for a in drawn]
    assert chi_square(outcomes, dealt(n_out, n_in, links)) > 1e-4


def test_too_few_links_for_one_each_go_to_any():
    drawn = [topo.receptive_field(5, 3, 2 / 15, degrees="uniform", seed=s) for s in range(2000)]
    pairs = dict.fromkeys(itertools.combinations(range(5), 2), 0.1)
    assert chi_square([tuple(np.flatnonzero(np.diff(a.indptr))) for a in drawn], pairs) > 1e-4


# reproducibility and errors


def test_results_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for r, degrees in itertools.product((0, 0.1, 0.5, 1), ("fixed", "uniform")):
        a = topo.receptive_field(130, 170, 0.07, r=r, degrees=degrees, seed=5)
        digest.update(a.indptr.astype("<i4").tobytes() + a.indices.astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == "83d52821ac024d31"


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads, monkeypatch):
    expected = topo.receptive_field(40, 50, 0.2, seed=2)
    monkeypatch.setattr(MODULE, "thread_count", lambda: threads)
    monkeypatch.setattr(MODULE, "_SMALL_BLOCK", 1)
    again = topo.receptive_field(40, 50, 0.2, seed=2)
    assert np.array_equal(again.toarray(), expected.toarray())


@pytest.mark.parametrize("r", [-0.1, 1.1, float("nan"), "0.5", None, True])
def test_an_impossible_r_is_refused(r):
    with pytest.raises(ValueError, match=r"r, the randomness .*, must be in \[0, 1\], not"):
        topo.receptive_field(4, 4, 0.5, r=r, seed=0)


@pytest.mark.parametrize("degrees", ["Fixed", None, 3])
def test_unknown_degrees_are_refused(degrees):
    with pytest.raises(ValueError, match="degrees must be 'fixed' or 'uniform', not"):
        topo.receptive_field(4, 4, 0.5, degrees=degrees, seed=0)


@pytest.mark.parametrize("degrees", ["fixed", "uniform"])
def test_a_wrong_seed_is_refused_where_none_is_needed(degrees):
    with pytest.raises(ValueError, match="seed must be an integer"):
        topo.receptive_field(4, 4, 0.5, r=0, degrees=degrees, seed=None)
