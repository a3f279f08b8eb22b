"""The real demo: what the README says of it."""

import pytest

import analysis
from dst.__main__ import main as dst

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "runs"
    assert dst(["demo", "--out", str(folder)]) == 0
    return analysis.compare(analysis.find_runs([folder])).set_index("method")


def test_sparse_training_is_within_two_points_of_dense(table):
    assert (table["runs"] == 3).all()
    for method in ("SET", "CHTs"):
        assert table.loc[method, "score"] > table.loc["dense", "score"] - 0.02
        assert table.loc[method, "density"] == pytest.approx(0.05, abs=1e-5)
        assert table.loc[method, "links"] == round(0.05 * 64 * 512) + 2 * round(0.05 * 512 * 512)


def test_two_demos_give_the_same_table_apart_from_times(table, tmp_path):
    assert dst(["demo", "--out", str(tmp_path / "runs")]) == 0
    again = analysis.compare(analysis.find_runs([tmp_path / "runs"])).set_index("method")
    times = ["seconds", "items_per_second"]
    assert again.drop(columns=times).equals(table.drop(columns=times))
