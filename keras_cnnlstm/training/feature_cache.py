"""The feature cache: what a frozen encoder makes of each frame, on disk and taken once.

While an encoder is frozen, its answer to a frame never changes; so it is asked once for each
frame, and the LSTMs are trained from its answers, epoch after epoch, without running it.
Features are float32 under every precision policy: this holds half precision exactly, so the
LSTMs read the very numbers that the encoder would hand them. What stays is that an encoder sums
in another order in batches of another size: 1e-6 of a feature in float32, or one rounding step
of a half precision.
Knows nothing of tasks, data sets or runs.
"""

import itertools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_cnnlstm.models.graph import leaf_layers
from keras_cnnlstm.utils.files import content_hash, frames_key, replacing
from keras_cnnlstm.utils.validation import as_path, as_shaped, check_instance, check_integer

Progress = Callable[[int, int], None]  # frames encoded so far, frames in all

# Of a configuration, what changes no answer.
_IRRELEVANT = ("trainable", "build_config", "compile_config", "shared_object_id")


def fingerprint(frame_encoder: keras.Model) -> str:
    """Tells encoders apart by what they answer: 32 hexadecimal digits.

    Of the architecture, the preparation of the pixels, the precision and the weights; not of the
    layers' names, nor of whether they may be trained. It is the same in every process.
    """
    names: dict[Any, int] = {}
    config = _anonymous(keras.saving.serialize_keras_object(frame_encoder), names)
    described = json.dumps(config, sort_keys=True).encode()
    weights = map(keras.ops.convert_to_numpy, frame_encoder.weights)
    return content_hash(itertools.chain([described], weights)).hexdigest()


class FeatureCache:
    """The features of clips and of sets of images, in files that are read as they are needed.

    A file is written under a temporary name and then renamed, so none is ever half there; one
    that is damaged all the same is found by its checksum, when it is first opened, and written
    again. The files of an encoder lie in a folder named by its fingerprint: one with other weights
    has its own. The fingerprint is taken here, so make a new cache after a change of the encoder.

    Args:
        directory: where the folders of all encoders lie. It is made if need be.
        frame_encoder: from `(N, H, W, C)` to `(N, F)`, as `split_model` returns it; frozen, and
            without layers that are random in training.
        batch_size: frames to encode at a time.

    Attributes:
        folder: where the files of this encoder lie, `directory/FINGERPRINT`.

    Raises:
        ValueError: if the encoder would change, or act at random, in training.

    Example:

    >>> import tempfile
    >>> from keras_cnnlstm.models import cnn_lstm, split_model
    >>> model = cnn_lstm((4, 28, 28, 1))
    >>> for name in ("conv1", "conv2"):
    ...     model.get_layer(name).trainable = False
    >>> cache = FeatureCache(tempfile.mkdtemp(), split_model(model).frame_encoder)
    >>> encode_images(cache, np.zeros((5, 28, 28, 1), "uint8")).shape
    (5, 3136)
    """

    def __init__(
        self, directory: str | Path, frame_encoder: keras.Model, *, batch_size: int = 64
    ) -> None:
        check_integer("FeatureCache: `batch_size`", batch_size, 1, 1_000_000)
        _check_fixed(frame_encoder)
        self.frame_encoder, self.batch_size = frame_encoder, batch_size
        self.folder = as_path("FeatureCache: `directory`", directory) / fingerprint(frame_encoder)
        self._checked: set[Path] = set()  # files whose checksum was right
        self._writing = threading.Lock()  # threads would write one temporary file

    def features(
        self,
        key: str,
        frames: np.ndarray | Callable[[], np.ndarray],
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """The features of the frames of a clip, or of a set of images.

        Args:
            key: names the frames. The same key means the same frames: put all into it that they
                depend on, as a file's path, size and time of change; `frames_key` makes one from
                the pixels.
            frames: `(n, H, W, C)` of the encoder's size and dtype, n at least 1; or a function
                that returns them, called only if they are not here yet.
            progress: called after each batch that is encoded with the number of frames done and
                that of all.

        Returns:
            `(n, F)` float32, read-only and mapped from the file: only what is used is read.

        Raises:
            ValueError: if the frames have another shape or dtype.
        """
        check_instance("FeatureCache.features: `key`", key, str, "text")
        # Names of files need not be UTF-8; Python keeps what is not as surrogates.
        name = content_hash([key.encode(errors="surrogatepass")]).hexdigest()
        path = self.folder / f"{name}.npy"
        with self._writing:
            stored = self._read(path, None if callable(frames) else len(frames))
            if stored is None:
                self._write(path, self._fitting(frames() if callable(frames) else frames), progress)
                stored = self._read(path)
        if stored is None:
            raise OSError(f"FeatureCache: {path} cannot be read back. Is the disk in order?")
        return stored

    def _fitting(self, frames: np.ndarray) -> np.ndarray:
        (frames_input,) = self.frame_encoder.inputs
        remedy = "Give frames of the encoder's size, as the model takes them: it rescales them."
        shape = ("n", *frames_input.shape[1:])
        what = "FeatureCache.features: `frames`"
        return as_shaped(what, frames, frames_input.dtype, shape, remedy)

    def _read(self, path: Path, rows: int | None = None) -> np.ndarray | None:
        """The array of a file; `None` if there is none, or a damaged one, or one of other size."""
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except Exception:  # a damaged file can fail anywhere in the reading of it
            self._checked.discard(path)
            return None
        fits = (
            array.shape[1:] == self.frame_encoder.output_shape[1:]
            and len(array) == (len(array) if rows is None else rows)
            and array.dtype == np.float32
        )
        known = path in self._checked
        if not fits or not (known or _checksum(array) == _stored_checksum(path)):
            return None
        self._checked.add(path)
        return array

    def _write(self, path: Path, frames: np.ndarray, progress: Progress | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(frames), self.frame_encoder.output_shape[1])
        with replacing(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", np.dtype("float32"), shape)
            for start in range(0, len(frames), self.batch_size):
                rows = slice(start, start + self.batch_size)
                # Called plainly the model would run op by op, on TensorFlow several times slower.
                array[rows] = self.frame_encoder.predict_on_batch(frames[rows])
                if progress:
                    progress(min(rows.stop, len(frames)), len(frames))
            array.flush()
            with temporary.open("ab") as file:
                file.write(_checksum(array))
        self._checked.discard(path)


def encode_images(
    cache: FeatureCache, images: np.ndarray, *, progress: Progress | None = None
) -> np.ndarray:
    """The features of a set of images, such as the digits that sequences are drawn from.

    Args:
        cache: of the encoder.
        images: `(N, H, W, C)` of its size and dtype.
        progress: as in `FeatureCache.features`.

    Returns:
        `(N, F)` float32, mapped from the file: row i of image i.
    """
    return cache.features(frames_key(images), images, progress=progress)


def _check_fixed(frame_encoder):
    """Refuses an encoder whose answer in training differs from step to step."""
    found = leaf_layers(frame_encoder)
    moving = [
        layer.name
        for layer, free in found
        if (free and layer.trainable_weights) or _normalises_by_batch(layer)
    ]
    if moving:
        raise ValueError(
            "FeatureCache: `frame_encoder` must be frozen, since each frame is encoded only once; "
            f"training would change its layers {', '.join(moving)}. Freeze it: "
            "encoder.trainable = False."
        )
    random = [x.name for x, _ in found if _is_random(x)]
    if random:
        raise ValueError(
            "FeatureCache: `frame_encoder` must answer in training what it answers otherwise; "
            f"its layers {', '.join(random)} are random then. Leave them out, or set their rate to "
            "0."
        )


def _normalises_by_batch(layer):
    return isinstance(layer, layers.BatchNormalization) and layer.trainable


def _is_random(layer):
    """Whether a layer draws random numbers in training."""
    weights = {id(weight) for weight in layer.weights}
    seeds = [x for x in layer.variables if id(x) not in weights]
    rates = [
        getattr(layer, n) for n in ("rate", "dropout", "recurrent_dropout") if hasattr(layer, n)
    ]
    return bool(seeds) and (any(rates) or not rates)


def _anonymous(config, names):
    """A configuration with its layers numbered, since names that Keras gives differ each time."""

    def number(name):
        return names.setdefault(name, len(names))

    if isinstance(config, list | tuple):
        return [_anonymous(x, names) for x in config]
    if not isinstance(config, dict) or "DTypePolicy" in str(config.get("class_name")):
        return config
    result = {}
    for key, value in config.items():
        if key == "name":
            value = number(value)
        elif key == "keras_history":
            value = [number(value[0]), *value[1:]]
        elif key in ("input_layers", "output_layers"):
            value = keras.tree.map_structure(
                lambda x: number(x) if isinstance(x, str) else x, value
            )
        elif key not in _IRRELEVANT:
            value = _anonymous(value, names)
        else:
            continue
        result[key] = value
    return result


def _checksum(array):
    return content_hash([array]).digest()


def _stored_checksum(path):
    with path.open("rb") as file:
        file.seek(-content_hash([]).digest_size, os.SEEK_END)
        return file.read()
