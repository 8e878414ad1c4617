"""Opens what answers for frames, a run directory or an export, and asks it about files.

Frames are brought to the model's form, and frames of a clip chosen, as in its training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnnlstm.answers import as_json
from keras_cnnlstm.arguments import as_array, as_path, check_kind, check_whole, told
from keras_cnnlstm.artefacts import load_artefact, located
from keras_cnnlstm.clips import Clip, probe, read_clip, sample_indices
from keras_cnnlstm.frames import load_frames
from keras_cnnlstm.videos import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from keras_cnnlstm.runs import Run


@dataclass(frozen=True)
class Predictor:
    """What answers for frames.

    Attributes:
        predict: batches of frames, and lengths or `None`, to the model's first output.
        input_shape: `(T, H, W, C)`, T `None` for any number; or `(H, W, C)` of one image.
        takes_lengths: whether sequences may be shorter than T.
        output: name of the first output: "probabilities", "values", "logits" or "words".
        class_names: names of the classes, or words, in the order of the outputs.
        task: what the model was trained for, as an export's metadata tell it; of clips with
            `sampling`, `stride` and `invert`; with `unsure_below` if it was calibrated.
    """

    predict: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    input_shape: tuple[int | None, ...]
    takes_lengths: bool
    output: str
    class_names: Sequence[str]
    task: Mapping[str, Any]

    @property
    def frame_counts(self) -> tuple[int, int | None]:
        """The fewest and the most frames that it takes; `None` for any number."""
        if len(self.input_shape) == 3:
            return 1, 1
        most = self.input_shape[0]
        return (1 if self.takes_lengths or most is None else most or 1), most

    @property
    def of_clips(self) -> bool:
        """Whether it was trained on clips, of which it reads some frames only."""
        return "sampling" in self.task

    def takes_as_clip(self, path: Path) -> bool:
        """Whether a path is a sequence by itself, a folder or a video, not one frame of it."""
        suffix = path.suffix.lower()
        is_video = suffix in VIDEO_SUFFIXES and (suffix != ".gif" or self.of_clips)
        return path.is_dir() or is_video

    def answer_images(self, paths: Sequence[Path], *, invert: bool = False) -> dict[str, Any]:
        """The answer for image files, each a frame of one sequence.

        Args:
            paths: the files, in order.
            invert: turn them negative.

        Returns:
            The answer as `answers.as_json` tells it.

        Raises:
            ValueError: if there are too few or too many, or one cannot be read.
            FileNotFoundError: if one is missing.
        """
        if not isinstance(paths, list | tuple):
            raise ValueError(f"frames: expected a list of image files; received {told(paths)}.")
        self._check_count(len(paths), "image files, one for each frame")
        height, width, channels = self.input_shape[-3:]
        return self.answer_frames(
            load_frames(
                paths,
                image_size=(height or 1, width or 1),
                channels=channels or 1,
                invert=invert != self._inverts,
            )
        )

    def answer_clip(self, path: Path, *, invert: bool = False) -> dict[str, Any]:
        """The answer for a folder of frames or a video.

        Args:
            path: the folder, or the video.
            invert: turn the frames negative.

        Returns:
            The answer as `answers.as_json` tells it, and `frames`, how many the clip has, and
            `read`, the indices of those that were read.

        Raises:
            ValueError: if the clip cannot be read, or has too few or too many frames.
            FileNotFoundError: if there is none.
        """
        frames, indices, count = self.clip_frames(path, invert=invert)
        return {**self.answer_frames(frames), "frames": count, "read": indices.tolist()}

    def clip_frames(
        self, path: Path, *, invert: bool = False
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """The frames of a folder or a video that the model is to read.

        A model of clips reads those frames of a longer one that its training would choose in
        validation; any other model must get as many as it takes, since none is dropped silently.

        Args:
            path: the folder, or the video.
            invert: turn the frames negative.

        Returns:
            Frames `(n, H, W, C)` uint8, their indices `(n,)`, and how many the clip has.

        Raises:
            ValueError: if the clip cannot be read, or has too few or too many frames.
            FileNotFoundError: if there is none.
        """
        path = as_path("clip: `path`", path)
        clip = Clip(path, "", path.name)
        count, most = probe(clip).frames, self.frame_counts[1]
        if self.of_clips:
            options = {"stride": self.task.get("stride", 1)}
            indices = sample_indices(count, most, self.task["sampling"], **options)
        else:
            self._check_count(count, f"frames in {path}")
            indices = np.arange(count)
        height, width, channels = self.input_shape[-3:]
        frames = read_clip(
            clip,
            indices,
            image_size=(height or 1, width or 1),
            channels=channels or 1,
            invert=invert != self._inverts,
        )
        return frames, indices, count

    @property
    def _inverts(self) -> bool:
        return bool(self.task.get("invert"))

    def _check_count(self, count: int, what: str) -> None:
        low, high = self.frame_counts
        if not low <= count <= (high or count):
            expected = f"{low} to {high}" if low < (high or low) else f"{low}"
            raise ValueError(f"frames: expected {expected} {what}; received {count}.")

    def answer_frames(self, frames: np.ndarray) -> dict[str, Any]:
        """The answer for frames in the model's form.

        Args:
            frames: `(n, H, W, C)` uint8, as many as it takes; for a model of one image one.

        Returns:
            The answer as `answers.as_json` tells it.

        Raises:
            ValueError: if the frames have another form, or are too few or too many.
        """
        frames = self._checked_frames(frames)
        count, lengths = len(frames), None
        if self.takes_lengths:
            missing = (self.input_shape[0] or count) - count
            frames = np.pad(frames, [(0, missing), *[(0, 0)] * 3])
            lengths = np.array([count], np.int32)
        # One image is a batch of one; the frames of a sequence are one of its elements.
        batch = frames if len(self.input_shape) == 3 else frames[None]
        (answer,) = self.predict(batch, lengths)
        if self.takes_lengths and answer.ndim == 2:
            answer = answer[:count]  # the steps after it are padding
        unsure_below = self.task.get("unsure_below")
        return as_json(self.output, answer, self.class_names, unsure_below=unsure_below)

    def _checked_frames(self, frames) -> np.ndarray:
        frames = as_array("answer_frames: `frames`", frames)
        form = self.input_shape[-3:]
        fits = frames.ndim == 4 and all(
            size in (None, given) for size, given in zip(form, frames.shape[1:], strict=True)
        )
        if not fits or not frames.size or frames.dtype != np.uint8:
            raise ValueError(
                f"answer_frames: `frames` must be uint8 of shape (n, {str(form)[1:]}; received "
                f"{frames.dtype} of {frames.shape}."
            )
        self._check_count(len(frames), "frames")
        return frames


def kind_of(path: str | Path) -> str:
    """What lies at a path: a "run", or an export and its format.

    Raises:
        FileNotFoundError: if neither does.
    """
    path = as_path("kind_of: `path`", path)
    if (path / "config.json").is_file():
        return "run"
    try:
        kind, _ = located(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: expected a run directory, as keras-cnnlstm train writes it, or an exported "
            f"model; found {'neither in this folder' if path.is_dir() else 'no such folder'}."
        ) from error
    return kind


def open_predictor(path: str | Path, *, beam: int | None = None) -> Predictor:
    """Opens a run directory, or an export of any format.

    A SavedModel is code: open only what you or someone you trust exported.

    Args:
        path: the directory.
        beam: as in `run_predictor`.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if it cannot be read, or `beam` is given for what says no sentences.
    """
    path = as_path("open_predictor: `path`", path)
    return _of_run(path, beam) if kind_of(path) == "run" else _of_artefact(path, beam)


def _of_artefact(path, beam):
    if beam is not None:
        raise ValueError(
            f"beam: expected a run directory, since an export says the likeliest word after each "
            f"other; received {beam} with {path}. Leave it out."
        )
    artefact = load_artefact(path)
    return Predictor(
        artefact.predict,
        artefact.input_shape,
        "lengths" in artefact.metadata["inputs"],
        artefact.metadata["outputs"][0],
        artefact.class_names,
        artefact.metadata.get("task") or {},
    )


def _of_run(path, beam):
    from keras_cnnlstm.runs import load_run  # needs Keras, which a small export does without

    return run_predictor(load_run(path), beam=beam)


def run_predictor(run: "Run", *, beam: int | None = None) -> Predictor:
    """What answers for frames with the model of an open run.

    Args:
        run: the run.
        beam: of a describer: how many beginnings of a sentence to follow side by side; by default
            it says the likeliest word after each other.

    Raises:
        ValueError: if `beam` is given for a model that says no sentences, or is out of range.
    """
    _check_run(run)
    inputs = {tensor.name: tensor for tensor in run.model.inputs}
    if "words" in inputs:
        output, predict = "words", _speaking(run.model, beam)
    elif beam is not None:
        raise ValueError(
            f"beam: expected a describer, which says sentences; {run.path} holds "
            f"{run.config.model}. Leave it out."
        )
    else:
        output, predict = run.model.output_names[0], _predicting(run.model)

    return Predictor(
        predict,
        tuple(inputs["frames"].shape[1:]),
        "lengths" in inputs,
        output,
        run.class_names,
        run.reading,
    )


def _check_run(run):
    from keras_cnnlstm.runs import Run  # needs Keras, which a small export does without

    check_kind("run_predictor: `run`", run, Run, "a Run, as load_run reads it")


def _predicting(model):
    """A function from frames, and lengths or `None`, to what the model answers."""

    def predict(frames, lengths):
        given = frames if lengths is None else {"frames": frames, "lengths": lengths}
        return model.predict(given, verbose=0)

    return predict


def _speaking(model, beam):
    """A function from frames, and lengths or `None`, to the words `(B, L)` of a describer."""
    from keras_cnnlstm.decoding import beam_search, greedy_model

    if beam is not None:
        check_whole("beam:", beam, 1, 1000)
        return lambda frames, lengths: beam_search(model, frames, beam, lengths=lengths).words[:, 0]
    speak = _predicting(greedy_model(model))
    return lambda frames, lengths: speak(frames, lengths)["words"]
