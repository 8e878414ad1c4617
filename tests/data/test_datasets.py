"""The three sources of labelled images: bundled, TensorFlow Datasets, own arrays."""

import gzip
import itertools
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets

from keras_cnnlstm.data import datasets
from keras_cnnlstm.data.datasets import LabeledImages, load_digits
from keras_cnnlstm.utils import environment


def distinct(images):
    return {image.tobytes() for image in images}


class TestBundled:
    def test_splits_are_fixed_complete_and_stratified(self):
        splits, again = load_digits(), load_digits("digits")
        assert [len(part) for part in splits] == [1257, 180, 360]
        everything = np.bincount(np.concatenate([part.labels for part in splits]))
        np.testing.assert_array_equal(
            everything, np.bincount(sklearn.datasets.load_digits().target)
        )
        for part, same in zip(splits, again, strict=True):
            np.testing.assert_array_equal(part.images, same.images)
            share = np.bincount(part.labels) / everything
            assert np.ptp(share) < 0.02

    def test_no_image_is_in_two_splits(self):
        for one, other in itertools.combinations(load_digits(), 2):
            assert not distinct(one.images) & distinct(other.images)

    def test_images_are_the_scans_enlarged(self):
        train = load_digits().train
        assert train.image_shape == (28, 28, 1)
        assert train.num_classes == 10
        assert train.images.dtype == np.uint8
        assert train.images.max() == 255
        # Each comes from the scan that is most like it, seen through 8x8 means, with its label.
        scans = sklearn.datasets.load_digits()
        means = np.stack([m.mean() for m in patches(train.images[:50])]).reshape(50, 64)
        known = scans.images.reshape(-1, 64) * (255 / 16)
        nearest = np.abs(known[None] - means[:, None]).mean(axis=2).argmin(axis=1)
        np.testing.assert_array_equal(scans.target[nearest], train.labels[:50])


def patches(images):
    """The pixels behind each of the 8x8 fields of each image."""
    edges = np.linspace(0, 28, 9).round().astype(int)
    for image in images:
        for (top, bottom), (left, right) in itertools.product(itertools.pairwise(edges), repeat=2):
            yield image[top:bottom, left:right]


class TestLabeledImages:
    def test_keeps_arrays_and_counts_classes(self):
        data = LabeledImages(np.zeros((3, 5, 4, 3), np.uint8), [2, 0, 7])
        assert (len(data), data.num_classes, data.image_shape) == (3, 8, (5, 4, 3))
        assert data.labels.dtype == np.int64

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (np.zeros((3, 5, 4), np.uint8), [0, 1, 2], r"received \(3, 5, 4\).*\[\.\.\., None\]"),
            (np.zeros((3, 5, 4, 2), np.uint8), [0, 1, 2], r"\(N, H, W, 1\) or \(N, H, W, 3\)"),
            (np.zeros((0, 5, 4, 1), np.uint8), [], "N at least 1"),
            (np.zeros((3, 5, 4, 1)), [0, 1, 2], r"must be uint8, 0 to 255; received float64"),
            (np.zeros((3, 5, 4, 1), np.uint8), [0, 1], r"shape \(3,\).*received \(2,\)"),
            (
                np.zeros((3, 5, 4, 1), np.uint8),
                [0.0, 1.0, 2.0],
                "must be integers; received float64",
            ),
            (np.zeros((3, 5, 4, 1), np.uint8), [0, -1, 2], "must be 0 or more; received -1"),
            (np.zeros((3, 5, 4, 1), np.uint8), np.eye(3, dtype=int), r"shape \(3,\).*\(3, 3\)"),
        ],
    )
    def test_bad_arrays(self, images, labels, message):
        with pytest.raises(ValueError, match=message):
            LabeledImages(images, labels)


class TestWithoutNetwork:
    """No test here reaches a network: the one place that asks it is replaced."""

    def test_says_at_once_what_is_missing_and_what_to_do(self, monkeypatch, tmp_path):
        def refuse(url, timeout):
            raise OSError("no route")

        monkeypatch.setattr("urllib.request.urlopen", refuse)
        with pytest.raises(ConnectionError) as caught:
            load_digits("mnist", tmp_path)
        message = str(caught.value)
        assert "'mnist' is not prepared in" in message
        assert "no route" in message
        assert "t10k-labels-idx1-ubyte.gz" in message
        assert str(tmp_path / "downloads" / "manual") in message
        assert "--data digits" in message

    def test_does_not_wait_for_a_network_that_never_answers(self, monkeypatch, tmp_path):
        never, asked = threading.Event(), []

        def hang(url, timeout):
            asked.append(url)
            never.wait()
            raise OSError("too late")

        monkeypatch.setattr("urllib.request.urlopen", hang)
        monkeypatch.setattr(environment, "NETWORK_TIMEOUT", 0.05)
        try:
            with pytest.raises(ConnectionError, match="no answer in"):
                load_digits("mnist", tmp_path)
        finally:
            never.set()
        assert len(asked) == 1

    def test_the_limit_is_15_seconds_at_most(self):
        assert 2 * environment.NETWORK_TIMEOUT < 15

    def test_a_network_that_fails_later_on(self, monkeypatch, tmp_path):
        class Builder:
            name, data_dir_root, data_path, url_infos = "mnist", tmp_path, tmp_path / "mnist", {}

            def download_and_prepare(self):
                raise ConnectionResetError("reset")

        monkeypatch.setattr(datasets, "_missing_files", lambda builder: {"train.gz": "https://x"})
        monkeypatch.setattr(datasets, "check_reachable", lambda address: None)
        with pytest.raises(ConnectionError, match=r"reset.*put train\.gz into"):
            datasets._prepare(Builder())

    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # TFDS leaves the file open
    def test_a_damaged_manual_file(self, monkeypatch, tmp_path):
        manual = tmp_path / "downloads" / "manual"
        manual.mkdir(parents=True)
        for part, kind in itertools.product(("train", "t10k"), ("images-idx3", "labels-idx1")):
            (manual / f"{part}-{kind}-ubyte.gz").write_bytes(b"not it")
        with pytest.raises(ValueError, match=r"is not the original .*wrong checksum"):
            load_digits("mnist", tmp_path)


class TestUnsuitableDataSets:
    def test_an_unknown_name(self, tmp_path):
        with pytest.raises(ValueError, match=r"'mnist:9\.9\.9' .* version 9\.9\.9"):
            load_digits("mnist:9.9.9", tmp_path)
        with pytest.raises(ValueError, match=r"or an image set of TensorFlow Datasets.*'nope'"):
            load_digits("nope", tmp_path)

    def test_no_labelled_images(self, monkeypatch):
        import tensorflow_datasets as tfds

        builder = SimpleNamespace(info=SimpleNamespace(features={"text": "Text"}))
        monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
        with pytest.raises(ValueError, match=r"'imdb' must have an `image` of one fixed size"):
            load_digits("imdb")

    def test_no_test_split(self, monkeypatch, tmp_path):
        import tensorflow_datasets as tfds

        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        info = SimpleNamespace(features=features, splits={"train": None})
        (tmp_path / "dataset_info.json").touch()
        builder = SimpleNamespace(info=info, data_path=tmp_path)
        monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
        with pytest.raises(ValueError, match=r"splits train and test; it has \['train'\]"):
            load_digits("half")


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """The folder of the four original files, and MNIST loaded from a copy of it."""
    source = Path(os.environ.get("TFDS_DATA_DIR", "")) / "downloads" / "manual"
    if not (source / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("no MNIST files in $TFDS_DATA_DIR/downloads/manual")
    data_dir = tmp_path_factory.mktemp("tfds")
    shutil.copytree(source, data_dir / "downloads" / "manual")
    return source, load_digits("mnist", data_dir)


def idx(path, header):
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


@pytest.mark.mnist
class TestMnist:
    def test_sizes(self, mnist):
        _, splits = mnist
        assert [len(part) for part in splits] == [55_000, 5_000, 10_000]
        assert splits.train.image_shape == (28, 28, 1)
        assert splits.test.labels[:5].tolist() == [2, 0, 4, 8, 7]  # the order of TFDS

    def test_holds_the_original_images_with_their_labels(self, mnist):
        source, splits = mnist
        for file, parts in (("train", splits[:2]), ("t10k", splits[2:])):
            images = idx(source / f"{file}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
            labels = idx(source / f"{file}-labels-idx1-ubyte.gz", 8)
            found = np.concatenate([p.images.reshape(-1, 784) for p in parts])
            found_labels = np.concatenate([p.labels for p in parts])
            assert sorted(zip(map(bytes, found), found_labels, strict=True)) == sorted(
                zip(map(bytes, images), labels, strict=True)
            )
