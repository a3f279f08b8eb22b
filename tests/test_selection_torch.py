"""`dst.selection`: on the CPU it is `topo.select`; the torch twin selects the same links."""

import numpy as np
import pytest
import torch

import topo
from dst.selection import hash_links, race_keys, select, select_on_device

pytestmark = pytest.mark.usefixtures("one_thread")

SHARPNESSES = [1.0, 0.5, 9.0, np.inf]
KEYS = [topo.stream(0), 0, 1, 2**63 - 1, 2**63, 2**64 - 1]


def twin(scores, k, **options):
    return select_on_device(scores, k, **options).numpy()


def reference(scores, k, sharpness, key, adjacency):
    hashes = topo.hash_links(key, *topo.links(adjacency))
    chosen = np.zeros(adjacency.nnz, bool)
    values = scores.double().numpy()
    chosen[topo.select(values, k, sharpness=sharpness, hashes=hashes)] = True
    return chosen


@pytest.mark.parametrize("key", KEYS)
def test_the_twin_draws_the_same_bits(key):
    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, 2**31, (2, 5000), dtype=np.int32)
    rows[:3], cols[:3] = (0, 1, 2**31 - 1), (0, 2**31 - 1, 2**31 - 1)
    twins = hash_links(key, torch.tensor(rows), torch.tensor(cols))
    assert np.array_equal(twins.numpy().view(np.uint64), topo.hash_links(key, rows, cols))
    grid = hash_links(key, torch.arange(4)[:, None], torch.arange(3))
    expected = topo.hash_links(key, np.repeat(range(4), 3), np.tile(range(3), 4))
    assert np.array_equal(grid.flatten().numpy().view(np.uint64), expected)


def test_a_hash_leaves_its_arguments_alone():
    rows, cols = torch.arange(5), torch.arange(5)
    hash_links(3, rows, cols)
    assert torch.equal(rows, torch.arange(5))
    assert torch.equal(cols, torch.arange(5))


def test_race_keys_are_those_of_topo():
    a = topo.erdos_renyi(50, 60, 0.5, seed=0)
    scores = np.random.default_rng(0).random(a.nnz) ** 9
    scores[:9] = 0
    rows, cols = topo.links(a)
    expected = topo.selection.race_keys(scores, 3.0, topo.hash_links(7, rows, cols))
    keys = race_keys(torch.tensor(scores), 3.0, 7, torch.tensor(rows), torch.tensor(cols))
    np.testing.assert_allclose(keys, expected, rtol=1e-13)


def scores_of(kind, n):
    rng = np.random.default_rng(n)
    values = {
        "weights": np.abs(rng.normal(size=n)),
        "ties": rng.integers(0, 3, n) / 7,
        "mostly zero": rng.random(n) * (rng.random(n) < 0.2),
        "all zero": np.zeros(n),
        "all equal": np.full(n, 0.3),
        "tiny": 1e-300 * rng.random(n),
        "huge": 1e300 * (1 + rng.random(n)),
    }
    return torch.tensor(values[kind])


@pytest.mark.parametrize("way", [select, twin])
@pytest.mark.parametrize("sharpness", SHARPNESSES)
@pytest.mark.parametrize(
    "kind", ["weights", "ties", "mostly zero", "all zero", "all equal", "tiny", "huge"]
)
def test_the_selection_is_that_of_topo(kind, sharpness, way):
    for shape, density in (((37, 61), 0.2), ((1, 30), 0.5), ((90, 17), 0.9), ((3, 4), 0.1)):
        a = topo.erdos_renyi(*shape, density, seed=1)
        scores = scores_of(kind, a.nnz)
        for k in {0, 1, a.nnz // 3, a.nnz - 1, a.nnz}:
            options = {"sharpness": sharpness, "key": topo.stream(k, *shape), "adjacency": a}
            chosen = way(scores, k, **options)
            assert chosen.dtype == bool
            assert chosen.sum() == k
            assert np.array_equal(chosen, reference(scores, k, **options))


@pytest.mark.parametrize("way", [select, twin])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_in_any_precision(dtype, way):
    a = topo.erdos_renyi(40, 50, 0.4, seed=1)
    scores = scores_of("weights", a.nnz).to(dtype).requires_grad_()
    for sharpness in SHARPNESSES:
        options = {"sharpness": sharpness, "key": 5, "adjacency": a}
        chosen = way(scores.detach() if way is twin else scores, 300, **options)
        assert np.array_equal(chosen, reference(scores.detach(), 300, **options))


def test_links_are_ranked_in_float64_whatever_the_scores_are_in():
    """In float32 the luck of 1,000 links would be lost next to a million times log(score)."""
    a = topo.erdos_renyi(40, 50, 0.5, seed=1)
    scores = scores_of("all equal", a.nnz).float()
    options = {"sharpness": 1e6, "key": 3, "adjacency": a}
    assert np.array_equal(twin(scores, 300, **options), reference(scores, 300, **options))


@pytest.mark.parametrize("way", [select, twin])
def test_a_selection_leaves_the_scores_alone(way):
    a = topo.erdos_renyi(40, 50, 0.4, seed=1)
    scores = scores_of("weights", a.nnz)
    before = scores.clone()
    for sharpness in SHARPNESSES:
        way(scores, 300, sharpness=sharpness, key=5, adjacency=a)
        assert torch.equal(scores, before)


@pytest.mark.parametrize("way", [select, twin])
def test_a_layer_without_links(way):
    a = topo.as_adjacency(np.zeros((3, 4)))
    assert way(torch.zeros(0), 0, sharpness=1.0, key=5, adjacency=a).shape == (0,)


@pytest.mark.parametrize("way", [select, twin])
@pytest.mark.parametrize(
    ("scores", "k", "sharpness", "message"),
    [
        ([1.0, 2.0], 3, 1.0, "k must be an integer from 0 to 2, not 3"),
        ([1.0, 2.0], -1, 1.0, "k must be an integer from 0 to 2, not -1"),
        ([1.0, np.nan], 1, 1.0, "1 of 2 scores are NaN: nothing to rank by"),
        ([np.nan, -1.0], 1, np.inf, "1 of 2 scores are NaN"),
        ([1.0, -2.0], 1, 1.0, "scores must not be negative; the smallest is -2.0"),
        ([1.0, -2.0], 1, np.inf, "scores must not be negative"),
        ([1.0, np.inf], 1, 1.0, "scores must be finite; 1 of 2 are infinite"),
        ([1.0, 2.0], 1, 0.0, "sharpness must be in"),
        ([1.0, 2.0], 1, np.nan, "sharpness must be in"),
        ([1.0, 2.0, 3.0], 1, 1.0, "one-dimensional"),
        ([[1.0, 2.0]], 1, 1.0, "one-dimensional"),
    ],
)
def test_both_ways_refuse(scores, k, sharpness, message, way):
    a = topo.as_adjacency([[1, 0, 1]])
    with pytest.raises(ValueError, match=message):
        way(torch.tensor(scores), k, sharpness=sharpness, key=0, adjacency=a)


@pytest.mark.parametrize("way", [select, twin])
def test_infinite_scores_may_be_ranked(way):
    a = topo.as_adjacency([[1, 0, 1]])
    chosen = way(torch.tensor([1.0, np.inf]), 1, sharpness=np.inf, key=0, adjacency=a)
    assert chosen.tolist() == [False, True]
