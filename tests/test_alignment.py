"""The alignment loss: by hand, by finite differences, and what it holds on to."""

import copy
import pickle
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import dst

pytestmark = pytest.mark.usefixtures("one_thread")

layouts = pytest.mark.parametrize("layout", ["csr", "masked"])
literals = pytest.mark.parametrize("literal", [False, True], ids=["mean-square", "literal"])
NONE_YET = r"no forward pass with gradients went through '[\w.]+' since the last call"


def model(layout="csr", dtype=torch.float64, form="silu"):
    """Sparse, with a low rank: "0" and "2.0", not "3"."""
    torch.manual_seed(0)
    m = nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Sequential(nn.Linear(9, 8), nn.Tanh()), nn.Linear(8, 4)
    )
    m = dst.sparsify(
        m.to(dtype), 0.4, exclude="3", rank=2, low_rank=form, layout=layout, topology="erdos_renyi"
    )
    for layer in (m[0], m[2][0]):
        layer.low_rank.B.data.normal_(std=0.5)
    return m


def inputs(n=5, dtype=torch.float64, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 6))).to(dtype)


def branches(m, x):
    """What both branches of each layer say, by the layer's name."""
    first, second = m[0], m[2][0]
    s, low = first.sparse(x), first.low_rank(x)
    h = (s + low + first.bias).relu()
    return {"0": (s, low), "2.0": (second.sparse(h), second.low_rank(h))}


def by_formula(m, x, weight, literal=False, names=("0", "2.0")):
    total = 0.0
    for name, (s, low) in branches(m, x).items():
        if name in names:
            n, squares = s.numel(), ((s - low) ** 2).sum()
            total = total + (squares**0.5 / n if literal else squares / n)
    return weight * total


def two_numbers(layout="csr"):
    """S = (3, 0) and L = (1, 4) of an input of 1."""
    sparse = dst.SparseLinear(1, 2, topology=[[1], [0]], layout=layout, bias=False).double()
    low = dst.LowRankLinear(1, 2, 1, low_rank="linear", bias=False).double()
    sparse.parameter.data[0] = 3.0
    low.A.data.fill_(1.0)
    low.B.data = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    return nn.Sequential(dst.SparseLowRank(sparse, low))


ONE = torch.ones(1, 1, dtype=torch.float64)


# ---- by hand -------------------------------------------------------------------------------------


@layouts
def test_two_numbers_by_hand(layout):
    m = two_numbers(layout)
    align = dst.Alignment(m, weight=0.5)
    m(ONE)
    loss = align()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0.5 * (2**2 + 4**2) / 2)
    loss.backward()
    low = m[0].low_rank
    # of S: lambda 2 (S - L) / n = (1, -2); of L the opposite
    assert m[0].sparse.link_gradients().tolist() == pytest.approx([1.0])
    assert low.B.grad.flatten().tolist() == pytest.approx([-1.0, 2.0])
    assert low.A.grad.item() == pytest.approx(1 * -1 + 4 * 2)
    if layout == "masked":
        assert m[0].sparse.weight.grad.flatten().tolist() == pytest.approx([1.0, 0.0])


@layouts
def test_two_numbers_by_hand_as_printed(layout):
    m = two_numbers(layout)
    align = dst.Alignment(m, weight=0.5, literal=True)
    m(ONE)
    loss = align()
    assert loss.item() == pytest.approx(0.5 * 20**0.5 / 2)
    loss.backward()
    # of S: lambda (S - L) / |S - L| / n
    expected = [0.25 * d / 20**0.5 for d in (2, -4)]
    assert m[0].sparse.link_gradients().tolist() == pytest.approx(expected[:1])
    assert m[0].low_rank.B.grad.flatten().tolist() == pytest.approx([-d for d in expected])


def test_half_is_the_default_weight():
    m = two_numbers()
    align = dst.Alignment(m)
    m(ONE)
    assert align().item() == pytest.approx(5.0)


@literals
def test_branches_that_say_the_same_have_loss_and_gradient_0(literal):
    m = two_numbers()
    m[0].low_rank.B.data = torch.tensor([[3.0], [0.0]], dtype=torch.float64)
    align = dst.Alignment(m, literal=literal)
    m(ONE)
    loss = align()
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in m.parameters())  # nor NaN, of the root


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("literal", "expected"), [(False, 45000.0), (True, 150.0)])
def test_half_precision_is_squared_in_float32(dtype, literal, expected):
    m = two_numbers("masked").to(dtype)
    m[0].sparse.weight.data.zero_()
    m[0].low_rank.B.data = torch.tensor([[300.0], [0.0]], dtype=dtype)  # 90000 is too much
    align = dst.Alignment(m, weight=1.0, literal=literal)
    m(ONE.to(dtype))
    loss = align()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert m[0].low_rank.B.grad.dtype == dtype
    assert m[0].low_rank.B.grad[0].item() > 0


def test_the_printed_loss_vanishes_with_the_batch_and_the_mean_square_does_not():
    losses = {}
    for literal in (False, True):
        m, x = model(), inputs()
        align = dst.Alignment(m, literal=literal)
        m(x)
        once = align().item()
        m(x.repeat(4, 1))
        losses[literal] = align().item() / once
    assert losses[False] == pytest.approx(1)
    assert losses[True] == pytest.approx(0.5)  # 4 ** 0.5 / 4


# ---- against the formula and finite differences --------------------------------------------------


@literals
@layouts
@pytest.mark.parametrize("form", ["silu", "linear", "sltrain"])
def test_conformance(form, layout, literal):
    m, x = model(layout, form=form), inputs()
    twin = copy.deepcopy(m)
    align = dst.Alignment(m, weight=0.3, literal=literal)
    y = m(x)
    torch.testing.assert_close(y, twin(x), rtol=0, atol=0)
    loss, expected = align(), by_formula(twin, x, 0.3, literal)
    torch.testing.assert_close(loss, expected)
    (y.square().mean() + loss).backward()
    (twin(x).square().mean() + expected).backward()
    for (name, p), q in zip(m.named_parameters(), twin.parameters(), strict=True):
        assert p.grad.any(), name
        torch.testing.assert_close(p.grad, q.grad)


@literals
@layouts
@pytest.mark.parametrize("form", ["silu", "sltrain"])
def test_the_gradient_by_finite_differences(form, layout, literal):
    m, x = model(layout, form=form), inputs(3)
    align = dst.Alignment(m, weight=0.7, literal=literal)
    learned = {n: p for n, p in m.named_parameters() if not n.startswith("3.")}
    assert {n.rpartition(".")[2] for n in learned} == {
        "values" if layout == "csr" else "weight", "A", "B", "bias",
    }  # fmt: skip
    # bias of the last has no part in it

    def loss(*_):
        m(x)
        return align()

    assert torch.autograd.gradcheck(loss, tuple(learned.values()))


# ---- which layers, and when ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ({}, {"0", "2.0"}),
        ({"include": "0"}, {"0"}),
        ({"include": ["2.*"]}, {"2.0"}),
        ({"exclude": "2.*"}, {"0"}),
        ({"include": ("0", "2.0"), "exclude": ["0"]}, {"2.0"}),
    ],
)
def test_patterns_choose_layers(patterns, names):
    m, x = model(), inputs()
    align = dst.Alignment(m, weight=0.5, **patterns)
    m(x)
    torch.testing.assert_close(align(), by_formula(m, x, 0.5, names=names))
    for name in ("0", "2.0"):
        assert len(m.get_submodule(name).watchers) == (name in names)


def test_refusals():
    m = model()
    for weight in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"weight must be 0 or more, not {weight}"):
            dst.Alignment(m, weight)
    with pytest.raises(ValueError, match=r"'3' matches no layer of two branches; they are 0, 2\.0"):
        dst.Alignment(m, include="3")
    with pytest.raises(ValueError, match=r"'9\*' matches no layer of two branches"):
        dst.Alignment(m, exclude="9*")
    with pytest.raises(ValueError, match=r"no layer with a sparse and a low-rank.*rank=\.\.\."):
        dst.Alignment(dst.sparsify(nn.Sequential(nn.Linear(6, 4)), 0.5))
    assert m[0].watchers == m[2][0].watchers == ()


def test_patterns_that_leave_no_layer_are_refused():
    with pytest.raises(ValueError, match="no layer"):
        dst.Alignment(model(), exclude="*")


def test_a_weight_of_0_adds_nothing():
    m, x = model(), inputs()
    align = dst.Alignment(m, weight=0)
    m(x)
    loss = align()
    assert loss.item() == 0
    loss.backward()
    assert not any(p.grad.any() for n, p in m.named_parameters() if n.startswith("0.sparse"))


def test_it_is_called_once_after_each_pass():
    m, x = model(), inputs()
    align = dst.Alignment(m)
    with pytest.raises(RuntimeError, match=NONE_YET + ".*after each one, before the backward"):
        align()
    m(x)
    first = align()
    with pytest.raises(RuntimeError, match=NONE_YET):
        align()
    m(2 * x)
    second = align()
    torch.testing.assert_close(first, by_formula(m, x, 0.5))
    torch.testing.assert_close(second, by_formula(m, 2 * x, 0.5))


def test_every_layer_must_take_part():
    m, x = model(), inputs()
    align = dst.Alignment(m)
    m[0](x)
    with pytest.raises(RuntimeError, match=r"went through '2\.0'"):
        align()


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_passes_without_gradients_leave_nothing(without):
    m, x = model(), inputs()
    align = dst.Alignment(m)
    with without():
        m(x)
    with pytest.raises(RuntimeError, match=NONE_YET):
        align()
    m(x)
    with without():
        m(3 * x)
    torch.testing.assert_close(align(), by_formula(m, x, 0.5))


def test_micro_batches():
    m, x = model(), inputs(8)
    twin = copy.deepcopy(m)
    align = dst.Alignment(m)
    for half in x.chunk(2):
        y = m(half)
        ((y.square().mean() + align()) / 2).backward()
    (twin(x).square().mean() + by_formula(twin, x, 0.5)).backward()
    for p, q in zip(m.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_two_at_once():
    m, x = model(), inputs()
    one = dst.Alignment(m, weight=0.2, include="0")
    both = dst.Alignment(m, weight=0.7, literal=True)
    m(x)
    torch.testing.assert_close(both(), by_formula(m, x, 0.7, literal=True))
    torch.testing.assert_close(one(), by_formula(m, x, 0.2, names=["0"]))
    one.remove()
    m(x)
    torch.testing.assert_close(both(), by_formula(m, x, 0.7, literal=True))
    with pytest.raises(RuntimeError, match=NONE_YET):
        one()
    both.remove()
    assert m[0].watchers == m[2][0].watchers == ()


def test_beside_a_meter():
    m, x = model(), inputs()
    align = dst.Alignment(m)
    with dst.CancellationMeter(m) as meter:
        m(x)
    torch.testing.assert_close(align(), by_formula(m, x, 0.5))
    assert len(m[0].watchers) == 1
    assert all(r > 0 for r in meter.ratios().values())


# ---- wrapped, copied, compiled, recomputed -------------------------------------------------------


def test_a_copy_is_not_looked_at():
    m, x = model(), inputs()
    align = dst.Alignment(m)
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), AveragedModel(m)):
        other(x)
        with pytest.raises(RuntimeError, match=NONE_YET):
            align()
    ema = AveragedModel(m)
    align = dst.Alignment(ema, include="0")  # but in a wrapper, by the names without it
    ema(x)
    torch.testing.assert_close(align(), by_formula(m, x, 0.5, names=["0"]))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@layouts
def test_compiled_without_graph_breaks(layout):
    torch._dynamo.reset()
    m, x = model(layout), inputs()
    twin = copy.deepcopy(m)
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled(x)
    align = dst.Alignment(compiled)  # after a pass: the compiled code must notice
    for i in range(2):
        y = compiled(x + i)
        (y.square().mean() + align()).backward()
        (twin(x + i).square().mean() + by_formula(twin, x + i, 0.5)).backward()
    for p, q in zip(m.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    align.remove()
    torch.testing.assert_close(compiled(x), twin(x))
    with pytest.raises(RuntimeError, match=NONE_YET):
        align()


class Checkpointed(nn.Module):
    def __init__(self, m, reentrant=False):
        super().__init__()
        self.m, self.reentrant, self.passes = m, reentrant, 0

    def forward(self, x):
        for part in (self.m[:2], self.m[2:]):
            x = checkpoint(self.counted, part, x, use_reentrant=self.reentrant)
        return x

    def counted(self, part, x):
        self.passes += 1
        return part(x)


@literals
@layouts
def test_what_checkpointing_computes_again_counts_once(layout, literal):
    m, x = model(layout), inputs()
    twin, again = copy.deepcopy(m), Checkpointed(m)
    align = dst.Alignment(m, literal=literal)
    for i in range(2):
        y = again(x + i)
        loss, expected = align(), by_formula(twin, x + i, 0.5, literal)
        torch.testing.assert_close(loss, expected)
        (y.square().mean() + loss).backward()
        (twin(x + i).square().mean() + expected).backward()
        assert again.passes == 4 * (i + 1)  # each part was computed twice
        with pytest.raises(RuntimeError, match=NONE_YET):
            align()
    for p, q in zip(m.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_reentrant_checkpointing_is_noticed():
    m, x = model(), inputs().requires_grad_()
    align = dst.Alignment(m)
    y = Checkpointed(m, reentrant=True)(x)
    with pytest.raises(RuntimeError, match=NONE_YET):
        align()
    y.sum().backward()
    with pytest.raises(RuntimeError, match=NONE_YET):
        align()


# ---- memory --------------------------------------------------------------------------------------


class Sentinel:
    """A hook, which lives as long as the graph that it is in."""

    def __call__(self, grad):
        return None


def sentinels(m):
    """Weak references to what both branches say in the next passes, and to hooks in its graph."""
    outputs, graphs = [], []

    def see(*branches):
        for t in branches:
            sentinel = Sentinel()
            t.register_hook(sentinel)
            outputs.append(weakref.ref(t))
            graphs.append(weakref.ref(sentinel))
        return branches

    for layer in (m[0], m[2][0]):
        layer.watchers += (see,)
    return outputs, graphs


def alive(references):
    return sum(r() is not None for r in references)


@literals
@layouts
def test_nothing_of_a_pass_is_held_after_its_backward(layout, literal):
    m, x = model(layout), inputs()
    align = dst.Alignment(m, literal=literal)
    outputs, graphs = sentinels(m)
    y = m(x)
    # the outputs of the branches are gone already: the graph has their difference
    assert alive(outputs) == 0
    loss = y.square().mean() + align()
    assert len(outputs) == alive(graphs) == 4
    loss.backward()
    del loss, y
    assert alive(graphs) == 0


def test_remove_lets_go_of_what_was_not_called_for():
    m, x = model(), inputs()
    align = dst.Alignment(m)
    _, graphs = sentinels(m)
    m(x)
    assert alive(graphs) == 4
    align.remove()
    align.remove()  # twice is once
    assert alive(graphs) == 0
    assert len(m[0].watchers) == len(m[2][0].watchers) == 1  # the test's own
    m(x)
    with pytest.raises(RuntimeError, match=NONE_YET):
        align()


@literals
@layouts
def test_the_graph_has_one_difference_a_layer_more(layout, literal):
    def saved(m, x):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            m(x)
        return sum(n for n in sizes if n > 1)

    m, x = model(layout), inputs()
    alone = saved(m, x)
    align = dst.Alignment(m, literal=literal)
    assert saved(m, x) - alone == len(x) * (9 + 8)
    align.remove()
    assert saved(m, x) == alone


# ---- what it is for ------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize("method", ["set", "rigl", "chts"])
def test_training_with_it_aligns_the_branches(method, layout):
    x = inputs(64)
    target = (x[:, :1] > 0).long().squeeze(1)
    apart = {}
    for weight in (0.0, 5.0):
        m = model(layout)
        align = dst.Alignment(m, weight)
        optimizer = torch.optim.Adam(m.parameters(), lr=0.01)
        evolver = dst.Evolver(m, optimizer, method, every=5, total_steps=40)
        for _ in range(40):
            optimizer.zero_grad()
            (F.cross_entropy(m(x), target) + align()).backward()
            optimizer.step()
            evolver.step()
        apart[weight] = by_formula(m, x, 1.0).item()
    assert apart[5.0] < apart[0.0] / 2
