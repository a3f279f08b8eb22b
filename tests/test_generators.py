import itertools
import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

import topo

SIZES = st.one_of(st.integers(1, 12), st.integers(1, 60))  # small, wide, tall and 1-row shapes
SEEDS = st.integers(-5, 10**9)


@st.composite
def layers(draw):
    """(n_out, n_in, density) that leave at least one link."""
    n_out, n_in = draw(SIZES), draw(SIZES)
    least = min(1, 0.6 / (n_out * n_in))
    density = st.one_of(st.floats(least, 1), st.floats(least, min(1, 20 * least)))
    return n_out, n_in, draw(density)


def cells(a):
    return tuple(np.flatnonzero(a.toarray()).tolist())


def chi_square(outcomes, probabilities):
    counts = dict.fromkeys(probabilities, 0)
    for outcome in outcomes:
        counts[outcome] += 1
    expected = np.array(list(probabilities.values())) * len(outcomes)
    return stats.chisquare(list(counts.values()), expected).pvalue


def nearest_windows(n_out, n_in, links):
    """The lattice, brute force: neuron j of the larger side links to the nearest of the other.

    Of two equally near the one before it on the ring comes first; degrees follow the line
    j * links / large, so that they are evenly mixed.
    """
    large, small = max(n_out, n_in), min(n_out, n_in)
    dense = np.zeros((large, small), dtype=bool)
    for j in range(large):
        position = Fraction(j * small, large)

        def offset(i, position=position):
            half = Fraction(small, 2)
            return (i - position + half) % small - half

        nearest = sorted(range(small), key=lambda i: (abs(offset(i)), offset(i)))
        degree = (j + 1) * links // large - j * links // large
        dense[j, nearest[:degree]] = True
    return dense if n_out >= n_in else dense.T


# every generator that takes a density


@pytest.mark.parametrize("name", topo.GENERATORS)
@settings(max_examples=100, deadline=None)
@given(layers(), SEEDS)
@example((1, 1, 1.0), 0)
@example((1, 90, 0.5), 0)
@example((90, 1, 0.5), 0)
@example((1, 90, 1.0), 0)
@example((90, 1, 1.0), 0)
@example((17, 40, 1.0), 0)
@example((31, 8, 0.99), 0)
def test_exactly_the_links_of_the_density(name, layer, seed):
    n_out, n_in, density = layer
    a = topo.GENERATORS[name](n_out, n_in, density, seed=seed)
    assert isinstance(a, sparse.csr_array)
    assert topo.as_adjacency(a) is a  # canonical, as it says itself
    assert (np.diff(topo.adjacency.link_keys(a)) > 0).all()
    assert (a.shape, a.nnz) == ((n_out, n_in), round(density * n_out * n_in))


@pytest.mark.parametrize("name", topo.GENERATORS)
def test_a_function_of_the_seed(name):
    def make(seed):
        return cells(topo.GENERATORS[name](40, 30, 0.1, seed=seed))

    assert make(1) == make(1)
    assert len({make(seed) for seed in range(20)}) == 20


@pytest.mark.parametrize("name", topo.GENERATORS)
def test_generators_are_found_by_name(name):
    assert topo.GENERATORS[name] is getattr(topo, name)


@pytest.mark.parametrize("name", topo.GENERATORS)
def test_numpy_numbers_do_as_well_as_pythons(name):
    generate = topo.GENERATORS[name]
    a = generate(np.int64(9), np.int32(5), np.float64(0.3), seed=np.int64(2))
    assert cells(a) == cells(generate(9, 5, 0.3, seed=2))


@pytest.mark.parametrize("name", topo.GENERATORS)
def test_memory_is_in_proportion_to_the_links(name):
    resource = pytest.importorskip("resource")
    topo.GENERATORS[name](8, 8, 0.5, seed=0)  # compiled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    a = topo.GENERATORS[name](60_000, 50_000, 1e-5, seed=0)
    assert a.nnz == 30_000
    in_kilobytes = 1 if sys.platform == "linux" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / in_kilobytes < 100_000


@pytest.mark.parametrize("name", topo.GENERATORS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 4, 0.0), "density must be in"),
        ((4, 4, 1.5), "density must be in"),
        ((4, 4, 0.01), "leaves no link in a layer of 4 x 4"),
        ((0, 4, 0.5), "n_out must be a positive integer"),
        ((4, 2.0, 0.5), "n_in must be a positive integer"),
    ],
)
def test_impossible_layers_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        topo.GENERATORS[name](*arguments, seed=0)


@pytest.mark.parametrize("name", topo.GENERATORS)
@pytest.mark.parametrize("seed", [None, 0.5, "0"])
def test_a_seed_that_is_no_integer_is_refused(name, seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        topo.GENERATORS[name](4, 4, 0.5, seed=seed)


# Erdos-Renyi and the small world


@settings(max_examples=100, deadline=None)
@given(layers(), SEEDS, st.sampled_from([0, 0.01, 0.25, 0.5, 0.9, 1]))
@example((1, 1, 1.0), 0, 1)
@example((1, 90, 0.5), 0, 0.25)
@example((90, 1, 0.5), 0, 0.25)
@example((8, 8, 1.0), 0, 0.5)
def test_rewiring_keeps_the_number_of_links_and_the_links_it_does_not_choose(layer, seed, beta):
    n_out, n_in, density = layer
    links = round(density * n_out * n_in)
    a = topo.small_world(n_out, n_in, density, beta=beta, seed=seed)
    assert topo.as_adjacency(a) is a
    assert (np.diff(topo.adjacency.link_keys(a)) > 0).all()
    assert (a.shape, a.nnz) == ((n_out, n_in), links)
    kept = np.count_nonzero(a.toarray() & nearest_windows(n_out, n_in, links))
    assert kept >= links - round(beta * links)


@settings(max_examples=100, deadline=None)
@given(layers())
@example((4, 4, 0.5))
@example((1, 7, 0.5))
@example((7, 1, 0.5))
@example((3, 4, 0.99))
@example((2, 9, 1.0))
def test_the_lattice_is_a_window_of_the_nearest_nodes(layer):
    n_out, n_in, density = layer
    links = round(density * n_out * n_in)
    lattice = topo.small_world(n_out, n_in, density, beta=0, seed=0).toarray()
    assert np.array_equal(lattice, nearest_windows(n_out, n_in, links))


@settings(max_examples=100, deadline=None)
@given(layers())
def test_lattice_degrees_are_floor_and_ceiling_evenly_mixed(layer):
    n_out, n_in, density = layer
    links = round(density * n_out * n_in)
    lattice = topo.small_world(n_out, n_in, density, beta=0, seed=0).toarray()
    degrees = lattice.sum(1 if n_out >= n_in else 0)
    mean = Fraction(links, len(degrees))
    assert set(degrees.tolist()) <= {math.floor(mean), math.ceil(mean)}
    for j, so_far in enumerate(np.cumsum(degrees).tolist(), start=1):
        assert abs(so_far - j * mean) < 1


def test_the_lattice_treats_both_sides_alike():
    wide = topo.small_world(7, 12, 0.3, beta=0, seed=0)
    tall = topo.small_world(12, 7, 0.3, beta=0, seed=0)
    assert np.array_equal(wide.toarray(), tall.toarray().T)


def test_the_lattice_ignores_the_seed_and_rewiring_does_not():
    def make(beta, seed):
        return cells(topo.small_world(20, 30, 0.1, beta=beta, seed=seed))

    assert make(0, 1) == make(0, 2)
    assert len({make(0.25, seed) for seed in range(20)}) == 20
    assert make(0.25, 3) == make(0.25, 3)


@pytest.mark.parametrize(
    "generate",
    [
        lambda seed: topo.erdos_renyi(2, 3, 0.5, seed=seed),
        lambda seed: topo.small_world(2, 3, 0.5, beta=1, seed=seed),
        lambda seed: topo.small_world(3, 2, 0.5, beta=1, seed=seed),
        lambda seed: topo.erdos_renyi(1, 6, 2 / 3, seed=seed),
        lambda seed: topo.small_world(1, 6, 2 / 3, beta=1, seed=seed),
    ],
)
def test_every_layer_is_equally_likely_without_a_lattice(generate):
    outcomes = [cells(generate(seed)) for seed in range(4000)]
    every = list(itertools.combinations(range(6), len(outcomes[0])))
    assert chi_square(outcomes, dict.fromkeys(every, 1 / len(every))) > 1e-4


def test_one_rewired_link_is_any_and_goes_to_any_empty_cell_its_own_included():
    lattice = set(cells(topo.small_world(3, 4, 0.5, beta=0, seed=0)))
    empty = set(range(12)) - lattice
    odds = {tuple(sorted(lattice)): 1 / 7}
    for cut, new in itertools.product(lattice, empty):
        odds[tuple(sorted(lattice - {cut} | {new}))] = 1 / 42
    outcomes = [cells(topo.small_world(3, 4, 0.5, beta=1 / 6, seed=seed)) for seed in range(5000)]
    assert chi_square(outcomes, odds) > 1e-4


@pytest.mark.parametrize("beta", [0.1, 0.25, 0.6, 1.0])
def test_as_many_lattice_links_survive_as_rewiring_leaves_on_average(beta):
    lattice = topo.small_world(60, 80, 0.1, beta=0, seed=0)
    links, size = lattice.nnz, 60 * 80
    moved = round(beta * links)
    came_back = moved * moved / (size - links + moved)
    survivors = [
        topo.small_world(60, 80, 0.1, beta=beta, seed=seed).multiply(lattice).nnz
        for seed in range(200)
    ]
    error = np.std(survivors) / math.sqrt(len(survivors))
    assert abs(np.mean(survivors) - (links - moved + came_back)) < 4 * error


def test_results_are_the_same_on_every_machine():
    assert cells(topo.erdos_renyi(4, 6, 0.25, seed=0)) == (1, 5, 6, 7, 13, 20)
    assert cells(topo.erdos_renyi(3, 3, 0.7, seed=-1)) == (0, 1, 3, 5, 6, 7)
    assert cells(topo.small_world(5, 8, 0.3, beta=0.25, seed=1)) == (
        0,
        8,
        9,
        10,
        19,
        20,
        25,
        29,
        35,
        37,
        38,
        39,
    )
    assert cells(topo.small_world(3, 7, 0.4, beta=0, seed=1)) == (0, 1, 6, 9, 10, 18, 19, 20)


def test_beta_is_a_quarter_by_default():
    default = topo.small_world(9, 14, 0.2, seed=4)
    assert cells(default) == cells(topo.small_world(9, 14, 0.2, beta=0.25, seed=4))


@pytest.mark.parametrize("generate", [topo.erdos_renyi, topo.small_world])
def test_links_of_large_layers_are_everywhere(generate):
    a = generate(60_000, 50_000, 1e-5, seed=0)
    rows, cols = topo.links(a)
    assert stats.kstest((rows + 0.5) / 60_000, "uniform").pvalue > 1e-4
    assert stats.kstest((cols + 0.5) / 50_000, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan"), "0.5", None, True])
def test_an_impossible_beta_is_refused(beta):
    with pytest.raises(ValueError, match="beta, the share of rewired links"):
        topo.small_world(4, 4, 0.5, beta=beta, seed=0)
