"""What the README says works: its Python runs, its commands parse, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from keras_cnnlstm.commands import parse

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands():
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in line.split("&&") if "keras-cnnlstm " in part]


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command):
    words = shlex.split(command, comments=True)
    words = words[words.index("keras-cnnlstm") + 1 :]
    assert parse(words) is not None


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shortened = re.sub(r"steps_per_epoch=\d+", "steps_per_epoch=3", code)
    exec(compile(shortened, "README.md", "exec"), {})


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
