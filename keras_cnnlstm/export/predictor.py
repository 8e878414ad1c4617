"""Answers about files, from a run directory or from an export.

Frames are brought to the model's form, and frames of a clip are chosen, as in its training.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnnlstm.data.clips import Clip, probe, read_clip, sample_indices
from keras_cnnlstm.data.frames import load_frames
from keras_cnnlstm.data.videos import VIDEO_SUFFIXES
from keras_cnnlstm.export.artifact import checked_frames, load_artifact
from keras_cnnlstm.export.formats import located
from keras_cnnlstm.tasks.answers import answer_dict
from keras_cnnlstm.tasks.registry import TASKS, task_from_config
from keras_cnnlstm.utils.environment import num_cores
from keras_cnnlstm.utils.validation import as_path, check_instance, check_integer, short_repr

if TYPE_CHECKING:
    from keras_cnnlstm.training.run_directory import Run

_BATCH = 256  # frames that a model is given at a time, of many clips


@dataclass(frozen=True)
class Predictor:
    """A model of a run or an export, ready to answer about files, as `Task.answer` returns it.

    Attributes:
        predict: batches of frames, and lengths or `None`, to the model's first output.
        input_shape: `(T, H, W, C)`, T `None` for any number; or `(H, W, C)` of one image.
        takes_lengths: whether sequences may be shorter than T.
        answer: one example's first output to a dict, as `Task.answer` makes it.
        task_metadata: what the model was trained for and how its frames were read, the entry
            `task` of an export's metadata; of clips with `sampling`, `stride`,
            `frames_per_second`, `fit` and `invert`.
    """

    predict: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    input_shape: tuple[int | None, ...]
    takes_lengths: bool
    answer: Callable[[np.ndarray], dict[str, Any]]
    task_metadata: Mapping[str, Any]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` that frames are brought to."""
        height, width, channels = (size or 1 for size in self.input_shape[-3:])
        return height, width, channels

    @property
    def frame_counts(self) -> tuple[int, int | None]:
        """The fewest and the most frames that it takes; `None` for any number."""
        if len(self.input_shape) == 3:
            return 1, 1
        most = self.input_shape[0]
        return (1 if self.takes_lengths or most is None else most), most

    @property
    def of_clips(self) -> bool:
        """Whether it was trained on clips, of which it reads some frames only."""
        return "sampling" in self.task_metadata

    def takes_as_clip(self, path: Path) -> bool:
        """Whether a path is a whole sequence, a folder or a video, not one frame of it."""
        suffix = path.suffix.lower()
        is_video = suffix in VIDEO_SUFFIXES and (suffix != ".gif" or self.of_clips)
        return path.is_dir() or is_video

    def answer_images(self, paths: Sequence[Path], *, invert: bool = False) -> dict[str, Any]:
        """The answer for image files, each a frame of one sequence, in order.

        Args:
            paths: the files.
            invert: turn them negative.

        Raises:
            ValueError: if there are too few or too many, or one cannot be read.
            FileNotFoundError: if one is missing.
        """
        if not isinstance(paths, list | tuple):
            raise ValueError(
                f"frames: expected a list of image files; received {short_repr(paths)}."
            )
        self._check_count(len(paths), "image files, one for each frame")
        return self.answer_frames(load_frames(paths, **self._form(invert)))

    def answer_clip(self, path: Path, *, invert: bool = False) -> dict[str, Any]:
        """The answer for a folder of frames or a video.

        Args and errors are those of `clip_frames`.

        Returns:
            The answer, and `frames`, the number of frames of the clip, and `read`, the indices of
            those that the model read.
        """
        frames, indices, count = self.clip_frames(path, invert=invert)
        return {**self.answer_frames(frames), "frames": count, "read": indices.tolist()}

    def answer_clips(
        self, paths: Sequence[Path], *, invert: bool = False
    ) -> Iterator[dict[str, Any] | OSError | ValueError]:
        """The answers for many folders and videos, equal to those of `answer_clip`, in their order.

        Clips are decoded in threads and answered in batches of about 256 frames; the frames of
        three batches are in memory at most.

        Args:
            paths: the clips.
            invert: turn the frames negative.

        Yields:
            For each clip its answer, or the error that it cannot be read.

        Raises:
            ValueError: if `paths` is no list or tuple.
        """
        check_instance("answer_clips: `paths`", paths, list | tuple, "a list of clips")

        def read(path):
            try:
                frames, indices, count = self.clip_frames(path, invert=invert)
                self._check_count(len(frames), f"frames in {path}")
            except (OSError, ValueError) as error:
                return error
            return frames, {"frames": count, "read": indices.tolist()}

        size = max(1, min(32, _BATCH // (self.frame_counts[1] or 16)))
        due: deque[Future] = deque()
        pool, coming = ThreadPoolExecutor(min(8, num_cores())), iter(paths)
        try:
            while True:
                room = itertools.islice(coming, 2 * size - len(due))
                due.extend(pool.submit(read, path) for path in room)
                if not due:
                    return
                batch = [due.popleft().result() for _ in range(min(size, len(due)))]
                yield from self._answered(batch)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _answered(self, read) -> list[Any]:
        """The answers to clips that were read together; errors stay as they are."""
        groups: dict[int, list[int]] = {}  # what the model can be given at once
        for place, clip in enumerate(read):
            if isinstance(clip, tuple):
                groups.setdefault(0 if self.takes_lengths else len(clip[0]), []).append(place)
        found = list(read)
        for places in groups.values():
            answers = self._answers([read[place][0] for place in places])
            for place, answer in zip(places, answers, strict=True):
                found[place] = {**answer, **read[place][1]}
        return found

    def clip_frames(
        self, path: Path | Sequence[Path], *, invert: bool = False
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """The frames of a clip that the model reads.

        A model of clips reads those frames of a longer one that its validation would choose; any
        other model must get as many as it takes, since none is dropped silently.

        Args:
            path: the folder, the video, or the image files in order.
            invert: turn the frames negative.

        Returns:
            Frames `(n, H, W, C)` uint8, their indices `(n,)`, and the number in the clip.

        Raises:
            ValueError: if the clip cannot be read, or has too few or too many frames.
            FileNotFoundError: if there is none.
        """
        form = self._form(invert)
        if isinstance(path, list | tuple):
            count, rate = len(path), None
            read: Any = lambda chosen: load_frames([path[i] for i in chosen], **form)  # noqa: E731
        else:
            clip = Clip(as_path("clip: `path`", path), "", str(path))
            count, _, _, rate = probe(clip)
            read = partial(read_clip, clip, **form)
        if self.of_clips:
            given = self.task_metadata
            options = {k: given[k] for k in ("stride", "frames_per_second") if k in given}
            most, sampling = self.frame_counts[1], given["sampling"]
            indices = sample_indices(count, most, sampling, rate=rate, **options)
        else:
            self._check_count(count, f"frames in {path}")
            indices = np.arange(count)
        return read(indices), indices, count

    def _form(self, invert) -> dict[str, Any]:
        *image_size, channels = self.frame_shape
        invert = invert != bool(self.task_metadata.get("invert"))
        fit = self.task_metadata.get("fit", "letterbox")
        size = tuple(image_size)
        form: dict[str, Any] = {"image_size": size, "channels": channels, "invert": invert}
        depth_range = self.task_metadata.get("depth_range")
        return {**form, "fit": fit, "depth_range": depth_range and tuple(depth_range)}

    def _check_count(self, count: int, what: str) -> None:
        low, high = self.frame_counts
        if not low <= count <= (high or count):
            expected = f"{low} to {high}" if low < (high or low) else f"{low}"
            raise ValueError(f"frames: expected {expected} {what}; received {count}.")

    def answer_frames(self, frames: np.ndarray) -> dict[str, Any]:
        """The answer for frames `(n, H, W, C)` uint8; for a model of one image n is 1.

        Raises:
            ValueError: if the frames have another form, or are too few or too many.
        """
        frames = checked_frames("answer_frames", frames, ("n", *self.input_shape[-3:]))
        self._check_count(len(frames), "frames")
        (answer,) = self._answers([frames])
        return answer

    def _answers(self, clips: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """The answers for frames `(n, H, W, C)` each; n is the same unless it takes lengths."""
        if not self.takes_lengths:
            # One image is a batch of one; the frames of a sequence are one of its elements.
            join = np.concatenate if len(self.input_shape) == 3 else np.stack
            return [self.answer(row) for row in self.predict(join(clips), None)]
        lengths = np.array([len(frames) for frames in clips], np.int32)
        most = self.input_shape[0] or lengths.max()
        batch = np.zeros((len(clips), most, *clips[0].shape[1:]), np.uint8)  # (B, T, H, W, C)
        for place, frames in zip(batch, clips, strict=True):
            place[: len(frames)] = frames
        rows = zip(self.predict(batch, lengths), lengths, strict=True)
        # The steps after the end are padding.
        return [self.answer(row[:count] if row.ndim == 2 else row) for row, count in rows]


def format_of(path: str | Path) -> str:
    """The format of a model on disk: "run", "saved_model", "litert" or "onnx".

    Raises:
        FileNotFoundError: if there is none.
    """
    path = as_path("format_of: `path`", path)
    if (path / "config.json").is_file():
        return "run"
    try:
        return located(path)[0]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: expected a run directory, as keras-cnnlstm train writes it, or an exported "
            f"model; found {'neither in this folder' if path.is_dir() else 'no such folder'}."
        ) from error


def open_predictor(path: str | Path, *, beam: int | None = None) -> Predictor:
    """Opens a run directory, or an export of any format.

    A SavedModel is code: open only what you or someone you trust exported.

    Args:
        path: the directory.
        beam: as in `run_predictor`.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if it cannot be read, or `beam` is given for a model without captions.
    """
    path = as_path("open_predictor: `path`", path)
    if format_of(path) == "run":
        from keras_cnnlstm.training.run_directory import load_run  # loads Keras

        return run_predictor(load_run(path), beam=beam)
    if beam is not None:
        raise ValueError(
            f"beam: expected a run directory, since an export always takes the likeliest token; "
            f"received {beam} with {path}. Leave it out."
        )
    artifact = load_artifact(path)
    inputs, output = artifact.metadata["inputs"], artifact.metadata["outputs"][0]
    task = artifact.metadata.get("task") or {}
    name, config = task.get("name"), task.get("config")
    if isinstance(name, str) and name in TASKS and isinstance(config, dict):
        answer: Callable[..., Any] = task_from_config(name, config).answer
    else:
        answer = partial(answer_dict, output, class_names=artifact.class_names)
    return _predictor(artifact.predict, artifact.input_shape, "lengths" in inputs, answer, task)


def run_predictor(run: "Run", *, beam: int | None = None) -> Predictor:
    """Answers with the model of an open run.

    Args:
        run: as `load_run` reads it.
        beam: of a captioner, the width of a beam search; by default it takes the likeliest token
            at each step.

    Raises:
        ValueError: if `beam` is given for a model without captions, or is out of range.
    """
    from keras_cnnlstm.training.run_directory import Run  # loads Keras

    check_instance("run_predictor: `run`", run, Run, "a Run, as load_run reads it")
    predict, inputs = _predict_function(run, beam), {x.name: x for x in run.model.inputs}
    shape = tuple(inputs["frames"].shape[1:])
    return _predictor(predict, shape, "lengths" in inputs, run.task.answer, run.task_metadata)


def _predictor(predict, input_shape, takes_lengths, answer, task):
    answer = partial(answer, confidence_threshold=task.get("confidence_threshold"))
    return Predictor(predict, input_shape, takes_lengths, answer, task)


def _predict_function(run, beam):
    """A function from frames, and lengths or `None`, to the model's first output."""
    from keras_cnnlstm.models.decoding import answering_model, beam_search

    model = answering_model(run.model)
    if beam is not None:
        if model is run.model:
            raise ValueError(
                f"beam: expected a captioner; {run.path} holds {run.config.model}. Leave it out."
            )
        check_integer("beam:", beam, 1, 1000)
        return lambda frames, lengths: beam_search(run.model, frames, beam, lengths=lengths).tokens[
            :, 0
        ]

    def predict(frames, lengths):
        given = frames if lengths is None else {"frames": frames, "lengths": lengths}
        outputs = model.predict(given, verbose=0)
        return outputs[run.task.output] if isinstance(outputs, dict) else outputs

    return predict
