import numpy as np
import pytest
import torch

import dst
import topo


def some_links(seed=0, n_out=9, n_in=7, density=0.4, scale=1.0):
    """Links with weights, some of them 0; the first output neuron and the last input have none."""
    rng = np.random.default_rng(seed)
    present = rng.random((n_out, n_in)) < density
    present[0] = present[:, -1] = False
    weights = np.where(present, rng.normal(size=present.shape) * scale, 0.0)
    weights[2] = 0.0  # a neuron all of whose weights are 0
    weights[tuple(np.argwhere(present)[3])] = 0.0
    return present, weights


def as_links(present, weights, gradients=None):
    def read():
        assert gradients is not None, "asked for gradients"
        return torch.from_numpy(gradients[present])

    return dst.Links(topo.as_adjacency(present), torch.from_numpy(weights[present]), read)


def dense_importance(present, weights, alpha):
    """Eq. (4) of CHTs, one link at a time; a share in nothing is nothing."""
    size = np.abs(weights)
    scores = []
    for i, j in np.argwhere(present):
        halves = [
            size[i, j] / 2 / below if below > 0 else 0.0
            for below in (
                alpha + (1 - alpha) * size[i].sum(),
                alpha + (1 - alpha) * size[:, j].sum(),
            )
        ]
        scores.append(sum(halves))
    return np.array(scores)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_importance_is_eq_4(alpha, seed):
    present, weights = some_links(seed)
    found = dst.importance(alpha)(as_links(present, weights))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, dense_importance(present, weights, alpha), rtol=1e-12)
    if alpha == 1.0:
        np.testing.assert_allclose(found, dst.magnitude(as_links(present, weights)))


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_relative_importance_does_not_depend_on_the_scale(scale):
    present, weights = some_links()
    usual = dst.importance(0.0)(as_links(present, weights))
    found = dst.importance(0.0)(as_links(present, weights * scale))
    np.testing.assert_allclose(found, usual, rtol=1e-12)
    for alpha in (0.5, 1.0):
        found = dst.importance(alpha)(as_links(present, weights * scale))
        np.testing.assert_allclose(
            found, dense_importance(present, weights * scale, alpha), rtol=1e-12
        )


@pytest.mark.parametrize("small", [1e-6, 1e-15, 1e-30])
def test_relative_importance_of_small_neurons_among_large_ones(small):
    # Each of the two links is all that its neurons have, so each is of importance 1.
    present = np.eye(2, dtype=bool)
    found = dst.importance(0.0)(as_links(present, np.diag([1.0, small])))
    assert found.tolist() == pytest.approx([1.0, 1.0])
    found = dst.importance(0.0)(as_links(present, np.diag([1.0, small]) / small))
    assert found.tolist() == pytest.approx([1.0, 1.0])


def test_importance_does_not_depend_on_the_order_of_neurons():
    # 0.1 + 0.2 + 0.3 in floating point does: the same bits in any order are no accident.
    present, weights = some_links(n_out=40, n_in=30, density=0.5)
    rows, cols = np.random.default_rng(1).permutation(40), np.random.default_rng(2).permutation(30)
    for alpha in (0.0, 0.3):
        dense = np.zeros(present.shape)
        dense[present] = dst.importance(alpha)(as_links(present, weights))
        moved = np.zeros(present.shape)
        there = present[np.ix_(rows, cols)]
        moved[there] = dst.importance(alpha)(as_links(there, weights[np.ix_(rows, cols)]))
        assert np.array_equal(moved, dense[np.ix_(rows, cols)])


def test_importance_of_nothing():
    assert dst.importance()(as_links(np.zeros((2, 3), bool), np.zeros((2, 3)))).tolist() == []
    assert dst.importance()(as_links(np.ones((1, 2), bool), np.zeros((1, 2)))).tolist() == [0, 0]
    for alpha in (-0.1, 1.1, "RI"):
        with pytest.raises(ValueError, match=r"alpha is a number in \[0, 1\]"):
            dst.importance(alpha)


def test_magnitude_and_gradient():
    present = np.array([[True, False, True], [False, True, False]])
    weights = np.array([[-1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    gradients = np.array([[10.0, 99.0, -60.0], [99.0, 3.0, 99.0]])
    links = as_links(present, weights, gradients)
    found = dst.magnitude_and_gradient(0.01)(links)
    assert found.tolist() == pytest.approx([1.1, 1.1, 0.03])
    assert dst.magnitude_and_gradient(2.0)(links).tolist() == [21.0, 120.5, 6.0]
    assert dst.magnitude_and_gradient()(links).tolist() == found.tolist()


def test_gradients_are_read_only_where_a_score_asks_and_once():
    present, weights = np.ones((2, 2), bool), np.ones((2, 2))
    links = as_links(present, weights)  # complains if it is asked
    assert dst.magnitude(links).tolist() == [1.0] * 4
    assert dst.importance(0.5)(links).shape == (4,)
    asked = []
    links = dst.Links(links.adjacency, links.weights, lambda: asked.append(1) or links.weights)
    dst.magnitude_and_gradient()(links)
    dst.magnitude_and_gradient()(links)
    assert asked == [1]


def test_links_know_their_ends():
    present, weights = some_links()
    gradients = np.random.default_rng(3).normal(size=present.shape)
    links = as_links(present, weights, gradients)
    assert links.shape == (9, 7)
    ends = torch.stack([links.rows, links.cols], 1)
    assert np.array_equal(ends.numpy(), np.argwhere(present))
    assert ends.dtype == torch.int64


def test_gradient_magnitude():
    assert isinstance(dst.gradient_magnitude, dst.DenseScore)
    gradient = torch.tensor([[1.0, -2.0], [0.0, -0.5]])
    assert dst.gradient_magnitude.score(gradient).tolist() == [[1.0, 2.0], [0.0, 0.5]]
