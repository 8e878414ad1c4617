"""Bad weather: full and read-only disks, numbers that are none, too little memory, no network.

Each ends in one line and the exit code that is documented, and nothing is lost: what was written
before is there and usable. Full and read-only disks are real ones, small and in memory, mounted
where only the process that fills them sees them.
"""

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from oracles import assert_all_equal

from keras_cnnlstm.cli import main
from keras_cnnlstm.data.datasets import load_digits
from keras_cnnlstm.runtime import memory
from keras_cnnlstm.training.callbacks import RunWriter
from keras_cnnlstm.training.checkpoints import newest_checkpoint
from keras_cnnlstm.training.run_directory import load_run

pytestmark = pytest.mark.faults


def flags(**options):
    """The words of a command line."""
    named = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items())
    return [word for pair in named for word in pair]


FLAGS = flags(
    length=2, encoder="small_cnn", lstm_units=4, dropout=0.3, epochs=2, steps_per_epoch=4,
    checkpoint_steps=2, batch_size=4, validation_sequences=8, test_sequences=20,
    precision="float32",
)  # fmt: skip


def command(*words):
    """The exit code of a command in this process, and its errors."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = main.main(list(map(str, words)))
    return code, err.getvalue()


def complaint(result, code=2):
    """The one line of a command that failed."""
    assert result[0] == code, result
    (line,) = result[1].splitlines()
    return line.removeprefix("keras-cnnlstm: ")


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(path, whole):
    """Two runs have the same history, and everything that is trained is equal bit for bit."""
    assert (path / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    last, expected = (newest_checkpoint(run / "checkpoints") for run in (path, whole))
    assert (last.step, last.names) == (expected.step, expected.names)
    assert_all_equal(last.arrays, expected.arrays)
    ours, theirs = (load_run(run) for run in (path, whole))
    assert ours.metrics["test"] == theirs.metrics["test"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on a fine day."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert command("train", *FLAGS, "--run-dir", path) == (0, "")
    return path


@contextlib.contextmanager
def files_of_at_most(size):
    """No file of this process can grow beyond `size` bytes, as on a disk with that much room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_finds_no_room(whole, tmp_path):
    largest = max(path.stat().st_size for path in (whole / "checkpoints").iterdir())
    with files_of_at_most(largest - 1000):
        message = complaint(command("train", *FLAGS, "--run-dir", tmp_path / "run"))
    assert message.startswith(f"{tmp_path / 'run'}: ")
    assert re.search(f"File too large.*kept.*--resume {tmp_path / 'run'}$", message)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert command("train", "--resume", tmp_path / "run") == (0, "")
    assert_same(tmp_path / "run", whole)


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    with files_of_at_most(100):
        message = complaint(command("train", *FLAGS, "--run-dir", tmp_path / "run"))
    assert message.startswith("run_dir: ")
    assert f"{tmp_path / 'run'} cannot (File too large)" in message
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "config.json").write_text("of something else")
    message = complaint(command("train", *FLAGS, "--run-dir", tmp_path))
    assert message.startswith("run_dir: expected a path that does not exist")
    assert tree(tmp_path) == {tmp_path / "config.json": b"of something else"}


# The running sum's error, a square, grows without bound under steps that are too long.
DIVERGES = flags(
    task="running_sum", length=2, encoder="small_cnn", lstm_units=4, optimizer="sgd",
    learning_rate=1000, steps_per_epoch=20, epochs=2, batch_size=4,
    checkpoint_steps=1, validation_sequences=8, test_sequences=20, precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A run whose numbers went beyond all bounds, and what it said."""
    path = tmp_path_factory.mktemp("diverged") / "run"
    return path, complaint(command("train", *DIVERGES, "--run-dir", path), code=1)


def test_numbers_that_are_none_stop_it_and_the_last_good_checkpoint_is_kept(diverged):
    path, message = diverged
    step = int(re.search(r"is no longer a number at batch (\d+), in epoch 1\. Lower l", message)[1])
    assert message.endswith(f"The last checkpoint is kept in {path}.")
    last = newest_checkpoint(path / "checkpoints")
    assert 1 < last.step == step - 1
    weights = load_weights(last)
    assert weights
    assert all(np.isfinite(array).all() for array in weights)


def load_weights(checkpoint):
    named = zip(checkpoint.names, checkpoint.arrays, strict=True)
    return [array for name, array in named if name in ("kernel", "bias", "recurrent_kernel")]


def test_numbers_that_are_none_come_again_from_there(diverged):
    path, message = diverged
    before = tree(path)
    assert complaint(command("train", "--resume", path), code=1) == message
    assert tree(path) == before


def test_weights_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch):
    """Though the loss, which was there before the step, is one."""
    original = RunWriter.on_train_batch_end

    def overflow(self, batch, logs=None):
        if self.step == 3:
            self.model.trainable_variables[0].assign_add([[[[np.inf]]]])
        original(self, batch, logs)

    monkeypatch.setattr(RunWriter, "on_train_batch_end", overflow)
    message = complaint(command("train", *FLAGS, "--run-dir", tmp_path / "run"), code=1)
    assert message.startswith(
        "train: a weight is no longer a number at batch 4, in epoch 1. Lower l"
    )
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").step == 2
    assert not (tmp_path / "run" / "model.keras").exists()


class TestTooLittleMemory:
    def test_the_batch_that_fits_is_named_and_there_is_no_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr(memory, "available_memory", lambda: 7 * 10**7)
        words = [*FLAGS, "--run-dir", tmp_path / "run", "--batch-size"]
        message = complaint(command("train", *words, 100_000))
        most, taken = re.search(
            r"`batch_size` must be at most (\d+) with .* to fit into 70 MB; received 100000, which "
            r"takes .* GB\. Take (\d+)",
            message,
        ).groups()
        assert int(taken) <= int(most) < 2 * int(taken)
        assert not list(tmp_path.iterdir())
        assert command("train", *words, int(taken), "--epochs", 1) == (0, "")

    def test_what_this_machine_has(self, tmp_path):
        words = [*FLAGS, "--run-dir", tmp_path / "run", "--batch-size", 1_000_000]
        assert re.search(r"at most \d+ .* Take \d+", complaint(command("train", *words)))
        assert not list(tmp_path.iterdir())

    def test_a_run_to_go_on_with_stays_as_it_was(self, whole, monkeypatch):
        before = tree(whole)
        monkeypatch.setattr(memory, "available_memory", lambda: 10**6)
        message = complaint(command("train", "--resume", whole, "--epochs", 3))
        assert message.startswith("check_memory: `model` must fit into 1 MB")
        assert tree(whole) == before


def namespace(*words, mount="true", network=True):
    """Runs a command where it is root, with mounts of its own, and perhaps without a network."""
    options = ["-rm"] if network else ["-rmn"]
    return subprocess.run(
        ["unshare", *options, "sh", "-ec", f'{mount}; exec "$@"', "sh", *map(str, words)],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small_disks():
    if not shutil.which("unshare") or namespace("true", mount="mount -t tmpfs t /mnt").returncode:
        pytest.skip("this system lets nobody but root mount a disk in memory")


SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_weather import FLAGS, command, tree
disk, out, whole = map(Path, sys.argv[2:])
facts = []
"""

FULL = f"""{SCRIPT}
def fill(free):
    there = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(there.f_bavail * there.f_bsize - free))

for free in (0, 8_000, 600_000, 1_300_000):
    fill(free)
    run = disk / "run"
    stopped = command("train", *FLAGS, "--run-dir", run)
    left = [path.name for path in sorted(run.rglob("*")) if path.is_file()]
    (disk / "ballast").unlink()
    words = ["--resume", run] if left else [*FLAGS, "--run-dir", run]
    again = command("train", *words)
    shutil.copytree(run, out / str(free))
    shutil.rmtree(run)
    facts.append({{"free": free, "stopped": stopped, "left": left, "again": again}})
for format in ("saved_model", "onnx"):
    fill(20_000)
    before = tree(disk)
    stopped = command("export", whole, disk / "new" / "out", "--format", format)
    facts.append({{"format": format, "stopped": stopped, "same": tree(disk) == before,
                   "left": [path.name for path in disk.iterdir()]}})
    (disk / "ballast").unlink()
(out / "facts.json").write_text(json.dumps(facts))
"""

READ_ONLY = f"""{SCRIPT}
before = tree(disk)
run = disk / "run"
example = sorted((run / "example").iterdir())
for words in [
    ["train", *FLAGS, "--run-dir", disk / "new"],
    ["train", "--resume", run, "--epochs", 3],
    ["export", run, disk / "out"],
    ["evaluate", run, "--num-sequences", 20],
    ["predict", run, *example],
    ["stream", run, run / "example"],
]:
    facts.append([*command(*words), tree(disk) == before])
(out / "facts.json").write_text(json.dumps(facts))
"""


def on_a_small_disk(script, mount, folder, whole):
    """What a script says that runs with a disk in memory, which goes with it."""
    disk, out = folder / "disk", folder / "out"
    disk.mkdir()
    out.mkdir()
    mount = mount.format(disk=disk, whole=whole)
    tests = Path(__file__).parent
    ended = namespace(sys.executable, "-c", script, tests, disk, out, whole, mount=mount)
    assert ended.returncode == 0, ended.stderr
    return disk, out, json.loads((out / "facts.json").read_text())


@pytest.mark.slow
def test_a_disk_that_is_full(small_disks, whole, tmp_path):
    mount = "mount -t tmpfs -o size=4m tmpfs {disk}"
    disk, out, facts = on_a_small_disk(FULL, mount, tmp_path, whole)
    first, *trainings = [fact for fact in facts if "free" in fact]
    assert complaint(first["stopped"]).startswith("run_dir: expected a directory that can be made")
    assert first["left"] == []
    for fact in trainings:
        message = complaint(fact["stopped"])
        assert "No space left on device. What was written before is kept" in message
        assert message.endswith(f"keras-cnnlstm train --resume {disk / 'run'}")
        assert "config.json" in fact["left"]
        assert not [name for name in fact["left"] if name.startswith(".")]
    # The disk filled up before the first checkpoint, at the model, and at a later checkpoint.
    kept = [sum(name.startswith("step-") for name in fact["left"]) for fact in trainings]
    assert kept == sorted(kept)
    assert kept[0] == 0 < kept[-1]
    for fact in facts[:4]:
        assert fact["again"] == [0, ""]
        assert_same(out / str(fact["free"]), whole)
    for fact in facts[4:]:
        assert "No space left on device" in complaint(fact["stopped"]), fact
        assert fact["same"]
        assert fact["left"] == ["ballast"]


@pytest.mark.slow
def test_a_disk_that_is_read_only(small_disks, whole, tmp_path):
    mount = (
        "mount -t tmpfs -o size=8m tmpfs {disk}; cp -r {whole} {disk}/run; "
        "mount -o remount,ro {disk}"
    )
    disk, _, facts = on_a_small_disk(READ_ONLY, mount, tmp_path, whole)
    assert all(same for _, _, same in facts)
    new, resumed, exported, *read = [fact[:2] for fact in facts]
    assert complaint(new).startswith("run_dir: ")
    assert f"{disk / 'new'} cannot (Read-only file system)" in complaint(new)
    assert complaint(resumed).startswith(f"{disk / 'run'}: expected a directory that can be writt")
    assert complaint(exported).startswith("export: `path` must be a directory that can be made")
    assert read == [[0, ""]] * 3  # to read a run needs no right to write


def test_no_network(small_disks, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    began = time.perf_counter()
    ended = namespace(
        sys.executable, "-m", "keras_cnnlstm", "train", "--data", "mnist",
        "--run-dir", tmp_path / "run", network=False,
    )  # fmt: skip
    message = complaint((ended.returncode, ended.stderr))
    assert re.match(
        r"load_digits: data set 'mnist' is not prepared in .* cannot be downloaded", message
    )
    assert message.endswith("use the data set that needs no network: --data digits.")
    assert time.perf_counter() - began < 120  # TensorFlow Datasets itself tries for 205 to 315 s
    assert not (tmp_path / "run").exists()


# Prepares MNIST, from a server of one's own if its address is given, and says what came of it.
PREPARE = """
import hashlib, sys
from keras_cnnlstm.data.datasets import load_digits
folder, *address = sys.argv[1:]
if address:
    import tensorflow_datasets as tfds
    mnist, (address,) = tfds.image_classification.MNIST, address
    mnist.url_infos = {
        url.replace(mnist.URL, address): info for url, info in mnist.url_infos.items()
    }
    mnist.URL = address
try:
    splits = load_digits("mnist", folder)
except ConnectionError as error:
    sys.exit(str(error))
digest = hashlib.sha256()
for part in splits:
    digest.update(part.images.tobytes() + part.labels.tobytes())
print(digest.hexdigest())
"""


def prepare(*words):
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip


def prepared(*words):
    """The digest of MNIST as a process has prepared it."""
    out, err = (process := prepare(*words)).communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()[-1]


@pytest.fixture(scope="module")
def originals():
    folder = Path(os.environ.get("TFDS_DATA_DIR", "")) / "downloads" / "manual"
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("no MNIST files in $TFDS_DATA_DIR/downloads/manual")
    return folder


@pytest.fixture(scope="module")
def digest(originals, tmp_path_factory):
    """Of MNIST, prepared without a disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(originals, folder / "downloads" / "manual")
    digest = hashlib.sha256()
    for part in load_digits("mnist", folder):
        digest.update(part.images.tobytes() + part.labels.tobytes())
    return digest.hexdigest()


def wait_for(condition, process):
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing happened in five minutes")


@pytest.mark.slow
@pytest.mark.mnist
def test_a_data_set_whose_preparation_was_killed(originals, digest, tmp_path):
    shutil.copytree(originals, tmp_path / "downloads" / "manual")
    for pattern in ("mnist/*incomplete*", "mnist/*/*.tfrecord*"):  # at its beginning, at its end
        found = len(list(tmp_path.glob(pattern)))
        with prepare(tmp_path) as process:
            wait_for(partial(lambda p, n: len(list(tmp_path.glob(p))) > n, pattern, found), process)
            process.kill()
    assert not list(tmp_path.rglob("mnist/3*"))
    assert prepared(tmp_path) == digest


@pytest.fixture
def server(originals):
    """Serves MNIST's files, until a test makes it stop in the middle of them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = (originals / Path(self.path).name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            half = len(content) // 2
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content[:half])
                if self.server.stalls.is_set():
                    self.server.stalled.set()
                    self.server.goes_on.wait()
                self.wfile.write(content[half:])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stalls, server.stalled, server.goes_on = (threading.Event() for _ in range(3))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.goes_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.mnist
def test_a_download_that_was_killed(server, digest, tmp_path):
    address = f"http://127.0.0.1:{server.server_port}/"
    server.stalls.set()
    with prepare(tmp_path, address) as process:
        wait_for(lambda: [p for p in tmp_path.rglob("*.tmp.*/*") if p.stat().st_size], process)
        process.kill()
    # What is half there is not taken for the file: without a network that is said at once.
    began = time.perf_counter()
    _, message = (process := prepare(tmp_path, "http://127.0.0.1:1/")).communicate(timeout=120)
    assert process.returncode == 1
    assert "put " in message.splitlines()[-1]
    assert "train-images-idx3-ubyte.gz" in message.splitlines()[-1]
    assert time.perf_counter() - began < 60
    server.stalls.clear()
    server.goes_on.set()
    assert prepared(tmp_path, address) == digest
