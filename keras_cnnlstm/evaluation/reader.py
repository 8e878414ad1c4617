"""A reader of single digits, to compare a model of sequences with.

A task on digits is solved by reading each digit and applying the rule. So a CNN that is trained on
the same images, with the exact rule, shows how good a model of sequences could be, and whether a
mistake of it is a misread digit or a misread sequence.
"""

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_cnnlstm.data.augmentation import Augmentation
from keras_cnnlstm.data.datasets import LabeledImages, check_images
from keras_cnnlstm.data.digit_batches import labeled_images
from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.models.blocks import answer, dense_stack, rescaled, some_dropped
from keras_cnnlstm.models.encoders import small_cnn
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.training.optimizers import Adam
from keras_cnnlstm.training.run_directory import Run, load_model, save_model
from keras_cnnlstm.utils.validation import check_instance, check_integer, check_model, short_repr

Progress = Callable[[int, int], None]  # steps done, all steps
_BATCH = 128
_IMAGES = 165_000  # to train on: three epochs of MNIST
_EPOCHS = 60  # at most, for smaller sets
_LEARNING_RATE = 3e-3
_AUGMENTATION = Augmentation(affine=0.7)  # weak, since there are few epochs


def train_reader(
    images: LabeledImages,
    *,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """Trains a small CNN to read single digits.

    Args:
        images: what to train on.
        seed: of weights and data; sets Keras's, NumPy's and Python's generators.
        steps: batches of 128 images; by default those of 165,000 images, but at most 60 epochs.
        progress: called after each batch with the number of batches done and of all batches.

    Returns:
        A model from `frames (N, H, W, C) uint8` to `probabilities (N, num_digits) float32`. With
        the defaults it reads 99 % of MNIST's test images.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_images("train_reader", images)
    if steps is None:
        steps = math.ceil(min(_IMAGES, _EPOCHS * len(images)) / _BATCH)
    check_integer("train_reader: `seed`", seed, 0, 2**32 - 1)
    check_integer("train_reader: `steps`", steps, 1, 10_000_000)
    keras.utils.set_random_seed(seed)
    model = _reader(images.image_shape, images.num_classes)
    schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    model.compile(Adam(schedule), "sparse_categorical_crossentropy")
    data = labeled_images(images, batch_size=_BATCH, seed=seed, augmentation=_AUGMENTATION)
    callbacks = []
    if progress:
        report = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: progress(batch + 1, steps)
        )
        callbacks.append(report)
    model.fit(data, steps_per_epoch=steps, callbacks=callbacks, shuffle=False, verbose=0)
    return keras.Model(model.inputs, model.outputs, name=model.name)  # without an optimizer


def _reader(image_shape, num_digits):
    frames = keras.Input(image_shape, dtype="uint8", name="frames")
    x = small_cnn()(rescaled(frames))  # (N, features)
    x = some_dropped(x, 0.2)
    x = dense_stack(x, (128,), 0.3)
    return keras.Model(frames, answer(x, num_digits), name="digit_reader")


def confusion_of(reader: keras.Model, images: LabeledImages) -> np.ndarray:
    """How a reader reads images: `(num_digits, num_digits)` counts, rows the truth.

    Raises:
        ValueError: if `images` are none, or the reader reads others.
    """
    check_images("confusion_of", images)
    check_reader("confusion_of", reader, images)
    read = reader.predict(images.images, batch_size=256, verbose=0).argmax(axis=1)
    counts = np.zeros((images.num_classes,) * 2, np.int64)
    np.add.at(counts, (images.labels, read), 1)
    return counts


def check_reader(function: str, reader: keras.Model, images: LabeledImages) -> None:
    """Refuses, in the name of a function, a reader of other images or digits."""
    check_model(f"{function}: `reader`", reader)
    expected = (None, *images.image_shape), (None, images.num_classes)
    if (reader.input_shape, reader.output_shape) != expected:
        raise ValueError(
            f"{function}: `reader` must read images {images.image_shape} of "
            f"{images.num_classes} digits; received one from {short_repr(reader.input_shape)} to "
            f"{short_repr(reader.output_shape)}. Train one on such images with train_reader; for a "
            "run, remove its digit_reader.keras."
        )


def digit_reader(
    run: Run,
    *,
    images: LabeledImages | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """The reader of single digits that belongs to a run on digits.

    It is trained when it is first needed, in about a minute on two cores, and kept in the run
    directory as `digit_reader.keras`.

    Args:
        run: a run whose sequences are drawn from images of digits.
        images: its training images, if they are open already; by default they are loaded.
        steps: as in `train_reader`, as is `progress`.

    Returns:
        A model from `(N, H, W, C) uint8` to `(N, num_digits) float32` probabilities.

    Raises:
        ValueError: if the run reads clips, or the reader's file cannot be read.
        ConnectionError: if the run's data set cannot be had.
    """
    check_instance("digit_reader: `run`", run, Run, "a Run, as load_run reads it")
    if not run.task.draws_digits:
        raise ValueError(
            f"digit_reader: `run` must be one on digits; {run.path} was trained on clips, in which "
            "there are no digits to read."
        )
    path = run.path / "digit_reader.keras"
    if path.exists():
        return load_model(path)
    if images is None:
        images = open_source(run.config, run.path).digit_images.train  # type: ignore[union-attr]
    with Runtime(run.config.precision, "one-device").scope():
        reader = train_reader(images, seed=run.config.seed, steps=steps, progress=progress)
    save_model(reader, path)
    return reader
