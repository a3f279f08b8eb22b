import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import dst
import topo
from dst.schedules import (
    constant,
    cosine,
    cubic,
    delta,
    linear,
    share,
    sigmoid,
    steady,
    steps,
    surplus,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# A layer of 25 x 40 possible links that ends with 100; 110 steps, an update every 10.
#
# T_end = 0.75: 82.5 steps, so the last update is that of step 80, and p = k / 8 at the k-th.
# T_end = 1: step 110 would be an update at the end of training, so the last is that of step 100.
#
# zeta = 0.15 (1 + cos(pi k / 8)), k = 1, 2, ...:
#   0.28858 0.25607 0.20740 0.15 0.09260 0.04393 0.01142 0
# cubic: 100 + 400 (8 - k)^3 / 512:
#   367.97 268.75 197.66 150 121.09 106.25 100.78 100
# sigmoid over the first half: q = k / 4, sigma(+-6) = 0.99753, 0.00247, sigma(-3) = 0.04743,
#   g(1/4) = (0.04743 - 0.00247) / (0.99753 - 0.00247) = 0.04518, g(1/2) = 1/2, g(3/4) = 1 - g(1/4)
#   100 + 400 (1 - g): 481.93 300 118.07 100 ...
# EM&S: 0.1 + 0.05 while k / 8 < 0.6, 0.1 + 0.025 before the last, 0.1 at the last.
CUBIC = [368, 269, 198, 150, 121, 106, 101, 100]
ANNEALED = [28, 25, 20, 15, 9, 4, 1, 0]  # floor of zeta * 100
ON_CUBIC = [106, 68, 41, 22, 11, 4, 1, 0]  # floor of zeta * the cubic's links
TABLE = {  # links at the start, after each update, and how many each removes
    "static": (100, [100] * 10, [0] * 10),
    "set": (100, [100] * 10, [30] * 10),
    "rigl": (100, [100] * 8, ANNEALED),
    "mest": (150, [150] * 4 + [125] * 3 + [100], [50] * 4 + [25] * 3 + [0]),
    "cht": (100, [100] * 8, ANNEALED),
    "chts": (100, [100] * 8, ANNEALED),
    "chtss": (500, [482, 300, 118] + [100] * 5, [139, 76, 24, 15, 9, 4, 1, 0]),
    "gmp": (500, CUBIC, [0] * 8),
    "granet": (500, CUBIC, ON_CUBIC),
    "chts_gmp": (500, CUBIC, ON_CUBIC),
}


def test_every_method_is_in_the_table():
    assert TABLE.keys() == dst.METHODS.keys()


@pytest.mark.parametrize("name", TABLE)
def test_each_method_follows_its_published_schedule_at_every_update(name):
    start, links, removed = TABLE[name]
    method = replace(dst.METHODS[name], stop_overlap=1.0)  # all the way
    model = dst.sparsify(nn.Sequential(nn.Linear(40, 25)), 0.1, method=method, layout="csr")
    assert model[0].links == start
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    evolver = dst.Evolver(model, optimizer, method, every=10, total_steps=110)
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    updates = []
    for step in range(1, 111):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        update = evolver.step()
        if update is not None:
            assert update.step == step
            updates.append(update)
    assert [u.step for u in updates] == [10 * k for k in range(1, len(links) + 1)]
    assert [u.layers["0"].links for u in updates] == links
    assert [u.layers["0"].removed for u in updates] == removed
    if name != "gmp":  # whose recalled links make room, too
        fallen = np.diff([start, *links])
        assert [u.layers["0"].thinned for u in updates] == (-fallen).tolist()
    assert model[0].links == 100


def test_the_last_update():
    model = nn.Sequential(dst.SparseLinear(4, 4, density=0.5, layout="csr"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for t_end, every, total, last in (
        (0.75, 10, 110, 80),
        (0.75, 10, 100, 70),
        (1.0, 10, 110, 100),  # not 110: the training is over then
        (1.0, 10, 100, 90),
        (1.0, 200, 100, 0),
        (1.0, 1, 2, 1),
        (0.7, 7, 90, 63),
        (0.29, 1, 100, 29),  # 0.29 * 100 is less than 29
    ):
        method = replace(dst.METHODS["static"], t_end=t_end)
        assert dst.Evolver(model, optimizer, method, every=every, total_steps=total).last == last


@pytest.mark.parametrize(
    ("t_start", "every", "total", "first"),
    [(0.0, 10, 100, 0), (0.25, 10, 100, 20), (0.3, 10, 100, 30), (0.29, 1, 100, 29)],
)
def test_progress_counts_from_the_start(t_start, every, total, first):
    seen = []

    def watching(progress):
        seen.append(progress)
        return 0.0

    method = replace(dst.METHODS["set"], t_start=t_start, t_end=0.8, churn=share(watching))
    model = nn.Sequential(dst.SparseLinear(4, 4, density=0.5, layout="csr"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = dst.Evolver(model, optimizer, method, every=every, total_steps=total)
    seen.clear()
    updates = [s for s in range(1, total + 1) if evolver.step() is not None]
    assert updates == list(range(first + every, 81, every))
    assert seen == pytest.approx([(s - first) / (80 - first) for s in updates])
    assert seen[-1] == 1.0


# each schedule


def test_cubic_is_exact_at_fractions():
    for k in range(9):
        p = Fraction(k, 8)
        sparsity = Fraction(9, 10) + (Fraction(1, 2) - Fraction(9, 10)) * (1 - p) ** 3
        assert cubic(0.5)(0.1, float(p)) == pytest.approx(float(1 - sparsity), rel=1e-14)
    assert cubic(0.5)(0.1, 0.0) == 0.5
    assert cubic(0.5)(0.1, 1.0) == 0.1
    # over a quarter of the evolution: at p = 1/8 it is half-way
    assert cubic(0.5, window=0.25)(0.1, 0.125) == pytest.approx(0.15)
    assert [cubic(0.5, window=0.25)(0.1, p) for p in (0.25, 0.3, 1.0)] == [0.1, 0.1, 0.1]


def test_sigmoid_hits_both_ends_and_is_antisymmetric():
    density = sigmoid(0.5)
    assert density(0.1, 0.0) == 0.5
    assert [density(0.1, p) for p in (0.5, 0.75, 1.0)] == [0.1] * 3
    for p in np.linspace(0, 0.25, 6):
        assert density(0.1, p) + density(0.1, 0.5 - p) == pytest.approx(0.6)
    # k = 6: sigma(-3) = 1 / (1 + e^3) = 0.0474259, sigma(-6) = 1 / (1 + e^6) = 0.0024726
    g = (1 / (1 + math.e**3) - 1 / (1 + math.e**6)) / (1 - 2 / (1 + math.e**6))
    assert g == pytest.approx(0.0451767, abs=1e-7)
    assert density(0.1, 0.125) == pytest.approx(0.5 - 0.4 * g, rel=1e-12)
    assert sigmoid(0.5, steepness=1e-9)(0.1, 0.1) == pytest.approx(0.5 - 0.4 * 0.2)  # a line
    assert sigmoid(0.5, window=1.0)(0.1, 0.5) == pytest.approx(0.3)


def test_cubic_and_sigmoid_train_as_many_operations():
    p = (np.arange(10000) + 0.5) / 10000
    spent = [np.mean([schedule(0.1, x) for x in p]) for schedule in (cubic(), sigmoid())]
    assert spent == pytest.approx([0.1 + 0.4 / 4] * 2, rel=1e-6)


@pytest.mark.parametrize("schedule", [cubic(0.5), sigmoid(0.5)])
def test_a_layer_that_ends_denser_than_the_start_keeps_its_density(schedule):
    assert [schedule(0.7, p) for p in (0.0, 0.2, 1.0)] == [0.7] * 3


def test_elastic_steps():
    density = steps((0.6, 0.05), (1.0, 0.025))
    below = math.nextafter(0.6, 0)
    assert [density(0.1, p) for p in (0.0, below, 0.6, 0.99, 1.0)] == pytest.approx(
        [0.15, 0.15, 0.125, 0.125, 0.1], rel=1e-15
    )
    assert density(0.1, 1.0) == 0.1
    assert density(0.97, 0.0) == 1.0  # no layer is denser


def test_the_others():
    assert [constant(0.3)(p) for p in (0.0, 1.0)] == [0.3, 0.3]
    assert [linear(2, 4)(p) for p in (0.0, 0.5, 1.0)] == [2, 3, 4]
    assert [cosine(0.3)(p) for p in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([0.3, 0.225, 0.15, 0])
    assert cosine(0.3)(1.0) == 0.0
    assert [delta()(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 2, 3])
    assert [delta(0.5, 0.9)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 5, 9])
    assert steady(0.1, 0.3) == 0.1


def test_churns():
    assert share(constant(0.29))(100, 50, 0.5) == 29  # 0.29 * 100 is less than 29
    assert share(constant(0.3))(99, 50, 0.5) == 29  # 29.7
    assert share(linear(0, 1))(10, 5, 0.4) == 4
    assert [surplus(links, 100, 0.5) for links in (99, 100, 101, 150)] == [0, 0, 1, 50]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: delta(0.0), r"delta is in \(0, 1\), not 0.0"),
        (lambda: delta(0.5, 1.0), r"delta is in \(0, 1\), not 1.0"),
        (lambda: cubic(0.0), r"start is in \(0, 1\], not 0.0"),
        (lambda: cubic(1.1), r"start is in \(0, 1\], not 1.1"),
        (lambda: sigmoid(window=0.0), r"window is in \(0, 1\], not 0.0"),
        (lambda: sigmoid(steepness=0.0), "steepness is positive, not 0.0"),
        (lambda: steps(), "steps are pairs"),
        (lambda: steps((0.9, 0.1), (0.6, 0.1)), "until ascending"),
        (lambda: steps((1.2, 0.1)), "until ascending"),
        (lambda: steps((0.6, -0.1)), "above the final density, not below"),
    ],
)
def test_impossible_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_links_and_peak_density_of_a_method():
    method = dst.METHODS["mest"]
    assert [method.links(100, 1000, p) for p in (0.0, 0.6, 1.0)] == [150, 125, 100]
    assert method.peak_density(100, 1000) == 0.15
    assert dst.METHODS["set"].peak_density(100, 1000) == 0.1
    rising = replace(dst.METHODS["set"], density=lambda final, p: final * (0.5 + p / 2))
    assert rising.links(100, 1000, 0.0) == 50
    assert rising.peak_density(100, 1000) == 0.1
    assert topo.link_count(0.1, 25, 40) == 100
