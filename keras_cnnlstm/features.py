"""The feature cache: what a frozen encoder makes of each frame, on disk and taken once.

While an encoder is frozen, its answer to a frame never changes; so it is asked once for each
frame, and the LSTMs are trained from its answers, epoch after epoch, without running it.
Features are float32 under every precision policy: this holds half precision exactly, so the
LSTMs read the very numbers that the encoder would hand them. What stays is that an encoder sums
in another order in batches of another size: 1e-6 of a feature in float32, or one rounding step
of a half precision.
Knows nothing of tasks, data sets or runs.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_cnnlstm.arguments import as_array, as_numbers, as_path, check_model, check_whole, told
from keras_cnnlstm.files import replacing
from keras_cnnlstm.layers import LengthMask
from keras_cnnlstm.pretrained import leaf_layers

Progress = Callable[[int, int], None]  # frames encoded so far, frames in all

_CHECKSUM = 16  # bytes after the array in each file
_BLOCK = 1 << 20  # rows to be checked at a time times their numbers
# Of a configuration, what changes no answer.
_IRRELEVANT = ("trainable", "build_config", "compile_config", "shared_object_id")


class SplitModel(NamedTuple):
    """The two parts of a model of sequences, made of its own layers."""

    frame_encoder: keras.Model
    """From `(N, H, W, C)` raw frames to `(N, F)` float32."""

    sequence_model: keras.Model
    """From the dict `{"features": (B, T, F) float32}`, and `lengths` or states where the model
    takes them, to what the model answers."""


def split_model(model: keras.Model) -> SplitModel:
    """Cuts a model between its encoder and the layers that go over time.

    Nothing is copied: the parts consist of the layers of `model`, so training one shows in it.
    Compile the second to train it.

    Args:
        model: a model that rescales frames `(B, T, H, W, C)`, applies its encoder to each in
            `TimeDistributed` layers, one or several, and goes on with the vectors:
            `models.cnn_lstm`, whatever its options.

    Returns:
        The encoder of single frames, and the model of sequences of its answers.

    Raises:
        ValueError: if the model has no such encoder, or reads the frames a second time.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> parts = split_model(cnn_lstm((4, 28, 28, 1), lengths=True))
    >>> parts.frame_encoder.output_shape, sorted(parts.sequence_model.input)
    ((None, 3136), ['features', 'lengths'])
    """
    check_model("split_model: `model`", model)
    frames, encoder, vectors = _front(model)
    frame = keras.Input(frames.shape[2:], dtype=frames.dtype, name="frame")
    x = frame
    for layer in encoder:
        x = (layer.layer if isinstance(layer, layers.TimeDistributed) else layer)(x)
    x = layers.Identity(dtype="float32", name="features")(x)  # (N, F)
    frame_encoder = keras.Model(frame, x, name=f"{model.name}_frames")
    return SplitModel(frame_encoder, _sequence_model(model, frames, vectors))


def fingerprint(frame_encoder: keras.Model) -> str:
    """Tells encoders apart by what they answer: 32 hexadecimal digits.

    Of the architecture, the preparation of the pixels, the precision and the weights; not of the
    layers' names, nor of whether they may be trained. It is the same in every process.
    """
    names: dict[Any, int] = {}
    config = _anonymous(keras.saving.serialize_keras_object(frame_encoder), names)
    digest = _hash(json.dumps(config, sort_keys=True).encode())
    for weight in frame_encoder.weights:
        _add_array(digest, keras.ops.convert_to_numpy(weight))
    return digest.hexdigest()


def frames_key(frames: np.ndarray) -> str:
    """A key for `FeatureCache.features` that tells arrays apart by what is in them."""
    frames = as_numbers("frames_key: `frames`", frames, kinds="biuf")
    if not frames.ndim:
        raise ValueError("frames_key: `frames` must have shape (N, ...); received a single number.")
    digest = _hash()
    _add_array(digest, frames)
    return digest.hexdigest()


class FeatureCache:
    """The features of clips and of sets of images, in files that are read as they are needed.

    A file is written under a temporary name and then renamed, so none is ever half there; one
    that is damaged all the same is found by its checksum, when it is first opened, and made anew.
    The files of an encoder lie in a folder named by its fingerprint: one with other weights has
    its own. The fingerprint is taken here, so make a new cache after a change of the encoder.

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
    >>> from keras_cnnlstm.models import cnn_lstm
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
        check_whole("FeatureCache: `batch_size`", batch_size, 1, 1_000_000)
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
        if not isinstance(key, str):
            raise ValueError(f"FeatureCache.features: `key` must be text; received {told(key)}.")
        # Names of files need not be UTF-8; Python keeps what is not as surrogates.
        name = _hash(key.encode(errors="surrogatepass")).hexdigest()
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
        frames = as_array("FeatureCache.features: `frames`", frames)
        expected, dtype = self.frame_encoder.input_shape[1:], self.frame_encoder.inputs[0].dtype
        if frames.shape[1:] != expected or frames.dtype != dtype or not len(frames):
            raise ValueError(
                f"FeatureCache.features: `frames` must be {dtype} of shape (n, "
                f"{', '.join(map(str, expected))}), n at least 1; received {frames.dtype} of shape "
                f"{frames.shape}. Give frames of the encoder's size as the model takes "
                "them: it rescales their values itself."
            )
        return frames

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

    Raises:
        ValueError: if the images have another shape or dtype.
    """
    return cache.features(frames_key(images), images, progress=progress)


def _front(model):
    """The input of frames, the layers that apply the encoder, and the vectors they return."""
    chain, tensor = [], keras.tree.flatten(model.outputs)[0]
    while True:
        layer, node_index, _ = tensor._keras_history
        node = layer._inbound_nodes[node_index]
        if node.is_input:
            break
        chain.insert(0, (layer, tensor))
        tensor = node.input_tensors[0]
    front = []
    for layer, vectors in chain:
        if not isinstance(layer, layers.TimeDistributed | layers.Rescaling):
            break
        front.append((layer, vectors))
    while front and not isinstance(front[-1][0], layers.TimeDistributed):
        front.pop()
    if not front or len(front[-1][1].shape) != 3:
        raise ValueError(
            "split_model: `model` must turn frames into vectors in TimeDistributed layers, after "
            f"nothing but Rescaling; {model.name!r} begins with "
            f"{', '.join(type(layer).__name__ for layer, _ in chain[:3])}. Use a cnn_lstm."
        )
    return tensor, [layer for layer, _ in front], front[-1][1]


def _sequence_model(model, frames, vectors):
    """The rest of `model`, from the vectors on; all its inputs but the frames are its own."""
    features = keras.Input(
        batch_shape=(frames.shape[0], *vectors.shape[1:]), dtype="float32", name="features"
    )
    inputs = {x.name: x for x in model.inputs if x is not frames}
    known = {id(vectors): features, **{id(x): x for x in inputs.values()}}
    for output in keras.tree.flatten(model.output):
        _repeat(output, known, frames, features)
    outputs = keras.tree.map_structure(lambda x: known[id(x)], model.output)
    return keras.Model({"features": features, **inputs}, outputs, name=f"{model.name}_sequences")


def _repeat(tensor, known, frames, features):
    """Calls again all that leads from the `known` tensors to this one, which is then known."""
    if id(tensor) in known:
        return
    layer, node_index, _ = tensor._keras_history
    node = layer._inbound_nodes[node_index]
    if node.is_input:
        raise ValueError(
            f"split_model: `model` must read the frames in its encoder alone; in {layer.name!r} "
            "something else reads them too. Put it into the encoder."
        )
    for x in node.input_tensors:
        if not (isinstance(layer, LengthMask) and x is frames):
            _repeat(x, known, frames, features)
    # A mask asks the frames for their number only, and the features have as many.
    args, kwargs = node.arguments.fill_in({**known, id(frames): features})
    outputs = keras.tree.flatten(layer(*args, **kwargs))
    known.update((id(old), new) for old, new in zip(node.output_tensors, outputs, strict=True))


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


def _hash(data: bytes = b""):
    return hashlib.blake2b(data, digest_size=_CHECKSUM)


def _add_array(digest, array):
    digest.update(f"{array.dtype} {array.shape}".encode())
    for start in range(0, len(array) if array.ndim else 0, _rows(array)):
        digest.update(np.ascontiguousarray(array[start : start + _rows(array)]).view(np.uint8))
    if not array.ndim:
        digest.update(array.tobytes())


def _rows(array):
    """How many rows to hash at a time, so that little of a file is in memory."""
    return max(1, _BLOCK // max(1, array[:1].size))


def _checksum(array):
    digest = _hash()
    _add_array(digest, array)
    return digest.digest()


def _stored_checksum(path):
    with path.open("rb") as file:
        file.seek(-_CHECKSUM, os.SEEK_END)
        return file.read()
