"""Files that are whole or not there, and what killed writers leave behind."""

import contextlib
import os
import subprocess
import sys

import pytest

from keras_cnnlstm.utils import files

WRITER = """
import sys, time
from pathlib import Path
from keras_cnnlstm.utils.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(100)
"""


@contextlib.contextmanager
def writer(path):
    """A process in the midst of writing a file, and the temporary name of that."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, path.with_name(process.stdout.readline().strip())
        finally:
            process.kill()


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    with writer(path) as (_, left), writer(path) as (_, live):
        with writer(tmp_path / "other") as (killed, gone):
            killed.kill()
            killed.wait()
        assert gone.exists()
        files.write_text(path, "whole")
        assert not gone.exists()
        assert left.read_text() == live.read_text() == "half"

    monkeypatch.setattr(files, "_swept", set())
    here, other = left.name, left.name.replace(files._HOST, "0" * 8)
    for name in (other, ".writing-notes", f".writing-{files._HOST}-x-1-a"):
        (tmp_path / name).touch()
    (tmp_path / here.replace(here.split("-")[2], "999999999")).mkdir()  # of an export
    (tmp_path / here.replace(here.split("-")[2], str(os.getpid()))).touch()  # the number again
    files.write_text(path, "again")
    names = {other, ".writing-notes", f".writing-{files._HOST}-x-1-a", path.name}
    assert {found.name for found in tmp_path.iterdir()} == names


def test_a_folder_is_searched_once(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "a")
    with files.replacing(tmp_path / "a") as own:
        own.touch()
        files.write_text(tmp_path / "b", "b")
        assert own.exists()
    monkeypatch.setattr(files.psutil, "pid_exists", lambda pid: pytest.fail("searched again"))
    (tmp_path / own.name.replace(str(os.getpid()), "999999999")).touch()
    files.write_text(tmp_path / "c", "c")
