"""What happens when in a clip? A class at each step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_cnnlstm.tasks.clip_classes import Classes
from keras_cnnlstm.tasks.label_scores import segment_scores, segment_summary

BACKGROUND = "background"
"""The class of frames that no segment holds."""


@dataclass(frozen=True)
class ClipSegments(Classes):
    """The class of each frame of a clip; frames outside of all segments are background.

    Args:
        class_names: the classes, in the order of their indices; two or more, all different.
        length: T, frames of the longest sequence; shorter ones are padded.
        min_length: frames of the shortest sequence.

    Raises:
        ValueError: if an argument is out of range.
    """

    models: ClassVar[tuple[str, ...]] = ("cnn_lstm",)
    per_step = True
    measure_name = "accuracy of frames"
    measure_is_mean = False
    needs_labels = True
    question = "What happens when?"
    has_baselines = False

    @classmethod
    def names_in(cls, clips: Iterable[Any]) -> set[str]:
        """The classes of the segments of some clips, and background."""
        return {BACKGROUND} | {each.class_name for clip in clips for each in clip.label.segments}

    def clip_target(self, clip: Any, frames: np.ndarray, rate: float | None) -> np.ndarray:
        """The class of each frame, `(n,)` int64.

        Args:
            clip: the clip, with its segments.
            frames: `(n,)`, the numbers of the frames, from 0.
            rate: frames per second; `None` of images, which have no time.

        Raises:
            ValueError: if the segments are in seconds and the frames have no time.
        """
        names = list(self.class_names)
        classes = np.full(len(frames), names.index(BACKGROUND), np.int64)
        times = np.asarray(frames, np.float64)
        if not clip.label.in_frames:
            if not rate:
                raise ValueError(
                    f"{clip.path}: expected a video, since its segments are in seconds; images "
                    "have no time. Give numbers of frames, and --frame-numbers."
                )
            times = times / rate
        for start, end, name in clip.label.segments:
            classes[(times >= start - 1e-6) & (times < end - 1e-6)] = names.index(name)
        return classes

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The entries of `scores.step_scores` and of `label_scores.segment_scores`."""
        return segment_scores(targets, answers, mask, self.class_names)

    def measured(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> float:
        """The accuracy of frames."""
        right = answers.argmax(axis=-1) == targets
        return float(right.mean() if mask is None else right[mask].mean())

    def summary(self, score: dict[str, Any]) -> str:
        """Accuracy of frames, segmental F1 and edit score."""
        return segment_summary(score)
