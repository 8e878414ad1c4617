"""What the page of `demo` answers: for digits drawn in boxes and for files, after each frame.

Knows nothing of browsers. What comes from one may be anything, and ends in an answer or in a
`ValueError` of one line.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import ImageOps

from keras_cnnlstm.answers import as_json
from keras_cnnlstm.arguments import as_array, check_kind, told
from keras_cnnlstm.demo_page import Step
from keras_cnnlstm.drawings import PENS, as_digit, as_strip, draw_strokes, look_of
from keras_cnnlstm.frames import fit_image, natural_order, opened_image
from keras_cnnlstm.predictors import run_predictor
from keras_cnnlstm.runs import Run
from keras_cnnlstm.streaming import FrameStream, Stream
from keras_cnnlstm.videos import VIDEO_SUFFIXES, video_images

_MOST_FILES = 1000  # dropped at once, or frames of a video of any length


class DemoAnswers:
    """Answers for drawings and files as the page shows them: after each frame.

    Args:
        run: the run.
        reader: from `(N, H, W, C)` uint8 to `(N, num_digits)` probabilities of digits, if there
            is one.

    Attributes:
        task: what the run was asked; "clip" of all that was trained on clips.
        most: frames that the model takes at most, digits in a strip; `None` for any number.
        frame_shape: `(H, W, C)` of a frame, of a digit in a strip.
    """

    def __init__(self, run: Run, reader: keras.Model | None = None):
        check_kind("DemoAnswers: `run`", run, Run, "a Run, as load_run reads it")
        self.run, self.reader = run, reader
        self.task = "clip" if run.config.data else str(run.config.task)
        self._predictor = run_predictor(run)
        self._stream = self._streamed(run)
        self._look = look_of(run.config.dataset)
        self._lock = threading.Lock()  # one question at a time
        height, width, channels = (size or 1 for size in self._predictor.input_shape[-3:])
        self.most = self._predictor.frame_counts[1]
        if self.task == "text":
            self.most = run.config.length or 1
            width //= self.most
        self.frame_shape = height, width, channels
        if reader is not None and reader.input_shape[1:] != self.frame_shape:
            raise ValueError(
                f"DemoAnswers: `reader` must read images {self.frame_shape}, as the run's frames "
                f"are; received one of {told(reader.input_shape[1:])}. Remove the run's "
                "digit_reader.keras, and it is made anew."
            )

    def from_boxes(self, boxes: Any) -> Iterator[Step]:
        """Answers for digits drawn in boxes, of which empty ones are left out.

        Args:
            boxes: for each box its strokes, as `drawings.draw_strokes` takes them. It comes from
                a browser, so it may be anything.

        Yields:
            What is known after each digit.

        Raises:
            ValueError: if it is no drawing.
        """
        if not isinstance(boxes, list) or len(boxes) > (self.most or _MOST_FILES):
            raise ValueError(
                f"boxes: expected a list of strokes for each of {self.most} boxes at most; "
                f"received {told(boxes)}."
            )
        drawn = [draw_strokes(box, pen=PENS[self._look]) for box in boxes if box]
        frames = [self._digit(image) for image in drawn]
        return self.steps(np.stack(frames)) if frames else iter(())

    def from_files(self, paths: Sequence[Path]) -> Iterator[Step]:
        """Answers for files: images in the order of their names, or one video or GIF.

        Args:
            paths: the files. A run on digits takes an image of its frames' size as it is; of any
                other one it takes the digit out, and sets it as its training digits are set.

        Yields:
            What is known after each frame.

        Raises:
            ValueError: if a file cannot be read, or there are too few or too many frames.
        """
        listed = isinstance(paths, list | tuple) and all(isinstance(p, Path) for p in paths)
        if not listed:
            raise ValueError(f"files: expected a list of paths; received {told(paths)}.")
        if not 1 <= len(paths) <= _MOST_FILES:
            raise ValueError(f"files: expected 1 to {_MOST_FILES}; received {len(paths)}.")
        if self.task == "clip":
            return self.steps(self._clip_frames(paths))
        most = 1 if self.task == "text" else self.most or _MOST_FILES
        frames: list[np.ndarray] = []
        for path in sorted(paths, key=natural_order):
            for image in _images(path, channels=self.frame_shape[-1]):
                if len(frames) == most:
                    raise ValueError(f"files: expected {most} images or frames at most; more came.")
                frames.append(self._as_trained(image))
        return self.steps(np.stack(frames))

    def steps(self, frames: np.ndarray) -> Iterator[Step]:
        """Answers for frames in the model's form, after each of them.

        Args:
            frames: `(n, H, W, C)` uint8.

        Yields:
            What is known after each frame.
        """
        frames = as_array("DemoAnswers.steps: `frames`", frames)
        if frames.dtype != np.uint8 or not frames.size or frames.ndim != 4:
            raise ValueError(
                "DemoAnswers.steps: `frames` must be uint8 of shape (n, H, W, C); received "
                f"{frames.dtype} of {frames.shape}."
            )
        reads = self._read(frames)
        answers = self._streamed_answers(frames) if self._stream else self._whole_answers(frames)
        return (Step(*known) for known in zip(frames, answers, reads, strict=True))

    def _streamed(self, run):
        """The model as a step, unless it cannot read frame by frame."""
        if self.task in ("label", "text"):
            return None
        try:
            return Stream(run.model)
        except ValueError:  # it needs all frames at once
            return None

    def _streamed_answers(self, frames):
        live, steps = FrameStream(self._stream, self.run.class_names), []
        each = self.task in ("digits", "running_sum")  # a question for each step
        unsure_below = self._predictor.task.get("unsure_below")
        for frame in frames:
            with self._lock:
                answer = live.push(frame)
            output = "probabilities" if answer.values is None else "values"
            steps.append(
                as_json(
                    output,
                    getattr(answer, output),
                    self.run.class_names,
                    unsure_below=None if output == "values" else unsure_below,
                )
            )
            yield {"steps": list(steps)} if each else steps[-1]

    def _whole_answers(self, frames):
        """The model is asked again for all frames so far, if so few will do."""
        fewest = 1 if self.task == "text" else self._predictor.frame_counts[0]
        for n in range(1, len(frames) + 1):
            if n < fewest:
                yield None
                continue
            with self._lock:
                yield self._predictor.answer_frames(self._strip(frames[:n]))

    def _strip(self, frames):
        """Digits side by side in one image, of a model that reads text; else the frames."""
        width = self._predictor.input_shape[-2]
        if self.task != "text" or frames.shape[2] == width:
            return frames
        row = np.concatenate(list(frames), axis=1)  # (H, n*W, C)
        return np.pad(row, [(0, 0), (0, (width or row.shape[1]) - row.shape[1]), (0, 0)])[None]

    def _read(self, frames):
        """The digit in each frame and its probability; `None` where nothing reads."""
        if self.reader is None:
            return [None] * len(frames)
        with self._lock:
            shares = np.asarray(self.reader.predict_on_batch(frames))
        return [(int(row.argmax()), float(row.max())) for row in shares]

    def _digit(self, image):
        height, width, channels = self.frame_shape
        digit = as_digit(image, (height, width), look=self._look)
        return np.repeat(digit[..., None], channels, axis=-1)

    def _as_trained(self, image):
        """An image as a frame; `(H, W, C)` uint8."""
        shape = self._predictor.input_shape[-3:]
        if image.shape == shape:
            return image
        if self.task != "text":
            return self._digit(image)
        height, width, channels = (size or 1 for size in shape)
        return np.repeat(as_strip(image, (height, width))[..., None], channels, axis=-1)

    def _clip_frames(self, paths):
        """The frames of a video, or of images as a folder of frames."""
        if len(paths) == 1 and paths[0].suffix.lower() in VIDEO_SUFFIXES:
            return self._predictor.clip_frames(paths[0])[0]
        with tempfile.TemporaryDirectory() as folder:
            for n, path in enumerate(sorted(paths, key=natural_order)):
                with opened_image(path) as image:  # whatever its name is
                    suffix = f".{image.format or ''}".lower()
                (Path(folder) / f"{n:06}{suffix}").symlink_to(path.absolute())
            return self._predictor.clip_frames(Path(folder))[0]


def _images(path, *, channels):
    """The images in a file, upright, of their own size; `(H, W, C)` uint8 each."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        pictures = video_images(path)
    else:
        with opened_image(path) as file:
            pictures = iter([ImageOps.exif_transpose(file)])
    for picture in pictures:
        # What is dark and has no ground needs a light one, or nothing is seen on it.
        dark = picture.has_transparency_data and _is_dark(picture)
        yield fit_image(picture, image_size=None, channels=channels, invert=dark)


def _is_dark(picture):
    """Whether what is not transparent in an image is nearer to black than to white."""
    grey, alpha = np.moveaxis(np.asarray(picture.convert("LA"), np.float64), -1, 0)
    return bool((grey * alpha).sum() < 127.5 * alpha.sum())
