"""The notebooks were executed, and still run, shortened, from the first cell to the last."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SHORTER = {
    r"EPOCHS, STEPS = \d+, \d+": "EPOCHS, STEPS = 1, 5",
    r"IMAGES = \d+": "IMAGES = 8",
}


EACH = [pytest.param(path, id=path.stem) for path in NOTEBOOKS]


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", EACH)
def test_outputs_are_stored_and_free_of_errors(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
    assert any("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)


@pytest.mark.filterwarnings("default")  # the kernel's own libraries warn, in this process too
@pytest.mark.parametrize("path", EACH)
@pytest.mark.slow
def test_runs_from_top_to_bottom(path, tmp_path):
    from nbclient import NotebookClient

    notebook, shortened = read(path), 0
    for cell in code_cells(notebook):
        for long, short in SHORTER.items():
            cell.source, count = re.subn(long, short, cell.source)
            shortened += count
    assert shortened, "a notebook without a length to shorten trains for minutes here"
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises on the first cell that fails
