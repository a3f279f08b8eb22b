"""The overlap cancellation ratio: by hand, its properties, and measured in a model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import dst

pytestmark = pytest.mark.usefixtures("one_thread")

layouts = pytest.mark.parametrize("layout", ["csr", "masked"])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=[str(d)[6:] for d in DTYPES])


def ocr(S, L, dtype=torch.float64, **options):
    S, L = (torch.tensor(values, dtype=dtype) for values in (S, L))
    return dst.overlap_cancellation_ratio(S, L, **options).item()


def reference(S, L, eps=0.0):
    overlaps = [min(abs(s), abs(low)) for s, low in zip(S, L, strict=True)]
    cancelled = [o for o, s, low in zip(overlaps, S, L) if (s > 0 > low) or (s < 0 < low)]
    total = math.fsum(overlaps)
    return math.fsum(cancelled) / (total + eps) if total else 0.0


# ---- by hand -------------------------------------------------------------------------------------

#    overlap  1    2    1   0  1/2
S = [1.0, 2.0, -3.0, 0.0, 4.0]
L = [5.0, -4.0, -1.0, 7.0, -0.5]


@dtypes
def test_by_hand(dtype):
    assert ocr(S, L, dtype) == pytest.approx(2.5 / 4.5, rel=1e-6)
    assert reference(S, L) == pytest.approx(2.5 / 4.5)
    assert ocr(S, L, dtype, eps=0.5) == pytest.approx(0.5)
    assert ocr([1.0], [-1.0], dtype, eps=1.0) == pytest.approx(0.5)


def test_the_default_eps():
    assert ocr([1e-12], [-1e-12]) == pytest.approx(0.5)
    assert ocr([1e-9], [-1e-9]) == pytest.approx(1 - 1e-3, rel=1e-5)


@dtypes
@pytest.mark.parametrize("eps", [1e-12, 0.0])
@pytest.mark.parametrize(
    ("first", "second"),
    [([0.0, 0.0], [0.0, 0.0]), ([1.0, 0.0], [0.0, -2.0]), ([0.0, -0.0], [-1.0, 1.0]), ([], [])],
)
def test_what_does_not_overlap_cancels_nothing(first, second, eps, dtype):
    assert ocr(first, second, dtype, eps=eps) == 0


@dtypes
@pytest.mark.parametrize("eps", [1e-12, 0.0])
def test_total_cancellation_stays_below_1(eps, dtype):
    for size in (1.0, 1024.0):
        assert 0.999 < ocr([size] * 7, [-size] * 7, dtype, eps=eps) < 1
        assert ocr([size] * 7, [size] * 7, dtype, eps=eps) == 0


@pytest.mark.parametrize(
    ("dtype", "tiny"),
    [(torch.float64, 1e-200), (torch.float32, 1e-30), (torch.bfloat16, 1e-30), (DTYPES[3], 1e-5)],
)
def test_products_that_underflow_have_a_sign(dtype, tiny):
    a, b = torch.tensor([tiny], dtype=dtype), torch.tensor([-tiny], dtype=dtype)
    assert a * b == 0
    assert dst.overlap_cancellation_ratio(a, b, eps=0.0) > 0.99
    # beside an overlap of the same sign, and of the same size
    both = dst.overlap_cancellation_ratio(torch.cat([a, a]), torch.cat([b, a]), eps=0.0)
    assert both == pytest.approx(0.5)


@dtypes
def test_sums_of_half_precision_are_of_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 20_000, generator=generator, dtype=torch.float64).to(dtype)
    ratio = dst.overlap_cancellation_ratio(first, second)
    assert ratio.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert ratio.shape == ()
    expected = reference(first.double().tolist(), second.double().tolist())
    assert ratio.item() == pytest.approx(expected, rel=1e-5)


def test_of_two_dtypes():
    first, second = torch.tensor([1.0, -0.1]), torch.tensor([-3.0, -1.0])
    for a, b, wide in [
        (torch.bfloat16, torch.float64, torch.float64),
        (torch.bfloat16, torch.float16, torch.float32),
    ]:
        for pair in ((first.to(a), second.to(b)), (first.to(b), second.to(a))):
            ratio = dst.overlap_cancellation_ratio(*pair)
            assert ratio.dtype == wide
            assert ratio.item() == pytest.approx(1 / 1.1, rel=1e-2)


def test_any_shape_and_stride_and_no_gradient():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=True)
    ratio = dst.overlap_cancellation_ratio(first, second)
    assert not ratio.requires_grad
    flat = dst.overlap_cancellation_ratio(first.flatten(), second.flatten())
    turned = dst.overlap_cancellation_ratio(first.mT, second.mT.contiguous())
    torch.testing.assert_close(torch.stack([flat, turned]), torch.stack([ratio, ratio]))
    number = dst.overlap_cancellation_ratio(torch.tensor(2.0), torch.tensor(-1.0))
    assert number == pytest.approx(1)


def test_refusals():
    with pytest.raises(ValueError, match=r"S has the shape \(2, 1\), L \(2,\)"):
        dst.overlap_cancellation_ratio(torch.ones(2, 1), torch.ones(2))  # would broadcast


def test_a_negative_eps_is_refused():
    with pytest.raises(ValueError, match="eps must be 0 or more, not -2"):
        dst.overlap_cancellation_ratio(torch.ones(1), -torch.ones(1), eps=-2)


def test_what_is_not_a_number_is_not_hidden():
    for first in ([math.nan, 1.0], [math.nan, math.nan]):
        assert math.isnan(ocr(first, [1.0, 1.0]))


# ---- properties ----------------------------------------------------------------------------------

sizes = st.floats(2.0**-10, 2.0**10)
numbers = st.one_of(st.just(0.0), sizes, sizes.map(lambda x: -x))
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12).map(lambda p: zip(*p))


@given(pairs, st.sampled_from([0.0, 1e-12, 0.1]))
def test_it_is_the_formula_within_its_bounds(pair, eps):
    first, second = pair
    ratio = ocr(first, second, eps=eps)
    assert 0 <= ratio < 1
    assert ratio == pytest.approx(reference(first, second, eps), abs=1e-9)
    assert 0 <= ocr(first, second, torch.bfloat16, eps=eps) < 1


@given(pairs)
def test_it_is_symmetric(pair):
    first, second = pair
    assert ocr(first, second) == ocr(second, first)
    minus = ([-x for x in values] for values in (first, second))
    assert ocr(*minus) == ocr(first, second)


@given(pairs, st.integers(-30, 30), st.floats(1e-3, 1e3))
def test_a_common_scale_does_not_matter(pair, exponent, scale):
    first, second = pair
    expected = ocr(first, second, eps=0.0)
    exactly = ([x * 2.0**exponent for x in values] for values in (first, second))
    assert ocr(*exactly, eps=0.0) == expected
    nearly = ([x * scale for x in values] for values in (first, second))
    assert ocr(*nearly, eps=0.0) == pytest.approx(expected, abs=1e-12)


@given(pairs)
def test_with_the_sign_of_one_flipped_it_is_the_rest(pair):
    first, second = pair
    assume(any(s and low for s, low in zip(first, second)))
    flipped = ocr(first, [-x for x in second], eps=0.0)
    assert ocr(first, second, eps=0.0) + flipped == pytest.approx(1, abs=1e-12)


@given(pairs, st.randoms(use_true_random=False))
def test_order_and_what_is_silent_do_not_matter(pair, random):
    first, second = pair
    both = list(zip(first, second)) + [(0.0, 5.0), (-3.0, 0.0)]
    random.shuffle(both)
    assert ocr(*zip(*both)) == pytest.approx(ocr(first, second), abs=1e-12)


# ---- in a model ----------------------------------------------------------------------------------


def model(layout="csr", dtype=torch.float64):
    """Sparse, with a low rank: "0" and "2.0", not "3"."""
    torch.manual_seed(0)
    m = nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Sequential(nn.Linear(9, 8), nn.Tanh()), nn.Linear(8, 4)
    )
    return dst.sparsify(m.to(dtype), 0.4, exclude="3", rank=2, layout=layout)


def inputs(n=16, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, 6))).to(dtype)


class Captured:
    """What the branches of each layer said, over all passes."""

    def __init__(self, m):
        self.outputs = {}
        for name in ("0", "2.0"):
            layer = m.get_submodule(name)
            for which, branch in enumerate((layer.sparse, layer.low_rank)):
                said = self.outputs.setdefault(name, ([], []))[which]
                branch.register_forward_hook(
                    lambda *call, said=said: said.append(call[-1].detach().clone())
                )

    def ratios(self, pool=torch.cat):
        return {
            n: dst.overlap_cancellation_ratio(*(pool([t.flatten() for t in said]) for said in both))
            for n, both in self.outputs.items()
        }


@layouts
@pytest.mark.parametrize("passes", [1, 3])
def test_the_meter_is_the_function_of_what_the_branches_say(passes, layout):
    m, x = model(layout), inputs()
    captured = Captured(m)
    meter = dst.CancellationMeter(m)
    with meter as entered:
        for i in range(passes):  # of different sizes: pooled by sums, not by means
            m(x[: 2 + 5 * i] * (1 + 10 * i))
    assert entered is meter
    ratios = meter.ratios()
    assert list(ratios) == ["0", "2.0"]
    assert all(type(r) is float and 0.05 < r < 0.95 for r in ratios.values())
    assert ratios == pytest.approx({n: r.item() for n, r in captured.ratios().items()})
    each = [meter_of(m, x, i) for i in range(passes)]
    assert meter.sums().shape == (2, 2)
    np.testing.assert_allclose(meter.sums(), sum(one.sums() for one in each), rtol=1e-12)
    if passes > 1:
        means = {n: np.mean([one.ratios()[n] for one in each]) for n in ratios}
        assert all(abs(means[n] - r) > 1e-4 for n, r in ratios.items())
    assert meter.sums().dtype == np.float64
    for (cancelled, overlap), ratio in zip(meter.sums(), ratios.values(), strict=True):
        assert cancelled / overlap == pytest.approx(ratio)


def meter_of(m, x, i):
    with dst.CancellationMeter(m) as meter:
        m(x[: 2 + 5 * i] * (1 + 10 * i))
    return meter


def test_the_bias_has_no_part_in_it():
    m, x = model(), inputs()
    with dst.CancellationMeter(m, include="0") as meter:
        m(x)
    expected = meter.ratios()
    m[0].bias.data.fill_(100.0)
    with meter:
        m(x)
    assert meter.ratios() == expected


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ({"include": "2.*"}, ["2.0"]),
        ({"include": ["0", "2.0"], "exclude": "2*"}, ["0"]),
        ({"exclude": ("0",)}, ["2.0"]),
    ],
)
def test_patterns_choose_layers(patterns, names):
    m, x = model(), inputs()
    with dst.CancellationMeter(m) as every:
        m(x)
    with dst.CancellationMeter(m, **patterns) as meter:
        m(x)
    assert meter.ratios() == {n: every.ratios()[n] for n in names}
    assert meter.sums().shape == (1, 2)


def test_names_are_those_without_a_wrapper():
    m, x = model(), inputs()
    for wrapped in (AveragedModel(m), torch.compile(m, backend="eager")):
        with dst.CancellationMeter(wrapped, include="0") as meter:
            m(x)
            wrapped.eval()
        assert list(meter.ratios()) == ["0"]


def test_patterns_that_match_no_layer_are_refused():
    with pytest.raises(ValueError, match="'3' matches no layer of two branches"):
        dst.CancellationMeter(model(), include="3")
    with pytest.raises(ValueError, match="no layer with a sparse and a low-rank branch"):
        dst.CancellationMeter(nn.Sequential(nn.Linear(2, 2)))


def test_patterns_that_leave_no_layer_are_refused():
    with pytest.raises(ValueError, match="no layer"):
        dst.CancellationMeter(model(), exclude="*")


def test_nothing_is_recorded_outside_the_statement():
    m, x = model(), inputs()
    meter = dst.CancellationMeter(m)
    m(x)
    assert all(math.isnan(ratio) for ratio in meter.ratios().values())
    assert np.isnan(meter.sums()).all()
    with meter:
        m(x)
    once = meter.sums()
    m(x)
    assert np.array_equal(meter.sums(), once)
    assert m[0].watchers == m[2][0].watchers == ()
    with meter:  # anew
        m(3 * x)
    assert not np.allclose(meter.sums(), once)
    with meter:
        m(x)
    assert np.array_equal(meter.sums(), once)


def test_an_error_within_the_statement_ends_it():
    m = model()
    with pytest.raises(KeyError), dst.CancellationMeter(m):
        raise KeyError
    assert m[0].watchers == m[2][0].watchers == ()


def test_a_layer_without_a_pass_has_none():
    m, x = model(), inputs()
    with dst.CancellationMeter(m) as meter:
        m[0](x)
    assert meter.ratios()["0"] > 0
    assert math.isnan(meter.ratios()["2.0"])


def test_sums_of_two_halves_are_those_of_the_whole():
    m, x = model(), inputs()
    meter, sums = dst.CancellationMeter(m), []
    for part in (x, x[:5], x[5:]):
        with meter:
            m(part)
        sums.append(meter.sums())
        if part is x:
            ratios = meter.ratios()
    whole, *halves = sums
    np.testing.assert_allclose(sum(halves), whole, rtol=1e-12)
    assert meter.ratios(sum(halves)) == pytest.approx(ratios)
    assert meter.ratios(sum(halves)) != pytest.approx(meter.ratios())
    assert meter.ratios(np.array([[1.0, 4.0], [0.0, 0.0]])) == {"0": pytest.approx(0.25), "2.0": 0}


@pytest.mark.parametrize("gradients", [True, False])
def test_it_measures_with_and_without_gradients_and_changes_none(gradients):
    m, x = model(), inputs()
    m(x).square().sum().backward()
    expected = [p.grad.clone() for p in m.parameters()]
    with torch.no_grad(), dst.CancellationMeter(m) as meter:
        y = m(x)
    ratios = meter.ratios()
    m.zero_grad()
    with torch.set_grad_enabled(gradients), meter:
        measured = m(x)
    assert torch.equal(measured, y)
    assert meter.ratios() == ratios
    if gradients:
        measured.square().sum().backward()
        assert all(torch.equal(p.grad, g) for p, g in zip(m.parameters(), expected, strict=True))


@layouts
@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_computes_again_counts_once(layout, reentrant):
    m, x = model(layout), inputs().requires_grad_()
    with dst.CancellationMeter(m) as meter:
        m(x)
    expected, passes = meter.sums(), []
    m[0].sparse.register_forward_hook(lambda *_: passes.append(1))
    with meter:
        checkpoint(m, x, use_reentrant=reentrant).sum().backward()
    assert len(passes) == 2
    assert np.array_equal(meter.sums(), expected)


def test_bf16():
    m, x = model("masked").bfloat16(), inputs().bfloat16()
    captured = Captured(m)
    with dst.CancellationMeter(m) as meter:
        m(x)
        m(2 * x)
    assert meter.ratios() == pytest.approx(
        {n: r.item() for n, r in captured.ratios().items()}, rel=1e-5
    )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@layouts
def test_compiled_without_graph_breaks(layout):
    torch._dynamo.reset()
    m, x = model(layout), inputs()
    with dst.CancellationMeter(m) as meter:
        m(x)
    expected = meter.sums()
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    compiled(x)
    with dst.CancellationMeter(compiled) as meter:
        compiled(x)
    np.testing.assert_allclose(meter.sums(), expected, rtol=1e-12)
    compiled(x)
    np.testing.assert_allclose(meter.sums(), expected, rtol=1e-12)


def test_cancelling_branches_in_a_model():
    m, x = model(), inputs()
    m = dst.sparsify(
        nn.Sequential(nn.Linear(6, 9, bias=False)).double(), 0.999, rank=6, low_rank="linear"
    )
    # L = -S: all of it cancels
    u, s, v = torch.linalg.svd(m[0].sparse.to_dense(), full_matrices=False)
    m[0].low_rank.A.data, m[0].low_rank.B.data = s[:, None] * v, -u
    with dst.CancellationMeter(m) as meter:
        y = m(x)
    assert y.abs().max() < 1e-12
    assert 0.999 < meter.ratios()["0"] < 1
    m[0].low_rank.B.data = u
    with meter:
        m(x)
    assert meter.ratios()["0"] < 1e-9
