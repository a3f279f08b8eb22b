import base64
import json
import os
import re
from pathlib import Path

import matplotlib.image
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FIGURES = {
    "first_steps": 3,
    "topology_evolution": 5,
    "starting_topologies": 2,
    "link_predictors": 1,
    "papers_mlp_table": 1,
    "chtsl_cancellation": 1,
}

each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def cells(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def test_these_are_the_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(FIGURES)
    told = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"\((\w+)\.ipynb\)", told)) == set(FIGURES)


@each
def test_a_notebook_is_stored_as_it_was_written(notebook):
    book = nbformat.read(notebook, as_version=4)
    nbformat.validate(book)
    for cell in cells(book, "code"):
        assert not cell.outputs
        assert cell.execution_count is None
        compile(cell.source, notebook.name, "exec")
    assert book.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    text = notebook.read_text()
    assert not re.search(r"/(home|Users|tmp|work|mnt)/|[A-Z]:\\\\", text), "an absolute path"
    assert max(len(line) for cell in book.cells for line in cell.source.splitlines()) <= 100


@each
def test_a_notebook_begins_with_its_parameters_and_ends_with_its_conclusions(notebook):
    book = nbformat.read(notebook, as_version=4)
    first, second, *_, last = book.cells
    assert first.source.startswith("# ")
    assert second.metadata["tags"] == ["parameters"]
    assert re.fullmatch(r"([A-Z]+ = .*\n?)+", second.source), "plain assignments"
    assert last.cell_type == "markdown"
    assert "## What we saw\n\n" in last.source
    assert len(last.source.split()) > 40
    for link in re.findall(r"\]\((\w+\.ipynb)\)", "\n".join(c.source for c in book.cells)):
        assert (FOLDER / link).is_file()


@pytest.fixture(scope="module")
def runner():
    """Runs notebooks in one kernel: to import torch anew in each would be half of the time."""
    environment = {
        **os.environ,
        # of the kernel itself, when it ends
        "PYTHONWARNINGS": "error,ignore::PendingDeprecationWarning",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("EPITOPO_DATA", None)
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=300)
    with client.setup_kernel(env=environment):
        yield client


def run(client, book, folder):
    """Run cells in a folder, with no name and no look left by what ran before."""
    clean = f"%reset -f\n%cd -q {folder}\n__import__('matplotlib').rcdefaults()\n%who_ls"
    client.nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(clean)])
    client.execute(cleanup_kc=False)
    outputs = client.nb.cells[0].outputs
    assert [output.data["text/plain"] for output in outputs if "data" in output] == ["[]"]
    client.nb = book
    client.execute(cleanup_kc=False)


@each
def test_a_notebook_runs(notebook, runner, tmp_path):
    book = nbformat.read(notebook, as_version=4)
    run(runner, book, tmp_path)
    figures = []
    for cell in cells(book, "code"):
        for output in cell.outputs:
            assert output.output_type != "error"
            # progress bars are all that a notebook says on the side
            assert (
                output.get("name") != "stderr"
                or "measuring" in output.text
                or (not output.text.strip())
            ), output.text
            if "image/png" in output.get("data", {}):
                figures.append(output.data["image/png"])
    assert len(figures) == FIGURES[notebook.stem]
    for number, figure in enumerate(figures):
        file = tmp_path / f"{number}.png"
        file.write_bytes(base64.b64decode(figure))
        assert np.ptp(matplotlib.image.imread(file)[..., :3]) > 0.5, "an empty figure"
    assert str(FOLDER.parent) not in json.dumps(book)
