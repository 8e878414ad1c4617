"""The answers of the page of `demo`: for digits drawn in boxes and for files, after each frame.

Knows nothing of browsers. What comes from one may be anything, and ends in an answer or in a
`ValueError` of one line.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import ImageOps

from keras_cnnlstm.data.frames import fit_image, natural_order, opened_image
from keras_cnnlstm.data.videos import VIDEO_SUFFIXES, video_images
from keras_cnnlstm.demo.drawings import PENS, as_digit, as_strip, draw_strokes, look_of
from keras_cnnlstm.demo.page import Step
from keras_cnnlstm.export.predictor import run_predictor
from keras_cnnlstm.models.streaming import Stream
from keras_cnnlstm.training.run_directory import Run
from keras_cnnlstm.utils.validation import as_shaped, check_instance, short_repr

_MOST_FILES = 1000  # dropped at once, or frames of a video of any length


class DemoAnswers:
    """Answers for drawings and files as the page shows them: after each frame.

    Args:
        run: as `load_run` reads it.
        reader: from `(N, H, W, C)` uint8 to `(N, num_digits)` probabilities of digits, or `None`.

    Attributes:
        task: what the model was trained for.
        metadata: its task's metadata, as `Predictor.task_metadata`.
        most: the most frames that the model takes, or digits in a strip; `None` for any number.
        frame_shape: `(H, W, C)` of a frame, of a digit in a strip.
    """

    def __init__(self, run: Run, reader: keras.Model | None = None):
        check_instance("DemoAnswers: `run`", run, Run, "a Run, as load_run reads it")
        self.run, self.reader, self.task = run, reader, run.task
        self._predictor = run_predictor(run)
        self.metadata = self._predictor.task_metadata
        self._look = look_of(self.metadata.get("dataset", ""))
        self._lock = threading.Lock()  # one question at a time
        self._strips = self.task.arrangement == "strip"
        self._stream = None
        if self.task.arrangement == "sequence":
            with contextlib.suppress(ValueError):  # which says that it needs all frames at once
                self._stream = Stream(run.model)
        height, width, channels = self._predictor.frame_shape
        self.most = self._predictor.frame_counts[1]
        if self._strips:
            self.most = self.task.length
            width //= self.most
        self.frame_shape = height, width, channels
        if reader is not None and reader.input_shape[1:] != self.frame_shape:
            raise ValueError(
                f"DemoAnswers: `reader` must read images {self.frame_shape}, as the run's frames "
                f"are; received one of {short_repr(reader.input_shape[1:])}. Remove the run's "
                "digit_reader.keras, and a new one is made."
            )

    def from_boxes(self, boxes: Any) -> Iterator[Step]:
        """Answers for digits drawn in boxes, after each digit; empty boxes are left out.

        Args:
            boxes: for each box its strokes, as `drawings.draw_strokes` takes them. It comes from
                a browser, so it may be anything.

        Raises:
            ValueError: if it is no drawing.
        """
        if not isinstance(boxes, list) or len(boxes) > (self.most or _MOST_FILES):
            raise ValueError(
                f"boxes: expected a list of strokes for each of {self.most} boxes at most; "
                f"received {short_repr(boxes)}."
            )
        drawn = [draw_strokes(box, pen=PENS[self._look]) for box in boxes if box]
        frames = [self._digit(image) for image in drawn]
        return self.steps(np.stack(frames)) if frames else iter(())

    def from_files(self, paths: Sequence[Path]) -> Iterator[Step]:
        """Answers for images in the order of their names, or one video or GIF, after each frame.

        Args:
            paths: the files. A run on digits takes an image of its frames' size as it is; of any
                other one it takes the digit out, and sets it as its training digits are set.

        Raises:
            ValueError: if a file cannot be read, or there are too few or too many frames.
        """
        if not isinstance(paths, list | tuple) or not all(isinstance(p, Path) for p in paths):
            raise ValueError(f"files: expected a list of paths; received {short_repr(paths)}.")
        if not 1 <= len(paths) <= _MOST_FILES:
            raise ValueError(f"files: expected 1 to {_MOST_FILES}; received {len(paths)}.")
        paths = sorted(paths, key=natural_order)
        if not self.task.draws_digits:
            is_video = len(paths) == 1 and paths[0].suffix.lower() in VIDEO_SUFFIXES
            return self.steps(self._predictor.clip_frames(paths[0] if is_video else paths)[0])
        most = 1 if self._strips else self.most or _MOST_FILES
        frames: list[np.ndarray] = []
        for path in paths:
            for image in _images(path, channels=self.frame_shape[-1]):
                if len(frames) == most:
                    raise ValueError(f"files: expected {most} images or frames at most; more came.")
                frames.append(self._as_trained(image))
        return self.steps(np.stack(frames))

    def steps(self, frames: np.ndarray) -> Iterator[Step]:
        """Answers for frames in the model's form, `(n, H, W, C)` uint8, after each of them.

        Raises:
            ValueError: if they have another form.
        """
        shape = ("n", "H", "W", "C")
        frames = as_shaped("DemoAnswers.steps: `frames`", frames, "uint8", shape)
        digits = self._read(frames)
        answers = self._streamed_answers(frames) if self._stream else self._whole_answers(frames)
        return (Step(*known) for known in zip(frames, answers, digits, strict=True))

    def _streamed_answers(self, frames):
        stream: Any = self._stream
        state, steps = stream.initial_state(), []
        for frame in frames:
            with self._lock:
                outputs, state = stream.step(frame[None], state)
            (output,) = outputs.values()  # (1, num_classes)
            steps.append(self._predictor.answer(output[0]))
            yield {"steps": list(steps)} if self.task.per_step else steps[-1]

    def _whole_answers(self, frames):
        """Asks the model for all frames up to each one; `None` where these are too few."""
        fewest = 1 if self._strips else self._predictor.frame_counts[0]
        for n in range(1, len(frames) + 1):
            if n < fewest:
                yield None
                continue
            with self._lock:
                yield self._predictor.answer_frames(self._strip(frames[:n]))

    def _strip(self, frames):
        """Digits side by side in one image, for a model that reads text; else the frames."""
        width = self._predictor.frame_shape[1]
        if not self._strips or frames.shape[2] == width:
            return frames
        row = np.concatenate(list(frames), axis=1)  # (H, n*W, C)
        return np.pad(row, [(0, 0), (0, width - row.shape[1]), (0, 0)])[None]

    def _read(self, frames):
        """The digit in each frame and its probability; `None` without a reader."""
        if self.reader is None:
            return [None] * len(frames)
        with self._lock:
            probabilities = np.asarray(self.reader.predict_on_batch(frames))
        return [(int(row.argmax()), float(row.max())) for row in probabilities]

    def _digit(self, image):
        digit = as_digit(image, self.frame_shape[:2], look=self._look)
        return np.repeat(digit[..., None], self.frame_shape[2], axis=-1)

    def _as_trained(self, image):
        """An image as a frame; `(H, W, C)` uint8."""
        height, width, channels = self._predictor.frame_shape
        if image.shape == (height, width, channels):
            return image
        if not self._strips:
            return self._digit(image)
        return np.repeat(as_strip(image, (height, width))[..., None], channels, axis=-1)


def _images(path, *, channels):
    """The images in a file, upright, of their own size; `(H, W, C)` uint8 each."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        pictures = video_images(path)
    else:
        with opened_image(path) as file:
            pictures = iter([ImageOps.exif_transpose(file)])
    for picture in pictures:
        # Dark ink without a ground needs a light one, or nothing is seen on it.
        dark = picture.has_transparency_data and _is_dark(picture)
        yield fit_image(picture, image_size=None, channels=channels, invert=dark)


def _is_dark(picture):
    """Whether what is not transparent in an image is nearer to black than to white."""
    grey, alpha = np.moveaxis(np.asarray(picture.convert("LA"), np.float64), -1, 0)
    return bool((grey * alpha).sum() < 127.5 * alpha.sum())
