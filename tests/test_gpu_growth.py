"""Selection and growth on a GPU are those on the CPU."""

import numpy as np
import pytest
import torch

import topo
from dst.growth import grow
from dst.selection import hash_links, select

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SHARPNESSES = [1.0, 9.0, np.inf]


def test_the_same_bits():
    rows, cols = np.random.default_rng(0).integers(0, 2**31, (2, 10**5), dtype=np.int32)
    for key in (0, topo.stream(0), 2**64 - 1):
        twins = hash_links(key, torch.tensor(rows).cuda(), torch.tensor(cols).cuda())
        expected = topo.hash_links(key, rows, cols)
        assert np.array_equal(twins.cpu().numpy().view(np.uint64), expected)


@pytest.mark.parametrize("sharpness", SHARPNESSES)
@pytest.mark.parametrize("kind", ["weights", "ties", "mostly zero", "all equal"])
def test_the_same_selection(kind, sharpness):
    a = topo.erdos_renyi(1024, 2048, 0.15, seed=0)
    rng = np.random.default_rng(0)
    scores = {
        "weights": np.abs(rng.normal(size=a.nnz)).astype(np.float32),
        "ties": rng.integers(0, 3, a.nnz) / 7,
        "mostly zero": rng.random(a.nnz) * (rng.random(a.nnz) < 0.2),
        "all equal": np.full(a.nnz, 0.3),
    }[kind]
    for k in (0, 1, a.nnz // 3, a.nnz - 1, a.nnz):
        options = {"sharpness": sharpness, "key": topo.stream(k), "adjacency": a}
        chosen = select(torch.tensor(scores).cuda(), k, **options)
        assert np.array_equal(chosen, select(torch.tensor(scores), k, **options))


@pytest.mark.parametrize("sharpness", SHARPNESSES)
@pytest.mark.parametrize("density", [0.01, 0.3])
def test_the_same_growth_by_a_dense_gradient(density, sharpness):
    a = topo.erdos_renyi(1000, 3000, density, seed=0)
    scores = torch.tensor(np.random.default_rng(0).normal(size=a.shape)).abs().float()
    for k in (0, 1, a.nnz, 3_000_000 - a.nnz):
        options = {"sharpness": sharpness, "seed": k}
        found = grow(a, k, scores.cuda(), **options, device="cuda")
        assert np.array_equal(found, grow(a, k, scores, **options, device="cpu"))


@pytest.mark.parametrize("name", topo.PREDICTORS)
@pytest.mark.parametrize("sharpness", SHARPNESSES)
def test_the_same_growth_by_a_predictor(name, sharpness):
    for density in (0.005, 0.1):
        a = topo.erdos_renyi(400, 900, density, seed=0)
        for k in (0, a.nnz // 3, 10**5):
            options = {"sharpness": sharpness, "seed": k}
            found = grow(a, k, topo.PREDICTORS[name], **options, device="cuda")
            expected = grow(a, k, topo.PREDICTORS[name], **options, device="cpu")
            first, second = (set(zip(*pair, strict=True)) for pair in (found, expected))
            assert len(first) == k
            # scores to sample from are in float32
            assert len(first & second) >= (1.0 if sharpness == np.inf else 0.999) * k


def test_memory_is_bounded():
    scores = torch.rand(8192, 8192, device="cuda")
    a = topo.erdos_renyi(8192, 8192, 0.02, seed=0)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    grow(a, a.nnz // 3, scores, sharpness=1.0, seed=0, device="cuda")
    grow(a, a.nnz // 3, scores, sharpness=np.inf, seed=0, device="cuda")
    assert torch.cuda.max_memory_allocated() - before < 2**30


def test_improper_scores_are_refused():
    a = topo.as_adjacency(np.eye(3))
    scores = torch.full((3, 3), torch.nan, device="cuda")
    with pytest.raises(ValueError, match="9 of 9 scores are NaN"):
        grow(a, 2, scores, sharpness=1.0, seed=0, device="cuda")
    with pytest.raises(ValueError, match="3 of 3 scores are NaN"):
        select(scores[0], 2, sharpness=1.0, key=0, adjacency=a)
