"""A report of a small run, and pages of findings made by hand: whole, offline, nothing empty."""

import base64
import dataclasses
import io
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnnlstm import baselines, cli
from keras_cnnlstm.calibration import expected_calibration_error
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.evaluation import answers_of, evaluate
from keras_cnnlstm.findings import Answered, accuracy_by_lengths, calibration_of, frames_of
from keras_cnnlstm.mistakes import ORDER, Mistake
from keras_cnnlstm.moving_digits import moving_digits, write_clips
from keras_cnnlstm.report import write_report
from keras_cnnlstm.report_facts import Comparison, Findings, comparison_lines, verdict
from keras_cnnlstm.runs import load_model
from keras_cnnlstm.scores import accuracy_by_length, number_scores, scores
from keras_cnnlstm.sources import open_source
from keras_cnnlstm.tasks import Trend
from keras_cnnlstm.training import train

SMALL = {
    "length": 3, "epochs": 2, "steps_per_epoch": 15, "batch_size": 32, "validation_sequences": 64,
    "test_sequences": 120, "lstm_units": (8,), "encoder": "small_cnn", "precision": "float32",
    "learning_rate": 3e-3, "augment": False,
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
    baselines.digit_reader(run, steps=40)
    return run


@pytest.fixture(scope="module")
def metrics(run):
    told = []
    metrics = evaluate(run, num_mistakes=3, say=told.append)
    assert "the frames shuffled" in told
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


def test_what_is_told_of_the_model_is_measured_on_the_test_sequences(run, metrics):
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
        told = probabilities[one["index"]]
        assert one["answer"] == run.class_names[told.argmax()]
        assert one["truth"] == run.class_names[targets[one["index"]]]
        digits = np.array([list(map(int, one["digits"].split()))])
        assert Trend(3).targets(digits)[0] == targets[one["index"]]
        assert (one["read"] == one["digits"]) == (one["reason"] == ORDER)


def test_the_frames_of_a_mistake_are_those_of_the_sequence(run):
    data = open_source(run.config).tests()["natural"]
    frames = np.concatenate([np.asarray(frames) for frames, _ in data])
    chosen = frames_of(data, [119, 3])
    np.testing.assert_array_equal(chosen.frames, frames[[119, 3]])
    assert chosen.counts.all()


def test_the_reader_is_trained_once(run, monkeypatch):
    monkeypatch.setattr(baselines, "train_reader", None)
    reader = baselines.digit_reader(run)
    frames = np.zeros((3, 28, 28, 1), np.uint8)
    probabilities = reader.predict(frames, verbose=0)
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_the_command(run, capsys):
    assert cli.main(["report", str(run.path), "--num-sequences", "60", "--mistakes", "1"]) == 0
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
    assert cli.main(["report", str(tmp_path / "none")]) == 2
    assert "expected a run directory" in capsys.readouterr().err


def findings(run, **changes):
    """Findings of two classes, made by hand."""
    score = scores(np.array([0, 0, 1, 1]), np.eye(2)[[0, 0, 1, 0]], NAMES)
    return dataclasses.replace(Findings({"clips": score}, {"1": 2.5, "64": 0.00012}), **changes)


def mistake(**changes):
    frames = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
    told = {"index": 1, "confidence": 0.9, "truth": "up", "answer": NAMES[1], "reason": None}
    told |= {"digits": None, "read": None, "clip": "<i>walk</i>/7.mp4", "frames": frames}
    return Mistake(**(told | changes))


def test_a_clip_s_name_and_classes_are_text_not_tags(run, tmp_path):
    other = dataclasses.replace(run, path=tmp_path)
    shown = findings(
        run, mistakes=[mistake()], wrong={"sequences": 1}, not_streamed="bidirectional"
    )
    write_report(other, shown)
    page = read_page(other)
    assert "<i>walk</i>/7.mp4" in page.text
    assert "<b>down</b>" in page.text
    assert not {"i", "b"} & set(page.tags) - {"b"}  # b are the numbers at the top
    assert "No answers after each frame: bidirectional" in page.text
    assert "2.50 s for one sequence alone, 120 µs a sequence in batches of 64" in page.text


def test_a_page_of_everything(run, tmp_path):
    other = dataclasses.replace(run, path=tmp_path)
    maps = np.linspace(0, 1, 60).reshape(2, 6, 5)
    full = mistake(so_far=(("up", 0.6), ("down", 0.9)), occlusion=np.array([0.5, -0.1]), maps=maps)
    lengths = accuracy_by_length(np.array([True, False, True]), np.array([2, 3, 3]))
    write_report(other, findings(run, mistakes=[full], wrong={"sequences": 1}, by_length=lengths))
    page = read_page(other)
    assert "Short and long sequences" in page.text
    assert "down 90%" in page.text
    assert len([i for i in page.images if i["alt"].startswith("where the evidence")]) == 2


def test_a_page_of_numbers(run, tmp_path):
    other = dataclasses.replace(run, path=tmp_path)
    targets, counts = np.array([[1.0, 3.0], [2.0, 0.0]]), np.array([[True, True], [True, False]])
    score = number_scores(targets, targets + 0.5, counts)
    rows = [Comparison("The model", "", score), Comparison("Mean number", "", score)]
    shown = Findings({"natural": score}, {"1": 0.001}, comparison=rows,
                     history=[{"epoch": 1, "val_rmse": 0.5, "loss": 1.0}])  # fmt: skip
    write_report(other, shown)
    page = read_page(other)
    assert "Root-mean-square error 0.500" in page.text
    assert "Short and long sequences" in page.text
    assert {path.stem for path in (tmp_path / "report").iterdir()} == {
        "comparison", "by_length", "curve-loss", "curve-rmse",
    }  # fmt: skip


def test_a_page_without_mistakes(run, tmp_path):
    other = dataclasses.replace(run, path=tmp_path)
    write_report(other, findings(run, wrong={"sequences": 0}))
    assert "0 test sequences were answered wrongly: there is none to show." in read_page(other).text


def answered_steps():
    """Three sequences of 2, 3 and 3 steps, with a mistake in padding and one in the last."""
    targets = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 1]])
    answers = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0]])
    lengths = np.array([2, 3, 3], np.int32)
    frames = np.zeros((3, 3, 2, 2, 1), np.uint8)
    data = tf.data.Dataset.from_tensor_slices(({"frames": frames, "lengths": lengths}, targets))
    counts = np.arange(3) < lengths[:, None]
    return Answered("natural", data.batch(2), targets, 0.9 * np.eye(2)[answers] + 0.05, counts, {})


def test_padding_is_no_mistake_at_any_length():
    found = accuracy_by_lengths(answered_steps())
    assert {length: entry["accuracy"] for length, entry in found.items()} == {"2": 1, "3": 0.5}
    assert [entry["count"] for entry in found.values()] == [1, 2]


def test_padding_does_not_count_for_the_calibration():
    found = calibration_of(answered_steps())
    (point,) = found["points"]
    assert (point["count"], point["accuracy"]) == (8, 7 / 8)
    assert found["error"] == pytest.approx(0.95 - 7 / 8)


def compared(model, bag, mixed, count=1000):
    def score(accuracy):
        right = round(accuracy * count)
        targets = np.arange(count) % 2
        return scores(targets, np.eye(2)[np.where(np.arange(count) < right, targets, 1 - targets)],
                      NAMES)  # fmt: skip

    titles = {"The model": model, "Most frequent class": 0.5, "Bag of frames": bag,
              "Frames shuffled": mixed}  # fmt: skip
    return [Comparison(title, "", score(accuracy)) for title, accuracy in titles.items()]


def test_the_verdict_asks_whether_the_intervals_are_apart():
    text = verdict(compared(0.9, 0.6, 0.4))
    assert text == (
        "Yes. Bag of frames comes to 60.00%, the model to 90.00%. With the same frames in random "
        "order the model comes to 40.00%."
    )
    assert verdict(compared(0.62, 0.6, 0.4)).startswith("There is no sign of it. ")
    assert verdict(compared(0.4, 0.6, 0.4)).startswith("There is no sign of it. ")
    assert verdict(compared(0.9, 0.3, 0.4)).startswith("Yes. Most frequent class comes to 50")
    for rows in (compared(0.9, 0.6, 0.4)[:2], compared(0.9, 0.6, 0.4)[:1]):
        assert "There is one image and no order of frames to ask for." in verdict(rows)


def test_of_errors_the_smaller_is_the_better():
    def row(title, error):
        targets = np.arange(20.0)[:, None]
        return Comparison(title, "", number_scores(targets, targets + error))

    rows = [row("The model", 0.5), row("Mean number", 4.0), row("Bag of frames", 2.0),
            row("Frames shuffled", 0.6)]  # fmt: skip
    assert verdict(rows).startswith("Yes. Bag of frames comes to 2.000, the model to 0.500.")
    assert comparison_lines(rows)[0] == "  The model           0.500  (0.500 to 0.500)"


def test_the_report_of_clips_names_them(tmp_path):
    rng = np.random.default_rng(0)
    digits = LabeledImages(rng.integers(100, 256, (6, 5, 5, 1), np.uint8), np.arange(6))
    write_clips(tmp_path / "clips", moving_digits(digits, 6, canvas=10, min_frames=4, max_frames=6))
    run = train(
        TrainConfig(
            data=str(tmp_path / "clips"), image_size=(10, 10), channels=1, length=5, epochs=1,
            encoder="small_cnn", lstm_units=(4,), batch_size=8, groups="^(.+?)_",
            precision="float32", augment=False, run_dir=str(tmp_path / "run"),
        )
    )  # fmt: skip
    report = evaluate(run, num_mistakes=2)["report"]
    assert [row["title"] for row in report["does_time_help"]] == [
        "The model", "Most frequent class", "Bag of frames", "Frames shuffled",
    ]  # fmt: skip
    assert (
        sum(e["count"] for e in report["accuracy_by_length"].values())
        == (report["tests"]["clips"]["num_sequences"])
    )
    names = {clip.name for clip in open_source(run.config, run.path).split.test}
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
        ({"model": "describer"}, 0, ["How it learned"]),
    ],
    ids=["digits", "running_sum", "label", "text", "flat_mlp", "bidirectional", "sentence"],
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
