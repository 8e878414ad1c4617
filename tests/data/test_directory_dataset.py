"""A folder of clips as a dataset for `model.fit`."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnnlstm.data import find_clips, video_dataset_from_directory
from keras_cnnlstm.data.clip_cache import ClipCache
from keras_cnnlstm.data.clips import read_clip, sample_indices
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.synthetic_clips import MOTIONS, moving_digits, write_clips
from keras_cnnlstm.models import cnn_lstm

COUNTS = [3, 5, 8, 1, 12, 4, 2, 9, 6, 7, 5]  # frames of the clips
CLASSES = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
FORM = {"color_mode": "grayscale", "image_size": (6, 8), "num_frames": 4, "verbose": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """11 clips in three classes; each pixel of clip n is n, but the first one is the frame's."""
    root = tmp_path_factory.mktemp("clips")
    for number, (count, label) in enumerate(zip(COUNTS, CLASSES, strict=True)):
        folder = root / f"class {label}" / f"{'ab'[number % 2]}_{number}"
        folder.mkdir(parents=True)
        for t in range(count):
            frame = np.full((6, 8), number, np.uint8)
            frame[0, 0] = t
            Image.fromarray(frame).save(folder / f"{t}.png")
    return root


def dataset(root, **options):
    return video_dataset_from_directory(root, **{**FORM, "batch_size": 4} | options)


def numbers(data):
    """The numbers of the clips in a dataset of frames with labels, in their order."""
    return [int(n) for frames, _ in data for n in frames[:, 0, 1, 1, 0]]


def times(frames):
    return np.asarray(frames)[..., 0, 0, 0].tolist()


ORDER = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9]  # of `find_clips`, by the names a_0, a_2, b_1, ...


def test_each_clip_once_in_order_with_its_last_frame_repeated(root):
    data = dataset(root, shuffle=False)
    assert len(data) == 3
    spec, labels = data.element_spec
    assert (spec.shape.as_list(), spec.dtype) == ([None, 4, 6, 8, 1], tf.uint8)
    assert (labels.shape.as_list(), labels.dtype) == ([None], tf.int32)
    for _ in range(2):
        batches = list(data.as_numpy_iterator())
        assert [len(labels) for _, labels in batches] == [4, 4, 3]
        assert numbers(data) == ORDER
        assert np.concatenate([y for _, y in batches]).tolist() == [CLASSES[n] for n in ORDER]
    first = batches[0][0]
    assert times(first) == [[0, 1, 2, 2], [0, 2, 5, 7], [0, 1, 3, 4], [0, 0, 0, 0]]
    assert data.class_names == ["class 0", "class 1", "class 2"]
    assert data.file_paths == [str(clip.path) for clip in find_clips(root)]


def test_lengths_leave_the_padding_black(root):
    batches = list(dataset(root, shuffle=False, lengths=True).as_numpy_iterator())
    lengths = np.concatenate([inputs["lengths"] for inputs, _ in batches])
    assert lengths.tolist() == [min(COUNTS[n], 4) for n in ORDER]
    inputs, _ = batches[0]
    assert times(inputs["frames"])[0] == [0, 1, 2, 0]
    assert not inputs["frames"][3, 1:].any()


def test_frames_are_read_as_read_clip_reads_them(root, tmp_path):
    clip = find_clips(root)[4]
    options = {"color_mode": "rgb", "image_size": (5, 5), "shuffle": False, "num_frames": 3}
    options |= {"sampling": "window", "stride": 2, "cache": tmp_path / "new" / "cache"}
    for fit, words in {
        "stretch": {},
        "crop": {"crop_to_aspect_ratio": True},
        "letterbox": {"pad_to_aspect_ratio": True},
    }.items():
        chosen = sample_indices(12, 3, "window", stride=2)
        expected = read_clip(clip, chosen, image_size=(5, 5), channels=3, fit=fit)
        for _ in range(2):  # the second time from the cache
            frames, _ = list(dataset(root, **options, **words))[1]
            np.testing.assert_array_equal(frames[0], expected)
    assert len(list((tmp_path / "new" / "cache").glob("*.npy"))) == 3 * len(COUNTS)
    form = {"image_size": (6, 8), "channels": 1, "invert": False, "fit": "stretch"}
    kept = ClipCache(form, memory=10**6)
    assert numbers(dataset(root, cache=kept, shuffle=False)) == ORDER


def test_label_modes(root):
    def labels(**options):
        return np.concatenate([y for _, y in dataset(root, shuffle=False, **options)])

    given = [1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1]
    one_hot = labels(label_mode="categorical")
    assert one_hot.dtype == np.float32
    assert one_hot[[0, 4, 8]].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    binary = labels(labels=given, label_mode="binary")
    assert (binary.dtype, binary.shape) == (np.float32, (11, 1))
    assert binary[:, 0].tolist() == given
    assert labels(labels=tuple(given), class_names=["no", "yes"]).tolist() == given
    names = ["class 2", "class 0", "class 1"]
    assert labels(class_names=names).tolist() == [1] * 4 + [2] * 4 + [0] * 3
    assert dataset(root, class_names=names).class_names == names
    assert dataset(root, labels=given).class_names == ["0", "1"]
    for options in ({"labels": None}, {"label_mode": None}):
        frames = next(iter(dataset(root, shuffle=False, **options)))
        assert frames.shape == (4, 4, 6, 8, 1)


def test_without_a_batch_size_clips_come_one_by_one(root):
    data = dataset(root, batch_size=None, shuffle=False, lengths=True)
    assert len(data) == 11
    inputs, label = next(iter(data))
    assert (inputs["frames"].shape, inputs["lengths"].shape, label.shape) == ((4, 6, 8, 1), (), ())


def test_each_pass_has_a_new_order_that_the_seed_repeats(root):
    data = dataset(root, seed=3, sampling="segments")
    passes = [[(x.numpy(), y.numpy()) for x, y in data] for _ in range(3)]
    orders = [[int(n) for x, _ in batches for n in x[:, 0, 1, 1, 0]] for batches in passes]
    assert [sorted(order) for order in orders] == [list(range(11))] * 3
    assert len(set(map(tuple, orders))) == 3
    for order, batches in zip(orders, passes, strict=True):
        assert np.concatenate([y for _, y in batches]).tolist() == [CLASSES[n] for n in order]
    frames = [{n: t for x, _ in p for n, t in zip(x[:, 0, 1, 1, 0], times(x), strict=True)}
              for p in passes]  # fmt: skip
    assert len({tuple(found[4]) for found in frames}) > 1  # of 12 frames other four
    gc.collect()
    keras.utils.set_random_seed(1)
    again = dataset(root, seed=3, sampling="segments")
    for batches in passes:
        for (x, y), (frames, labels) in zip(batches, again, strict=True):
            np.testing.assert_array_equal(x, frames)
            np.testing.assert_array_equal(y, labels)
    assert numbers(dataset(root, seed=4)) != orders[0]
    keras.utils.set_random_seed(1)
    one = numbers(dataset(root))
    keras.utils.set_random_seed(1)
    assert numbers(dataset(root)) == one != numbers(dataset(root))


def test_two_iterators_at_once_do_not_mix(root):
    data = dataset(root, seed=0, batch_size=2)
    one, other = iter(data), iter(data)
    found = [[], []]
    for _ in range(len(data)):
        for place, batch in enumerate((next(one), next(other))):
            found[place] += batch[0][:, 0, 1, 1, 0].numpy().tolist()
    assert sorted(found[0]) == sorted(found[1]) == list(range(11))


def test_a_subset_validates_whole_groups_and_is_never_shuffled(root):
    options = {"validation_split": 0.4, "groups": "^(._)", "seed": 5}
    training, validation = dataset(root, subset="both", **options)
    sides = [{n % 2 for n in numbers(data)} for data in (training, validation)]
    assert sorted(sides) == [{0}, {1}]  # group a on one side, b on the other
    assert sorted(numbers(training) + numbers(validation)) == list(range(11))
    assert numbers(validation) == numbers(validation)
    assert numbers(validation) == [n for n in ORDER if n in numbers(validation)]
    assert len(validation.file_paths) == len(numbers(validation))
    assert training.class_names == validation.class_names == ["class 0", "class 1", "class 2"]
    for part, data in (("training", training), ("validation", validation)):
        alone = dataset(root, subset=part, **options)
        assert sorted(numbers(alone)) == sorted(numbers(data))
    given = [1 if n in numbers(validation) else 0 for n in ORDER]
    _, marked = dataset(root, subset="both", labels=given, **options)
    assert {int(y) for _, labels in marked for y in labels} == {1}


def test_it_says_how_many_clips_there_are(root, capsys):
    dataset(root, verbose=True, validation_split=0.3, subset="both")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Found 11 clips belonging to 3 classes."
    assert [line.split()[-1] for line in lines[1:]] == ["training.", "validation."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "none"}, "`labels`.*one of inferred"),
        ({"labels": ""}, "`labels`.*one of inferred"),
        ({"class_names": []}, "`class_names` must be the names"),
        ({"labels": [0, 1]}, "`labels` must be 11 integers"),
        ({"labels": [-1] * 11}, "`labels` must be 11 integers from 0"),
        ({"labels": [0.5] * 11}, "`labels` must be 11 integers"),
        ({"labels": [2] * 11, "class_names": ["a", "b"]}, "`labels` must be 11 .* from 0 to 1"),
        ({"label_mode": "one-hot"}, "`label_mode` must be one of int, categorical, binary"),
        ({"labels": None, "label_mode": "one-hot"}, "`label_mode` must be one of int"),
        ({"label_mode": "binary"}, "`label_mode` must be .*two classes.*for 3"),
        ({"class_names": ["class 0", "class 1"]}, "`class_names` must be the names.*'class 2'"),
        ({"class_names": "class 0"}, "`class_names` must be a list"),
        ({"color_mode": "rgba"}, "`color_mode` must be one of rgb, grayscale"),
        ({"batch_size": 0}, "`batch_size` must be an integer from 1"),
        ({"image_size": 64}, "`image_size` must be height and width"),
        ({"num_frames": None}, "`num_frames` must be an integer from 1"),
        ({"sampling": "random"}, "`sampling` must be one of"),
        ({"stride": 2}, "`stride` must be 1 unless"),
        ({"frames_per_second": 0}, "`frames_per_second` must be a number"),
        ({"lengths": 4}, "`lengths` must be True or False"),
        ({"shuffle": "no"}, "`shuffle` must be True or False"),
        ({"seed": -1}, "`seed` must be an integer from 0"),
        ({"validation_split": 1, "subset": "both"}, "`validation_split` must be 0.001 to 0.999"),
        ({"validation_split": 0.2}, "`validation_split` and `subset` must be given together"),
        ({"subset": "training"}, "`validation_split` and `subset` must be given together"),
        ({"validation_split": 0.2, "subset": "test"}, "`subset` must be one of training, valid"),
        ({"groups": "^(.)"}, "`groups` must be None without `validation_split`"),
        ({"groups": "(", "validation_split": 0.2, "subset": "both"}, "`groups` must be a regular"),
        ({"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True}, "only one of `crop_to"),
        ({"follow_links": True}, "`follow_links` must be False.*copy the clips"),
        ({"cache": 3}, "`cache` must be a path"),
        ({"directory": 3}, "`directory` must be a path"),
    ],
)
def test_bad_arguments(root, options, message):
    with pytest.raises(ValueError, match=f"^video_dataset_from_directory: .*{message}|{message}"):
        video_dataset_from_directory(**{"directory": root, **FORM, **options})


def test_a_missing_folder_and_a_broken_clip(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder with a folder for each class"):
        dataset(tmp_path / "none")
    (tmp_path / "fall" / "bad").mkdir(parents=True)
    (tmp_path / "fall" / "bad" / "1.png").write_bytes(b"no image")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"1\.png: expected an image"):
        list(dataset(tmp_path))


@pytest.fixture(scope="module")
def motions(tmp_path_factory):
    """The clips of 8 bright squares of 5x5 pixels that move in 4 ways, 5 to 9 frames each."""
    root = tmp_path_factory.mktemp("motions") / "clips"
    images = np.random.default_rng(0).integers(150, 256, (8, 5, 5, 1), np.uint8)
    digits = LabeledImages(images, np.arange(8))
    clips = moving_digits(digits, 8, canvas=12, min_frames=5, max_frames=9)
    write_clips(root, (clip for clip in clips if clip.motion in MOTIONS[:4]))
    return root


@pytest.mark.parametrize("lengths", [False, True], ids=["own model", "cnn_lstm with lengths"])
def test_five_lines_to_a_fitted_model(motions, lengths):
    form = {"color_mode": "grayscale", "image_size": (12, 12), "num_frames": 8, "verbose": False}
    form["batch_size"] = 6
    split = {"validation_split": 0.25, "subset": "both", "groups": "^(.+?)_", "seed": 0}
    keras.utils.set_random_seed(0)
    train, validation = video_dataset_from_directory(motions, lengths=lengths, **form, **split)
    both = [{path.split("/")[-1].split("_")[0] for path in data.file_paths}
            for data in (train, validation)]  # fmt: skip
    assert len(both[0]) == 6
    assert not both[0] & both[1]
    if lengths:
        model = cnn_lstm((8, 12, 12, 1), 4, lstm_units=(32,), lengths=True)
    else:
        model = keras.Sequential([
            keras.layers.Rescaling(1 / 255),
            keras.layers.TimeDistributed(keras.layers.Conv2D(8, 3, strides=2, activation="relu")),
            keras.layers.TimeDistributed(keras.layers.Flatten()),
            keras.layers.LSTM(32),
            keras.layers.Dense(4, activation="softmax"),
        ])  # fmt: skip
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    history = model.fit(train, validation_data=validation, epochs=12, shuffle=False, verbose=0)
    assert history.history["accuracy"][-1] >= 0.95
    assert history.history["val_accuracy"][-1] >= 0.5
