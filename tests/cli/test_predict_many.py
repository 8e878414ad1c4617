"""`predict` for many clips: what its arguments name, equal answers, files that go on."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.cli import main, predict
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.clips import find_clips, search_clips
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.synthetic_clips import moving_digits, write_clips
from keras_cnnlstm.export.predictor import Predictor, open_predictor
from keras_cnnlstm.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 clips of 4 to 8 frames of 10x10 pixels in eight classes."""
    root = tmp_path_factory.mktemp("many") / "clips"
    images = np.random.default_rng(0).integers(100, 256, (3, 5, 5, 1), np.uint8)
    digits = LabeledImages(images, np.arange(3))
    write_clips(root, moving_digits(digits, 3, canvas=10, min_frames=4, max_frames=8))
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(TrainConfig(
        data=str(folder), run_dir=str(path), image_size=(10, 10), color_mode="grayscale", length=6,
        encoder="small_cnn", lstm_units=(4,), augmentation="none", epochs=1, batch_size=8,
        precision="float32", motion="none", patience=None,
    ))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def alone(run, folder):
    """The answers to the clips one by one, by their paths."""
    predictor = open_predictor(run)
    return {str(clip.path): predictor.answer_clip(clip.path) for clip in find_clips(folder)}


@pytest.fixture
def command(capsys):
    """Runs predict, and returns its exit code, what it printed, and its errors."""

    def command(*words):
        capsys.readouterr()
        code = main.main(["predict", *map(str, words)])
        return code, *capsys.readouterr()

    return command


def assert_equal(found, expected):
    assert [line["clip"] for line in found] == list(expected)
    for line in found:
        answer = expected[line["clip"]]
        assert {k: v for k, v in line.items() if k not in ("clip", "probabilities")} == {
            k: v for k, v in answer.items() if k != "probabilities"
        }
        assert line["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_is_answered_as_its_clips_are_one_by_one(run, folder, alone, command, monkeypatch):
    sizes, predicted = [], Predictor._answers

    def counted(self, clips):
        sizes.append(len(clips))
        return predicted(self, clips)

    monkeypatch.setattr(Predictor, "_answers", counted)
    code, out, err = command(run, folder, "--json")
    assert (code, err) == (0, "")
    assert len({answer["frames"] for answer in alone.values()}) > 2  # unequal lengths
    assert sizes == [24]
    assert_equal(lines(out), alone)
    monkeypatch.setattr("keras_cnnlstm.export.predictor._BATCH", 30)
    assert_equal(lines(command(run, folder, "--json")[1]), alone)
    assert sizes[1:] == [5, 5, 5, 5, 4]
    text = command(run, folder)[1].splitlines()
    assert [line.split(": ")[0] for line in text] == list(alone)


def test_flat_folders_patterns_and_tables(run, folder, alone, command, tmp_path):
    flat = tmp_path / "flat"
    for path in list(alone)[:3]:
        shutil.copytree(path, flat / Path(path).name)
    named = {str(flat / Path(path).name): answer for path, answer in list(alone.items())[:3]}
    named = dict(sorted(named.items(), key=lambda item: item[0]))
    assert_equal(lines(command(run, flat, "--json")[1]), named)
    assert_equal(lines(command(run, flat / "[012]*", "--json")[1]), named)
    assert_equal(lines(command(run, f"{tmp_path}/**/[012]_*", "--json")[1]), named)
    table = tmp_path / "table.csv"
    names = [Path(path).name for path in named]
    table.write_text("\ufeffnote,clip\r\n" + "".join(f"x,flat/{n}\r\n" for n in names[::-1]))
    answers = {f"flat/{Path(path).name}": answer for path, answer in list(named.items())[::-1]}
    assert_equal(lines(command(run, table, "--json")[1]), answers)
    images = command(run, f"{next(iter(named))}/00[0-3].png", "--json")[
        1
    ]  # the frames of one sequence
    assert "clip" not in json.loads(images)
    assert command(run, flat / names[0])[1].count("\n") == 9  # the answer and its probabilities


def test_an_export_answers_a_folder_as_the_run_does(run, folder, alone, command, tmp_path):
    assert main.main(["export", str(run), str(tmp_path / "out"), "--format", "litert"]) == 0
    code, out, _ = command(tmp_path / "out", folder, "--json")
    assert code == 0
    found = lines(out)
    assert_equal(found, {str(p): open_predictor(tmp_path / "out").answer_clip(Path(p))
                         for p in alone})  # fmt: skip
    for line in found:
        expected = alone[line["clip"]]["probabilities"]
        assert line["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_models_of_a_fixed_and_of_any_number_of_frames():
    """Only sequences of one length are in a batch where the model takes no lengths."""
    asked = []

    def predicts(frames, lengths):
        asked.append(frames.shape[:2])
        return frames.mean(axis=(1, 2, 3, 4))[:, None]

    predictor = Predictor(predicts, (None, 2, 2, 1), False, lambda row: {"value": row[0]}, {})
    clips = [np.full((n, 2, 2, 1), n, np.uint8) for n in (3, 2, 3, 5)]
    read = [(frames, {"frames": len(frames)}) for frames in clips]
    read.insert(1, error := ValueError("broken"))
    found = predictor._answered(read)
    assert found.pop(1) is error
    assert found == [{"value": n, "frames": n} for n in (3, 2, 3, 5)]
    assert asked == [(2, 3), (1, 2), (1, 5)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_goes_on_after_an_interruption(
    form, run, folder, alone, command, tmp_path, monkeypatch
):
    file = tmp_path / f"answers.{form}"
    add = predict._AnswerFile.add

    def interrupted(self, name, answer):
        if len(self.names) == 5:
            self.path.write_bytes(self.path.read_bytes() + b'"half a li')
            raise KeyboardInterrupt
        assert self.path.exists() == bool(self.names)
        add(self, name, answer)
        assert self.path.read_bytes().endswith(b"\n")  # each answer is there at once

    monkeypatch.setattr(predict._AnswerFile, "add", interrupted)
    assert command(run, folder, f"--{form}", file)[0] == 130
    monkeypatch.setattr(predict._AnswerFile, "add", add)
    answered = []
    read = Predictor.clip_frames

    def counted(self, path, **options):
        answered.append(str(path))
        return read(self, path, **options)

    monkeypatch.setattr(Predictor, "clip_frames", counted)
    code, out, err = command(run, folder, f"--{form}", file)
    assert code == 0
    assert sorted(answered) == sorted(list(alone)[5:])
    assert out.splitlines() == [
        f"5 of 24 clips are in {file} already, and left out; remove the file to answer them again",
        f"written to {file}: 19 answers",
    ]
    assert err.startswith("answers   0 of 19 clips\n")
    if form == "jsonl":
        assert_equal(lines(file.read_text()), alone)
    else:
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert [row["clip"] for row in rows] == list(alone)
        for row in rows:
            answer = alone[row["clip"]]
            assert (row["label"], int(row["frames"])) == (answer["label"], answer["frames"])
            found = [float(row[f"probabilities:{name}"]) for name in answer["probabilities"]]
            assert found == pytest.approx(list(answer["probabilities"].values()), abs=1e-6)
    before = file.read_bytes()
    code, out, err = command(run, folder, f"--{form}", file)
    assert (code, err, file.read_bytes()) == (0, "", before)
    assert "written" in out


def test_broken_clips_stop_it_or_are_listed(run, folder, alone, command, tmp_path):
    shutil.copytree(folder, tmp_path / "clips")
    clips = find_clips(tmp_path / "clips")
    (clips[2].path / "000.png").write_bytes(b"no image")
    for image in clips[7].path.iterdir():
        image.unlink()  # an empty folder is no clip, and not forgotten
    code, out, err = command(run, tmp_path / "clips", "--json")
    assert (code, err.count("\n")) == (2, 1)
    assert [line["clip"] for line in lines(out)] == [str(clip.path) for clip in clips[:2]]
    assert str(clips[2].path) in err
    assert err.endswith("Leave such clips out with --skip-broken.\n")
    code, out, err = command(run, tmp_path / "clips", "--json", "--skip-broken")
    assert code == 0
    good = [path for i, path in enumerate(alone) if i not in (2, 7)]
    assert [line["label"] for line in lines(out)] == [alone[path]["label"] for path in good]
    first, second, last = err.splitlines()
    assert first.startswith(f"left out  {clips[2].path}/000.png: expected an image")
    assert second.startswith(f"left out  {clips[7].path}: expected a folder of image files")
    assert last == "2 of 24 clips cannot be read, and are left out"
    table = tmp_path / "table.csv"
    table.write_text("clip\nnone.mp4\n")
    code, out, err = command(run, table)
    assert (code, out) == (2, "")
    assert "none.mp4" in err


def picture(path, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(path)


def test_what_is_found_below_a_folder(tmp_path):
    for name in ("b/10.png", "b/9.png", "fall/x/1.jpg", "fall/y.gif", "fall/.hidden/1.png"):
        picture(tmp_path / "all" / name)
    for name in ("a 10.mp4", "a 9.mp4", "notes.txt", "no/z.avi", "no/deep/z.avi"):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    (tmp_path / "all" / "empty").mkdir()

    def is_video(path):
        return path.suffix in (".mp4", ".avi", ".gif")

    def found(folder):
        root = tmp_path / folder
        return [path.relative_to(root).as_posix() for path in search_clips(root, is_video)]

    expected = ["a 9.mp4", "a 10.mp4", "b", "empty", "fall/x", "fall/y.gif"]
    expected += ["no/deep", "no/z.avi"]
    assert found("all") == expected
    assert found("all/b") == found("all/empty") == ["."]
    picture(tmp_path / "gifs" / "1.gif")
    picture(tmp_path / "gifs" / "notes" / "1.txt.gif")
    (tmp_path / "gifs" / "notes" / "1.txt.gif").rename(tmp_path / "gifs" / "notes" / "1.txt")
    assert found("gifs") == ["."]  # the frames of one clip, as ever
    picture(tmp_path / "all" / "no" / "1.png")
    with pytest.raises(ValueError, match=r"no: expected either .*1\.png beside z.avi.*table"):
        found("all")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "out").symlink_to(tmp_path / "gifs")
    with pytest.raises(ValueError, match=r"out: a symbolic link .* leads out"):
        found("links")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FOLDER", "FRAME"], "frames: expected either image files"),
        (["NONE/*.mp4"], r"none/\*\.mp4: expected files or folders that match"),
        (["TABLE"], "column clip; found .film"),
        (["FRAME", "--csv", "OUT"], "--csv: expected clips.*image files"),
        (["FOLDER", "--csv", "OUT", "--jsonl", "OUT"], "--csv cannot be combined with --jsonl"),
        (["FOLDER", "--jsonl", "OUT", "--json"], "--jsonl cannot be combined with --json"),
        (["FOLDER", "--csv", "NONE/a.csv"], "--csv: expected a file in a folder that is there"),
        (["FOLDER", "--csv", "FOLDER"], "--csv: expected a file in a folder that is there"),
        (["FOLDER", "--csv", "TABLE"], "--csv: expected a new file, .* holds something else"),
        (["FOLDER", "--jsonl", "TABLE"], "--jsonl: expected a new file, .*something else"),
        (["FOLDER", "--jsonl", "HALF"], "--jsonl: expected a new file, .*something else"),
        (["FOLDER", "--csv", "OTHER"], "--csv: expected answers with .*another model"),
    ],
)
def test_bad_input(run, folder, command, tmp_path, words, message):
    picture(tmp_path / "frame.png", (10, 10))
    texts = {"table.csv": "film\na.mp4\n", "half.jsonl": "mine", "other.csv": "clip,label\na,b\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    names = {"FOLDER": folder, "FRAME": tmp_path / "frame.png", "OUT": tmp_path / "out",
             "TABLE": tmp_path / "table.csv", "HALF": tmp_path / "half.jsonl",
             "OTHER": tmp_path / "other.csv"}  # fmt: skip
    words = [str(names.get(w, w.replace("NONE", str(tmp_path / "none")))) for w in words]
    code, out, err = command(run, *words)
    assert (code, out) == (2, "")
    with pytest.raises(ValueError, match=message):
        raise ValueError(err.splitlines()[-1])
    assert not (tmp_path / "out").exists()
    assert {name: (tmp_path / name).read_text() for name in texts} == texts
