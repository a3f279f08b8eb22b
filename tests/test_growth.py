"""`dst.growth`: on the CPU it is `topo.grow`; the torch twin grows the same links."""

import importlib
import itertools

import numpy as np
import pytest
import torch
from scipy import stats

import topo
from dst.growth import grow, grow_on_device

pytestmark = pytest.mark.usefixtures("one_thread")

module = importlib.import_module("dst.growth")
SHARPNESSES = [1.0, 0.5, 9.0, np.inf]
SHAPES = [(31, 47), (60, 9), (1, 30)]


def layer(shape, density, seed=0):
    return topo.as_adjacency(np.random.default_rng(seed).random(shape) < density)


def cells(found):
    rows, cols = found
    return list(zip(rows.tolist(), cols.tolist(), strict=True))


def check(a, k, found, expected):
    rows, cols = found
    assert rows.dtype == cols.dtype == np.int32
    assert len(rows) == k
    assert not a.toarray()[rows, cols].any()
    assert cells(found) == cells(expected) == sorted(set(cells(found)))


def amounts(a):
    absent = a.shape[0] * a.shape[1] - a.nnz
    return sorted({0, 1, min(40, absent), absent // 2, absent - 1, absent})


@pytest.fixture
def blocks(monkeypatch):
    """Set the cells of a block, to another number at each call."""
    sizes = itertools.cycle([2**23, 300, 100, 1])
    return lambda: monkeypatch.setattr(module, "_BLOCK_CELLS", next(sizes))


def gradient(shape, kind="any", seed=0):
    """The magnitude of a dense gradient."""
    rng = np.random.default_rng(seed)
    values = {
        "any": np.abs(rng.normal(size=shape)),
        "ties": rng.integers(0, 3, shape) / 7,
        "few": rng.random(shape) * (rng.random(shape) < 0.03),
        "all zero": np.zeros(shape),
    }
    return torch.tensor(values[kind])


# ---- predictors ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", topo.PREDICTORS)
@pytest.mark.parametrize("sharpness", SHARPNESSES)
def test_with_a_predictor_both_ways_grow_as_topo_does(name, sharpness, blocks):
    for shape, density in itertools.product(SHAPES, (0.05, 0.4)):
        a = layer(shape, density)
        predictor = topo.PREDICTORS[name]
        for seed, k in enumerate(amounts(a)):
            expected = topo.grow(a, k, name, soft=sharpness, seed=seed)
            options = {"sharpness": sharpness, "seed": seed, "device": "cpu"}
            check(a, k, grow(a, k, predictor, **options), expected)
            blocks()
            found = grow_on_device(a, k, predictor, **options, dtype=torch.float64)
            check(a, k, found, expected)


@pytest.mark.parametrize("name", ["ch3_l3p", "ch2_l3n", "cn_l3", "degree_product"])
def test_ties_of_a_predictor_are_broken_as_in_topo(name):
    a = topo.as_adjacency(np.kron(np.eye(15), [[1, 1], [1, 0]]))  # fifteen corners alike
    for seed, k in itertools.product(range(5), (1, 7, 14, 20)):
        expected = topo.grow(a, k, name, soft=False, seed=seed)
        options = {"sharpness": np.inf, "seed": seed, "device": "cpu"}
        check(a, k, grow_on_device(a, k, topo.PREDICTORS[name], **options), expected)


@pytest.mark.parametrize("name", ["ch3_l3p", "ch2_l3n", "ra_l3"])
def test_the_twin_ranks_in_float64_and_samples_by_float32(name):
    a = layer((120, 150), 0.05)
    for sharpness, alike in ((np.inf, 1.0), (1.0, 0.999)):
        expected = set(cells(topo.grow(a, 2000, name, soft=sharpness, seed=3)))
        options = {"sharpness": sharpness, "seed": 3, "device": "cpu"}
        found = grow_on_device(a, 2000, topo.PREDICTORS[name], **options)
        assert len(expected & set(cells(found))) >= alike * 2000
    dtypes = []

    def spy(links, name, *, dtype):
        dtypes.append(dtype)
        return torch.ones(links.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "link_scores", spy)
        for sharpness in (np.inf, 1.0):
            options["sharpness"] = sharpness
            grow_on_device(a, 5, topo.PREDICTORS[name], **options)
    assert dtypes == [torch.float64, torch.float32]


def test_a_predictor_of_ones_own_is_not_taken_for_ours():
    def score_rows(layer, rows, out):
        out[:] = rows[:, None] + np.arange(out.shape[1])

    a = layer((9, 8), 0.3)
    mine = topo.Predictor("ch2_l3n", score_rows)
    for sharpness in (1.0, np.inf):
        expected = topo.grow(a, 11, mine, soft=sharpness, seed=2)
        for way in (grow, grow_on_device):
            check(a, 11, way(a, 11, mine, sharpness=sharpness, seed=2, device="cpu"), expected)


# ---- dense scores ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", [grow, grow_on_device])
@pytest.mark.parametrize("sharpness", SHARPNESSES)
@pytest.mark.parametrize("kind", ["any", "ties", "few", "all zero"])
def test_with_dense_scores_both_ways_grow_the_same(kind, sharpness, way, blocks):
    for shape, density in itertools.product(SHAPES, (0.02, 0.4)):
        a, scores = layer(shape, density), gradient(shape, kind)
        absent = np.nonzero(~a.toarray())
        positive = int((scores.numpy()[absent] > 0).sum())
        for seed, k in enumerate([*amounts(a), positive]):
            expected = topo.grow(a, k, scores.numpy(), soft=sharpness, seed=seed)
            blocks()
            found = way(a, k, scores, sharpness=sharpness, seed=seed, device="cpu")
            check(a, k, found, expected)
            if k <= positive:  # the same as a selection among all absent links
                hashes = topo.hash_links(topo.stream(seed, "grow"), *absent)
                best = topo.select(scores.numpy()[absent], k, sharpness=sharpness, hashes=hashes)
                assert cells(found) == cells((absent[0][best], absent[1][best]))


@pytest.mark.parametrize("way", [grow, grow_on_device])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dense_scores_of_any_precision_and_layout(dtype, way):
    a = layer((40, 30), 0.3)
    scores = gradient((30, 40)).to(dtype).T.requires_grad_()
    before = scores.detach().clone()
    for sharpness in SHARPNESSES:
        expected = topo.grow(a, 99, before.double().numpy(), soft=sharpness, seed=1)
        found = way(a, 99, scores, sharpness=sharpness, seed=1, device="cpu")
        check(a, 99, found, expected)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("way", [grow, grow_on_device])
def test_equal_scores_are_equal_whatever_the_order_of_their_sums(way):
    a = topo.as_adjacency(np.zeros((2, 2)))
    scores = torch.tensor([[0.1 + 0.2, 0.3], [0.25, 0.3 * (1 + 1e-11)]], dtype=torch.float64)
    won = {
        tuple(cells(way(a, 2, scores, sharpness=np.inf, seed=seed, device="cpu")))
        for seed in range(50)
    }
    assert won == {((0, 0), (1, 1)), ((0, 1), (1, 1))}


@pytest.mark.parametrize("way", [grow, grow_on_device])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_soft_growth_is_sequential_sampling_without_replacement(way, power):
    a = topo.as_adjacency([[1, 0, 0], [0, 1, 0]])
    scores = torch.tensor([[9.0, 1.0, 2.0], [1.5, 9.0, 0.0]])
    weights = {(v, u): float(scores[v, u]) ** power for v, u in [(0, 1), (0, 2), (1, 0)]}
    total = sum(weights.values())
    odds = {}
    for one, two in itertools.combinations(sorted(weights), 2):
        x, y = weights[one] / total, weights[two] / total
        odds[one, two] = x * y / (1 - x) + y * x / (1 - y)
    counts = dict.fromkeys(odds, 0)
    n = 1500
    for seed in range(n):
        counts[tuple(cells(way(a, 2, scores, sharpness=power, seed=seed, device="cpu")))] += 1
    expected = [n * p for p in odds.values()]
    assert stats.chisquare(list(counts.values()), expected).pvalue > 1e-4


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [grow, grow_on_device])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "1 of 6 scores are NaN"),
        (-1.0, "scores must not be negative; the smallest is -1.0"),
        (np.inf, "scores must be finite; 1 of 6 are infinite"),
    ],
)
def test_improper_scores_are_refused(value, message, way):
    a = topo.as_adjacency([[1, 0, 0], [0, 1, 0]])
    for cell, sharpness in itertools.product([(0, 0), (1, 2)], [1.0, np.inf]):
        scores = torch.ones(2, 3)
        scores[cell] = value
        with pytest.raises(ValueError, match=message):
            way(a, 2, scores, sharpness=sharpness, seed=0, device="cpu")


@pytest.mark.parametrize("way", [grow, grow_on_device])
@pytest.mark.parametrize("score", [topo.PREDICTORS["ch2_l3n"], torch.ones(2, 3)])
def test_impossible_arguments_are_refused(score, way):
    a = topo.as_adjacency([[1, 0, 0], [0, 1, 0]])
    for k, sharpness, message in (
        (5, 1.0, "k must be an integer from 0 to 4, not 5"),
        (-1, 1.0, "k must be an integer from 0 to 4, not -1"),
        (2, 0.0, "sharpness must be in"),
        (2, np.nan, "sharpness must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            way(a, k, score, sharpness=sharpness, seed=0, device="cpu")
    with pytest.raises(ValueError, match=r"scores must have the layer's shape \(2, 3\), not \(3,"):
        way(a, 2, torch.ones(3, 2), sharpness=1.0, seed=0, device="cpu")
