import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

import topo


def fixed(values):
    """A predictor that gives these scores."""

    def score_rows(layer, rows, out):
        out[:] = np.asarray(values)[rows]

    return topo.Predictor("fixed", score_rows)


def test_a_ranking_solved_by_hand():
    """One link of two is hidden among three absent ones; scores 3 > 2 > 1 > 0 by cell."""
    table = topo.evaluate_predictor(
        [[1, 0], [0, 1]], fixed([[3, 2], [1, 0]]), hidden=0.5, seeds=range(40)
    )
    # hidden (0, 0): 3 against 2 and 1, first; hidden (1, 1): 0 against 2 and 1, last of three
    first = table.auc_roc == 1
    assert set(table.auc_roc) == {0.0, 1.0}
    assert (table.precision == first).all()
    np.testing.assert_allclose(table.auc_pr, np.where(first, 1, 1 / 3))
    assert set(table.hidden) == set(table.k) == {1}


def test_tied_scores_count_as_their_mean():
    dense = np.random.default_rng(0).random((20, 15)) < 0.3
    table = topo.evaluate_predictor(dense, "random", hidden=0.2, seeds=[7])
    share = table.hidden / (dense.size - dense.sum() + table.hidden)
    np.testing.assert_allclose(table.auc_roc, 0.5)
    np.testing.assert_allclose(table.auc_pr, share)
    np.testing.assert_allclose(table.precision, share)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 60))
def test_against_scikit_learn_on_what_is_hidden(seed, k):
    rng = np.random.default_rng(seed)
    dense = rng.random((12, 9)) < 0.4
    dense[0, :3] = True
    values = rng.integers(0, 5, dense.shape).astype(float)  # with ties
    row = topo.evaluate_predictor(dense, fixed(values), hidden=0.25, k=k, seeds=[seed]).iloc[0]
    # the hidden links are those that a predictor sees as absent
    seen = []
    topo.evaluate_predictor(
        dense,
        topo.Predictor("spy", lambda layer, rows, out: seen.append(layer) or out.fill(0)),
        hidden=0.25,
        seeds=[seed],
    )
    left = np.zeros_like(dense)
    for v in range(len(dense)):
        left[v, seen[0].indices[seen[0].indptr[v] : seen[0].indptr[v + 1]]] = True
    assert not (left & ~dense).any()
    assert dense.sum() - left.sum() == row.hidden == round(0.25 * dense.sum())
    sought, scores = dense[~left], values[~left]
    assert row.auc_pr == pytest.approx(average_precision_score(sought, scores))
    assert row.auc_roc == pytest.approx(roc_auc_score(sought, scores))
    orders = []
    for _ in range(300):
        order = rng.permutation(len(scores))
        best = order[np.argsort(-scores[order], kind="stable")[:k]]
        orders.append(sought[best].mean())
    assert row.precision == pytest.approx(np.mean(orders), abs=5 * np.std(orders) / 300**0.5 + 1e-9)


def test_the_same_seed_hides_the_same_links_from_every_predictor():
    dense = np.random.default_rng(0).random((30, 20)) < 0.2
    seen = []

    def spy(layer, rows, out):
        seen.append(layer.indices.tolist())
        out[:] = 1

    for name in "ab":
        topo.evaluate_predictor(dense, topo.Predictor(name, spy), seeds=[3])
    assert seen[0] == seen[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, r"must be in \(0, 1\), not 0"),
        ({"hidden": 1.0}, r"must be in \(0, 1\), not 1.0"),
        ({"hidden": 1e-9}, "hiding 0 of 4 links"),
        ({"hidden": 0.99}, "hiding 4 of 4 links"),
        ({"k": 0}, "k must be an integer from 1 to 4, not 0"),
        ({"k": 5}, "k must be an integer from 1 to 4, not 5"),
        ({"predictor": "x"}, "unknown predictor 'x'"),
    ],
)
def test_what_cannot_be_evaluated(options, message):
    arguments = {"predictor": "ch2_l3n", "hidden": 0.5} | options
    with pytest.raises(ValueError, match=message):
        topo.evaluate_predictor([[1, 1, 0], [1, 1, 0]], **arguments)
    with pytest.raises(ValueError, match="nothing to tell apart"):
        topo.evaluate_predictor(np.ones((3, 3)), "ch2_l3n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no link"),
        ("# nothing\n", "holds no link"),
        ("0 1\n0 x\n", "no list of links"),
        ("0 1\n2\n", "no list of links"),
        ("0 1.5\n", "no list of links"),
        ("0 99999999999999999999\n", "no list of links"),
        ("0 1\n0 1\n", r"the link \(0, 1\) is given twice"),
        ("0 -1\n", "column -1 is out of range"),
    ],
)
def test_a_bad_edge_list_is_refused(tmp_path, text, message):
    file = tmp_path / "bad.edges"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        topo.read_edge_list(file)
    assert "bad.edges" in str(caught.value)


def test_an_edge_list_with_a_shape(tmp_path):
    file = tmp_path / "a.edges"
    file.write_text("# rows, columns, weights\n2\t0\t0.5\n0\t3\t1.5\n")
    a = topo.read_edge_list(file)
    assert (a.shape, topo.links(a)[0].tolist(), topo.links(a)[1].tolist()) == (
        (3, 4),
        [0, 2],
        [3, 0],
    )
    assert topo.read_edge_list(file, (5, 6)).shape == (5, 6)
    with pytest.raises(ValueError, match=r"a\.edges: row 2 is out of range"):
        topo.read_edge_list(file, (2, 4))
    file.write_text("")
    assert topo.read_edge_list(file, (2, 4)).nnz == 0
