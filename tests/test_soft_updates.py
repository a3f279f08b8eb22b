"""How CHTs samples: frequencies over many equal layers against probabilities worked out by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import dst
import topo

pytestmark = pytest.mark.usefixtures("one_thread")


def events_of_many(weights, tmp_path):
    """How often each link went and came in an update of 400 equal layers; None is no link.

    Of 11 steps, the last update is that of step 8. This one is step 4, half-way: 0.15 of 7 or 8
    links is 1, and the exponent of removal is 2, between 1 and 3.
    """
    given = np.array(weights, dtype=object)
    where = given != None  # noqa: E711
    values = given[where].astype(float)
    model = nn.ModuleList(nn.Linear(given.shape[1], given.shape[0]) for _ in range(400))
    dst.sparsify(model, where.mean(), layout="csr", topology=where, init=lambda *_: values)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"couplings": (), "history": tmp_path / "h"}
    evolver = dst.Evolver(model, optimizer, "chts", every=1, total_steps=11, **options)
    evolver.steps = 3
    evolver.step()
    events = topo.History.open(tmp_path / "h").events()

    def frequencies(event):
        chosen = events[events["event"] == event]
        assert len(chosen) == 400
        found = np.zeros(given.shape)
        np.add.at(found, (chosen["row"], chosen["column"]), 1 / 400)
        return found

    return frequencies("removed"), frequencies("grown")


def left_over(weights):
    """Of each, the probability to be the one that a sample without replacement leaves over."""
    left = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights))):
        p, rest = 1.0, sum(weights)
        for i in order:
            p *= weights[i] / rest
            rest -= weights[i]
        left[order[-1]] += p
    return left


def test_chts_removes_softly(tmp_path):
    # All but one stay, with odds |w|^2.
    weights = [[1.0, -2.0, 2.0, 2.0], [2.0, -2.0, 2.0, None]]
    removed, _ = events_of_many(weights, tmp_path)
    sizes = np.array([1, 2, 2, 2, 2, 2, 2])
    found = removed.ravel()[:7]
    assert np.abs(found - left_over(sizes**2)).max() < 0.08  # 3 standard deviations
    for other in (1, 3):
        assert np.abs(found - left_over(sizes**other)).max() > 0.12


def test_chts_regrows_softly(tmp_path):
    # The weight 0 always goes: 7 of 8 links stay, the others. That leaves outputs o0: i0 i1,
    # o1: i0 i1 i2, o2: i2 i3. CH2-L3n is the sum of (1 + di) / (deg - di) over a local community:
    #   (o0, i2): i0 2/1, i1 2/1, o1 3/1   7       (o2, i0): i2 2/1, o1 2/2   3
    #   (o1, i3): i2 2/1, o2 2/1           4       (o2, i1): likewise         3
    #   (o0, i3): no path of length three  0
    weights = [[1.0, 1.0, None, None], [1.0, 1.0, 1.0, None], [0.0, None, 1.0, 1.0]]
    removed, grown = events_of_many(weights, tmp_path)
    assert removed[2, 0] == pytest.approx(1.0)
    expected = np.array([[0, 0, 7, 0], [0, 0, 0, 4], [3, 3, 0, 0]]) / 17
    assert np.abs(grown - expected).max() < 0.08
    assert not grown[expected == 0].any()
    assert np.abs(grown - expected**2 / (expected**2).sum()).max() > 0.1  # no sharper
