"""Budgets of weights: the published configurations, by hand, and as properties."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dst

LLAMA = {"60M": (512, 1376, 8), "130M": (768, 2048, 12)}
FIVE_PERCENT = {"60M": 16.2, "130M": 24.25}  # SCIENCE, section 5


@cache
def llama(size, blocks=None):
    """The linear layers of LLaMA's blocks."""
    h, f, depth = LLAMA[size]
    shapes = dict.fromkeys("qkvo", (h, h)) | {"gate": (h, f), "up": (h, f), "down": (f, h)}
    with torch.device("meta"):
        block = [
            nn.ModuleDict({n: nn.Linear(*s, bias=False) for n, s in shapes.items()})
            for _ in range(blocks or depth)
        ]
    return nn.ModuleList(block)


def layers(*sizes):
    with torch.device("meta"):
        return nn.ModuleList(nn.Linear(*size) for size in sizes)


# ---- the published configurations ----------------------------------------------------------------

# by size and total sparsity: CHTsL on OpenWebText and C4, SLTrain on both
PUBLISHED = {
    ("CHTsL OWT", "60M"): [(0.95, 16), (0.9, 32), (0.85, 48)],
    ("CHTsL OWT", "130M"): [(0.95, 24), (0.9, 48), (0.85, 72)],
    ("CHTsL C4", "60M"): [(0.95, 16), (0.95, 48), (0.95, 80)],
    ("CHTsL C4", "130M"): [(0.95, 24), (0.95, 72), (0.95, 120)],
    ("SLTrain OWT", "60M"): [(0.95, 16), (0.9, 32), (0.85, 48)],
    ("SLTrain OWT", "130M"): [(0.95, 24), (0.85, 24), (0.85, 72)],
    ("SLTrain C4", "60M"): [(0.95, 16), (0.9, 32), (0.9, 64)],
    ("SLTrain C4", "130M"): [(0.95, 24), (0.95, 72), (0.85, 72)],
}
# sparse : low rank, in steps of 5 % of the weights
RATIOS = {
    ("CHTsL OWT", "60M"): [(1, 1), (2, 2), (3, 3)],
    ("CHTsL OWT", "130M"): [(1, 1), (2, 2), (3, 3)],
    ("CHTsL C4", "60M"): [(1, 1), (1, 3), (1, 5)],
    ("CHTsL C4", "130M"): [(1, 1), (1, 3), (1, 5)],
    ("SLTrain OWT", "60M"): [(1, 1), (2, 2), (3, 3)],
    ("SLTrain OWT", "130M"): [(1, 1), (3, 1), (3, 3)],
    ("SLTrain C4", "60M"): [(1, 1), (2, 2), (2, 4)],
    ("SLTrain C4", "130M"): [(1, 1), (1, 3), (3, 3)],
}
CONFIGURATIONS = [
    pytest.param(size, total, *published, *ratio, id=f"{name}-{size}-{total}")
    for (name, size), row in PUBLISHED.items()
    for total, published, ratio in zip((0.9, 0.8, 0.7), row, RATIOS[name, size], strict=True)
]


@pytest.mark.parametrize(("size", "total", "s", "rank", "sparse", "low"), CONFIGURATIONS)
def test_published_configurations(size, total, s, rank, sparse, low):
    model = llama(size)
    density, found_rank = dst.budget(model, total, ratio=sparse / low)
    assert density == pytest.approx(1 - s, abs=1e-12)
    assert found_rank == rank
    assert type(found_rank) is int
    assert (sparse + low) * 0.05 == pytest.approx(1 - total)
    # the total, within the rounding of the rank
    h, f, _ = LLAMA[size]
    per_rank = (8 * h + 3 * (h + f)) / (4 * h * h + 3 * h * f)
    come_to = dst.total_density(model, density, rank)
    assert come_to == pytest.approx((1 - s) + rank * per_rank)
    assert abs(come_to - (1 - total)) <= 4 * per_rank  # half of a multiple of 8


def test_all_published_rows_are_there():
    assert len(CONFIGURATIONS) == 24


@pytest.mark.parametrize(("size", "rank"), [("60M", 16), ("130M", 24)])
def test_the_rank_step_of_5_percent(size, rank):
    model = llama(size)
    assert dst.rank_step(model) == dst.rank_step(model, 0.05) == rank
    h, f, _ = LLAMA[size]
    exact = 0.05 * (4 * h * h + 3 * h * f) / (8 * h + 3 * (h + f))
    assert exact == pytest.approx(FIVE_PERCENT[size], abs=0.005)
    assert 0.05 / dst.total_density(model, 0.0, 1) == pytest.approx(exact, rel=1e-12)
    assert dst.rank_step(model, multiple=1) == round(exact)
    assert dst.rank_step(llama(size, blocks=1)) == rank  # per block, so of any depth


# ---- by hand -------------------------------------------------------------------------------------


def test_by_hand():
    model = layers((10, 10), (10, 40))  # 500 weights, 70 of each rank
    assert dst.total_density(model, 0.1, 2) == pytest.approx(0.1 + 140 / 500)
    assert dst.total_density(model, 0.1, 0) == pytest.approx(0.1)
    # 0.7 of 500 is 350: 5 ranks of 70; with as much for the links, 2.5
    assert dst.rank_step(model, 0.7, multiple=1) == 5
    density, rank = dst.budget(model, 0.3, ratio=0, multiple=1)
    assert (density, rank) == (0.0, 5)
    assert dst.budget(model, 0.3, ratio=3, multiple=1) == (0.525, 1)  # 1.25
    assert dst.budget(model, 0.3, ratio=1 / 4, multiple=1) == (0.14, 4)
    assert dst.budget(model, 0.3, ratio=math.inf) == (0.7, 0)
    assert dst.budget(model, 0.0, ratio=math.inf) == (1.0, 0)


@pytest.mark.parametrize(
    ("exact", "multiple", "rank"),
    [
        (25, 8, 24),  # 4 % off
        (31, 8, 32),
        (28, 8, 28),  # 24 and 32 are too far: a multiple of 4
        (30, 8, 30),  # of 2
        (11, 8, 11),
        (7, 8, 7),
        (1.2, 8, 1),
        (25, 64, 24),  # of 8
        (31, 5, 30),
        (32, 5, 32),  # 30 is too far: of 2
        (400, 8, 400),
        (397, 8, 400),
    ],
)
def test_ranks_are_round_where_that_changes_little(exact, multiple, rank):
    model = layers((1000, 1000))  # a rank is 0.2 %
    found = dst.rank_step(model, exact / 500, multiple=multiple)
    assert found == rank
    assert type(found) is int
    assert dst.budget(model, 1 - exact / 500, ratio=0, multiple=multiple) == (0.0, rank)


def test_the_default_multiple_is_8():
    model = layers((1000, 1000))
    assert dst.rank_step(model, 170 / 500) == 168  # not 170, nor 176
    assert dst.budget(model, 0.32)[1] == 168


def test_the_density_is_a_short_number():
    assert dst.budget(llama("60M"), 0.9)[0] == 0.05
    assert dst.budget(llama("60M"), 0.7, ratio=1 / 5)[0] == 0.05
    assert dst.budget(llama("60M"), 0.95, ratio=math.inf)[0] == 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_sparsity": 1.0}, r"total_sparsity must be in \[0, 1\), not 1.0"),
        ({"total_sparsity": -0.1}, r"total_sparsity must be in \[0, 1\), not -0.1"),
        ({"total_sparsity": 90}, r"total_sparsity must be in \[0, 1\), not 90"),
        ({"total_sparsity": math.nan}, r"total_sparsity must be .*not nan"),
        ({"ratio": -1}, r"ratio must be 0 or more \(sparse : low rank\), not -1"),
        ({"ratio": math.nan}, "ratio must be 0 or more .*not nan"),
        ({"multiple": 0}, "multiple must be a positive integer, not 0"),
        ({"total_sparsity": 0.99}, r"a share of 0.005 .* is a rank of 0.25 here, less than one"),
        ({"include": "9"}, "the pattern '9' matches no Linear layer; they are 0"),
        ({"exclude": "*"}, "no Linear layer is left"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        dst.budget(layers((100, 100)), **{"total_sparsity": 0.5} | arguments)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, math.nan])
def test_a_share_is_of_the_whole(share):
    with pytest.raises(ValueError, match=rf"share must be in \(0, 1\], not {share}"):
        dst.rank_step(layers((100, 100)), share)


def test_a_model_without_linear_layers():
    with pytest.raises(ValueError, match="no Linear layer; they are none"):
        dst.budget(nn.Sequential(nn.ReLU()), 0.5)


# ---- which layers --------------------------------------------------------------------------------


def test_patterns_are_those_of_sparsify():
    model = layers((10, 10), (10, 40), (40, 10))
    for patterns, (numbers, weights) in [
        ({}, (120, 900)),
        ({"include": "0"}, (20, 100)),
        ({"include": ["0", "1"]}, (70, 500)),
        ({"exclude": "0"}, (100, 800)),
        ({"exclude": ()}, (120, 900)),
    ]:
        assert dst.total_density(model, 0.0, 1, **patterns) == pytest.approx(numbers / weights)
        rank = dst.budget(model, 0.5, multiple=1, **patterns)[1]
        assert rank == round(0.25 * weights / numbers)
        assert dst.rank_step(model, 0.25, multiple=1, **patterns) == rank


def test_one_linear_layer_alone():
    with torch.device("meta"):
        assert dst.total_density(nn.Linear(10, 40), 0.1, 2) == pytest.approx(0.1 + 100 / 400)


@pytest.mark.parametrize("kind", ["sparse", "low rank", "both"])
def test_one_layer_alone_that_is_sparse_already(kind):
    layer = {
        "sparse": lambda: dst.SparseLinear(10, 40, density=0.5),
        "low rank": lambda: dst.LowRankLinear(10, 40, 2),
        "both": lambda: dst.sparsify(nn.Sequential(nn.Linear(10, 40)), 0.5, rank=2)[0],
    }[kind]()
    assert dst.total_density(layer, 0.1, 2) == pytest.approx(0.1 + 100 / 400)


@pytest.mark.parametrize("how", ["sparse", "both", "low rank"])
def test_a_model_that_is_sparse_already(how):
    def dense():
        return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 96), nn.Linear(96, 10))

    made = {
        "sparse": lambda m: dst.sparsify(m, 0.1, exclude="2"),
        "both": lambda m: dst.sparsify(m, 0.1, exclude="2", rank=4),
        "low rank": lambda m: dst.factorize(m, 4, exclude="2"),
    }[how](dense())
    expected = dst.total_density(dense(), 0.1, 4, exclude="2")
    assert expected != dst.total_density(dense(), 0.1, 4)
    assert dst.total_density(made, 0.1, 4) == expected
    assert dst.budget(made, 0.5) == dst.budget(dense(), 0.5, exclude="2")
    assert dst.rank_step(made, 0.2) == dst.rank_step(dense(), 0.2, exclude="2")


def test_branches_are_no_layers_of_their_own():
    both = dst.sparsify(nn.Sequential(nn.Linear(64, 64)), 0.1, rank=4)[0]
    made = nn.Sequential(both, dst.LowRankLinear(64, 96, 4), dst.SparseLinear(96, 32, density=0.5))
    numbers, weights = 128 + 160 + 128, 64 * 64 + 64 * 96 + 96 * 32
    assert dst.total_density(made, 0.1, 4) == pytest.approx(0.1 + 4 * numbers / weights)


def test_patterns_in_a_model_that_is_sparse_already():
    made = dst.sparsify(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 96)), 0.1, rank=4)
    expected = pytest.approx(0.1 + 4 * 128 / 64**2)
    assert dst.total_density(made, 0.1, 4, include="0") == expected
    assert dst.total_density(made, 0.1, 4, exclude="1") == expected
    for nothing in ({"include": "2"}, {"include": "0.sparse"}, {"exclude": "*"}):
        with pytest.raises(ValueError, match="sparse or low-rank layer"):
            dst.total_density(made, 0.1, 4, **nothing)


def test_it_is_what_a_model_then_has():
    m = nn.Sequential(nn.Linear(64, 128, bias=False), nn.Linear(128, 80, bias=False))
    dense = sum(p.numel() for p in m.parameters())
    density, rank = dst.budget(m, 0.5, ratio=1 / 2)
    expected = dst.total_density(m, density, rank)
    dst.sparsify(m, density, rank=rank, layout="csr")
    have = sum(p.numel() for p in m.parameters())
    assert have / dense == pytest.approx(expected, abs=1 / dense)  # links are whole numbers


def test_an_output_embedding_is_not_counted_unless_asked_for():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=2,
        num_attention_heads=8,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
        base = transformers.LlamaModel(config)
    blocks = llama("60M")
    assert model.get_output_embeddings() is model.lm_head
    assert dst.budget(model, 0.9) == (0.05, 16)
    assert dst.total_density(model, 0.05, 16) == pytest.approx(dst.total_density(blocks, 0.05, 16))
    assert dst.rank_step(model, 0.2, multiple=1) == dst.rank_step(blocks, 0.2, multiple=1)
    with_head = dst.total_density(model, 0.05, 16, exclude=())
    h, f = 512, 1376
    numbers, weights = 2 * (8 * h + 3 * (h + f)), 2 * (4 * h * h + 3 * h * f)
    expected = 0.05 + 16 * (numbers + h + 1000) / (weights + h * 1000)
    assert with_head == pytest.approx(expected)
    assert dst.budget(base, 0.9) == (0.05, 16)  # has none


# ---- properties ----------------------------------------------------------------------------------

shapes = st.lists(st.tuples(st.integers(16, 600), st.integers(16, 600)), min_size=1, max_size=4)
ratios = st.one_of(st.just(math.inf), st.floats(0, 20), st.sampled_from([0, 1, 1 / 3, 1 / 5]))


@given(shapes, st.floats(0, 0.95), ratios, st.sampled_from([1, 2, 8, 16]))
def test_the_total_density_is_the_inverse(sizes, total_sparsity, ratio, multiple):
    model = layers(*sizes)
    per_rank = sum(i + o for i, o in sizes) / sum(i * o for i, o in sizes)
    total = 1 - total_sparsity
    exact = total / (1 + ratio) / per_rank  # the rank
    try:
        density, rank = dst.budget(model, total_sparsity, ratio, multiple=multiple)
    except ValueError:
        assert 0 < exact <= 0.5
        return
    assert dst.total_density(model, density, 0) == density
    assert density == pytest.approx(total if ratio == math.inf else total * ratio / (1 + ratio))
    rounding = max(0.05 * exact, 0.5) + 1e-9
    assert abs(rank - exact) <= rounding
    come_to = dst.total_density(model, density, rank)
    assert abs(come_to - total) <= rounding * per_rank
