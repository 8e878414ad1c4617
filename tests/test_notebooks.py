"""The notebooks were executed, and still run, shortened, to the end; so does the train script.

What the notebooks and the guide name is there.
"""

import ast
import importlib
import re
from pathlib import Path

import keras
import nbformat
import pytest

import keras_cnnlstm

ROOT = Path(__file__).parents[1] / "notebooks"
EACH = [pytest.param(path, id=path.stem) for path in sorted(ROOT.glob("*.ipynb"))]
SHORTER = {
    r"EPOCHS, STEPS = \d+, \d+": "EPOCHS, STEPS = 1, 5",
    r"IMAGES = \d+": "IMAGES = 8",
    r"TEST_SEQUENCES = [\d_]+": "TEST_SEQUENCES = 100",
}


GUIDE = [pytest.param(path, id=path.stem) for path in sorted(ROOT.glob("guide/*.md"))]
ELSEWHERE = {
    "MobileNetV3Small",
    "Thumbs",
    "db",
    "image_dataset_from_directory",
    "TensorflowTrainer",
    "extract_patches",
    "safe_mode",
    "True",
    "torch.cat",
}  # names of others
EXAMPLES = {"anna_01", "anna_02", "cached_copies"}  # names of clips; an option that is gone


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


def defined():
    """Every name that the package's code gives to something: a file, an option, a key of a dict."""
    for path in Path(keras_cnnlstm.__file__).parent.rglob("*.py"):
        yield from (path.stem, path.parent.name)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                    yield name
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield name
                case ast.Constant(value=str(value)):
                    yield value
                case ast.alias(name=name):
                    yield from name.split(".")


@pytest.fixture(scope="module")
def known():
    return ELSEWHERE.union(EXAMPLES, defined())


def names_in(text):
    """Names in backticks, outside of blocks of code: `name`, `name=1`, `module.name(...)`."""
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for quoted in re.findall(r"`([^`\n]+)`", outside):
        if found := re.match(r"([A-Za-z_][\w.]*)(\(|$|=\S|\[)", quoted):
            if found[2] != "(" and not re.search(r"[a-z\d]_[a-z\d]|^[A-Z]\w*[a-z]", found[1]):
                continue  # an ordinary word, such as the value of an option
            yield found[1]


@pytest.mark.parametrize("path", EACH + GUIDE)
def test_names_are_there(path, known):
    if path.suffix == ".md":
        texts = [path.read_text("utf-8")]
        code = re.findall(r"```.*?```", *texts, flags=re.DOTALL)
    else:
        texts = [cell.source for cell in read(path).cells]
        code = [cell.source for cell in code_cells(read(path))]
    for text in texts:
        imports = re.findall(r"^from (keras_cnnlstm\S*) import (\([^)]*\)|.+)", text, re.MULTILINE)
        imports += [(m, n) for n, m in re.findall(r"`(\w+)[^`]*` from `(keras_cnnlstm\S*)`", text)]
        for module, names in imports:
            there = importlib.import_module(module)
            assert [n for n in re.findall(r"\w+", names) if not hasattr(there, n)] == []
    known = known.union(re.findall(r"\w+", "\n".join(code)))
    named = {name for text in texts for name in names_in(text)} - known
    assert [name for name in named if not known.issuperset(name.split("."))] == []


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
