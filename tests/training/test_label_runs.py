"""Runs on clips with a table of labels, from the table to exports: several labels, numbers,
segments, a prescribed split, and weights.
"""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from keras_cnnlstm import TrainConfig, load_run, train
from keras_cnnlstm.cli.main import main
from keras_cnnlstm.data import load_digits, moving_digits
from keras_cnnlstm.data.clip_source import ClipSource
from keras_cnnlstm.evaluation import evaluate
from keras_cnnlstm.evaluation.conclusion import conclusion
from keras_cnnlstm.export import open_predictor
from keras_cnnlstm.models import FrameStream
from keras_cnnlstm.training.scoring import batches_to_score, score
from keras_cnnlstm.utils.files import png_bytes

ROWS = 12  # digits, each in eight motions


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Clips in one folder, and beside it tables that ask for different things."""
    root = tmp_path_factory.mktemp("labels")
    images = load_digits("digits").train
    clips = list(moving_digits(images, ROWS, canvas=40, min_frames=4, max_frames=6))
    rows = []
    for clip in clips:
        folder = root / "clips" / clip.name
        folder.mkdir(parents=True)
        for t, frame in enumerate(clip.frames):
            (folder / f"{t}.png").write_bytes(png_bytes(frame))
        group = clip.name.split("_")[0]
        back = "-" in clip.motion
        rows.append((clip.name, clip.motion, back, len(clip.frames), group))
    groups = sorted({row[-1] for row in rows})

    def write(name, head, lines):
        with (root / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *lines])

    labels = [(n, f"{m[0]}|back" if b else m[0], g) for n, m, b, _, g in rows]
    write("clip_labels", ["clip", "classes", "group"], labels)
    values = [(n, t, 100 * b, g) for n, _, b, t, g in rows]
    write("clip_values", ["clip", "value:frames", "value:back", "group"], values)
    segments = [(n, 0, 2, "there", g) for n, _, _, _, g in rows]
    segments += [(n, 2, t - 1, "back", g) for n, _, b, t, g in rows if b]
    write("clip_segments", ["clip", "start", "end", "class", "group"], segments)
    parts = dict(zip(groups, ["train"] * 8 + ["val", "val", "test", "test"], strict=True))
    split = [(n, m[0], parts[g], 2 if b else 1) for n, m, b, _, g in rows]
    write("clip", ["clip", "class", "split", "weight"], split)
    rare = [(n, "rare" if m == "up-down" else "common", g) for n, m, _, _, g in rows]
    write("rare", ["clip", "class", "group"], rare)
    return root


def config(root, task, **options):
    options = {
        "model": "cnn_lstm", "encoder": "small_cnn", "encoder_filters": (4, 4, 8),
        "lstm_units": (8,), "epochs": 1, "image_size": (12, 12), "color_mode": "grayscale",
        "length": 6, "motion": "none", "precision": "float32", "cache": "none",
        "frame_numbers": task == "clip_segments", **options,
    }  # fmt: skip
    return TrainConfig(
        data=str(root / "clips"), labels=str(root / f"{task}.csv"), task=task, **options
    )


def rare(root, **options):
    """Options for a class of one clip in eight."""
    return replace(config(root, "clip", **options), labels=str(root / "rare.csv"))


TASKS = ("clip_labels", "clip_values", "clip_segments", "clip")


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """A run of each task, made when it is first asked for."""
    made = {}

    def of(task):
        if task not in made:
            path = tmp_path_factory.mktemp("runs") / task
            made[task] = train(config(root, task, run_dir=str(path)))
        return made[task]

    return of


@pytest.mark.parametrize("task", TASKS)
class TestEachTask:
    def test_it_is_trained_scored_and_opened_again(self, runs, task):
        run = runs(task)
        found = run.metrics["test"]["clips"]
        again = load_run(run.path)
        assert again.task == run.task
        model, batches, asked, groups = again.model, *batches_to_score(again)
        assert score(model, batches, asked, groups) == {"clips": found}
        low, high = found[f"{asked.measure}_95"]
        assert low <= found[asked.measure] <= high
        if task != "clip":
            assert found["num_groups"] < found["num_sequences"]

    def test_commands_answer(self, runs, task, capsys):
        run = runs(task)
        frames = [str(path) for path in sorted((run.path / "example").iterdir())]
        assert main(["predict", str(run.path), *frames, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        if task == "clip_labels":
            assert answer["labels"] == [
                name for name, share in answer["label_probabilities"].items() if share > 0.5
            ]
        elif task == "clip_values":
            assert list(answer["values"]) == ["frames", "back"]
        elif task == "clip_segments":
            assert len(answer["steps"]) == len(frames)
        assert main(["predict", str(run.path), *frames]) == 0
        assert capsys.readouterr().out
        assert main(["evaluate", str(run.path)]) == 0
        assert run.task.summary(run.metrics["test"]["clips"]) in capsys.readouterr().out

    def test_a_stream_ends_with_the_answer_of_the_whole(self, runs, task):
        run = runs(task)
        frames = np.random.default_rng(0).integers(0, 255, (6, 12, 12, 1), np.uint8)
        *_, last = FrameStream(run.model, run.class_names).answers(frames)
        given = {"frames": frames[None], "lengths": np.array([6], np.int32)}
        whole = run.model.predict(given, verbose=0)[0]
        np.testing.assert_allclose(
            last.row, whole[-1] if whole.ndim == 2 else whole, rtol=1e-4, atol=1e-5
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
    def test_exports_answer_like_the_run(self, runs, task, format, tmp_path):
        pytest.importorskip({"litert": "ai_edge_litert", "onnx": "tf2onnx"}.get(format, "keras"))
        run = runs(task)
        assert main(["export", str(run.path), str(tmp_path / "out"), "--format", format]) == 0
        frames = np.random.default_rng(1).integers(0, 255, (5, 12, 12, 1), np.uint8)
        expected = flat(open_predictor(run.path).answer_frames(frames))
        received = flat(open_predictor(tmp_path / "out").answer_frames(frames))
        assert received == pytest.approx(expected, rel=1e-4, abs=1e-5)

    def test_what_the_score_is_worth(self, runs, task):
        lines = conclusion(runs(task))
        titles = ["The model", runs(task).task.constant_answer_name]
        assert [
            line.strip().startswith(title) for line, title in zip(lines, titles, strict=False)
        ] == [True] * 2
        assert any("learned" in line or "constant answer" in line for line in lines[2:])

    def test_the_report(self, runs, task):
        run = runs(task)
        evaluate(run, num_mistakes=2)
        assert (run.path / "report.html").stat().st_size > 5_000


def flat(answer):
    """The numbers of an answer."""
    if isinstance(answer, dict):
        return [number for value in answer.values() for number in flat(value)]
    if isinstance(answer, list):
        return [number for value in answer for number in flat(value)]
    return [] if isinstance(answer, str | bool) else [answer]


class TestSource:
    def test_the_table_prescribes_the_split_and_the_weights(self, root, runs):
        source = ClipSource(config(root, "clip"))
        assert {part: len(clips) for part, clips in source.split.items()} == {
            "train": 64, "validation": 16, "test": 16,
        }  # fmt: skip
        _, _, weights = next(iter(source.training()))
        assert set(np.unique(weights)) == {1, 2}
        _, _ = next(iter(source.validation()))
        with pytest.raises(ValueError, match="folds must be left out"):
            ClipSource(config(root, "clip", folds=3))
        with pytest.raises(ValueError, match="each be in one part"):
            ClipSource(config(root, "clip", groups="_(.)"))

    def test_balanced_weights_give_each_class_the_same_sum(self, root):
        source = ClipSource(rare(root, class_weight="balanced", batch_size=96))
        (_, targets, weights), *_ = source.training().take(1)
        targets, weights = np.asarray(targets), np.asarray(weights)
        of_rare, of_common = (weights[targets == k] for k in (1, 0))
        assert len(set(of_rare)) == len(set(of_common)) == 1
        names = [clip.class_name for clip in source.split.train]
        number = names.count("rare")
        assert 0 < number < len(names) / 4
        np.testing.assert_allclose(of_rare[0] * number, of_common[0] * (len(names) - number))
        np.testing.assert_allclose(of_rare[0] * number, len(names) / 2, rtol=1e-6)

    def test_balance_draws_rare_classes_as_often(self, root):
        drawn = {}
        for balance in (0.0, 0.5, 1.0):
            source = ClipSource(rare(root, balance=balance, batch_size=96))
            batches = source.training().take(10)
            drawn[balance] = np.concatenate([np.asarray(targets) for _, targets in batches])
        again = np.concatenate([np.asarray(targets) for _, targets in batches])
        np.testing.assert_array_equal(drawn[1.0], again)
        # 960 draws of probability 1/8, 5/16 and 1/2: four standard deviations are 0.065 at most.
        for balance, share in ((0.0, 1 / 8), (0.5, 5 / 16), (1.0, 1 / 2)):
            assert drawn[balance].mean() == pytest.approx(share, abs=0.065)

    def test_the_run_keeps_its_labels(self, root, runs, tmp_path):
        moved = root / "moved.csv"
        run = runs("clip_values")
        table = root / "clip_values.csv"
        table.rename(moved)
        try:
            source = ClipSource(run.config, run.path)
        finally:
            moved.rename(table)
        assert source.task == run.task
        (_, targets), *_ = source.tests()["clips"]
        names = source.test_names()
        with table.open() as file:
            rows = {row["clip"]: row for row in csv.DictReader(file)}
        expected = [[float(rows[n]["value:frames"]), float(rows[n]["value:back"])] for n in names]
        np.testing.assert_allclose(targets, expected[: len(targets)])

    def test_targets_of_each_step_follow_the_frames(self, root):
        source = ClipSource(config(root, "clip_segments"))
        inputs, targets, weights = next(iter(source.tests()["clips"]))
        names, there = source.task.class_names, source.task.class_names.index("there")
        assert names == ("back", "background", "there")
        steps = np.arange(6) < np.asarray(inputs["lengths"])[:, None]
        np.testing.assert_array_equal(np.asarray(weights), steps)
        assert (np.asarray(targets)[:, :2] == there).all()

    def test_motion_leaves_out_the_first_steps(self, root):
        plain = ClipSource(config(root, "clip_segments"))
        moving = ClipSource(config(root, "clip_segments", motion="difference"))
        (_, targets, weights), *_ = plain.tests()["clips"]
        (_, fewer, counted), *_ = moving.tests()["clips"]
        np.testing.assert_array_equal(fewer, np.asarray(targets)[:, 1:])
        np.testing.assert_array_equal(counted, np.asarray(weights)[:, 1:])

    def test_other_clips_are_scored_by_their_own_table(self, root, runs, capsys):
        run = runs("clip_values")
        words = ["evaluate", str(run.path), "--data", str(root / "clips")]
        assert main(words) == 2
        assert "labels must be a table of the numbers" in capsys.readouterr().err
        assert main([*words, "--labels", str(root / "clip_values.csv"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["folder"]["num_sequences"] == 8 * ROWS
        assert main(["evaluate", str(run.path), "--labels", str(root / "clip.csv")]) == 2
        assert "labels must come with data" in capsys.readouterr().err

    def test_validate_lists_what_is_wrong_in_a_table(self, root, tmp_path, capsys):
        clips, table = str(root / "clips"), str(root / "clip_segments.csv")
        assert main(["validate", clips, "--labels", table, "--frame-numbers"]) == 0
        assert "96 clips" in capsys.readouterr().out
        broken = tmp_path / "broken.csv"
        broken.write_text("clip,value\nnone,1\nnowhere,x\n")
        assert main(["validate", clips, "--labels", str(broken)]) == 1
        out = " ".join(capsys.readouterr().out.split())
        assert "row 2, column clip" in out
        assert "row 3, column value" in out
        words = ["train", "--data", clips, "--labels", str(broken)]
        assert main([*words, "--run-dir", str(tmp_path / "run")]) == 2
        assert "row 2, column clip" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_task_that_needs_a_table(self, root):
        with pytest.raises(ValueError, match="labels must be a table for the task clip_labels"):
            replace(config(root, "clip_labels"), labels=None)

    def test_the_task_must_be_that_of_the_table(self, root):
        options = config(root, "clip")
        with pytest.raises(ValueError, match="task must be clip_values"):
            ClipSource(replace(options, labels=str(root / "clip_values.csv")))
