"""Layers with a branch of low rank: every form, in every layout of the sparse branch."""

import copy
import io
import math
import pickle
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.special import ndtri
from torch import nn
from torch.optim.swa_utils import AveragedModel

import dst
import topo
from dst.densify import Chain, Sum, densify
from dst.explain import explain
from dst.graph import sparse_layers
from dst.low_rank import as_low_rank
from topo.adjacency import equal

pytestmark = pytest.mark.usefixtures("one_thread")

LAYOUTS = ["csr", "masked"]
layouts = pytest.mark.parametrize("layout", LAYOUTS)
forms = pytest.mark.parametrize("form", list(dst.LOW_RANKS))
LINEAR = {"linear", "sltrain"}
RANK = 3


def model(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 20, bias=bias),
        nn.ReLU(),
        nn.Sequential(nn.Linear(20, 16, bias=bias), nn.ReLU()),
        nn.Linear(16, 4),
    ).to(dtype)


def awake(m):
    """SLTrain's B starts at 0, which hides much: give every B values."""
    generator = torch.Generator().manual_seed(7)
    for module in m.modules():
        if isinstance(module, dst.LowRankLinear):
            values = torch.randn(module.B.shape, generator=generator, dtype=torch.float64)
            module.B.data.copy_(0.2 * values)
    return m


def sparse_and_low(form="silu", layout="csr", dtype=torch.float64, rank=RANK, **options):
    m = dst.sparsify(
        model(dtype), 0.2, exclude="3", rank=rank, low_rank=form, layout=layout, **options
    )
    return awake(m)


def factorized(form="silu", layout=None, dtype=torch.float64, rank=RANK, **options):
    return awake(dst.factorize(model(dtype), rank, low_rank=form, exclude="3", **options))


# what `make(form, layout)` builds: with a sparse branch in each layout, and low rank alone
BUILDS = {
    "sparse-csr": lambda form, **o: sparse_and_low(form, "csr", **o),
    "sparse-masked": lambda form, **o: sparse_and_low(form, "masked", **o),
    "alone": lambda form, **o: factorized(form, **o),
}
builds = pytest.mark.parametrize("build", BUILDS)


def inputs(n=6, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, 12))).to(dtype)


def by_formula(layer, form, x):
    """s B sigma(A x) + S x + b, written out."""
    low = layer.low_rank if isinstance(layer, dst.SparseLowRank) else layer
    h = torch.einsum("ri,bi->br", low.A, x)
    if form == "silu":
        h = h / (1 + torch.exp(-h))
    y = torch.einsum("or,br->bo", low.B, h)
    if form == "sltrain":
        y = y * 32 / len(low.A)
    if isinstance(layer, dst.SparseLowRank):
        y = y + x @ layer.sparse.to_dense().T
    return y + layer.bias


def types(m):
    return {type(module) for module in m.modules()}


# ---- one layer, by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "branch"),
    [
        ("silu", [4 / (1 + math.exp(-2)), 0.0, -2 / (1 + math.exp(-2))]),
        ("linear", [4.0, 0.0, -2.0]),
        ("sltrain", [128.0, 0.0, -64.0]),  # 32 / 1
    ],
)
def test_a_layer_of_rank_1_by_hand(form, branch):
    layer = dst.LowRankLinear(2, 3, 1, low_rank=form)
    with pytest.raises(ValueError, match="from 1 to 2"):
        dst.LowRankLinear(2, 3, 3, low_rank=form)
    layer.A.data = torch.tensor([[1.0, -1.0]])
    layer.B.data = torch.tensor([[2.0], [0.0], [-1.0]])
    layer.bias.data = torch.tensor([1.0, 10.0, 100.0])
    x = torch.tensor([3.0, 1.0])  # A x = 2
    expected = torch.tensor(branch)
    torch.testing.assert_close(layer(x), expected + layer.bias)
    # beside one link, from the second input to the first output, of weight 5
    sparse = dst.SparseLinear(2, 3, topology=[[0, 1], [0, 0], [0, 0]], layout="csr")
    sparse.values.data.fill_(5.0)
    sparse.bias.data = layer.bias.data.clone()
    bias, layer.bias = sparse.bias, None
    both = dst.SparseLowRank(sparse, layer)
    torch.testing.assert_close(both(x), expected + torch.tensor([6.0, 10.0, 100.0]))
    assert both.bias is bias
    assert sparse.bias is None
    assert [n for n, _ in both.named_parameters()] == [
        "bias", "sparse.values", "low_rank.A", "low_rank.B",
    ]  # fmt: skip


def test_the_forms_are_those_of_the_papers():
    assert list(dst.LOW_RANKS) == ["silu", "linear", "sltrain"]
    assert [f.activation for f in dst.LOW_RANKS.values()] == [F.silu, None, None]
    assert [f.alpha for f in dst.LOW_RANKS.values()] == [None, None, 32.0]
    scales = [dst.LowRankLinear(64, 32, 8, low_rank=f).scale for f in dst.LOW_RANKS]
    assert scales == [1.0, 1.0, 4.0]
    own = replace(dst.LOW_RANKS["sltrain"], alpha=16)
    assert dst.LowRankLinear(64, 32, 8, low_rank=own).scale == 2.0
    assert as_low_rank(own) is own


# ---- what holds for every form and layout --------------------------------------------------------


@builds
@forms
def test_conformance(form, build):
    m = BUILDS[build](form)
    x = inputs().requires_grad_()
    h1 = by_formula(m[0], form, x).relu()
    h2 = by_formula(m[2][0], form, h1).relu()
    torch.testing.assert_close(m(x), m[3](h2))
    assert m[0](x.view(2, 3, 12)).shape == (2, 3, 20)

    # gradients of A, B and the input, as the formula has them; the links' are test_sparse_linear's
    learned = [p for n, p in m.named_parameters() if n.endswith((".A", ".B", "bias"))]
    assert len(learned) == 3 * 2 + 1  # A, B and bias of two layers, bias of the last
    expected = torch.autograd.grad(m[3](h2).square().sum(), learned)
    m.zero_grad()
    m(x).square().sum().backward()
    for parameter, grad in zip(learned, expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert all(p.grad is not None for p in m.parameters())

    # a state makes a twin of another seed the same
    twin = BUILDS[build](form, seed=5)
    assert not torch.allclose(twin(x), m(x))
    buffer = io.BytesIO()
    torch.save(m.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer)
    assert {"0.bias", "2.0.bias", "3.bias"} <= state.keys()  # named as the dense model's
    twin = BUILDS[build](form)
    for p in twin.parameters():
        p.data.zero_()
    assert not twin.load_state_dict(state).missing_keys
    assert torch.equal(twin(x), m(x))

    # copies and pickles compute the same, and share nothing
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert torch.equal(other(x), m(x))
        assert not {id(p) for p in m.parameters()} & {id(p) for p in other.parameters()}
        assert "silu" in repr(other) or form in LINEAR

    # plain modules of the same function
    expected_out = m(x)
    biases = [m[0].bias, m[2][0].bias]
    assert densify(m) is m
    torch.testing.assert_close(m(x), expected_out)
    linear = {nn.Sequential, nn.Linear, nn.ReLU}
    sums = {Sum} if build != "alone" else set()
    assert types(m) == (linear if form in LINEAR else linear | {nn.SiLU, Chain} | sums)
    parameters = dict(m.named_parameters())
    assert {id(b) for b in biases} <= {id(p) for p in parameters.values()}
    if form in LINEAR:
        assert m[0].bias is biases[0]
        assert m[0].weight.shape == (20, 12)
    assert len(dst.sparsify(m, 0.5)(x)) == len(x)  # and sparsify can begin anew


@forms
def test_both_layouts_are_the_same_function_with_the_same_gradients(form):
    csr, masked = (sparse_and_low(form, layout) for layout in LAYOUTS)
    x = inputs()
    torch.testing.assert_close(csr(x), masked(x))
    for m in (csr, masked):
        m(x).square().sum().backward()
    for i in ((0,), (2, 0)):
        a, b = (m.get_submodule(".".join(map(str, i))) for m in (csr, masked))
        torch.testing.assert_close(a.sparse.link_gradients(), b.sparse.link_gradients())
        for name in ("A", "B"):
            grads = [getattr(layer.low_rank, name).grad for layer in (a, b)]
            torch.testing.assert_close(*grads)
        torch.testing.assert_close(a.bias.grad, b.bias.grad)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@layouts
@forms
def test_compiled_without_graph_breaks(form, layout):
    torch._dynamo.reset()
    m = sparse_and_low(form, layout)
    twin, x = copy.deepcopy(m), inputs()
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), twin(x))
    compiled(x).square().sum().backward()
    twin(x).square().sum().backward()
    for a, b in zip(m.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# ---- beginnings ----------------------------------------------------------------------------------


def test_spectral_is_colas():
    n_in, n_out, rank = 300, 200, 50
    A, B = dst.LOW_RANKS["silu"].init(n_out, n_in, rank, 3)
    assert A.shape == (rank, n_in)
    assert B.shape == (n_out, rank)
    std = (rank**-0.5 * (n_in + n_out) ** -0.5) ** 0.5
    for values in (A, B):
        assert abs(values.std() / std - 1) < 0.02
        assert stats.kstest(values.ravel(), stats.norm(0, std).cdf).pvalue > 0.01
    assert abs((B @ A).var() * (n_in + n_out) - 1) < 0.05
    A, B = dst.LOW_RANKS["linear"].init(40, 40, 40, 3)
    assert abs(np.corrcoef(A.ravel(), B.ravel())[0, 1]) < 0.1  # of streams of their own


def test_zero_start_is_sltrains():
    n_in, n_out, rank = 300, 200, 50
    A, B = dst.LOW_RANKS["sltrain"].init(n_out, n_in, rank, 3)
    bound = n_in**-0.5
    assert A.shape == (rank, n_in)
    assert stats.kstest(A.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01
    assert 0.99 * bound < abs(A).max() <= bound
    assert abs(A.std() / (bound / 3**0.5) - 1) < 0.02
    assert B.shape == (n_out, rank)
    assert not B.any()
    kaiming = torch.empty(rank, n_in)
    nn.init.kaiming_uniform_(kaiming, a=5**0.5, generator=torch.Generator().manual_seed(0))
    assert abs(kaiming.abs().max() / abs(A).max() - 1) < 0.01
    # the layer begins as its sparse branch
    m = dst.sparsify(model(), 0.2, rank=RANK, low_rank="sltrain", init="uniform")
    x = inputs(dtype=torch.float32)
    torch.testing.assert_close(m[0](x), m[0].sparse(x) + m[0].bias)


def test_initial_weights_are_a_function_of_key_row_and_column():
    init = dst.LOW_RANKS["silu"].init
    A, B = init(5, 7, 2, 11)
    rows, cols = np.divmod(np.arange(2 * 7), 7)
    hashes = topo.hash_links(topo.stream(11, "A"), rows, cols)
    std = (2 * 12) ** -0.25
    assert np.allclose(A.ravel(), ndtri(topo.uniform(hashes)) * std, atol=0, rtol=1e-12)
    more, _ = init(9, 7, 3, 11)  # larger layers begin with the numbers of smaller ones
    assert np.allclose(more[:2] * (3 * 16) ** 0.25, A / std)
    _, more = init(9, 8, 2, 11)
    assert np.allclose(more[:5] * (2 * 17) ** 0.25, B / std)
    assert not np.allclose(init(5, 7, 2, 12)[0], A)


@pytest.mark.parametrize("make", [sparse_and_low, factorized])
def test_weights_are_a_function_of_the_seed_and_the_layers_name(make):
    def branches(seed):
        m = make("linear", rank=RANK, seed=seed)
        return {n: x for n, x in m.named_modules() if isinstance(x, dst.LowRankLinear)}

    for name, layer in branches(4).items():
        name = name.removesuffix(".low_rank")
        n_out, n_in = layer.out_features, layer.in_features
        A, _ = dst.LOW_RANKS["linear"].init(n_out, n_in, RANK, topo.stream(4, "low rank", name))
        assert torch.equal(layer.A, torch.from_numpy(A).to(layer.A.dtype))
    for a, b in zip(branches(4).values(), branches(5).values(), strict=True):
        assert not torch.equal(a.A, b.A)
    # whatever torch's generators do
    torch.manual_seed(99)
    a, b = dst.LowRankLinear(8, 6, 2, seed=1), dst.LowRankLinear(8, 6, 2, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    other = dst.LowRankLinear(8, 6, 2, seed=2)
    assert not any(torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters()))
    assert 0 < a.bias.abs().max() <= 8**-0.5


def test_two_layers_of_a_shape_begin_differently():
    m = dst.factorize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 2)
    assert not torch.equal(m[0].A, m[1].A)


@layouts
def test_the_sparse_branch_is_what_it_is_without_a_rank(layout):
    alone = dst.sparsify(model(), 0.2, exclude="3", layout=layout, seed=2)
    both = dst.sparsify(model(), 0.2, exclude="3", layout=layout, seed=2, rank=RANK)
    ours = {n.removesuffix(".sparse"): x for n, x in sparse_layers(both).items()}
    assert ours.keys() == sparse_layers(alone).keys()
    for name, layer in sparse_layers(alone).items():
        assert equal(ours[name].adjacency, layer.adjacency)
        assert torch.equal(ours[name].link_values(), layer.link_values())
        assert ours[name].layout == layout
        assert ours[name].final_links == layer.final_links
        assert torch.equal(both.get_submodule(name).bias, layer.bias)


def test_uniform_is_torchs_range_for_a_dense_layer():
    m = dst.sparsify(nn.Sequential(nn.Linear(400, 300)), 0.05, init="uniform", seed=1)
    values = m[0].link_values().double().numpy()
    bound = 400**-0.5  # of the dense fan-in, whatever the density
    assert 0.99 * bound < abs(values).max() <= bound
    assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01
    hashes = topo.hash_links(topo.stream(1, "weights", "0"), *topo.links(m[0].adjacency))
    assert np.allclose(values, (2 * topo.uniform(hashes) - 1) * bound, atol=1e-8)
    assert m[0].init == "uniform"


# ---- taking the place of dense layers ------------------------------------------------------------


def test_ranks_by_pattern_and_layers_without_bias():
    m = dst.sparsify(model(bias=False), 0.2, rank={"2.*": 5, "*": 2})
    found = {n: x for n, x in m.named_modules() if isinstance(x, dst.SparseLowRank)}
    assert {n: x.low_rank.rank for n, x in found.items()} == {"0": 2, "2.0": 5, "3": 2}
    assert {n for n, _ in m.named_parameters() if n.endswith("bias")} == {"3.bias"}
    assert m[0].bias is None
    m = dst.factorize(model(bias=False), {"2.*": 5, "*": 2}, exclude="3")
    assert [m[0].rank, m[2][0].rank, type(m[3])] == [2, 5, nn.Linear]
    assert m[0].bias is None
    assert m[0](inputs(dtype=torch.float32)).shape == (6, 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", ["sparsify", "factorize"])
def test_dtype_mode_and_gradients_are_kept(make, dtype):
    m = model(dtype).eval()
    m[0].weight.requires_grad_(False)
    m[2][0].bias.requires_grad_(False)
    biases = [m[0].bias, m[2][0].bias]
    if make == "sparsify":
        dst.sparsify(m, 0.2, exclude="3", rank=RANK)
    else:
        dst.factorize(m, RANK, exclude="3")
    assert {p.dtype for p in m.parameters()} == {dtype}
    assert m[0].bias is biases[0]
    assert m[2][0].bias is biases[1]
    assert not any(module.training for module in m.modules())
    free = {n for n, p in m.named_parameters() if p.requires_grad}
    frozen = {n for n, p in m.named_parameters() if not p.requires_grad}
    assert "0.bias" in free
    assert "2.0.bias" in frozen
    assert {n.rpartition(".")[2] for n in frozen if n.startswith("0.")} >= {"A", "B"}
    assert {n.rpartition(".")[2] for n in free if n.startswith("2.")} >= {"A", "B"}
    assert m(inputs(dtype=dtype)).dtype == dtype
    assert not any(module.training for module in densify(m).modules())
    frozen = {n for n, p in m.named_parameters() if not p.requires_grad}
    assert len([n for n in frozen if n.startswith("0.") and n.endswith("weight")]) >= 1
    assert not [n for n in frozen if n.startswith("2.") and n.endswith("weight")]


def test_the_device_is_kept():
    m = dst.factorize(nn.Sequential(nn.Linear(8, 6, device="meta")), 2)
    assert {p.device.type for p in m.parameters()} == {"meta"}


@pytest.mark.parametrize("form", ["silu", "sltrain"])
def test_bf16_is_near_float64(form):
    m = awake(dst.sparsify(model(torch.bfloat16), 0.2, exclude="3", rank=RANK, low_rank=form))
    assert m[0].sparse.layout == "masked"
    x = inputs(dtype=torch.bfloat16)
    out = m(x)
    assert out.dtype == torch.bfloat16
    exact = copy.deepcopy(m).double()
    torch.testing.assert_close(out.double(), exact(x.double()), atol=0.05, rtol=0.05)
    out.float().square().sum().backward()
    assert {p.grad.dtype for p in m.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("make", "bias"),
    [
        ("sparsify", True),
        ("sparsify", False),
        ("factorize", True),
        ("factorize", False),
    ],
)
def test_autocast_computes_in_the_dtype_of_a_dense_layer(make, bias):
    dense = model(bias=bias)[0]
    m = nn.Sequential(copy.deepcopy(dense))
    if make == "sparsify":
        dst.sparsify(m, 0.2, rank=RANK, layout="masked")
    else:
        dst.factorize(m, RANK)
    x = inputs(dtype=torch.float32)
    exact = m(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, y_dense = m(x), dense(x)
    assert y.dtype == y_dense.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert {p.grad.dtype for p in m.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("make", "form"),
    [
        ("sparsify", "linear"),
        ("sparsify", "silu"),
        ("factorize", "linear"),
        ("factorize", "silu"),
    ],
)
def test_torchs_fused_inference_is_avoided(make, form):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    m, x = nn.Sequential(encoder), torch.randn(2, 5, 16)
    if make == "sparsify":
        dst.sparsify(m, 0.2, include="*.linear?", rank=RANK, low_rank=form)
    else:
        dst.factorize(m, RANK, include="*.linear?", low_rank=form)
    m.eval()
    expected = m(x)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(m(x), expected)
        densify(m)


# ---- refusals ------------------------------------------------------------------------------------

REFUSED = {
    "zero": ({"rank": 0}, "layer '0': rank must be a whole number from 1 to 12.*20 x 12.*not 0"),
    "too large": ({"rank": {"3": 5, "*": 1}}, "layer '3': rank must be .* 1 to 4.* 4 x 16 .*not 5"),
    "a float": ({"rank": 2.0}, "rank must be a whole number .*not 2.0"),
    "a bool": ({"rank": True}, "rank must be a whole number .*not True"),
    "text": ({"rank": "4"}, "rank must be a whole number .*not '4'"),
    "no pattern": ({"rank": {"0": 2}}, "layer '2.0': no pattern of rank matches it: '0'"),
    "idle pattern": ({"rank": {"9": 2, "*": 1}}, "the pattern '9' of rank matches no chosen layer"),
    "form": ({"rank": 2, "low_rank": "silo"}, "unknown low_rank 'silo': did you mean 'silu'"),
    "include": ({"rank": 2, "include": "9"}, "the pattern '9' matches no Linear layer"),
}


NO_BRANCH = {("zero", "sparsify"), ("no pattern", "sparsify")}  # a sparse layer alone


@pytest.mark.parametrize(
    ("what", "make"), sorted(set(product(REFUSED, ("sparsify", "factorize"))) - NO_BRANCH)
)
def test_refusals_leave_the_model_unchanged(what, make):
    arguments, message = REFUSED[what]
    m = model()
    before, expected = list(m.modules()), copy.deepcopy(m.state_dict())
    replace_layers = partial(dst.sparsify, density=0.5) if make == "sparsify" else dst.factorize
    with pytest.raises(ValueError, match=message):
        replace_layers(m, **arguments)
    assert all(a is b for a, b in zip(m.modules(), before, strict=True))
    assert all(torch.equal(v, expected[k]) for k, v in m.state_dict().items())


@pytest.mark.parametrize(
    ("rank", "expected"), [({"0": 2}, {"0": 2}), ({"2.*": 3, "0": 0}, {"2.0": 3}), (0, {})]
)
def test_layers_without_a_rank_are_sparse_alone(rank, expected):
    m = dst.sparsify(model(), 0.5, exclude="3", rank=rank)
    found = {n: x.low_rank.rank for n, x in m.named_modules() if isinstance(x, dst.SparseLowRank)}
    assert found == expected
    assert len(dst.network(m).layers) == 2


@builds
def test_a_second_time_is_refused(build):
    m = BUILDS[build]("silu")
    for again in (lambda: dst.sparsify(m, 0.5), lambda: dst.factorize(m, 2)):
        with pytest.raises(ValueError, match="sparse already: '0"):
            again()


def test_what_branches_cannot_be_is_refused():
    sparse = dst.SparseLinear(8, 6, density=0.5)
    with pytest.raises(ValueError, match=r"sizes \(in, out\) \(8, 6\) and \(6, 8\)"):
        dst.SparseLowRank(sparse, dst.LowRankLinear(6, 8, 2, bias=False))
    with pytest.raises(ValueError, match=r"both branches have a bias.*bias=False"):
        dst.SparseLowRank(sparse, dst.LowRankLinear(8, 6, 2))
    assert sparse.bias is not None
    with pytest.raises(ValueError, match="the activation silu is no matrix"):
        dst.SparseLowRank(sparse, dst.LowRankLinear(8, 6, 2, bias=False)).to_dense()
    for alpha in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="alpha must be positive"):
            replace(dst.LOW_RANKS["sltrain"], alpha=alpha)


def test_an_initialisation_of_wrong_shapes_is_refused():
    wrong = dst.LowRank(None, lambda n_out, n_in, rank, key: (np.ones((n_in, rank)), np.ones(3)))
    with pytest.raises(ValueError, match=r"shapes \(2, 8\) and \(6, 2\), not \(8, 2\) and \(3,\)"):
        dst.LowRankLinear(8, 6, 2, low_rank=wrong)


# ---- densify and explain -------------------------------------------------------------------------


def squared_relu(x):
    return x.relu() ** 2


@builds
@pytest.mark.parametrize("activation", [squared_relu, nn.Tanh()], ids=["function", "module"])
def test_densify_keeps_activations_of_ones_own(activation, build):
    form = replace(dst.LOW_RANKS["silu"], activation=activation, alpha=0.6)
    m, x = BUILDS[build](form), inputs()
    expected = m(x)
    assert "squared_relu" in repr(m) or "Tanh" in repr(m)
    torch.testing.assert_close(densify(m)(x), expected)
    assert not any(isinstance(x, (dst.LowRankLinear, dst.SparseLowRank)) for x in m.modules())


@builds
def test_densify_refuses_hooks_on_a_branch_and_a_root(build):
    m = BUILDS[build]("silu")
    inner = m[0].low_rank if build != "alone" else m[0]
    name = "0.low_rank" if build != "alone" else "0"
    handle = inner.register_forward_hook(lambda *_: None)
    kept = list(m.modules())
    with pytest.raises(ValueError, match=f"layer '{name}' has forward hooks"):
        densify(m)
    assert all(a is b for a, b in zip(m.modules(), kept, strict=True))
    handle.remove()
    with pytest.raises(ValueError, match=r"itself one \w+: wrap it"):
        densify(m[0])
    densify(m)


def test_densify_takes_what_watches_the_layers_off():
    m = sparse_and_low()
    align = dst.Alignment(m)
    densify(m)(inputs())
    with pytest.raises(RuntimeError, match="no forward pass"):
        align()


def test_explain_has_a_row_for_each_part():
    table = explain(sparse_and_low("silu", "csr", dtype=torch.float32)).set_index("layer")
    assert list(table.index) == [
        "0.sparse", "0.low_rank.A", "0.low_rank.B",
        "2.0.sparse", "2.0.low_rank.A", "2.0.low_rank.B", "3",
    ]  # fmt: skip
    assert tuple(table.loc["0.sparse", ["kind", "shape", "links", "layout"]]) == (
        "SparseLinear", (20, 12), 48, "csr",
    )  # fmt: skip
    for name, shape in (("0.low_rank.A", (3, 12)), ("2.0.low_rank.B", (16, 3))):
        assert tuple(table.loc[name, ["kind", "shape", "links", "layout", "reason"]]) == (
            "LowRankLinear", shape, math.prod(shape), "dense", "low rank, 3",
        )  # fmt: skip
    assert list(explain(factorized()).layer) == ["0.A", "0.B", "2.0.A", "2.0.B", "3"]


def test_what_repr_says():
    layer = dst.LowRankLinear(64, 32, 4, low_rank="sltrain", bias=False)
    assert repr(layer) == (
        "LowRankLinear(in_features=64, out_features=32, rank=4, activation=None, scale=8, "
        "bias=False)"
    )
    assert repr(sparse_and_low()[0]).startswith("SparseLowRank(\n  bias=True\n  (sparse)")


# ---- watchers ------------------------------------------------------------------------------------


@layouts
def test_watchers_see_both_branches_and_are_not_copied(layout):
    m, x = sparse_and_low(layout=layout), inputs()
    seen = []

    def see(s, low):
        seen.append((s, low))
        return s, low

    m[0].watchers = (see,)
    y = m[0](x)
    ((s, low),) = seen
    torch.testing.assert_close(s, x @ m[0].sparse.to_dense().T)
    torch.testing.assert_close(y, s + low + m[0].bias)
    # a lambda cannot be pickled, so it is not in there
    copies = (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), AveragedModel(m).module)
    for other in copies:
        other(x)
        assert other[0].watchers == ()
    assert len(seen) == 1
    assert len(m[0].watchers) == 1


# ---- the graph -----------------------------------------------------------------------------------


class Attention(nn.Module):
    """Recognised by the names of its children."""

    head_dim = 4

    def __init__(self):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(8, 8, bias=False))

    def forward(self, x):
        q, k, v = (f(x).view(-1, 2, 4) for f in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).reshape(len(x), 8))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)
        self.down_proj, self.act_fn = nn.Linear(12, 8, bias=False), nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def blocks():
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(8, 12, bias=False), nn.ReLU(), nn.Linear(12, 8, bias=False))
    return nn.Sequential(Attention(), Gated(), chain)


@layouts
@forms
def test_low_rank_feeds_every_neuron_so_nothing_is_coupled(form, layout):
    alone = dst.sparsify(blocks(), 0.1, layout=layout, topology="erdos_renyi")
    assert len(dst.network(alone).couplings) == 4  # Q with K, V with O, feed-forward, chain
    percolated = topo.percolate(dst.network(alone))
    assert percolated != dst.network(alone)  # there are inactive neurons

    m = awake(
        dst.sparsify(
            blocks().double(), 0.1, layout=layout, topology="erdos_renyi", rank=2, low_rank=form
        )
    )
    align = dst.Alignment(m)
    network = dst.network(m)
    assert network.couplings == ()
    assert [n.removesuffix(".sparse") for n in network.layers] == list(dst.network(alone).layers)
    with pytest.raises(RuntimeError, match="no forward pass"):  # tracing is none
        align()
    x = inputs()[:, :8]
    expected = m(x)
    percolated = topo.percolate(network)
    assert percolated == network
    dst.rewire(m, percolated.layers)
    assert torch.equal(m(x), expected)


def test_layers_beside_ones_of_two_branches_are_coupled_as_far_as_is_sound():
    def sparse(n_in, n_out):
        return dst.SparseLinear(n_in, n_out, density=0.3, layout="csr", bias=False)

    def both(n_in, n_out):
        return dst.SparseLowRank(sparse(n_in, n_out), dst.LowRankLinear(n_in, n_out, 2, bias=False))

    before = nn.Sequential(sparse(8, 12), nn.ReLU(), both(12, 8))
    after = nn.Sequential(both(8, 12), nn.ReLU(), sparse(12, 8))
    neither = nn.Sequential(sparse(8, 12), nn.ReLU(), sparse(12, 8))
    assert [len(dst.network(m).couplings) for m in (before, after, neither)] == [0, 0, 1]


# ---- evolving ------------------------------------------------------------------------------------

EVERY, TOTAL = 3, 24
X = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 12)))
Y = (X[:, :3].sum(1) > 0).long() + 2 * (X[:, 3] > 0).long()
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=2e-3, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
}


def untouched(m, optimizer):
    """All that no update may change: everything but the sparse branches, and its state."""
    found = {}
    for name, p in m.named_parameters():
        if ".sparse." not in name:
            own = {"": p, "grad": p.grad, **optimizer.state.get(p, {})}
            found |= {(name, k): v.clone() for k, v in own.items() if torch.is_tensor(v)}
    return found


@pytest.mark.parametrize("form", ["silu", "sltrain"])
@pytest.mark.parametrize("method", ["static", "set", "rigl", "cht", "chts", "chtss"])
def test_an_update_changes_the_sparse_branch_alone_in_both_layouts(method, form):
    name = "adam" if form == "silu" else "sgd"
    runs = {}
    for layout in LAYOUTS:
        options = {"method": method} if method != "chtss" else {}  # else the evolver starts it
        m = sparse_and_low(form, layout, **options)
        optimizer, align = OPTIMIZERS[name](m.parameters()), dst.Alignment(m, weight=0.1)
        before = untouched(m, optimizer)
        evolver = dst.Evolver(m, optimizer, method, every=EVERY, total_steps=TOTAL)
        assert all(torch.equal(v, before[k]) for k, v in untouched(m, optimizer).items())
        assert m[0].sparse.density == (0.5 if method == "chtss" else 0.2)
        assert list(evolver.layers) == ["0.sparse", "2.0.sparse"]
        assert evolver.couplings == ()
        ids = {n: id(p) for n, p in m.named_parameters()}
        losses, grown, topologies = [], 0, []
        for step in range(1, TOTAL + 1):
            loss = F.cross_entropy(m(X), Y) + align()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            before, adjacency = untouched(m, optimizer), m[0].sparse.adjacency
            update = evolver.step()
            after = untouched(m, optimizer)
            assert len(before) >= 7 * (3 if name == "sgd" else 4)
            assert all(torch.equal(after[k], v) for k, v in before.items())
            assert (update is not None) == (step % EVERY == 0 and step <= evolver.last)
            if update is None:
                assert equal(m[0].sparse.adjacency, adjacency)
                continue
            for record in update.layers.values():
                assert record.percolated == 0
                grown += record.grown
            topologies.append({n: x.adjacency for n, x in sparse_layers(m).items()})
        assert ids == {n: id(p) for n, p in m.named_parameters()}
        assert {n: x.links for n, x in sparse_layers(m).items()} == {
            "0.sparse": 48,
            "2.0.sparse": 64,
        }
        assert (grown > 0) == (method != "static")
        assert losses[-1] < losses[0]
        runs[layout] = m, losses, topologies
    (csr, losses, topologies), (masked, losses2, topologies2) = runs.values()
    assert len(topologies) == len(topologies2) > 4
    for a, b in zip(topologies, topologies2, strict=True):
        assert all(equal(a[n], b[n]) for n in a)
    np.testing.assert_allclose(losses, losses2, rtol=1e-9)
    torch.testing.assert_close(csr(X), masked(X))


def test_an_optimizer_must_hold_the_sparse_branches_alone():
    m = sparse_and_low()
    low = [p for n, p in m.named_parameters() if ".low_rank." in n]
    with pytest.raises(ValueError, match=r"does not hold the weights of '0.sparse', '2.0.sparse'"):
        dst.Evolver(m, torch.optim.SGD(low), "set", every=1, total_steps=4)
    kept = [p for n, p in m.named_parameters() if ".sparse." in n]
    for p in low:
        p.requires_grad_(False)
    dst.Evolver(m, torch.optim.SGD(kept), "set", every=1, total_steps=4)


def test_followers_of_the_mean_get_the_same_links():
    m = sparse_and_low()
    optimizer = OPTIMIZERS["sgd"](m.parameters())
    ema = AveragedModel(m)
    evolver = dst.Evolver(m, optimizer, "set", every=1, total_steps=4, followers=[ema])
    for _ in range(3):
        F.cross_entropy(m(X), Y).backward()
        optimizer.step()
        ema.update_parameters(m)
        evolver.step()
    ours, theirs = sparse_layers(m), sparse_layers(ema)
    assert all(equal(ours[n].adjacency, theirs[n].adjacency) for n in ours)
    assert theirs["0.sparse"] is not ours["0.sparse"]


@pytest.mark.parametrize("form", dst.LOW_RANKS)
@pytest.mark.parametrize("make", ["sparsify", "factorize"])
def test_t5_asks_its_layers_for_their_weight(make, form):
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=20, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    t5 = transformers.T5ForConditionalGeneration(config).eval()
    replaced = partial(dst.sparsify, density=0.3, rank=2) if make == "sparsify" else dst.factorize
    options = {} if make == "sparsify" else {"rank": 2}
    awake(replaced(t5, exclude="lm_head", low_rank=form, **options))
    tokens = torch.arange(6).reshape(2, 3)
    with torch.no_grad():
        expected = t5(input_ids=tokens, labels=tokens).logits
        found = densify(t5)(input_ids=tokens, labels=tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
