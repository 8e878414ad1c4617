"""Files from outside, cut off, changed, packed again or of another type: read, or refused in a line.

Damage is drawn as a recipe and applied to a whole file. Reading changes nothing where it lies.
"""

import contextlib
import io
import json
import math
import os
import tempfile
import warnings
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hostile import SMALL, draw_cases, few_and_many
from hypothesis import strategies as st
from PIL import Image

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data import clip_cache, frames, videos
from keras_cnnlstm.data.captions import caption_task, captioned, clip_captions
from keras_cnnlstm.data.clip_checks import check_clips
from keras_cnnlstm.data.clips import Clip, find_clips, probe, read_clip
from keras_cnnlstm.data.run_files import read_task, save_task
from keras_cnnlstm.data.splits import read_split, split_clips, write_split
from keras_cnnlstm.evaluation.learning_curves import read_history, read_recalls, slowest_learned
from keras_cnnlstm.evaluation.reader import digit_reader
from keras_cnnlstm.export.artifact import load_artifact
from keras_cnnlstm.export.predictor import open_predictor
from keras_cnnlstm.models.calibration import Calibration
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.graph import split_model
from keras_cnnlstm.plots import recall_figure
from keras_cnnlstm.tasks import Classes, ClipCaption, Trend
from keras_cnnlstm.tasks.vocabulary import END
from keras_cnnlstm.torch_weights.state_dict import read_state_dict
from keras_cnnlstm.training import run_directory
from keras_cnnlstm.training.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from keras_cnnlstm.training.feature_cache import FeatureCache

pytest.importorskip("av")
pytest.importorskip("safetensors")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def cut(share, content):
    return content[: int(share * len(content))]


def flipped(bits, content):
    content = bytearray(content)
    for share, bit in bits:
        content[int(share * len(content))] ^= 1 << bit
    return bytes(content)


def overwritten(place, new, content):
    start = int(place * len(content)) if isinstance(place, float) else place
    return content[:start] + new + content[start + len(new) :]


def inserted(place, new, content):
    start = int(place * len(content)) if isinstance(place, float) else place
    return content[:start] + new + content[start:]


def replaced(other, content):
    return other


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


OTHERS = [
    b"", b"\0", b"\xff" * 100, b"text\n", b"{}", b"[" * 100_000, b"\x89HDF\r\n\x1a\n", b"\x80\x04N.",
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\xff\xff\xff\xffAVI ", b"PK\3\4",
    b"\x93NUMPY\x01\0", b"P6 99999 99999 255 ", zipped(), zipped(**{"../../evil": b"x"}),
    b"#EXTM3U\nfile:///etc/passwd\n", b"\x1aE\xdf\xa3", b"\0\0\0\x18ftypmp42", b"clip,group,split\n",
]  # fmt: skip
PLACES = st.floats(0, 1, exclude_max=True) | st.integers(0, 64)
NEW = st.binary(min_size=1, max_size=16) | st.sampled_from(
    [b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b'"', b"\n", b",", b"-1",
     b"9" * 30]
)  # fmt: skip
DAMAGE = st.one_of(
    st.builds(partial, st.just(cut), st.floats(0, 1)),
    st.builds(
        partial, st.just(flipped),
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=6),
    ),
    st.builds(partial, st.just(overwritten), PLACES, NEW),
    st.builds(partial, st.just(inserted), PLACES, NEW),
    st.builds(partial, st.just(replaced), st.sampled_from(OTHERS)),
)  # fmt: skip

ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 2, 3, 10**9, 2**63, -(10**40), 0.5, 1e300, math.nan, math.inf,
     "", "a", "digits", "clip", "../../x", "\0", "\ud800", "x" * 1000]
)  # fmt: skip
JSON = ODD | st.lists(ODD | st.lists(ODD, max_size=2), max_size=4)
JSON |= st.dictionaries(st.sampled_from(["a", "shape", "name"]), JSON, max_size=3)


def places(value, path=()):
    """The path to each part of a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def changed(changes, content):
    """JSON of which some parts are replaced by others, `...` removing it."""
    value = json.loads(content)
    for share, new in changes:
        paths = list(places(value))
        *path, last = (None, *paths[int(share * len(paths))])
        if last is None:
            value = new
            continue
        parent = value
        for key in path[1:]:
            parent = parent[key]
        if new is ... and isinstance(parent, dict | list):
            del parent[last]
        else:
            parent[last] = new
    return json.dumps(None if value is ... else value).encode(errors="replace")


CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), JSON | st.just(...)), min_size=1, max_size=3
)
JSON_DAMAGE = st.one_of(
    st.builds(partial, st.just(changed), CHANGES),
    st.builds(partial, st.just(changed), CHANGES),
    DAMAGE,
    st.sampled_from([b"9" * 5000, b"[" * 10**5, b"\xff\xfe{}", b'{"a": ' * 5000, b"NaN"]).map(
        lambda text: partial(replaced, text)
    ),
)

MODEL_CHANGES = {  # what a part of a model's configuration may be turned into
    "units": [0, -1, 10**6, 2**40, "3", None], "filters": [0, 10**7, None],
    "kernel_size": [0, [10**5, 10**5], "x"], "class_name": ["Lambda", "TFSMLayer", "Evil", "eval", "__lambda__", None],
    "module": ["os", "builtins", "keras.utils", "keras_cnnlstm.cli.main", None],
    "batch_shape": [[10**9, 4, 8, 8, 1], [None, 2**40, 8, 8, 1], [None], [], "x", [None, -1, 8, 8, 1]],
    "registered_name": ["os>system", None, "keras_cnnlstm>TimeDistributed"],
    "name": ["", "a/b", None, "frames"], "rate": [2, "x"], "dtype": ["float7", None, {}],
    "activation": ["eval", "os.system", {"class_name": "function", "config": "eval", "module": "builtins"}],
    "config": [{}, None, []], "layers": [[], None], "input_layers": [[], [["x", 0, 0]]], "scale": ["x", None],
    "return_sequences": ["x", None], "unroll": [None], "pool_size": [0, [99, 99]], "inbound_nodes": [[], None, [{}]],
}  # fmt: skip


def remodelled(changes, content):
    """A `.keras` archive in which parts of the configuration were replaced, checksums in order."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    for key, share, new in changes:
        paths = [path for path in places(config) if path and path[-1] == key]
        if paths:
            path = paths[int(share * len(paths))]
            parent = config
            for step in path[:-1]:
                parent = parent[step]
            parent[key] = MODEL_CHANGES[key][int(new * len(MODEL_CHANGES[key]))]
    members["config.json"] = json.dumps(config).encode()
    return zipped(**members)


def repacked(name, damage, content):
    """A zip archive of which one member was damaged, checksums in order."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    chosen = sorted(members)[int(name * len(members))]
    members[chosen] = damage(members[chosen])
    return zipped(**members)


def with_member(name, content):
    file = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, b"evil")
    return file.getvalue()


SHARES = st.floats(0, 1, exclude_max=True)
ARCHIVE_DAMAGE = st.one_of(
    DAMAGE,
    st.builds(partial, st.just(repacked), SHARES, DAMAGE),
    st.builds(
        partial, st.just(with_member),
        st.sampled_from(["../../evil", "/etc/evil", "assets/x", "config.json", "..\\evil", "model.weights.npz"]),
    ),
)  # fmt: skip
MODEL_DAMAGE = ARCHIVE_DAMAGE | st.builds(
    partial,
    st.just(remodelled),
    st.lists(
        st.tuples(st.sampled_from(sorted(MODEL_CHANGES)), SHARES, SHARES), min_size=1, max_size=3
    ),
)


def read_images(path, ends_well):
    ends_well(lambda: frames.read_image(path), path.name)
    read = ends_well(lambda: frames.load_frames([path], image_size=(8, 8), channels=3), path.name)
    assert isinstance(read, Exception) or (read.shape, read.dtype) == ((1, 8, 8, 3), np.uint8)


def read_videos(path, ends_well):
    for decode in (False, True):
        ends_well(lambda decode=decode: videos.probe_video(path, decode=decode), path.name)
    read = ends_well(lambda: videos.read_video(path, image_size=(8, 8), channels=1), path.name)
    assert isinstance(read, Exception) or read.shape[1:] == (8, 8, 1)


def read_safetensors(path, ends_well):
    read = ends_well(lambda: read_state_dict(path), path.name)
    assert isinstance(read, Exception) or all(isinstance(x, np.ndarray) for x in read.values())


def read_keras(path, ends_well):
    read = ends_well(lambda: run_directory.load_model(path), path.name)
    assert isinstance(read, ValueError | keras.Model)


def read_checkpoint(path, ends_well):
    def newest():
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            found = newest_checkpoint(path.parent)
        messages = [str(warning.message) for warning in given]
        assert found or messages
        assert all(path.name in message and "\n" not in message for message in messages)
        return found

    assert isinstance(ends_well(newest, path.name), Checkpoint | None)


def read_the_split(path, ends_well):
    clips = [Clip(Path(f"{name}/{i}"), name, f"{name}/{i}") for name in "ab" for i in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clips that it does not list
        ends_well(lambda: read_split(path, clips), path.name)
        ends_well(lambda: split_clips(clips, groups=path), path.name, "clips", "class")


def read_config(path, ends_well):
    ends_well(lambda: TrainConfig.from_json(path.read_text(errors="replace")), *OPTIONS)


def read_calibrated(path, ends_well):
    """As text, and as the calibration of a run that has a model."""
    read = ends_well(lambda: Calibration.from_json(path.read_text(errors="replace")), "calibration")
    assert isinstance(read, ValueError) or 0.05 <= read.temperature <= 20


def read_captions_task(path, ends_well):
    read = ends_well(lambda: read_task(path.parent), path.name)
    if isinstance(read, ClipCaption):
        numbers = np.arange(4, len(read.vocabulary))
        caption = read.vocabulary.decode(np.append(numbers, END))
        assert read.vocabulary.decode(numbers) == caption


def read_curves(path, ends_well):
    read = {"recall.csv": read_recalls, "history.csv": read_history}[path.name]
    curves = ends_well(lambda: read(path.parent), path.name)
    if isinstance(curves, dict):
        slowest = [row["name"] for row in ends_well(lambda: slowest_learned(curves), path.name)]
        assert set(slowest) <= curves.keys()
        if slowest:
            ends_well(lambda: recall_figure(curves, slowest), "names")


def read_the_captions(path, ends_well):
    """The table lies beside clips: folders without a frame will do to name them."""
    read = ends_well(lambda: clip_captions(path.parent), path.name)
    if not isinstance(read, Exception):
        clips = captioned(find_clips(path.parent), read)
        task = ends_well(lambda: caption_task(clips, length=2), "captions", "clips")
        assert isinstance(task, ValueError) or task.table.shape[0] == len(task.class_names)


def read_the_reader(path, ends_well):
    model = SimpleNamespace(output_shape=(None, 7))  # of a trend; nobody asks it
    save_task(path.parent, TrainConfig(), Trend())
    run = run_directory.Run(path.parent, TrainConfig(), model, {})
    read = ends_well(lambda: digit_reader(run), path.name)
    assert isinstance(read, ValueError | keras.Model)


OPTIONS = ["config", *TrainConfig.__dataclass_fields__]

READERS = {  # by file: how it is damaged, and what reads it
    "image.png": (DAMAGE, read_images),
    "image.jpg": (DAMAGE, read_images),
    "image.gif": (DAMAGE, read_images),
    "image.bmp": (DAMAGE, read_images),
    "film.gif": (DAMAGE, read_videos),
    "film.mp4": (DAMAGE, read_videos),
    "film.avi": (DAMAGE, read_videos),
    "film.mkv": (DAMAGE, read_videos),
    "model.keras": (MODEL_DAMAGE, read_keras),
    "weights.safetensors": (DAMAGE, read_safetensors),
    "step-00000001.npz": (ARCHIVE_DAMAGE, read_checkpoint),
    "split.csv": (DAMAGE, read_the_split),
    "config.json": (JSON_DAMAGE, read_config),
    "calibration.json": (JSON_DAMAGE, read_calibrated),
    "task.json": (JSON_DAMAGE, read_captions_task),
    "recall.csv": (DAMAGE, read_curves),
    "history.csv": (DAMAGE, read_curves),
    "captions.csv": (DAMAGE, read_the_captions),
    "digit_reader.keras": (MODEL_DAMAGE, read_the_reader),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Small whole files, by name."""
    folder = tmp_path_factory.mktemp("originals")
    film = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    for ending in ("png", "jpg", "gif", "bmp"):
        Image.fromarray(film[0]).save(folder / f"image.{ending}")
    first, *others = map(Image.fromarray, film)
    first.save(folder / "film.gif", save_all=True, append_images=others)
    for ending in ("mp4", "avi", "mkv"):
        videos.write_video(folder / f"film.{ending}", film)
    model = cnn_lstm((4, 8, 8, 1), 7, **SMALL)
    run_directory.save_model(model, folder / "model.keras")
    from safetensors.numpy import save_file

    arrays = {"fc.weight": np.ones((3, 2), "f4"), "fc.bias": np.ones(3, "f2")}
    save_file(arrays, folder / "weights.safetensors")
    small = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    small.compile("adam", "mse")
    small.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    save_checkpoint(folder, small, 1, {})
    clips = [Clip(Path(f"{name}/{i}"), name, f"{name}/{i}") for name in "ab" for i in range(6)]
    write_split(folder / "split.csv", split_clips(clips))
    config = TrainConfig(**SMALL)
    (folder / "config.json").write_text(config.to_json())
    calibration = Calibration(1.5, 0.5, {"num_answers": 10, "share_sure": 0.9})
    (folder / "calibration.json").write_text(calibration.to_json())
    task = ClipCaption(("it rises, then falls", "it rises"))
    save_task(folder, TrainConfig(data="./clips", task="caption", model="captioner").resolved, task)
    (folder / "recall.csv").write_text("epoch,rising,falling\n1,0.5,\n2,0.75,1.0\n")
    (folder / "history.csv").write_text("epoch,loss,val_loss\n1,0.5,\n2,0.25,1.0\n")
    (folder / "captions.csv").write_text('clip,caption\na/1,"it rises, then falls"\nb/1,it rises\n')
    reader = cnn_lstm((1, 8, 8, 1), 10, **SMALL)
    run_directory.save_model(reader, folder / "digit_reader.keras")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tree(folder):
    """What lies in a folder: the contents of files, where links lead, by path."""

    def content(path):
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


@contextlib.contextmanager
def made(fill):
    """A folder that `fill` fills, in which reading leaves, changes and removes nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "root"
        folder.mkdir()
        fill(folder)
        before = tree(folder)
        yield folder
        assert tree(folder) == before
        assert os.listdir(name) == ["root"]


def laid(originals, name, content, folder):
    """A file in a folder; a table of captions beside its clips, a reader in a run."""
    (folder / name).write_bytes(content)
    if name == "digit_reader.keras":
        save_task(folder, TrainConfig().resolved, Trend(4))
    for clip in ("a/1", "b/1") if name == "captions.csv" else ():
        (folder / clip).mkdir(parents=True)
        (folder / clip / "0.png").write_bytes(originals["image.png"])


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(name, originals):
    def succeeds(call, *names):
        result = call()
        assert result is not None
        return result

    _, read = READERS[name]
    with made(partial(laid, originals, name, originals[name])) as folder:
        read(folder / name, succeeds)


@few_and_many(8, 200)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file(name, number, originals, ends_well):
    strategy, read = READERS[name]

    def check(data):
        content = data.draw(strategy)(originals[name])
        with made(partial(laid, originals, name, content)) as folder:
            read(folder / name, ends_well)

    draw_cases(number, check)


DIGITS = {"data": "digits"}
CLIPS = {
    "data": "./clips", "task": "clip", "min_length": 1, "image_size": [8, 8], "balance": 0.0,
    "color_mode": "grayscale", "sampling": "segments", "steps_per_epoch": None,
}  # fmt: skip
RUN_DAMAGE = st.one_of(
    st.tuples(
        st.sampled_from(["config.json", "metrics.json", "task.json", "calibration.json"]),
        st.booleans(), JSON_DAMAGE,
    ),
    st.tuples(st.just("model.keras"), st.booleans(), MODEL_DAMAGE),
)  # fmt: skip


def run_folder(originals, chosen, of_clips, damage, folder):
    """A run of which one file is damaged."""
    config = json.loads(originals["config.json"]) | (CLIPS if of_clips else DIGITS)
    whole = {
        "config.json": json.dumps(config).encode(),
        "model.keras": originals["model.keras"],
        "metrics.json": b'{"test": {"natural": {"accuracy": 1.0}}, "training": {}}',
    }
    task = Classes((*"abcdefg",), 4) if of_clips else Trend(4)
    save_task(folder, TrainConfig.from_json(whole["config.json"].decode()).resolved, task)
    whole["task.json"] = (folder / "task.json").read_bytes()
    if chosen == "calibration.json":
        whole[chosen] = originals[chosen]
    whole[chosen] = damage(whole[chosen])
    for name, content in whole.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("of_clips", [False, True])
def test_a_whole_run_is_read(of_clips, originals):
    with made(partial(run_folder, originals, "config.json", of_clips, bytes)) as folder:
        frames = np.zeros((1, 4, 8, 8, 1), np.uint8)
        assert open_predictor(folder).predict(frames, None).shape == (1, 7)
        assert len(run_directory.load_run(folder).class_names) == 7


@few_and_many(15, 400)
def test_a_damaged_run(number, originals, ends_well):
    def check(data):
        with made(partial(run_folder, originals, *data.draw(RUN_DAMAGE))) as folder:
            names = (folder.name, *OPTIONS, "class_names", "answer", "frames", "task")
            opened = ends_well(lambda: open_predictor(folder), *names)
            if not isinstance(opened, Exception):
                frames = np.zeros((1, 4, 8, 8, 1), np.uint8)
                ends_well(lambda: opened.predict(frames, None), *names)
                load = partial(run_directory.load_run, folder)
                ends_well(lambda: load().class_names, "length", "num_digits", *names)

    draw_cases(number, check)


def onnx_model():
    """The mean of each frame's pixels, scaled and shifted to two "probabilities"."""
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["floats"], to=kinds.FLOAT),
            helper.make_node("Flatten", ["floats"], ["row"]),
            helper.make_node("MatMul", ["row", "kernel"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        "mean",
        [helper.make_tensor_value_info("frames", kinds.UINT8, ["B", 4, 8, 8, 1])],
        [helper.make_tensor_value_info("probabilities", kinds.FLOAT, ["B", 2])],
        [helper.make_tensor("kernel", kinds.FLOAT, [256, 2], np.ones(512, "f4"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


METADATA = {
    "format": "onnx",
    "class_names": ["a", "b"],
    "task": {
        "name": "clip",
        "sampling": "uniform",
        "stride": 1,
        "invert": False,
        "fit": "crop",
        "frames_per_second": 8.0,
    },
    "inputs": {"frames": {"shape": [None, 4, 8, 8, 1], "dtype": "uint8"}},
    "outputs": ["probabilities"],
}

NAMED = ("frames", "lengths", "class_names", "answer", "output", "sampling", "stride", "fit",
         "rate", "frames_per_second")  # fmt: skip
EXPORT_DAMAGE = st.tuples(st.just("metadata.json"), JSON_DAMAGE) | st.tuples(
    st.just("model.onnx"), DAMAGE
)


def read_export(folder, image, ends_well):
    names = (folder.name, *NAMED)
    artifact = ends_well(lambda: load_artifact(folder), *names)
    if isinstance(artifact, Exception):
        return
    ends_well(lambda: artifact.predict(np.zeros((2, 4, 8, 8, 1), np.uint8)), *names)
    predictor = open_predictor(folder)
    names += ("image_size", "channels")
    ends_well(lambda: predictor.answer_images([image] * 4), *names)
    ends_well(lambda: predictor.answer_clip(image.with_suffix(".gif")), *names)


@few_and_many(15, 400)
def test_a_damaged_export(number, originals, ends_well, tmp_path):
    image = tmp_path / "image.png"
    for ending in (".png", ".gif"):
        image.with_suffix(ending).write_bytes(originals[f"image{ending}"])

    def check(data):
        chosen, damage = data.draw(EXPORT_DAMAGE)
        whole = {"metadata.json": json.dumps(METADATA).encode(), "model.onnx": onnx_model()}
        whole[chosen] = damage(whole[chosen])

        def fill(export):
            for name, content in whole.items():
                (export / name).write_bytes(content)

        with made(fill) as export:
            read_export(export, image, ends_well)

    draw_cases(number, check)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A cache of features, its one file, and what that says."""
    encoder = split_model(cnn_lstm((4, 8, 8, 1), 2, lstm_units=(2,))).frame_encoder
    encoder.trainable = False
    folder, frames = tmp_path_factory.mktemp("features"), np.ones((3, 8, 8, 1), np.uint8)
    whole = np.array(FeatureCache(folder, encoder).features("key", frames))
    return folder, encoder, frames, whole


def damaged_features(data, features, ends_well):
    folder, encoder, frames, whole = features
    (file,) = (path for path in folder.rglob("*.npy"))
    content = file.read_bytes()
    file.write_bytes(data.draw(DAMAGE)(content))
    cache = FeatureCache(folder, encoder)
    np.testing.assert_array_equal(ends_well(lambda: cache.features("key", frames), "key"), whole)
    assert list(tree(folder).values()) == [None, content]  # made again, and nothing besides


def every_frame(info):
    return np.arange(info.frames)


def damaged_decoded_clip(data, originals, ends_well):
    with tempfile.TemporaryDirectory() as name:
        clip, cache = Clip(Path(name, "film.gif"), "a", "a/film"), Path(name, "cache")
        clip.path.write_bytes(originals["film.gif"])
        cache.mkdir()
        form = {"image_size": (8, 8), "channels": 1, "invert": False, "fit": "crop"}
        options = {"cache": clip_cache.ClipCache(form, folder=cache), "form": form}
        whole = clip_cache.read_chosen(clip, every_frame, **options)
        (file,) = cache.iterdir()
        file.write_bytes(data.draw(DAMAGE)(file.read_bytes()))
        read = ends_well(lambda: clip_cache.read_chosen(clip, every_frame, **options), "film")
        assert (read.shape[1:], read.dtype) == (whole.shape[1:], whole.dtype)
        assert list(cache.iterdir()) == [file]


@few_and_many(10, 200)
def test_a_damaged_cache(number, features, originals, ends_well):
    def check(data):
        damaged_features(data, features, ends_well)
        damaged_decoded_clip(data, originals, ends_well)

    draw_cases(number, check)


THINGS = st.tuples(
    st.sampled_from(
        ["a", "b", "a/1", "a/2", "b/1", "b/1.gif", "a/1.mp4", "b/3.avi", "a/1/0.png", "a/1/10.PNG",
         "b/1/2.jpg", "b/1/.0.png", "a/x.png", "a/1/x.txt", ".hidden/1/0.png", "a/1/deep/0.png",
         "a/\u00e9\ud8001/0.png".encode(errors="surrogatepass").decode(errors="surrogateescape"), "b/%s 1/0.bmp",
         "a/2/0.gif"]
    ),
    st.sampled_from(["folder", "pipe", "link in", "link out", "link to nothing", "link to itself"])
    | st.sampled_from(["image.png", "image.jpg", "film.gif", "film.mp4", "image.bmp"]),
    st.none() | DAMAGE,
)  # fmt: skip


def put(originals, things, root):
    """Puts things of all kinds into a folder, as far as they go together."""
    for place, what, damage in things:
        path = root / place
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            match what:
                case "folder":
                    path.mkdir()
                case "pipe":
                    os.mkfifo(path)
                case "link in":
                    path.symlink_to(root / "a")
                case "link out":
                    path.symlink_to("/etc/passwd")
                case "link to nothing":
                    path.symlink_to("nothing")
                case "link to itself":
                    path.symlink_to(path.name)
                case name if not os.path.lexists(path):
                    path.write_bytes((damage or bytes)(originals[name]))


@few_and_many(15, 200)
def test_a_folder_of_anything(number, originals, ends_well):
    def check(data):
        things = data.draw(st.lists(THINGS, max_size=8))
        with made(partial(put, originals, things)) as root:
            report = ends_well(lambda: check_clips(root, workers=1), root.name)
            if not isinstance(report, Exception):
                assert report.text()
                json.loads(report.to_json())
            found = ends_well(lambda: find_clips(root), root.name)
            for clip in [] if isinstance(found, Exception) else found:
                ends_well(lambda clip=clip: probe(clip), root.name)
                ends_well(lambda clip=clip: read_clip(clip, image_size=(8, 8)), root.name)

    draw_cases(number, check)
