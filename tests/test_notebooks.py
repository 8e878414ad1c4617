"""The notebooks were executed, and still run, shortened, to the end; so does the train script."""

import re
from pathlib import Path

import keras
import nbformat
import pytest

ROOT = Path(__file__).parents[1] / "notebooks"
EACH = [pytest.param(path, id=path.stem) for path in sorted(ROOT.glob("*.ipynb"))]
SHORTER = {
    r"EPOCHS, STEPS = \d+, \d+": "EPOCHS, STEPS = 1, 5",
    r"IMAGES = \d+": "IMAGES = 8",
    r"TEST_SEQUENCES = [\d_]+": "TEST_SEQUENCES = 100",
}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shortened(code):
    changes = 0
    for long, short in SHORTER.items():
        code, count = re.subn(long, short, code)
        changes += count
    return code, changes


@pytest.mark.parametrize("path", EACH)
def test_outputs_are_stored_and_free_of_errors(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
    assert any("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)


@pytest.mark.parametrize("path", EACH)
def test_links_lead_to_files(path):
    for cell in read(path).cells:
        for link in re.findall(r"\]\(([^)#]+)\)", cell.source if cell.cell_type != "code" else ""):
            assert "://" in link or (ROOT / link).exists(), link


@pytest.mark.filterwarnings("default")  # the kernel's own libraries warn, in this process too
@pytest.mark.parametrize("path", EACH)
@pytest.mark.slow
def test_runs_from_top_to_bottom(path, tmp_path):
    from nbclient import NotebookClient

    notebook, changes = read(path), 0
    for cell in code_cells(notebook):
        cell.source, count = shortened(cell.source)
        changes += count
    assert changes, "a notebook without a length to shorten trains for minutes here"
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises on the first cell that fails


def test_train_script_saves_a_model_that_opens(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, changes = shortened((ROOT / "train.py").read_text("utf-8"))
    assert changes == 2
    exec(compile(code, "train.py", "exec"), {})
    assert "of 100 sequences of unseen digits" in capsys.readouterr().out
    assert keras.models.load_model(tmp_path / "trend.keras").output_shape == (None, 7)
