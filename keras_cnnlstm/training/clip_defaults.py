"""Options that suit the clips of a folder, where a user has left them open.

| option            | videos                               | folders of images           |
|-------------------|--------------------------------------|-----------------------------|
| frames_per_second | 5                                    | every image                 |
| length            | what nine of ten clips have, 4 to 64 | the same                    |
| sampling          | window                               | window, of up to 64 images; |
|                   |                                      | else segments               |

| option     | efficientnet_lite0 is installed, frames of 96 pixels or more | else          |
|------------|--------------------------------------------------------------|---------------|
| encoder    | efficientnet_lite0, frozen                                   | residual_cnn  |
| augmentation | none (unless layers of it are trained)                    | light         |
| image_size | 224 224                                                      | 64 64 at most |
| motion     | difference; of folders of images both                        | both          |
| dropout    | 0.5                                                          | 0.5           |

The last epoch is kept where fewer than 500 clips validate. `notebooks/guide/your_videos.md` has the
measurements behind these numbers.
"""

import dataclasses
import statistics
from typing import Any

import numpy as np

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.clip_cache import info_of
from keras_cnnlstm.data.clip_source import folder_clips
from keras_cnnlstm.data.clips import Clip, ClipInfo, film_step, probe
from keras_cnnlstm.data.labels import table_task
from keras_cnnlstm.models.efficientnet_lite0 import installed

_PROBED = 100  # clips that stand for all
_RATE = 5.0  # frames per second: `experiments.md` has other rates
_LONGEST = 64  # frames
_PHOTOGRAPH = 96  # pixels of the shorter side from which a network of photographs is of use
_SMALL = 64  # pixels of a side for a network that is trained from the start
_FEW = 500  # validation clips, up to which the best epoch is the luckiest
_SUITED = ("cnn_lstm", "bag_of_frames")


def suited(config: TrainConfig) -> tuple[TrainConfig, str]:
    """The options of a training with clips, those left open decided by what the clips are.

    Args:
        config: the options as a user gives them, `None` where one is left open.

    Returns:
        The options, and what was chosen and why, as a line of text; "" where nothing was open or
        the data are no clips.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not config.reads_clips or config.model not in _SUITED:
        return config, ""
    if config.labels and config.task is None:
        config = dataclasses.replace(config, task=table_task(config.labels))
    clips, _ = folder_clips(config)
    infos = [info for clip in clips[:: max(1, len(clips) // _PROBED)] if (info := _probed(clip))]
    if not infos:
        return config, ""  # the check of the clips says what is wrong with them
    films = all(info.rate for info in infos)
    side = statistics.median(min(info.height, info.width) for info in infos)
    chosen = {**_in_time(config, infos, films), **_in_space(config, side, films)}
    if 0.15 * len(clips) < _FEW:
        chosen["keep"] = "last"
    chosen = {name: value for name, value in chosen.items() if getattr(config, name) is None}
    options = dataclasses.replace(config, **chosen)
    found = f"{len(clips):,} {'videos' if films else 'clips'}"
    if films:
        seconds = statistics.median(info.frames / info.rate for info in infos if info.rate)
        found += f" of {seconds:.1f} s"
    return options, _reason(chosen, f"{found} and {side:.0f} pixels (medians)", side)


def _probed(clip: Clip) -> ClipInfo | None:
    """Size and rate of a clip; `None` if it cannot be read, which is said later."""
    try:
        return info_of(clip) if clip.is_video else probe(clip)
    except (OSError, ValueError):
        return None


def _in_time(config, infos, films) -> dict[str, Any]:
    """Which frames are read."""
    rate = config.frames_per_second
    if rate is None:
        rate = _RATE if films else 0.0
    counts = [-(-info.frames // film_step(info.rate, rate)) for info in infos]
    enough = int(np.ceil(np.quantile(counts, 0.9)))
    # A network of motion needs neighbouring frames, not one of each part of a clip.
    window = films or max(counts) <= _LONGEST
    return {
        "frames_per_second": rate,
        "length": min(_LONGEST, max(4, enough)),
        "sampling": "window" if window else "segments",
    }


def _in_space(config, side, films) -> dict[str, Any]:
    """What reads the frames, of which this is the shorter side in pixels."""
    encoder = config.encoder
    if encoder is None:
        photographs = side >= _PHOTOGRAPH and config.color_mode == "rgb" and not config.ensemble
        encoder = "efficientnet_lite0" if photographs and installed() else "residual_cnn"
    chosen: dict[str, Any] = {"encoder": encoder, "dropout": 0.5}
    if config.ensemble:
        del chosen["encoder"]
    if encoder == "efficientnet_lite0":
        if config.fine_tune is None:
            chosen["augmentation"] = "none"
        # Of images without a time between them each may have its own meaning.
        motion = "difference" if films else "both"
        return chosen | {"image_size": (224, 224), "motion": motion}
    if encoder == "residual_cnn":
        small = min(_SMALL, max(8, int(side)))
        return chosen | {"image_size": (small, small), "motion": "both"}
    return {}


def _reason(chosen, found, side) -> str:
    if not chosen:
        return ""
    named = ", ".join(f"{name} {_text(value)}" for name, value in chosen.items())
    if "encoder" in chosen and side >= _PHOTOGRAPH and not installed():
        found += ', no pretrained encoder: pip install "keras-cnnlstm[pretrained]" gives one'
    return f"{named}; for {found}"


def _text(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
