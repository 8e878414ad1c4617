"""A task of a user's own: one class in this file and one line in the registry, no other file."""

import json
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from keras_cnnlstm import TrainConfig, load_run, train
from keras_cnnlstm.cli.main import main
from keras_cnnlstm.evaluation import evaluate
from keras_cnnlstm.evaluation.reader import digit_reader
from keras_cnnlstm.export import open_predictor
from keras_cnnlstm.models import FrameStream
from keras_cnnlstm.tasks import TASKS, DigitTask, scores
from keras_cnnlstm.tasks.scores import class_summary

FORMATS = ("saved_model", "litert", "onnx")


@dataclass(frozen=True)
class Parity(DigitTask):
    """Is the sum of the digits odd?"""

    models: ClassVar[tuple[str, ...]] = ("cnn_lstm", "bag_of_frames")
    question = "Is their sum odd?"
    default_length = 2
    lengths = (1, 5)
    variable_length = False

    length: int = 2

    @property
    def class_names(self):
        return ("even", "odd")

    def targets(self, digits, *, xp: ModuleType = np):
        return xp.sum(digits, axis=1) % 2

    def score(self, targets, answers, mask=None):
        found = scores(targets, answers, self.class_names)
        return found | {"odd_answers": float((answers.argmax(axis=1) == 1).mean())}

    def summary(self, score):
        return f"{class_summary(score)}\n  {score['odd_answers']:.1%} answered with odd"

    def answer(self, row, *, confidence_threshold=None):
        found = super().answer(row, confidence_threshold=confidence_threshold)
        return found | {"odd": bool(row[1] > row[0])}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "parity", Parity)
        config = TrainConfig(
            task="parity",
            encoder="small_cnn",
            encoder_filters=(4, 8, 8),
            lstm_units=(8,),
            epochs=1,
            steps_per_epoch=3,
            batch_size=8,
            validation_sequences=16,
            test_sequences=50,
            precision="float32",
            run_dir=str(tmp_path_factory.mktemp("own") / "run"),
        )
        yield train(config)


def test_it_is_trained_and_scored_by_its_own_figures(run):
    score = run.metrics["test"]["natural"]
    assert score["num_sequences"] == 50
    assert 0 <= score["odd_answers"] <= 1
    assert list(score["classes"]) == ["even", "odd"]
    opened = load_run(run.path)
    assert opened.task == Parity(2)
    assert opened.class_names == ("even", "odd")


def test_commands_answer_in_its_words(run, capsys):
    frames = [str(path) for path in sorted((run.path / "example").iterdir())]
    assert main(["predict", str(run.path), *frames, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["odd"] == (answer["label"] == "odd")
    assert main(["predict", str(run.path), *frames]) == 0
    assert capsys.readouterr().out.startswith(answer["label"])
    assert main(["evaluate", str(run.path), "--num-sequences", "20"]) == 0
    assert "answered with odd" in capsys.readouterr().out
    assert main(["stream", str(run.path), str(run.path / "example"), "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["odd"] == answer["odd"]


def test_the_stream_ends_with_the_answer_of_the_whole(run):
    frames = np.random.default_rng(0).integers(0, 255, (2, 28, 28, 1), np.uint8)
    *_, last = FrameStream(run.model, run.class_names).answers(frames)
    whole = run.model.predict(frames[None], verbose=0)[0]
    np.testing.assert_allclose(last.probabilities, whole, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_exports_answer_like_the_run(run, format, tmp_path):
    pytest.importorskip({"litert": "ai_edge_litert", "onnx": "tf2onnx"}.get(format, "keras"))
    assert main(["export", str(run.path), str(tmp_path / "out"), "--format", format]) == 0
    frames = np.random.default_rng(1).integers(0, 255, (2, 28, 28, 1), np.uint8)
    expected = open_predictor(run.path).answer_frames(frames)
    received = open_predictor(tmp_path / "out").answer_frames(frames)
    assert received["odd"] == expected["odd"]
    for name, share in expected["probabilities"].items():
        assert received["probabilities"][name] == pytest.approx(share, abs=1e-5)


def test_the_report_compares_it_with_simpler_answers(run):
    digit_reader(run, steps=2)  # else the report trains one for longer
    found = evaluate(run, num_sequences=30, num_mistakes=2)["report"]
    assert [row["title"] for row in found["does_time_help"]][:2] == [
        "The model",
        "Most frequent class",
    ]
    assert found["verdict"]
    assert (run.path / "report.html").stat().st_size > 10_000
