"""A report of a small run, and pages of findings made by hand: whole, offline, nothing empty."""

import base64
import dataclasses
import io
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.cli import main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data import clip_batches
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.data.synthetic_clips import moving_digits, write_clips
from keras_cnnlstm.evaluation import reader
from keras_cnnlstm.evaluation.comparisons import Comparison
from keras_cnnlstm.evaluation.evaluator import accuracy_by_frames, calibration_of, evaluate
from keras_cnnlstm.evaluation.mistakes import ORDER, Mistake
from keras_cnnlstm.evaluation.report import Findings, write_report
from keras_cnnlstm.models.calibration import expected_calibration_error
from keras_cnnlstm.tasks import Classes, RunningSum
from keras_cnnlstm.tasks.scores import accuracy_by_length, number_scores, scores
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.run_directory import load_model
from keras_cnnlstm.training.scoring import Answers, answers_of
from keras_cnnlstm.training.trainer import train

SMALL = {
    "length": 3, "epochs": 2, "steps_per_epoch": 15, "batch_size": 32, "validation_sequences": 64,
    "test_sequences": 120, "lstm_units": (8,), "encoder": "small_cnn", "precision": "float32",
    "learning_rate": 3e-3, "augmentation": "none",
}  # fmt: skip
NAMES = ["up", "<b>down</b>"]


class Page(HTMLParser):
    """What a page refers to, its headings, and the text of each section."""

    def __init__(self, text):
        super().__init__()
        self.references, self.images, self.sections, self.tags = [], [], [], []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attributes:
                self.references.append(attributes[name])
        if tag == "img":
            self.images.append(attributes)
        if tag == "section":
            self.sections.append("")

    def handle_data(self, data):
        self.text += data
        if self.sections:
            self.sections[-1] += data


def read_page(run):
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    page = Page(text)
    for reference in page.references:
        assert reference.startswith("data:image/png;base64,"), reference[:80]
    for image in page.images:
        assert image["alt"]
        picture = base64.b64decode(image["src"].partition(",")[2], validate=True)
        with Image.open(io.BytesIO(picture)) as opened:
            opened.load()
    for section in page.sections:
        title, *words = section.split("\n", 2)[1:] if section.startswith("\n") else [section]
        assert title.strip()
        assert len(" ".join(words).split()) > 5, section
    assert not {"script", "link", "iframe"} & set(page.tags)
    for leftover in ("None", "nan", "{{", "}}", "Undefined"):
        assert leftover not in page.text.split("All options of the run")[0]
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = train(TrainConfig(**SMALL, run_dir=str(tmp_path_factory.mktemp("runs") / "small")))
    reader.digit_reader(run, steps=40)
    return run


@pytest.fixture(scope="module")
def metrics(run):
    lines = []
    metrics = evaluate(run, num_mistakes=3, log=lines.append)
    assert "the model answers the test sequences" in lines
    return metrics


def test_the_page_is_whole_and_needs_no_network(run, metrics):
    page = read_page(run)
    titles = [section.strip().splitlines()[0] for section in page.sections]
    assert titles == [
        "Does time help?", "Natural test sequences", "Balanced test sequences",
        "Can its probabilities be trusted?", "How it learned", "Why was it wrong?",
        "How fast it is", "How this was made",
    ]  # fmt: skip
    for name in run.class_names:
        assert name in page.text
    assert "Oracle: reader + exact rule" in page.text


def test_its_figures_lie_beside_it(run, metrics):
    names = {path.stem for path in (run.path / "report").glob("*.png")}
    assert names == {
        "comparison", "confusion-natural", "confusion-balanced", "calibration", "curve-loss",
        "curve-accuracy", "curve-recall", "mistake-01", "mistake-02", "mistake-03",
    }  # fmt: skip
    for name in names:
        with Image.open(run.path / "report" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_metrics_hold_what_was_found(run, metrics):
    assert json.loads((run.path / "metrics.json").read_text()) == metrics
    assert metrics["training"] == run.metrics["training"]
    report = metrics["report"]
    assert report["tests"] == metrics["test"]  # the same sequences as after the training
    assert [row["title"] for row in report["does_time_help"]] == [
        "The model", "Most frequent class", "Bag of frames", "Frames shuffled",
        "Oracle: reader + exact rule",
    ]  # fmt: skip
    assert set(report["seconds_per_sequence"]) == {"1", "64"}
    assert report["wrong"]["sequences"] == sum(
        count for kind, count in report["wrong"].items() if kind != "sequences"
    )
    slowest = {row["name"] for row in report["slowest_learned"]}
    assert slowest <= set(run.class_names)


def test_the_report_is_measured_on_the_test_sequences(run, metrics):
    data = open_source(run.config).tests()["natural"]
    targets, probabilities, _ = answers_of(run.model, data)
    report = metrics["report"]
    error = expected_calibration_error(targets, probabilities)
    assert report["calibration"]["error"] == pytest.approx(error)
    _, trained, _ = answers_of(load_model(run.path / "model.keras"), data)
    error = expected_calibration_error(targets, trained)
    assert report["calibration"]["as_trained"] == pytest.approx(error, abs=1e-3)
    wrong = probabilities.argmax(axis=1) != targets
    assert report["wrong"]["sequences"] == wrong.sum()
    majority = np.bincount(targets).max() / len(targets)
    assert report["does_time_help"][1]["accuracy"] == pytest.approx(majority)
    shown = report["mistakes"]
    assert shown[0]["confidence"] == pytest.approx(probabilities.max(axis=1)[wrong].max())
    for one in shown:
        assert one["answer"] == run.class_names[probabilities[one["index"]].argmax()]
        assert one["truth"] == run.class_names[targets[one["index"]]]
        digits = np.array([list(map(int, one["digits"].split()))])
        assert Trend(3).targets(digits)[0] == targets[one["index"]]
        assert (one["read"] == one["digits"]) == (one["reason"] == ORDER)


def test_the_reader_is_trained_once(run, monkeypatch):
    monkeypatch.setattr(reader, "train_reader", None)
    probabilities = reader.digit_reader(run).predict(np.zeros((3, 28, 28, 1), np.uint8), verbose=0)
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_the_command(run, capsys):
    assert main.main(["report", str(run.path), "--num-sequences", "60", "--mistakes", "1"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "natural test sequences", "does time help?", "Bag of frames", "Frames shuffled", "ceiling",
        f"written to {run.path / 'report.html'}; open it in a browser",
    ):  # fmt: skip
        assert expected in text
    assert len(list((run.path / "report").glob("mistake-*.png"))) == 1  # those before are gone
    assert json.loads((run.path / "metrics.json").read_text())["report"]["tests"]["natural"][
        "num_sequences"
    ] == 60  # fmt: skip
    read_page(run)


@pytest.mark.parametrize("options", [{"num_mistakes": -1}, {"num_sequences": 0}])
def test_numbers_out_of_range(run, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"evaluate: `{name}` must be"):
        evaluate(run, **options)


def test_a_run_that_is_none(tmp_path, capsys):
    assert main.main(["report", str(tmp_path / "none")]) == 2
    assert "expected a run directory" in capsys.readouterr().err


@pytest.fixture
def page_of(run, tmp_path):
    """Writes the page of findings that are made by hand: of two classes, with some changes."""

    def page_of(**changes):
        score = scores(np.array([0, 0, 1, 1]), np.eye(2)[[0, 0, 1, 0]], NAMES)
        made = Findings(Classes(NAMES, 4), {"clips": score}, {"1": 2.5, "64": 0.00012})
        other = dataclasses.replace(run, path=tmp_path)
        write_report(other, dataclasses.replace(made, **changes))
        return read_page(other)

    return page_of


def mistake(**changes):
    frames = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
    return Mistake(1, 0.9, "up", NAMES[1], frames, clip="<i>walk</i>/7.mp4", **changes)


def test_a_clip_s_name_and_classes_are_text_not_tags(page_of):
    page = page_of(mistakes=[mistake()], wrong={"sequences": 1}, not_streamed="bidirectional")
    assert "<i>walk</i>/7.mp4" in page.text
    assert "<b>down</b>" in page.text
    assert not {"i", "b"} & set(page.tags) - {"b"}  # b are the numbers at the top
    assert "No answers after each frame: bidirectional" in page.text
    assert "2.50 s for one sequence alone, 120 µs a sequence in batches of 64" in page.text


def test_a_page_of_everything(page_of):
    maps = np.linspace(0, 1, 60).reshape(2, 6, 5)
    full = mistake(
        answers_by_frame=(("up", 0.6), ("down", 0.9)), occlusion=np.array([0.5, -0.1]), maps=maps
    )
    lengths = accuracy_by_length(np.array([True, False, True]), np.array([2, 3, 3]))
    page = page_of(mistakes=[full], wrong={"sequences": 1}, by_length=lengths)
    assert "Short and long sequences" in page.text
    assert "down 90%" in page.text
    assert len([i for i in page.images if i["alt"].startswith("where the evidence")]) == 2


def test_a_page_of_numbers(page_of, tmp_path):
    targets, mask = np.array([[1.0, 3.0], [2.0, 0.0]]), np.array([[True, True], [True, False]])
    score = number_scores(targets, targets + 0.5, mask)
    titles = {"The model": True, "Mean number": False}
    rows = [Comparison(title, "", score, order) for title, order in titles.items()]
    history = [{"epoch": 1, "val_rmse": 0.5, "loss": 1.0}]
    page = page_of(task=RunningSum(2), tests={"natural": score}, comparison=rows, history=history)
    assert "Root-mean-square error 0.500" in page.text
    assert "Short and long sequences" in page.text
    assert {path.stem for path in (tmp_path / "report").iterdir()} == {
        "comparison", "by_length", "curve-loss", "curve-rmse",
    }  # fmt: skip


def test_a_page_without_mistakes(page_of):
    assert "0 test sequences were answered wrongly." in page_of(wrong={"sequences": 0}).text


def test_padding_is_no_mistake_and_does_not_count_for_the_calibration():
    """Three sequences of 2, 3 and 3 steps, with a mistake in padding and one in the last."""
    targets = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 1]])
    chosen = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0]])
    mask = np.arange(3) < np.array([[2], [3], [3]])
    answers = Answers(targets, 0.9 * np.eye(2)[chosen] + 0.05, mask)
    found = accuracy_by_frames(answers, mask)
    assert {length: entry["accuracy"] for length, entry in found.items()} == {"2": 1, "3": 0.5}
    assert [entry["count"] for entry in found.values()] == [1, 2]
    found = calibration_of(answers)
    (point,) = found["points"]
    assert (point["count"], point["accuracy"]) == (8, 7 / 8)
    assert found["error"] == pytest.approx(0.95 - 7 / 8)


def test_the_report_of_clips_names_them_and_reads_each_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    digits = LabeledImages(rng.integers(100, 256, (6, 5, 5, 1), np.uint8), np.arange(6))
    write_clips(tmp_path / "clips", moving_digits(digits, 6, canvas=10, min_frames=4, max_frames=6))
    run = train(
        TrainConfig(
            data=str(tmp_path / "clips"), image_size=(10, 10), color_mode="grayscale", length=5,
            epochs=1, encoder="small_cnn", lstm_units=(4,), batch_size=8, groups="^(.+?)_",
            precision="float32", augmentation="none", run_dir=str(tmp_path / "run"),
        )
    )  # fmt: skip
    names = {clip.name for clip in open_source(run.config, run.path).split.test}
    read, read_chosen = [], clip_batches.read_chosen

    def noted(clip, *args, **kwargs):
        read.append(clip.name)
        return read_chosen(clip, *args, **kwargs)

    monkeypatch.setattr(clip_batches, "read_chosen", noted)
    report = evaluate(run, num_mistakes=2)["report"]
    assert sorted(name for name in read if name in names) == sorted(names)
    assert [row["title"] for row in report["does_time_help"]] == [
        "The model", "Most frequent class", "Bag of frames", "Frames shuffled",
    ]  # fmt: skip
    assert (
        sum(e["count"] for e in report["accuracy_by_length"].values())
        == (report["tests"]["clips"]["num_sequences"])
    )
    page = read_page(run)
    for one in report["mistakes"]:
        assert one["clip"] in names
        assert one["clip"].startswith(one["truth"])  # the folder is the class
        assert one["clip"] in page.text
    assert report["wrong"]["sequences"] == 0 or report["mistakes"]
    assert not (run.path / "digit_reader.keras").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "rows", "sections"),
    [
        ({"task": "digits", "min_length": 1}, 5, ["Short and long sequences", "Why was it wrong?"]),
        ({"task": "running_sum", "min_length": 1}, 5, ["Short and long sequences"]),
        ({"model": "scan_lstm", "length": None, "scan_size": 4}, 3, ["Why was it wrong?"]),
        ({"model": "crnn", "length": 2, "lstm_units": None}, 2, ["How it learned"]),
        ({"model": "flat_mlp", "lstm_units": None}, 5, ["Why was it wrong?"]),
        ({"bidirectional": True}, 5, ["Why was it wrong?"]),
        ({"model": "captioner"}, 0, ["How it learned"]),
    ],
    ids=["digits", "running_sum", "label", "text", "flat_mlp", "bidirectional", "caption"],
)
def test_every_task_has_its_report(options, rows, sections, run, tmp_path):
    changes = {"epochs": 1, "run_dir": str(tmp_path / "run")} | options
    if options.get("model") in ("scan_lstm", "crnn", "flat_mlp"):
        changes["encoder"] = "conv_pool"
    other = train(TrainConfig(**(SMALL | changes)))
    shutil.copy(run.path / "digit_reader.keras", other.path)
    report = evaluate(other, num_mistakes=2)["report"]
    assert len(report["does_time_help"]) == rows
    page = read_page(other)
    for section in sections:
        assert section in page.text
    needs_all = options.get("model") == "flat_mlp" or "bidirectional" in options
    assert ("No answers after each frame" in page.text) == needs_all
