"""The command line with hostile arguments: one line on stderr, exit code 2, nothing written.

Runs in this process. What would really train, score or export is not drawn.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import shutil

import numpy as np
import pytest
from hostile import SMALL, draw_cases, few_and_many
from hypothesis import strategies as st
from PIL import Image

from keras_cnnlstm.cli import main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.run_files import save_task
from keras_cnnlstm.models.captioner import captioner
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.tasks import ClipCaption, Trend, TrendCaption
from keras_cnnlstm.training import run_directory

WORDS = st.sampled_from(
    ["", "-", "--", "0", "-1", "nan", "1e999", "no/such", "\n", "é", "\udcff", "x" * 300, "a\0b",
     "../..", "/", "/dev/null", "$HOME", "%s", "{}", "None", "--help2", "-x", "9" * 30]
)  # fmt: skip
BROKEN = st.sampled_from(["cut", "evil", "empty", "file", "pipe", "clips", "served", "hot", "mute"])
RUNS = st.sampled_from(["run", "telling"]) | BROKEN | WORDS
FRAMES = st.sampled_from(
    ["0.png", "1.png", "bad.png", "clips/a/1", "clips/a/2.gif", "pipe", "empty"]
)
FLAGS = st.sampled_from(["--json", "--invert", "--no-json", "--every=0", "--every=x", "--jsn"])
BEAMS = st.sampled_from(
    ["--beam=0", "--beam=2", "--beam=-1", "--beam=x", "--beam=1e9", "--beam=99999999"]
)


def words(*parts):
    """The words of a command: strategies for one each, or for lists of them."""
    return st.tuples(*parts).map(
        lambda drawn: [w for part in drawn for w in (part if isinstance(part, list) else [part])]
    )


DESCRIBED = [f"{name}/{number}" for name in "ab" for number in (1, 2, 3)]


def table(*captions, clips=DESCRIBED):
    """A table of captions; the last one stands for all clips that are left."""
    rows = itertools.zip_longest(clips, captions, fillvalue=captions[-1])
    return "\n".join(["clip,caption", *map(",".join, rows)]).encode()


CAPTIONS = {  # tables from which no captioner can learn
    "nothing": b"", "other columns": b"clip,text\na/1,it falls\n", "one column": b"clip\na/1\n",
    "a clip missing": table("x", "y", clips=DESCRIBED[1:]), "all the same": table("x"),
    "unknown": table("x", "y", clips=[*DESCRIBED, "c/9"]), "blank": table("x", " "),
    "twice": table("x", "y", clips=[*DESCRIBED, "a/1"]), "empty": table("x", ""),
    "Latin-1": table("x", "\xe9").decode().encode("latin-1"), "long": table("x", "so " * 2000),
    "open": table("x", '"y'), "zeros": table("x", "\0"), "an archive": b"PK\3\4" + bytes(range(256)),
}  # fmt: skip


def some(strategy, least=0, most=3):
    return st.lists(strategy, min_size=least, max_size=most)


NO_TRAINING = st.sampled_from(  # each alone is refused
    ["--epochs=0", "--epochs=x", "--batch-size=-1", "--task=none", "--learning-rate=nan",
     "--learning-rate=inf", "--dropout=1", "--dropout=-0.1", "--lstm-units=0", "--length=99",
     "--length=1e3", "--model=gpt", "--encoder=", "--seed=-1", "--seed=9999999999999999999",
     "--image-size=3", "--color-mode=red", "--balance=2", "--data=", "--stride=5", "--sampling=all",
     "--resume=no/such", "--resume=file", "--resume=empty", "--no-such", "--epochs", "--ema=1",
     "--data", "--min-length=9", "--fine-tune=0", "--weight-decay=-1", "--patience=0"]
)  # fmt: skip
COMMANDS = {
    "nothing": words(some(WORDS, 1)),
    "predict": words(st.just("predict"), RUNS, some(FRAMES | WORDS, 0, 5), some(FLAGS | BEAMS, 0, 1)),
    "predict with beams": words(
        st.just("predict"), st.sampled_from(["telling", "run", "mute", "served"]),
        st.sampled_from([["0.png"] * 4, ["0.png"], ["clips/a/1"], ["bad.png"] * 4]), BEAMS, some(FLAGS, 0, 1),
    ),
    "evaluate": words(
        st.just("evaluate"), BROKEN | WORDS,
        some(st.sampled_from(["--num-sequences=0", "--num-sequences=x", "--data=", "--data=x"]), 0, 2),
    ),
    "evaluate a run": words(
        st.just("evaluate"), st.just("run"),
        some(
            st.sampled_from(
                ["--num-sequences=0", "--num-sequences=-5", "--num-sequences=x", "--num-sequences=1e9",
                 "--data=x", "--data=clips", "--data=no_such", "--data=../x", "--data=é"]
            ), 1, 2,
        ),
    ),
    "calibrate": words(
        st.just("calibrate"), BROKEN | st.just("telling") | WORDS,
        some(st.sampled_from(["--confidence-threshold=0.5", "--confidence-threshold=x", "--json"]), 0, 2),
    ),
    "calibrate a run": words(
        st.just("calibrate"), st.just("run"),
        st.sampled_from([f"--confidence-threshold={x}" for x in ("x", "2", "-1", "nan", "inf", "1e999", "")]),
    ),
    "report": words(
        st.just("report"), BROKEN | WORDS,
        some(st.sampled_from(["--num-sequences=5", "--mistakes=1", "--mistakes=x", "--num-sequences=-1"]), 0, 2),
    ),
    "report a run": words(
        st.just("report"), st.just("run"),
        st.sampled_from(
            ["--num-sequences=0", "--num-sequences=-3", "--num-sequences=x", "--num-sequences=1e9", "--mistakes=-1",
             "--mistakes=x", "--mistakes=99999", "--num-sequences=" + "9" * 30]
        ),
    ),
    "demo": words(  # which would not come back from a run that is in order
        st.just("demo"), BROKEN | WORDS,
        some(st.sampled_from(["--port=1", "--port=x", "--port=0", "--host=", "--host=localhost"]), 0, 2),
    ),
    "demo a run": words(
        st.just("demo"), st.just("run"),
        st.sampled_from(
            ["--port=0", "--port=-1", "--port=70000", "--port=x", "--port=1e3", "--host=", "--host=a b",
             "--host=\n", "--host=" + "x" * 300, "--host=300.0.0.1", "--host=192.0.2.7", "--host=\0",
             "--hots=localhost", "--port=" + "9" * 30]
        ),
    ),
    "stream": words(
        st.just("stream"), RUNS,
        st.sampled_from(["empty", "pipe", "bad.png", "0.png", "clips", "clips/a", "broken"]) | WORDS,
        some(FLAGS, 0, 2),
    ),
    "export": words(
        st.just("export"), BROKEN | WORDS, st.sampled_from(["out", "file", "empty"]) | WORDS,
        some(st.sampled_from(["--format=onnx", "--format=pt", "--version=-1", "--version=x"]), 0, 2),
    ),
    "export a run": words(
        st.just("export"), st.just("run"), st.sampled_from(["out", "file"]) | WORDS.filter(lambda word: word != "--"),
        st.sampled_from(["--format=pt", "--version=-1", "--version=x", "--format=onnx --version=3"]),
    ),
    "import-torch": words(
        st.just("import-torch"),
        st.sampled_from(["file", "bad.safetensors", "bad.pt", "empty", "pipe", "cut/model.keras"]) | WORDS,
        st.sampled_from(["out", "run", "file/x"]) | WORDS, some(NO_TRAINING, 0, 1),
    ),
    "train": words(st.just("train"), some(NO_TRAINING, 1, 3), some(WORDS, 0, 1)),
    "train on captions": words(
        st.sampled_from([["train", "--model=captioner", "--task=caption", "--length=2"]]),
        st.sampled_from([f"--data=captions/{name}" for name in CAPTIONS]),
        some(st.sampled_from(["--epochs=1", "--seed=3"]), 0, 1),
    ),
    "train from runs that are broken": words(
        st.sampled_from([["train", "--epochs=1", "--steps-per-epoch=1"]]),
        st.sampled_from([f"--init-from={name}" for name in ("hot", "cut", "evil", "empty")]),
    ),
    "validate": words(
        st.just("validate"), st.sampled_from(["clips", "empty", "file", "run", "broken"]) | WORDS,
        some(FLAGS, 0, 1),
    ),
    "benchmark": words(
        st.just("benchmark"),
        st.sampled_from(["--batch-size=0", "--lengths=0", "--repeats=0", "--repeats=x", "--lengths=-4", "--sections=all", "--output=/nowhere/x"]),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, damaged ones, an export that lies about itself, clips, frames and files of no use."""
    root = tmp_path_factory.mktemp("commands")
    config = TrainConfig(run_dir=str(root / "run"), **SMALL)
    for name in ("run", "cut", "evil", "hot", "misread"):
        (root / name).mkdir()
        (root / name / "config.json").write_text(config.to_json())
        save_task(root / name, config.resolved, Trend(4))
    for name in ("served", "empty", "broken/a/1", "mute", "telling"):
        (root / name).mkdir(parents=True)
    model = cnn_lstm((4, 28, 28, 1), 7, **SMALL)
    run_directory.save_model(model, root / "run" / "model.keras")
    for name in ("hot", "misread"):
        shutil.copy(root / "run" / "model.keras", root / name)
    (root / "hot" / "calibration.json").write_text('{"temperature": -1}')
    (root / "misread" / "digit_reader.keras").write_bytes(b"PK\3\4")
    add_captioners(root, config)
    whole = (root / "run" / "model.keras").read_bytes()
    (root / "cut" / "model.keras").write_bytes(whole[: len(whole) // 2])
    (root / "evil" / "model.keras").write_bytes(b"\x80\x04.")
    (root / "served" / "model.onnx").write_bytes(b"no model")
    (root / "served" / "metadata.json").write_text(json.dumps({"inputs": {}, "outputs": []}))
    files = ["file", "bad.png", "bad.safetensors", "bad.pt", "broken/a/1/0.png", "broken/a/x.mp4"]
    for name in files:
        (root / name).write_bytes(b"nothing of use\n")
    os.mkfifo(root / "pipe")
    frames = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(root / f"{i}.png")
        for name in "ab":
            (root / "clips" / name / "1").mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(root / "clips" / name / "1" / f"{i}.png")
    first, second = map(Image.fromarray, frames)
    first.save(root / "clips" / "a" / "2.gif", save_all=True, append_images=[second])
    for name, content in CAPTIONS.items():
        for clip in DESCRIBED:
            shutil.copytree(root / "clips" / "a" / "1", root / "captions" / name / clip)
        (root / "captions" / name / "captions.csv").write_bytes(content)
    return root


def add_captioners(root, config):
    """Two runs of captioners, one of which has lost its task."""
    task = TrendCaption(4)
    config = dataclasses.replace(config, model="captioner", task="caption", balance=0.0)
    model = captioner((4, 28, 28, 1), len(task.vocabulary), task.max_tokens, embedding=2, **SMALL)
    for name in ("telling", "mute"):
        run_directory.save_model(model, root / name / "model.keras")
        (root / name / "config.json").write_text(config.to_json())
        save_task(root / name, config.resolved, task)
    tokens = ClipCaption(("a", "b")).get_config() | {"vocabulary": {"tokens": ["a", "a"]}}
    (root / "mute" / "task.json").write_text(json.dumps({"task": "caption", "config": tokens}))


def tree(folder):
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))
    }


def run(arguments):
    """The exit code of a command, what it printed, and what it complained of."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main(arguments)
    return code, out.getvalue(), err.getvalue()


REFUSED = {
    **{
        f"captions: {name}": (
            [
                "train",
                "--model=captioner",
                "--task=caption",
                "--length=2",
                f"--data=captions/{name}",
            ],
            "captions",
        )
        for name in CAPTIONS
    },
    "no reader is trained for a broken run": (
        ["demo", "mute"],
        "task.json: Vocabulary: `tokens` must",
    ),
    "a broken reader of digits": (
        ["report", "misread", "--num-sequences=2"],
        "digit_reader.keras: expected a model in Keras' format",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, folder):
    arguments, message = REFUSED[name]
    before = tree(folder)
    with contextlib.chdir(folder):
        code, _, err = run(arguments)
    assert (code, tree(folder)) == (2, before)
    assert message in err


@few_and_many(4, 30)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(name, number, folder, ends_well):
    def check(data):
        arguments = data.draw(COMMANDS[name])
        before = tree(folder)
        with contextlib.chdir(folder):
            code, out, err = ends_well(lambda: run(arguments), errors=())
        assert tree(folder) == before
        if code == 2:
            assert out == ""
            assert err.startswith("keras-cnnlstm: ")
            assert len(err.splitlines()) == 1
            assert len(err) < 4000
        else:
            assert code in (0, 1)
            assert all(line.startswith("checking ") for line in err.splitlines())  # progress
            assert code == 0 or "validate" in arguments

    draw_cases(number, check)
