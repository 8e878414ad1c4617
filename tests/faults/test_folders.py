"""Whatever `validate` passes trains one epoch, scores, exports and reports; the rest is refused.

Folders are drawn: classes, clips, groups, formats, sizes, names, and what lies about in them. What
`validate` refuses is refused by `train` with the same line, and nothing is written.
"""

import contextlib
import io
import json
import shutil
import time
import unicodedata

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.cli import main
from keras_cnnlstm.data.videos import write_video

pytest.importorskip("av")
pytest.importorskip("onnxruntime")

CLASSES = [
    "a", "B", "10", "class 2", "$x_1$", "$", "über", unicodedata.normalize("NFD", "zoë"), "升", "a,b",
    'quote"', "x" * 60, "dot.png", "-rf", "#1", "tab\tand\nline", "%s", "<b>", "\udce9t\udce9", "[bold]",
]  # fmt: skip
CLIPS = [
    "1", "2", "10", "clip 3", "ü", unicodedata.normalize("NFD", "ö"), "a_1", "b.c", "$", "a,b", "x;y",
    'q"', "p_q_r", "-1", "%d", "日", "a: b", "\udcff",
]  # fmt: skip
ENDINGS = [".png", ".png", ".jpg", ".gif", ".bmp", ".webp"]
FILMS = [".gif", ".mp4", ".avi", ".webm", ".mkv"]
TRAIN = [
    "--model", "bag_of_frames", "--encoder", "small_cnn", "--encoder-filters", "1", "1", "1",
    "--image-size", "8", "8", "--motion", "none", "--augmentation", "none", "--epochs", "1",
    "--precision", "float32", "--length", "2",
]  # fmt: skip


def draw(rng, root):
    """Fills a folder; returns the options that `validate` and `train` share."""
    names = rng.choice(len(CLASSES), rng.integers(1 + (rng.random() < 0.95), 5), replace=False)
    few = rng.choice([1, 2, 3, 3, 4])  # clips of a class
    most = few + rng.integers(3)
    clips = {}
    for name in (CLASSES[i] for i in names):
        for clip in rng.choice(len(CLIPS), rng.integers(few, most + 1), replace=False):
            path = draw_clip(rng, root / name / CLIPS[clip])
            clips[f"{name}/{CLIPS[clip]}"] = path
    options = []
    if rng.random() < 0.3:
        draw_oddities(rng, root, list(clips.values()))
    if rng.random() < 0.4:
        options.append("--skip-broken")
    if rng.random() < 0.25:
        options += ["--groups", str(draw_groups(rng, root, list(clips)))]
    elif rng.random() < 0.15:
        options += ["--groups", str(rng.choice(["^(.)", "^.+$", "^.+$", "[0-9]"]))]
    return options


def draw_clip(rng, path):
    """A clip of frames, or a video; returns one of its files."""
    size = rng.integers(8, 17, 2)
    frames = rng.integers(0, 256, (rng.integers(1, 6), *size, rng.choice([1, 3])), np.uint8)
    if rng.random() < 0.3:
        file = path.with_name(path.name + rng.choice(FILMS))
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".gif":
            first, *rest = (Image.fromarray(f[..., 0]) for f in frames)
            first.save(file, save_all=True, append_images=rest, duration=100)
        else:
            write_video(file, frames, rate=int(rng.integers(1, 31)))
        return file
    path.mkdir(parents=True)
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
        if rng.random() < 0.2:
            image = image.convert(rng.choice(["1", "P", "L"])).convert("RGB")
        file = path / f"{number}{rng.choice(ENDINGS)}"
        image.save(file)
    return file


def draw_oddities(rng, root, files):
    """What people, systems and damage leave in folders."""
    some = files[rng.integers(len(files))]
    folder = some.parent
    for oddity in rng.choice(9, rng.integers(1, 4), replace=False):
        match oddity:
            case 0:
                (root / "empty").mkdir()
            case 1:
                (root / "notes.txt").write_text("notes")
            case 2:
                (root / "__MACOSX" / "x").mkdir(parents=True)
            case 3:
                (folder / "Thumbs.db").write_bytes(b"\0")
            case 4:
                some.write_bytes(some.read_bytes()[: rng.integers(0, 60)])
            case 5:
                (folder / "bare.png").write_bytes(b"no image")
            case 6:
                (root / "link").symlink_to("/")
            case 7:
                (root / files[0].relative_to(root).parts[0] / "none").mkdir(exist_ok=True)
            case 8:
                (folder / ".hidden.png").write_bytes(b"")


def draw_groups(rng, root, clips):
    """A table of two or more groups, in one of the forms that programs write."""
    number = rng.integers(2, 12)
    mark = rng.choice([",", ";"])
    quoted = ['"' + clip.replace('"', '""') + '"' for clip in clips]
    rows = [f"{name}{mark}{rng.integers(number)}" for name in quoted]
    head = rng.choice(["clip,group", "Clip,Group", "clip, group"]).replace(",", mark)
    table = root.parent / "groups.csv"
    text = "\n".join([head, *rows]) + "\n"
    table.write_text(text, encoding=rng.choice(["utf-8", "utf-8-sig"]), errors="surrogateescape")
    return table


def command(*words):
    """Exit code, output and error of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def check(rng, folder, spent):
    """Draws a folder and holds the property against it; returns whether it was trained."""
    root, run = folder / "clips", folder / "run"
    root.mkdir(parents=True)
    options = draw(rng, root)
    train = ["train", "--data", root, "--run-dir", run, *TRAIN, *options]
    code, out, _ = command("validate", root, "--json", *options)
    failures = [p["reason"] for p in json.loads(out)["problems"] if p["fatal"]]
    assert (code == 1) == bool(failures)
    steps = {
        "train": train,
        "evaluate": ["evaluate", run],
        "report": ["report", run, "--mistakes", "1"],
        "export": ["export", run, folder / "export", "--format", "onnx"],
    }
    if failures:
        code, _, err = command(*train)
        assert code == 2, (failures, err)
        assert any(" ".join(reason.split()) in err for reason in failures), (failures, err)
        assert [path.name for path in folder.iterdir() if path.name != "groups.csv"] == ["clips"]
        return False
    for name, words in steps.items():
        begun = time.monotonic()
        code, _, err = command(*words)
        assert code == 0, (name, err)
        spent[name] = spent.get(name, 0) + time.monotonic() - begun
    return True


NUMBERS = [
    pytest.param(range(6), id="few"),
    pytest.param(range(6, 160), marks=[pytest.mark.faults, pytest.mark.slow], id="many"),
]


# How names look in figures is for the tests of plots; which fonts there are is the machine's.
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning", "ignore:constrained_layout:UserWarning")
@pytest.mark.parametrize("numbers", NUMBERS)
def test_what_validate_passes_trains_and_what_it_refuses_leaves_nothing(numbers, tmp_path, record):
    begun, spent, trained, failed = time.monotonic(), {}, 0, {}
    for number in numbers:
        folder = tmp_path / f"{number}"
        try:
            trained += check(np.random.default_rng(number), folder, spent)
        except Exception as error:
            failed[number] = f"{type(error).__name__}: {error}"
        shutil.rmtree(folder)
    steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items())
    record(
        f"{len(numbers)} folders, {trained} of them trained, in {time.monotonic() - begun:.0f} s "
        f"({steps})"
    )
    assert not failed, "\n".join(f"folder {number}: {text}" for number, text in failed.items())
    assert len(numbers) / 3 < trained < len(numbers)
