"""The torch twin of `topo.link_scores`, in the arithmetic of a GPU too: it needs none for that."""

import collections
import importlib
import math
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import topo
from dst import exact_products
from dst.exact_products import Arithmetic, Split, choose, multiply
from dst.link_scores import link_scores

module = importlib.import_module("dst.link_scores")  # `dst.link_scores` may be the function
CH = ("ch3_l3p", "ch2_l3p", "ch3_l3n", "ch2_l3n")
NAMES = [name for name in topo.PREDICTORS if name != "random"]
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
SHORT = {
    "fp16": Arithmetic(torch.float16, 11, torch.float32, torch.float64),
    "bf16": Arithmetic(torch.bfloat16, 8, torch.float32, torch.float64),
    "fp32": Arithmetic(torch.float32, 8, torch.float32, torch.float64),
    "mps": Arithmetic(torch.float32, 8, torch.float32, torch.float32),
}


@pytest.fixture
def force(monkeypatch):
    """Compute in a device's arithmetic, within a budget of bytes."""

    def set_way(way=None, budget=2**28):
        chosen = choose if way is None else lambda device, dtype: SHORT[way]
        monkeypatch.setattr(module, "choose", chosen)
        monkeypatch.setattr(module, "_BUDGET", budget)

    return set_way


def random_layer(n_out, n_in, density, seed=0):
    return np.random.default_rng(seed).random((n_out, n_in)) < density


def error(dense, name, **options):
    """The largest error of float32 scores relative to the largest score."""
    expected = topo.link_scores(dense, name, dtype=np.float64)
    scores = link_scores(torch.tensor(dense), name, **options)
    assert scores.dtype == options.get("dtype", torch.float32)
    assert scores.shape == dense.shape
    assert scores.is_contiguous()
    assert not scores[torch.tensor(dense)].any()
    assert torch.equal(scores > 0, torch.tensor(expected > 0))
    return np.abs(scores.double().numpy() - expected).max() / max(expected.max(), 1e-300)


# ---- scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [None, *SHORT])
@pytest.mark.parametrize(
    ("name", "corner", "fork"),
    [("ch3_l3p", 1, 2**-0.5), ("ch2_l3p", 2, 2**0.5), ("ch3_l3n", 2, 1.5), ("ch2_l3n", 4, 3)],
)
def test_scores_solved_by_hand(name, corner, fork, way, force):
    force(way)
    scores = link_scores(torch.tensor([[1, 1], [1, 0]]), name)
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0], [0, corner]]))
    # one path 1 - v1 - 0 - v0: di(v1) = 1 of degree 3, di(0) = 1 of degree 2; likewise for 2
    scores = link_scores(torch.tensor([[1, 0, 0], [1, 1, 1]]), name)
    torch.testing.assert_close(scores, torch.tensor([[0.0, fork, fork], [0, 0, 0]]))


def test_the_twin_has_all_predictors_but_random():
    assert set(module._SCORES) == set(NAMES)
    assert len(GOLDEN) >= 3


@pytest.mark.parametrize("name", CH)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_scores(path, name, force):
    golden = np.load(path)
    a, expected = torch.tensor(golden["adjacency"]), golden[name]
    exact = link_scores(a, name, dtype=torch.float64)
    np.testing.assert_allclose(exact, expected, rtol=1e-12, atol=0)
    for way in (None, *SHORT):
        force(way)
        np.testing.assert_allclose(
            link_scores(a, name), expected, rtol=0, atol=5e-7 * expected.max()
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (128, 200), (1, 30), (90, 17)])
@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_scores_equal_those_of_topo(name, shape, density, force):
    dense = random_layer(*shape, density)
    assert error(dense, name, dtype=torch.float64) < 1e-13
    assert error(dense, name) < 1e-7
    for way in SHORT:
        force(way)
        assert error(dense, name) < 5e-7


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_scores_of_any_small_layer(name, data, force):
    shape = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    density = data.draw(st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    dense = rng.random(shape) < density
    dense[rng.random(shape[0]) < 0.1] = data.draw(st.booleans())  # empty or full rows
    dense[:, rng.random(shape[1]) < 0.1] = data.draw(st.booleans())
    force(None, data.draw(st.sampled_from([1, 3000, 2**28])))
    assert error(dense, name, dtype=torch.float64) < 1e-13
    force(data.draw(st.sampled_from([*SHORT])), data.draw(st.sampled_from([1, 3000, 2**28])))
    assert error(dense, name) < 6e-7


DEGENERATE = {
    "1x1 empty": np.zeros((1, 1), bool),
    "1x1 full": np.ones((1, 1), bool),
    "one row": np.array([[1, 0, 1, 1, 0]], bool),
    "one column": np.array([[1], [0], [1]], bool),
    "empty": np.zeros((3, 4), bool),
    "full": np.ones((16, 24), bool),
    "full but one": np.arange(16 * 24).reshape(16, 24) > 0,
    "empty rows and columns": np.pad(random_layer(5, 4, 0.6), 1),
    "full rows": random_layer(6, 5, 0.4) | (np.arange(6) % 3 == 0)[:, None],
    "full columns": random_layer(6, 5, 0.4) | (np.arange(5) % 3 == 0),
    "matching": np.eye(5, dtype=bool),
    "star": np.pad(np.ones((1, 4), bool), ((0, 3), (0, 0))),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dense", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_layers(dense, name, force):
    for way in (None, *SHORT):
        force(way)
        assert error(dense, name) < 5e-7


# ---- precision -------------------------------------------------------------------------------


def uneven_layer(n=300):
    """Weights from 1 to 1/n: a hub, chains, and many neurons that share few of their links."""
    dense = random_layer(n, n, 0.02, seed=2)
    dense[:40] |= random_layer(40, n, 0.9)
    dense[:, :30] |= random_layer(n, 30, 0.8, seed=1)
    dense[-50:] = False
    dense[-50:] |= np.eye(50, n, dtype=bool) | np.eye(50, n, 1, dtype=bool)
    return dense


@pytest.mark.parametrize("way", SHORT)
@pytest.mark.parametrize("name", NAMES)
def test_weights_of_very_different_size(name, way, force):
    force(way)
    assert error(uneven_layer(), name) < 7e-7


@pytest.mark.parametrize("way", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", ["ch3_l3p", "ch2_l3p"])
def test_many_terms_in_either_orientation(name, way, force, monkeypatch):
    for steps in (512, 10**9, -(10**9)):  # the cost of a link: which side comes first
        monkeypatch.setattr(module, "_LINK_STEPS", steps)
        force(way)
        assert error(random_layer(60, 400, 0.95), name) < 4e-7


@pytest.mark.parametrize("way", SHORT)
def test_small_weights_in_great_number(way, force):
    """All of 1 / 600 are rounded the same way, so that nothing averages out, beside one of 1."""
    dense = np.zeros((601, 1201), bool)
    dense[:600, 0] = dense[:600, 1:601] = True  # share one link with the last: 1 / 600
    dense[600, 0] = True
    dense[599, 2:] = False  # 1 / 1
    force(way)
    for name in ("ch3_l3n", "ch2_l3n"):
        assert error(dense, name) < 4e-7


@pytest.mark.parametrize("way", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("spread", [0, 1, 5, 12])
@pytest.mark.parametrize("terms", [math.inf, 5000, 3])
def test_a_table_is_split_as_promised(way, spread, terms):
    rng = np.random.default_rng(0)
    table = torch.tensor(2.0 ** rng.uniform(-spread, 0, (50, 40)) * 0.77, dtype=torch.float32)
    table[rng.random((50, 40)) < 0.2] = 0
    arithmetic = SHORT[way].fitting(5000)
    split = Split.of(table.clone(), arithmetic, terms)
    total = torch.zeros(table.shape, dtype=torch.float64)
    for i, piece in enumerate(split.pieces):
        assert piece.dtype == arithmetic.operand
        whole = piece.double()
        assert torch.equal(whole, whole.round())
        assert whole.abs().max() * 5000 <= 2**24
        total += whole * split.step**i
    off = (total * split.unit - table.double()).abs()
    # the number that the table is multiplied with is rounded, and so is the product
    assert (off <= table * 2**-22.9 + 2**-22 * max(table[table > 0].min(), 0.77 / terms)).all()
    assert torch.equal(total == 0, table == 0)


def test_even_weights_take_two_products_in_16_bits():
    table = torch.rand(30, 20) * 2.9 + 1
    assert len(Split.of(table.clone(), SHORT["fp16"].fitting(8192)).pieces) == 2
    table[0, 0] = 40
    assert len(Split.of(table.clone(), SHORT["fp16"].fitting(8192)).pieces) == 3
    assert len(Split.of(table.clone(), SHORT["fp16"].fitting(8192), terms=4).pieces) == 2


def test_pieces_get_shorter_for_longer_sums():
    assert [SHORT["fp16"].fitting(n).bits for n in (0, 1, 8192, 8193, 16384)] == [
        11,
        11,
        11,
        10,
        10,
    ]
    assert [SHORT["bf16"].fitting(n).bits for n in (65536, 65537)] == [8, 7]
    assert choose(torch.device("cpu"), torch.float32).fitting(10**6).bits is None


def truncating(a, b):
    """A tensor core: 16 products at a time, and a sum in 24 bits that rounds towards zero."""
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    a, b = a.double().numpy(), b.double().numpy()
    for k in range(0, a.shape[-1], 16):
        exact = total + a[..., k : k + 16] @ b[..., k : k + 16, :]
        total = exact.astype(np.float32)
        beyond = np.abs(total) > np.abs(exact)
        total[beyond] = np.nextafter(total[beyond], np.float32(0))
    return torch.tensor(total)


def test_truncating_sums_are_worse_than_promised_without_splitting():
    weights, ones = torch.rand(4, 5000), torch.ones(5000, 1)
    exact = (weights.double() @ ones.double()).float()
    assert ((truncating(weights, ones) - exact) / exact).abs().max() > 5e-6


def in_bfloat16(a, b):
    """A float32 product where `torch.set_float32_matmul_precision("medium")` has its way."""
    return (a.bfloat16().double() @ b.bfloat16().double()).float()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("way", "other"),
    [("fp16", truncating), ("bf16", truncating), ("fp32", truncating), ("fp32", in_bfloat16)],
)
def test_how_a_device_rounds_does_not_show(name, way, other, force, monkeypatch):
    force(way)
    for dense in (random_layer(64, 300, 0.3), uneven_layer(100)):
        expected = link_scores(torch.tensor(dense), name)
        with monkeypatch.context() as patch:
            patch.setattr(exact_products, "multiply", other)
            patch.setattr(module, "multiply", other)
            assert torch.equal(link_scores(torch.tensor(dense), name), expected)


@pytest.mark.parametrize("way", [None, *SHORT])
@pytest.mark.parametrize("name", CH)
def test_settings_of_torch_do_not_show(name, way, force):
    force(way)
    a = torch.tensor(random_layer(70, 90, 0.3))
    expected = link_scores(a, name)
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(link_scores(a, name), expected)
            assert (torch.ones(2, 2).float() @ torch.ones(2, 2).float()).dtype == torch.bfloat16
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)


def test_the_arithmetic_of_each_device(monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose(cuda, torch.float32) == SHORT["fp16"]
    assert choose(cuda, torch.float64) == choose(cpu, torch.float32)
    assert choose(cpu, torch.float32).operand == torch.float64
    assert choose(torch.device("xpu"), torch.float32) == SHORT["fp32"]
    assert choose(torch.device("mps"), torch.float32) == SHORT["mps"]
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    try:
        matmul.allow_fp16_accumulation = True
        assert choose(cuda, torch.float32) == SHORT["bf16"]
    finally:
        matmul.allow_fp16_accumulation = before
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert choose(cuda, torch.float32) == SHORT["fp32"]


def test_a_product_of_16_bits_is_not_rounded_to_them():
    ones = torch.ones(3, 2049, dtype=torch.bfloat16)
    for a, b in ((ones, ones.T), (ones[None], ones.T[None])):
        product = multiply(a, b)
        assert product.dtype == torch.float32
        assert (product == 2049).all()


# ---- tiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(45, 85), (85, 45)])
def test_tiles_do_not_show(name, shape, force):
    dense = random_layer(*shape, 0.15)
    dense[3] = dense[:, 5] = True
    a = torch.tensor(dense)
    exact = link_scores(a, name, dtype=torch.float64)
    for budget in (1, 20_000, 60_000):
        force(None, budget)
        torch.testing.assert_close(
            link_scores(a, name, dtype=torch.float64), exact, rtol=1e-12, atol=0
        )
        for way in SHORT:
            force(way, budget)
            assert error(dense, name) < 5e-7
            assert torch.equal(link_scores(a, name), link_scores(a, name))


class Peak(TorchDispatchMode):
    """The most bytes that new tensors took at once."""

    def __init__(self):
        super().__init__()
        self.holders, self.now, self.most = collections.Counter(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage.data_ptr(), storage.nbytes()
                self.now += size if not self.holders[key] else 0
                self.holders[key] += 1
                weakref.finalize(tensor, self.release, key, size)
        self.most = max(self.most, self.now)
        return result

    def release(self, key, size):
        self.holders[key] -= 1
        self.now -= size if not self.holders[key] else 0


def test_the_peak_is_measured():
    with Peak() as peak:
        for _ in range(5):
            a = torch.zeros(10**6, dtype=torch.uint8)
            b = a[:10].repeat(200_000)
            del a
    assert peak.most == 3 * 10**6 + b.numel()  # the loop's last b is still there


@pytest.mark.parametrize("way", ["fp32", None])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(64, 500), (500, 64)])
def test_memory_is_bounded(name, shape, way, force):
    dense = torch.tensor(random_layer(*shape, 0.2))
    layer = 8 * dense.numel()  # in float64
    for budget in (2**18, 2**20):
        force(way, budget)
        with Peak() as peak:
            link_scores(dense, name)
        assert peak.most < 6 * layer + budget


# ---- input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64],
)
def test_any_mask_will_do(dtype):
    dense = torch.tensor(random_layer(20, 33, 0.3))
    expected = link_scores(dense, "ch2_l3p")
    mask = dense.to(dtype)
    wide = torch.stack([mask, mask], 2).flatten(1)[:, ::2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta", UserWarning)
        warnings.filterwarnings("ignore", "Sparse invariant checks", UserWarning)
        sparse = [mask.to_sparse_coo(), mask.to_sparse_csr(), mask.to_sparse_csc()]
        for a in (mask, mask.T.contiguous().T, wide, *sparse):
            before = a.to_dense().clone()
            assert torch.equal(link_scores(a, "ch2_l3p"), expected)
            assert torch.equal(a.to_dense(), before)


def test_a_parameter_gives_scores_without_a_gradient():
    mask = torch.nn.Parameter(torch.tensor(random_layer(9, 8, 0.4)).float())
    scores = link_scores(mask, "ch3_l3n")
    assert not scores.requires_grad
    assert scores.max() > 0


def doubled(dtype):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse invariant checks", UserWarning)
        return torch.sparse_coo_tensor([[0, 0], [1, 1]], torch.ones(2, dtype=dtype), (2, 2))


@pytest.mark.parametrize(
    ("adjacency", "says"),
    [
        (torch.tensor([[0.0, 0.25]]), r"holds 0\.25 \(for weights, pass `weights != 0`\)"),
        (torch.tensor([[0.0, math.nan]]), "holds nan"),
        (torch.tensor([[0, -1]]), "holds -1"),
        (torch.tensor([[2, 1]], dtype=torch.uint8), "holds 2"),
        (torch.tensor([[1.0, 0], [0, 3]]).to_sparse_coo(), r"holds 3\.0"),
        (doubled(torch.float32), r"holds 2\.0"),
        (doubled(torch.bool), "holds 2"),
        (torch.ones(3), r"shape \(n_out, n_in\), both at least 1; this one has \(3,\)"),
        (torch.ones(1, 2, 2), r"has \(1, 2, 2\)"),
        (torch.ones(0, 2), r"has \(0, 2\)"),
        (torch.ones(2, 2, dtype=torch.complex64), "dtype torch.complex64"),
        (np.eye(2), r"not ndarray \(`topo\.link_scores` takes arrays\)"),
    ],
)
def test_what_is_no_adjacency_is_refused(adjacency, says):
    with pytest.raises(ValueError, match=says):
        link_scores(adjacency, "ch2_l3n")


def test_unknown_names_are_refused():
    a = torch.eye(3)
    with pytest.raises(ValueError, match=r"predictor 'ch2_l3': did you mean 'ch2_l3.'\? known are"):
        link_scores(a, "ch2_l3")
    with pytest.raises(ValueError, match=r"'random' scores every absent link alike: `topo\.grow`"):
        link_scores(a, "random")
    with pytest.raises(ValueError, match=r"float32 or torch\.float64, not torch\.float16"):
        link_scores(a, "ch2_l3n", dtype=torch.float16)
