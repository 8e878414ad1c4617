"""The command line: what it prints, and one clear line with exit code 2 for bad input."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from oracles import assert_all_equal

from keras_cnnlstm.benchmark import run
from keras_cnnlstm.benchmark.timings import Row
from keras_cnnlstm.cli import commands, main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.export.formats import FORMATS
from keras_cnnlstm.export.predictor import open_predictor
from keras_cnnlstm.models import ensembles
from keras_cnnlstm.models.calibration import scaled
from keras_cnnlstm.models.ensembles import average_models
from keras_cnnlstm.tasks.answers import headline
from keras_cnnlstm.training.build import build_model
from keras_cnnlstm.training.run_directory import load_model, load_run, new_run_dir, save_model
from keras_cnnlstm.training.scoring import batches_to_score, score


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run trained through the command, in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    command = "train --epochs 2 --steps-per-epoch 5 --validation-sequences 64 --test-sequences 100"
    done = subprocess.run(
        [sys.executable, "-m", "keras_cnnlstm", *command.split()],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return folder / "runs" / "digits-cnn_lstm", done


@pytest.fixture
def printed(capsys):
    """Runs the command, expects exit code 0, and returns what it printed."""

    def printed(*arguments):
        capsys.readouterr()
        assert main.main([str(a) for a in arguments]) == 0
        return capsys.readouterr().out

    return printed


@pytest.fixture
def fails(capsys):
    """Runs the command, expects exit code 2, and returns its one line on stderr."""

    def fails(*arguments):
        assert main.main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("keras-cnnlstm: ")
        return err

    return fails


def test_train_prints_what_it_does_and_how_good_it_is(trained):
    run, done = trained
    assert done.stderr == ""
    for text in (
        "1,257 train, 180 validation, 360 test", "runtime   ", "run       runs/digits-cnn_lstm",
        "Epoch 2/2", "trained on 640 sequences", "natural test sequences", "balanced test",
        "macro recall", "falling-rising-falling", "try: keras-cnnlstm predict runs/digits-cnn_lstm",
    ):  # fmt: skip
        assert text in done.stdout
    assert load_run(run).config.epochs == 2


def test_evaluate_repeats_the_scores_of_the_run(trained, printed):
    run, _ = trained
    assert json.loads(printed("evaluate", run, "--json")) == load_run(run).metrics["test"]
    assert "of 60 sequences" in (told := printed("evaluate", run, "--num-sequences", "60"))
    assert "macro recall" in told


def test_evaluate_scores_test_time_augmentation(trained, printed, monkeypatch):
    run, _ = trained
    asked = []

    average = ensembles.with_test_time_augmentation
    monkeypatch.setattr(
        ensembles, "with_test_time_augmentation", lambda *a: asked.append(a[1]) or average(*a)
    )
    told = json.loads(printed("evaluate", run, "--num-sequences", "50", "--tta", "3", "--json"))
    loaded = load_run(run)
    tests, task, _ = batches_to_score(loaded, num_sequences=50)
    assert asked == [3]
    assert told == score(average(loaded.model, 3), tests, task)


def test_evaluate_and_export_take_the_mean_of_several_runs(trained, printed, tmp_path, fails):
    run, _ = trained
    again, other = tmp_path / "again", tmp_path / "other"
    shutil.copytree(run, again)
    model = load_run(again).model
    model.set_weights([w * 1.5 for w in model.get_weights()])
    (again / "calibration.json").unlink()
    model.save(again / "model.keras")
    options = ["--num-sequences", "50", "--tta", "2", "--json"]
    told = json.loads(printed("evaluate", run, "--ensemble", again, *options))
    runs = [load_run(path) for path in (run, again)]
    whole = ensembles.with_test_time_augmentation(average_models([r.model for r in runs]), 2)
    assert told == score(whole, *batches_to_score(runs[0], num_sequences=50))
    out = str(tmp_path / "out")
    printed("export", run, out, "--ensemble", again)
    frames = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    answer = open_predictor(tmp_path / "out").answer_frames(frames)["probabilities"]
    expected = np.mean([r.model.predict(frames[None], verbose=0)[0] for r in runs], axis=0)
    np.testing.assert_allclose(list(answer.values()), expected, atol=1e-5)

    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "data": "mnist"}))
    complaint = fails("evaluate", run, "--ensemble", again, other)
    assert "ensemble: expected runs that read frames as" in complaint
    assert "mnist" in complaint


@pytest.mark.parametrize("count", [0, -3, 10**10])
def test_numbers_of_sequences_that_cannot_be(trained, fails, count):
    message = f"`num_sequences` must be an integer from 1 to 1,000,000,000; received {count}"
    assert message in fails("evaluate", trained[0], f"--num-sequences={count}")


@pytest.mark.parametrize("copies", [0, 8, -1])
def test_copies_that_are_none(trained, fails, tmp_path, copies):
    run, _ = trained
    message = f"keras-cnnlstm: tta must be an integer from 1 to 7; received {copies}.\n"
    assert fails("evaluate", run, f"--tta={copies}") == message
    assert fails("export", run, tmp_path / "out", f"--tta={copies}") == message
    assert not (tmp_path / "out").exists()


def test_predict_answers_as_the_model_does(trained, printed):
    run, _ = trained
    files = sorted((run / "example").glob("*.png"))
    answer = json.loads(printed("predict", run, *files, "--json"))
    from PIL import Image

    frames = np.stack([np.asarray(Image.open(f)) for f in files])[None, ..., None]
    loaded = load_run(run)
    expected = loaded.model.predict(frames, verbose=0)[0]
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, rtol=1e-6)
    assert list(answer["probabilities"]) == list(loaded.class_names)
    assert answer["class_id"] == expected.argmax()
    assert answer["label"] == loaded.class_names[answer["class_id"]]
    first, *rest = printed("predict", run, *files).splitlines()
    assert first == headline(answer)
    assert len(rest) == 7
    inverted = json.loads(printed("predict", run, *files, "--invert", "--json"))
    expected = loaded.model.predict(255 - frames, verbose=0)[0]
    np.testing.assert_allclose(list(inverted["probabilities"].values()), expected, rtol=1e-6)


class TestCalibrate:
    """The command, on a copy of the run."""

    @pytest.fixture
    def run(self, trained, tmp_path):
        shutil.copytree(trained[0], tmp_path / "run")
        return tmp_path / "run"

    def test_training_ends_with_it_and_again_it_finds_the_same(self, run, printed):
        stored = (run / "calibration.json").read_text()
        weights = load_run(run).model.get_weights()
        out = printed("calibrate", run)
        assert (run / "calibration.json").read_text() == stored
        assert_all_equal(weights, load_run(run).model.get_weights())
        assert out.startswith(f"temperature {load_run(run).calibration.temperature:.3f}; of ")
        assert "answers to validation data: calibration error" in out

    def test_probabilities_change_and_labels_do_not(self, run):
        loaded, raw = load_run(run), load_model(run / "model.keras")
        frames = np.random.default_rng(0).integers(0, 256, (64, 4, 28, 28, 1), np.uint8)
        answers, before = (m.predict(frames, verbose=0) for m in (loaded.model, raw))
        expected = scaled(before, loaded.calibration.temperature)
        np.testing.assert_allclose(answers, expected, atol=1e-5)
        np.testing.assert_array_equal(answers.argmax(1), before.argmax(1))
        assert np.abs(answers - before).max() > 1e-4

    @pytest.mark.parametrize("threshold", ["0", "1"])
    def test_the_threshold_decides_what_is_unsure(self, run, threshold, printed):
        found = json.loads(printed("calibrate", run, "--confidence-threshold", threshold, "--json"))
        assert found["confidence_threshold"] == float(threshold)
        files = [str(f) for f in sorted((run / "example").glob("*.png"))]
        for command in (["predict", str(run), *files], ["stream", str(run), str(run / "example")]):
            assert ("unsure: " in printed(*command)) == (threshold == "1")

    def test_what_cannot_be_calibrated(self, run, fails, tmp_path):
        assert "`confidence_threshold` must be 0 to 1; received 2" in fails(
            "calibrate", run, "--confidence-threshold", "2"
        )
        (run / "calibration.json").write_text('{"temperature": 0}')
        assert "`temperature` must be 0.05 to 20; received 0" in fails("calibrate", run)
        config = TrainConfig(task="running_sum", run_dir=str(tmp_path / "sum"))
        save_model(build_run_model(config), new_run_dir(config) / "model.keras")
        assert "running_sum, which has no temperature" in fails("calibrate", tmp_path / "sum")


def build_run_model(config):
    source = open_source(config)
    return build_model(config, source.task, source.frame_shape)


def run_alone(*command):
    """Runs a command in a process of its own, whose last line on stderr tells what it loaded."""
    code = (
        "import sys\nfrom keras_cnnlstm.cli.main import main\n"
        "try: sys.exit(main(sys.argv[1:]))\n"
        "finally: print({'keras', 'tensorflow', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True)


def test_export_offers_every_format():
    choices = {field.name: get_args(field.type) for field in dataclasses.fields(commands.Export)}
    assert get_args(choices["format"][0]) == tuple(FORMATS)


@pytest.mark.parametrize(
    "form", ["saved_model", *(pytest.param(f, marks=pytest.mark.slow) for f in ("litert", "onnx"))]
)
def test_predict_answers_the_same_from_a_run_and_from_its_exports(trained, form, printed, tmp_path):
    run, _ = trained
    files = [str(f) for f in sorted((run / "example").glob("*.png"))]
    target = tmp_path / form
    out = printed("export", run, target, "--format", form)
    place = target / "1" if form == "saved_model" else target
    assert f"written to {place}" in out
    assert json.loads((place / "parity.json").read_text())["max_difference"] < 2e-2
    if form != "saved_model":  # a small file's answer does not wait for TensorFlow
        done = run_alone("predict", target, *files)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "{'numpy'}")
    answers = []
    for model in (run, target):
        answers.append(json.loads(printed("predict", model, *files, "--json")))
    by_run, by_export = answers
    assert by_export["label"] == by_run["label"]
    assert by_export["unsure"] == by_run["unsure"]
    assert list(by_export["probabilities"]) == list(by_run["probabilities"])
    np.testing.assert_allclose(
        list(by_export["probabilities"].values()), list(by_run["probabilities"].values()), atol=2e-2
    )


def test_an_export_that_cannot_be_written(fails, trained, tmp_path):
    run, _ = trained
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "must be a new or empty directory" in fails(
        "export", run, tmp_path / "full", "--format", "litert"
    )
    assert "`version`" in fails("export", run, tmp_path / "served", "--version", "0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_stream_answers_after_every_frame(trained, printed):
    run, _ = trained
    lines = printed("stream", run, run / "example", "--json").splitlines()
    lines = [json.loads(line) for line in lines]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    files = [line["file"] for line in lines]
    whole = json.loads(printed("predict", run, *files, "--json"))
    assert lines[-1]["label"] == whole["label"]
    np.testing.assert_allclose(
        list(lines[-1]["probabilities"].values()), list(whole["probabilities"].values()), atol=2e-2
    )
    assert len(printed("stream", run, run / "example").splitlines()) == 4


def test_a_stream_of_nothing(fails, trained, tmp_path):
    run, _ = trained
    assert "expected a folder of image files" in fails("stream", run, tmp_path)


def test_benchmark_prints_a_table(printed, capsys, monkeypatch, tmp_path):
    rows = [Row("train step", "ours", 0.0123456, remark="fast")]
    measured = run.Measured("today", {"cpu": "some"}, {}, {"torch": "not here"}, rows)
    asked = []

    def fake(sections, **options):
        asked.append((sections, options))
        options["log"]("at work")
        return measured

    monkeypatch.setattr(run, "benchmark", fake)
    output = tmp_path / "found.json"
    words = ["--sections", "machine", "models", "--lengths", "2", "3", "--batch-size", "2"]
    assert main.main(["benchmark", *words, "--repeats", "1", f"--output={output}", "--json"]) == 0
    ((sections, options),) = asked
    assert sections == ("machine", "models")
    assert {**options, "log": None} == {
        "batch_size": 2, "lengths": (2, 3), "repeats": 1, "data": None, "output": output,
        "log": None,
    }  # fmt: skip
    told = capsys.readouterr()
    assert json.loads(told.out) == json.loads(measured.to_json())
    assert told.err == f"at work\nwritten to {output}\n"
    assert printed("benchmark") == measured.text() + "\n"
    assert asked[1][1]["output"] == Path("benchmark.json")


UNUSUAL = {
    "digits": {"task": "digits", "length": 3},
    "running_sum": {"task": "running_sum", "length": 3},
    "label": {"model": "scan_lstm", "scan_size": 4, "lstm_units": (4,)},
    "text": {"model": "crnn", "length": 2},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each task, not trained at all."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in UNUSUAL.items():
        config = TrainConfig(**options, run_dir=str(folder / name))
        path = new_run_dir(config)
        save_model(build_run_model(config), path / "model.keras")
        open_source(config).save(path)
    return folder


@pytest.mark.parametrize(
    "task",
    ["digits", *(pytest.param(t, marks=pytest.mark.slow) for t in UNUSUAL if t != "digits")],
)
def test_predict_answers_every_task_by_run_and_by_export(runs, task, printed, tmp_path):
    run, exported = runs / task, tmp_path / "exported"
    files = [str(f) for f in sorted((run / "example").glob("*.png"))]
    printed("export", run, exported)
    answers = []
    for model in (run, exported):
        answers.append(json.loads(printed("predict", model, *files, "--json")))
        lines = printed("predict", model, *files).splitlines()
    by_run, by_export = answers
    assert by_run.keys() == by_export.keys()
    if task == "text":
        assert by_run == by_export
        assert set(by_run["text"]) <= set("0123456789")
    if task in ("digits", "running_sum"):
        assert len(lines) == len(by_run["steps"]) == len(files)  # no answers for padding
        assert lines[0].startswith("step 1: ")
    if task == "label":
        assert len(lines) == 11
        assert by_run["label"] == by_export["label"]


def test_numbers_of_files_that_do_not_fit(fails, runs):
    example = next((runs / "label" / "example").iterdir())
    assert "expected 1 image files, one for each frame; received 2" in fails(
        "predict", runs / "label", example, example
    )
    assert "expected 1 to 3 image files, one for each frame; received 4" in fails(
        "predict", runs / "running_sum", *[example] * 4
    )


def test_a_stream_of_sums(runs, printed):
    run = runs / "running_sum"
    lines = printed("stream", run, run / "example", "--json").splitlines()
    streamed = [json.loads(line)["values"] for line in lines]
    files = [str(f) for f in sorted((run / "example").glob("*.png"))]
    steps = json.loads(printed("predict", run, *files, "--json"))["steps"]
    whole = [step["values"] for step in steps]
    np.testing.assert_allclose(streamed, whole, rtol=0, atol=0.05)


def test_import_torch_makes_a_run(trained, printed, tmp_path):
    pytest.importorskip("safetensors")
    from keras_cnnlstm.torch_weights.convert import to_torch
    from keras_cnnlstm.torch_weights.state_dict import write_state_dict

    model = load_run(trained[0]).model
    file, target = tmp_path / "model.safetensors", tmp_path / "imported"
    write_state_dict(file, {**to_torch(model), "aux.weight": np.ones((2, 2), "float32")})
    out = printed("import-torch", file, target, "--ignore", "aux.*", "other")
    for text in (
        "lstm1.weight_ih_l0",
        "conv1.weight",
        "Ignored: aux.weight.",
        f"keras-cnnlstm evaluate {target}",
    ):
        assert text in out
    run = load_run(target)
    assert (run.metrics, run.config.precision) == ({}, "float32")
    assert_all_equal(run.model.get_weights(), model.get_weights(), rtol=1e-6)
    printed("evaluate", target, "--num-sequences", "20")


def test_weights_that_cannot_be_imported(fails, tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "model.pt").write_bytes(b"")
    assert "safetensors" in fails("import-torch", tmp_path / "model.pt", tmp_path / "run")
    (tmp_path / "model.safetensors").write_bytes(b"no")
    fails("import-torch", tmp_path / "model.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run(fails, tmp_path):
    assert "expected a run directory" in fails("predict", tmp_path, "a", "b", "c", "d")
    assert "expected a run directory" in fails("evaluate", tmp_path / "none")


def test_bad_frames(fails, trained, tmp_path):
    run, _ = trained
    files = sorted((run / "example").glob("*.png"))
    assert "expected 4 image files, one for each frame; received 3" in fails(
        "predict", run, *files[:3]
    )
    assert "none.png: expected an image file; found nothing" in fails(
        "predict", run, *files[:3], tmp_path / "none.png"
    )
    (tmp_path / "bad.png").write_bytes(files[0].read_bytes()[:60])
    assert "bad.png: expected an image that can be read" in fails(
        "predict", run, *files[:3], tmp_path / "bad.png"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of {train, evaluate, "),
        (["fly"], "import-torch, validate, benchmark}. See keras-cnnlstm --help.\n"),
        (["--epochs", "3", "train"], "options: --epochs, 3. See keras-cnnlstm --help.\n"),
        (["train", "--fly-away"], "options: --fly-away. See keras-cnnlstm train --help.\n"),
        (
            ["benchmark", "--out", "x"],
            "Unrecognized options: --out, x. Perhaps you meant: --output. See keras-cnnlstm "
            "benchmark --help.\n",
        ),
        (["train", "--data_sets", "mnist"], "--data_sets, mnist. Perhaps you meant: --data,"),
        (["import-torch", "a", "b", "--lstm-unit", "3"], "Perhaps you meant: --lstm-units."),
        (["predict", "run", "--num-seq", "3"], "options: --num-seq, 3. See keras-cnnlstm predict "),
        (["train", "--epochs", "x"], "--epochs: no type matching {None}|INT could be instantiated"),
        (["train", "--epochs", "x"], "from ['x']. See keras-cnnlstm train --help.\n"),
        (["train", "--batch-size", "many"], "--batch-size"),
        (["train", "--batch-size", "0"], "batch_size must be an integer from 1 to 1,000,000; rec"),
        (["train", "--strategy", "tpu"], "--strategy"),
        (["train", "--data", "no_such_set"], "or an image set of TensorFlow Datasets"),
        (["train", "--data", "no_such_set"], "A folder of clips, which --data takes too, must ex"),
        (["train", "--data", "./no/folder"], "no/folder: expected a folder with a folder for"),
        (
            ["train", "--model", "flat_mlp", "--bidirectional"],
            "bidirectional must be left out with model flat_mlp",
        ),
        (["evaluate"], "Missing from keras-cnnlstm evaluate"),
        (["export", "run", ""], "argument 3 is empty; expected a name or a number. Is a variable"),
    ],
)
def test_bad_flags(fails, arguments, message):
    assert message in fails(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", "x" * 10_000],
        ["train", "--data", "ab " * 4_000],
        ["train", "--data", "./" + "ab " * 4_000],
        ["train", "--epochs", "x" * 10_000],
        ["train", "--model", "x" * 10_000],
        ["train", "--" + "x" * 10_000],
        ["train", "--resume", "x" * 10_000],
        ["train", "--augmentation", *(["affine"] * 2_000)],
        ["predict", "x" * 10_000, "y"],
        ["validate", '{"a": [' + "1, " * 4_000],
    ],
)
def test_long_arguments_are_not_repeated(fails, arguments):
    message = fails(*arguments)
    assert len(message) < 2100
    assert "xx" in message or "ab" in message or "affine" in message or "1, 1" in message


def test_a_complaint_keeps_its_remedy_and_a_long_path_its_ends(fails):
    assert fails("train", "--data", "ab " * 4_000).endswith("takes too, must exist.\n")
    message = fails("validate", f"start{'x/' * 1_000}the_end")
    assert "startx" in message
    assert "/the_end: " in message


def test_a_complaint_moves_no_cursor_and_reads_no_markup(fails):
    assert r"\x1b[31mred: expected a run directory" in fails("predict", "\x1b[31mred", "a")
    assert r"\udcff: expected a run directory" in fails("predict", "\udcff", "a")
    assert "invalid choice '[bold]x[/bold]' for" in fails("train", "--model", "[bold]x[/bold]")
    for option in ("--epochs", "--image-size", "--lstm-units", "--augmentation", "--encoder"):
        assert "bold" not in fails("train", option, "1", "x", "3")


def in_a_shell(line, *words, **settings):
    """What a line of the shell, in which "$@" is a command that loads no TensorFlow, ends with."""
    command = [sys.executable, "-m", "keras_cnnlstm", *words]
    return subprocess.run(
        ["sh", "-c", line, "sh", *command],
        env=os.environ | settings,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words", "code", "said"),
    [
        ('"$@" 2>&-', ["predict", "no", "a"], 2, ""),
        ('"$@" >&-', ["predict", "no", "a"], 2, "keras-cnnlstm: no: expected a run"),
        ('"$@" >&-', ["evaluate", "--help"], 0, ""),
        ('"$@" <&- >&- 2>&-', ["evaluate", "--help"], 0, ""),
        ('"$@" >/dev/full', ["evaluate", "--help"], 2, "keras-cnnlstm: [Errno 28] No space"),
        ('{ "$@"; echo $? >&3; } 3>&2 | true', ["evaluate", "--help"], 0, "1\n"),
        ('{ "$@" 2>&1; echo $? >&3; } 3>&2 | true', ["predict", "no", "a"], 0, "1\n"),
    ],
)
def test_standard_streams_that_take_nothing(line, words, code, said):
    done = in_a_shell(line, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    """What the system writes to the closed one would end up in the file."""
    code = (
        "import os, sys; from keras_cnnlstm.cli.main import main; main(['--help']);"
        "sys.exit(os.open(sys.argv[1], os.O_CREAT))"
    )
    line = '"$@" <&- >&- 2>&-'
    words = ["sh", "-c", line, "sh", sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(words, timeout=60, check=False).returncode == 3


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        ([], ["With clips of your own: keras-cnnlstm validate FOLDER"]),
        (
            ["train"],
            [
                "clips at most 10000",
                "for clips, whose rare classes then come more often",
                "of each frame, each",
            ],
        ),
        (["train"], ["the whole validation part", "the whole test part", "Default: clips 16"]),
        (
            ["evaluate"],
            ["For clips these are the clips of its test part", "Clips to score at most"],
        ),
        (["report"], ["Clips to take at most"]),
        (["predict"], ["Or clips: a video, or a folder with image files in it, is one clip"]),
    ],
)
def test_help_speaks_to_people_with_clips(command, texts, printed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    text = " ".join(printed(*command, "--help").replace("│", " ").split())
    for words in texts:
        assert words in text


@pytest.mark.timeout(30)
@pytest.mark.parametrize("columns", ["1", "6", "0", "-1", "abc", "100000", "9" * 5000])
@pytest.mark.parametrize("command", [[], ["evaluate"]])
def test_help_in_a_terminal_of_any_width(command, columns, monkeypatch, printed):
    monkeypatch.setenv("COLUMNS", columns)
    lines = printed(*command, "--help").splitlines()
    assert any("-h, --help" in line for line in lines)
    assert max(map(len, lines)) < 500
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])  # strokes around the complaint, or none
def test_a_complaint_is_the_same_line_in_every_terminal(encoding):
    code = "from keras_cnnlstm.cli.commands import parse; parse(['benchmark', '--repeats', 'x'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        "ValueError: Error parsing --repeats: invalid literal for int() with base 10: 'x'. See "
        "keras-cnnlstm benchmark --help."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--learning-rate", "0.01"], "learning_rate is 0.001, not 0.01"),
        (["--epochs", "1"], "epochs is 2, more than 1"),
        (["--augmentation", "none"], "augmentation is "),
        (["--recipe", "fast"], "--recipe cannot be combined with --resume: a resumed run keeps"),
        (["--run-dir", "elsewhere"], "elsewhere: expected a run directory"),
    ],
)
def test_a_run_goes_on_with_its_own_options_alone(fails, trained, given, message):
    run, _ = trained
    assert message in fails("train", "--resume", run, *given)


def test_there_is_no_run_to_resume(fails, tmp_path):
    assert "no such directory, hence no config.json" in fails("train", "--resume", tmp_path / "no")


def test_training_that_fails_by_its_numbers_is_no_bad_input(monkeypatch, capsys):
    def diverge(config):
        raise FloatingPointError("the loss is no longer a number")

    monkeypatch.setattr(main, "_train", diverge)
    assert main.main(["train"]) == 1
    assert capsys.readouterr().err == "keras-cnnlstm: the loss is no longer a number\n"


def test_interrupting_leaves_no_traceback(monkeypatch, capsys):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_train", interrupt)
    assert main.main(["train"]) == 130
    assert capsys.readouterr().err == "keras-cnnlstm: interrupted\n"


def test_a_mistake_in_the_program_is_not_taken_for_bad_input(monkeypatch):
    def mistake(config):
        raise TypeError("ours")

    monkeypatch.setattr(main, "_train", mistake)
    with pytest.raises(TypeError):
        main.main(["train"])


def test_debugging_shows_the_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KERAS_CNNLSTM_DEBUG", "1")
    assert main.main(["evaluate", str(tmp_path)]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        [],
        *(
            [name]
            for name in (
                "train",
                "evaluate",
                "predict",
                "stream",
                "export",
                "import-torch",
                "benchmark",
            )
        ),
    ],
)
def test_help_teaches_without_loading_tensorflow(command):
    done = run_alone(*command, "--help")
    assert done.returncode == 0
    assert done.stderr == "set()\n"
    assert "usage: keras-cnnlstm" in done.stdout
    if command == ["train"]:
        assert "--learning-rate" in done.stdout
        assert "Step size of the optimizer" in done.stdout
