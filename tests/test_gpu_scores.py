"""Link scores on a GPU: exact products whatever torch is allowed."""

import importlib

import numpy as np
import pytest
import torch

import topo
from dst import exact_products
from dst.link_scores import link_scores

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

module = importlib.import_module("dst.link_scores")  # `dst.link_scores` may be the function
NAMES = [name for name in topo.PREDICTORS if name != "random"]
matmul = torch.backends.cuda.matmul


def layer(n_out, n_in, density):
    return torch.tensor(topo.erdos_renyi(n_out, n_in, density, seed=0).toarray())


def error(a, name, **options):
    exact = topo.link_scores(a.numpy(), name, dtype=np.float64)
    scores = link_scores(a.cuda(), name, **options)
    assert scores.is_cuda
    return np.abs(scores.double().cpu().numpy() - exact).max() / exact.max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("density", [0.02, 0.3])
@pytest.mark.parametrize("shape", [(300, 701), (701, 300)])
def test_scores_equal_those_of_topo(name, shape, density):
    a = layer(*shape, density)
    assert error(a, name, dtype=torch.float64) < 1e-12
    assert error(a, name) < 1e-6
    assert torch.equal(link_scores(a.cuda().to_sparse_coo(), name), link_scores(a.cuda(), name))


@pytest.mark.parametrize(("name", "shape"), [("ch2_l3n", (2048, 5461)), ("ch3_l3p", (768, 2048))])
def test_large_layers(name, shape):
    assert error(layer(*shape, 0.3), name) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_settings_do_not_show(name, monkeypatch):
    a = layer(400, 900, 0.3).cuda()
    expected = link_scores(a, name)
    assert torch.equal(link_scores(a, name), expected)
    for option in ("allow_tf32", "allow_fp16_reduced_precision_reduction"):
        for value in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(matmul, option, value)
                assert torch.equal(link_scores(a, name), expected)
    with torch.autocast("cuda"):
        assert torch.equal(link_scores(a, name), expected)
    monkeypatch.setattr(matmul, "allow_fp16_accumulation", True)
    assert error(a.cpu(), name) < 1e-6


@pytest.mark.parametrize("name", ["ch3_l3p", "ch2_l3p", "ch3_l3n", "ch2_l3n"])
def test_the_cpu_in_the_same_arithmetic_agrees(name, monkeypatch):
    a = layer(300, 500, 0.3)
    found = link_scores(a.cuda(), name).cpu()
    arithmetic = exact_products.choose(torch.device("cuda"), torch.float32)
    monkeypatch.setattr(module, "choose", lambda device, dtype: arithmetic)
    off = (found - link_scores(a, name)).abs().max() / found.max()
    assert off < 3e-7  # roots and sums over z1; the products are the same


def test_memory_is_bounded():
    a = layer(2048, 5461, 0.1).cuda()
    for name in ("ch2_l3n", "ch3_l3p"):
        link_scores(a, name)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        link_scores(a, name)
        assert torch.cuda.max_memory_allocated() - before < 2**28 + 40 * a.numel()
