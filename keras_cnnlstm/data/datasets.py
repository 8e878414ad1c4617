"""Labelled digit images, split into train, validation and test.

Three sources: the real handwriting that comes with scikit-learn (the default, needs no
network), any image set of TensorFlow Datasets with ordered integer classes, or the user's own
arrays as `LabeledImages`. Knows nothing of sequences.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_cnnlstm.utils.environment import check_reachable
from keras_cnnlstm.utils.validation import as_array, as_classes, as_shaped, check_instance

BUNDLED = "digits"
"""Name of the data set that comes with scikit-learn."""

_SPLIT_SEED = 0  # fixed: a test image must never become a training image of another run


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images with one integer class each, checked when made.

    Args:
        images: `(N, H, W, C)` uint8, C is 1 (grey) or 3 (colour); N at least 1.
        labels: `(N,)` integers, 0 or more. Their order is their meaning (7 is more than 3).

    Raises:
        ValueError: if shapes, dtypes or ranges differ from these.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        images = as_array("LabeledImages: `images`", self.images)
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            raise ValueError(
                "LabeledImages: `images` must have shape (N, H, W, 1) or (N, H, W, 3), N at least "
                f"1; received {images.shape}. Add a grey channel axis with `images[..., None]`."
            )
        if images.dtype != np.uint8:
            raise ValueError(
                f"LabeledImages: `images` must be uint8, 0 to 255; received {images.dtype}. Turn "
                "floats in [0, 1] into `(images * 255).round().astype('uint8')`."
            )
        labels = _checked_labels("LabeledImages", self.labels, len(images))
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of each image."""
        return tuple(self.images.shape[1:])


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Features of labelled images from a frozen encoder, checked when made.

    Args:
        features: `(N, F)` float32, a vector of each image; N at least 1.
        labels: `(N,)` integers, 0 or more, as of `LabeledImages`.

    Raises:
        ValueError: if shapes, dtypes or ranges differ from these.
    """

    features: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        what = "EncodedImages: `features`"
        features = as_shaped(what, self.features, "float32", ("N", "F"))
        labels = _checked_labels("EncodedImages", self.labels, len(features))
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.features)


def _checked_labels(function, labels, count):
    """Classes of `count` images, `(count,)` int64."""
    labels = as_classes(f"{function}: `labels`", labels, count, of="image")
    if labels.min() < 0:
        raise ValueError(f"{function}: `labels` must be 0 or more; received {labels.min()}.")
    return labels.astype(np.int64)


def check_images(function: str, images: LabeledImages) -> None:
    """Refuses other types than `LabeledImages`; `function` is named in the error."""
    expected = "LabeledImages, which LabeledImages(images, labels) makes of arrays"
    check_instance(f"{function}: `images`", images, LabeledImages, expected)


class DigitSplits(NamedTuple):
    """The three parts of a data set. No image is in two of them."""

    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages


def load_digits(name: str = BUNDLED, data_dir: str | Path | None = None) -> DigitSplits:
    """Loads labelled digit images in three splits, always the same ones.

    Args:
        name: `"digits"`, 1,797 real scans of 8x8 pixels that come with scikit-learn, enlarged
            to 28x28; or a TensorFlow Datasets name with `image` and integer `label`, such as
            `"mnist"`, `"kmnist"` or `"emnist/digits"`. Its test split is kept, and a twelfth
            of its train split becomes the validation split.
        data_dir: folder of TensorFlow Datasets; by default `$TFDS_DATA_DIR`, or else
            `~/tensorflow_datasets`.

    Returns:
        `train`, `validation` and `test`, each with `images (N, H, W, C) uint8` and
        `labels (N,) int64`.

    Raises:
        ValueError: if no such data set is known, or it is not of labelled images of one size.
        ConnectionError: if the data is not on this machine and cannot be had from the network.

    Example:

    >>> splits = load_digits()
    >>> splits.train.images.shape, len(splits.validation), len(splits.test)
    ((1257, 28, 28, 1), 180, 360)
    """
    check_instance("load_digits: `name`", name, str, "the name of a data set")
    return _bundled() if name == BUNDLED else _from_tfds(name, data_dir)


def _bundled() -> DigitSplits:
    import sklearn.datasets
    from PIL import Image

    bunch = sklearn.datasets.load_digits()
    scans = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 0 to 16
    enlarged = (Image.fromarray(s).resize((28, 28), Image.Resampling.BICUBIC) for s in scans)
    data = LabeledImages(np.stack([np.asarray(e) for e in enlarged])[..., None], bunch.target)
    rest, test = _stratified_split(data, 1 / 5)
    train, validation = _stratified_split(rest, 1 / 8)
    return DigitSplits(train, validation, test)


def _stratified_split(data: LabeledImages, share: float) -> tuple[LabeledImages, LabeledImages]:
    """Cuts a share off, with the classes in proportion."""
    from sklearn.model_selection import train_test_split

    parts = train_test_split(
        np.arange(len(data)), test_size=share, stratify=data.labels, random_state=_SPLIT_SEED
    )
    first, second = (LabeledImages(data.images[part], data.labels[part]) for part in parts)
    return first, second


def _from_tfds(name: str, data_dir: str | Path | None) -> DigitSplits:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, AssertionError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]  # or an unknown version
        raise ValueError(
            f"load_digits: `name` must be {BUNDLED!r} or an image set of TensorFlow Datasets, "
            f"such as 'mnist'; received {name!r} ({lines[0]}). A folder of "
            "clips, which --data takes too, must exist."
        ) from error
    features = dict(builder.info.features or {})
    shape = getattr(features.get("image"), "shape", (None,))
    if None in shape or not isinstance(features.get("label"), tfds.features.ClassLabel):
        raise ValueError(
            f"load_digits: data set {name!r} must have an `image` of one fixed size and an integer "
            f"`label`; it has {features}."
        )
    if not {"train", "test"} <= _prepare(builder).keys():
        raise ValueError(
            f"load_digits: data set {name!r} must have the splits train and test; it has "
            f"{sorted(builder.info.splits)}."
        )
    rest, test = (
        LabeledImages(*tfds.as_numpy(builder.as_dataset(split, batch_size=-1, as_supervised=True)))
        for split in ("train", "test")
    )
    train, validation = _stratified_split(rest, 1 / 12)
    return DigitSplits(train, validation, test)


def _prepare(builder):
    """Makes the builder's files ready, without minutes of retries where there is no network.

    Returns the splits by name.
    """
    import tensorflow_datasets as tfds

    # What builder.is_prepared() asks for too, but not without logging a warning.
    if not (Path(builder.data_path) / "dataset_info.json").exists():
        missing = _missing_files(builder)
        try:
            if missing:  # TFDS itself would retry for three to five minutes
                check_reachable(next(iter(missing.values())))
            builder.download_and_prepare()
        except tfds.download.DownloadError as error:
            raise _unavailable(builder, missing, error) from error
        except OSError as error:  # the connection errors of requests and urllib among them
            if not missing:
                raise
            raise _unavailable(builder, missing, error) from error
        except tfds.core.download.download_manager.NonMatchingChecksumError as error:
            raise ValueError(
                f"load_digits: a file of data set {builder.name!r} is not the original "
                f"({' '.join(str(error).split())}). Replace it in {_downloads(builder)}, or, if it "
                "belongs to another data set, set TFDS_DATA_DIR to another folder."
            ) from error
    return builder.info.splits


def _downloads(builder) -> Path:
    return Path(builder.data_dir_root) / "downloads"


def _missing_files(builder) -> dict[str, str]:
    """Files to fetch, name -> address: those neither put into manual/ nor downloaded before."""
    downloads = _downloads(builder)
    missing = {}
    for url, info in builder.url_infos.items():
        # TFDS puts the checksum into the name of each file that it has downloaded.
        digest = base64.urlsafe_b64encode(bytes.fromhex(info.checksum)).decode().rstrip("=")
        name = info.filename or url.rsplit("/", 1)[-1]
        if not (downloads / "manual" / name).exists() and not _downloaded(downloads, digest):
            missing[name] = url
    return missing


def _downloaded(downloads: Path, digest: str) -> bool:
    """Whether a file was downloaded whole: TFDS writes its note `.INFO` before it is there."""
    return any(path.suffix != ".INFO" for path in downloads.rglob(f"*{digest}*"))


def _unavailable(builder, missing: dict[str, str], error: Exception) -> ConnectionError:
    return ConnectionError(
        f"load_digits: data set {builder.name!r} is not prepared in {builder.data_dir_root} and "
        f"cannot be downloaded ({error}). Either put {', '.join(missing)} into "
        f"{_downloads(builder) / 'manual'}, set TFDS_DATA_DIR to a folder that has them, or use "
        f"the data set that needs no network: --data {BUNDLED}."
    )
