"""What README and guide say works: their Python runs, their commands parse, their links lead on."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from keras_cnnlstm.cli.commands import Command, parse
from keras_cnnlstm.config import TrainConfig

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "notebooks" / "guide").glob("*.md"))
TEXTS = {page: page.read_text("utf-8") for page in [README, *GUIDE, ROOT / "CHANGELOG.md"]}
COMMAND = re.compile(r"\bkeras-cnnlstm \S")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", TEXTS[page], flags=re.DOTALL)


def links(page):
    return [link for link in re.findall(r"\]\(([^)#]+)\)", TEXTS[page]) if "://" not in link]


def prose(page):
    return re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)


def commands(page):
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    found = [part.strip() for line in lines for part in line.split("&&")]
    found += re.findall(r"`([^`]+)`", prose(page))
    # A table of options, headed by the command that they follow.
    for head, rows in re.findall(r"^\| .*? after `([^`]+)`.*\n((?:\|.*\n)+)", TEXTS[page], re.M):
        found += [f"{head} {options}" for options in re.findall(r"^\| `(--[^`]+)`", rows, re.M)]
    return list(dict.fromkeys(filter(COMMAND.search, found)))


COMMANDS = [
    pytest.param(command, id=f"{page.stem}: {command}")
    for page in [README, *GUIDE]
    for command in commands(page)
]
PYTHON = [
    pytest.param(code, id=f"{page.stem} {number}")
    for page in [README, *GUIDE]
    for number, code in enumerate(blocks(page, "python"), start=1)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # An existing folder as --data goes before a data set.
    for folder in ("clips", "fights", "motions"):
        (tmp_path / folder).mkdir()
    words = shlex.split(command, comments=True)
    words = words[words.index("keras-cnnlstm") + 1 :]
    if "--help" in words:
        with pytest.raises(SystemExit):
            parse(words)
    elif "--resume" in words:
        with pytest.raises(FileNotFoundError, match="runs/"):  # the run is not here
            parse(words)
    else:
        assert parse(words) is not None


@pytest.mark.parametrize("page", [README, *GUIDE], ids=lambda page: page.stem)
def test_options_exist(page):
    options = {f.name for c in (*get_args(Command), TrainConfig) for f in dataclasses.fields(c)}
    named = {match.replace("-", "_") for match in re.findall(r"`--([a-z-]+)", prose(page))}
    assert named <= options | {"help"}


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module, names in re.findall(r"^from (\S+) import (.+)$", code, flags=re.M):
        shown = importlib.import_module(module)  # those of functions that nothing calls, too
        assert all(hasattr(shown, name.strip()) for name in names.split(","))
    shortened = re.sub(r"steps_per_epoch=\d+", "steps_per_epoch=3", code)
    exec(compile(shortened, "README.md", "exec"), {})


def test_the_readme_is_short_and_leads_everywhere():
    assert len(TEXTS[README].splitlines()) <= 180
    shown = {(ROOT / link).resolve() for link in links(README)}
    assert shown >= {*GUIDE, *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "notebooks/train.py"}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    for link in links(page):
        assert (page.parent / link).exists(), link
