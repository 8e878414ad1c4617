"""A cross-validation of clips: a run for each fold, and what the folds say together."""

import csv
import dataclasses
import itertools
import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from power_cut import break_off

from keras_cnnlstm.cli import main
from keras_cnnlstm.config import TrainConfig, load_config
from keras_cnnlstm.data.clips import find_clips
from keras_cnnlstm.data.run_files import read_task
from keras_cnnlstm.data.splits import fold_splits, read_split
from keras_cnnlstm.export.predictor import open_predictor
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.tasks.scores import grouped_interval
from keras_cnnlstm.training import trainer
from keras_cnnlstm.training.folds import fold_configs
from keras_cnnlstm.training.run_directory import load_run
from keras_cnnlstm.training.trainer import train

OPTIONS = {
    "image_size": (8, 8), "color_mode": "grayscale", "length": 4, "encoder": "conv_pool",
    "encoder_filters": (4, 4), "motion": "none",
    "lstm_units": (4,), "dropout": 0.1, "epochs": 2, "batch_size": 4, "groups": "^(.+?)_",
    "skip_broken": True, "precision": "float32", "folds": 3, "seed": 3,
}  # fmt: skip


def write_clip(folder, pixels):
    folder.mkdir(parents=True)
    for t, frame in enumerate(pixels):
        Image.fromarray(frame.astype(np.uint8)).save(folder / f"{t}.png")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Dark and light clips of five people, and one clip that cannot be read."""
    root = tmp_path_factory.mktemp("own") / "clips"
    for name, low in (("dark", 0), ("light", 150)):
        for person, take in itertools.product(range(5), range(2 if low else 3)):
            rng = np.random.default_rng([low, person, take])
            write_clip(root / name / f"p{person}_{take}", rng.integers(low, low + 105, (4, 8, 8)))
    (root / "dark" / "p3_0" / "1.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """One that was never stopped."""
    return train(config(clips, tmp_path_factory.mktemp("whole") / "run", ensemble_folds=True))


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return tmp_path / "run"


def config(clips, path, **changes):
    return TrainConfig(**(OPTIONS | {"data": str(clips), "run_dir": str(path)} | changes))


def readable(root):
    return [clip for clip in find_clips(root) if clip.name != "dark/p3_0"]


def rows_of(path):
    with (path / "out_of_fold.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(path, other):
    """Weights, scores and answers, bit for bit."""
    folds = [f"folds/{number}" for number in "123"]
    models = [place for place in (".", *folds) if (path / place / "model.keras").exists()]
    for place in models:
        runs = load_run(path / place), load_run(other / place)
        for a, b in zip(*(run.model.get_weights() for run in runs), strict=True):
            np.testing.assert_array_equal(a, b)
        assert runs[0].calibration == runs[1].calibration
    assert (path / "out_of_fold.csv").read_text() == (other / "out_of_fold.csv").read_text()
    metrics = [json.loads((place / "metrics.json").read_text()) for place in (path, other)]
    for what in ("test", "folds"):
        assert metrics[0][what] == metrics[1][what]


def test_each_fold_is_the_run_that_it_would_be_alone(whole, clips, tmp_path):
    usable = readable(clips)
    splits = fold_splits(usable, 3, groups="^(.+?)_", seed=3)
    found = [read_split(whole.path / "folds" / n / "split.csv", usable) for n in "123"]
    assert found == splits
    assert {tuple(sorted(split)) for split in found} == {("test", "train", "validation")}
    for number in "123":
        assert load_config(whole.path / "folds" / number).folds is None
    # Begin the second with nothing but its split.
    alone = tmp_path / "run"
    shutil.copytree(whole.path / "folds" / "2", alone, ignore=shutil.ignore_patterns(
        "checkpoints", "model.keras", "metrics.json", "calibration.json", "history.csv"
    ))  # fmt: skip
    given = dataclasses.replace(fold_configs(whole.config, tmp_path)[1], run_dir=str(alone))
    again = train(given, resume=True)
    second = load_run(whole.path / "folds" / "2")
    for a, b in zip(again.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.metrics["test"] == second.metrics["test"]


def test_the_answer_to_each_clip_is_that_of_the_fold_that_has_not_seen_it(whole, clips):
    rows = rows_of(whole.path)
    usable = {clip.name: clip.class_name for clip in readable(clips)}
    assert {row["clip"]: row["class"] for row in rows} == usable
    assert len(rows) == len(usable) == 24
    for number in "123":
        fold = whole.path / "folds" / number
        split, predictor = read_split(fold / "split.csv", readable(clips)), open_predictor(fold)
        tested = [row for row in rows if row["fold"] == number]
        assert [row["clip"] for row in tested] == [clip.name for clip in split.test]
        for row in tested:
            assert row["group"] == split.groups[row["clip"]] == row["clip"].split("/")[1][:2]
            answer = predictor.answer_clip(clips / row["clip"])
            for name, probability in answer["probabilities"].items():
                assert float(row[f"probability {name}"]) == pytest.approx(probability, abs=1e-6)
            assert row["answer"] == answer["label"]
            assert row["correct"] == str(int(answer["label"] == row["class"]))


def test_the_scores_are_those_that_evaluate_gives_of_each_fold(whole, capsys):
    rows, facts = rows_of(whole.path), whole.metrics["folds"]
    right = Counter(row["fold"] for row in rows if row["correct"] == "1")
    tested = Counter(row["fold"] for row in rows)
    by_fold = []
    for number in "123":
        assert main.main(["evaluate", str(whole.path / "folds" / number), "--json"]) == 0
        score = json.loads(capsys.readouterr().out)["clips"]
        assert score["num_sequences"] == tested[number]
        assert score["accuracy"] == right[number] / tested[number]
        by_fold.append(score["accuracy"])
    assert facts["by_fold"] == by_fold
    assert facts["mean"] == pytest.approx(np.mean(by_fold))
    assert facts["standard_deviation"] == pytest.approx(np.std(by_fold, ddof=1))
    assert facts["all_clips"] == sum(right.values()) / 24
    assert whole.metrics["test"]["out_of_fold"]["accuracy"] == facts["all_clips"]
    assert facts["constant"] == 14 / 24  # 14 dark clips of 24
    assert (facts["num_clips"], facts["num_groups"]) == (24, 5)
    correct = [float(row["correct"]) for row in rows]
    assert facts["interval_95"] == grouped_interval(correct, [row["group"] for row in rows])
    assert json.loads((whole.path / "metrics.json").read_text()) == whole.metrics


def resampled(values, groups, times, seed):
    """Means of whole groups that are drawn one by one."""
    members = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    rng = np.random.default_rng(seed)
    for _ in range(times):
        drawn = [members[name] for name in rng.choice(list(members), len(members))]
        yield np.mean(list(itertools.chain(*drawn)))


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_a_loop_that_draws_groups(seed):
    rng = np.random.default_rng(seed)
    groups = [f"g{n}" for n in rng.integers(12, size=90)]
    luck = {group: rng.random() for group in groups}
    values = np.array([float(rng.random() < luck[group]) for group in groups])
    expected = np.percentile(list(resampled(values, groups, 4000, seed)), [2.5, 97.5])
    found = grouped_interval(values, groups, resamples=20_000, seed=seed)
    np.testing.assert_allclose(found, expected, atol=0.02)
    single = grouped_interval(values, [str(i) for i in range(90)])
    assert single[1] - single[0] < 0.8 * (found[1] - found[0])


def test_the_interval_of_two_groups_is_the_exact_one():
    """Of two groups half of the draws have both, a quarter each only one."""
    assert grouped_interval(np.array([1.0, 0.0, 0.0]), ["a", "b", "b"]) == [0, 1]
    assert grouped_interval(np.array([0.25, 0.25]), ["a", "b"]) == [0.25, 0.25]
    assert grouped_interval(np.array([3.0]), ["a"]) == [3, 3]


def test_the_command_says_it_in_plain_words(whole, copy, capsys, monkeypatch):
    (copy / "metrics.json").unlink()
    monkeypatch.setattr(trainer, "train_one", None)  # all is read
    monkeypatch.setattr(trainer, "build_learner", None)
    assert main.main(["train", "--resume", str(copy)]) == 0
    out = capsys.readouterr().out
    facts = whole.metrics["folds"]
    for number, score in enumerate(facts["by_fold"], start=1):
        assert f"\nfold      {number} of 3\ntrained   already\n" in out
        assert f"  folds/{number}  accuracy {score:.2%}, {whole.config.encoder}, " in out
    low, high = facts["interval_95"]
    assert (
        f"\naccuracy: mean {100 * facts['mean']:.1f} % +- {100 * facts['standard_deviation']:.1f} "
        f"over 3 folds; of all 24 clips {100 * facts['all_clips']:.1f} %; 95 % interval "
        f"{100 * low:.0f} to {100 * high:.0f} % (bootstrap over 5 groups); most frequent class "
        "58.3 %\n"
    ) in out
    assert f"try: keras-cnnlstm predict {copy}/folds/1 {copy}/folds/1/example/*.png" in out
    assert_same(copy, whole.path)


def test_the_mean_of_the_folds_is_a_run_of_its_own(whole, clips, capsys):
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 8, 8, 1), np.uint8)
    given = {"frames": frames, "lengths": np.full(5, 4, "int32")}
    folds = [load_run(whole.path / "folds" / n).model for n in "123"]
    expected = np.mean([model.predict(given, verbose=0) for model in folds], axis=0)
    for run in (whole, load_run(whole.path)):
        np.testing.assert_allclose(run.model.predict(given, verbose=0), expected, atol=1e-6)
    assert main.main(["predict", str(whole.path), str(clips / "light" / "p1_0")]) == 0
    for command in ("evaluate", "calibrate", "report"):
        capsys.readouterr()
        assert main.main([command, str(whole.path)]) == 2
        error = capsys.readouterr().err
        assert "clips that the model has not seen" in error
        assert f"{whole.path}/folds/1" in error


@pytest.mark.slow
def test_the_mean_of_the_folds_is_exported_and_scored_on_other_clips(whole, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "other", ignore=shutil.ignore_patterns("p3_0"))
    assert main.main(["evaluate", str(whole.path), "--data", str(tmp_path / "other")]) == 0
    assert main.main(["export", str(whole.path), str(tmp_path / "out")]) == 0
    clip = clips / "light" / "p1_0"
    found, expected = (
        open_predictor(place).answer_clip(clip) for place in (tmp_path / "out", whole.path)
    )
    for name, probability in expected["probabilities"].items():
        assert found["probabilities"][name] == pytest.approx(probability, abs=1e-5)


def test_without_it_there_is_no_model_and_shared_frames_are_listed(clips, tmp_path):
    root = tmp_path / "clips"
    shutil.copytree(clips, root)
    for person in range(5):  # one frame of everyone
        shutil.copy(clips / "light/p0_0/0.png", root / "light" / f"p{person}_0" / "0.png")
    run = train(config(root, tmp_path / "run", epochs=1, folds=2))
    assert run.model is None
    assert {path.name for path in run.path.iterdir()} == {
        "checkpoints", "config.json", "confusion.png", "folds", "leaks.txt", "left_out.txt",
        "lock", "metrics.json", "out_of_fold.csv",
    }  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"run/folds/1, or train with --ensemble-folds"):
        load_run(run.path)
    for path in (run.path, run.path / "folds/2"):
        assert (path / "left_out.txt").read_text().startswith("dark/p3_0: ")
    lines = (run.path / "leaks.txt").read_text().splitlines()
    pattern = r"light/p\d_0 frame 0 \(fold 2\) is light/p\d_0 frame 0 \(fold 1\)"
    assert lines
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert not (run.path / "folds/1/leaks.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("fold", "batches"), [(1, 2), (2, 5)])
def test_one_that_broke_off_ends_as_if_it_had_not(fold, batches, whole, clips, tmp_path):
    given = config(clips, tmp_path / "run", ensemble_folds=True)
    break_off(given, batches, member=fold)
    train(given, resume=True)
    assert_same(tmp_path / "run", whole.path)


@pytest.mark.slow
def test_one_that_is_stopped_says_how_all_go_on(whole, clips, tmp_path):
    given = config(clips, tmp_path / "run", ensemble_folds=True)
    message = break_off(given, 3, member=2, stop=True)
    assert message.endswith(f"go on with: keras-cnnlstm train --resume {tmp_path}/run")
    train(given, resume=True)
    assert_same(tmp_path / "run", whole.path)


def test_one_that_was_stopped_before_all_folds_had_begun(whole, copy, clips, monkeypatch):
    for file in ("2/config.json", "3/config.json"):
        (copy / "folds" / file).unlink()
    monkeypatch.setattr(trainer, "_train_member", None)
    with pytest.raises(TypeError):
        train(config(clips, copy, ensemble_folds=True), resume=True)
    for number in "123":  # as new
        split = whole.path / "folds" / number / "split.csv"
        assert (copy / "folds" / number / "split.csv").read_text() == split.read_text()
        assert not (copy / "folds" / number / "model.keras").exists()


@pytest.mark.slow
def test_captions_have_the_words_of_their_fold(clips, tmp_path):
    root = tmp_path / "clips"
    shutil.copytree(clips, root)
    shutil.rmtree(root / "dark" / "p3_0")
    lines = [
        f"{clip.name},a {clip.class_name} room of person{clip.name.split('/')[1][1]}"
        for clip in find_clips(root)
    ]
    (root / "captions.csv").write_text("\n".join(["clip,caption", *lines]))
    run = train(config(root, tmp_path / "run", model="captioner", epochs=1))
    for number in "123":
        fold = run.path / "folds" / number
        split = read_split(fold / "split.csv", root)
        known = set(read_task(fold).vocabulary.names)
        people = {f"person{group[1]}" for group in split.groups.values()}
        seen = {f"person{split.groups[clip.name][1]}" for clip in split.train}
        assert known & people == seen != people
    rows = rows_of(run.path)
    assert len(rows) == 24
    assert {row["correct"] for row in rows} == {"0"}  # no fold knows the person of its clips
    assert run.metrics["test"] == {}
    assert run.metrics["folds"]["interval_95"] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 6}, r"class 'dark' has 5: take 5 folds at most"),
        ({"batch_size": 10**6, "image_size": (256, 256)}, "check_memory"),
        ({"folds": 1}, "folds must be an integer from 2 to 100; received 1"),
        ({"ensemble": ("small_cnn", "conv_pool")}, r"folds must be left out with --ensemble"),
        ({"folds": None, "ensemble_folds": True}, "ensemble_folds must be left out without --fold"),
        ({"model": "captioner", "encoder_filters": None, "ensemble_folds": True},
         "ensemble_folds must be left out .* for captions"),
        ({"data": "digits", "image_size": None, "color_mode": "rgb", "groups": None,
          "skip_broken": False}, "folds must be left out unless --data is an existing folder"),
    ],
)  # fmt: skip
def test_what_does_not_fit_leaves_no_directory(changes, message, clips, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(config(clips, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_workers_that_train_together_train_one_model(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "num_workers", 2)
    monkeypatch.setattr(Runtime, "check_same", lambda *given: None)
    with pytest.raises(ValueError, match=r"folds must be left out where several workers"):
        train(config(clips, tmp_path / "run"))
