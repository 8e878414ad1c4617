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

from keras_cnnlstm import benchmark, cli, commands, views
from keras_cnnlstm.answers import headline
from keras_cnnlstm.calibration import scaled
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.ensembles import average_models
from keras_cnnlstm.evaluation import score
from keras_cnnlstm.export import Format
from keras_cnnlstm.objectives import build_model
from keras_cnnlstm.predictors import open_predictor
from keras_cnnlstm.runs import load_model, load_run, new_run_dir, save_model
from keras_cnnlstm.sources import batches_to_score, open_source
from keras_cnnlstm.timings import Row


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run trained through the command, in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    command = "train --epochs 2 --steps-per-epoch 5 --validation-sequences 64 --test-sequences 100"
    done = subprocess.run(
        [sys.executable, "-m", "keras_cnnlstm.cli", *command.split()],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return folder / "runs" / "digits-cnn_lstm", done


@pytest.fixture
def fails(capsys):
    """Runs the command, expects exit code 2, and returns its one line on stderr."""

    def fails(*arguments):
        assert cli.main([str(a) for a in arguments]) == 2
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


def test_evaluate_repeats_the_scores_of_the_run(trained, capsys):
    run, _ = trained
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == load_run(run).metrics["test"]
    assert cli.main(["evaluate", str(run), "--num-sequences", "60"]) == 0
    assert "of 60 sequences" in (told := capsys.readouterr().out)
    assert "macro recall" in told


def test_evaluate_scores_the_mean_of_several_views(trained, capsys, monkeypatch):
    run, _ = trained
    asked = []

    average = views.average_views
    monkeypatch.setattr(views, "average_views", lambda *a: asked.append(a[1]) or average(*a))
    assert cli.main(["evaluate", str(run), "--num-sequences", "50", "--views", "3", "--json"]) == 0
    told, loaded = json.loads(capsys.readouterr().out), load_run(run)
    tests, task = batches_to_score(loaded, num_sequences=50)
    assert asked == [3]
    assert told == score(average(loaded.model, 3), tests, task)


def test_evaluate_and_export_take_the_mean_of_several_runs(trained, capsys, tmp_path, fails):
    run, _ = trained
    again, other = tmp_path / "again", tmp_path / "other"
    shutil.copytree(run, again)
    model = load_run(again).model
    model.set_weights([w * 1.5 for w in model.get_weights()])
    (again / "calibration.json").unlink()
    model.save(again / "model.keras")
    options = ["--num-sequences", "50", "--views", "2", "--json"]
    assert cli.main(["evaluate", str(run), "--ensemble", str(again), *options]) == 0
    runs = [load_run(path) for path in (run, again)]
    whole = views.average_views(average_models([r.model for r in runs]), 2)
    told = json.loads(capsys.readouterr().out)
    assert told == score(whole, *batches_to_score(runs[0], num_sequences=50))
    out = str(tmp_path / "out")
    assert cli.main(["export", str(run), out, "--ensemble", str(again)]) == 0
    frames = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    answer = open_predictor(tmp_path / "out").answer_frames(frames)["probabilities"]
    expected = np.mean([r.model.predict(frames[None], verbose=0)[0] for r in runs], axis=0)
    np.testing.assert_allclose(list(answer.values()), expected, atol=1e-5)
    capsys.readouterr()

    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "dataset": "mnist"}))
    complaint = fails("evaluate", run, "--ensemble", again, other)
    assert "ensemble: expected runs that read frames as" in complaint
    assert "mnist" in complaint


def test_views_that_are_none(trained, fails, tmp_path):
    run, _ = trained
    assert "`views` must be 2 to 7; received 9" in fails("evaluate", run, "--views", 9)
    assert "received 0" in fails("export", run, tmp_path / "out", "--views", 0)
    assert not (tmp_path / "out").exists()


def test_predict_answers_as_the_model_does(trained, capsys):
    run, _ = trained
    files = sorted((run / "example").glob("*.png"))
    assert cli.main(["predict", str(run), *map(str, files), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    from PIL import Image

    frames = np.stack([np.asarray(Image.open(f)) for f in files])[None, ..., None]
    loaded = load_run(run)
    expected = loaded.model.predict(frames, verbose=0)[0]
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, rtol=1e-6)
    assert list(answer["probabilities"]) == list(loaded.class_names)
    assert answer["class_id"] == expected.argmax()
    assert answer["label"] == loaded.class_names[answer["class_id"]]
    assert cli.main(["predict", str(run), *map(str, files)]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == headline(answer)
    assert len(rest) == 7
    assert cli.main(["predict", str(run), *map(str, files), "--invert", "--json"]) == 0
    inverted = json.loads(capsys.readouterr().out)
    expected = loaded.model.predict(255 - frames, verbose=0)[0]
    np.testing.assert_allclose(list(inverted["probabilities"].values()), expected, rtol=1e-6)


class TestCalibrate:
    """The command, on a copy of the run."""

    @pytest.fixture
    def run(self, trained, tmp_path):
        shutil.copytree(trained[0], tmp_path / "run")
        return tmp_path / "run"

    def test_training_ends_with_it_and_again_it_finds_the_same(self, run, capsys):
        stored = (run / "calibration.json").read_text()
        weights = load_run(run).model.get_weights()
        assert cli.main(["calibrate", str(run)]) == 0
        assert (run / "calibration.json").read_text() == stored
        for a, b in zip(weights, load_run(run).model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        out = capsys.readouterr().out
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
    def test_the_threshold_decides_what_is_unsure(self, run, threshold, capsys):
        assert cli.main(["calibrate", str(run), "--unsure-below", threshold, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["unsure_below"] == float(threshold)
        files = [str(f) for f in sorted((run / "example").glob("*.png"))]
        for command in (["predict", str(run), *files], ["stream", str(run), str(run / "example")]):
            assert cli.main(command) == 0
            assert ("unsure: " in capsys.readouterr().out) == (threshold == "1")

    def test_what_cannot_be_calibrated(self, run, fails, tmp_path):
        assert "`unsure_below` must be a probability, 0 to 1; received 2" in fails(
            "calibrate", run, "--unsure-below", "2"
        )
        (run / "calibration.json").write_text('{"temperature": 0}')
        assert "`temperature` must be 0.05 to 20; received 0" in fails("calibrate", run)
        config = TrainConfig(task="running_sum", run_dir=str(tmp_path / "sum"))
        save_model(build_run_model(config), new_run_dir(config) / "model.keras")
        assert "running_sum, which has no temperature" in fails("calibrate", tmp_path / "sum")


def build_run_model(config):
    source = open_source(config)
    return build_model(config, source.task, source.image_shape)


def run_alone(*command):
    """Runs a command in a process of its own, whose last line on stderr tells what it loaded."""
    code = (
        "import sys\nfrom keras_cnnlstm.cli import main\n"
        "try: sys.exit(main(sys.argv[1:]))\n"
        "finally: print({'keras', 'tensorflow', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True)


def test_export_offers_every_format():
    choices = {field.name: get_args(field.type) for field in dataclasses.fields(commands.Export)}
    assert choices["format"] == get_args(Format)


@pytest.mark.parametrize(
    "form", ["saved_model", *(pytest.param(f, marks=pytest.mark.slow) for f in ("litert", "onnx"))]
)
def test_predict_answers_the_same_from_a_run_and_from_its_exports(trained, form, capsys, tmp_path):
    run, _ = trained
    files = [str(f) for f in sorted((run / "example").glob("*.png"))]
    target = tmp_path / form
    assert cli.main(["export", str(run), str(target), "--format", form]) == 0
    out = capsys.readouterr().out
    place = target / "1" if form == "saved_model" else target
    assert f"written to {place}" in out
    assert json.loads((place / "parity.json").read_text())["max_difference"] < 2e-2
    if form != "saved_model":  # a small file's answer does not wait for TensorFlow
        done = run_alone("predict", target, *files)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "{'numpy'}")
    answers = []
    for model in (run, target):
        assert cli.main(["predict", str(model), *files, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
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


def test_stream_answers_after_every_frame(trained, capsys):
    run, _ = trained
    assert cli.main(["stream", str(run), str(run / "example"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    files = [line["file"] for line in lines]
    assert cli.main(["predict", str(run), *files, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert lines[-1]["label"] == whole["label"]
    np.testing.assert_allclose(
        list(lines[-1]["probabilities"].values()), list(whole["probabilities"].values()), atol=2e-2
    )
    assert cli.main(["stream", str(run), str(run / "example")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_stream_of_nothing(fails, trained, tmp_path):
    run, _ = trained
    assert "expected a folder of image files" in fails("stream", run, tmp_path)


def test_benchmark_prints_a_table(capsys, monkeypatch, tmp_path):
    rows = [Row("train step", "ours", 0.0123456, remark="fast")]
    measured = benchmark.Measured("today", {"cpu": "some"}, {}, {"torch": "not here"}, rows)
    asked = []

    def fake(sections, **options):
        asked.append((sections, options))
        options["say"]("at work")
        return measured

    monkeypatch.setattr(benchmark, "benchmark", fake)
    output = tmp_path / "found.json"
    words = ["--sections", "machine", "models", "--lengths", "2", "3", "--batch-size", "2"]
    assert cli.main(["benchmark", *words, "--repeats", "1", f"--output={output}", "--json"]) == 0
    ((sections, options),) = asked
    assert sections == ("machine", "models")
    assert {**options, "say": None} == {
        "batch_size": 2, "lengths": (2, 3), "repeats": 1, "output": output, "say": None,
    }  # fmt: skip
    told = capsys.readouterr()
    assert json.loads(told.out) == json.loads(measured.to_json())
    assert told.err == f"at work\nwritten to {output}\n"
    assert cli.main(["benchmark"]) == 0
    assert capsys.readouterr().out == measured.text() + "\n"
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
def test_predict_answers_every_task_by_run_and_by_export(runs, task, capsys, tmp_path):
    run, exported = runs / task, tmp_path / "exported"
    files = [str(f) for f in sorted((run / "example").glob("*.png"))]
    assert cli.main(["export", str(run), str(exported)]) == 0
    answers = []
    for model in (run, exported):
        capsys.readouterr()
        assert cli.main(["predict", str(model), *files, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
        assert cli.main(["predict", str(model), *files]) == 0
        lines = capsys.readouterr().out.splitlines()
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


def test_a_stream_of_sums(runs, capsys):
    run = runs / "running_sum"
    assert cli.main(["stream", str(run), str(run / "example"), "--json"]) == 0
    streamed = [json.loads(line)["values"] for line in capsys.readouterr().out.splitlines()]
    files = [str(f) for f in sorted((run / "example").glob("*.png"))]
    assert cli.main(["predict", str(run), *files, "--json"]) == 0
    whole = [step["values"] for step in json.loads(capsys.readouterr().out)["steps"]]
    np.testing.assert_allclose(streamed, whole, rtol=0, atol=0.05)


def test_import_torch_makes_a_run(trained, capsys, tmp_path):
    pytest.importorskip("safetensors")
    from keras_cnnlstm.state_dicts import write_state_dict
    from keras_cnnlstm.torch_weights import to_torch

    model = load_run(trained[0]).model
    write_state_dict(tmp_path / "model.safetensors", to_torch(model))
    target = tmp_path / "imported"
    assert cli.main(["import-torch", str(tmp_path / "model.safetensors"), str(target)]) == 0
    out = capsys.readouterr().out
    for text in ("lstm1.weight_ih_l0", "conv1.weight", f"keras-cnnlstm evaluate {target}"):
        assert text in out
    run = load_run(target)
    assert (run.metrics, run.config.precision) == ({}, "float32")
    for a, b in zip(run.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert cli.main(["evaluate", str(target), "--num-sequences", "20"]) == 0


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
        (["fly"], "fly"),
        (["fly"], "Unrecognized options: fly. Available subcommands: train, evaluate, "),
        (["fly"], "import-torch, validate, benchmark. For full helptext, run keras-cnnlstm --help"),
        (
            ["train", "--fly"],
            "options: --fly. For full helptext, run keras-cnnlstm train --help\n",
        ),
        (
            ["benchmark", "--out", "x"],
            "options: --out, x. Perhaps you meant: --output. For full helptext, run keras-cnnlstm "
            "benchmark --help\n",
        ),
        (["predict", "run", "--num-seq", "3"], "options: --num-seq, 3. For full helptext, "),
        (
            ["train", "--epochs", "x"],
            "with base 10: 'x'. For full helptext, see keras-cnnlstm train --help\n",
        ),
        (["train", "--batch-size", "many"], "--batch-size"),
        (["train", "--batch-size", "0"], "batch_size: expected 1 to 1e+06; received 0"),
        (["train", "--strategy", "tpu"], "--strategy"),
        (["train", "--dataset", "no_such_set"], "or an image set of TensorFlow Datasets"),
        (
            ["train", "--model", "flat_mlp", "--bidirectional"],
            "bidirectional: expected its default",
        ),
        (["evaluate"], "Missing from keras-cnnlstm evaluate"),
    ],
)
def test_bad_flags(fails, arguments, message):
    assert message in fails(*arguments)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])  # strokes around the complaint, or none
def test_a_complaint_is_the_same_line_in_every_terminal(encoding):
    code = "from keras_cnnlstm.commands import parse; parse(['benchmark', '--repeat', '3'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        "ValueError: Unrecognized options: --repeat, 3. Perhaps you meant: --repeats. For full "
        "helptext, run keras-cnnlstm benchmark --help"
    )


def test_training_that_fails_by_its_numbers_is_no_bad_input(monkeypatch, capsys):
    def diverge(config):
        raise FloatingPointError("the loss is no longer a number")

    monkeypatch.setattr(cli, "_train", diverge)
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == "keras-cnnlstm: the loss is no longer a number\n"


def test_interrupting_leaves_no_traceback(monkeypatch, capsys):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_train", interrupt)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "keras-cnnlstm: interrupted\n"


def test_a_mistake_in_the_program_is_not_taken_for_bad_input(monkeypatch):
    def mistake(config):
        raise TypeError("ours")

    monkeypatch.setattr(cli, "_train", mistake)
    with pytest.raises(TypeError):
        cli.main(["train"])


def test_debugging_shows_the_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KERAS_CNNLSTM_DEBUG", "1")
    assert cli.main(["evaluate", str(tmp_path)]) == 2
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
