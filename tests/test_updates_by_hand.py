"""Updates of tiny layers, solved by hand. Rows are outputs; None is no link."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dst
import topo
from dst.schedules import constant, share

pytestmark = pytest.mark.usefixtures("one_thread")
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])


def one_layer(weights, method, layout="csr", *, final=None, steps_done=0, total_steps=12):
    """A model of one layer with a link where a weight is not None, and its evolver.

    Learning rate 0 leaves the weights alone. T_end 0.75 of 12 steps makes the last update that of
    step 9, and zeta 0.15 (1 + cos(pi / 9)) = 0.29 at the first.
    """
    given = np.array(weights, dtype=object)
    present = given != None  # noqa: E711
    values = given[present].astype(float)
    model = nn.Sequential(nn.Linear(given.shape[1], given.shape[0], bias=False))
    dst.sparsify(model, present.mean(), layout=layout, topology=present, init=lambda *_: values)
    if final is not None:
        model[0].final_links = final
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    evolver = dst.Evolver(model, optimizer, method, every=1, total_steps=total_steps)
    assert model[0].links == present.sum()  # what the method starts with
    evolver.steps = steps_done
    return model, optimizer, evolver


def backward(model, gradient):
    """Give the weight this dense gradient: y = W' for the identity, and the loss is sum(G' y)."""
    g = torch.tensor(gradient, dtype=torch.float32)
    (model(torch.eye(g.shape[1])) * g.t()).sum().backward()


def present(layer):
    return layer.adjacency.toarray().astype(int).tolist()


def counts(update, name="0"):
    layer = update.layers[name]
    return layer.thinned, layer.removed, layer.percolated, layer.grown, layer.links


# removal, regrowth, percolation


def hand_method(**changes):
    fields = {
        "name": "hand",
        "start": dst.Start("erdos_renyi", "keep"),
        "churn": share(constant(0.5)),
        "removal": dst.Rule(dst.magnitude, constant(math.inf)),
        "regrowth": dst.Rule(topo.PREDICTORS["ch3_l3p"], constant(math.inf)),
    }
    return dst.Method(**fields | changes)


def first_update(weights, method, momentum, layout):
    """The first update, with a momentum for each link; the layer and its dense momentum then."""
    model, optimizer, evolver = one_layer(weights, method, layout, total_steps=4)
    backward(model, np.ones((len(weights), len(weights[0]))))
    optimizer.step()
    layer = model[0]
    on_links = layer.mask if layout == "masked" else ...
    optimizer.state[layer.parameter]["momentum_buffer"][on_links] = torch.tensor(momentum)
    update = evolver.step()
    moved = optimizer.state[layer.parameter]["momentum_buffer"].clone()
    if layout == "csr":
        dense = moved.new_zeros(layer.out_features, layer.in_features)
        dense[torch.from_numpy(layer.adjacency.toarray())] = moved
        moved = dense
    return layer, moved, update


@layouts
def test_a_whole_update(layout):
    # The two smallest weights, 0.1 and -0.2, go. What is left, u0 and u1 on v0, has no path of
    # length three, so both links to grow are random among the absent ones.
    layer, momentum, update = first_update(
        [[1.0, -2.0, None], [None, 0.1, None], [None, None, -0.2]],
        hand_method(),
        [1.0, 2.0, 3.0, 4.0],
        layout,
    )
    assert update.step == 1
    assert counts(update) == (0, 2, 0, 2, 4)
    assert layer.to_dense()[0, :2].tolist() == [1.0, -2.0]  # survivors keep their weights
    assert present(layer)[0][:2] == [1, 1]
    assert layer.links == 4
    assert momentum[0].tolist() == [1.0, 2.0, 0.0]


@layouts
def test_top_k_regrowth(layout):
    # Removing the weight 0.1 leaves the path u0 - v0 - u1 - v1; (v1, u0) closes it.
    layer, momentum, update = first_update(
        [[1.0, -2.0, None], [None, 3.0, 0.1]],
        hand_method(churn=share(constant(0.25))),
        [1.0, 2.0, 3.0, 4.0],
        layout,
    )
    assert layer.to_dense().tolist() == [[1.0, -2.0, 0.0], [0.0, 3.0, 0.0]]
    assert present(layer) == [[1, 1, 0], [1, 1, 0]]
    # momentum moved with its links and is zero on the new one, between two old ones
    assert momentum.tolist() == [[1.0, 2.0, 0.0], [0.0, 3.0, 0.0]]
    assert update.layers["0"].overlap == 0.0
    assert update.resized == ()


@layouts
def test_a_link_removed_and_regrown_keeps_weight_and_state(layout):
    # The only absent link that closes a path is the one just removed.
    layer, momentum, update = first_update(
        [[1.0, 2.0], [0.1, 3.0]],
        hand_method(churn=share(constant(0.25))),
        [1.0, 2.0, 3.0, 4.0],
        layout,
    )
    assert update.layers["0"].overlap == 1.0
    assert layer.to_dense().tolist() == [[1.0, 2.0], [pytest.approx(0.1), 3.0]]
    assert momentum.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def two_layers(first, second, method, total_steps=12):
    """0: two hidden neurons; 2: reads them. Weights as in `one_layer`, but 0 is no link."""
    torch.manual_seed(0)
    first, second = np.array(first), np.array(second)
    model = nn.Sequential(
        nn.Linear(first.shape[1], 2, bias=False), nn.ReLU(), nn.Linear(2, len(second), bias=False)
    )
    values = {first.shape: first[first != 0], second.shape: second[second != 0]}
    dst.sparsify(
        model,
        {"0": (first != 0).mean(), "2": (second != 0).mean()},
        topology={"0": first != 0, "2": second != 0},
        init=lambda linear, adjacency, key: values[adjacency.shape],
        layout="csr",
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return model, optimizer, dst.Evolver(model, optimizer, method, every=1, total_steps=total_steps)


def test_percolated_links_are_regrown_elsewhere():
    # The smallest weight of layer 2 is the only link out of hidden neuron 0, whose two links into
    # it are then percolated; layer 0 itself removes its smallest weight, into hidden neuron 1.
    method = hand_method(churn=share(constant(0.25)), percolates=True)
    model, _, evolver = two_layers(
        [[1.0, 1.0, 0], [0, 0.1, 1.0]], [[0, 1.0], [0.1, 1.0], [0, 1.0]], method
    )
    update = evolver.step()
    assert counts(update, "0") == (0, 1, 2, 3, 4)
    assert counts(update, "2") == (0, 1, 0, 1, 4)
    assert model[0].to_dense()[1, 2] == 1.0  # the one that nothing touched


# every method


@layouts
def test_static(layout):
    weights = [[1.0, 0.5, None], [None, 0.01, 0.0]]
    model, _, evolver = one_layer(weights, "static", layout)
    for _ in range(11):
        assert counts(evolver.step()) == (0, 0, 0, 0, 4)
    assert present(model[0]) == [[1, 1, 0], [0, 1, 1]]
    assert evolver.step() is None


@layouts
def test_set(layout):
    # 0.3 of 4 links is 1: the smallest, 0.01, goes. One of the other three absent links or the
    # same comes: over 40 seeds each of the three does.
    grown = set()
    for seed in range(40):
        model, _, evolver = one_layer([[1.0, 0.5, None], [None, 0.01, -2.0]], "set", layout)
        evolver.seed = seed
        assert counts(evolver.step()) == (0, 1, 0, 1, 4)
        where = model[0].adjacency.toarray()
        assert where[[0, 0, 1], [0, 1, 2]].all()
        dense = model[0].to_dense()
        assert dense[[0, 0, 1], [0, 1, 2]].tolist() == [1.0, 0.5, -2.0]
        grown |= {(r, c) for r, c in np.argwhere(where) if (r, c) in {(0, 2), (1, 0), (1, 1)}}
        assert dense[0, 2] == dense[1, 0] == 0.0
    assert grown == {(0, 2), (1, 0), (1, 1)}


@layouts
def test_rigl(layout):
    # 0.29 of 4 links is 1: (0, 1) goes. Of the absent links (0, 1), (0, 2) and (1, 1) the last has
    # the steepest gradient, downwards; larger ones are on links that are there.
    model, optimizer, evolver = one_layer([[5.0, 0.1, None], [2.0, None, 3.0]], "rigl", layout)
    backward(model, [[9.0, 1.0, 2.0], [9.0, -3.0, 9.0]])
    optimizer.step()
    assert counts(evolver.step()) == (0, 1, 0, 1, 4)
    assert present(model[0]) == [[1, 0, 0], [1, 1, 1]]
    assert model[0].to_dense().tolist() == [[5.0, 0.0, 0.0], [2.0, 0.0, 3.0]]


@layouts
def test_rigl_over_micro_batches(layout):
    # The sums of the absent links' gradients are 2, 0 and -3; either alone would choose (0, 2).
    model, optimizer, evolver = one_layer([[5.0, 0.1, None], [2.0, None, 3.0]], "rigl", layout)
    backward(model, [[9.0, 1.0, 2.0], [9.0, -1.5, 9.0]])
    backward(model, [[9.0, 1.0, -2.0], [9.0, -1.5, 9.0]])
    optimizer.step()
    evolver.step()
    assert present(model[0]) == [[1, 0, 0], [1, 1, 1]]


def test_rigl_collects_the_gradient_of_the_update_step_alone():
    # Steps 1 and 2 would choose (0, 2), and with their gradients added so would step 3.
    model, optimizer, _ = one_layer([[5.0, 0.1, None], [2.0, None, 3.0]], "rigl")
    evolver = dst.Evolver(model, optimizer, "rigl", every=3, total_steps=39)
    for step in range(1, 4):
        optimizer.zero_grad()
        backward(model, [[0.0, 0.0, 2.0 if step < 3 else 0.0], [0.0, 3.0, 0.0]])
        optimizer.step()
        update = evolver.step()
    assert update.step == 3
    assert present(model[0]) == [[1, 0, 0], [1, 1, 1]]


def test_rigl_forgets_the_gradient_of_the_update_before():
    # First (0, 1) goes and (0, 2) comes, at 0, which goes in turn; then (1, 1) is the steepest.
    model, optimizer, evolver = one_layer([[5.0, 0.1, None], [2.0, None, 3.0]], "rigl")
    for gradient in ([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]):
        optimizer.zero_grad()
        backward(model, gradient)
        optimizer.step()
        evolver.step()
    assert present(model[0]) == [[1, 0, 0], [1, 1, 1]]


@layouts
def test_mest_removes_the_surplus_by_magnitude_and_gradient(layout):
    # It ends with 4 of 40 links and starts with 4 + 2. |w| + |g| / 100 is 1, 0.9, 0.8, 0.7,
    # 0.1 + 0.65 = 0.75 and 0.3: 0.3 and 0.7 are the surplus; by magnitude it were 0.1 and 0.3.
    weights = np.full((5, 8), None)
    weights[[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]] = [1.0, -0.9, 0.8, 0.7, 0.1, -0.3]
    gradient = np.zeros((5, 8))
    gradient[3, 4] = -65.0
    model, _, evolver = one_layer(weights, "mest", layout, final=4)
    backward(model, gradient)
    assert counts(evolver.step()) == (0, 2, 0, 2, 6)
    dense = model[0].to_dense()
    assert dense[[0, 0, 1, 3], [0, 1, 2, 4]].tolist() == pytest.approx([1.0, -0.9, 0.8, 0.1])


@layouts
def test_mest_thins_at_its_boundary_and_ends_without_regrowth(layout):
    # 20 steps: the last update is that of step 15, and step 9 is 0.6 of it. There the 6 links are
    # thinned to 5 (0.3 goes), and the surplus of these is 1 (0.7 goes). One grows, at 0 and without
    # a gradient: step 15 thins it away, as 4 links are wanted, and nothing grows.
    weights = np.full((5, 8), None)
    weights[[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]] = [1.0, -0.9, 0.8, 0.7, 0.1, -0.3]
    gradient = np.zeros((5, 8))
    gradient[3, 4] = -65.0
    options = {"final": 4, "steps_done": 7, "total_steps": 20}
    model, _, evolver = one_layer(weights, "mest", layout, **options)
    backward(model, gradient)
    assert counts(evolver.step()) == (0, 2, 0, 2, 6)  # step 8 is before the boundary
    model, optimizer, evolver = one_layer(weights, "mest", layout, **options | {"steps_done": 8})
    backward(model, gradient)
    update = evolver.step()
    assert counts(update) == (1, 1, 0, 1, 5)
    assert update.resized == ("0",)
    evolver.steps = 14
    optimizer.zero_grad()
    backward(model, gradient)
    update = evolver.step()
    assert update.step == evolver.last == 15
    assert counts(update) == (1, 0, 0, 0, 4)
    assert math.isnan(update.layers["0"].overlap)
    where = [tuple(link) for link in np.argwhere(model[0].adjacency.toarray()).tolist()]
    assert where == [(0, 0), (0, 1), (1, 2), (3, 4)]


@layouts
def test_cht(layout):
    # 0.1 goes; of the absent links only (1, 0) closes a path of length three.
    model, _, evolver = one_layer([[1.0, -2.0, None], [None, 3.0, 0.1]], "cht", layout)
    update = evolver.step()
    assert counts(update) == (0, 1, 0, 1, 4)
    assert present(model[0]) == [[1, 1, 0], [1, 1, 0]]
    assert not update.layers["0"].frozen


@layouts
def test_cht_stops_a_layer_that_regrows_what_it_removes(layout):
    # The only link that can grow is the one removed: overlap 1 > 0.9.
    evolver = one_layer([[1.0, 2.0], [0.1, 3.0]], "cht", layout)[2]
    update = evolver.step()
    assert counts(update) == (0, 1, 0, 1, 4)
    assert update.layers["0"].overlap == 1.0
    assert update.layers["0"].frozen
    for _ in range(8):
        update = evolver.step()
        assert counts(update) == (0, 0, 0, 0, 4)
        assert update.layers["0"].frozen
        assert math.isnan(update.layers["0"].overlap)


@pytest.mark.parametrize(("stop", "frozen"), [(0.49, True), (0.5, False), (0.9, False)])
def test_a_layer_stops_above_the_overlap_only(stop, frozen):
    # 0.29 of 9 links is 2: those of 0.1. Only (1, 3) closes paths of length three, and is back. The
    # other ends at neurons without links, so what else grows is random: by seed 0, another link.
    weights = np.full((3, 5), None)
    weights[0, :4] = weights[1, :3] = 1.0
    weights[1, 3] = weights[2, 4] = 0.1
    evolver = one_layer(weights, replace(dst.METHODS["cht"], stop_overlap=stop))[2]
    update = evolver.step()
    assert counts(update) == (0, 2, 0, 2, 9)
    assert update.layers["0"].overlap == 0.5
    assert update.layers["0"].frozen is frozen


@pytest.mark.parametrize(("stop", "percolated"), [(0.9, 0), (1.0, 2)])
def test_a_frozen_layer_is_not_percolated(stop, percolated):
    # Layer 0 regrows (1, 0), which it removes: it stops. Then the smallest weight of layer 2 is
    # the only link out of hidden neuron 0: the two links into it stay, as they are frozen.
    method = replace(dst.METHODS["cht"], stop_overlap=stop)
    model, optimizer, evolver = two_layers(
        [[1.0, 2.0], [0.1, 3.0]], [[0, 1.0], [1.0, 1.0], [0, 0.1]], method
    )
    update = evolver.step()
    assert update.layers["0"].overlap == 1.0
    dst.rewire(model, {"2": [[0, 1], [1, 1], [0, 1]]}, optimizer)
    with torch.no_grad():
        model[2].values.copy_(torch.tensor([1.0, 0.1, 1.0, 1.0]))
    update = evolver.step()
    removed = int(stop == 1.0)
    assert counts(update, "0") == (0, removed, percolated, removed + percolated, 4)
    assert counts(update, "2") == (0, 1, 0, 1, 4)


# The last update, step 9 of 12, removes nothing: 4 links are thinned to 2. Relative importance:
# 0.1 is all that its two neurons have, (1 + 1) / 2; the others share output 0, whose sum is 27:
# (10/27 + 1) / 2 = 0.69, (9/27 + 1) / 2 = 0.67, (8/27 + 1) / 2 = 0.65.
HUB = [[10.0, 9.0, -8.0, None], [None, None, None, 0.1]]


@layouts
@pytest.mark.parametrize(
    ("method", "left"),
    [
        ("chtss", [[1, 0, 0, 0], [0, 0, 0, 1]]),
        ("chts_gmp", [[1, 1, 0, 0], [0, 0, 0, 0]]),
        ("gmp", [[1, 1, 0, 0], [0, 0, 0, 0]]),
        ("granet", [[1, 1, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_thinning_by_relative_importance_and_by_magnitude(method, left, layout):
    model, _, evolver = one_layer(HUB, method, layout, final=2, steps_done=8)
    backward(model, np.ones((2, 4)))
    update = evolver.step()
    assert update.step == evolver.last
    assert counts(update) == (2, 0, 0, 0, 2)
    assert present(model[0]) == left


def test_chtss_is_at_its_final_density_half_way():
    # p = 5/9; cubic has 2 + 2 (4/9)^3 = 2.2 links there, and at p = 4/9 2 + 2 (5/9)^3 = 2.3; the
    # sigmoid has 2 + 2 (1 - g(8/9)) = 2.02 at p = 4/9, and at p = 2/9 2 + 2 (1 - g(4/9)) = 3.3
    for done, links in ((1, 3), (3, 2), (4, 2)):
        model, _, evolver = one_layer(HUB, "chtss", final=2, steps_done=done)
        assert counts(evolver.step())[-1] == links
        assert model[0].links == links


@layouts
def test_gmp_recalls_a_pruned_weight(layout):
    # 8 possible links, from 4 to 2: 2 + 2 (8/9)^3 = 3.4 at step 1, 2 + 2 (7/9)^3 = 2.9 at step 2,
    # 2.6 at step 3. First 1 goes; then -2 has shrunk to 0.5, and 1 is back in its place; then 4
    # has shrunk to 0.2, and 0.5 is back.
    weights = [[4.0, -3.0, None, None], [None, -2.0, 1.0, None]]
    model, _, evolver = one_layer(weights, "gmp", layout, final=2)
    layer = model[0]
    assert counts(evolver.step()) == (1, 0, 0, 0, 3)
    assert layer.to_dense().tolist() == [[4.0, -3.0, 0, 0], [0, -2.0, 0, 0]]

    def shrink(row, column, to):
        at = layer.flat_positions(np.array([4 * row + column]))
        layer.parameter.detach().view(-1)[at] = to

    shrink(1, 1, -0.5)
    update = evolver.step()
    assert counts(update) == (1, 0, 0, 1, 3)
    assert update.resized == ()
    assert layer.to_dense().tolist() == [[4.0, -3.0, 0, 0], [0, 0, 1.0, 0]]
    shrink(0, 0, 0.2)
    assert counts(evolver.step()) == (1, 0, 0, 1, 3)
    assert layer.to_dense().tolist() == [[0, -3.0, 0, 0], [0, -0.5, 1.0, 0]]
    for _ in range(6):
        update = evolver.step()
    assert update.step == evolver.last
    assert layer.to_dense().tolist() == [[0, -3.0, 0, 0], [0, 0, 1.0, 0]]


@layouts
def test_granet(layout):
    # 12 possible links, from 6 to 4: 4 + 2 (8/9)^3 = 5.4 at step 1, so 0.1 is thinned; 0.29 of 5
    # links is 1, so 0.2 is removed; of the absent links (0, 3) has the steepest gradient.
    weights = [[4.0, -3.0, 0.2, None], [None, -2.0, 1.0, None], [None, None, None, 0.1]]
    gradient = [[9.0, 9.0, 1.0, -4.0], [3.0, 9.0, 9.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    model, optimizer, evolver = one_layer(weights, "granet", layout, final=4)
    backward(model, gradient)
    optimizer.step()
    update = evolver.step()
    assert counts(update) == (1, 1, 0, 1, 5)
    assert update.layers["0"].overlap == 0.0
    assert present(model[0]) == [[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert model[0].to_dense()[0].tolist() == [4.0, -3.0, 0.0, 0.0]


@layouts
def test_a_thinned_link_may_grow_again_and_is_no_overlap(layout):
    # As before, but the steepest gradient is that of the thinned link: it comes back as it was.
    weights = [[4.0, -3.0, 0.2, None], [None, -2.0, 1.0, None], [None, None, None, 0.1]]
    gradient = np.zeros((3, 4))
    gradient[2, 3] = 1.0
    model, optimizer, evolver = one_layer(weights, "granet", layout, final=4)
    backward(model, gradient)
    optimizer.step()
    update = evolver.step()
    assert counts(update) == (1, 1, 0, 1, 5)
    assert update.layers["0"].overlap == 0.0  # of what was removed, and that is (0, 2)
    assert model[0].to_dense()[2].tolist() == pytest.approx([0, 0, 0, 0.1])


@layouts
def test_chts_gmp_thins_by_magnitude_then_removes_softly(layout):
    # 12 possible links, from 6 to 4: at step 1 of 9 it is 5.4 and 0.1 goes. Then 1 of the 5 goes.
    weights = [[4.0, -3.0, 0.2, None], [None, -2.0, 1.0, None], [None, None, None, 0.1]]
    model, _, evolver = one_layer(weights, "chts_gmp", layout, final=4)
    assert counts(evolver.step()) == (1, 1, 0, 1, 5)
    assert (model[0].to_dense() == 0.1).sum() == 0
